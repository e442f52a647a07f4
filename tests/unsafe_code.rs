//! CONTRIBUTING.md says where unsafe code lives: this holds the sources to it.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and files that open it, as their modules are declared or, with a file's ending, in it.
const OPEN: [&str; 17] = [
    "adapter/lora.rs",
    "adapter/selection.rs",
    "adapter/shared.rs",
    "archive/file",
    "archive/line",
    "archive/open",
    "cuda/buffer",
    "cuda/device",
    "exec/executor",
    "exec/threads",
    "ffi",
    "kernel",
    "tensor/columns",
    "tensor/exchange",
    "tensor/line",
    "tensor/workers",
    "tensor/workspace",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_lives_where_contributing_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 200, "the sources are looked at");
    let mut opened: Vec<String> = Vec::new();
    for path in &paths {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let room = name.rsplit_once('/').map_or(String::new(), |(room, _)| format!("{room}/"));
        let text = fs::read_to_string(path).unwrap();
        for (at, _) in text.match_indices("allow(unsafe_code") {
            // A module's declaration, or something in this file.
            let mut next = text[at..].lines().skip(1).skip_while(|line| line.starts_with("#["));
            let module = next.next().and_then(|line| line.strip_suffix(';')?.split_once("mod "));
            opened.push(module.map_or(name.clone(), |(_, module)| format!("{room}{module}")));
        }
    }
    opened.sort();
    assert_eq!(opened, OPEN);
    assert!(fs::read_to_string(root.join("lib.rs")).unwrap().contains("#![deny(unsafe_code)]"));
}
