//! `lowrank generate` on an LSTM base with a language-model head: what differs from a decoder. The
//! rest is in `generate`.

use std::time::{Duration, Instant};

use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::model::lstm::{Head, Lstm};
use lowrank::runtime::{Memory, Recurrent, RecurrentLimits, Sampler, recurrent_need};

use crate::Failure;
use crate::files::File;
use crate::generate::{Arguments, Continues, continue_prompt, encode_prompt, swap};
use crate::model::open_adapters;
use crate::output::note;

/// An LSTM's session, and the tokens it has read: its state does not hold them, and a repetition
/// penalty counts them.
struct Reader<'w, 'm> {
    session: Recurrent<'w, 'm>,
    read: Vec<u32>,
}

impl<'m> Continues<'m> for Reader<'_, 'm> {
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()> {
        self.session.prefill(0, tokens)?;
        self.read.extend(tokens);
        Ok(())
    }

    fn sample(&mut self, sampler: &mut Sampler) -> lowrank::Result<u32> {
        self.session.sample(0, sampler, &self.read)
    }

    fn step(&mut self, token: u32) -> lowrank::Result<()> {
        self.session.step(&[(0, token)])?;
        self.read.push(token);
        Ok(())
    }

    fn is_full(&self) -> lowrank::Result<bool> {
        Ok(false)
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
    let border = arguments.with_template_variables(base.text()?)?;
    let prompt = encode_prompt(arguments, &border)?;
    let (adapters, swaps) = (open_adapters(&arguments.adapters.adapters)?, arguments.open_swaps()?);
    let executor = arguments.model.executor()?;
    let ranks = |files: &mut dyn Iterator<Item = &File>| {
        files.map(|file| Ok(file.adapter()?.max_rank())).collect::<Result<Vec<_>, Failure>>()
    };
    let together: usize = ranks(&mut adapters.iter().map(|(file, _)| file))?.iter().sum();
    let alone = ranks(&mut swaps.iter().map(|(_, file)| file))?.into_iter().max().unwrap_or(0);
    let limits = RecurrentLimits {
        precision: arguments.model.exact_precision(),
        lanes: executor.lanes(),
        max_active: adapters.len().max(1),
        max_total_rank: together.max(alone),
        ..RecurrentLimits::new()
    };
    let mut slots = vec![Slot::EMPTY; adapters.len().max(1)];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut memory = Memory::try_new(recurrent_need(model.config(), &limits))?;
    let session = Recurrent::new(model, &limits, memory.as_mut(), executor.as_ref())?;
    let mut reader = Reader { session, read: Vec::new() };
    if !swaps.is_empty() {
        return swap(&mut reader, &mut set, &swaps, &border, &prompt, arguments);
    }
    let (mut choices, mut attaching) = (Vec::new(), Duration::ZERO);
    for (slot, (file, weight)) in (0..).zip(&adapters) {
        let adapter = file.adapter()?;
        let start = Instant::now();
        file.wrap(set.attach(slot, adapter))?;
        attaching += start.elapsed();
        choices.push(Choice { weight: *weight, ..Choice::slot(slot) });
    }
    reader.start_over(&set, &choices)?;
    continue_prompt(&mut reader, &border, &prompt, arguments)?;
    if arguments.stats && !adapters.is_empty() {
        note(format_args!("adapters attached in {:.1} µs", attaching.as_secs_f64() * 1e6));
    }
    Ok(())
}
