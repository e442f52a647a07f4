//! Memory is known beforehand and exact, whatever it held; limits and bad input are errors that
//! change nothing.

mod common;

use common::{CONFIG, Numbers, base};
use lowrank::kernel::Precision;
use lowrank::model::llama::{Config, Llama};
use lowrank::quant::Format;
use lowrank::runtime::{
    Executor, KvFormat, Limits, Memory, Need, Sampler, SamplerOptions, Serial, Session, Threads,
    need,
};
use lowrank::{Error, Field};

/// In a const context: what a static buffer is sized with.
const NEED: Need = need(&CONFIG, &Limits::new(32));
static SIZED: [u8; NEED.bytes] = [0; NEED.bytes];

fn logits(
    model: Llama<'_>,
    limits: &Limits,
    memory: &mut [u8],
    executor: &dyn Executor,
    tokens: &[u32],
) -> Vec<f32> {
    let mut session = Session::new(model, limits, memory, executor).unwrap();
    session.prefill(0, tokens).unwrap();
    session.step(&[(0, 5)]).unwrap();
    session.logits(0).unwrap().to_vec()
}

#[test]
fn need_is_exact_and_the_content_of_the_memory_does_not_matter() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    for kv_format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        for limits in [
            Limits { kv_format, ..Limits::new(32) },
            Limits { kv_format, precision: Precision::Fast, batch: 2, ..Limits::new(9) },
            Limits {
                kv_format,
                batch: 3,
                prefill_chunk: 2,
                threads: 2,
                max_active: 0,
                max_total_rank: 0,
                ..Limits::new(17)
            },
        ] {
            let bytes = need(&CONFIG, &limits).bytes;
            let mut memory = Memory::new(need(&CONFIG, &limits));
            let clean = logits(model, &limits, memory.as_mut(), &Serial, &[3, 1, 4, 1, 5]);
            memory.as_mut().fill(0xff);
            assert_eq!(logits(model, &limits, memory.as_mut(), &Serial, &[3, 1, 4, 1, 5]), clean);
            let error = Session::new(model, &limits, &mut memory.as_mut()[..bytes - 1], &Serial)
                .unwrap_err();
            assert_eq!(error, Error::WorkspaceTooSmall { need: bytes, have: bytes - 1 });
            let mut larger = Memory::new(Need { bytes: bytes + 64, kv_bytes: 0 });
            let error =
                Session::new(model, &limits, &mut larger.as_mut()[1..], &Serial).unwrap_err();
            assert_eq!(error, Error::Misaligned { remainder: 1 });
        }
    }
    assert_eq!(SIZED.len(), need(&CONFIG, &Limits::new(32)).bytes);
}

#[test]
fn results_do_not_depend_on_lanes_threads_or_chunks() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let mut numbers = Numbers::new(3);
    let tokens: Vec<u32> = (0..23).map(|_| (numbers.next().abs() * 95.0) as u32).collect();
    let run = |kv_format, threads, executor: &dyn Executor| {
        let limits = Limits { kv_format, threads, prefill_chunk: 18, ..Limits::new(64) };
        logits(model, &limits, Memory::new(need(&CONFIG, &limits)).as_mut(), executor, &tokens)
    };
    let pool = Threads::new(3).unwrap();
    for kv_format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        let reference = run(kv_format, 1, &Serial);
        for threads in [2, 3, 5, 64] {
            assert_eq!(run(kv_format, threads, &Serial), reference, "{threads} threads");
            assert_eq!(
                run(kv_format, threads, &pool),
                reference,
                "{threads} threads on a pool of 3"
            );
        }
    }
    let reference = run(KvFormat::F16, 1, &Serial);
    let largest = reference.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for prefill_chunk in [1, 5, 23, 32] {
        let limits = Limits { prefill_chunk, ..Limits::new(64) };
        let other =
            logits(model, &limits, Memory::new(need(&CONFIG, &limits)).as_mut(), &Serial, &tokens);
        let worst =
            other.iter().zip(&reference).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(worst <= 1e-5 * largest, "chunks of {prefill_chunk}: {worst} of {largest}");
    }
}

#[test]
fn keys_and_values_cost_what_their_format_says_and_are_nearly_the_same() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 96).collect();
    let run = |kv_format| {
        let limits = Limits { kv_format, ..Limits::new(48) };
        let need = need(&CONFIG, &limits);
        (need.kv_bytes, logits(model, &limits, Memory::new(need).as_mut(), &Serial, &tokens))
    };
    // 2 layers of 48 tokens, 2 heads of 16 numbers; two of each: keys and values.
    let numbers = 2 * 2 * 48 * 2 * 16;
    let (bytes, reference) = run(KvFormat::F32);
    assert_eq!(bytes, 4 * numbers);
    let largest = reference.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for (kv_format, expected, allowed) in
        [(KvFormat::F16, 2 * numbers, 4e-3), (KvFormat::Int8, numbers + numbers / 16 * 4, 3e-2)]
    {
        let (bytes, other) = run(kv_format);
        assert_eq!(bytes, expected, "{kv_format:?}");
        let worst =
            other.iter().zip(&reference).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(worst > 0.0 && worst <= allowed * largest, "{kv_format:?}: {worst} of {largest}");
    }
}

#[test]
fn fast_is_near_exact_and_does_not_depend_on_threads() {
    let archive = base(&Config { hidden: 128, ..CONFIG }, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let run = |precision, threads| {
        let limits = Limits { precision, threads, ..Limits::new(32) };
        logits(
            model,
            &limits,
            Memory::new(need(model.config(), &limits)).as_mut(),
            &Serial,
            &[3, 1, 4, 1, 5],
        )
    };
    let (exact, fast) = (run(Precision::Exact, 1), run(Precision::Fast, 1));
    let largest = exact.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let worst = exact.iter().zip(&fast).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(worst > 0.0 && worst < 0.05 * largest, "{worst} of {largest}");
    assert_eq!(run(Precision::Fast, 3), fast);
}

#[test]
fn score_sees_what_step_would_see() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let tokens: [u32; 11] = [3, 14, 15, 92, 65, 35, 8, 9, 79, 3, 2];
    let limits = Limits { batch: 3, prefill_chunk: 4, ..Limits::new(64) };
    let mut memory = Memory::new(need(&CONFIG, &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let mut scored = Vec::new();
    session.score(2, &tokens, |index, logits| scored.push((index, logits.to_vec()))).unwrap();
    assert_eq!(session.tokens(2).unwrap(), tokens);
    assert_eq!(session.logits(2).unwrap_err(), Error::NoLogits { sequence: 2 });
    assert_eq!(scored.len(), tokens.len());
    for (i, (index, scored)) in scored.iter().enumerate() {
        session.step(&[(0, tokens[i])]).unwrap();
        let stepped = session.logits(0).unwrap();
        let worst = scored.iter().zip(stepped).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(*index == i && worst < 1e-4, "token {i}: {worst}");
    }
}

#[test]
fn bad_input_is_an_error_and_loses_nothing() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let limits = Limits { batch: 2, ..Limits::new(8) };
    let mut memory = Memory::new(need(&CONFIG, &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    assert_eq!(session.logits(0).unwrap_err(), Error::NoLogits { sequence: 0 });
    session.prefill(0, &[1, 2, 3]).unwrap();
    let before = session.logits(0).unwrap().to_vec();
    assert_eq!(session.prefill(0, &[4, 96]).unwrap_err(), Error::Token { token: 96, vocab: 96 });
    assert_eq!(session.prefill(0, &[]).unwrap_err(), Error::Length { have: 0, need: 1 });
    assert_eq!(
        session.prefill(0, &[1; 6]).unwrap_err(),
        Error::ContextFull { asked: 9, context: 8 }
    );
    assert_eq!(
        session.prefill(2, &[1]).unwrap_err(),
        Error::NoSuchSequence { sequence: 2, batch: 2 }
    );
    assert_eq!(
        session.step(&[(1, 1), (1, 2)]).unwrap_err(),
        Error::DuplicateSequence { sequence: 1 }
    );
    assert_eq!(
        session.step(&[(1, 1), (0, 200)]).unwrap_err(),
        Error::Token { token: 200, vocab: 96 }
    );
    assert_eq!(session.step(&[]).unwrap_err(), Error::Length { have: 0, need: 2 });
    assert_eq!((session.tokens(0).unwrap(), session.tokens(1).unwrap()), (&[1, 2, 3][..], &[][..]));
    assert_eq!(session.logits(0).unwrap(), before);
    session.prefill(0, &[4, 5, 6, 7, 8]).unwrap();
    assert_eq!(session.step(&[(0, 1)]).unwrap_err(), Error::ContextFull { asked: 9, context: 8 });
}

#[test]
fn limits_are_checked() {
    let archive = base(&CONFIG, Format::F32, Format::F32, 1);
    let model = Llama::open(&archive).unwrap();
    let refuse = |limits: Limits| Session::new(model, &limits, &mut [], &Serial).unwrap_err();
    let context = |context| Error::Limit { field: Field::Context, found: context, most: 64 };
    assert_eq!(refuse(Limits::new(65)), context(65));
    assert_eq!(refuse(Limits::new(0)), context(0));
    assert!(matches!(
        refuse(Limits { batch: 0, ..Limits::new(8) }),
        Error::Limit { field: Field::Batch, .. }
    ));
    assert!(matches!(
        refuse(Limits { threads: 0, ..Limits::new(8) }),
        Error::Limit { field: Field::Threads, .. }
    ));
    assert!(matches!(
        refuse(Limits { prefill_chunk: 0, ..Limits::new(8) }),
        Error::Limit { field: Field::PrefillChunk, .. }
    ));
    assert!(matches!(
        refuse(Limits { draft: 33, ..Limits::new(8) }),
        Error::Limit { field: Field::Draft, found: 33, most: 32 }
    ));
    // Sizes beyond the address space saturate instead of wrapping to something small.
    let huge = Config {
        vocab: 1 << 24,
        layers: 8000,
        context: 1 << 24,
        kv_heads: 1 << 12,
        heads: 1 << 12,
        head_dim: 1 << 12,
        ..CONFIG
    };
    assert!(need(&huge, &Limits { batch: 1 << 16, ..Limits::new(1 << 24) }).bytes > 1 << 60);
}

#[test]
fn samplers_keep_their_promises() {
    let mut scratch = vec![lowrank::runtime::Candidate::NONE; 8];
    let logits = [0.0, 3.0, 1.0, 2.9, -1.0, f32::NEG_INFINITY, 0.5, 2.0];
    let mut draw = |options: SamplerOptions, history: &[u32]| -> Vec<u32> {
        let mut sampler = Sampler::new(options).unwrap();
        (0..400).map(|_| sampler.sample(&logits, history, &mut scratch).unwrap()).collect()
    };
    let hot = SamplerOptions { temperature: 1.0, seed: 9, ..Default::default() };
    assert_eq!(draw(hot, &[]), draw(hot, &[]), "the same seed draws the same");
    assert_ne!(draw(hot, &[]), draw(SamplerOptions { seed: 10, ..hot }, &[]));
    assert!(draw(SamplerOptions::default(), &[]).iter().all(|&token| token == 1));
    assert!(draw(SamplerOptions { top_k: 1, ..hot }, &[]).iter().all(|&token| token == 1));
    let kept = |tokens: Vec<u32>| {
        let mut tokens = tokens;
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    };
    assert_eq!(kept(draw(SamplerOptions { top_k: 3, ..hot }, &[])), [1, 3, 7]);
    // p(1) = 0.382, p(3) = 0.346 (by hand): 0.7 needs both, 0.38 only the first.
    assert_eq!(kept(draw(SamplerOptions { top_p: 0.7, ..hot }, &[])), [1, 3]);
    assert_eq!(kept(draw(SamplerOptions { top_p: 0.38, ..hot }, &[])), [1]);
    assert!(!draw(hot, &[]).contains(&5), "-inf is never drawn");
    let penalized = SamplerOptions { repetition_penalty: 2.0, ..Default::default() };
    assert!(
        draw(penalized, &[1, 1, 3]).iter().all(|&token| token == 7),
        "3 / 2 and 2.9 / 2 are below 2"
    );
    let share = draw(hot, &[]).iter().filter(|&&token| token == 1).count() as f64 / 400.0;
    assert!((0.30..0.47).contains(&share), "p(1) is 0.382, drawn {share}");

    let mut sampler = Sampler::greedy();
    assert_eq!(
        sampler.sample(&[1.0, f32::NAN], &[], &mut scratch).unwrap_err(),
        Error::BadLogits { index: 1 }
    );
    assert_eq!(
        sampler.sample(&[f32::NEG_INFINITY; 2], &[], &mut scratch).unwrap_err(),
        Error::BadLogits { index: 0 }
    );
    assert_eq!(
        sampler.sample(&[0.0; 9], &[], &mut scratch).unwrap_err(),
        Error::Length { have: 8, need: 9 }
    );
    for options in [
        SamplerOptions { temperature: -1.0, ..hot },
        SamplerOptions { temperature: f32::NAN, ..hot },
        SamplerOptions { top_p: 0.0, ..hot },
        SamplerOptions { top_p: 1.5, ..hot },
        SamplerOptions { repetition_penalty: 0.0, ..hot },
    ] {
        assert!(
            matches!(Sampler::new(options).unwrap_err(), Error::Sampling { .. }),
            "{options:?}"
        );
    }
}
