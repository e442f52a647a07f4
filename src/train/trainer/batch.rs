//! What a batch must be: everything that the forward pass relies on.

use super::Trainer;
use crate::error::Error;
use crate::train::TrainError;
use crate::train::body::InputSpec;
use crate::train::data::{Batch, IGNORE, Inputs, Targets};

impl Trainer<'_> {
    /// Checks `batch` against the model and the run.
    pub(super) fn check(&self, batch: &Batch) -> Result<(), TrainError> {
        let input_spec = self.network.input_spec();
        let rows = check_inputs(&batch.inputs, input_spec)?;
        check_sequences(&batch.starts, rows, input_spec.context)?;
        self.check_targets(batch, rows, input_spec.tokens)
    }

    fn check_targets(&self, batch: &Batch, rows: usize, vocab: usize) -> Result<(), TrainError> {
        let classifies = matches!(batch.targets, Targets::Class(_));
        if classifies == self.labels.is_empty() {
            let (batch, run) =
                if classifies { ("classes", "the next token") } else { ("next tokens", "classes") };
            return Err(TrainError::options(format!(
                "the batch has {batch} as targets, this run learns {run}"
            )));
        }
        let (have, need, classes) = match &batch.targets {
            Targets::Next(next) => (next.len(), rows, vocab),
            Targets::Class(classes) => (classes.len(), batch.starts.len() - 1, self.labels.len()),
        };
        if have != need {
            return Err(Error::Length { have, need }.into());
        }
        let (Targets::Next(targets) | Targets::Class(targets)) = &batch.targets;
        let is_outside = |target: &&u32| **target != IGNORE && **target as usize >= classes;
        match targets.iter().find(is_outside) {
            Some(&class) if classifies => Err(TrainError::Class { class, labels: classes }),
            Some(&token) => Err(Error::Token { token, vocab: classes as u32 }.into()),
            None => Ok(()),
        }
    }
}

/// The rows of inputs that the model can read.
fn check_inputs(inputs: &Inputs, input_spec: InputSpec) -> Result<usize, TrainError> {
    match inputs {
        Inputs::Tokens(tokens) => {
            let vocab = input_spec.tokens;
            match tokens.iter().find(|&&token| token as usize >= vocab) {
                Some(&token) => Err(Error::Token { token, vocab: vocab as u32 }.into()),
                None => Ok(tokens.len()),
            }
        }
        Inputs::Features { values, width } => {
            let need = input_spec.features;
            if *width != need || need == 0 || !values.len().is_multiple_of(need) {
                return Err(Error::Length { have: *width, need }.into());
            }
            Ok(values.len() / need)
        }
    }
}

/// Sequences cover all rows in order, none is empty, and none is longer than `context`.
fn check_sequences(starts: &[usize], rows: usize, context: usize) -> Result<(), TrainError> {
    let covers = starts.first() == Some(&0) && starts.last() == Some(&rows) && rows > 0;
    if !covers || starts.windows(2).any(|pair| pair[0] >= pair[1]) {
        let have = starts.last().copied().unwrap_or(0);
        return Err(Error::Length { have, need: rows }.into());
    }
    let longest = starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    if longest > context {
        return Err(Error::ContextFull { asked: longest, context }.into());
    }
    Ok(())
}
