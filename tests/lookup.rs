//! Speculative decoding: a step that reads a guess of what follows leaves nothing behind but what was
//! really chosen, and prompt lookup writes what ordinary decoding writes, in fewer passes.

mod common;

use common::{CONFIG, base};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::Buffer;
use lowrank::kernel::{Precision, kernels};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{
    Candidate, KvFormat, Limits, Lookup, MOST_DRAFT, Memory, Sampler, SamplerOptions, Serial,
    Session, Threads, need,
};
use lowrank::{Error, Field};

static TINY: &[u8] =
    lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.lrk"));
static PIRATE: &[u8] =
    lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny-pirate.lrk"));

fn random_base() -> Buffer {
    base(&CONFIG, Format::Nf4, Format::Int8, 1)
}

/// Are logits those that others are, but for the order of sums?
#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= 1e-4 * (1.0 + expected.abs());
        assert!(close, "logit {i}: {found}, expected {expected}");
    }
}

/// The logits after `tokens`, one step after the other.
fn stepped(model: Llama<'_>, kv_format: KvFormat, tokens: &[u32]) -> Vec<f32> {
    let limits = Limits { kv_format, ..Limits::new(64) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    tokens.iter().for_each(|&token| session.step(&[(0, token)]).unwrap());
    session.logits(0).unwrap().to_vec()
}

#[test]
fn what_a_draft_got_right_is_there_and_the_rest_leaves_nothing() {
    let archive = random_base();
    let model = Llama::open(&archive).unwrap();
    for kv_format in [KvFormat::F32, KvFormat::F16] {
        let limits = Limits { draft: 4, batch: 2, prefill_chunk: 2, kv_format, ..Limits::new(64) };
        let mut memory = Memory::new(need(&CONFIG, &limits));
        memory.as_mut().fill(0xff);
        let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
        session.prefill(1, &[3, 14, 15]).unwrap();
        session.step_with_draft(1, 9, &[26, 5, 35, 8]).unwrap();
        // Of the draft nothing counts before it is confirmed.
        assert_eq!(session.tokens(1).unwrap(), [3, 14, 15, 9]);
        assert_eq!((session.position(1), session.room(1)), (Ok(4), Ok(60)));
        assert_near(session.logits(1).unwrap(), &stepped(model, kv_format, &[3, 14, 15, 9]));
        assert_eq!(session.confirm(1, 5), Ok(false));
        assert_eq!(session.confirm(1, 26), Ok(true));
        assert_eq!(session.tokens(1).unwrap(), [3, 14, 15, 9, 26]);
        assert_near(session.logits(1).unwrap(), &stepped(model, kv_format, &[3, 14, 15, 9, 26]));
        // Another token than the next of the draft: from here on it never was.
        session.step(&[(1, 7)]).unwrap();
        assert_eq!(session.confirm(1, 35), Ok(false));
        assert_near(session.logits(1).unwrap(), &stepped(model, kv_format, &[3, 14, 15, 9, 26, 7]));

        // Logits of a sequence outlive the draft of another, which ends the one before.
        session.step_with_draft(1, 8, &[1, 2]).unwrap();
        assert_eq!(session.confirm(1, 1), Ok(true));
        let of_1 = session.logits(1).unwrap().to_vec();
        session.prefill(0, &[4, 4]).unwrap();
        session.step_with_draft(0, 5, &[6]).unwrap();
        assert_eq!(session.logits(1).unwrap(), of_1);
        assert_eq!(session.confirm(1, 2), Ok(false));
        assert_eq!(session.confirm(0, 6), Ok(true));
        assert_eq!(session.confirm(0, 6), Ok(false), "the draft is used up");
        assert_near(session.logits(0).unwrap(), &stepped(model, kv_format, &[4, 4, 5, 6]));

        // What else begins anew ends a draft too.
        session.step_with_draft(0, 1, &[2, 3]).unwrap();
        session.fork(0, 1, 5).unwrap();
        assert_eq!((session.confirm(1, 2), session.confirm(0, 2)), (Ok(false), Ok(true)));
        session.rewind(0, 2).unwrap();
        assert_eq!(session.confirm(0, 3), Ok(false));
        assert_eq!(session.logits(0).unwrap_err(), Error::NoLogits { sequence: 0 });
    }
}

#[test]
fn what_cannot_be_drafted_is_refused_and_changes_nothing() {
    let archive = random_base();
    let model = Llama::open(&archive).unwrap();
    let limits = Limits { draft: 3, ..Limits::new(8) };
    let mut memory = Memory::new(need(&CONFIG, &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.prefill(0, &[1, 2, 3, 4, 5]).unwrap();
    let before = session.logits(0).unwrap().to_vec();
    for (token, draft, error) in [
        (1, &[1, 2, 3, 4][..], Error::Length { have: 4, need: 3 }),
        (1, &[1, 96], Error::Token { token: 96, vocab: 96 }),
        (97, &[1], Error::Token { token: 97, vocab: 96 }),
        (1, &[1, 2, 3], Error::ContextFull { asked: 9, context: 8 }),
    ] {
        assert_eq!(session.step_with_draft(0, token, draft), Err(error));
        assert_eq!(session.tokens(0).unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(session.logits(0).unwrap(), before);
    }
    let unknown = Error::NoSuchSequence { sequence: 1, batch: 1 };
    assert_eq!(session.step_with_draft(1, 1, &[1]), Err(unknown));
    assert_eq!(session.confirm(1, 1), Err(unknown));
    // By lookup the context is used to its last token.
    let mut lookup = Lookup::with_cost(0.1);
    for token in [1, 2, 3] {
        session.step_by_lookup(0, token, &mut lookup).unwrap();
    }
    let full = Err(Error::ContextFull { asked: 9, context: 8 });
    assert_eq!(session.step_by_lookup(0, 4, &mut lookup), full);
    let refused = |draft| Limits { draft, ..Limits::new(8) }.check(&CONFIG);
    let most = MOST_DRAFT;
    assert_eq!(refused(most), Ok(()));
    let error = Error::Limit { field: Field::Draft, found: most + 1, most };
    assert_eq!(refused(most + 1), Err(error));
}

#[test]
fn room_for_drafts_is_exact_and_asked_for_only_where_there_are_some() {
    let archive = random_base();
    let model = Llama::open(&archive).unwrap();
    let of = |draft| need(&CONFIG, &Limits { draft, ..Limits::new(16) });
    assert!(of(0).bytes < of(1).bytes && of(8).bytes < of(9).bytes);
    // The logits of a token and of its draft; the chunk of a prompt has room for their rows.
    let added = of(9).bytes - of(1).bytes;
    assert_eq!(added, 8 * CONFIG.vocab * size_of::<f32>());
    for draft in [1, 2, 31, MOST_DRAFT] {
        let limits = Limits { draft, prefill_chunk: 1, ..Limits::new(40) };
        let need = need(&CONFIG, &limits);
        let mut memory = Memory::new(need);
        let less = Session::new(model, &limits, &mut memory.as_mut()[..need.bytes - 1], &Serial);
        let expected = Error::WorkspaceTooSmall { need: need.bytes, have: need.bytes - 1 };
        assert_eq!(less.unwrap_err(), expected);
        let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
        let guess: Vec<u32> = (0..draft as u32).collect();
        session.step_with_draft(0, 90, &guess).unwrap();
        for &token in &guess {
            assert_eq!(session.confirm(0, token), Ok(true));
        }
        let all: Vec<u32> = [90].into_iter().chain(guess).collect();
        assert_near(session.logits(0).unwrap(), &stepped(model, limits.kv_format, &all));
    }
}

/// What `use_it` does with a session over the embedded model that has read a prompt.
fn with_prompt<T>(
    limits: &Limits,
    adapter: bool,
    use_it: impl FnOnce(&mut Session<'_, '_>) -> T,
) -> T {
    let model = Llama::open(TINY).unwrap();
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(PIRATE).unwrap()).unwrap();
    let threads = Threads::new(limits.threads).unwrap();
    let mut memory = Memory::new(need(model.config(), limits));
    let mut session = Session::new(model, limits, memory.as_mut(), &threads).unwrap();
    if adapter {
        session.select(0, &set, &[Choice::slot(0)]).unwrap();
    }
    let text = b"Duck and boat: the duck saw the boat. The duck saw the boat. The duck";
    let prompt: Vec<u32> = [256].into_iter().chain(text.iter().copied().map(u32::from)).collect();
    session.prefill(0, &prompt).unwrap();
    use_it(&mut session)
}

/// What follows the prompt, with the logits that each token was chosen from, and the right guesses
/// among those that were made.
fn written(
    limits: &Limits,
    sampling: SamplerOptions,
    adapter: bool,
) -> (Vec<u32>, Vec<Vec<f32>>, u64) {
    with_prompt(limits, adapter, |session| {
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut lookup = Lookup::with_cost(0.2);
        let (mut tokens, mut logits) = (Vec::new(), Vec::new());
        while session.room(0).unwrap() > 0 {
            logits.push(session.logits(0).unwrap().to_vec());
            let token = session.sample(0, &mut sampler).unwrap();
            tokens.push(token);
            session.step_by_lookup(0, token, &mut lookup).unwrap();
        }
        (tokens, logits, lookup.counts().right)
    })
}

const GREEDY: SamplerOptions = SamplerOptions {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seed: 0,
};
const WARM: SamplerOptions = SamplerOptions { temperature: 0.6, top_p: 0.9, seed: 7, ..GREEDY };
const PENALIZED: SamplerOptions = SamplerOptions { repetition_penalty: 1.1, top_k: 20, ..WARM };

#[test]
fn exact_products_write_by_lookup_what_they_write_without() {
    for kv_format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        for (threads, adapter) in [(1, false), (2, true)] {
            let limits = Limits { kv_format, threads, ..Limits::new(128) };
            for sampling in [GREEDY, WARM, PENALIZED] {
                let (expected, _, none) = written(&limits, sampling, adapter);
                assert_eq!(none, 0, "there is no room for drafts");
                let mut all = 0;
                for draft in [1, 3, 8] {
                    let limits = Limits { draft, ..limits };
                    let (tokens, _, right) = written(&limits, sampling, adapter);
                    assert_eq!(tokens, expected, "{} {limits:?} {sampling:?}", kernels().name());
                    all += right;
                }
                assert!(all > 0, "nothing was guessed: {limits:?} {sampling:?}");
            }
        }
    }
}

/// Activations that are rounded to 8 bits make another number of the last bit of a sum now and then:
/// logits are near those of steps, and tokens are chosen from them.
#[test]
fn fast_products_choose_from_logits_that_are_near_those_of_steps() {
    let plain = Limits { precision: Precision::Fast, ..Limits::new(128) };
    for sampling in [GREEDY, WARM] {
        let (tokens, logits, right) = written(&Limits { draft: 8, ..plain }, sampling, true);
        assert!(right > 0);
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut scratch = vec![Candidate::NONE; logits[0].len()];
        with_prompt(&plain, true, |session| {
            for (token, logits) in tokens.into_iter().zip(logits) {
                let expected = session.logits(0).unwrap();
                let size = expected.iter().fold(1.0f32, |most, logit| most.max(logit.abs()));
                for (found, expected) in logits.iter().zip(expected) {
                    assert!((found - expected).abs() < 0.05 * size, "{found}, {expected}");
                }
                assert_eq!(sampler.sample(&logits, &[], &mut scratch), Ok(token));
                session.step(&[(0, token)]).unwrap();
            }
        });
    }
}
