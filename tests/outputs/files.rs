//! Outputs that are files: never an input, never over another kind, tried before the work.

use super::*;

/// Commands without their outputs, and the inputs that each reads.
fn commands(folder: &Folder) -> Vec<(Vec<String>, Vec<String>)> {
    let file = |name: &str| folder.file(name);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    std::fs::copy(golden("gguf/tiny-llama.gguf"), folder.path("tiny.gguf")).unwrap();
    copy(&golden("tiny-llama"), &folder.path("source"));
    copy(&golden("tiny-llama/adapters/lora"), &folder.path("peft"));
    works(&["import", &file("tiny.gguf"), "-o", &file("tiny.lrk")]);
    let training = ["base.lrk", "data.jsonl", "dev.jsonl"].map(&file).to_vec();
    vec![
        (folder.train("lora"), training.clone()),
        (folder.train("full"), training),
        (folder.logits(), ["base.lrk", "adapter.lrk"].map(&file).to_vec()),
        (folder.embed(), ["encoder.lrk", "texts.jsonl"].map(&file).to_vec()),
        (words(&["init", &file("base.json")]), vec![file("base.json")]),
        (words(&["import", &file("tiny.gguf")]), vec![file("tiny.gguf")]),
        (words(&["import", &file("base.lrk")]), vec![file("base.lrk")]),
        (
            words(&["import", &file("source"), "--without-tokenizer"]),
            ["source/config.json", "source/model.safetensors"].map(&file).to_vec(),
        ),
        (
            words(&["adapter", "import", &file("peft"), "--base", &file("tiny.lrk")]),
            ["tiny.lrk", "peft/adapter_config.json", "peft/adapter_model.safetensors"]
                .map(&file)
                .to_vec(),
        ),
    ]
}

/// A configuration names its tokenizer's file, which is an input too.
#[test]
fn the_tokenizer_that_a_configuration_names_is_an_input() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("inner")).unwrap();
    let config = r#"{"model_type": "lstm", "tokenizer": "../outer.json",
        "embedding_size": 4, "hidden_size": 4, "num_layers": 1}"#;
    let tokenizer = r#"{"version": "1.0", "added_tokens": [],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}"#;
    std::fs::write(folder.path("inner/own.json"), config).unwrap();
    std::fs::write(folder.path("outer.json"), tokenizer).unwrap();
    let (config, outer) = (folder.file("inner/own.json"), folder.file("outer.json"));
    let line = refusal(&["init", &config, "--force", "-o", &outer]);
    assert!(line.contains("the output is the input"), "{line}");
    assert_eq!(std::fs::read_to_string(&outer).unwrap(), tokenizer);
}

#[test]
fn an_output_that_is_an_input_is_refused_under_every_name() {
    let folder = Folder::new();
    let commands = commands(&folder);
    let before = folder.content();
    for (words, inputs) in &commands {
        for input in inputs {
            let (parent, name) =
                (Path::new(input).parent().unwrap(), Path::new(input).file_name().unwrap());
            let mut names = vec![
                PathBuf::from(input),
                parent.join("../").join(parent.file_name().unwrap()).join(name),
            ];
            let hard = folder.0.path().with_extension("hard");
            std::fs::hard_link(input, &hard).unwrap();
            names.push(hard.clone());
            #[cfg(unix)]
            {
                let (one, other) = (
                    folder.0.path().with_extension("link"),
                    folder.0.path().with_extension("links"),
                );
                std::os::unix::fs::symlink(input, &one).unwrap();
                std::os::unix::fs::symlink(&one, &other).unwrap();
                names.extend([one, other]);
            }
            for output in &names {
                for force in [&[][..], &["--force"]] {
                    let output = output.to_str().unwrap();
                    let line = refusal(&[&as_str(words)[..], &["-o", output], force].concat());
                    assert!(
                        line.contains("the output is the input") && line.contains(output),
                        "{words:?} -o {output}: {line}"
                    );
                }
            }
            names[2..].iter().for_each(|name| std::fs::remove_file(name).unwrap());
        }
    }
    assert_eq!(folder.content(), before);
}

#[test]
fn what_is_of_another_kind_is_written_over_only_by_force() {
    let folder = Folder::new();
    let (target, file) = (folder.file("target"), |name: &str| folder.file(name));
    let [notes, npy, empty] = ["notes.txt", "old.npy", "empty"].map(|name| folder.path(name));
    std::fs::write(notes, "notes").unwrap();
    std::fs::write(npy, b"\x93NUMPY\x01\x00").unwrap();
    std::fs::write(empty, "").unwrap();
    let (base, encoder) = (file("base.lrk"), file("encoder.json"));
    let init = ["init", &encoder].map(String::from).to_vec();
    let (train, logits) = (folder.train("lora"), folder.logits());
    // A command, what its own kind is, and what others are.
    for (words, own, others) in [
        (&train, ["adapter.lrk", "empty"], ["encoder.lrk", "notes.txt", "old.npy"]),
        (&init, ["encoder.lrk", "base.lrk"], ["adapter.lrk", "notes.txt", "old.npy"]),
        (&logits, ["old.npy", "empty"], ["encoder.lrk", "adapter.lrk", "notes.txt"]),
    ] {
        let with = |more: &[&'static str]| {
            let mut all = as_str(words);
            all.extend(["-o", &target]);
            all.extend(more);
            all.into_iter().map(String::from).collect::<Vec<_>>()
        };
        for other in others {
            std::fs::copy(folder.path(other), &target).unwrap();
            let line = refusal(&as_str(&with(&[])));
            assert!(line.contains(&target) && line.contains("use --force"), "{line}");
            assert_eq!(std::fs::read(&target).unwrap(), std::fs::read(folder.path(other)).unwrap());
            works(&as_str(&with(&["--force"])));
            assert_ne!(std::fs::read(&target).unwrap(), std::fs::read(folder.path(other)).unwrap());
        }
        for own in own {
            std::fs::copy(folder.path(own), &target).unwrap();
            works(&as_str(&with(&[])));
        }
    }
    let line = refusal(&["init", &encoder, "-o", &file("adapter.lrk")]);
    assert!(line.contains("holds an adapter, and a base archive would be written"), "{line}");
    works(&["verify", &base]);
    // A checkpoint is no place for notes either.
    std::fs::write(folder.path("run.lrk.checkpoint"), "notes").unwrap();
    let run = file("run.lrk");
    let line = refusal(&[&as_str(&train)[..], &["-o", &run]].concat());
    assert!(line.contains("run.lrk.checkpoint") && !folder.path("run.lrk").exists(), "{line}");
}

#[test]
fn the_place_is_tried_before_the_work() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("taken")).unwrap();
    std::fs::write(folder.path("plain"), "").unwrap();
    let mut commands =
        vec![folder.train("lora"), folder.train("full"), folder.logits(), folder.embed()];
    // What comes later would fail too, and is not reached.
    for command in &mut commands {
        command.iter_mut().filter(|word| word.ends_with(".lrk")).for_each(|word| word.push('x'));
    }
    for other in [
        &["import", "missing.gguf"][..],
        &["import", "missing.lrk"],
        &["init", "missing.json"],
        &["adapter", "import", "missing", "--base", "missing.lrk"],
    ] {
        commands.push(other.iter().map(|word| (*word).to_owned()).collect());
    }
    for words in &commands {
        for (output, says) in [
            ("none/out.lrk", "make it first"),
            ("taken", "a file was expected"),
            ("taken/", "a file was expected"),
            ("new/", "a file was expected"),
            ("plain/out.lrk", "lowrank: "),
        ] {
            let output = folder.file(output);
            let line = refusal(&[&as_str(words)[..], &["-o", &output]].concat());
            assert!(line.contains(says) && line.contains(&output), "{words:?} -o {output}: {line}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_link_is_followed_and_the_file_behind_it_replaced() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new();
    std::fs::create_dir(folder.path("store")).unwrap();
    let words = folder.logits();
    works(&[&as_str(&words)[..], &["-o", &folder.file("plain.npy")]].concat());
    let expected = std::fs::read(folder.path("plain.npy")).unwrap();
    std::fs::write(folder.path("store/old.npy"), "").unwrap();
    // One that leads to a file, one to nothing yet, one over another.
    symlink("store/old.npy", folder.path("old")).unwrap();
    symlink("store/new.npy", folder.path("new")).unwrap();
    symlink("../old", folder.path("store/over")).unwrap();
    for (link, behind) in [("old", "old"), ("new", "new"), ("store/over", "old")] {
        std::fs::write(folder.path("store/old.npy"), "").unwrap();
        works(&[&as_str(&words)[..], &["-o", &folder.file(link)]].concat());
        assert!(folder.path(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        let behind = folder.path(&format!("store/{behind}.npy"));
        assert!(behind.symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read(behind).unwrap(), expected, "{link}");
    }
    symlink("circle", folder.path("circle")).unwrap();
    refusal(&[&as_str(&words)[..], &["-o", &folder.file("circle")]].concat());
    assert!(folder.path("circle").symlink_metadata().unwrap().is_symlink());
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_mode_and_a_new_one_obeys_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let mode = |name: &str| folder.path(name).metadata().unwrap().permissions().mode() & 0o7777;
    let under = |umask: &str, words: &[String], output: &str| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("umask {umask}; exec \"$0\" \"$@\""));
        shell.arg(env!("CARGO_BIN_EXE_lowrank")).args(words).args(["-o", &folder.file(output)]);
        assert!(shell.output().unwrap().status.success());
    };
    for words in [folder.train("lora"), folder.train("full"), folder.logits()] {
        for (umask, expected) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
            under(umask, &words, "new");
            assert_eq!(mode("new"), expected, "{words:?} under {umask}");
            for kept in [0o640, 0o600, 0o666] {
                let permissions = std::fs::Permissions::from_mode(kept);
                std::fs::set_permissions(folder.path("new"), permissions).unwrap();
                under(umask, &words, "new");
                assert_eq!(mode("new"), kept, "{words:?} under {umask}");
            }
            std::fs::remove_file(folder.path("new")).unwrap();
        }
    }
}
