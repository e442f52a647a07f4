//! Chat templates: rendered.
#![no_main]

use lowrank::model::llama::Llama;
use lowrank::text::{Message, TextBorder};

const TOKENIZER: &[u8] = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;

libfuzzer_sys::fuzz_target!(|data: &str| {
    let archive = lowrank_fuzz::base_with_text(TOKENIZER, data);
    let border = TextBorder::new(&Llama::open(&archive).unwrap()).unwrap();
    let turns = [Message::new("system", "Be brief."), Message::new("user", "hi")];
    let _ = border.render_chat(&turns, true);
});
