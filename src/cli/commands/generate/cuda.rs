//! `lowrank generate --device cuda`: what differs from a decoder on the CPU. The rest is in
//! `generate`.

use std::sync::Arc;

use lowrank::RootKind;
use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::cuda::{Device, Model};
use lowrank::engine::Continue;
use lowrank::runtime::{CudaSession, Limits, Lookup, Memory, Sampler, Serial};

use crate::Failure;
use crate::attach::attach;
use crate::card::told;
use crate::files::File;
use crate::generate::{Arguments, Job, context, continue_prompt, swap};
use crate::model::Kv;
use crate::reply::Continues;

/// A session on a device, the token that it is to read next, and what that device is called. With
/// the next one asked for, the card can choose among its logits.
struct Reader<'w, 'm> {
    session: CudaSession<'w, 'm>,
    next: Option<u32>,
    device: Arc<Device>,
}

impl Continue for Reader<'_, '_> {
    fn sample(&mut self, sampler: &mut Sampler) -> lowrank::Result<u32> {
        let Some(token) = self.next.take() else { return self.session.sample(0, sampler) };
        let mut chosen = [0];
        self.session.step_sampled(&[(0, token)], core::slice::from_mut(sampler), &mut chosen)?;
        Ok(chosen[0])
    }

    fn step(&mut self, token: u32) -> lowrank::Result<()> {
        self.next = Some(token);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.session.room(0).is_ok_and(|room| room == usize::from(self.next.is_some()))
    }
}

impl<'m> Continues<'m> for Reader<'_, 'm> {
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()> {
        self.session.prefill(0, tokens)
    }

    fn sequence<'s>(&'s mut self, _: Option<&'s mut Lookup>) -> lowrank::Result<impl Continue> {
        Ok(&mut *self)
    }

    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()> {
        self.next = None;
        self.session.reset(0)?;
        self.session.select(0, set, choices)
    }

    fn workspace(&self) -> String {
        format!("on {}", self.device.name())
    }
}

/// Continues the prompt on the first card.
pub(crate) fn generate(base: &File, arguments: &Arguments) -> Result<(), Failure> {
    if base.root()? == RootKind::LSTM {
        return Err(format!("{}: LSTM bases run on the CPU only", base.path.display()).into());
    }
    if arguments.lookup > 0 {
        return Err("--lookup: prompt lookup runs on the CPU only".into());
    }
    let llama = base.base()?;
    let job = Job::new(arguments, base)?;
    let context = context(&llama, job.prompt.len(), arguments)?;
    let (adapters, swaps) = job.adapters()?;
    let mut slots = vec![Slot::EMPTY; adapters.len().max(1)];
    let mut set = AdapterSet::new(&mut slots, &llama);
    let attached = attach(&mut set, &adapters)?;
    let mut rank = attached.rank;
    for adapter in &swaps {
        rank = rank.max(adapter.file.adapter()?.max_rank());
    }
    let limits = Limits {
        kv_format: arguments.kv.unwrap_or(Kv::F16).into(),
        prefill_chunk: 64,
        max_active: adapters.len().max(1),
        max_total_rank: rank,
        ..arguments.model.limits(&llama, context, &Serial)
    };
    let Some(device) = arguments.model.card()? else { return Ok(()) };
    let model = Model::upload(&device, llama)?;
    let mut memory = Memory::try_new(CudaSession::need(llama.config(), &limits))?;
    let session = CudaSession::new(&model, &limits, memory.as_mut())?;
    let mut reader = Reader { session, next: None, device };
    let result = if swaps.is_empty() {
        reader.start_over(&set, &attached.choices)?;
        let names: Vec<_> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
        continue_prompt(&mut reader, &job, &names, attached.time)
    } else {
        swap(&mut reader, &mut set, &swaps, &job)
    };
    told(result, reader.session.device_error())
}
