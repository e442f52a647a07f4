//! CONTRIBUTING.md says where unsafe code lives: this holds the sources to it.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules that `src/lib.rs` opens as a whole.
const MODULES: [&str; 5] = ["archive", "exec", "ffi", "kernel", "tensor"];

/// Files elsewhere that open it for a function.
const FILES: [&str; 8] = [
    "adapter/lora.rs",
    "adapter/selection.rs",
    "adapter/shared.rs",
    "nn/activation.rs",
    "nn/attention.rs",
    "nn/both_ways.rs",
    "nn/inner.rs",
    "nn/linear.rs",
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
        if name == "lib.rs" || MODULES.iter().any(|module| name.starts_with(&format!("{module}/")))
        {
            continue;
        }
        if fs::read_to_string(path).unwrap().contains("allow(unsafe_code") {
            opened.push(name);
        }
    }
    opened.sort();
    assert_eq!(opened, FILES);

    let lib = fs::read_to_string(root.join("lib.rs")).unwrap();
    assert!(lib.contains("#![deny(unsafe_code)]"));
    let lines: Vec<&str> = lib.lines().collect();
    let mut modules: Vec<&str> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains("allow(unsafe_code"))
        .filter_map(|(at, _)| lines[at + 1..].iter().find_map(|line| line.strip_prefix("pub mod ")))
        .map(|name| name.trim_end_matches(';'))
        .collect();
    modules.sort_unstable();
    assert_eq!(modules, MODULES);
}
