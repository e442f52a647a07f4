//! `lowrank generate` on an LSTM base with a language-model head: what differs from a decoder. The
//! rest is in `generate`.

use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::engine::Continue;
use lowrank::model::lstm::{Head, Lstm};
use lowrank::runtime::{Lookup, Memory, Recurrent, RecurrentLimits, Sampler, recurrent_need};

use crate::Failure;
use crate::attach::attach;
use crate::files::File;
use crate::generate::{Arguments, Job, continue_prompt, only_for_decoders, swap};
use crate::reply::Continues;

/// An LSTM's session, and the tokens it has read: its state does not hold them, and a repetition
/// penalty counts them.
struct Reader<'w, 'm> {
    session: Recurrent<'w, 'm>,
    read: Vec<u32>,
}

impl Continue for Reader<'_, '_> {
    fn sample(&mut self, sampler: &mut Sampler) -> lowrank::Result<u32> {
        self.session.sample(0, sampler, &self.read)
    }

    fn step(&mut self, token: u32) -> lowrank::Result<()> {
        self.session.step(&[(0, token)])?;
        self.read.push(token);
        Ok(())
    }

    fn is_full(&self) -> bool {
        false
    }
}

impl<'m> Continues<'m> for Reader<'_, 'm> {
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()> {
        self.session.prefill(0, tokens)?;
        self.read.extend(tokens);
        Ok(())
    }

    fn sequence<'s>(&'s mut self, _: Option<&'s mut Lookup>) -> lowrank::Result<impl Continue> {
        Ok(&mut *self)
    }

    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()> {
        self.read.clear();
        self.session.reset(0)?;
        self.session.select(0, set, choices)
    }

    fn workspace(&self) -> String {
        let need = recurrent_need(self.session.model().config(), self.session.limits());
        format!("workspace {:.1} kB", need.bytes as f64 / 1e3)
    }
}

/// Continues the prompt on the LSTM in `base`.
pub(crate) fn generate(base: &File, arguments: &Arguments) -> Result<(), Failure> {
    let model = base.wrap(Lstm::open(&base.map))?;
    if model.config().head != Head::LanguageModel {
        return Err(format!(
            "{}: this LSTM has no language-model head, so it has no next token",
            base.path.display()
        )
        .into());
    }
    only_for_decoders("context", arguments.context.is_some(), &base.path)?;
    only_for_decoders("kv", arguments.kv.is_some(), &base.path)?;
    only_for_decoders("lookup", arguments.lookup > 0, &base.path)?;
    let job = Job::new(arguments, base)?;
    let (adapters, swaps) = job.adapters()?;
    let executor = arguments.model.executor()?;
    let mut rank = 0;
    for adapter in &swaps {
        rank = rank.max(adapter.file.adapter()?.max_rank());
    }
    let mut slots = vec![Slot::EMPTY; adapters.len().max(1)];
    let mut set = AdapterSet::new(&mut slots, &model);
    let attached = attach(&mut set, &adapters)?;
    let limits = RecurrentLimits {
        precision: arguments.model.exact_precision(),
        max_active: adapters.len().max(1),
        max_total_rank: attached.rank.max(rank),
        ..RecurrentLimits::for_executor(executor.as_ref())
    };
    let mut memory = Memory::try_new(recurrent_need(model.config(), &limits))?;
    let session = Recurrent::new(model, &limits, memory.as_mut(), executor.as_ref())?;
    let mut reader = Reader { session, read: Vec::new() };
    if !swaps.is_empty() {
        return swap(&mut reader, &mut set, &swaps, &job);
    }
    reader.start_over(&set, &attached.choices)?;
    let names: Vec<_> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
    continue_prompt(&mut reader, &job, &names, attached.time)
}
