//! tokenizer.json as an archive carries it: read, used on texts.
#![no_main]

use lowrank::model::llama::Llama;
use lowrank::text::Tokenizer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let archive = lowrank_fuzz::base_with_text(data, "");
    if let Ok(tokenizer) = Tokenizer::new(&Llama::open(&archive).unwrap()) {
        lowrank_fuzz::run_text(&tokenizer);
    }
});
