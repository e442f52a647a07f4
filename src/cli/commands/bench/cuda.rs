//! `lowrank bench --device cuda`: the same figures of a card.

use std::sync::Arc;

use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::cuda::{Device, Model};
use lowrank::model::llama::Llama;
use lowrank::runtime::{CudaSession, Memory, Serial};
use serde_json::json;

use super::bytes::weight_bytes;
use super::{Arguments, Measured, Reads, limits, rounds};
use crate::Failure;
use crate::attach::{OpenAdapter, attach};
use crate::card::told;

/// What the speed of copying is measured on: many times the weights, so that no cache holds it, up
/// to this.
const MOST_COPIED: usize = 512 << 20;

impl<'m> Reads<'m> for CudaSession<'_, 'm> {
    fn start_over(
        &mut self,
        sequence: usize,
        set: &AdapterSet<'_, 'm>,
        choices: &[Choice],
    ) -> lowrank::Result<()> {
        self.reset(sequence)?;
        self.select(sequence, set, choices)
    }

    fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> lowrank::Result<()> {
        CudaSession::prefill(self, sequence, tokens)
    }

    fn step(&mut self, tokens: &[(usize, u32)]) -> lowrank::Result<()> {
        self.step_greedy(tokens, &mut vec![0; tokens.len()])
    }
}

/// Measures on a card.
pub(super) fn measure(
    arguments: &Arguments,
    llama: Llama<'_>,
    files: &[OpenAdapter],
    card: &Arc<Device>,
) -> Result<Measured, Failure> {
    let mut slots = vec![Slot::EMPTY; files.len()];
    let mut set = AdapterSet::new(&mut slots, &llama);
    let attached = attach(&mut set, files)?;
    let limits = limits(arguments, &llama, (files.len(), attached.rank), &Serial);
    limits.check(llama.config())?;
    let mut memory = Memory::try_new(CudaSession::need(llama.config(), &limits))?;
    let model = Model::upload(card, llama)?;
    let mut session = CudaSession::new(&model, &limits, memory.as_mut())?;
    let vocab = llama.config().vocab;
    let times = rounds(arguments, &mut session, vocab, &set, &attached.choices);
    let times = told(times, session.device_error())?;
    let bytes = (16 * weight_bytes(llama) as usize).min(MOST_COPIED);
    let place = json!({
        "measured_copy_gb_per_s": card.copy_bandwidth(bytes)? / 1e9,
        "precision": "exact",
        "device": card.name(),
    });
    Ok((times, place))
}
