//! Open, attach, swap and generate allocate nothing: counted by the global allocator of this test
//! binary.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{
    BERT, CONFIG, LSTM, adapter, all_bert_linear, all_linear, any_adapter, base, bert,
    bert_adapter, lstm, mlp,
};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::model::lstm::Lstm;
use lowrank::model::mlp::{Activation, Mlp};
use lowrank::quant::Format;
use lowrank::runtime::{
    Encoder, EncoderLimits, Limits, Memory, Predictor, PredictorLimits, Recurrent, RecurrentLimits,
    Sampler, SamplerOptions, Serial, Session, encoder_need, need, predictor_need, recurrent_need,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> usize {
    ALLOCATIONS.with(Cell::get)
}

#[test]
fn open_attach_swap_and_generate_allocate_nothing() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let archives = {
        let model = Llama::open(&archive).unwrap();
        [7, 8].map(|seed| adapter(&model, &all_linear(&CONFIG), 4, seed))
    };
    let limits = Limits::new(64);
    let mut memory = Memory::new(need(&CONFIG, &limits));
    let mut written = [[0; 16]; 3];

    let before = allocations();
    let model = Llama::open(&archive).unwrap();
    Llama::verify(&archive).unwrap();
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut generation = set.attach(0, Adapter::open(&archives[0]).unwrap()).unwrap();
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let options = SamplerOptions {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.05,
        repetition_penalty: 1.1,
        seed: 5,
    };
    for (round, written) in written.iter_mut().enumerate() {
        let mut sampler =
            if round == 0 { Sampler::greedy() } else { Sampler::new(options).unwrap() };
        session.reset(0).unwrap();
        session.select(0, &set, &[Choice::slot(0)]).unwrap();
        session.prefill(0, &[3, 14, 15, 9, 26]).unwrap();
        for token in written.iter_mut() {
            *token = session.sample(0, &mut sampler).unwrap();
            session.step(&[(0, *token)]).unwrap();
        }
        generation =
            set.replace(0, generation, Adapter::open(&archives[(round + 1) % 2]).unwrap()).unwrap();
    }
    assert_eq!(allocations() - before, 0);

    // The counter counts, and the rounds did something.
    let before = allocations();
    let boxed = std::hint::black_box(Box::new(1));
    assert_eq!((allocations() - before, *boxed), (1, 1));
    assert!(written[0] != written[1]);
}

#[test]
fn a_decoder_that_classifies_allocates_nothing() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let labelled =
        any_adapter(&Llama::open(&archive).unwrap(), &[0, 1, 2], true, &["no", "yes"], 7);
    let limits = Limits { prefill_chunk: 2, ..Limits::new(16) };
    let mut memory = Memory::new(need(&CONFIG, &limits));
    let mut logits = [0.0; 2];

    let before = allocations();
    let model = Llama::open(&archive).unwrap();
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::verify(&labelled).unwrap()).unwrap();
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    session.classify(0, &[3, 14, 15, 9, 26], &mut logits).unwrap();
    assert_eq!(allocations() - before, 0);
    assert!(logits[0] != logits[1]);
}

#[test]
fn open_attach_encode_and_classify_allocate_nothing() {
    let archive = bert(&BERT, Format::Nf4, Format::Int8, true, 1);
    let labelled = bert_adapter(
        &Bert::open(&archive).unwrap(),
        &all_bert_linear(&BERT),
        true,
        &["no", "yes"],
        7,
    );
    let limits = EncoderLimits { batch: 2, tokens: 16, ..EncoderLimits::new(12) };
    let mut memory = Memory::new(encoder_need(&BERT, &limits));
    let (mut logits, mut length) = ([0.0; 2], 0.0);

    let before = allocations();
    let model = Bert::open(&archive).unwrap();
    Bert::verify(&archive).unwrap();
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::verify(&labelled).unwrap()).unwrap();
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    encoder.select(1, &set, &[Choice::slot(0)]).unwrap();
    for _ in 0..2 {
        encoder.encode(&[&[1, 4, 2], &[1, 9, 8, 7, 2]]).unwrap();
        length += encoder.embedding(0).unwrap().iter().map(|v| v * v).sum::<f32>();
        encoder.classify(1, &mut logits).unwrap();
    }
    assert_eq!(allocations() - before, 0);
    assert!((length - 2.0).abs() < 1e-4 && logits[0] != logits[1]);
}

#[test]
fn lstm_and_mlp_allocate_nothing() {
    let archives = [
        lstm(&LSTM, Format::Nf4, Format::Int8, 1),
        mlp(6, &[20, 3], Activation::Gelu, Format::Nf4, true, 1),
    ];
    let adapters = {
        let (lstm, mlp) = (Lstm::open(&archives[0]).unwrap(), Mlp::open(&archives[1]).unwrap());
        [
            any_adapter(&lstm, &[0, 1, 2, 3, 4, 5], false, &["a", "b"], 7),
            any_adapter(&mlp, &[0], true, &["a", "b"], 8),
        ]
    };
    let limits = RecurrentLimits::new();
    let mut memory = [
        Memory::new(recurrent_need(&LSTM, &limits)),
        Memory::new(predictor_need(
            Mlp::open(&archives[1]).unwrap().config(),
            &PredictorLimits::new(2),
        )),
    ];
    let [of_lstm, of_mlp] = &mut memory;
    let mut logits = [0.0; 2];

    let before = allocations();
    let model = Lstm::verify(&archives[0]).unwrap();
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&adapters[0]).unwrap()).unwrap();
    let mut session = Recurrent::new(model, &limits, of_lstm.as_mut(), &Serial).unwrap();
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    session.prefill(0, &[3, 14, 15, 9, 26]).unwrap();
    let token = session.sample(0, &mut Sampler::greedy(), &[3]).unwrap();
    session.step(&[(0, token)]).unwrap();
    session.classify(0, &mut logits).unwrap();
    session.reset(0).unwrap();

    let model = Mlp::verify(&archives[1]).unwrap();
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&adapters[1]).unwrap()).unwrap();
    let mut predictor =
        Predictor::new(model, &PredictorLimits::new(2), of_mlp.as_mut(), &Serial).unwrap();
    predictor.select(1, &set, &[Choice::slot(0)]).unwrap();
    predictor.infer(&[0.25; 12]).unwrap();
    predictor.classify(1, &mut logits).unwrap();
    assert_eq!(allocations() - before, 0);
    assert!(predictor.outputs(0).unwrap() != predictor.outputs(1).unwrap());
}
