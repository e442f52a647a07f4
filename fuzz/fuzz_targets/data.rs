//! Training data: CSV, JSON lines and text, for every task.
#![no_main]

use lowrank::model::llama::Llama;
use lowrank::text::Tokenizer;
use lowrank::train::data::{DataOptions, Dataset, Task};
use lowrank_fuzz::Folder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let model = Llama::open(lowrank_fuzz::tiny()).unwrap();
    let tokenizer = Tokenizer::new(&model).unwrap();
    let folder = Folder::new(&[], &[]);
    for name in ["d.txt", "d.jsonl", "d.tsv", "d.csv"] {
        let path = folder.file(name);
        std::fs::write(&path, data).unwrap();
        for task in [Task::LanguageModel, Task::Classify] {
            for completions_only in [false, true] {
                let options =
                    DataOptions { max_length: 16, completions_only, ..DataOptions::default() };
                if let Ok(set) = Dataset::open(&path, task, Some(&tokenizer), options) {
                    for batch in set.plan_in_order(4) {
                        let _ = set.batch(&batch);
                    }
                }
            }
        }
    }
});
