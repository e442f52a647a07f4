//! Outputs that are folders: into a fresh one or over one of the same kind, as a whole.

use std::collections::BTreeSet;

use super::*;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Commands that write folders, without their outputs, and a file that each writes.
fn commands(folder: &Folder) -> [(Vec<String>, &'static str); 3] {
    let gguf = golden("gguf/tiny-llama.gguf");
    let peft = golden("tiny-llama/adapters/lora");
    let [tiny, style] = ["tiny.lrk", "style.lrk"].map(|name| folder.file(name));
    works(&["import", gguf.to_str().unwrap(), "-o", &tiny]);
    works(&["adapter", "import", peft.to_str().unwrap(), "--base", &tiny, "-o", &style]);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut compare = folder.train("lora");
    compare[0] = "compare".into();
    compare.iter_mut().filter(|word| *word == "--method").for_each(|word| word.push('s'));
    [
        (words(&["export", &tiny, "--format", "bitsandbytes"]), "config.json"),
        (words(&["adapter", "export", &style, "--base", &tiny]), "adapter_config.json"),
        (compare, "report.md"),
    ]
}

#[test]
fn a_folder_is_written_over_its_like_and_over_nothing_else() {
    let folder = Folder::new();
    for (words, file) in commands(&folder) {
        let (out, path) = (folder.file("out"), folder.path("out"));
        let with = |more: &[&str]| -> Vec<String> {
            let all = [&as_str(&words)[..], &["-o", &out], more].concat();
            all.into_iter().map(str::to_owned).collect()
        };
        // Fresh, with folders above it; then empty; then its own.
        let deep = folder.file("new/deep/out");
        works(&[&as_str(&words)[..], &["-o", &deep]].concat());
        let whole = names(Path::new(&deep));
        assert!(whole.contains(file));
        std::fs::create_dir(&path).unwrap();
        for _ in 0..2 {
            works(&as_str(&with(&[])));
            assert_eq!(names(&path), whole, "{words:?}");
        }
        // Something else beside it, also of a name that is a part: asked about, and kept.
        std::fs::write(path.join("notes.txt"), "mine").unwrap();
        let before = content(&path);
        let line = refusal(&as_str(&with(&[])));
        assert!(line.contains("notes.txt") && line.contains("--force"), "{line}");
        assert_eq!(content(&path), before);
        works(&as_str(&with(&["--force"])));
        assert_eq!(std::fs::read(path.join("notes.txt")).unwrap(), b"mine");
        std::fs::remove_dir_all(&path).unwrap();
        // Files of the same names that are not ours.
        std::fs::create_dir(&path).unwrap();
        whole.iter().for_each(|name| std::fs::write(path.join(name), "theirs").unwrap());
        let line = refusal(&as_str(&with(&[])));
        assert!(line.contains("did not write") && line.contains("--force"), "{line}");
        assert!(content(&path).values().all(|bytes| bytes == b"theirs"));
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::remove_dir_all(folder.path("new")).unwrap();
        // A file is no folder.
        let base = std::fs::read(folder.path("base.lrk")).unwrap();
        let taken = folder.file("base.lrk");
        let onto = [&as_str(&words)[..], &["--force", "-o", &taken]].concat();
        assert!(refusal(&onto).contains("a folder was expected"));
        assert_eq!(std::fs::read(folder.path("base.lrk")).unwrap(), base);
    }
}

/// Beside somebody's file, which stays, no file of an older export may stay with the new one.
#[test]
fn an_older_export_beside_other_files_goes_as_a_whole() {
    let folder = Folder::new();
    let gguf = golden("gguf/tiny-llama.gguf");
    let gguf = gguf.to_str().unwrap();
    let [whole, bare] = ["whole.lrk", "bare.lrk"].map(|name| folder.file(name));
    works(&["import", gguf, "-o", &whole]);
    works(&["import", gguf, "--without-tokenizer", "-o", &bare]);
    let export = |base: &str, out: &str, more: &[&str]| {
        works(&[&["export", base, "--format", "bitsandbytes", "-o", out], more].concat());
        names(Path::new(out))
    };
    let mut expected = export(&bare, &folder.file("fresh"), &[]);
    let out = folder.file("out");
    assert!(export(&whole, &out, &[]).len() > expected.len(), "a tokenizer is among the files");
    std::fs::write(folder.path("out").join("notes.txt"), "mine").unwrap();
    expected.insert("notes.txt".to_owned());
    assert_eq!(export(&bare, &out, &["--force"]), expected);
}

#[cfg(unix)]
#[test]
fn a_file_in_a_folder_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    for (words, file) in commands(&folder) {
        let out = folder.file("out");
        let words = [&as_str(&words)[..], &["-o", &out]].concat();
        works(&words);
        let path = folder.path("out").join(file);
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private.clone()).unwrap();
        works(&words);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, private.mode() & 0o777, "{words:?}");
        std::fs::remove_dir_all(folder.path("out")).unwrap();
    }
}

#[test]
fn an_input_inside_the_folder_is_never_lost() {
    let folder = Folder::new();
    let [(export, _), (adapter, _), (compare, _)] = commands(&folder);
    // The inputs of the three under names that would be replaced.
    for (words, input, name) in [
        (export, "tiny.lrk", "model.safetensors"),
        (adapter, "style.lrk", "adapter_model.safetensors"),
        (compare, "data.jsonl", "results.csv"),
    ] {
        let path = folder.path("out");
        std::fs::create_dir(&path).unwrap();
        std::fs::hard_link(folder.path(input), path.join(name)).unwrap();
        let before = folder.content();
        for force in [&[][..], &["--force"]] {
            let out = path.to_str().unwrap();
            let line = refusal(&[&as_str(&words)[..], &["-o", out], force].concat());
            assert!(line.contains("is in this folder, and would be lost"), "{line}");
        }
        assert_eq!(folder.content(), before);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

/// The folder that transformers loads is of one piece: what an older one had more of is gone, and
/// so is what a killed export left.
#[test]
fn an_older_export_goes_as_a_whole() {
    let folder = Folder::new();
    let [(export, _), ..] = commands(&folder);
    let (out, path) = (folder.file("out"), folder.path("out"));
    works(&[&as_str(&export)[..], &["-o", &out]].concat());
    assert!(path.join("tokenizer.json").exists());
    let (source, bare) = (folder.file("source"), folder.file("bare.lrk"));
    copy(&golden("tiny-llama"), &folder.path("source"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let _ = std::fs::remove_file(folder.path("source").join(name));
    }
    works(&["import", &source, "--without-tokenizer", "-o", &bare]);
    // What a killed export leaves, and what only looks like it.
    let left = folder.path(".lrk-not-ours.new");
    for name in [".lowrank-aB3xYz.new", ".lowrank-notes.new"] {
        std::fs::create_dir(folder.path(name)).unwrap();
        std::fs::write(folder.path(name).join("model.safetensors"), "half").unwrap();
    }
    std::fs::create_dir(&left).unwrap();
    #[cfg(unix)]
    let link = {
        std::os::unix::fs::symlink("out", folder.path("link")).unwrap();
        folder.file("link")
    };
    #[cfg(not(unix))]
    let link = out.clone();
    works(&["export", &bare, "--format", "bitsandbytes", "-o", &link]);
    let expected = ["config.json", "generation_config.json", "model.safetensors"];
    assert_eq!(names(&path), expected.map(String::from).into());
    assert!(!folder.path(".lowrank-aB3xYz.new").exists());
    assert!(left.exists() && folder.path(".lowrank-notes.new").exists());
    // Somebody works in it: the folder itself stays, its files are exchanged.
    let mut here = command(&[&as_str(&export)[..], &["-o", "."]].concat());
    let before = path.metadata().unwrap();
    assert!(here.current_dir(&path).output().unwrap().status.success());
    assert!(path.join("tokenizer.json").exists() && names(&path).len() == 5);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(path.metadata().unwrap().ino(), before.ino());
    }
    let _ = before;
}

/// Two interrupts would not be needed: the first keeps what there is.
#[cfg(unix)]
#[test]
fn an_interrupted_comparison_keeps_the_runs_that_are_finished() {
    use std::io::BufRead;
    let folder = Folder::new();
    let [_, _, (mut compare, _)] = commands(&folder);
    let report = folder.path("report");
    let steps = compare.iter().position(|word| word == "--steps").unwrap();
    compare[steps + 1] = "10".into();
    let more = ["--seeds", "1000", "-o", report.to_str().unwrap()];
    let mut running = command(&[&as_str(&compare)[..], &more].concat())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(running.stderr.take().unwrap()).lines();
    // The second run has begun, so the first is finished.
    let second = |line: &String| line.contains(" 10 %  step 1/10 ");
    assert!(lines.by_ref().map(Result::unwrap).filter(second).nth(1).is_some());
    let id = running.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let last = lines.map(Result::unwrap).last().unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(1), "{last}");
    assert!(last.contains("stopped after") && last.contains("of 1000 runs"), "{last}");
    let page = std::fs::read_to_string(report.join("report.md")).unwrap();
    assert!(page.contains("of 1000 runs"), "{page}");
    let results = std::fs::read_to_string(report.join("results.csv")).unwrap();
    let finished = results.lines().count() - 1;
    assert!((1..1000).contains(&finished) && last.contains(&format!(" {finished} of ")), "{last}");
}
