//! An f16 cache that cannot hold a key or value says so, wherever logits are asked for, and names
//! the cache that can; damaged weights are still called damaged.

mod common;

use common::CONFIG;
use lowrank::Error;
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::model::llama::{Llama, Site};
use lowrank::quant::{Format, OwnedMatrix};
use lowrank::runtime::{KvFormat, Limits, Memory, Sampler, Serial, Session, need};

/// A base with biases `k` and `v` in its last block, `k` on all channels; `damaged` makes a scale of
/// its keys' weight NaN.
fn base(k: f32, v: f32, damaged: bool) -> Buffer {
    let mut numbers = common::Numbers::new(3);
    let mut matrix = |site: Site| {
        let (rows, cols) = site.shape(&CONFIG);
        let weights = numbers.vec(rows * cols, 2.0 / (cols as f32).sqrt());
        OwnedMatrix::quantize(Format::Int8, 64, rows, cols, &weights).unwrap()
    };
    let sites: [fn(usize) -> Site; 7] =
        [Site::Q, Site::K, Site::V, Site::O, Site::Gate, Site::Up, Site::Down];
    let blocks: Vec<[OwnedMatrix; 7]> =
        (0..CONFIG.layers).map(|i| sites.map(|site| matrix(site(i)))).collect();
    let [table, head] = [Site::Embedding, Site::Head].map(&mut matrix);
    let (k, v) = (vec![k; CONFIG.kv_dim()], vec![v; CONFIG.kv_dim()]);
    let norm = vec![1.0; CONFIG.dim];
    let layers: Vec<lowrank::model::llama::schema::LlamaLayer<'_>> = blocks
        .iter()
        .enumerate()
        .map(|(i, weights)| {
            let linear =
                |at: usize, bias| schema::Linear { weight: weights[at].view().into(), bias };
            let is_last = i + 1 == CONFIG.layers;
            lowrank::model::llama::schema::LlamaLayer {
                attention_norm: &norm,
                q: linear(0, &[]),
                k: linear(1, if is_last { &k } else { &[] }),
                v: linear(2, if is_last { &v } else { &[] }),
                o: linear(3, &[]),
                q_norm: &[],
                k_norm: &[],
                feed_forward_norm: &norm,
                gate: linear(4, &[]),
                up: linear(5, &[]),
                down: linear(6, &[]),
            }
        })
        .collect();
    let root = lowrank::model::llama::schema::Llama {
        name: "overflow",
        config: CONFIG.to_schema(),
        text: schema::Text::default(),
        embedding: table.view().into(),
        layers: &layers,
        norm: &norm,
        head: Some(head.view().into()),
    };
    let buffer = to_buffer(&root, 1).unwrap();
    if !damaged {
        return buffer;
    }
    let mut bytes = buffer.to_vec();
    let lowrank::quant::Values::Int8(int8) = blocks[0][1].view().values() else { panic!() };
    let wanted: Vec<u8> = int8.scales.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let at = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap();
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    Buffer::from(&bytes[..])
}

/// What sequence 1 of a batch says after a few tokens: logits, sampling, scoring.
fn outcomes(archive: &[u8], kv_format: KvFormat) -> [Result<(), Error>; 3] {
    let model = Llama::open(archive).unwrap();
    let limits = Limits { kv_format, batch: 2, ..Limits::new(32) };
    let mut memory = Memory::new(need(model.config(), &limits));
    // What the cache held before does not count.
    memory.as_mut().fill(0xff);
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.prefill(1, &[3, 14, 15, 92, 65]).unwrap();
    let logits = session.logits(1).map(|_| ());
    let sampled = session.sample(1, &mut Sampler::greedy()).map(|_| ());
    session.reset(1).unwrap();
    let mut seen = 0;
    let scored = session.score(1, &[3, 14, 15], |_, _| seen += 1);
    assert!(scored.is_ok() == (seen == 3), "{seen}");
    [logits, sampled, scored]
}

#[test]
fn an_overflow_is_named_with_the_cache_that_holds_it() {
    let overflow = Err(Error::CacheOverflow { sequence: 1 });
    for (k, v) in [(1e5, 0.0), (0.0, 1e5), (-1e5, 0.0), (0.0, -1e5), (7e4, 7e4)] {
        let archive = base(k, v, false);
        assert_eq!(outcomes(&archive, KvFormat::F16), [overflow; 3], "{k} {v}");
        for kv_format in [KvFormat::F32, KvFormat::Int8] {
            assert_eq!(outcomes(&archive, kv_format), [Ok(()); 3], "{k} {v} {kv_format:?}");
        }
    }
    assert_eq!(outcomes(&base(4e4, 6e4, false), KvFormat::F16), [Ok(()); 3]);
    let text = Error::CacheOverflow { sequence: 1 }.to_string();
    assert!(text.contains("65504") && text.contains("--kv f32"), "{text}");
    assert!(!text.contains("damaged"), "{text}");
}

#[test]
fn damaged_weights_are_called_damaged_whatever_the_cache() {
    for kv_format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        let [_, sampled, _] = outcomes(&base(0.0, 0.0, true), kv_format);
        assert_eq!(sampled, Err(Error::BadLogits { index: 0 }), "{kv_format:?}");
    }
    let text = Error::BadLogits { index: 0 }.to_string();
    assert!(text.contains("damaged") && text.contains("verify"), "{text}");
}

#[test]
fn errors_of_slots_and_rows_say_what_is_meant() {
    for (error, parts) in [
        (Error::SlotTaken { slot: 2, generation: 5 }, ["slot 2 holds an adapter", "detach"]),
        (Error::NotComputed { row: 3, rows: 2 }, ["row 3", "2 rows"]),
    ] {
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        let foreign = ["text", "tensor", "vocabulary", "expected 0"];
        assert!(foreign.iter().all(|word| !text.contains(word)), "{text}");
    }
}
