//! `evaluate`, `classify` and `embed`: what a base says of data and texts.

use std::sync::Arc;

use lowrank::adapter::{Adapter, AdapterSet, Slot};
use lowrank::model::AnyBase;
use lowrank::model::bert::{Bert, Pooling};
use lowrank::runtime::{Encoder, EncoderLimits, Memory, encoder_need};
use lowrank::train::data::{DataOptions, Task, Tokenize};
use lowrank::train::{Measures, labels};
use numpy::{IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value, json};

use crate::adapter::Held;
use crate::adapters::{adapters, archives};
use crate::ask::executor;
use crate::base::{Opened, PyBase};
use crate::data::{self, Source};
use crate::error::{Fault, Outcome};
use crate::json::dictionary;
use crate::machine::{NOT_FINITE, precision};
use crate::named::{Keywords, named};
use crate::options::{data_options, tokenizer};
use crate::tokenizer::variables;
use crate::watch::Watch;

/// Texts that are read and answered at a time, as the command line does.
const PART: usize = 256;

/// The stable names of an evaluation.
pub(crate) fn measures(measures: &Measures) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| facts.insert(name.into(), value);
    put("loss", json!(measures.loss));
    put("perplexity", json!(measures.perplexity));
    put("examples", json!(measures.examples));
    put("scored", json!(measures.scored));
    if let (Some(accuracy), Some(f1)) = (measures.accuracy, measures.f1) {
        put("accuracy", json!(accuracy));
        put("f1", json!(f1));
    }
    facts
}

/// The adapters as the library opens them.
fn opened(adapters: &[(Held, f32)]) -> impl Iterator<Item = Adapter<'_>> {
    adapters.iter().map(|(held, _)| held.shared.adapter())
}

/// Measures a base, with adapters, on ``data`` (see ``train``): loss and perplexity of the next token,
/// or with ``task="classify"`` loss, accuracy and F1.
///
/// Keywords: ``adapter`` (as in ``Session.generate``), ``task``, ``max_length``,
/// ``completions_only``, ``template_variables``, ``threads``, ``precision`` ("exact"). The numbers are
/// those of ``lowrank evaluate``; ``cut`` examples were longer than ``max_length``, ``left_out`` had
/// nothing to score.
///
/// >>> base = lowrank.Base.open("tiny.lrk")
/// >>> found = lowrank.evaluate(base, ["A duck and a boat.", "The duck swims."])
/// >>> found["examples"], found["perplexity"] > 1
/// (2, True)
#[pyfunction]
#[pyo3(signature = (base, data, **options))]
pub(crate) fn evaluate<'py>(
    py: Python<'py>,
    base: &PyBase,
    data: &Bound<'py, PyAny>,
    options: Option<&Bound<'py, PyDict>>,
) -> Outcome<Bound<'py, PyDict>> {
    let mut keywords = Keywords::new(options);
    let adapters = adapters(keywords.get::<Bound<'_, PyAny>>("adapter")?.as_ref())?;
    let task = data::task(&keywords.or("task", String::from("lm"))?)?;
    let max_length = keywords.get("max_length")?;
    let completions_only = keywords.or("completions_only", false)?;
    let variables = variables(keywords.get_dict("template_variables")?.as_ref())?;
    let threads = keywords.or("threads", 0)?;
    let precision = precision(Some(&keywords.or("precision", String::from("exact"))?))?;
    keywords.finish()?;
    let (base, source) = (Arc::clone(&base.0), Source::read(data)?);
    let facts = py.detach(|| {
        let model = base.any()?;
        let labels = match task {
            Task::Classify => Some(labels(&model, opened(&adapters))?),
            Task::LanguageModel if matches!(model, AnyBase::Bert(_)) => {
                return Err(Fault::input("an encoder predicts no text: task=\"classify\""));
            }
            Task::LanguageModel => None,
        };
        let tokenizer = tokenizer(&base, &variables)?;
        let tokenize = tokenizer.as_deref().map(|tokenizer| tokenizer as &dyn Tokenize);
        let options = data_options(model.input(), max_length, completions_only, labels)?;
        let data = source.open(task, tokenize, options)?;
        let executor = executor(threads)?;
        let found = lowrank::train::evaluate(
            model,
            &archives(&adapters),
            &data,
            precision.unwrap_or_default(),
            &*executor,
            &mut |_, _| (),
        )?;
        let mut facts = measures(&found);
        facts.insert("cut".into(), data.truncated().into());
        facts.insert("left_out".into(), data.skipped().into());
        Ok(facts)
    })?;
    dictionary(py, &facts)
}

/// The likeliest label of each text, with the probability of every label: dictionaries with
/// ``label``, ``probability`` and ``probabilities``.
///
/// The classifier is an adapter's (``adapter``, as in ``Session.generate``) or the base's own. Longer
/// texts than ``max_length`` tokens are cut. The numbers are those of ``lowrank classify``.
#[pyfunction]
#[pyo3(signature = (base, texts, *, adapter=None, max_length=None, threads=0, precision="exact"))]
pub(crate) fn classify<'py>(
    py: Python<'py>,
    base: &PyBase,
    texts: Vec<String>,
    adapter: Option<&Bound<'py, PyAny>>,
    max_length: Option<usize>,
    threads: usize,
    precision: &str,
) -> Outcome<Vec<Bound<'py, PyDict>>> {
    let (adapters, base) = (adapters(adapter)?, Arc::clone(&base.0));
    let precision = self::precision(Some(precision))?.unwrap_or_default();
    let (names, rows) = py.detach(|| {
        let model = base.any()?;
        if matches!(model, AnyBase::Mlp(_)) {
            return Err(Fault::input(
                "the base reads numbers, not text: evaluate measures it on rows of numbers",
            ));
        }
        let (names, tokenizer) = (labels(&model, opened(&adapters))?, base.tokenizer()?);
        let length = most(max_length, DataOptions::for_model(model.input()).max_length, &model)?;
        let (executor, mut watch) = (executor(threads)?, Watch::new());
        let mut rows = Vec::with_capacity(texts.len());
        for part in texts.chunks(PART) {
            let ids = part.iter().map(|text| Ok(tokenizer.classified(text, length)?.0));
            let ids = ids.collect::<Outcome<Vec<_>>>()?;
            let archives = archives(&adapters);
            rows.extend(lowrank::train::classify(model, &archives, &ids, precision, &*executor)?);
            watch.check()?;
        }
        Ok((names, rows))
    })?;
    rows.iter().map(|probabilities| answer(py, &names, probabilities)).collect()
}

/// The answer to one text. Of equals the first label, as `evaluate` counts.
fn answer<'py>(
    py: Python<'py>,
    names: &[String],
    probabilities: &[f32],
) -> Outcome<Bound<'py, PyDict>> {
    let best = names.iter().zip(probabilities).rev().max_by(|a, b| a.1.total_cmp(b.1));
    let all = PyDict::new(py);
    for (name, probability) in names.iter().zip(probabilities) {
        all.set_item(name, probability)?;
    }
    let answer = PyDict::new(py);
    answer.set_item("label", best.map(|(name, _)| name))?;
    answer.set_item("probability", best.map(|(_, probability)| probability))?;
    answer.set_item("probabilities", all)?;
    Ok(answer)
}

/// The most tokens of a text: what is asked for, at most the base's positions.
fn most(asked: Option<usize>, usual: usize, model: &AnyBase<'_>) -> Outcome<usize> {
    let (length, positions) = (asked.unwrap_or(usual), model.input().context);
    if length > positions {
        return Err(Fault::input(format!(
            "max_length is {length}: the base has positions for {positions} tokens"
        )));
    }
    Ok(length)
}

/// The vectors of texts: float32, ``[texts, dim]``. Pooling and normalization are the base's, unless
/// ``pooling`` says ``"mean"``, ``"cls"`` or ``"pooler"`` (then the vectors are not normalized). The
/// numbers are those of ``lowrank embed``.
#[pyfunction]
#[pyo3(signature = (base, texts, *, adapter=None, pooling=None, max_length=None, threads=0,
    precision="exact"))]
#[allow(clippy::too_many_arguments, reason = "what an embedding can be told")]
pub(crate) fn embed<'py>(
    py: Python<'py>,
    base: &PyBase,
    texts: Vec<String>,
    adapter: Option<&Bound<'py, PyAny>>,
    pooling: Option<&str>,
    max_length: Option<usize>,
    threads: usize,
    precision: &str,
) -> Outcome<Bound<'py, PyArray2<f32>>> {
    let known = [("mean", Pooling::Mean), ("cls", Pooling::Cls), ("pooler", Pooling::Pooler)];
    let pooling = pooling.map(|name| named("pooling", name, &known)).transpose()?;
    let (adapters, base) = (adapters(adapter)?, Arc::clone(&base.0));
    let precision = self::precision(Some(precision))?.unwrap_or_default();
    let (values, dim) = py.detach(|| {
        let model = base.any()?;
        let AnyBase::Bert(encoder) = model else {
            let (path, found) = (base.path.display(), model.as_base().root());
            return Err(Fault::format(format!("{path}: {found}: an encoder was expected")));
        };
        let ids = tokens(&base, &texts, most(max_length, encoder.max_length(), &model)?)?;
        let executor = executor(threads)?;
        let limits =
            EncoderLimits { precision, ..EncoderLimits::for_texts(&encoder, &ids, &*executor) };
        let vectors = vectors(encoder, &adapters, limits, &ids, pooling, &*executor)?;
        Ok((vectors, encoder.config().dim))
    })?;
    Ok(values.into_pyarray(py).reshape([texts.len(), dim])?)
}

/// The tokens of every text, one text at least.
fn tokens(base: &Opened, texts: &[String], length: usize) -> Outcome<Vec<Vec<u32>>> {
    if texts.is_empty() {
        return Err(Fault::input("there are no texts to embed"));
    }
    let tokenizer = base.tokenizer()?;
    texts.iter().map(|text| Ok(tokenizer.encode_text(text, length)?.0)).collect()
}

/// The vectors of all texts, one after the other.
fn vectors(
    model: Bert<'_>,
    adapters: &[(Held, f32)],
    limits: EncoderLimits,
    ids: &[Vec<u32>],
    pooling: Option<Pooling>,
    executor: &dyn lowrank::exec::Executor,
) -> Outcome<Vec<f32>> {
    let mut slots = vec![Slot::EMPTY; adapters.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let weights = adapters.iter().map(|(_, weight)| *weight);
    let choices = set.attach_all(opened(adapters).zip(weights)).map_err(|refused| refused.error)?;
    let max_total_rank = opened(adapters).map(|adapter| adapter.max_rank()).sum();
    let limits = EncoderLimits { max_active: adapters.len(), max_total_rank, ..limits };
    let mut memory = Memory::try_new(encoder_need(model.config(), &limits))?;
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), executor)?;
    for sequence in 0..limits.batch {
        encoder.select(sequence, &set, &choices)?;
    }
    let (mut all, mut watch) = (Vec::with_capacity(ids.len() * model.config().dim), Watch::new());
    for batch in limits.batches(ids) {
        encoder.encode(&batch.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        for sequence in 0..batch.len() {
            all.extend_from_slice(match pooling {
                Some(pooling) => encoder.pooled(sequence, pooling)?,
                None => encoder.embedding(sequence)?,
            });
        }
        watch.check()?;
    }
    match all.iter().position(|value| !value.is_finite()) {
        None => Ok(all),
        Some(at) => {
            let text = at / model.config().dim + 1;
            Err(Fault::not_finite(format!("text {text}: {NOT_FINITE}")))
        }
    }
}
