//! tokenizer.json as an archive carries it: read, used on texts.
#![no_main]

use lowrank::model::llama::Llama;
use lowrank::text::TextBorder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let archive = lowrank_fuzz::base_with_text(data, "");
    if let Ok(border) = TextBorder::new(&Llama::open(&archive).unwrap()) {
        lowrank_fuzz::run_text(&border);
    }
});
