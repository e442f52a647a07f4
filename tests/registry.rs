//! Adapters by name: how many stay in memory, what a replaced file is, who has the last word.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowrank::archive::ArchiveFile;
use lowrank::engine::{Expected, Registry, RegistryError, RegistryOptions};

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

fn registry(options: RegistryOptions) -> Registry {
    Registry::new(ArchiveFile::open(asset("tiny.lrk")).unwrap(), options).unwrap()
}

fn resident(registry: &Registry) -> Vec<String> {
    let known = registry.known().into_iter();
    known.filter(|known| known.is_resident).map(|known| known.name).collect()
}

#[test]
fn adapters_used_longest_ago_leave_memory_and_come_back() {
    let registry = registry(RegistryOptions { resident: 2, ..RegistryOptions::default() });
    for name in ["a", "b", "c", "d"] {
        registry.register(name, asset("tiny-pirate.lrk")).unwrap();
    }
    assert!(resident(&registry).is_empty(), "a name alone reads nothing");
    let held = registry.get("a").unwrap();
    registry.get("b").unwrap();
    assert_eq!(resident(&registry), ["a", "b"]);
    registry.get("a").unwrap();
    registry.get("c").unwrap();
    assert_eq!(resident(&registry), ["a", "c"], "b was used longest ago");
    registry.get("b").unwrap();
    registry.get("d").unwrap();
    assert_eq!(resident(&registry), ["b", "d"]);
    // Who holds one keeps it; the same file is the same generation when it is read again.
    assert!(held.adapter.adapter().max_rank() > 0);
    let again = registry.get("a").unwrap();
    assert_eq!(again.generation, held.generation);
    assert!(!Arc::ptr_eq(&again.adapter, &held.adapter));
}

#[test]
fn a_file_that_was_replaced_is_another_generation_when_it_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("style.lrk");
    let put = |name: &str| {
        let new = folder.path().join("new");
        std::fs::copy(asset(name), &new).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    put("tiny-pirate.lrk");
    let registry = registry(RegistryOptions { resident: 1, ..RegistryOptions::default() });
    registry.register("style", &path).unwrap();
    registry.register("other", asset("tiny-notes.lrk")).unwrap();
    let first = registry.get("style").unwrap();
    // Another time of change, whatever the file system's clock is like.
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    put("tiny-notes.lrk");
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(before + std::time::Duration::from_secs(5)).unwrap();
    assert_eq!(registry.get("style").unwrap().generation, first.generation, "it is in memory");
    registry.get("other").unwrap();
    let second = registry.get("style").unwrap();
    assert!(second.generation > first.generation);
    assert_eq!(registry.known()[1].generation, second.generation);
}

#[test]
fn a_change_that_expects_something_else_changes_nothing() {
    let registry = registry(RegistryOptions::default());
    let path = asset("tiny-pirate.lrk");
    let first = registry.load("a", &path, Expected::Absent).unwrap();
    let stale =
        |result| matches!(result, Err(RegistryError::Stale { current, .. }) if current == first);
    assert!(matches!(registry.load("a", &path, Expected::Absent), Err(RegistryError::Exists(_))));
    assert!(stale(registry.load("a", &path, Expected::Generation(first + 1))));
    assert!(stale(registry.unload("a", Expected::Generation(first + 1)).map(|()| 0)));
    assert_eq!(registry.get("a").unwrap().generation, first);
    let second = registry.load("a", &path, Expected::Generation(first)).unwrap();
    assert!(second > first);
    registry.unload("a", Expected::Generation(second)).unwrap();
    let unknown = |result| matches!(result, Err(RegistryError::Unknown(name)) if name == "a");
    assert!(unknown(registry.unload("a", Expected::Any)));
    assert!(unknown(registry.get("a").map(|_| ())));
    // A generation never comes back: what expected an old one fails.
    assert!(registry.load("a", &path, Expected::Absent).unwrap() > second);
}

#[test]
fn what_is_no_adapter_of_this_base_is_refused_and_the_old_one_stays() {
    let registry = registry(RegistryOptions { max_rank: 1, ..RegistryOptions::default() });
    let refused = registry.load("a", asset("tiny-pirate.lrk"), Expected::Any);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("tiny-pirate.lrk") && said.contains("rank"), "{said}");
    let refused = registry.load("a", asset("tiny.lrk"), Expected::Any).unwrap_err();
    assert!(matches!(refused, RegistryError::File(_)), "{refused}");
    assert!(registry.known().is_empty());
    registry.register("late", asset("none.lrk")).unwrap();
    assert!(matches!(registry.get("late"), Err(RegistryError::File(_))));
}
