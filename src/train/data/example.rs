//! One example: what a record of a file says, or what a program has in memory. Not its tokens, and
//! not how files spell it.

use xxhash_rust::xxh64::Xxh64;

use super::Task;
use crate::text::Message;

/// What one example says. Files hold them as the [module](super) describes; a program hands them to
/// [`Dataset::from_examples`](super::Dataset::from_examples).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Example {
    /// A text to continue; a language model learns all of it.
    Text(String),
    /// A prompt and what should follow it.
    Completion {
        /// The prompt.
        prompt: String,
        /// What should follow, without what ends it.
        completion: String,
    },
    /// A conversation, rendered by the model's chat template.
    Chat(Vec<Message>),
    /// Token ids of a language model as they are: nothing is put in front or behind.
    Tokens(Vec<u32>),
    /// A text and its label, one line.
    Labelled {
        /// The text.
        text: String,
        /// The label.
        label: String,
    },
    /// Token ids as they are, special ones included, and their label.
    LabelledTokens {
        /// The tokens.
        tokens: Vec<u32>,
        /// The label.
        label: String,
    },
    /// A row of numbers and its label.
    Features {
        /// The numbers; as many in every row.
        values: Vec<f32>,
        /// The label.
        label: String,
    },
}

impl Example {
    /// The label, in an example that has one.
    pub(super) fn label(&self) -> Option<&str> {
        match self {
            Self::Labelled { label, .. }
            | Self::LabelledTokens { label, .. }
            | Self::Features { label, .. } => Some(label.trim()),
            Self::Text(_) | Self::Completion { .. } | Self::Chat(_) | Self::Tokens(_) => None,
        }
    }

    /// Its numbers, in a row of features.
    pub(super) fn values(&self) -> &[f32] {
        if let Self::Features { values, .. } = self { values } else { &[] }
    }

    /// Token ids that are taken as they are.
    pub(super) fn tokens(&self) -> Option<&[u32]> {
        match self {
            Self::Tokens(tokens) | Self::LabelledTokens { tokens, .. } => Some(tokens),
            _ => None,
        }
    }

    /// Must it be encoded?
    pub(super) fn is_text(&self) -> bool {
        !matches!(self, Self::Features { .. }) && self.tokens().is_none()
    }

    /// Refuses what cannot be learnt from.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Text(text) if text.is_empty() => return Err("\"text\" is empty".into()),
            Self::Completion { completion, .. } if completion.is_empty() => {
                return Err("\"completion\" is empty: there is nothing to learn".into());
            }
            Self::Chat(messages) if messages.is_empty() => {
                return Err("\"messages\" has no message".into());
            }
            Self::Tokens(tokens) | Self::LabelledTokens { tokens, .. } if tokens.is_empty() => {
                return Err("\"tokens\" has no token".into());
            }
            Self::Features { values, .. } if values.is_empty() => {
                return Err("\"values\" has no number".into());
            }
            Self::Features { values, .. } => {
                if let Some(i) = values.iter().position(|value| !value.is_finite()) {
                    return Err(format!("feature {} is {}, not finite", i + 1, values[i]));
                }
            }
            _ => {}
        }
        let Some(label) = self.label() else { return Ok(()) };
        one_line(label)?;
        match self {
            Self::Labelled { text, .. } if text.trim().is_empty() => {
                Err(format!("the text of label {label:?} is empty"))
            }
            _ if label.is_empty() => Err("the label is empty".into()),
            _ => Ok(()),
        }
    }

    /// Refuses an example of another task.
    pub(super) fn check_task(&self, task: Task) -> Result<(), String> {
        match (task, self.label()) {
            (Task::LanguageModel, Some(label)) => {
                Err(format!("it has the label {label:?}: labels are learnt with the task classify"))
            }
            (Task::Classify, None) => Err("it has no label: a classifier needs one".into()),
            _ => Ok(()),
        }
    }

    /// Adds all that it says to a hash.
    pub(super) fn hash(&self, hash: &mut Xxh64) {
        let mut text = |kind: u8, texts: &[&str]| {
            hash.update(&[kind]);
            for text in texts {
                hash.update(&(text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
        };
        match self {
            Self::Text(said) => text(0, &[said]),
            Self::Completion { prompt, completion } => text(1, &[prompt, completion]),
            Self::Chat(messages) => {
                messages.iter().for_each(|message| text(2, &[&message.role, &message.content]));
            }
            Self::Labelled { text: said, label } => text(3, &[said, label]),
            Self::Tokens(_) => text(4, &[]),
            Self::LabelledTokens { label, .. } => text(5, &[label]),
            Self::Features { label, .. } => text(6, &[label]),
        }
        self.tokens()
            .unwrap_or_default()
            .iter()
            .for_each(|token| hash.update(&token.to_le_bytes()));
        self.values().iter().for_each(|value| hash.update(&value.to_le_bytes()));
    }
}

/// Names of labels are stored one a line.
pub(super) fn one_line(label: &str) -> Result<(), String> {
    match label.contains(['\n', '\r']) {
        true => Err(format!("label {label:?} holds a line feed: a label is one line")),
        false => Ok(()),
    }
}
