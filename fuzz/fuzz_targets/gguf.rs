//! GGUF models: imported, opened, run.
#![no_main]

use lowrank::import::{BaseOptions, Gguf, base_to_buffer};
use lowrank_fuzz::Folder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = Folder::new(&[], &[]);
    let path = folder.file("model.gguf");
    std::fs::write(&path, data).unwrap();
    let Ok(source) = Gguf::open(&path) else { return };
    if let Ok(archive) = base_to_buffer(&source, &BaseOptions::default(), &mut |_| {}) {
        lowrank_fuzz::run_archive(&archive);
    }
});
