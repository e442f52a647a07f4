//! What no machine has room for is refused with its numbers, before anything is allocated, started
//! or drawn.

use super::*;

const HUGE: &str = "18446744073709551615";

#[test]
fn a_fresh_model_that_fits_no_machine_is_refused() {
    let folder = Folder::new();
    let (config, out) = (folder.path("huge.json"), folder.file("out"));
    let decoder = |more: &str| small("llama", more);
    let mlp = |inputs: &str, hidden: &str| {
        format!(
            r#"{{"model_type": "mlp", "labels": ["no", "yes"],
                "input_size": {inputs}, "hidden_sizes": [{hidden}]}}"#
        )
    };
    for text in [
        mlp("1048576", "1048576, 1048576, 1048576"),
        mlp(HUGE, "1"),
        mlp("1", HUGE),
        decoder(
            r#", "hidden_size": 131072, "intermediate_size": 1048576, "num_hidden_layers": 8000"#,
        ),
        decoder(r#", "num_attention_heads": 4096, "head_dim": 4096, "num_hidden_layers": 8000"#),
        decoder(r#", "vocab_size": 16777216, "hidden_size": 131072"#),
        decoder(&format!(r#", "num_hidden_layers": {HUGE}"#)),
        decoder(&format!(r#", "num_attention_heads": {HUGE}, "head_dim": 2"#)),
        decoder(&format!(r#", "hidden_size": {HUGE}"#)),
        decoder(&format!(r#", "head_dim": {HUGE}"#)),
        decoder(&format!(r#", "vocab_size": {HUGE}"#)),
        decoder(&format!(r#", "max_position_embeddings": {HUGE}"#)),
        r#"{"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 1048576,
            "hidden_size": 1048576, "num_layers": 100}"#
            .into(),
        small(
            "bert",
            r#", "vocab_size": 16777216, "hidden_size": 131072, "num_hidden_layers": 1000"#,
        ),
    ] {
        std::fs::write(&config, &text).unwrap();
        let line = refusal(&["init", config.to_str().unwrap(), "-o", &out]);
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        assert!(numbers.count() >= 2 && !folder.path("out").exists(), "{text}: {line}");
        assert!(line.contains("huge.json") || line.contains(&out), "{line}");
    }
    // A padding token beyond the vocabulary is no row of the embedding.
    std::fs::write(&config, decoder(&format!(r#", "pad_token_id": {HUGE}"#))).unwrap();
    works(&["init", config.to_str().unwrap(), "-o", &out]);
}

#[test]
fn memory_says_what_it_cannot_count() {
    let folder = Folder::new();
    let base = folder.file("base.lrk");
    let on = ["memory", "--base", &base];
    for (option, says) in [
        ("--context", "the context length is"),
        ("--batch", "the batch size is"),
        ("--prefill-chunk", "the prefill chunk is"),
        ("--threads", "--threads"),
    ] {
        for firmware in [&[][..], &["--firmware"]] {
            let context: &[_] = if option == "--context" { &[] } else { &["--context", "32"] };
            let line = refusal(&[&on[..], context, &[option, HUGE], firmware].concat());
            assert!(
                line.contains(HUGE) && (line.contains(says) || option == "--threads"),
                "{line}"
            );
        }
    }
    // Bounds at once are numbers still.
    let most = ["--context", "32", "--batch", "65536", "--prefill-chunk", "65536"];
    works(&[&on[..], &most].concat());
    let training = [&on[..], &["--method", "lora"]].concat();
    for (options, says) in [
        (&["--batch-size", HUGE][..], "batch-size is"),
        (&["--max-length", HUGE], "the base has positions for"),
        (&["--batch-size", "0"], "batch-size is 0"),
        (&["--rank", HUGE], "rank is"),
        (&["--task", "classify", "--labels", HUGE], "labels is"),
    ] {
        let line = refusal(&[&training[..], options].concat());
        assert!(line.contains(says), "{options:?}: {line}");
    }
    works(&[&training[..], &["--batch-size", "1048576", "--max-length", "32"]].concat());
    works(&[&training[..], &["--accumulation", HUGE]].concat());
}

#[test]
fn threads_beyond_the_limit_are_not_started() {
    let folder = Folder::new();
    let (base, logits) = (folder.file("base.lrk"), folder.logits());
    let out = folder.file("out");
    for threads in ["20000", "1025", HUGE] {
        for words in [
            vec!["generate", "--base", &base, "--prompt", "a"],
            [&as_str(&logits)[..], &["-o", &out]].concat(),
        ] {
            let line = refusal(&[&words[..], &["--threads", threads]].concat());
            assert!(
                line.contains(&format!("--threads {threads}")) && line.contains("1024"),
                "{line}"
            );
        }
        let pool = lowrank::runtime::Threads::new(threads.parse().unwrap());
        assert_eq!(pool.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn seeds_of_a_comparison_are_numbers() {
    let folder = Folder::new();
    let mut words = folder.train("lora");
    words[0] = "compare".into();
    words.iter_mut().filter(|word| *word == "--method").for_each(|word| word.push('s'));
    let out = folder.file("report");
    let with =
        |seeds| [&as_str(&words)[..], &["-o", &out, "--seed", HUGE, "--seeds", seeds]].concat();
    let line = refusal(&with("2"));
    assert!(line.contains("--seeds 2") && !folder.path("report").exists(), "{line}");
    works(&with("1"));
}
