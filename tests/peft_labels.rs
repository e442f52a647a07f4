//! Label names of classifiers travel through PEFT directories and can be given; modules that
//! `target_modules` names and the file does not have are told.

mod peft_folder;

use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterBuilder};
use lowrank::archive::Buffer;
use lowrank::export::export_peft;
use lowrank::import::{AdapterOptions, import_peft};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use peft_folder::{Folder, base, config};
use serde_json::{Value, json};

fn tiny() -> Buffer {
    base("tiny-llama", Format::F32, Format::F32)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn labels(builder: &AdapterBuilder) -> Vec<String> {
    builder.classifier.as_ref().unwrap().labels.clone()
}

fn score() -> Folder {
    Folder::golden("tiny-llama/adapters/score")
}

#[test]
fn label_names_survive_export_and_import() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let mut builder = score().import(&model).unwrap();
    assert_eq!(labels(&builder), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    let given = names(&["sports, fine", "wétter", "2"]);
    builder.name_labels(given.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let adapter = builder.build(&model).unwrap();
    export_peft(&Adapter::open(&adapter).unwrap(), &model, folder.path()).unwrap();
    let written = config(folder.path());
    assert_eq!(written["id2label"], json!({"0": "sports, fine", "1": "wétter", "2": "2"}));
    assert_eq!(written["label2id"], json!({"sports, fine": 0, "wétter": 1, "2": 2}));
    let again = import_peft(folder.path(), &model, &AdapterOptions::default()).unwrap();
    assert_eq!((labels(&again), again.notes.len()), (given, 0));
    // The names that transformers gives anyway are not written.
    builder.name_labels(names(&["LABEL_0", "LABEL_1", "LABEL_2"])).unwrap();
    let adapter = builder.build(&model).unwrap();
    let folder = tempfile::tempdir().unwrap();
    export_peft(&Adapter::open(&adapter).unwrap(), &model, folder.path()).unwrap();
    assert_eq!(config(folder.path()).get("id2label"), None);
}

#[test]
fn label_names_are_read_from_a_configuration_beside_the_adapter() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let read = |beside: &str| {
        let folder = tempfile::tempdir().unwrap();
        score().write(folder.path());
        std::fs::write(folder.path().join("config.json"), beside).unwrap();
        import_peft(folder.path(), &model, &AdapterOptions::default()).unwrap()
    };
    let named = read(r#"{"model_type": "llama", "id2label": {"1": "b", "0": "a", "2": "c"}}"#);
    assert_eq!((labels(&named), named.notes), (names(&["a", "b", "c"]), vec![]));
    for beside in [
        r#"{"id2label": {"0": "a", "1": "b"}}"#,
        r#"{"id2label": {"0": "a", "1": "b", "2": "b"}}"#,
        r#"{"id2label": {"0": "a", "1": "b", "2": "c\nd"}}"#,
        r#"{"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}"#,
    ] {
        let builder = read(beside);
        assert_eq!(labels(&builder), ["LABEL_0", "LABEL_1", "LABEL_2"], "{beside}");
        let note = &builder.notes[0];
        assert!(
            note.contains("config.json: id2label does not name the classifier's 3 labels")
                && note.contains("--labels"),
            "{note}"
        );
    }
    assert_eq!(labels(&read("no JSON")), ["LABEL_0", "LABEL_1", "LABEL_2"]);
}

#[test]
fn given_names_must_be_one_for_each_row() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let mut builder = score().import(&model).unwrap();
    for (given, usable) in [
        (&["a", "b"][..], 2),
        (&["a", "b", "b"], 2),
        (&["a", "b", ""], 2),
        (&["a", "b", "c\nd"], 2),
        (&["a", "b", "c", "d"], 4),
    ] {
        let error = builder.name_labels(names(given)).unwrap_err();
        assert_eq!(error, Error::Labels { names: usable, rows: 3 }, "{given:?}");
        assert_eq!(labels(&builder), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    }
    let mut plain = Folder::golden("tiny-llama/adapters/lora").import(&model).unwrap();
    let error = plain.name_labels(names(&["a", "b"])).unwrap_err();
    assert_eq!(error, Error::Labels { names: 2, rows: 0 });
}

#[test]
fn modules_that_are_named_and_not_there_are_told() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let notes = |change: &dyn Fn(&mut Folder)| {
        let mut folder = Folder::golden("tiny-llama/adapters/lora");
        change(&mut folder);
        folder.import(&model).unwrap().notes
    };
    let without = |folder: &mut Folder, part: &str| {
        folder.tensors.retain(|name, _| !name.contains(part));
    };
    let set = |folder: &mut Folder, key: &str, value: Value| {
        folder.set(key, value);
    };
    assert_eq!(notes(&|_| ()), [""; 0]);
    let found = notes(&|folder| without(folder, "layers.1.self_attn.q_proj"));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("adapter_config.json: target_modules names 1 module more than the file")
            && found[0].ends_with("as the base has them: model.layers.1.self_attn.q_proj"),
        "{found:?}"
    );
    let found = notes(&|folder| without(folder, "layers.1."));
    assert!(found[0].contains("modules more") && found[0].ends_with(", …"), "{found:?}");
    // Regular expressions, and what takes modules away.
    let q = r".*layers\.\d\.self_attn\.q_proj";
    let one = "layers.1.self_attn.q_proj";
    for (lacks, key, value, count) in [
        (&[one][..], "target_modules", json!(q), 1),
        (&["layers.1."], "layers_to_transform", json!([0]), 0),
        (&[one, "layers.0."], "layers_to_transform", json!(1), 1),
        (&["q_proj"], "exclude_modules", json!(["q_proj"]), 0),
        (&["q_proj"], "exclude_modules", json!(".*q_proj"), 0),
        (&[one], "target_modules", json!("all-linear"), 1),
    ] {
        let found = notes(&|folder| {
            lacks.iter().for_each(|part| without(folder, part));
            set(folder, key, value.clone());
        });
        assert_eq!(found.len(), count, "{key} {value}: {found:?}");
    }
    let found = notes(&|folder| {
        folder.tensors.retain(|name, _| name.contains("q_proj"));
        set(folder, "target_modules", json!(["q_proj", "c_attn"]));
    });
    assert!(found[0].ends_with("target_modules names c_attn, which the base does not have"));
}
