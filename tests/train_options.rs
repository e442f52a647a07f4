//! What a training run is told and cannot do is an error that names it: layers and patterns that
//! match nothing (with the nearest names), options that have no effect with the method, labels
//! that could not be stored. DyLoRA keeps ranks of their own.

mod common;

use common::{CONFIG, base, mlp};
use lowrank::adapter::Adapter;
use lowrank::model::llama::Llama;
use lowrank::model::mlp::{Activation, Mlp};
use lowrank::quant::Format;
use lowrank::runtime::Serial;
use lowrank::train::data::{DataOptions, Dataset, Task};
use lowrank::train::{
    AnyBase, Init, Length, Method, Options, PatternValue, Report, RunOptions, TargetModules,
    Trainer, finish, run,
};

fn pattern(pattern: &str, value: f32) -> Vec<PatternValue> {
    vec![PatternValue { pattern: pattern.into(), value }]
}

/// The error of a run on a small decoder, which must be one.
#[track_caller]
fn refused(method: Method, labels: &[&str], change: impl FnOnce(&mut Options)) -> String {
    let format = if method == Method::QLora { Format::Nf4 } else { Format::F32 };
    let archive = base(&CONFIG, format, Format::F32, 1);
    let mut options = Options::new(method);
    change(&mut options);
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let error = Trainer::new(Llama::open(&archive).unwrap(), options, labels).unwrap_err();
    let error = error.to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[track_caller]
fn has(error: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
}

#[test]
fn every_name_of_target_modules_must_be_a_layer() {
    for (targets, parts) in [
        ("q_porj", &["target-modules q_porj names no layer", "nearest: q_proj"][..]),
        ("q_proj,qproj", &["qproj names no layer", "q_proj", "down_proj, embed_tokens, gate_proj"]),
        ("q_proj,self_atn.v_proj", &["self_atn.v_proj names", "nearest: self_attn.v_proj"]),
        ("layers.7.mlp.up_proj", &["layers.7.mlp.up_proj", "layers.1.mlp.up_proj"]),
        ("roj", &["roj names no layer"]),
        (".*v_porj", &["target-modules .*v_porj names no layer"]),
        ("v_proj(", &["target-modules v_proj(", "unclosed group"]),
    ] {
        let error = refused(Method::Lora, &[], |o| o.targets = TargetModules::parse(targets));
        has(&error, parts);
    }
    // A layer that is there and that this run cannot train.
    let error =
        refused(Method::Lora, &["a", "b"], |o| o.targets = TargetModules::parse("q_proj,lm_head"));
    has(&error, &["lm_head", "nothing reads"]);
    let archive = base(&CONFIG, Format::F32, Format::F32, 1);
    for targets in ["q_proj", "lm_head,embed_tokens", "self_attn.q_proj,layers.0.mlp.up_proj"] {
        let options =
            Options { targets: TargetModules::parse(targets), ..Options::new(Method::Lora) };
        Trainer::new(Llama::open(&archive).unwrap(), options, Vec::new()).unwrap();
    }
}

#[test]
fn every_pattern_must_decide_over_a_layer() {
    let error = refused(Method::Lora, &[], |o| o.rank_pattern = pattern("q_porj", 4.0));
    has(&error, &["rank-pattern q_porj=4 matches no layer", "nearest: q_proj"]);
    let error = refused(Method::Dora, &[], |o| o.alpha_pattern = pattern("mlp.upproj", 4.0));
    has(&error, &["alpha-pattern mlp.upproj=4 matches no layer", "mlp.up_proj"]);
    let error = refused(Method::Lora, &[], |o| {
        o.targets = TargetModules::parse("q_proj");
        o.rank_pattern = pattern("v_proj", 4.0);
    });
    has(&error, &["rank-pattern v_proj=4", "target-modules names none"]);
    let error = refused(Method::Lora, &[], |o| {
        o.rank_pattern = [pattern(".*_proj", 2.0), pattern("q_proj", 4.0)].concat();
    });
    has(&error, &["rank-pattern q_proj=4", "patterns before it"]);
    let error = refused(Method::Lora, &[], |o| o.alpha_pattern = pattern("q_proj(", 4.0));
    has(&error, &["alpha-pattern q_proj(", "unclosed group"]);
}

#[test]
fn options_of_another_method_are_refused_by_name() {
    type Change = fn(&mut Options);
    let low_rank: [(&str, Change); 6] = [
        ("rank", |o| o.rank = 4),
        ("alpha", |o| o.alpha = 4.0),
        ("rank-pattern", |o| o.rank_pattern = pattern("q_proj", 4.0)),
        ("alpha-pattern", |o| o.alpha_pattern = pattern("q_proj", 4.0)),
        ("init", |o| o.init = Init::Gaussian),
        ("dropout", |o| o.dropout = 0.1),
    ];
    for (name, change) in low_rank {
        let error = refused(Method::Full, &[], change);
        has(&error, &[&format!("{name} has no effect with full"), "it belongs to lora"]);
    }
    let of_one: [(&str, Method, Change); 4] = [
        ("lora-plus-ratio", Method::LoraPlus, |o| o.lora_plus_ratio = 4.0),
        ("lora-plus-embedding-rate", Method::LoraPlus, |o| o.lora_plus_embedding_rate = 1e-3),
        ("dylora-frozen", Method::DyLora, |o| o.dylora_frozen = true),
        ("lora-fa-preconditioned", Method::LoraFa, |o| o.lora_fa_preconditioned = true),
    ];
    for (name, own, change) in of_one {
        for method in Method::ALL.into_iter().filter(|method| *method != own) {
            let error = refused(method, &[], change);
            let expected = format!("{name} has no effect with {method}: it belongs to {own}");
            assert_eq!(error, expected);
            // For another method the option has its default.
            let mut options = Options::new(own);
            change(&mut options);
            options.check_effects(&[method, own]).unwrap();
            assert_eq!(options.with_method(method), Options::new(method), "{name} {method}");
            assert_eq!(options.with_method(own), options);
        }
    }
    let error = refused(Method::LoraPlus, &[], |o| o.lora_plus_embedding_rate = 1e-3);
    has(&error, &["lora-plus-embedding-rate has no effect", "names no embedding"]);
}

#[test]
fn labels_that_could_not_be_stored_are_refused_before_training() {
    for (labels, reason) in [
        (["good\nfilm", "bad"], "\"good\\nfilm\" holds a line feed"),
        (["bad", ""], "\"\" is empty"),
        (["bad", "bad"], "\"bad\" is there twice"),
    ] {
        has(&refused(Method::Lora, &labels, |_| ()), &["label", reason]);
    }
}

/// The ranks of the kept adapter's layers, those at rank 2, and what the run said.
#[derive(Debug)]
struct Ran {
    kept: Vec<usize>,
    whole: Vec<usize>,
    report: Report,
}

/// A small table, the trainer of an MLP on it, and what `run` says.
fn train(
    method: Method,
    change: impl FnOnce(&mut Options),
    with_validation: bool,
    options: RunOptions,
) -> Result<Ran, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let row = |i: usize| format!("{},{},{}\n", i % 5, i * 3 % 7, ["a", "b"][i % 2]);
    std::fs::write(&path, (0..24).map(row).collect::<String>()).unwrap();
    let data = Dataset::open(&path, Task::Classify, None, DataOptions::default()).unwrap();
    let archive = mlp(2, &[20, 9, 2], Activation::Relu, Format::F32, true, 3);
    let base = Mlp::open(&archive).unwrap();
    let mut trained = Options { learning_rate: 1e-2, ..Options::new(method) };
    change(&mut trained);
    let mut trainer = Trainer::new(base, trained, data.labels().to_vec()).unwrap();
    let validation = with_validation.then_some(&data);
    let report = run(&mut trainer, &data, validation, &options, &Serial, &mut |_| {
        lowrank::train::Control::Continue
    })
    .map_err(|error| error.to_string())?;
    let adapter = finish(&trainer, &report, "a").unwrap();
    let kept = Adapter::open(&adapter).unwrap().targets().map(|target| target.rank).collect();
    let whole = trainer.adapter("a", Some(2)).targets.values().map(|target| target.rank).collect();
    Ok(Ran { kept, whole, report })
}

#[test]
fn dylora_keeps_ranks_of_their_own() {
    let options = RunOptions { length: Length::Steps(40), ..RunOptions::default() };
    let change = |options: &mut Options| {
        options.rank = 2;
        options.rank_pattern = pattern("layers.0", 6.0);
    };
    let ran = train(Method::DyLora, change, true, options).unwrap();
    let (ranks, rank) = (&ran.report.ranks, ran.report.rank.unwrap());
    assert_eq!(ranks.len(), 2, "every rank that was drawn is measured: {ranks:?}");
    // The share of its own rank that is kept is the share of the common one.
    assert_eq!((ran.kept, ran.whole), (vec![3 * rank, rank], vec![6, 2]));
}

#[test]
fn run_options_without_effect_are_refused_by_name() {
    let short = || RunOptions { length: Length::Steps(2), ..RunOptions::default() };
    for (method, options, expected) in [
        (
            Method::Lora,
            RunOptions { rank_tolerance: 0.1, ..short() },
            "rank-tolerance has no effect",
        ),
        (
            Method::Lora,
            RunOptions { validate_every: Some(1), ..short() },
            "validate-every has no effect without validation",
        ),
        (Method::Lora, RunOptions { patience: Some(1), ..short() }, "validation data"),
    ] {
        has(&train(method, |_| (), false, options).unwrap_err(), &[expected]);
    }
    train(Method::Lora, |_| (), true, RunOptions { validate_every: Some(1), ..short() }).unwrap();
}

#[test]
fn a_tied_weight_is_trained_in_full_whichever_of_its_names_is_given() {
    let config = r#"{"model_type": "llama", "tokenizer": "bytes", "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 64, "tie_word_embeddings": true}"#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tied.json");
    std::fs::write(&path, config).unwrap();
    let floats = lowrank::import::BaseOptions {
        weights: Format::F32,
        embedding: Format::F32,
        ..Default::default()
    };
    let archive = lowrank::import::fresh_to_buffer(&path, 1, &floats).unwrap();
    let weights = |targets: &str, labels: &[&str]| {
        let options =
            Options { targets: TargetModules::parse(targets), ..Options::new(Method::Full) };
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let trainer = Trainer::new(AnyBase::open(&archive).unwrap(), options, labels).unwrap();
        let parameters = trainer.parameters();
        parameters.filter(|parameter| parameter.range.len() == 258 * 32).count()
    };
    for targets in ["lm_head", "embed_tokens", "lm_head,embed_tokens", "all-linear"] {
        assert_eq!(weights(targets, &[]), 1, "{targets}");
    }
    // Beside a classifier nothing reads the head; the embedding is trained all the same.
    assert_eq!(weights("all-linear", &["a", "b"]), 1);
}
