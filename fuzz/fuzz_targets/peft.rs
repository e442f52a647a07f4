//! PEFT folders for the tiny base: imported, opened, run.
#![no_main]

use lowrank::import::{AdapterOptions, import_peft};
use lowrank::model::llama::Llama;
use lowrank_fuzz::Folder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = Folder::new(data, &["adapter_config.json", "adapter_model.safetensors"]);
    let base = Llama::open(lowrank_fuzz::tiny()).unwrap();
    if let Ok(builder) = import_peft(folder.path(), &base, &AdapterOptions::default())
        && let Ok(archive) = builder.build(&base)
    {
        lowrank_fuzz::run_adapter(&archive, base);
    }
});
