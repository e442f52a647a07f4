//! `lowrank chat` on a terminal: lines are edited, remembered for the next conversation, and Ctrl-C
//! clears a line before it ends anything. The terminal is a pseudo-terminal of the test's own.
#![cfg(unix)]

mod program;

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use program::{Folder, TEMPLATE, command};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

const LEFT: &str = "\x1b[D";
const UP: &str = "\x1b[A";
const START_OF_LINE: &str = "\x01";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// A conversation on a terminal.
struct Talk {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Talk {
    /// Starts `chat` with the history of `folder`, and waits until it asks.
    fn start(folder: &Folder, base: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let side = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Stdio::from(File::from(open(name.as_c_str(), flags, Mode::empty()).unwrap()))
        };
        let options = ["--temperature", "0", "--threads", "1", "--tokens", "4"];
        let child = command(&[&["chat", "--base", base], &options[..]].concat())
            .env("XDG_STATE_HOME", folder.file("state"))
            .env("TERM", "xterm")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let keys = File::from(master);
        let mut source = keys.try_clone().unwrap();
        let (sender, screen) = channel();
        // Ends when nobody has the other side open; so the program never waits for a reader.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut talk = Self { child, keys, screen, shown: String::new() };
        talk.wait_for("> ");
        talk
    }

    /// Waits until `text` is shown, behind what the last call waited for.
    fn wait_for(&mut self, text: &str) {
        let end = loop {
            if let Some(at) = self.shown.find(text) {
                break at + text.len();
            }
            let bytes = self.screen.recv_timeout(Duration::from_secs(60));
            let bytes = bytes.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.shown));
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        };
        self.shown.drain(..end);
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line and waits for the next prompt: the first is the edited line itself.
    fn say(&mut self, keys: &str) {
        self.press(&format!("{keys}\r"));
        self.wait_for("\n");
        self.wait_for("> ");
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

/// What a person said in a saved conversation.
fn said(path: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let messages = value["messages"].as_array().unwrap().iter();
    messages
        .filter(|message| message["role"] == "user")
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn lines_are_edited_and_the_next_conversation_remembers_them() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let file = folder.file("talk.json");
    let mut talk = Talk::start(&folder, &base);
    talk.say(&format!("ac{LEFT}b{START_OF_LINE}x"));
    talk.say(&format!("/save {file}"));
    assert_eq!(said(&file), ["xabc"]);
    talk.press(CTRL_D);
    assert!(talk.end().success());

    let mut talk = Talk::start(&folder, &base);
    // The command that saved, then the line before it.
    talk.say(&format!("{UP}{UP}"));
    talk.say(&format!("/save {file} "));
    assert_eq!(said(&file), ["xabc"]);
    talk.press(CTRL_D);
    assert!(talk.end().success());
}

#[test]
fn control_c_clears_a_line_first_and_ends_on_the_second_empty_one() {
    let folder = Folder::new();
    let base = folder.base(512, TEMPLATE, None);
    let file = folder.file("talk.json");
    let mut talk = Talk::start(&folder, &base);
    talk.press("forget this");
    talk.wait_for("this");
    talk.press(CTRL_C);
    talk.wait_for("> ");
    talk.say("ab");
    talk.say(&format!("/save {file}"));
    assert_eq!(said(&file), ["ab"]);
    talk.press(CTRL_C);
    talk.wait_for("Ctrl-C again");
    // Only with the prompt are keys read one by one again.
    talk.wait_for("> ");
    talk.press(CTRL_C);
    assert!(talk.end().success());
}
