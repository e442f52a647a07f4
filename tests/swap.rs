//! Swapping adapters: sessions keep what they started with, the next one gets the new, and nothing
//! happens silently.

mod common;

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use common::{CONFIG, adapter, all_linear, base};
use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, SharedAdapter, SharedSet, Slot};
use lowrank::archive::Buffer;
use lowrank::model::llama::{Llama, Site};
use lowrank::quant::Format;
use lowrank::runtime::{Executor, Limits, Memory, Sampler, Serial, Session, Threads, need};

const PROMPT: [u32; 5] = [3, 14, 15, 9, 26];

fn session<'w, 'm>(model: Llama<'m>, limits: &Limits, memory: &'w mut Memory) -> Session<'w, 'm> {
    *memory = Memory::new(need(model.config(), limits));
    Session::new(model, limits, memory.as_mut(), &Serial).unwrap()
}

/// Greedily continues sequence 0 by `count` tokens.
fn generate(session: &mut Session<'_, '_>, count: usize) -> Vec<u32> {
    let mut sampler = Sampler::greedy();
    let mut tokens = Vec::new();
    for _ in 0..count {
        let token = session.sample(0, &mut sampler).unwrap();
        session.step(&[(0, token)]).unwrap();
        tokens.push(token);
    }
    tokens
}

/// What a fresh session under `choices` writes.
fn fresh(model: Llama<'_>, adapters: &[&Buffer], choices: &[Choice], count: usize) -> Vec<u32> {
    let mut slots = [Slot::EMPTY; 4];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, archive) in adapters.iter().enumerate() {
        set.attach(slot as u32, Adapter::open(archive).unwrap()).unwrap();
    }
    let mut memory = Memory::default();
    let mut session = session(model, &Limits::new(64), &mut memory);
    session.select(0, &set, choices).unwrap();
    session.prefill(0, &PROMPT).unwrap();
    generate(&mut session, count)
}

#[test]
fn a_replace_in_mid_generation_leaves_the_session_alone_and_reaches_the_next() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let [first, second] = [7, 8].map(|seed| adapter(&model, &all_linear(&CONFIG), 4, seed));
    let [only_base, with_first, with_second] = [&[][..], &[&first], &[&second]].map(|adapters| {
        fresh(model, adapters, &adapters.iter().map(|_| Choice::slot(0)).collect::<Vec<_>>(), 24)
    });
    assert!(
        only_base != with_first && with_first != with_second,
        "the adapters must matter for this test to mean anything"
    );

    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    let generation = set.attach(0, Adapter::open(&first).unwrap()).unwrap();
    let (mut memory, mut next_memory) = (Memory::default(), Memory::default());
    let mut running = session(model, &Limits::new(64), &mut memory);
    running.select(0, &set, &[Choice::slot(0)]).unwrap();
    running.prefill(0, &PROMPT).unwrap();
    let mut tokens = generate(&mut running, 10);
    set.replace(0, generation, Adapter::open(&second).unwrap()).unwrap();
    tokens.extend(generate(&mut running, 14));
    assert_eq!(tokens, with_first);

    let mut next = session(model, &Limits::new(64), &mut next_memory);
    next.select(0, &set, &[Choice::slot(0)]).unwrap();
    next.prefill(0, &PROMPT).unwrap();
    assert_eq!(generate(&mut next, 24), with_second);
}

#[test]
fn generations_are_compare_and_swap() {
    let archive = base(&CONFIG, Format::F32, Format::F32, 1);
    let model = Llama::open(&archive).unwrap();
    let bytes = adapter(&model, &[Site::Q(0)], 2, 7);
    let opened = Adapter::open(&bytes).unwrap();
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    let first = set.attach(1, opened).unwrap();
    let second = set.replace(1, first, opened).unwrap();
    assert!(second > first);
    assert_eq!(
        set.replace(1, first, opened).unwrap_err(),
        Error::StaleGeneration { slot: 1, expected: first, current: second }
    );
    assert_eq!(
        set.detach(1, first).unwrap_err(),
        Error::StaleGeneration { slot: 1, expected: first, current: second }
    );
    assert_eq!(
        set.attach(1, opened).unwrap_err(),
        Error::SlotTaken { slot: 1, generation: second }
    );
    assert_eq!(set.attach(2, opened).unwrap_err(), Error::NoSuchSlot { slot: 2, slots: 2 });
    let third = set.detach(1, second).unwrap();
    assert!(third > second && set.get(1).unwrap().0.is_none());
}

#[test]
fn an_adapter_of_another_base_is_refused_and_the_old_one_stays() {
    let [archive, other] = [1, 2].map(|seed| base(&CONFIG, Format::F32, Format::F32, seed));
    let (model, other) = (Llama::open(&archive).unwrap(), Llama::open(&other).unwrap());
    let [fits, foreign] = [model, other].map(|model| adapter(&model, &[Site::Q(0)], 2, 7));
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let generation = set.attach(0, Adapter::open(&fits).unwrap()).unwrap();
    let error = set.replace(0, generation, Adapter::open(&foreign).unwrap()).unwrap_err();
    assert!(matches!(error, Error::OtherBase { .. }), "{error}");
    assert_eq!(set.get(0).unwrap().1, generation);
    assert_eq!(set.generation(0), Ok(generation));
    assert_eq!(set.get(0).unwrap().0.unwrap().base(), model.fingerprint());
}

#[test]
fn a_cache_filled_under_other_adapters_cannot_be_continued() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let [first, second] = [7, 8].map(|seed| adapter(&model, &[Site::Q(0), Site::Down(1)], 4, seed));
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&first).unwrap()).unwrap();
    set.attach(1, Adapter::open(&second).unwrap()).unwrap();
    let mut memory = Memory::default();
    let mut session = session(model, &Limits::new(64), &mut memory);
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    session.prefill(0, &PROMPT).unwrap();
    let stale = Error::CacheOfOtherAdapters { sequence: 0, position: PROMPT.len() };
    let half = Choice { weight: 0.5, ..Choice::slot(0) };
    let low = Choice { rank: Some(2), ..Choice::slot(0) };
    for choices in
        [&[Choice::slot(1)][..], &[], &[half], &[low], &[Choice::slot(0), Choice::slot(1)]]
    {
        assert_eq!(session.select(0, &set, choices).unwrap_err(), stale, "{choices:?}");
    }
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    session.reset(0).unwrap();
    session.select(0, &set, &[Choice::slot(1)]).unwrap();
}

#[test]
fn limits_on_adapters_are_errors_with_both_numbers() {
    let archive = base(&CONFIG, Format::F32, Format::F32, 1);
    let model = Llama::open(&archive).unwrap();
    let bytes = adapter(&model, &[Site::Q(0)], 5, 7);
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&bytes).unwrap()).unwrap();
    let mut memory = Memory::default();
    let limits = Limits { max_active: 2, max_total_rank: 8, ..Limits::new(64) };
    let mut session = session(model, &limits, &mut memory);
    let one = Choice::slot(0);
    assert_eq!(
        session.select(0, &set, &[one, one]).unwrap_err(),
        Error::TotalRank { asked: 10, most: 8 }
    );
    assert_eq!(
        session.select(0, &set, &[one, one, one]).unwrap_err(),
        Error::TooManyActive { asked: 3, most: 2 }
    );
    assert_eq!(
        session.select(0, &set, &[Choice::slot(1)]).unwrap_err(),
        Error::EmptySlot { slot: 1 }
    );
    assert_eq!(
        session.select(1, &set, &[one]).unwrap_err(),
        Error::NoSuchSequence { sequence: 1, batch: 1 }
    );
    let error = session.select(0, &set, &[Choice { rank: Some(6), ..one }]).unwrap_err();
    assert_eq!(error, Error::Rank { found: 6, most: 5 });
    let error = session.select(0, &set, &[Choice { weight: f32::INFINITY, ..one }]).unwrap_err();
    assert_eq!(error, Error::AdapterWeight { slot: 0, weight: f32::INFINITY });
    session
        .select(0, &set, &[Choice { rank: Some(4), ..one }, Choice { rank: Some(4), ..one }])
        .unwrap();
}

#[test]
fn a_replaced_adapter_is_released_with_its_last_session() {
    let archive = base(&CONFIG, Format::F32, Format::F32, 1);
    let model = Llama::open(&archive).unwrap();
    // Who looks at the bytes can tell whether somebody still owns them.
    let owned = RefCell::new(Vec::new());
    let alive = || owned.borrow().iter().filter(|bytes| Weak::strong_count(bytes) > 0).count();
    let shared = |seed| {
        let bytes = Arc::new(adapter(&model, &all_linear(&CONFIG), 2, seed));
        owned.borrow_mut().push(Arc::downgrade(&bytes));
        Arc::new(SharedAdapter::open(bytes).unwrap())
    };
    let set = SharedSet::new(model);
    let first = set.replace(0, 0, shared(7)).unwrap();
    let pinned = set.pin(&[0]).unwrap();
    let mut memory = Memory::default();
    let mut running = session(model, &Limits::new(64), &mut memory);
    running.select(0, &&pinned, &[Choice::slot(0)]).unwrap();
    running.prefill(0, &PROMPT).unwrap();

    let second = set.replace(0, first, shared(8)).unwrap();
    assert_eq!(alive(), 2, "the running session still needs the first one");
    generate(&mut running, 3);
    assert_eq!(
        set.replace(0, first, shared(9)).unwrap_err(),
        Error::StaleGeneration { slot: 0, expected: first, current: second }
    );
    assert_eq!(alive(), 2, "a refused adapter is released at once");
    drop(pinned);
    generate(&mut running, 3);
    assert_eq!(alive(), 2, "a session holds what it chose, whoever else lets go of it");
    drop(running);
    assert_eq!(alive(), 1);
    set.detach(0, second).unwrap();
    assert_eq!(alive(), 0);
    assert_eq!(set.pin(&[0]).unwrap_err(), Error::EmptySlot { slot: 0 });
}

#[test]
fn threads_swap_while_others_generate() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let archives = [7, 8].map(|seed| adapter(&model, &all_linear(&CONFIG), 4, seed));
    let expected = [0, 1].map(|i| fresh(model, &[&archives[i]], &[Choice::slot(0)], 12));
    let adapters = archives.map(|bytes| Arc::new(SharedAdapter::open(bytes).unwrap()));
    let set = SharedSet::new(model);
    set.replace(0, 0, Arc::clone(&adapters[0])).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let pinned = set.pin(&[0]).unwrap();
                    let mut memory = Memory::default();
                    let mut session = session(model, &Limits::new(64), &mut memory);
                    session.select(0, &&pinned, &[Choice::slot(0)]).unwrap();
                    session.prefill(0, &PROMPT).unwrap();
                    let tokens = generate(&mut session, 12);
                    assert!(expected.contains(&tokens), "a swap reached into a running session");
                }
            });
        }
        for i in 0..200 {
            set.replace(0, set.generation(0), Arc::clone(&adapters[i % 2])).unwrap();
        }
    });
}

#[test]
fn rows_of_one_batch_have_their_own_adapters() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    const SITES: [Site; 6] =
        [Site::Embedding, Site::Q(0), Site::V(0), Site::Up(0), Site::Down(1), Site::Head];
    let archives = [7, 8].map(|seed| adapter(&model, &SITES, 5, seed));
    let singles = [
        fresh(model, &[&archives[0]], &[Choice::slot(0)], 10),
        fresh(model, &[], &[], 10),
        fresh(model, &[&archives[1]], &[Choice::slot(0)], 10),
        fresh(
            model,
            &[&archives[0], &archives[1]],
            &[Choice::slot(0), Choice { weight: -0.5, ..Choice::slot(1) }],
            10,
        ),
    ];
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&archives[0]).unwrap()).unwrap();
    set.attach(1, Adapter::open(&archives[1]).unwrap()).unwrap();
    let both = [Choice::slot(0), Choice { weight: -0.5, ..Choice::slot(1) }];
    let second = [Choice::slot(1)];
    let threads = Threads::new(3).unwrap();
    // Workers that run at the same time share what they make of the adapters; those that run one
    // after the other cannot. Beyond 16 they do not.
    let few = [
        (1, &Serial as &dyn Executor),
        (2, &Serial),
        (2, &threads),
        (3, &threads),
        (20, &threads),
        (5, &Backwards),
    ];
    let many = [(2, &Serial as &dyn Executor), (2, &threads), (3, &threads), (5, &Backwards)];
    for (batch, (threads, executor)) in
        few.map(|threads| (4, threads)).into_iter().chain(many.map(|threads| (11, threads)))
    {
        let limits = Limits { batch, threads, prefill_chunk: 3, ..Limits::new(64) };
        let mut memory = Memory::new(need(model.config(), &limits));
        let mut session = Session::new(model, &limits, memory.as_mut(), executor).unwrap();
        for sequence in 0..batch {
            let choices = [&both[..1], &[], &second, &both][sequence % 4];
            session.select(sequence, &set, choices).unwrap();
            session.prefill(sequence, &PROMPT).unwrap();
        }
        let mut sampler = Sampler::greedy();
        let mut written = vec![Vec::new(); batch];
        for round in 0..10 {
            // The order of sequences in a step does not matter.
            let order = (0..batch).map(|i| if round % 2 == 0 { i } else { (3 * i + 2) % batch });
            let step: Vec<_> = order
                .map(|sequence| (sequence, session.sample(sequence, &mut sampler).unwrap()))
                .collect();
            step.iter().for_each(|&(sequence, token)| written[sequence].push(token));
            session.step(&step).unwrap();
        }
        for (sequence, written) in written.iter().enumerate() {
            assert_eq!(
                *written,
                singles[sequence % 4],
                "sequence {sequence} of {batch}, {threads} threads"
            );
        }
    }
}

/// The last task first.
struct Backwards;

// SAFETY: every number of the range comes once, and a call has returned before the next.
unsafe impl Executor for Backwards {
    fn threads(&self) -> usize {
        5
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).rev().for_each(task);
    }
}
