//! The options that say how tokens are chosen; `generate` and `chat` start from other defaults.

use clap::Args;
use lowrank::runtime::{MOST_DRAFT, SamplerOptions};

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing tokens")]
pub(crate) struct SamplingOptions {
    /// Divides the logits; 0 always takes the most probable token [default: 0; in chat 0.7]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among the K most probable tokens; 0 means all [default: 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Choose among the most probable tokens that reach this probability together [default: 1; in
    /// chat 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose among tokens that are at least this share as probable as the most probable one
    /// [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Make tokens that were there already less probable; 1 means no
    #[arg(long, default_value_t = 1.0, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// The same seed gives the same text [default: 0; in chat a random one, which is said]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// Tokens that may be guessed ahead.
pub(crate) fn draft(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|draft| *draft <= MOST_DRAFT)
        .ok_or_else(|| format!("0 to {MOST_DRAFT} tokens were expected"))
}

impl SamplingOptions {
    /// What was asked for; the rest is that of `default`.
    pub(crate) fn or(&self, default: SamplerOptions) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or(default.seed),
        }
    }

    /// Which of the options that were given change nothing, as a sentence.
    pub(crate) fn without_effect(&self, chosen: &SamplerOptions) -> Option<String> {
        let given = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        let idle: Vec<_> =
            given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        (chosen.temperature == 0.0 && !idle.is_empty()).then(|| {
            format!(
                "{}: no effect at temperature 0, which always takes the most probable token \
                 (--temperature)",
                idle.join(", ")
            )
        })
    }
}
