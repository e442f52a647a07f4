//! Configurations of fresh models: made, opened, run. Sizes that a machine can hold take long to
//! draw, so large numbers are cut.
#![no_main]

use lowrank::import::{BaseOptions, fresh_to_buffer};
use lowrank_fuzz::Folder;

libfuzzer_sys::fuzz_target!(|data: &str| {
    let long = |digits: &str| digits.len() > 3 && digits.len() < 9;
    if data.split(|c: char| !c.is_ascii_digit()).any(long) {
        return;
    }
    let folder = Folder::new(&[], &[]);
    let path = folder.file("config.json");
    std::fs::write(&path, data).unwrap();
    let options = BaseOptions { allow_missing_tokenizer: true, ..BaseOptions::default() };
    if let Ok(archive) = fresh_to_buffer(&path, 1, &options) {
        lowrank_fuzz::run_archive(&archive);
    }
});
