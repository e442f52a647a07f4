//! What `generate` and `chat` do with a session of one sequence: read a prompt and write what
//! follows it.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use lowrank::adapter::{AdapterSet, Choice};
use lowrank::engine::{self, Bounds, Continue, Reply, Sequence};
use lowrank::runtime::{Lookup, Sampler, Session, need};
use lowrank::text::Tokenizer;

use crate::Failure;
use crate::output::note;
use crate::progress::Progress;

/// A session of one sequence that continues a text; the adapters of its selections live for `'m`.
pub(crate) trait Continues<'m> {
    /// Reads the prompt.
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()>;
    /// What a reply is written to, by prompt lookup if there is one.
    fn sequence<'s>(&'s mut self, lookup: Option<&'s mut Lookup>)
    -> lowrank::Result<impl Continue>;
    /// Forgets everything and chooses other adapters.
    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()>;
    /// What it takes, for people.
    fn workspace(&self) -> String;
}

impl<'m> Continues<'m> for Session<'_, 'm> {
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()> {
        self.prefill(0, tokens)
    }

    fn sequence<'s>(
        &'s mut self,
        lookup: Option<&'s mut Lookup>,
    ) -> lowrank::Result<impl Continue> {
        Ok(Sequence::new(self, 0)?.with_lookup(lookup))
    }

    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()> {
        self.reset(0)?;
        self.select(0, set, choices)
    }

    fn workspace(&self) -> String {
        let need = need(self.model().config(), self.limits());
        let mb = |bytes: usize| bytes as f64 / 1e6;
        format!(
            "workspace {:.1} MB, of which keys and values {:.1} MB",
            mb(need.bytes),
            mb(need.kv_bytes)
        )
    }
}

/// Tokens of a prompt that are read at a time: a whole number of the session's chunks, so that the
/// numbers are those of one call. A longer prompt takes long enough that people are told.
const PART: usize = 64;

/// Reads a prompt; false if `interrupt` was set before its end.
pub(crate) fn read_prompt<'m>(
    session: &mut impl Continues<'m>,
    tokens: &[u32],
    interrupt: &AtomicBool,
) -> Result<bool, Failure> {
    let is_long = tokens.len() > PART;
    let mut bar =
        (is_long && std::io::stderr().is_terminal()).then(|| Progress::new("reading the prompt"));
    if is_long && bar.is_none() {
        note(format_args!("reading the prompt: {} tokens", tokens.len()));
    }
    let mut read = Ok(true);
    for (i, part) in tokens.chunks(PART).enumerate() {
        if let Some(bar) = &mut bar {
            bar.show((i * PART) as u64, tokens.len() as u64, "");
        }
        read = session.prefill(part).map(|()| !interrupt.load(Ordering::Relaxed));
        if !matches!(read, Ok(true)) {
            break;
        }
    }
    if let Some(bar) = &bar {
        bar.finish();
    }
    Ok(read?)
}

/// Continues the session with [`engine::write_reply`](lowrank::engine::write_reply); `interrupt`
/// ends the reply, and so does an error of `tell`.
pub(crate) fn write_reply<'m>(
    session: &mut impl Continues<'m>,
    tokenizer: &Tokenizer,
    (sampler, lookup): (&mut Sampler, Option<&mut Lookup>),
    bounds: Bounds<'_>,
    interrupt: &AtomicBool,
    tell: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> Result<Reply, Failure> {
    let mut told = Ok(());
    let mut piece = |text: &str| {
        if told.is_ok() && !text.is_empty() {
            told = tell(text);
        }
        match told.is_err() || interrupt.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let mut sequence = session.sequence(lookup)?;
    let reply = engine::write_reply(&mut sequence, tokenizer, sampler, bounds, &mut piece);
    told?;
    Ok(reply?)
}
