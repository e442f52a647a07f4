//! What a run was asked for, as text in its checkpoints: everything that decides over the bits of
//! the result, one `name: value` a line, in version [`VERSION`] of these names.
//!
//! A setting that has its usual value is left out. So a checkpoint of before an option existed is
//! one of a run without it, and goes on. Names and values are spelled out here and stay, whatever
//! types of this crate are called.

use serde_json::json;

use super::TrainError;
use super::data::Dataset;
use super::options::{METHOD_OPTIONS, MethodOption, Options, TargetModules};
use super::run::{Length, RunOptions, Warmup};
use super::trainer::Trainer;

/// The version of the names and values; another one is refused.
const VERSION: &str = "version: 1";

struct Setting {
    name: &'static str,
    value: String,
    /// The value of a run that was not asked for anything else.
    usual: Option<String>,
}

/// Everything that decides over the bits of a run.
pub(super) struct Settings(Vec<Setting>);

impl Settings {
    /// The settings of a run. Reads the data files once.
    ///
    /// # Errors
    /// If a data file cannot be read.
    pub(super) fn of(
        trainer: &Trainer<'_>,
        training: &Dataset<'_>,
        validation: Option<&Dataset<'_>>,
        options: &RunOptions,
    ) -> Result<Self, TrainError> {
        let mut settings = Self(Vec::new());
        settings.add_options(trainer.options());
        settings.add_run(options);
        settings.add_reading(training);
        settings.always("labels", json!(trainer.labels()));
        settings.always("training data", facts_of(training)?);
        let validation = validation.map(facts_of).transpose()?;
        settings.or_usual("validation data", validation.unwrap_or_else(|| "none".into()), "none");
        settings.always("instruction set", crate::kernel::kernels().name());
        Ok(settings)
    }

    /// As checkpoints keep it.
    pub(super) fn text(&self) -> String {
        let lines = self.0.iter().filter(|setting| setting.usual.as_ref() != Some(&setting.value));
        let lines = lines.map(|setting| format!("{}: {}\n", setting.name, setting.value));
        std::iter::once(format!("{VERSION}\n")).chain(lines).collect()
    }

    /// Refuses to go on from a checkpoint with the settings `theirs`.
    ///
    /// # Errors
    /// A sentence that names the first setting that differs, with both values.
    pub(super) fn check(&self, theirs: &str) -> Result<(), String> {
        let mut lines = theirs.lines();
        if lines.next() != Some(VERSION) {
            return Err("another version of lowrank wrote it, whose settings this one cannot \
                        compare: finish the run with that version, or begin anew (--restart)"
                .into());
        }
        let theirs: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
        let differ = |their: String, our: String| {
            Err(format!(
                "the run that wrote it had \"{their}\", this one has \"{our}\": it can only go \
                 on as it began; --restart begins anew"
            ))
        };
        for setting in &self.0 {
            let found = theirs.iter().find(|(name, _)| *name == setting.name);
            let their = found.map(|(_, value)| *value).or(setting.usual.as_deref());
            if their != Some(&setting.value) {
                let their = their.unwrap_or("nothing");
                return differ(
                    format!("{}: {their}", setting.name),
                    format!("{}: {}", setting.name, setting.value),
                );
            }
        }
        let unknown =
            theirs.iter().find(|(name, _)| self.0.iter().all(|setting| setting.name != *name));
        match unknown {
            Some((name, value)) => differ(format!("{name}: {value}"), format!("no {name}")),
            None => Ok(()),
        }
    }

    /// A setting that every checkpoint has.
    fn always(&mut self, name: &'static str, value: impl ToString) {
        self.0.push(Setting { name, value: value.to_string(), usual: None });
    }

    fn or_usual(&mut self, name: &'static str, value: impl ToString, usual: impl ToString) {
        let (value, usual) = (value.to_string(), Some(usual.to_string()));
        self.0.push(Setting { name, value, usual });
    }

    fn add_options(&mut self, options: &Options) {
        // What is usual is said here and not asked of `Options::new`: it must not change.
        self.always("method", options.method.name());
        for MethodOption { setting, usual, text, .. } in METHOD_OPTIONS {
            let (value, usual) = (text(options), usual.map(str::to_owned));
            self.0.push(Setting { name: setting, value, usual });
        }
        self.or_usual("target modules", targets(&options.targets), "\"all-linear\"");
        self.always("optimizer", options.optimizer);
        self.always("learning rate", options.learning_rate);
        self.or_usual("weight decay", options.weight_decay, 0);
        self.always("schedule", options.schedule.name());
        self.or_usual("max norm", options.max_norm, 0);
        self.or_usual("label smoothing", options.label_smoothing, 0);
        self.always("seed", options.seed);
        // Checkpointing changes memory and time, not a bit of the result.
        self.or_usual("precision", options.precision.name(), "exact");
        let adapter = options.start.as_ref().map(|start| start.adapter().fingerprint());
        let adapter = adapter.map_or_else(|| "none".into(), |adapter| adapter.to_string());
        self.or_usual("adapter", adapter, "none");
    }

    fn add_run(&mut self, options: &RunOptions) {
        let (epochs, steps) = match options.length {
            Length::Epochs(epochs) => (epochs.to_string(), "none".into()),
            Length::Steps(steps) => ("none".into(), steps.to_string()),
        };
        self.or_usual("epochs", epochs, "none");
        self.or_usual("steps", steps, "none");
        let warmup = match options.warmup {
            Warmup::Steps(steps) => format!("{steps} steps"),
            Warmup::Share(0.0) => "0 steps".into(),
            Warmup::Share(share) => format!("{share} of all steps"),
        };
        self.or_usual("warmup", warmup, "0 steps");
        self.always("batch size", options.batch_size);
        self.or_usual("accumulation", options.accumulation, 1);
        self.or_usual("sorted by length", options.sort_by_length, true);
        let number = |value: Option<u64>| value.map_or_else(|| "none".into(), |n| n.to_string());
        self.or_usual("validate every", number(options.validate_every), "none");
        self.or_usual("patience", number(options.patience.map(u64::from)), "none");
    }

    fn add_reading(&mut self, data: &Dataset<'_>) {
        if data.width() == 0 {
            let options = data.options();
            self.always("max length", options.max_length);
            self.or_usual("completions only", options.completions_only, false);
            self.or_usual("packing", options.packing, false);
        }
    }
}

fn facts_of(data: &Dataset<'_>) -> Result<String, TrainError> {
    let (examples, rows, hash) = (data.len(), data.rows(), data.content()?);
    Ok(format!("{examples} examples, {rows} rows, hash {hash:016x}"))
}

fn targets(targets: &TargetModules) -> serde_json::Value {
    match targets {
        TargetModules::AllLinear => json!("all-linear"),
        TargetModules::Names(names) => json!({ "names": names }),
        TargetModules::Pattern(pattern) => json!({ "pattern": pattern }),
    }
}
