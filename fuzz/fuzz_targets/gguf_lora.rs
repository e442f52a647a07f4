//! GGUF adapters of the tiny base: imported, opened, run.
#![no_main]

use lowrank::import::{AdapterOptions, import_gguf_adapter};
use lowrank::model::llama::Llama;
use lowrank_fuzz::Folder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = Folder::new(&[], &[]);
    let path = folder.file("lora.gguf");
    std::fs::write(&path, data).unwrap();
    let base = Llama::open(lowrank_fuzz::tiny()).unwrap();
    if let Ok(builder) = import_gguf_adapter(&path, &base, &AdapterOptions::default())
        && let Ok(archive) = builder.build(&base)
    {
        lowrank_fuzz::run_adapter(&archive, base);
    }
});
