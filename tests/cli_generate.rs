//! `lowrank generate` as people and programs use it: prompts from files and pipes, stop texts, the
//! context, JSON with stable names; what has no effect or no room is said.

mod program;

use program::{Folder, TEMPLATE, failure, stdout, success, typed};
use serde_json::{Value, json};

fn facts(arguments: &[&str]) -> Value {
    let text = stdout(&[arguments, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_prompt_comes_from_a_file_or_standard_input_as_it_comes_from_the_command_line() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let end = ["--tokens", "12", "--threads", "1"];
    let run = |more: &[&str]| stdout(&[&["generate", "--base", &base], more, &end].concat());
    let expected = run(&["--prompt", "two\nlines"]);
    let file = folder.file("prompt.txt");
    // An editor's byte order mark and line end are not part of it.
    for text in ["two\nlines", "two\nlines\n", "two\nlines\r\n", "\u{feff}two\nlines\n"] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(run(&["--prompt-file", &file]), expected, "{text:?}");
        let piped = [&["generate", "--base", &base, "--prompt-file", "-"][..], &end[..]].concat();
        assert_eq!(typed(&piped, text).0, expected, "{text:?}");
    }
    std::fs::write(&file, "two\nlines\n\n").unwrap();
    assert_eq!(run(&["--prompt-file", &file]), run(&["--prompt", "two\nlines\n"]), "only one");
    // A prompt that looks like an option.
    assert_eq!(run(&["--prompt", "-a"]), run(&["--prompt=-a"]));

    let refused = |path: &str| failure(&["generate", "--base", &base, "--prompt-file", path]);
    assert!(refused(&folder.file("none.txt")).contains("none.txt: No such file"));
    assert!(refused(&folder.file("source")).contains("source: this is a folder"));
    std::fs::write(&file, b"ab\xff").unwrap();
    assert!(refused(&file).contains("prompt.txt: not UTF-8 text after 2 bytes"));
    std::fs::write(&file, "\n").unwrap();
    assert!(refused(&file).contains("the prompt is empty"));
    std::fs::File::create(&file).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(refused(&file).contains("prompt.txt: a prompt of more than 67108864 bytes"));
    std::fs::write(&file, "ab").unwrap();
    if cfg!(target_os = "linux") {
        assert!(refused("/dev/zero").contains("/dev/zero: this is a device"));
    }
    let both = ["generate", "--base", &base, "--prompt", "a", "--prompt-file", &file];
    for usage in [&both[..], &both[..3]] {
        assert_eq!(program::lowrank(usage).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn a_stop_text_is_found_across_tokens_and_not_printed() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let arguments = ["generate", "--base", &base, "--prompt", "ab", "--threads", "1"];
    let run = |more: &[&str]| {
        let text = stdout(&[&arguments[..], &["--tokens", "40"], more].concat());
        text.strip_suffix('\n').unwrap().to_owned()
    };
    let whole = run(&[]);
    assert_eq!(whole.len(), 40, "a token is a character: {whole}");
    for (at, length) in [(0, 1), (5, 3), (8, 12), (30, 10)] {
        let stop = &whole[at..at + length];
        let expected = &whole[..whole.find(stop).unwrap()];
        assert_eq!(run(&["--stop", stop]), expected, "{stop}");
        // Of several the first that is reached; one that never comes changes nothing.
        assert_eq!(run(&["--stop", "\u{e9}", "--stop", stop]), expected, "{stop}");
        let facts = facts(&[&arguments[..], &["--tokens", "40", "--stop", stop]].concat());
        assert_eq!(
            (&facts["text"], &facts["stop_reason"], &facts["stop"]),
            (&json!(expected), &json!("stop"), &json!(stop))
        );
        let tokens = facts["tokens"].as_array().unwrap().len();
        assert_eq!(tokens, expected.len() + length, "the tokens of the stop text were chosen");
    }
    // What only begins like one is printed in the end.
    let almost = format!("{}!", &whole[36..]);
    assert_eq!(run(&["--stop", &almost]), whole);
    let empty = program::lowrank(&[&arguments[..], &["--stop", ""]].concat());
    assert_eq!(empty.status.code(), Some(2));
}

#[test]
fn json_is_one_object_with_stable_names() {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, Some("<s>"));
    let (x, y) = (folder.adapter(&base, "x.lrk"), folder.adapter(&base, "other.lrk"));
    let arguments = ["generate", "--base", &base, "--prompt", "ab", "--threads", "1"];
    let plain = facts(&[&arguments[..], &["--tokens", "5"]].concat());
    let text = plain["text"].as_str().unwrap();
    let printed = stdout(&[&arguments[..], &["--tokens", "5"]].concat());
    assert_eq!(printed, format!("{text}\n"));
    assert_eq!(
        (&plain["stop_reason"], &plain["prompt_tokens"], &plain["adapters"]),
        (&json!("length"), &json!(2), &json!([]))
    );
    // Characters are tokens: '!' is 2, as ' ' is 1.
    let ids: Vec<u64> = text.bytes().map(|byte| u64::from(byte) - 31).collect();
    assert_eq!(plain["tokens"], json!(ids));
    for name in [
        "attach_seconds",
        "prefill_seconds",
        "decode_seconds",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
    ] {
        assert!(plain["timings"][name].as_f64().unwrap() >= 0.0, "{name}: {plain}");
    }
    let named = format!("mine={x}:2");
    let adapted =
        facts(&[&arguments[..], &["--tokens", "5", "--adapter", &named, "--adapter", &y]].concat());
    assert_eq!(adapted["adapters"], json!(["mine", "other"]));
    assert_ne!(adapted["text"], plain["text"]);

    // The end of a turn, and the end of the context, which is also said where text is printed.
    // In the same model every character can be the one that ends a turn.
    let end = text.chars().nth(2).unwrap().to_string();
    let (other, before) = (Folder::new(), text.split(&end).next().unwrap());
    let ending = other.base(64, TEMPLATE, Some(&end));
    let turn = ["generate", "--base", &ending, "--prompt", "ab", "--threads", "1"];
    let ended = facts(&[&turn[..], &["--tokens", "50"]].concat());
    assert_eq!(
        (&ended["stop_reason"], &ended["text"], &ended["tokens"]),
        (&json!("end"), &json!(before), &json!(ids[..before.len()]))
    );
    let short = [&arguments[..], &["--tokens", "60", "--context", "8"]].concat();
    let full = facts(&short);
    assert_eq!(full["stop_reason"], json!("context"));
    assert_eq!(full["tokens"].as_array().unwrap().len(), 7, "the last one needs no place");
    let (_, notes) = success(&short);
    assert!(notes.contains("the context is full after 7 of 60 tokens"), "{notes}");

    // With --swap one a line; weights count there too.
    let swaps = [&arguments[..], &["--tokens", "5", "--json", "--swap", &x, "--swap"]].concat();
    let lines = stdout(&[&swaps[..], &[&format!("n={x}:0")]].concat());
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [base, first, second] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        [&base["adapters"], &first["adapters"], &second["adapters"]],
        [&json!([]), &json!(["x"]), &json!(["n"])]
    );
    assert!(base["text"] == plain["text"] && first["text"] != plain["text"]);
    assert_eq!(second["text"], plain["text"], "weight 0 is the base");
}

#[test]
fn the_context_is_chosen_and_what_does_not_fit_is_refused_with_its_numbers() {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, None);
    let refused = |prompt: usize, more: &[&str]| {
        let prompt = "a".repeat(prompt);
        failure(&[&["generate", "--base", &base, "--prompt", &prompt], more].concat())
    };
    let said = refused(65, &[]);
    assert!(said.contains("the prompt has 65 tokens, the context has room for 64"), "{said}");
    let said = refused(30, &["--context", "20"]);
    assert!(said.contains("30 tokens") && said.contains("room for 20"), "{said}");
    assert!(said.contains("up to 64"), "{said}");
    for context in ["0", "65", "18446744073709551615"] {
        let said = refused(3, &["--context", context]);
        assert!(said.contains(&format!("--context {context}: ")) && said.contains("1 to 64"));
    }
    let whole = ["generate", "--base", &base, "--prompt", "ab", "--tokens", "10", "--threads", "1"];
    assert_eq!(stdout(&whole), stdout(&[&whole[..], &["--context", "40"]].concat()));
}

#[test]
fn a_long_prompt_is_announced_and_a_short_one_is_not() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let run = |prompt: usize| {
        let prompt = "ab".repeat(prompt / 2);
        success(&["generate", "--base", &base, "--prompt", &prompt, "--tokens", "8"])
    };
    assert_eq!(run(40).1, "");
    let (text, notes) = run(300);
    assert_eq!(notes, "reading the prompt: 300 tokens\n");
    // Read in parts it is the same prompt.
    let json = stdout(&[
        "generate",
        "--base",
        &base,
        "--prompt",
        &"ab".repeat(150),
        "--tokens",
        "8",
        "--json",
        "--threads",
        "1",
    ]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(format!("{}\n", json["text"].as_str().unwrap()), text);
}

#[test]
fn min_p_keeps_what_is_nearly_as_probable_and_options_without_effect_are_said() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let arguments = ["generate", "--base", &base, "--prompt", "ab", "--tokens", "30"];
    let run = |more: &[&str]| success(&[&arguments[..], more].concat());
    let (greedy, quiet) = run(&[]);
    assert_eq!(quiet, "");
    // Only the most probable one is as probable as that.
    let warm = ["--temperature", "1.5", "--seed", "4"];
    assert_eq!(run(&[&warm[..], &["--min-p", "1"]].concat()).0, greedy);
    let (drawn, quiet) = run(&warm);
    assert!(drawn != greedy && quiet.is_empty());
    assert_eq!(run(&[&warm[..], &["--min-p", "0"]].concat()).0, drawn);
    assert_ne!(run(&[&warm[..], &["--min-p", "0.9"]].concat()).0, drawn);
    let (text, notes) = run(&["--min-p", "0.1", "--seed", "4"]);
    assert!(text == greedy && notes.contains("--min-p, --seed: no effect at temperature 0"));
    let said = failure(&[&arguments[..], &warm, &["--min-p", "1.5"]].concat());
    assert!(said.contains("min-p cannot be 1.5"), "{said}");

    // What an LSTM does not have.
    let (config, lstm) = (folder.file("lstm.json"), folder.file("lstm.lrk"));
    let text = r#"{"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 8,
                   "hidden_size": 16, "num_layers": 1}"#;
    std::fs::write(&config, text).unwrap();
    stdout(&["init", &config, "-o", &lstm]);
    let run = ["generate", "--base", &lstm, "--prompt", "a", "--tokens", "5"];
    stdout(&run);
    for (option, value) in [("--context", "32"), ("--kv", "int8")] {
        let said = failure(&[&run[..], &[option, value]].concat());
        assert!(said.contains(&format!("{option} has no effect on an LSTM")), "{said}");
    }
}

#[test]
fn a_variable_reaches_the_template_and_is_refused_where_there_is_nothing_to_reach() {
    let folder = Folder::new();
    let template = "{% if thinks is false %}no:{% elif effort is defined %}{{ effort }}:{% endif %}\
                    {{ messages[0].content }}";
    let base = folder.base(64, template, None);
    let end = ["--tokens", "6", "--threads", "1"];
    let plain = |prompt: &str| {
        stdout(&[&["generate", "--base", &base, "--prompt", prompt][..], &end].concat())
    };
    let chat = ["generate", "--base", &base, "--chat", "--prompt", "ab"];
    let chat = |more: &[&str]| stdout(&[&chat[..], more, &end].concat());
    assert_eq!(chat(&[]), plain("ab"));
    assert_eq!(chat(&["--template-arg", "thinks=false"]), plain("no:ab"));
    assert_eq!(chat(&["--template-arg", "thinks=true"]), plain("ab"));
    // What is no JSON is text; the value begins behind the first sign.
    assert_eq!(chat(&["--template-arg", "effort=a=b c"]), plain("a=b c:ab"));
    let both = ["--template-arg", "effort=x", "--template-arg", "thinks=false"];
    assert_eq!(chat(&both), plain("no:ab"));
    assert_ne!(plain("ab"), plain("no:ab"), "the model answers them differently");

    let refused = |base: &str, more: &[&str]| {
        failure(&[&["generate", "--base", base, "--prompt", "ab"], more, &end].concat())
    };
    let given = ["--template-arg", "thinks=false"];
    let said = refused(&base, &given);
    assert!(said.contains("--template-arg has no effect without --chat"), "{said}");
    for (argument, words) in [
        ("thinks", "--template-arg thinks: NAME=VALUE was expected"),
        ("=1", "no name of a template variable"),
        ("a b=1", "no name of a template variable"),
        ("messages=[]", "messages is set by the conversation"),
        ("add_generation_prompt=false", "add_generation_prompt is set by the conversation"),
    ] {
        let said = refused(&base, &["--chat", "--template-arg", argument]);
        assert!(said.contains(words), "{argument}: {said}");
    }
    let other = Folder::new();
    let bare = other.base(64, "", None);
    let said = refused(&bare, &[&["--chat"], &given[..]].concat());
    assert!(said.contains("has no effect: the base has no chat template"), "{said}");
}

#[test]
fn a_system_message_that_the_template_leaves_out_is_refused() {
    let folder = Folder::new();
    let only_users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
    let base = folder.base(64, only_users, None);
    let run = ["generate", "--base", &base, "--chat", "--prompt", "ab", "--tokens", "3"];
    stdout(&run);
    let said = failure(&[&run[..], &["--system", "be brief"]].concat());
    assert!(said.contains("leaves system messages out"), "{said}");
}

#[test]
fn prompt_lookup_writes_the_same_and_says_what_it_guessed() {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.lrk");
    let pirate = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny-pirate.lrk");
    let text = "The duck saw the boat. The duck saw the boat. The duck";
    let common = ["generate", "--base", base, "--prompt", text, "--tokens", "60"];
    for more in [
        &["--threads", "1"][..],
        &["--threads", "2", "--adapter", pirate, "--kv", "int8"],
        &["--temperature", "0.7", "--seed", "3"],
    ] {
        let arguments = [&common[..], &["--precision", "exact"], more].concat();
        let plain = facts(&arguments);
        assert_eq!(plain["lookup"], Value::Null);
        let found = facts(&[&arguments[..], &["--lookup", "6"]].concat());
        assert_eq!((&found["tokens"], &found["text"]), (&plain["tokens"], &plain["text"]));
        let count = |name: &str| found["lookup"][name].as_u64().unwrap();
        assert!(count("right") <= count("guessed"), "{found}");
        // Where several tokens a pass gain much, some were guessed.
        if lowrank::kernel::kernels().several(lowrank::kernel::Precision::Exact).0 < 1.5 {
            assert!(count("right") > 0, "{found}");
        }
    }
    let (_, told) = success(&[&common[..], &["--lookup", "6", "--stats"]].concat());
    assert!(told.contains("prompt lookup guessed"), "{told}");
    // One continuation after the other begins anew.
    let swapped = |more: &[&str]| {
        let end = ["--swap", pirate, "--json", "--precision", "exact"];
        let text = stdout(&[&common[..], &end, more].concat());
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|facts| facts["tokens"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(swapped(&["--lookup", "6"]), swapped(&[]));
    let usage = program::lowrank(&[&common[..], &["--lookup", "33"]].concat());
    assert_eq!(usage.status.code(), Some(2));
    let told = String::from_utf8(usage.stderr).unwrap();
    assert!(told.contains("0 to 32 tokens were expected"), "{told}");
}
