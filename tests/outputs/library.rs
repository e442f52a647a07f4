//! The library is as safe as the command line: what writes files and is given a path tries it.

use std::path::Path;

use lowrank::file::{Kind, Output, write_whole};
use lowrank::import::{AdapterOptions, BaseOptions, Gguf, import_peft, write_base, write_fresh};
use lowrank::model::llama::Llama;
use lowrank::runtime::Serial;
use lowrank::train::data::{DataOptions, Dataset, Task, Tokenize};
use lowrank::train::{AnyBase, Control, Length, Method, Options, RunOptions, Trainer, run, save};

use super::{Folder, golden, works};

fn quiet() -> impl FnMut(lowrank::import::Progress<'_>) {
    |_| {}
}

#[test]
fn importers_refuse_their_sources_and_other_kinds() {
    let folder = Folder::new();
    let gguf = folder.path("tiny.gguf");
    std::fs::copy(golden("gguf/tiny-llama.gguf"), &gguf).unwrap();
    let before = std::fs::read(&gguf).unwrap();
    let source = Gguf::open(&gguf).unwrap();
    let options = BaseOptions::default();
    let into = |output: &Path| write_base(&source, &options, output, &mut quiet());
    let line = into(&gguf).unwrap_err().to_string();
    assert!(line.contains("the output is the input"), "{line}");
    let line = into(&folder.path("adapter.lrk")).unwrap_err().to_string();
    assert!(line.contains("holds an adapter"), "{line}");
    // Tried with force, the place may hold something else, but no input.
    let forced = |path: &Path| Output::new(path, Kind::Base, &[], true).unwrap();
    let adapter = forced(&folder.path("adapter.lrk"));
    write_base(&source, &options, &adapter, &mut quiet()).unwrap();
    assert!(write_base(&source, &options, &forced(&gguf), &mut quiet()).is_err());
    assert_eq!(std::fs::read(&gguf).unwrap(), before);
    let config = folder.path("base.json");
    let line = write_fresh(&config, 0, &options, &config).unwrap_err().to_string();
    assert!(line.contains("the output is the input"), "{line}");

    let base = folder.path("tiny.lrk");
    into(&base).unwrap();
    let archive = lowrank::archive::ArchiveFile::open(&base).unwrap();
    let model = Llama::open(&archive).unwrap();
    let peft = golden("tiny-llama/adapters/lora");
    let builder = import_peft(peft, &model, &AdapterOptions::default()).unwrap();
    let line = builder.write(&model, &base).unwrap_err().to_string();
    assert!(line.contains("holds a Llama base"), "{line}");
    builder.write(&model, folder.path("style.lrk")).unwrap();
}

#[test]
fn training_never_writes_over_its_base_or_what_is_no_checkpoint() {
    let folder = Folder::new();
    let base = folder.path("base.lrk");
    let before = std::fs::read(&base).unwrap();
    let archive = lowrank::archive::ArchiveFile::open(&base).unwrap();
    let tokenizer = lowrank::text::Tokenizer::new(&Llama::open(&archive).unwrap()).unwrap();
    let options = DataOptions { max_length: 16, ..DataOptions::default() };
    let tokenizer = Some(&tokenizer as &dyn Tokenize);
    let data = folder.path("data.jsonl");
    let data = Dataset::open(&data, Task::LanguageModel, tokenizer, options).unwrap();
    for method in [Method::Full, Method::Lora] {
        let model = AnyBase::open(&archive).unwrap();
        let mut trainer = Trainer::new(model, Options::new(method), Vec::new()).unwrap();
        let mut course = RunOptions { length: Length::Steps(1), ..RunOptions::default() };
        let mut go = |course: &RunOptions| {
            run(&mut trainer, &data, None, course, &Serial, &mut |_| Control::Continue)
        };
        for checkpoint in ["base.lrk", "data.jsonl", "none/there", "."] {
            course.checkpoint = Some((folder.path(checkpoint), 1));
            assert!(go(&course).is_err(), "{checkpoint}");
        }
        course.checkpoint = None;
        go(&course).unwrap();
        // Whatever the base's file is called now: it is known by what is in it.
        std::fs::copy(&base, folder.path("copy.lrk")).unwrap();
        for output in ["base.lrk", "copy.lrk", "data.jsonl"] {
            save(&trainer, None, "x", folder.path(output)).unwrap_err();
        }
        let forced = Output::new(folder.path("copy.lrk"), Kind::Any, &[], true).unwrap();
        save(&trainer, None, "x", &forced).unwrap();
        save(&trainer, None, "x", folder.path("trained.lrk")).unwrap();
        std::fs::remove_file(folder.path("trained.lrk")).unwrap();
    }
    assert_eq!(std::fs::read(&base).unwrap(), before);
    works(&["verify", base.to_str().unwrap()]);
}

#[test]
fn an_output_that_fails_leaves_what_was_there() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, "old").unwrap();
    let output = Output::new(&path, Kind::Any, &[], false).unwrap();
    let failed: Result<(), _> = output.write(|file| {
        file.write_all(b"half").unwrap();
        Err(lowrank::file::FileError::format("a", "", "no"))
    });
    assert!(failed.is_err() && std::fs::read(&path).unwrap() == b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(output.check_room(1).is_ok());
    if cfg!(target_os = "linux") {
        let line = output.check_room(u64::MAX).unwrap_err().to_string();
        assert!(line.contains("18446744073709551615 bytes are needed"), "{line}");
    }
    write_whole(&path, |file| {
        file.write_all(b"new").unwrap();
        Ok(())
    })
    .unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}
