//! Adapters with a right checksum that say they belong to the tiny base: opened, attached, run.
#![no_main]

use lowrank::adapter::Adapter;
use lowrank::model::llama::Llama;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(archive) = lowrank_fuzz::archive(data) else { return };
    let base = Llama::open(lowrank_fuzz::tiny()).unwrap();
    if let Ok(adapter) = Adapter::open(&archive) {
        lowrank_fuzz::run_decoder(base, Some(adapter));
    }
    let _ = Adapter::verify(&archive);
});
