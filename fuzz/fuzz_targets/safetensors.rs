//! Model folders (config.json, model.safetensors, tokenizer files) of every family.
#![no_main]

use lowrank::RootKind;
use lowrank::import::{
    BaseOptions, HuggingFace, HuggingFaceBert, PyTorch, base_to_buffer, bert_to_buffer,
    directory_kind, pytorch_to_buffer,
};
use lowrank_fuzz::Folder;

const NAMES: [&str; 5] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = Folder::new(data, &NAMES);
    let path = folder.path();
    let options = BaseOptions { allow_missing_tokenizer: true, ..BaseOptions::default() };
    let Ok(kind) = directory_kind(&path) else { return };
    let archive = match kind {
        RootKind::BERT => HuggingFaceBert::open(path)
            .and_then(|source| bert_to_buffer(&source, &options, &mut |_| {})),
        RootKind::LSTM | RootKind::MLP => {
            PyTorch::open(path).and_then(|source| pytorch_to_buffer(&source, &options, &mut |_| {}))
        }
        _ => HuggingFace::open(path)
            .and_then(|source| base_to_buffer(&source, &options, &mut |_| {})),
    };
    if let Ok(archive) = archive {
        lowrank_fuzz::run_archive(&archive);
    }
});
