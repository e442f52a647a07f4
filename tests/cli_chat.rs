//! `lowrank chat` as people use it, typed through a pipe: adapters, system messages, saving, a
//! context that fills up, replies that are cut, Ctrl-C.

mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;

use program::{Folder, TEMPLATE, failure, start, stdout, typed};
use serde_json::Value;

/// The messages of a saved conversation, `role: content`.
fn saved(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = value["messages"].as_array().unwrap().iter();
    messages.map(|m| format!("{}: {}", word(&m["role"]), word(&m["content"]))).collect()
}

const GREEDY: [&str; 8] =
    ["--temperature", "0", "--threads", "1", "--tokens", "6", "--context", "512"];

#[test]
fn a_seed_is_printed_and_gives_the_same_replies_again() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let talk = |more: &[&str]| {
        let start = ["chat", "--base", &base, "--tokens", "20", "--threads", "1"];
        typed(&[&start[..], more].concat(), "ab\nab\n")
    };
    let seed_of = |notes: &str| {
        let (_, seed) = notes.split_once("--seed ").unwrap();
        seed.split_whitespace().next().unwrap().to_owned()
    };
    let (first, notes) = talk(&[]);
    assert!(notes.contains("temperature 0.7, top-p 0.95, seed "), "{notes}");
    let seed = seed_of(&notes);
    assert_eq!(talk(&["--seed", &seed]).0, first);
    let (second, notes) = talk(&[]);
    assert!(seed_of(&notes) != seed && second != first, "each run has a seed of its own");
    let replies: Vec<&str> = first.lines().collect();
    assert!(replies.len() == 2 && replies[0] != replies[1], "the draws go on: {replies:?}");
    // /reset begins anew, with the draws too.
    let again = ["chat", "--base", &base, "--tokens", "20", "--threads", "1", "--seed", &seed];
    let (out, _) = typed(&again, "ab\n/reset\nab\n/quit\n");
    assert_eq!(out, format!("{0}\n{0}\n", replies[0]));
    let (_, notes) =
        typed(&[&["chat", "--base", &base], &GREEDY[..], &["--top-k", "3"]].concat(), "");
    assert!(notes.contains("--top-k: no effect at temperature 0"), "{notes}");
}

#[test]
fn adapters_are_named_weighted_and_combined() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let x = folder.adapter(&base, "x.lrk");
    let talk = |adapters: &[&str], text: &str| {
        let adapters = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        let start = ["chat", "--base", &base].into_iter().chain(GREEDY);
        typed(&start.chain(adapters).collect::<Vec<_>>(), text)
    };
    let reply = |adapters: &[&str], text: &str| talk(adapters, text).0;
    let generated = |adapters: &[&str]| {
        let end = ["--chat", "--prompt", "ab", "--tokens", "6", "--threads", "1"];
        let adapters = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        let start = ["generate", "--base", &base].into_iter().chain(end);
        stdout(&start.chain(adapters).collect::<Vec<_>>())
    };
    let (plain, once, thrice) = (generated(&[]), generated(&[&x]), generated(&[&format!("{x}:3")]));
    assert!(plain != once && once != thrice);
    // Without a name it is active, as in every command; with one it waits for it.
    assert_eq!(reply(&[&x], "ab\n"), once);
    let named = format!("n={x}:3");
    assert_eq!(reply(&[&named], "ab\n"), plain);
    assert_eq!(reply(&[&named], "/adapter n\nab\n"), thrice);
    assert_eq!(reply(&[&named], "/adapter n:1\nab\n"), once);
    assert_eq!(reply(&[&x, &named], "/adapter x n\nab\n"), generated(&[&x, &named]));
    assert_eq!(reply(&[&x, &named], "/adapter off\nab\n"), plain);
    let (_, notes) =
        talk(&[&x, &named], "/adapter\n/adapter n\n/adapter\n/adapter x y\n/adapter x x\n");
    for said in [
        "adapters: x (active), n. ",
        "\nx (active), n\n",
        "\nx, n (active, weight 3)\n",
        "no adapter is called \"y\"; there are: x, n (active, weight 3)",
        "the adapter \"x\" is named twice",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    let refused = |adapters: &[&str]| {
        let adapters = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        failure(&["chat", "--base", &base].into_iter().chain(adapters).collect::<Vec<_>>())
    };
    assert!(refused(&[&x, &x]).contains("two adapters are called \"x\""));
    assert!(refused(&[&format!("off={x}")]).contains("cannot be called \"off\""));
}

#[test]
fn commands_change_the_system_message_save_and_are_named_when_unknown() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let (file, other) = (folder.file("said.json"), folder.file("notes.txt"));
    std::fs::write(&other, "mine").unwrap();
    let several = folder.file("several.jsonl");
    let conversations = "{\"messages\":[]}\n{\"messages\":[]}\n";
    std::fs::write(&several, conversations).unwrap();
    let text = format!(
        "ab\n/system be brief\n/system\ncd\n/save {file}\n/system off\n/system\n/save {file}\n\
         /save {other}\n/save {several}\n/save {base}\n/save\n/save {}\n/nonsense now\n/adapters x\n/reset it\n\
         \x20/slash\n/save {file}\n",
        folder.file("no/where.json")
    );
    let arguments = [&["chat", "--base", &base, "--system", "be nice"], &GREEDY[..]].concat();
    let (replies, notes) = typed(&arguments, &text);
    let replies: Vec<&str> = replies.lines().collect();
    for said in [
        "the system message: be brief\n",
        "there is no system message",
        "said.json: 5 messages\n",
        "said.json: 4 messages\n",
        "notes.txt: it exists and is not one saved conversation",
        "several.jsonl: it exists and is not one saved conversation",
        "base.lrk: it exists and is not one saved conversation",
        "/save FILE: a file is missing",
        "no: make it first",
        "unknown command /nonsense. ",
        "unknown command /adapters. ",
        "/reset takes nothing, \"it\" was given",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
    let [first, second, third] = replies[..] else { panic!("{replies:?}") };
    let expected = [
        "user: ab".to_owned(),
        format!("assistant: {first}"),
        "user: cd".into(),
        format!("assistant: {second}"),
        "user: /slash".into(),
        format!("assistant: {third}"),
    ];
    assert_eq!(saved(&file), expected);
    // The model was asked under the system message of the moment.
    let asked = |system: &str, prompt: &str| {
        let start = ["generate", "--base", &base, "--threads", "1", "--tokens", "6"];
        let text = format!("{system}u:{prompt};a:");
        stdout(&[&start[..], &["--prompt", &text]].concat())
    };
    assert_eq!(asked("s:be nice;", "ab"), format!("{first}\n"));
    assert_eq!(asked("s:be brief;", &format!("ab;a:{first};u:cd")), format!("{second}\n"));
    let said = format!("ab;a:{first};u:cd;a:{second};u:/slash");
    assert_eq!(asked("", &said), format!("{third}\n"));
    // train reads what was saved.
    let evaluate = ["evaluate", "--base", &base, "--data"];
    let lines = folder.file("said.jsonl");
    std::fs::copy(&file, &lines).unwrap();
    stdout(&[&evaluate[..], &[&lines, "--max-length", "64"]].concat());
    assert_eq!(std::fs::read_to_string(&several).unwrap(), conversations);
}

#[test]
fn when_the_context_is_full_the_oldest_turns_go_whole_and_the_system_message_stays() {
    let folder = Folder::new();
    // The template says what it was given: the last line that the model reads.
    let base = folder.base(512, TEMPLATE, None);
    let arguments = [
        "chat",
        "--base",
        &base,
        "--system",
        "be nice",
        "--temperature",
        "0",
        "--threads",
        "1",
        "--tokens",
        "6",
        "--context",
        "100",
    ];
    let messages: Vec<String> = (0..12).map(|i| format!("message {i:02}")).collect();
    let file = folder.file("said.json");
    let (replies, notes) = typed(&arguments, format!("{}\n/save {file}\n", messages.join("\n")));
    assert_eq!(notes.matches("the oldest turns are left out").count(), 1, "{notes}");
    assert!(notes.contains("the context of 100 tokens is full"), "{notes}");
    let replies: Vec<&str> = replies.lines().collect();
    assert_eq!(replies.len(), 12);
    assert_eq!(saved(&file).len(), 25, "everything that was said is saved");
    // Each reply is what generate says to the system message and a run of whole turns up to it.
    let mut starts = Vec::new();
    for (i, reply) in replies.iter().enumerate() {
        let prompt = |start: usize| {
            let turns = (start..i).map(|j| format!("u:{};a:{};", messages[j], replies[j]));
            let turns: String = turns.collect();
            format!("s:be nice;{turns}u:{};a:", messages[i])
        };
        let start = (0..=i).find(|&start| {
            let prompt = prompt(start);
            prompt.len() + 6 <= 100 && {
                let run = ["generate", "--base", &base, "--threads", "1", "--tokens", "6"];
                stdout(&[&run[..], &["--prompt", &prompt]].concat()) == format!("{reply}\n")
            }
        });
        starts.push(start.unwrap_or_else(|| panic!("reply {i} is to something else")));
    }
    assert!(starts[0] == 0 && starts.windows(2).all(|pair| pair[0] <= pair[1]), "{starts:?}");
    assert!(starts[11] > 5, "{starts:?}");
}

#[test]
fn a_message_that_never_fits_is_forgotten_and_a_cut_reply_says_so() {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, None);
    let run = |more: &[&str], text: &str| {
        typed(&[&["chat", "--base", &base, "--temperature", "0"], more].concat(), text)
    };
    let long = "a".repeat(90);
    let (replies, notes) = run(&["--tokens", "5"], &format!("{long}\nab\n"));
    assert!(notes.contains("the message takes 95 tokens"), "{notes}");
    assert!(notes.contains("room for 64") && notes.contains("--context gives more"), "{notes}");
    assert_eq!(run(&["--tokens", "5"], "ab\n").0, replies, "it leaves no trace");
    assert!(notes.contains("the reply was cut at 5 tokens (--tokens gives more)"), "{notes}");
    let (_, notes) = run(&["--tokens", "500"], "ab\n");
    assert!(notes.contains("the reply was cut: the context of 64 tokens is full"), "{notes}");
    for context in ["0", "65"] {
        let said = failure(&["chat", "--base", &base, "--context", context]);
        assert!(said.contains("the model takes 1 to 64 tokens"), "{said}");
    }
}

#[test]
fn input_that_is_no_text_or_too_long_is_passed_over() {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, None);
    let arguments = ["chat", "--base", &base, "--temperature", "0", "--tokens", "5"];
    let mut input = b"\xff\xfe\n".to_vec();
    input.resize((1 << 20) + 100, b'x');
    input.extend(b"\nab");
    let (replies, notes) = typed(&arguments, &input);
    assert!(notes.contains("not valid UTF-8") && notes.contains("more than 1048576 bytes"));
    assert_eq!(replies, typed(&arguments, "ab\n").0, "a last line needs no line end");
}

#[test]
fn a_system_message_that_the_template_leaves_out_is_said() {
    let folder = Folder::new();
    let only_users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
    let base = folder.base(64, only_users, None);
    let said = failure(&["chat", "--base", &base, "--system", "be brief"]);
    assert!(said.contains("leaves system messages out"), "{said}");
    let (_, notes) = typed(&["chat", "--base", &base], "/system be brief\n/system\n");
    assert!(notes.contains("leaves system messages out"), "{notes}");
    assert!(notes.contains("there is no system message"), "{notes}");
}

/// Ctrl-C as a terminal sends it.
#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let sent = Command::new("bash").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(sent.unwrap().success());
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_the_reply_and_the_conversation_goes_on_with_what_was_said() {
    let folder = Folder::new();
    // Room for a reply that takes longer than any test waits.
    let base = folder.base(200_000, TEMPLATE, None);
    let file = folder.file("said.json");
    let mut child = start(&[
        "chat",
        "--base",
        &base,
        "--temperature",
        "0",
        "--threads",
        "1",
        "--context",
        "200000",
        "--tokens",
        "200000",
    ]);
    let (mut input, mut output) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    input.write_all(b"ab\n").unwrap();
    let mut begin = [0; 40];
    output.read_exact(&mut begin).unwrap();
    interrupt(&child);
    let mut first = String::from_utf8(begin.to_vec()).unwrap();
    output.read_line(&mut first).unwrap();

    // It is there, and remembers.
    input.write_all(format!("/save {file}\n/adapter\ncd\n").as_bytes()).unwrap();
    output.read_exact(&mut begin).unwrap();
    let messages = saved(&file);
    assert_eq!(messages, ["user: ab".to_owned(), format!("assistant: {}", first.trim_end())]);
    interrupt(&child);
    let mut second = String::from_utf8(begin.to_vec()).unwrap();
    output.read_line(&mut second).unwrap();
    input.write_all(format!("/save {file}\n").as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(notes.matches("\nstopped\n").count(), 2, "{notes}");
    assert_eq!(saved(&file).len(), 4);
    assert_eq!(saved(&file)[2], "user: cd");
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_program_where_there_is_nothing_to_stop() {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, None);
    let arguments = ["chat", "--base", &base, "--temperature", "0", "--tokens", "5"];
    let mut child = start(&arguments);
    let (mut input, mut output) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    input.write_all(b"ab\n").unwrap();
    output.read_line(&mut String::new()).unwrap();
    // The reply is written; what follows is a wait for the next line.
    let mut notes = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("cut at 5") {
        assert!(notes.read_line(&mut said).unwrap() > 0, "{said}");
    }
    loop {
        interrupt(&child);
        // Before it waits again, the signal only asks a reply to stop that has ended.
        std::thread::yield_now();
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(130));
            break;
        }
    }
    drop(input);
}

#[test]
fn a_template_that_cannot_be_used_is_told_when_the_model_comes() {
    for (template, is_told) in [
        (TEMPLATE, false),
        ("", false),
        ("{% for m in messages %}{{ m.content }}", true),
        ("{{ raise_exception('no users here') }}", true),
    ] {
        let folder = Folder::new();
        let base = folder.base(64, template, None);
        // The same import again, for what it says.
        let (source, other) = (folder.file("source"), folder.file("other.lrk"));
        let (_, notes) = program::success(&["import", &source, "-o", &other]);
        assert_eq!(notes.contains("chat will not work"), is_told, "{template}: {notes}");
        assert!(std::fs::read(base).unwrap() == std::fs::read(other).unwrap());
    }
}
