//! What was imported from PEFT comes back out unchanged: tensors to the bit, configuration to its
//! meaning. That PEFT computes the same with it is checked by `python/export_peft.py`.

mod peft_folder;

use std::path::Path;

use lowrank::Error;
use lowrank::adapter::{
    Adapter, AdapterBuilder, ClassifierParts, FactorFormat, Numbers, Orientation, Place,
    TargetParts,
};
use lowrank::archive::{Buffer, Fingerprint};
use lowrank::export::export_peft;
use lowrank::file::Reason;
use lowrank::import::{AdapterOptions, import_peft};
use lowrank::model::llama::{Llama, Site};
use lowrank::quant::Format;
use peft_folder::{Folder, base, config, floats, golden, tensors};
use safetensors::Dtype;
use serde_json::{Value, json};

fn tiny() -> Buffer {
    base("tiny-llama", Format::F32, Format::F32)
}

fn import(directory: &Path, model: &Llama<'_>, format: FactorFormat) -> AdapterBuilder {
    import_peft(directory, model, &AdapterOptions { name: Some("a".into()), format }).unwrap()
}

/// Builds, opens and exports into `directory`; errors as the text that users see.
fn export(builder: &AdapterBuilder, model: &Llama<'_>, directory: &Path) -> Result<(), String> {
    let archive = builder.build(model).unwrap();
    export_peft(&Adapter::open(&archive).unwrap(), model, directory)
        .map_err(|error| error.to_string())
}

/// The hash of everything that an adapter computes with.
fn fingerprint(archive: &Buffer) -> Fingerprint {
    Adapter::open(archive).unwrap().fingerprint()
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Small numbers that differ everywhere.
fn parts(rank: usize, alpha: f32, (outputs, inputs): (usize, usize)) -> TargetParts {
    let numbers =
        |n: usize, step: f32| Numbers::F32((0..n).map(|i| (i as f32 * step).sin()).collect());
    let (a, b) = (numbers(rank * inputs, 0.37), numbers(outputs * rank, 0.73));
    TargetParts {
        rank,
        alpha,
        rank_stabilized: false,
        orientation: Orientation::Peft,
        a,
        b,
        bias: Vec::new(),
        magnitude: Vec::new(),
        scaled: None,
    }
}

fn builder(
    model: &Llama<'_>,
    targets: impl IntoIterator<Item = (Site, TargetParts)>,
) -> AdapterBuilder {
    let mut builder = AdapterBuilder::new("a", "lora");
    builder.targets.extend(
        targets.into_iter().map(|(site, parts)| (Place(site.number(model.config().layers)), parts)),
    );
    builder
}

#[test]
fn golden_adapters_come_back_to_the_bit() {
    for (folder, adapter) in [
        ("tiny-llama", "tiny-llama/adapters/lora"),
        ("tiny-llama", "tiny-llama/adapters/rslora"),
        ("tiny-llama", "tiny-llama/adapters/dora"),
        ("tiny-llama", "tiny-llama/adapters/embed_head"),
        ("tiny-llama", "tiny-llama/adapters/lora_bias"),
        ("tiny-llama", "tiny-llama/adapters/score"),
        ("tiny-variants/qwen3", "tiny-variants/qwen3/adapters/score"),
        ("tiny-llama-bnb", "tiny-llama-bnb/adapters/dora"),
        ("tiny-variants/qwen2", "tiny-variants/qwen2/adapters/ia3"),
        ("tiny-variants/qwen2", "tiny-variants/qwen2/adapters/ia3-all"),
        ("tiny-zero-row", "tiny-zero-row/adapters/dora"),
        ("tiny-zero-row", "tiny-zero-row/adapters/dora_zero_norm"),
    ] {
        let archive = base(folder, Format::Nf4, Format::Int8);
        let model = Llama::open(&archive).unwrap();
        let first = import(&golden(adapter), &model, FactorFormat::AsIs);
        let directory = tempfile::tempdir().unwrap();
        export(&first, &model, directory.path()).unwrap();
        assert_eq!(files(directory.path()), ["adapter_config.json", "adapter_model.safetensors"]);

        let mut theirs = tensors(&golden(adapter));
        theirs.retain(|name, _| !name.ends_with("base_layer.weight"));
        assert_eq!(tensors(directory.path()), theirs, "{adapter}");
        let (ours, theirs) = (config(directory.path()), config(&golden(adapter)));
        for (key, value) in ours.as_object().unwrap() {
            assert_eq!(value, &theirs[key], "{adapter}: {key}");
        }
        let missing =
            |(key, value): (&String, &Value)| ours.get(key).is_none() && value == &json!(true);
        assert!(!theirs.as_object().unwrap().iter().any(missing), "{adapter}: a flag is lost");

        let again = import(directory.path(), &model, FactorFormat::AsIs);
        assert_eq!(
            (&again.targets, &again.method, &again.classifier),
            (&first.targets, &first.method, &first.classifier),
            "{adapter}"
        );
        assert_eq!(first.classifier.is_some(), adapter.ends_with("score"));
        assert_eq!(
            fingerprint(&again.build(&model).unwrap()),
            fingerprint(&first.build(&model).unwrap()),
            "{adapter}"
        );
    }
}

#[test]
fn f16_stays_f16_and_int8_becomes_what_it_stands_for() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let (directory, source) = (tempfile::tempdir().unwrap(), golden("tiny-llama/adapters/lora"));
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
    let down = Site::Down(1).number(2);
    for (format, dtype) in [(FactorFormat::F16, Dtype::F16), (FactorFormat::Int8, Dtype::F32)] {
        let archive = import(&source, &model, format).build(&model).unwrap();
        let adapter = Adapter::open(&archive).unwrap();
        export_peft(&adapter, &model, directory.path()).unwrap();
        let tensors = tensors(directory.path());
        assert_eq!((tensors[name].0, &tensors[name].1[..]), (dtype, &[64, 4][..]));
        // The archive holds B transposed.
        let stored: Vec<f32> =
            (0..64 * 4).map(|i| adapter.target(down).unwrap().b.get(i % 4, i / 4)).collect();
        let again = import(directory.path(), &model, FactorFormat::AsIs);
        let read: Vec<f32> = (0..64 * 4).map(|i| again.targets[&Place(down)].b.get(i)).collect();
        assert_eq!(read, stored, "{format:?}");
        if dtype == Dtype::F32 {
            assert_eq!(floats(&tensors[name].2), stored);
        } else {
            assert_eq!(fingerprint(&again.build(&model).unwrap()), fingerprint(&archive));
        }
    }
}

#[test]
fn unequal_ranks_and_alphas_become_patterns() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let shape = |site: Site| site.shape(model.config());
    let target = |site, rank, alpha| (site, parts(rank, alpha, shape(site)));
    let targets = [
        target(Site::Q(0), 2, 8.0),
        target(Site::Q(1), 2, 8.0),
        target(Site::V(0), 4, 0.5),
        target(Site::V(1), 3, 8.0),
        target(Site::Up(1), 4, 8.0),
        target(Site::O(0), 4, 8.0),
        target(Site::O(1), 4, 8.0),
        target(Site::Head, 1, 16.0),
        (Site::Embedding, parts(5, 8.0, (64, 96))),
    ];
    let directory = tempfile::tempdir().unwrap();
    let first = builder(&model, targets);
    export(&first, &model, directory.path()).unwrap();
    let written = config(directory.path());
    assert_eq!((&written["r"], &written["lora_alpha"]), (&json!(4), &json!(8)));
    let rank_pattern =
        json!({"embed_tokens": 5, "lm_head": 1, "q_proj": 2, "layers.1.self_attn.v_proj": 3});
    assert_eq!(written["rank_pattern"], rank_pattern);
    assert_eq!(written["alpha_pattern"], json!({"layers.0.self_attn.v_proj": 0.5, "lm_head": 16}));
    let modules =
        json!(["embed_tokens", "lm_head", "o_proj", "q_proj", "layers.1.mlp.up_proj", "v_proj"]);
    assert_eq!(written["target_modules"], modules);
    assert_eq!(import(directory.path(), &model, FactorFormat::AsIs).targets, first.targets);
}

#[test]
fn flags_of_some_layers_become_flags_of_all() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let shape = Site::Q(0).shape(model.config());
    let directory = tempfile::tempdir().unwrap();
    let mut targets = [(Site::Q(0), parts(4, 3.0, shape)), (Site::Q(1), parts(4, 3.0, shape))];
    targets[0].1.rank_stabilized = true;
    targets[1].1.bias = vec![0.25; 64];
    export(&builder(&model, targets.clone()), &model, directory.path()).unwrap();
    let again = import(directory.path(), &model, FactorFormat::AsIs).targets;
    for (site, parts) in &targets {
        let again = &again[&Place(site.number(2))];
        assert_eq!(again.scale(), parts.scale());
        assert_eq!(again.bias, [if parts.bias.is_empty() { 0.0 } else { 0.25 }; 64]);
    }
}

#[test]
fn facts_of_the_origin_come_back() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let mut folder = Folder::golden("tiny-llama/adapters/lora");
    folder
        .set("base_model_name_or_path", json!("someone/tiny"))
        .set("revision", json!("v2"))
        .set("task_type", json!("SEQ_2_SEQ_LM"));
    let directory = tempfile::tempdir().unwrap();
    export(&folder.import(&model).unwrap(), &model, directory.path()).unwrap();
    let written = config(directory.path());
    for key in ["base_model_name_or_path", "revision", "task_type"] {
        assert_eq!(written[key], folder.config[key]);
    }
    let from_scratch = builder(&model, [(Site::Head, parts(1, 1.0, (96, 64)))]);
    export(&from_scratch, &model, directory.path()).unwrap();
    assert_eq!(config(directory.path())["task_type"], "CAUSAL_LM");
}

#[test]
fn what_peft_has_no_form_for_is_refused() {
    let (archive, other) = (tiny(), base("tiny-llama", Format::F16, Format::F32));
    let (model, other) = (Llama::open(&archive).unwrap(), Llama::open(&other).unwrap());
    let shape = Site::Q(0).shape(model.config());
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new");
    let with = |change: &dyn Fn(&mut TargetParts), more: Option<(Site, TargetParts)>| {
        let mut first = parts(2, 2.0, shape);
        change(&mut first);
        builder(&model, [(Site::Q(0), first)].into_iter().chain(more))
    };
    let dora = |parts: &mut TargetParts| parts.magnitude = vec![1.0; 64];
    let bias = |parts: &mut TargetParts| parts.bias = vec![1.0; 64];
    let both = |parts: &mut TargetParts| (dora(parts), bias(parts)).0;
    for (builder, words) in [
        (
            with(&dora, Some((Site::Q(1), parts(2, 2.0, shape)))),
            "model.layers.1.self_attn.q_proj has no magnitude",
        ),
        (with(&both, None), "no bias of B beside DoRA"),
        (with(&bias, Some((Site::Embedding, parts(2, 2.0, (64, 96))))), "model.embed_tokens"),
    ] {
        let error = export(&builder, &model, &directory).unwrap_err();
        assert!(error.contains(words), "{error}");
        assert!(!directory.exists());
    }
    let classifying = |bias: Vec<f32>, more| {
        let labels = vec!["a".to_owned(), "b".to_owned()];
        AdapterBuilder {
            classifier: Some(ClassifierParts { weight: vec![0.5; 128], bias, labels }),
            ..with(&|_| {}, more)
        }
    };
    let error = export(&classifying(vec![0.0, 0.25], None), &model, &directory).unwrap_err();
    assert!(error.contains("no bias, and one of this classifier is 0.25"), "{error}");
    let error = export(
        &classifying(Vec::new(), Some((Site::Head, parts(1, 1.0, (96, 64))))),
        &model,
        &directory,
    )
    .unwrap_err();
    assert!(error.contains("in place of lm_head"), "{error}");
    assert!(!directory.exists());
    export(&classifying(vec![0.0; 2], None), &model, &parent.path().join("zero bias")).unwrap();
    let adapter = with(&|_| {}, None).build(&other).unwrap();
    let error = export_peft(&Adapter::open(&adapter).unwrap(), &model, &directory).unwrap_err();
    assert!(matches!(error.reason, Reason::Core(Error::OtherBase { .. })), "{error}");
    assert!(!directory.exists());
}

#[test]
fn a_failure_leaves_what_was_there() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let adapter = builder(&model, [(Site::Head, parts(1, 1.0, (96, 64)))]);
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert!(export(&adapter, &model, &file).unwrap_err().contains("file"));
    assert!(export(&adapter, &model, &file.join("below")).unwrap_err().contains("below"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");

    // The configuration can't be written: a directory has its name.
    let directory = parent.path().join("directory");
    std::fs::create_dir_all(directory.join("adapter_config.json/kept")).unwrap();
    std::fs::write(directory.join("adapter_model.safetensors"), "old").unwrap();
    assert!(export(&adapter, &model, &directory).unwrap_err().contains("adapter_config.json"));
    assert_eq!(files(&directory), ["adapter_config.json", "adapter_model.safetensors"]);
    assert_eq!(
        std::fs::read_to_string(directory.join("adapter_model.safetensors")).unwrap(),
        "old"
    );
    assert_eq!(files(parent.path()), ["directory", "file"]);
}
