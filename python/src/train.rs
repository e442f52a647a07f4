//! `train`: fine-tunes an adapter, or a whole float base, and tells each step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowrank::file::{Kind, Output};
use lowrank::train::data::{Dataset, Task, Tokenize};
use lowrank::train::{
    Control, Event, Method, Report, RunOptions, Start, TrainError, Trainer, finish, kind,
    run as run_training, save,
};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::adapter::{Held, PyAdapter};
use crate::adapters::stem;
use crate::ask::executor;
use crate::base::{Opened, PyBase};
use crate::data::Source;
use crate::error::{Fault, Outcome};
use crate::json::dictionary;
use crate::measure::measures;
use crate::named::Keywords;
use crate::options::{Settings, method};
use crate::watch::Watch;

/// Who is told of a run, and can end it.
#[derive(Default)]
pub(crate) struct Listeners {
    on_step: Option<Py<PyAny>>,
    on_validation: Option<Py<PyAny>>,
    stop: Option<Py<PyAny>>,
}

impl Listeners {
    pub(crate) fn read(keywords: &mut Keywords<'_>) -> Outcome<Self> {
        let mut callback = |name: &str| -> Outcome<Option<Py<PyAny>>> {
            let given: Option<Bound<'_, PyAny>> = keywords.get(name)?;
            Ok(given.map(Bound::unbind))
        };
        Ok(Self {
            on_step: callback("on_step")?,
            on_validation: callback("on_validation")?,
            stop: callback("stop")?,
        })
    }

    /// Tells an event; what the run should do then. An exception of a callback, or of a signal's
    /// handler, is in `watch` and ends the run.
    pub(crate) fn tell(&self, event: Event, watch: &mut Watch) -> Control {
        let asked = match (event, &self.on_step, &self.on_validation) {
            (Event::Step { step, total, loss }, Some(callback), _) => {
                call(callback, |py| (step, total, loss).into_pyobject(py).map(Bound::unbind))
            }
            (Event::Validation { step, loss, accuracy }, _, Some(callback)) => {
                call(callback, |py| (step, loss, accuracy).into_pyobject(py).map(Bound::unbind))
            }
            _ => Ok(true),
        };
        let goes_on = asked.and_then(|goes_on| Ok(goes_on && !self.is_set()?));
        let goes_on = goes_on.unwrap_or_else(|error| {
            watch.raise(error);
            false
        });
        match (watch.is_raised(), goes_on) {
            (true, _) => Control::Stop,
            (false, false) => Control::Keep,
            (false, true) => Control::Continue,
        }
    }

    /// Does `stop`, a `threading.Event` or a function, say so?
    fn is_set(&self) -> PyResult<bool> {
        let Some(stop) = &self.stop else { return Ok(false) };
        Python::attach(|py| {
            let stop = stop.bind(py);
            match stop.getattr_opt("is_set")? {
                Some(is_set) => is_set.call0()?.is_truthy(),
                None => stop.call0()?.is_truthy(),
            }
        })
    }
}

/// Calls back; only False ends the run.
fn call(
    callback: &Py<PyAny>,
    arguments: impl FnOnce(Python<'_>) -> PyResult<Py<pyo3::types::PyTuple>>,
) -> PyResult<bool> {
    Python::attach(|py| {
        let said = callback.bind(py).call1(arguments(py)?.bind(py))?;
        Ok(!said.extract::<bool>().is_ok_and(|goes_on| !goes_on))
    })
}

/// What a run left behind.
#[pyclass(frozen, name = "Training", module = "lowrank")]
pub(crate) struct PyTraining {
    report: Report,
    adapter: Option<Py<PyAdapter>>,
    base: Option<Py<PyBase>>,
    parameters: usize,
}

#[pymethods]
impl PyTraining {
    /// The adapter that was trained; with the method ``"full"`` the classifier, if there is one.
    #[getter]
    fn adapter(&self, py: Python<'_>) -> Option<Py<PyAdapter>> {
        self.adapter.as_ref().map(|adapter| adapter.clone_ref(py))
    }

    /// With the method ``"full"`` the base that was trained.
    #[getter]
    fn base(&self, py: Python<'_>) -> Option<Py<PyBase>> {
        self.base.as_ref().map(|base| base.clone_ref(py))
    }

    /// Optimizer steps.
    #[getter]
    fn steps(&self) -> u64 {
        self.report.steps
    }

    /// The mean training loss of the last twentieth of the run.
    #[getter]
    fn loss(&self) -> f64 {
        self.report.loss
    }

    /// The loss of every step: float32, ``[steps]``.
    #[getter]
    fn losses<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        self.report.losses.clone().into_pyarray(py)
    }

    /// Every validation: step, loss, accuracy (``None`` of a language model).
    #[getter]
    fn validations(&self) -> Vec<(u64, f64, Option<f64>)> {
        self.report.validations.clone()
    }

    /// What the validation data says of what was kept, as ``evaluate`` does; ``None`` without any.
    #[getter]
    fn validation<'py>(&self, py: Python<'py>) -> Outcome<Option<Bound<'py, PyDict>>> {
        let found = self.report.validation.as_ref();
        found.map(|found| dictionary(py, &measures(found))).transpose()
    }

    /// The rank that DyLoRA kept.
    #[getter]
    fn rank(&self) -> Option<usize> {
        self.report.rank
    }

    /// Seconds of training, without validation.
    #[getter]
    fn seconds(&self) -> f64 {
        self.report.seconds
    }

    /// Tokens (rows of numbers) that went through the model.
    #[getter]
    fn tokens(&self) -> u64 {
        self.report.rows
    }

    /// Numbers that were trained.
    #[getter]
    fn trainable_parameters(&self) -> usize {
        self.parameters
    }

    fn __repr__(&self) -> String {
        format!("Training(steps={}, loss={:.4})", self.report.steps, self.report.loss)
    }
}

/// What a run is asked for, beside the options of training.
struct Job {
    base: Arc<Opened>,
    data: Source,
    validation: Option<Source>,
    method: Option<Method>,
    start: Option<Held>,
    name: String,
    output: Option<PathBuf>,
    force: bool,
    checkpoint: Option<(PathBuf, u64)>,
    resume: bool,
    settings: Settings,
    listeners: Listeners,
}

impl Job {
    fn read(
        base: &PyBase,
        data: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> Outcome<Self> {
        let mut keywords = Keywords::new(options);
        let validation: Option<Bound<'_, PyAny>> = keywords.get("validation")?;
        let name: Option<String> = keywords.get("method")?;
        let start: Option<PyRef<'_, PyAdapter>> = keywords.get("adapter")?;
        let output: Option<PathBuf> = keywords.get("output")?;
        let every = keywords.or("checkpoint_every", 100)?;
        let checkpoint: Option<PathBuf> = keywords.get("checkpoint")?;
        let usual = output.as_deref().and_then(stem).unwrap_or_else(|| "adapter".into());
        let job = Self {
            base: Arc::clone(&base.0),
            data: Source::read(data)?,
            validation: validation.map(|data| Source::read(&data)).transpose()?,
            method: name.map(|name| method(&name)).transpose()?,
            start: start.map(|start| start.0.clone()),
            name: keywords.or("name", usual)?,
            output,
            force: keywords.or("force", false)?,
            checkpoint: checkpoint.map(|path| (path, every)),
            resume: keywords.or("resume", false)?,
            settings: Settings::read(&mut keywords)?,
            listeners: Listeners::read(&mut keywords)?,
        };
        keywords.finish()?;
        if job.resume && job.checkpoint.is_none() {
            return Err(Fault::input("resume has no effect without checkpoint: name its file"));
        }
        Ok(job)
    }

    /// Is a base written?
    fn is_full(&self) -> bool {
        self.method.is_some_and(|method| kind(method) == Kind::Base)
    }

    /// Tries the place of the result, before there is anything to lose.
    fn place(&self) -> Outcome<Option<Output>> {
        let written = if self.is_full() { Kind::Base } else { Kind::Adapter };
        let mut inputs: Vec<&Path> = vec![&self.base.path];
        for source in [Some(&self.data), self.validation.as_ref()].into_iter().flatten() {
            if let Source::File(path) = source {
                inputs.push(path);
            }
        }
        match &self.output {
            Some(path) => Ok(Some(Output::new(path, written, &inputs, self.force)?)),
            None if self.is_full() => {
                Err(Fault::input("the method full trains a base, which is a file: name its output"))
            }
            None => Ok(None),
        }
    }

    fn run(&self) -> Outcome<PyTraining> {
        let place = self.place()?;
        let model = self.base.any()?;
        let (settings, input) = (&self.settings, model.input());
        let tokenizer = settings.tokenizer(&self.base)?;
        let tokenize = tokenizer.as_deref().map(|tokenizer| tokenizer as &dyn Tokenize);
        let start = self.start.as_ref().map(|held| Start::from(Arc::clone(&held.shared)));
        let is_classifier = settings.task == Task::Classify;
        let kept = start.as_ref().map(Start::labels).filter(|labels| !labels.is_empty());
        let kept = kept.filter(|_| is_classifier);
        let training =
            self.data.open(settings.task, tokenize, settings.data(input, kept, true)?)?;
        let labels = is_classifier.then(|| training.labels().to_vec());
        let open = |source: &Source| {
            let options = settings.data(input, labels.clone(), labels.is_none())?;
            Ok::<_, Fault>(source.open(settings.task, tokenize, options)?)
        };
        let validation = self.validation.as_ref().map(open).transpose()?;
        settings.check_used(tokenizer.as_ref())?;
        let checkpoint = self.checkpoint.clone();
        let checkpoint =
            checkpoint.map(|(path, every)| (path, if every == 0 { u64::MAX } else { every }));
        let course = RunOptions { checkpoint, resume: self.resume, ..settings.run() };
        let options = match start {
            Some(start) => settings.going_on(self.method, start)?,
            None => settings.trainer(self.method.unwrap_or(Method::QLora)),
        };
        let executor = executor(settings.threads)?;
        let mut trainer = Trainer::new(model, options, labels.unwrap_or_default())?;
        let report =
            self.watched(&mut trainer, &training, validation.as_ref(), &course, &*executor);
        self.keep(&trainer, report?, place.as_ref())
    }

    /// Trains; Ctrl-C and exceptions of callbacks write the checkpoint, if there is a place for it.
    fn watched(
        &self,
        trainer: &mut Trainer<'_>,
        training: &Dataset<'_>,
        validation: Option<&Dataset<'_>>,
        course: &RunOptions,
        executor: &dyn lowrank::exec::Executor,
    ) -> Outcome<Report> {
        let mut watch = Watch::new();
        let mut tell = |event| self.listeners.tell(event, &mut watch);
        let report = run_training(trainer, training, validation, course, executor, &mut tell);
        watch.result()?;
        Ok(report?)
    }

    /// The result as objects, and in its file.
    fn keep(
        &self,
        trainer: &Trainer<'_>,
        report: Report,
        place: Option<&Output>,
    ) -> Outcome<PyTraining> {
        let parameters = trainer.trainable_parameters();
        if let Some(place) = place {
            save(trainer, report.rank, &self.name, place)?;
        }
        // The run is complete: there is nothing to go on from.
        if let Some((path, _)) = &self.checkpoint {
            let _ = std::fs::remove_file(path);
        }
        let archive = finish(trainer, &report, &self.name)?;
        let (adapter, base) = if self.is_full() {
            let classifier = trainer.classifier_adapter(&archive)?;
            let classifier = classifier.map(|bytes| Held::new(bytes, None)).transpose()?;
            (classifier, self.output.as_deref().map(Opened::open).transpose()?)
        } else {
            (Some(Held::new(archive, Some(Arc::clone(&self.base)))?), None)
        };
        Python::attach(|py| {
            let adapter = adapter.map(|held| Py::new(py, PyAdapter(held))).transpose()?;
            let base = base.map(|base| Py::new(py, PyBase(Arc::new(base)))).transpose()?;
            Ok(PyTraining { report, adapter, base, parameters })
        })
    }
}

/// Fine-tunes an adapter on ``data``: a file (.txt, .jsonl, .tsv, .csv) or a list of examples
/// (strings, ``{"prompt": …, "completion": …}``, ``{"messages": …}``, ``{"text": …, "label": …}``).
///
/// Keywords: ``method`` ("qlora"), ``validation`` (data as ``data``), ``adapter`` (to go on from),
/// ``name``, ``output`` (a file to write it to), ``force``, ``checkpoint`` (a file),
/// ``checkpoint_every`` (100), ``resume``; ``on_step(step, total, loss)`` and ``on_validation(step,
/// loss, accuracy)``, of which one that returns False ends the run, with what was learnt as its
/// result, and so does ``stop``, a ``threading.Event`` or a function; and those of ``TrainOptions``.
/// The numbers are those of ``lowrank train``, bit for bit. Ctrl-C writes the checkpoint, if one is
/// named, and raises KeyboardInterrupt.
///
/// >>> base = lowrank.Base.open("tiny.lrk")
/// >>> examples = [{"prompt": f"A {word}:", "completion": " arr"} for word in ("duck", "boat")]
/// >>> training = lowrank.train(base, examples, rank=4, steps=3, learning_rate=1e-3)
/// >>> training.steps, training.adapter.rank
/// (3, 4)
#[pyfunction]
#[pyo3(signature = (base, data, **options))]
pub(crate) fn train(
    py: Python<'_>,
    base: &PyBase,
    data: &Bound<'_, PyAny>,
    options: Option<&Bound<'_, PyDict>>,
) -> Outcome<PyTraining> {
    let job = Job::read(base, data, options)?;
    py.detach(|| job.run())
}

/// A run that ended badly, as an exception.
pub(crate) fn of_method(method: Method, seed: u64, error: TrainError) -> Fault {
    Fault::from(error).said_of(&format!("{method}, seed {seed}"))
}
