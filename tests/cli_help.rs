//! `--help` is for people: methods with a line each, options of training in groups, examples that
//! can be pasted; and shells complete what they type.

mod program;

use program::{lowrank, stdout};

const COMMANDS: [&str; 18] = [
    "import",
    "init",
    "adapter",
    "export",
    "inspect",
    "verify",
    "generate",
    "chat",
    "logits",
    "embed",
    "classify",
    "tokenize",
    "train",
    "evaluate",
    "compare",
    "memory",
    "bench",
    "completions",
];

/// The examples of a command's help, a line each, continued lines joined.
fn examples(command: &str) -> Vec<String> {
    let help = stdout(&[command, "--help"]);
    let (_, examples) =
        help.split_once("\nExample").unwrap_or_else(|| panic!("{command} has no example"));
    let lines = examples.lines().skip(1).take_while(|line| line.starts_with("  "));
    let mut joined: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in lines {
        assert!(line.chars().count() <= 78, "{command}: a terminal breaks this line: {line}");
        let (text, continues) = line.strip_suffix('\\').map_or((line, false), |text| (text, true));
        match joined.last_mut().filter(|_| is_open) {
            Some(last) => last.push_str(text.trim_start()),
            None => joined.push(text.trim_start().to_owned()),
        }
        is_open = continues;
    }
    assert!(!joined.is_empty() && !is_open, "{command}");
    joined
}

#[test]
fn every_example_can_be_pasted() {
    for command in COMMANDS {
        for example in examples(command) {
            // In an empty folder an example fails for a file that is not there (status 1), not for
            // an option that does not exist (2); bash sees the line as it is.
            let folder = tempfile::tempdir().unwrap();
            let program = env!("CARGO_BIN_EXE_lowrank");
            let script = format!("lowrank() {{ '{program}' \"$@\" </dev/null; }}\n{example}");
            let mut bash = std::process::Command::new("bash");
            bash.args(["-c", &script]).current_dir(&folder).env("HOME", folder.path());
            let output = bash.env_remove("LOWRANK_ISA").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let expected = if command == "completions" { 0..=1 } else { 1..=1 };
            let code = output.status.code().unwrap();
            assert!(expected.contains(&code), "{example}: {code}: {said}");
            assert!(example.contains("lowrank "), "{example}");
        }
    }
}

#[test]
fn every_command_is_listed_and_has_an_example() {
    let help = stdout(&["--help"]);
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    let listed = help.split_once("Commands:\n").unwrap().1;
    let is_name = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let listed = listed.lines().take_while(|line| !line.is_empty()).filter(is_name).count();
    let more = 1 + usize::from(cfg!(feature = "serve"));
    assert_eq!(
        listed,
        COMMANDS.len() + more,
        "help, and serve: a new command belongs into this list"
    );
}

#[test]
fn methods_have_a_line_each_wherever_one_is_chosen() {
    for command in ["train", "compare", "memory"] {
        let help = stdout(&[command, "--help"]);
        for method in
            ["lora", "qlora", "rslora", "lora+", "dylora", "lora-fa", "dora", "ia3", "full"]
        {
            let line = help.lines().find(|line| {
                line.trim_start().strip_prefix("- ").is_some_and(|line| {
                    line.strip_prefix(method).is_some_and(|line| line.trim_start().starts_with(':'))
                })
            });
            let line = line.unwrap_or_else(|| panic!("{command}: no line about {method}: {help}"));
            assert!(line.len() > 30, "{line}");
        }
    }
}

#[test]
fn the_options_of_training_stand_in_groups() {
    let help = stdout(&["train", "--help"]);
    let mut group = String::new();
    let mut found = Vec::new();
    for line in help.lines() {
        if !line.starts_with(' ') && line.ends_with(':') {
            group = line.trim_end_matches(':').to_owned();
        } else if let Some((_, option)) = line.split_once("--").filter(|(before, _)| {
            before.len() <= 6 && before.trim().trim_end_matches(',').len() <= 2
        }) {
            let name = option.split([' ', '=']).next().unwrap();
            found.push((group.clone(), name.to_owned()));
        }
    }
    for (name, expected) in [
        ("base", "Model"),
        ("threads", "Model"),
        ("precision", "Model"),
        ("max-length", "Data"),
        ("rank", "Method"),
        ("lora-plus-ratio", "Method"),
        ("learning-rate", "Optimization"),
        ("batch-size", "Optimization"),
        ("patience", "Validation"),
    ] {
        let groups: Vec<_> = found.iter().filter(|(_, other)| other == name).collect();
        assert!(groups.len() == 1 && groups[0].0 == expected, "{name}: {groups:?}");
    }
}

#[test]
fn every_shell_gets_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for word in COMMANDS.iter().chain(&["--adapter", "--prompt-file", "lora-fa"]) {
            let word = if shell == "fish" { word.trim_start_matches("--") } else { word };
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(lowrank(&["completions", "csh"]).status.code(), Some(2));
    // bash takes it as it is.
    let script = format!("{}\ncomplete -p lowrank", stdout(&["completions", "bash"]));
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_chooses_where_and_how_is_the_same_everywhere() {
    for command in COMMANDS {
        let help = stdout(&[command, "--help"]);
        let line = |option: &str| help.lines().find(|line| line.contains(option)).map(str::trim);
        for (option, expected) in [
            ("--threads", "--threads <N>"),
            ("--precision", "--precision <PRECISION>"),
            ("--device", "--device <DEVICE>"),
            ("--adapter ", "--adapter <[NAME=]FILE[:WEIGHT]>"),
        ] {
            let found =
                line(&format!("{option} <")).or(line(option).filter(|l| l.starts_with(option)));
            assert!(found.is_none_or(|line| line == expected), "{command}: {found:?}");
        }
    }
}
