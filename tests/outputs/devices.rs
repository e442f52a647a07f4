//! Outputs that are no files: devices, pipes and standard output are written to, and stay.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::process::Stdio;

use super::*;

/// A node of the kind of /dev/null or /dev/full, made for the test; `None` where that is not
/// allowed.
fn node(folder: &Folder, name: &str, minor: &str) -> Option<String> {
    let path = folder.file(name);
    let made = Command::new("mknod").args([&path, "c", "1", minor]).output();
    let usable = made.is_ok_and(|made| made.status.success())
        && File::options().write(true).open(&path).is_ok();
    usable.then_some(path)
}

#[test]
fn a_device_is_written_to_and_its_errors_are_told() {
    let folder = Folder::new();
    let commands = [folder.train("lora"), folder.train("full"), folder.logits(), folder.embed()];
    let is_node =
        |path: &str| Path::new(path).symlink_metadata().unwrap().file_type().is_char_device();
    if let Some(null) = node(&folder, "null", "3") {
        for words in &commands {
            works(&[&as_str(words)[..], &["-o", &null]].concat());
            assert!(is_node(&null), "{words:?}");
        }
        // There is no place for a checkpoint beside a device.
        assert!(!folder.path("null.checkpoint").exists());
        let train = folder.train("lora");
        let line = refusal(&[&as_str(&train)[..], &["--resume", "-o", &null]].concat());
        assert!(line.contains("--resume"), "{line}");
        std::os::unix::fs::symlink(&null, folder.path("to-null")).unwrap();
        works(&[&as_str(&commands[2])[..], &["-o", &folder.file("to-null")]].concat());
        assert!(folder.path("to-null").symlink_metadata().unwrap().is_symlink() && is_node(&null));
    }
    if let Some(full) = node(&folder, "full", "7") {
        for words in &commands {
            let line = refusal(&[&as_str(words)[..], &["-o", &full]].concat());
            assert!(line.contains(&full) && is_node(&full), "{line}");
        }
    }
}

#[test]
fn a_pipe_gets_what_a_file_would_hold() {
    let folder = Folder::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf/tiny-llama.gguf");
    let import = ["import", source].map(String::from).to_vec();
    for words in [folder.train("lora"), folder.logits(), folder.embed(), import] {
        let (file, pipe) = (folder.file("out"), folder.path("pipe"));
        works(&[&as_str(&words)[..], &["--force", "-o", &file]].concat());
        let expected = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut writer = command(&[&as_str(&words)[..], &["-o", pipe.to_str().unwrap()]].concat())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut got = Vec::new();
        File::open(&pipe).unwrap().read_to_end(&mut got).unwrap();
        assert!(writer.wait().unwrap().success());
        // A trained adapter carries its file's name.
        assert!(got.len().abs_diff(expected.len()) < 64, "{words:?}");
        assert!(words[0] == "train" || got == expected, "{words:?}");
        assert!(pipe.symlink_metadata().unwrap().file_type().is_fifo());
        std::fs::remove_file(&pipe).unwrap();
    }
}

#[test]
fn standard_output_holds_the_result_and_nothing_else() {
    let folder = Folder::new();
    let words = folder.logits();
    let file = folder.file("out.npy");
    works(&[&as_str(&words)[..], &["-o", &file]].concat());
    let expected = std::fs::read(&file).unwrap();
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        if name != "-" && !Path::new(name).exists() {
            continue;
        }
        let with: Vec<_> = [&as_str(&words)[..], &["-o", name]].concat();
        assert_eq!(works(&with), expected, "{name}");
        // Into a file that holds something already and is open: behind it, not in its place.
        let shared = folder.path("shared");
        let mut open = File::create(&shared).unwrap();
        open.write_all(b"before ").unwrap();
        let status = command(&with).stdout(open.try_clone().unwrap()).status().unwrap();
        assert!(status.success());
        open.write_all(b" behind").unwrap();
        let whole = [b"before ", &expected[..], b" behind"].concat();
        assert_eq!(std::fs::read(&shared).unwrap(), whole, "{name}");
    }
    for (words, magic) in
        [(folder.train("lora"), &b"LOWRANK\0"[..]), (folder.embed(), b"\x93NUMPY")]
    {
        let got = works(&[&as_str(&words)[..], &["-o", "-"]].concat());
        assert!(got.starts_with(magic), "{words:?}");
        std::fs::write(folder.path("got.lrk"), &got).unwrap();
    }
    let init = works(&["init", &folder.file("base.json"), "-o", "-"]);
    assert_eq!(init, std::fs::read(folder.path("base.lrk")).unwrap());
    assert!(!folder.path("-").exists() && !Path::new("-").exists());
    // A folder cannot go there.
    let base = folder.file("base.lrk");
    let line = refusal(&["export", &base, "--format", "bitsandbytes", "-o", "-"]);
    assert!(line.contains("standard output"), "{line}");
}
