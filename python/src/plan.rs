//! `memory` and `train_memory`: what a session or a training run will take, before there is one; and
//! `compare`: several methods on the same data.

use std::path::PathBuf;
use std::sync::Arc;

use lowrank::archive::Buffer;
use lowrank::file::FileError;
use lowrank::import::with_nf4;
use lowrank::model::AnyBase;
use lowrank::quant::BlockScale;
use lowrank::runtime::{Limits, need};
use lowrank::train::data::{Dataset, Task, Tokenize};
use lowrank::train::{Meter, Method, Run, RunOptions, Workload, estimate, rows, run_method};
use peak_alloc::PeakAlloc;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value, json};

use crate::adapters::adapters;
use crate::ask::executor;
use crate::base::{Opened, PyBase};
use crate::data::Source;
use crate::error::{Fault, Outcome};
use crate::json::dictionary;
use crate::machine::{kv, precision};
use crate::named::Keywords;
use crate::options::{Settings, method};
use crate::train::{Listeners, of_method};
use crate::watch::Watch;

/// The heap of this module, of all sessions and runs together.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Tokens of a sequence where none is asked for.
const CONTEXT: usize = 512;

/// The bytes that a session will take, by the names of ``lowrank memory --json``:
/// ``workspace_bytes`` (of which ``kv_bytes`` keys and values), ``base_bytes``, ``adapter_bytes``,
/// ``tokenizer_bytes``, ``peak_bytes`` together.
///
/// >>> lowrank.memory(lowrank.Base.open("tiny.lrk"), context=128)["base_bytes"]
/// 222152
#[pyfunction]
#[pyo3(signature = (base, *, adapter=None, context=None, batch=1, prefill_chunk=32, lookup=0, kv="f16",
    threads=0, precision=None))]
#[allow(clippy::too_many_arguments, reason = "what a session can be told")]
pub(crate) fn memory<'py>(
    py: Python<'py>,
    base: &PyBase,
    adapter: Option<&Bound<'py, PyAny>>,
    context: Option<usize>,
    batch: usize,
    prefill_chunk: usize,
    lookup: usize,
    kv: &str,
    threads: usize,
    precision: Option<&str>,
) -> Outcome<Bound<'py, PyDict>> {
    let (adapters, base) = (adapters(adapter)?, Arc::clone(&base.0));
    let (kv_format, precision) = (self::kv(kv)?, self::precision(precision)?);
    let facts = py.detach(|| {
        let model = base.decoder()?;
        let context = context.unwrap_or(CONTEXT.min(model.config().context));
        let executor = executor(threads)?;
        let usual = Limits::for_model(&model, context, &*executor);
        let limits = Limits {
            batch,
            prefill_chunk,
            kv_format,
            precision: precision.unwrap_or(usual.precision),
            max_active: adapters.len(),
            max_total_rank: adapters.iter().map(|(a, _)| a.shared.adapter().max_rank()).sum(),
            draft: lookup,
            ..usual
        };
        limits.check(model.config())?;
        let need = need(model.config(), &limits);
        if need.bytes == usize::MAX {
            return Err(Fault::input("the workspace would have more bytes than can be counted"));
        }
        let files: usize = adapters.iter().map(|(held, _)| held.bytes.len()).sum();
        let before = HEAP.current_usage();
        let tokenizer = base.make_tokenizer().ok();
        let text = HEAP.current_usage().saturating_sub(before);
        drop(tokenizer);
        let parts = [need.bytes, base.file.len(), files, text];
        Ok(json!({
            "workspace_bytes": need.bytes, "kv_bytes": need.kv_bytes, "base_bytes": base.file.len(),
            "adapter_bytes": files, "tokenizer_bytes": text,
            "peak_bytes": parts.into_iter().fold(0, usize::saturating_add),
        }))
    })?;
    object(py, facts)
}

/// The bytes that ``train`` with these keywords will take, by the names of ``lowrank memory --method
/// --json``. Without ``data`` every batch is full; ``labels`` says how many a classifier then has.
///
/// >>> base = lowrank.Base.open("tiny.lrk")
/// >>> lowrank.train_memory(base, rank=8, batch_size=4, max_length=64)["trainable_parameters"]
/// 43008
#[pyfunction]
#[pyo3(signature = (base, **options))]
pub(crate) fn train_memory<'py>(
    py: Python<'py>,
    base: &PyBase,
    options: Option<&Bound<'py, PyDict>>,
) -> Outcome<Bound<'py, PyDict>> {
    let mut keywords = Keywords::new(options);
    let method = method(&keywords.or("method", String::from("qlora"))?)?;
    let mut source = |name: &str| -> Outcome<Option<Source>> {
        let given: Option<Bound<'_, PyAny>> = keywords.get(name)?;
        given.map(|data| Source::read(&data)).transpose()
    };
    let (data, validation) = (source("data")?, source("validation")?);
    let labels: Option<usize> = keywords.get("labels")?;
    let every = keywords.or("checkpoint_every", 100)?;
    let settings = Settings::read(&mut keywords)?;
    keywords.finish()?;
    if labels.is_some() && (settings.task != Task::Classify || data.is_some()) {
        return Err(Fault::input("labels has no effect without task=\"classify\", or beside data"));
    }
    let base = Arc::clone(&base.0);
    let facts = py.detach(|| {
        let plan = Plan { settings, data, validation, labels, every };
        plan.estimate(&base, method)
    })?;
    object(py, facts)
}

/// A run that is only planned.
struct Plan {
    settings: Settings,
    data: Option<Source>,
    validation: Option<Source>,
    labels: Option<usize>,
    /// Steps between checkpoints; 0 for none.
    every: u64,
}

impl Plan {
    fn estimate(&self, base: &Opened, method: Method) -> Outcome<Value> {
        let (settings, model) = (&self.settings, base.any()?);
        let tokenizer = settings.tokenizer(base)?;
        let tokenize = tokenizer.as_deref().map(|tokenizer| tokenizer as &dyn Tokenize);
        let training =
            self.data.as_ref().map(|source| open(source, settings, &model, tokenize, None));
        let training = training.transpose()?;
        let is_classifier = settings.task == Task::Classify;
        let labels = training.as_ref().filter(|_| is_classifier).map(|data| data.labels().to_vec());
        let validation = self.validation.as_ref();
        let validation = validation
            .map(|source| open(source, settings, &model, tokenize, labels))
            .transpose()?;
        let checkpoint = (self.every > 0).then(|| (PathBuf::new(), self.every));
        let course = RunOptions { checkpoint, ..settings.run() };
        let threads = executor(settings.threads)?.threads();
        let workload = match &training {
            Some(data) => Workload::of(data, validation.as_ref(), &course, settings.seed, threads),
            None => {
                let length = settings.data(model.input(), None, true)?.max_length;
                let labels = if is_classifier { self.labels.unwrap_or(2) } else { 0 };
                Workload {
                    steps: settings.steps(),
                    validation: validation.as_ref().map(Dataset::longest),
                    ..Workload::full(settings.batch_size, length, labels, threads)?
                }
            }
        };
        let found = estimate(model, &settings.trainer(method), &course, &workload)?;
        let (mapped, now) = (base.file.len() as u64, HEAP.current_usage() as u64);
        Ok(json!({
            "method": method.name(),
            "steps": workload.steps,
            "peak_bytes": now.saturating_add(found.heap_bytes).saturating_add(mapped),
            "trainable_parameters": found.trainable_parameters,
            "base_bytes": mapped,
            "parameter_bytes": found.parameter_bytes,
            "optimizer_bytes": found.optimizer_bytes,
            "step_bytes": found.step_bytes,
            "validation_bytes": found.validation_bytes,
            "checkpoint_bytes": found.checkpoint_bytes,
        }))
    }
}

/// Opens data for training on a base; validation data takes the labels of the training data.
fn open<'t>(
    source: &Source,
    settings: &Settings,
    model: &AnyBase<'_>,
    tokenize: Option<&'t dyn Tokenize>,
    labels: Option<Vec<String>>,
) -> Outcome<Dataset<'t>> {
    let is_training = labels.is_none();
    let options = settings.data(model.input(), labels, is_training)?;
    Ok(source.open(settings.task, tokenize, options)?)
}

/// The heap as `compare` asks for it.
struct Heap;

impl Meter for Heap {
    fn restart(&self) {
        HEAP.reset_peak_usage();
    }

    fn most(&self) -> u64 {
        HEAP.peak_usage() as u64
    }
}

/// Trains each of ``methods`` with each of ``seeds`` seeds (from ``seed`` on) on the same data, and
/// measures them on ``validation``: a dictionary per method, by the names of ``lowrank compare
/// --json``. ``qlora`` trains on the base quantized to nf4, the others on it as it is.
///
/// ``on_run(method, seed)`` is told before each run; ``on_step``, ``on_validation`` and the other
/// keywords are those of ``train``.
#[pyfunction]
#[pyo3(signature = (base, data, validation, methods, *, seeds=1, on_run=None, **options))]
#[allow(clippy::too_many_arguments, reason = "what is compared, on what, and how")]
pub(crate) fn compare<'py>(
    py: Python<'py>,
    base: &PyBase,
    data: &Bound<'py, PyAny>,
    validation: &Bound<'py, PyAny>,
    methods: Vec<String>,
    seeds: u64,
    on_run: Option<Py<PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> Outcome<Vec<Bound<'py, PyDict>>> {
    let mut keywords = Keywords::new(options);
    let settings = Settings::read(&mut keywords)?;
    let listeners = Listeners::read(&mut keywords)?;
    keywords.finish()?;
    let mut each = Vec::new();
    for name in &methods {
        let method = method(name)?;
        if !each.contains(&method) {
            each.push(method);
        }
    }
    if each.is_empty() || !(1..=1000).contains(&seeds) || settings.seed.checked_add(seeds).is_none()
    {
        return Err(Fault::input(format!(
            "methods has {} entries and seeds is {seeds}: at least one method and 1 to 1000 seeds \
             were expected",
            each.len()
        )));
    }
    let data = [Source::read(data)?, Source::read(validation)?];
    let contest = Contest { base: Arc::clone(&base.0), data, settings, listeners, on_run };
    let runs = py.detach(|| contest.run_all(&each, seeds))?;
    rows(&runs).iter().map(|row| object(py, row.facts())).collect()
}

/// Everything that runs share.
struct Contest {
    base: Arc<Opened>,
    /// To learn from, and to measure on.
    data: [Source; 2],
    settings: Settings,
    listeners: Listeners,
    on_run: Option<Py<PyAny>>,
}

impl Contest {
    /// Every method with every seed.
    fn run_all(&self, methods: &[Method], seeds: u64) -> Outcome<Vec<Run>> {
        let (settings, model) = (&self.settings, self.base.any()?);
        let tokenizer = settings.tokenizer(&self.base)?;
        let tokenize = tokenizer.as_deref().map(|tokenizer| tokenizer as &dyn Tokenize);
        let [training, validation] = &self.data;
        let training = open(training, settings, &model, tokenize, None)?;
        let labels = (settings.task == Task::Classify).then(|| training.labels().to_vec());
        let validation = open(validation, settings, &model, tokenize, labels)?;
        settings.trainer(methods[0]).check_effects(methods)?;
        settings.run().check_effects(methods)?;
        settings.check_used(tokenizer.as_ref())?;
        let mut runs = Vec::new();
        for &method in methods {
            let nf4 = self.quantized(&model, method)?;
            for seed in settings.seed..settings.seed + seeds {
                if let Some(callback) = &self.on_run {
                    Python::attach(|py| callback.call1(py, (method.name(), seed)))?;
                }
                runs.push(self.run(method, nf4.as_ref(), seed, &training, &validation)?);
            }
        }
        Ok(runs)
    }

    /// The base that a method trains on, if it is not the one given.
    fn quantized(&self, model: &AnyBase<'_>, method: Method) -> Outcome<Option<Buffer>> {
        if method != Method::QLora {
            return Ok(None);
        }
        let quantized = with_nf4(model, BlockScale::Absmax);
        Ok(quantized.map_err(|error| FileError::core(&self.base.path, "", error))?)
    }

    fn run(
        &self,
        method: Method,
        nf4: Option<&Buffer>,
        seed: u64,
        training: &Dataset<'_>,
        validation: &Dataset<'_>,
    ) -> Outcome<Run> {
        let options = lowrank::train::Options { seed, ..self.settings.contestant(method) };
        let (model, mapped) = match nf4 {
            Some(nf4) => (AnyBase::open(nf4)?, 0),
            None => (self.base.any()?, self.base.file.len() as u64),
        };
        let (executor, mut watch) = (executor(self.settings.threads)?, Watch::new());
        let mut tell = |event| self.listeners.tell(event, &mut watch);
        let course = self.settings.run().with_method(method);
        let run = run_method(
            model,
            mapped,
            options,
            training.labels().to_vec(),
            training,
            validation,
            &course,
            &*executor,
            &Heap,
            &mut tell,
        );
        watch.result()?;
        let run = run.map_err(|error| of_method(method, seed, error))?;
        run.ok_or_else(|| Fault::busy("the comparison was stopped"))
    }
}

fn object(py: Python<'_>, facts: Value) -> Outcome<Bound<'_, PyDict>> {
    let fields = if let Value::Object(fields) = facts { fields } else { Map::new() };
    dictionary(py, &fields)
}
