//! The C interface writes over no input and over nothing of another kind, and says so before it
//! works.

mod common;

use std::ffi::CString;
use std::path::Path;
use std::ptr::{null, null_mut};

use common::{CONFIG, base};
use lowrank::ffi::*;
use lowrank::quant::Format;

/// The code of what is wrong with a file.
const FILE: u32 = 1011;

fn string(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

#[test]
fn training_from_c_refuses_an_output_that_is_its_base_its_data_or_another_kind() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let archive = base(&CONFIG, Format::F32, Format::F32, 3);
    std::fs::write(file("base.lrk"), &*archive).unwrap();
    std::fs::write(file("data.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    std::fs::hard_link(file("data.jsonl"), file("same.jsonl")).unwrap();
    std::fs::write(file("notes.txt"), "notes").unwrap();
    let before = |name: &str| std::fs::read(file(name)).unwrap();
    let [was_base, was_data] = ["base.lrk", "data.jsonl"].map(before);
    let data = string(&file("data.jsonl"));
    for method in [LOWRANK_METHOD_LORA, LOWRANK_METHOD_FULL] {
        for output in ["base.lrk", "data.jsonl", "same.jsonl", "notes.txt", "none/there", "."] {
            let output = string(&file(output));
            let options = lowrank_train_options {
                data: data.as_ptr(),
                output: output.as_ptr(),
                method,
                ..lowrank_train_options_default()
            };
            // SAFETY: plain memory of this function and strings that live through the call.
            let code = unsafe {
                let (start, len) = (archive.as_ptr().cast(), archive.len());
                lowrank_train(start, len, &options, None, null_mut(), null_mut(), null_mut())
            };
            assert_eq!(code, FILE, "{output:?}");
        }
    }
    // Nor does an import write over the base.
    let (source, output) = (string(&file("missing")), string(&file("base.lrk")));
    // SAFETY: as above.
    let code = unsafe {
        let (start, len) = (archive.as_ptr().cast(), archive.len());
        lowrank_adapter_import(source.as_ptr(), start, len, output.as_ptr(), null(), null_mut())
    };
    assert_eq!(code, FILE);
    assert_eq!(["base.lrk", "data.jsonl"].map(before), [was_base, was_data]);
    assert_eq!(std::fs::read(file("notes.txt")).unwrap(), b"notes");
}
