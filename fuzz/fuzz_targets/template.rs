//! Chat templates: rendered.
#![no_main]

use lowrank::model::llama::Llama;
use lowrank::text::{Message, Tokenizer};

const TOKENIZER: &[u8] = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;

libfuzzer_sys::fuzz_target!(|data: &str| {
    let archive = lowrank_fuzz::base_with_text(TOKENIZER, data);
    let tokenizer = Tokenizer::new(&Llama::open(&archive).unwrap()).unwrap();
    let turns = [Message::new("system", "Be brief."), Message::new("user", "hi")];
    let _ = tokenizer.render_chat(&turns, true);
});
