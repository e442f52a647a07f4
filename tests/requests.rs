//! A session that lives for days: adapters come after it and go while it runs, prompts and single
//! steps share passes, sequences begin as copies of others; each sequence gets what it gets alone.

mod common;

use std::sync::Arc;

use common::{CONFIG, Numbers, adapter, all_linear, base};
use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, SharedAdapter, SharedSet, Slot};
use lowrank::archive::Buffer;
use lowrank::model::llama::{Llama, Site};
use lowrank::quant::Format;
use lowrank::runtime::{KvFormat, Limits, Memory, Sampler, Serial, Session, need};

fn owned(archive: &Buffer) -> Arc<SharedAdapter> {
    Arc::new(SharedAdapter::open(Box::new(archive.clone())).unwrap())
}

/// The bits of the logits after the last token.
fn bits(session: &Session<'_, '_>, sequence: usize) -> Vec<u32> {
    session.logits(sequence).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

/// Are logits those that `tokens` give in a session of their own? Products of one row and of many
/// add up in other orders, so not to the bit.
fn assert_alone(
    session: &Session<'_, '_>,
    sequence: usize,
    archive: Option<&Buffer>,
    tokens: &[u32],
) {
    let alone = alone(*session.model(), session.limits(), archive, tokens);
    for (i, (found, expected)) in session.logits(sequence).unwrap().iter().zip(alone).enumerate() {
        let close = (found - expected).abs() <= 1e-4 * (1.0 + expected.abs());
        assert!(close, "sequence {sequence}, logit {i}: {found}, alone {expected}");
    }
}

/// The logits after `tokens` in a session of their own.
fn alone(model: Llama<'_>, limits: &Limits, archive: Option<&Buffer>, tokens: &[u32]) -> Vec<f32> {
    let limits = Limits { batch: 1, ..*limits };
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    if let Some(archive) = archive {
        set.attach(0, Adapter::open(archive).unwrap()).unwrap();
        session.select(0, &set, &[Choice::slot(0)]).unwrap();
    }
    session.prefill(0, tokens).unwrap();
    session.logits(0).unwrap().to_vec()
}

fn tokens(numbers: &mut Numbers, count: usize) -> Vec<u32> {
    (0..count).map(|_| ((numbers.next() + 1.0) * 47.9) as u32).collect()
}

#[test]
fn a_running_session_takes_adapters_that_were_made_after_it_and_frees_them() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let set = SharedSet::new(model);
    let limits = Limits { batch: 2, ..Limits::new(64) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let prompt = [3, 14, 15, 9, 26];
    let mut watched = Vec::new();
    for request in 0..6u64 {
        let (sequence, slot) = (request as usize % 2, request as u32 % 3);
        let made = adapter(&model, &all_linear(&CONFIG), 4, 70 + request);
        let shared = owned(&made);
        watched.push(Arc::downgrade(&shared));
        set.replace(slot, set.generation(slot), shared).unwrap();
        let pinned = set.pin(&[slot]).unwrap();
        session.reset(sequence).unwrap();
        session.select(sequence, &&pinned, &[Choice::slot(slot)]).unwrap();
        drop(pinned);
        // From here on the session alone holds it.
        set.detach(slot, set.generation(slot)).unwrap();
        session.prefill(sequence, &prompt).unwrap();
        assert_alone(&session, sequence, Some(&made), &prompt);
        let token = session.sample(sequence, &mut Sampler::greedy()).unwrap();
        session.step(&[(sequence, token)]).unwrap();
    }
    let alive = |watched: &[std::sync::Weak<SharedAdapter>]| {
        watched.iter().map(|adapter| adapter.strong_count()).collect::<Vec<_>>()
    };
    assert_eq!(alive(&watched), [0, 0, 0, 0, 1, 1], "one for each of the two sequences");
    session.reset(0).unwrap();
    session.select(0, &set.pin(&[]).unwrap(), &[]).unwrap();
    session.cancel(1).unwrap();
    assert_eq!(alive(&watched), [0; 6]);
    session.prefill(1, &prompt).unwrap();
    assert_alone(&session, 1, None, &prompt);
}

#[test]
fn any_mix_of_prompts_and_steps_gives_each_sequence_what_it_gets_alone() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let made = [7, 8].map(|seed| adapter(&model, &all_linear(&CONFIG), 4, seed));
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, archive) in made.iter().enumerate() {
        set.attach(slot as u32, Adapter::open(archive).unwrap()).unwrap();
    }
    // Neighbours with equal adapters, with others, and with none.
    let chosen = [Some(0), Some(0), None, Some(1), Some(1), Some(1), None];
    for (prefill_chunk, seed) in [(1, 1), (3, 2), (8, 3), (32, 4)] {
        let limits = Limits { batch: chosen.len(), prefill_chunk, ..Limits::new(64) };
        let mut memory = Memory::new(need(model.config(), &limits));
        let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
        for (sequence, slot) in chosen.iter().enumerate() {
            let choices: Vec<_> = slot.map(Choice::slot).into_iter().collect();
            session.select(sequence, &set, &choices).unwrap();
        }
        let mut numbers = Numbers::new(seed);
        for _ in 0..7 {
            // Some sequences, in a changing order, each with one to nine tokens.
            let start = tokens(&mut numbers, 1)[0] as usize;
            let entries: Vec<(usize, Vec<u32>)> = (0..chosen.len())
                .map(|i| (start + i * 3) % chosen.len())
                .filter(|_| numbers.next() > -0.4)
                .collect::<Vec<_>>()
                .into_iter()
                .map(|sequence| {
                    let count = 1 + (numbers.next().abs() * 8.0) as usize;
                    (sequence, tokens(&mut numbers, if count < 4 { 1 } else { count }))
                })
                .collect();
            if entries.is_empty() {
                continue;
            }
            let borrowed: Vec<(usize, &[u32])> =
                entries.iter().map(|(sequence, tokens)| (*sequence, &tokens[..])).collect();
            session.advance(&borrowed).unwrap();
            for (sequence, last) in borrowed {
                let all = session.tokens(sequence).unwrap();
                assert!(all.ends_with(last));
                let archive = chosen[sequence].map(|slot| &made[slot as usize]);
                assert_alone(&session, sequence, archive, all);
            }
        }
    }
}

#[test]
fn a_refused_call_changes_nothing() {
    let archive = base(&CONFIG, Format::F32, Format::F32, 1);
    let model = Llama::open(&archive).unwrap();
    let limits = Limits { batch: 3, ..Limits::new(16) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.advance(&[(0, &[1, 2, 3]), (2, &[4])]).unwrap();
    let before = [0, 2].map(|sequence| bits(&session, sequence));
    let long = [5; 14];
    type Entries<'e> = &'e [(usize, &'e [u32])];
    let cases: [(Entries<'_>, Error); 7] = [
        (&[], Error::Length { have: 0, need: 3 }),
        (&[(0, &[1]), (1, &[])], Error::Length { have: 0, need: 1 }),
        (&[(0, &[1]), (1, &[2]), (0, &[3])], Error::DuplicateSequence { sequence: 0 }),
        (&[(0, &[1]), (3, &[2])], Error::NoSuchSequence { sequence: 3, batch: 3 }),
        (&[(1, &[1]), (0, &[1, 96])], Error::Token { token: 96, vocab: 96 }),
        (&[(2, &[1]), (0, &long)], Error::ContextFull { asked: 17, context: 16 }),
        (&[(0, &[1]), (1, &[1]), (2, &[1]), (0, &[1])], Error::Length { have: 4, need: 3 }),
    ];
    for (entries, error) in cases {
        assert_eq!(session.advance(entries).unwrap_err(), error);
        assert_eq!([0, 2].map(|sequence| bits(&session, sequence)), before);
        assert_eq!([0, 1, 2].map(|sequence| session.position(sequence).unwrap()), [3, 0, 1]);
    }
    // A sequence that was named in a refused call can be named in the next.
    session.advance(&[(0, &[1]), (1, &[2]), (2, &[3])]).unwrap();
}

#[test]
fn a_fork_continues_as_if_its_beginning_had_been_computed() {
    let config = lowrank::model::llama::Config { context: 200, ..CONFIG };
    let archive = base(&config, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let made = adapter(&model, &[Site::Q(0), Site::V(1), Site::Down(1)], 4, 7);
    let shared = SharedSet::new(model);
    shared.replace(0, 0, owned(&made)).unwrap();
    let prompt = tokens(&mut Numbers::new(5), 150);
    for kv_format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        for length in [1, 15, 16, 63, 64, 65, 128, 129, 150] {
            let limits = Limits { batch: 3, kv_format, ..Limits::new(200) };
            let mut memory = Memory::new(need(model.config(), &limits));
            let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
            let pinned = shared.pin(&[0]).unwrap();
            session.select(2, &pinned, &[Choice::slot(0)]).unwrap();
            session.advance(&[(2, &prompt), (0, &prompt[..99])]).unwrap();
            let untouched = [0, 2].map(|sequence| bits(&session, sequence));
            session.fork(2, 1, length).unwrap();
            assert_eq!(session.tokens(1).unwrap(), &prompt[..length]);
            assert_eq!(session.logits(1), Err(Error::NoLogits { sequence: 1 }));
            let more = [9, 8, 7];
            session.prefill(1, &more).unwrap();
            let whole = [&prompt[..length], &more].concat();
            assert_alone(&session, 1, Some(&made), &whole);
            assert_eq!([0, 2].map(|sequence| bits(&session, sequence)), untouched);
            let refused = [(3, 1, 1), (2, 3, 1), (2, 2, 1), (0, 1, 100)];
            for (from, to, length) in refused {
                assert!(session.fork(from, to, length).is_err());
            }
            assert_eq!(session.tokens(1).unwrap(), whole);
        }
    }
}
