//! What the targets share: archives whose checksum is right whatever the fuzzer did, folders of
//! files in one input, and a run of everything that a model has.

use std::path::PathBuf;
use std::sync::OnceLock;

use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{Buffer, HEADER_LEN, Header, schema, to_buffer};
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::model::{lstm::Lstm, mlp::Mlp};
use lowrank::quant::{Format, OwnedMatrix};
use lowrank::runtime::{
    Encoder, EncoderLimits, Limits, Memory, Sampler, Serial, Session, encoder_need, need,
};
use lowrank::text::{Message, Tokenizer};
use xxhash_rust::xxh64::Xxh64;

/// The base of the repository's assets.
pub fn tiny() -> &'static [u8] {
    static TINY: OnceLock<Buffer> = OnceLock::new();
    TINY.get_or_init(|| Buffer::from(&include_bytes!("../../assets/tiny.lrk")[..]))
}

/// `data` as an archive: aligned, its header's magic, version, length and checksum put right, so
/// that the fuzzer reaches what lies behind them.
pub fn archive(data: &[u8]) -> Option<Buffer> {
    let mut bytes = data.to_vec();
    let payload = bytes.len().checked_sub(HEADER_LEN)? as u64;
    bytes[..12].copy_from_slice(&tiny()[..12]);
    bytes[16..24].copy_from_slice(&payload.to_le_bytes());
    bytes[24..32].fill(0);
    bytes[56..HEADER_LEN].fill(0);
    let mut hash = Xxh64::new(0);
    hash.update(&bytes[HEADER_LEN..]);
    hash.update(&bytes[..HEADER_LEN]);
    bytes[24..32].copy_from_slice(&hash.digest().to_le_bytes());
    Some(Buffer::from(&bytes[..]))
}

/// The most memory that a run may ask for.
const MEMORY: usize = 1 << 24;

/// Opens and verifies whatever root an archive has, and runs it.
pub fn run_archive(archive: &[u8]) {
    let _ = Header::parse(archive);
    let _ = lowrank::archive::verify(archive);
    let _ = (Llama::verify(archive), Bert::verify(archive), Adapter::verify(archive));
    let _ = (Lstm::verify(archive), Mlp::verify(archive));
    if let Ok(model) = Llama::open(archive) {
        run_decoder(model, None);
        if let Ok(tokenizer) = Tokenizer::new(&model) {
            run_text(&tokenizer);
        }
    }
    if let Ok(model) = Bert::open(archive) {
        run_encoder(model);
        if let Ok(tokenizer) = Tokenizer::for_encoder(&model) {
            run_text(&tokenizer);
        }
    }
    if let Ok(model) = Lstm::open(archive)
        && let Ok(tokenizer) = Tokenizer::for_lstm(&model)
    {
        run_text(&tokenizer);
    }
}

/// A few tokens of a decoder, with an adapter.
pub fn run_decoder(model: Llama<'_>, adapter: Option<Adapter<'_>>) {
    let limits = Limits { prefill_chunk: 2, ..Limits::new(8) };
    let need = need(model.config(), &limits);
    if need.bytes > MEMORY {
        return;
    }
    let mut memory = Memory::new(need);
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    let chosen = adapter.and_then(|adapter| set.attach(0, adapter).ok());
    let Ok(mut session) = Session::new(model, &limits, memory.as_mut(), &Serial) else { return };
    if chosen.is_some() {
        let _ = session.select(0, &set, &[Choice::slot(0)]);
    }
    if session.prefill(0, &[0, 1, 2]).is_ok()
        && let Ok(token) = session.sample(0, &mut Sampler::greedy())
    {
        let _ = session.step(&[(0, token)]);
    }
}

fn run_encoder(model: Bert<'_>) {
    let limits = EncoderLimits::new(8);
    let need = encoder_need(model.config(), &limits);
    if need.bytes > MEMORY {
        return;
    }
    let mut memory = Memory::new(need);
    let Ok(mut encoder) = Encoder::new(model, &limits, memory.as_mut(), &Serial) else { return };
    if encoder.encode(&[&[0, 1, 2]]).is_ok() {
        let _ = encoder.embedding(0).map(<[f32]>::len);
    }
}

/// Texts there and back, and a conversation.
pub fn run_text(tokenizer: &Tokenizer) {
    for text in ["Hello world 123", "Grüße 漢字 🙂\n\t", "", "ab abc <s>a</s>"] {
        for special in [false, true] {
            if let Ok(ids) = tokenizer.encode(text, special) {
                let _ = tokenizer.decode(&ids, special);
                let mut stream = tokenizer.stream();
                ids.iter().for_each(|&id| drop(stream.push(id)));
                stream.finish();
            }
        }
        let _ = tokenizer.encode_text(text, 16);
    }
    let turns = [Message::new("system", "Be brief."), Message::new("user", "hi")];
    let _ = tokenizer.render_chat(&turns, true);
}

/// A small base with these parts of text.
pub fn base_with_text(tokenizer: &[u8], template: &str) -> Buffer {
    const DIM: usize = 8;
    const VOCAB: usize = 1024;
    static PARTS: OnceLock<[OwnedMatrix; 2]> = OnceLock::new();
    let [square, table] = PARTS.get_or_init(|| {
        [DIM, VOCAB].map(|rows| {
            OwnedMatrix::quantize(Format::F32, 64, rows, DIM, &vec![0.0; rows * DIM]).unwrap()
        })
    });
    let linear = schema::Linear { weight: square.view().into(), bias: &[] };
    let norm = &[1.0; DIM];
    let layer = lowrank::model::llama::schema::LlamaLayer {
        attention_norm: norm,
        q: linear,
        k: linear,
        v: linear,
        o: linear,
        q_norm: &[],
        k_norm: &[],
        feed_forward_norm: norm,
        gate: linear,
        up: linear,
        down: linear,
    };
    let dim = DIM as u32;
    let root = lowrank::model::llama::schema::Llama {
        name: "",
        config: lowrank::model::llama::schema::LlamaConfig {
            vocab: VOCAB as u32,
            dim,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: dim,
            hidden: dim,
            context: 16,
            rope_theta: 10_000.0,
            rope_scaling: 0,
            rope_parameters: [0.0; 4],
            norm_epsilon: 1e-5,
        },
        text: schema::Text {
            tokenizer,
            chat_template: template,
            bos: None,
            add_bos: false,
            stop: &[],
        },
        embedding: table.view().into(),
        layers: &[layer],
        norm,
        head: None,
    };
    to_buffer(&root, 1).unwrap()
}

/// A folder with `names`, their contents taken from `data`: a length of four bytes before each; an
/// empty file is left out.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new(data: &[u8], names: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let mut rest = data;
        for name in names {
            let Some((length, after)) = rest.split_first_chunk() else { break };
            let length = (u32::from_le_bytes(*length) as usize).min(after.len());
            let (content, after) = after.split_at(length);
            if !content.is_empty() {
                std::fs::write(folder.file(name), content).unwrap();
            }
            rest = after;
        }
        folder
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// An adapter that was built, opened and run on its base.
pub fn run_adapter(archive: &[u8], base: Llama<'_>) {
    if let Ok(adapter) = Adapter::verify(archive) {
        run_decoder(base, Some(adapter));
    }
}
