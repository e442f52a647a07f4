//! Through the C interface too: label names are given at import, options that have no effect are
//! refused with a sentence, the longest sequence is that of the command line, and the report says
//! what was learnt from.

mod peft_folder;

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr::null_mut;

use lowrank::adapter::Adapter;
use lowrank::archive::ArchiveFile;
use lowrank::error::Error;
use lowrank::ffi::*;
use lowrank::import::{BaseOptions, fresh_to_buffer};
use lowrank::quant::Format;
use peft_folder::{base, golden};

fn c(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

#[test]
fn labels_are_named_at_import() {
    let archive = base("tiny-llama", Format::F32, Format::F32);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.lrk");
    let (source, target) = (c(&golden("tiny-llama/adapters/score")), c(&output));
    let import = |labels: *const c_char| {
        let (start, len) = (archive.as_ptr().cast(), archive.len());
        let options =
            lowrank_adapter_import_options { labels, ..lowrank_adapter_import_options_default() };
        let (source, target) = (source.as_ptr(), target.as_ptr());
        // SAFETY: everything lives until the call returns; strings end with a NUL.
        unsafe { lowrank_adapter_import(source, start, len, target, &options, null_mut()) }
    };
    let labels = || {
        let file = ArchiveFile::open(&output).unwrap();
        let adapter = Adapter::open(&file).unwrap();
        adapter.classifier().unwrap().labels().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(import(std::ptr::null()), 0);
    assert_eq!(labels(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert_eq!(import(c"sports\npolitics, inner\nweather\n".as_ptr()), 0);
    assert_eq!(labels(), ["sports", "politics, inner", "weather"]);
    for wrong in [c"a\nb", c"a\nb\nb", c""] {
        assert_eq!(import(wrong.as_ptr()), Error::Labels { names: 0, rows: 0 }.code());
    }
}

#[test]
fn training_refuses_what_has_no_effect_and_reports_what_it_learnt_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let config = r#"{"model_type": "mlp", "input_size": 2, "hidden_sizes": [8], "output_size": 2}"#;
    let floats =
        BaseOptions { weights: Format::F32, embedding: Format::F32, ..BaseOptions::default() };
    let archive = fresh_to_buffer(&file("mlp.json", config), 1, &floats).unwrap();
    let data = c(&file("a.csv", "0,1,label\n1,2,yes\n3,4,no\n5,6,no\n"));
    let output = c(&folder.path().join("a.lrk"));
    let train = |change: fn(&mut lowrank_train_options)| {
        let mut options = lowrank_train_options_default();
        (options.data, options.output) = (data.as_ptr(), output.as_ptr());
        (options.task, options.steps) = (LOWRANK_TASK_CLASSIFY, 2);
        options.method = LOWRANK_METHOD_LORA;
        change(&mut options);
        // SAFETY: both are plain C structs.
        let (mut error, mut report): (lowrank_error, lowrank_train_report) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: everything lives until the call returns.
        let code = unsafe {
            lowrank_train(
                archive.as_ptr().cast(),
                archive.len(),
                &options,
                None,
                null_mut(),
                &mut report,
                &mut error,
            )
        };
        // SAFETY: the library ends it with a NUL.
        let said = unsafe { CStr::from_ptr(error.detail.as_ptr()) }.to_string_lossy().into_owned();
        (code, said, report)
    };
    let (code, said, report) = train(|_| ());
    assert_eq!(code, 0, "{said}");
    assert_eq!((report.examples, report.labels, report.cut, report.left_out), (3, 2, 0, 0));
    // What follows writes bases too, and those never go over an adapter.
    std::fs::remove_file(folder.path().join("a.lrk")).unwrap();
    type Change = fn(&mut lowrank_train_options);
    let cases: [(Change, &str); 5] = [
        (|o| (o.method, o.rank) = (LOWRANK_METHOD_FULL, 4), "rank has no effect with full"),
        (|o| (o.method, o.dropout) = (LOWRANK_METHOD_FULL, 0.1), "dropout has no effect with full"),
        (|o| o.completions_only = 1, "completions-only has no effect on labels"),
        (|o| o.validate_every = 1, "validate-every has no effect without validation data"),
        (
            |o| o.target_modules = c"layers.0,layers.7".as_ptr(),
            "target-modules layers.7 names no layer of this model",
        ),
    ];
    for (change, expected) in cases {
        let (code, said, _) = train(change);
        assert!(code != 0 && said.contains(expected), "{code}: {said}");
    }
}
