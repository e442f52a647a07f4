//! `verify` finds a file that was changed by somebody who also corrected its checksum: the
//! fingerprint is computed again from the content, for every root that a base or an adapter has.

mod common;

use std::collections::BTreeSet;

use common::{BERT, LSTM, any_adapter, bert, lstm, mlp};
use lowrank::Error;
use lowrank::adapter::Adapter;
use lowrank::archive::{self, Buffer, HEADER_LEN, Header};
use lowrank::model::bert::{Activation, Bert};
use lowrank::model::{llama::Llama, lstm::Lstm, mlp::Mlp};
use lowrank::quant::Format;
use xxhash_rust::xxh64::Xxh64;

/// `archive` with `change` made to its payload, or to its header's fingerprint, and with the
/// checksum that belongs to it.
fn forged(archive: &[u8], change: impl FnOnce(&mut [u8])) -> Buffer {
    let mut bytes = archive.to_vec();
    change(&mut bytes);
    bytes[24..32].fill(0);
    let mut hash = Xxh64::new(0);
    hash.update(&bytes[HEADER_LEN..]);
    hash.update(&bytes[..HEADER_LEN]);
    bytes[24..32].copy_from_slice(&hash.digest().to_le_bytes());
    let forged = Buffer::from(&bytes[..]);
    archive::verify(&forged).expect("the checksum is right");
    forged
}

fn asset(name: &str) -> Buffer {
    let path = format!("{}/assets/{name}", env!("CARGO_MANIFEST_DIR"));
    Buffer::from(&std::fs::read(path).unwrap()[..])
}

#[test]
fn a_base_with_changed_weights_and_a_corrected_checksum_is_refused() {
    let base = asset("tiny.lrk");
    let model = Llama::verify(&base).unwrap();
    let weights = model.embedding();
    let lowrank::quant::Values::Int8(int8) = weights.values() else { panic!("an int8 embedding") };
    let at = int8.values.as_ptr().addr() - base.as_ptr().addr();
    let bad = forged(&base, |bytes| bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0x15));
    Llama::open(&bad).unwrap();
    let stored = Header::parse(&base).unwrap().fingerprint.short();
    match Llama::verify(&bad) {
        Err(Error::Content { stored: told, computed }) => {
            assert_eq!(told, stored);
            assert_ne!(computed, stored);
        }
        other => panic!("{other:?}"),
    }
}

/// One archive of every kind of root, adapters in all factor formats and with DoRA and classifier.
fn roots() -> Vec<Buffer> {
    let nf4 = Format::Nf4;
    let base = lstm(&LSTM, nf4, Format::Int8, 3);
    let model = Lstm::open(&base).unwrap();
    let adapter = any_adapter(&model, &[0, 1, 2], true, &["no", "yes"], 5);
    vec![
        asset("tiny.lrk"),
        asset("tiny-notes.lrk"),
        asset("tiny-pirate.lrk"),
        bert(&BERT, nf4, Format::F16, true, 1),
        bert(&BERT, Format::F32, Format::Int8, false, 2),
        adapter,
        base,
        mlp(7, &[5, 3], Activation::Relu, Format::F16, true, 4),
    ]
}

#[test]
fn a_fingerprint_that_belongs_to_another_file_is_refused_for_every_root() {
    let mut kinds = BTreeSet::new();
    for whole in roots() {
        kinds.insert(Header::parse(&whole).unwrap().root.0);
        verify(&whole).unwrap();
        let bad = forged(&whole, |bytes| bytes[40] ^= 1);
        assert!(matches!(verify(&bad), Err(Error::Content { .. })), "{:?}", verify(&bad));
    }
    assert_eq!(kinds.len(), 5);
}

fn verify(archive: &[u8]) -> lowrank::Result<()> {
    use lowrank::RootKind;
    match Header::parse(archive)?.root {
        RootKind::LLAMA => Llama::verify(archive).map(drop),
        RootKind::BERT => Bert::verify(archive).map(drop),
        RootKind::LSTM => Lstm::verify(archive).map(drop),
        RootKind::MLP => Mlp::verify(archive).map(drop),
        RootKind::ADAPTER => Adapter::verify(archive).map(drop),
        other => panic!("{other}"),
    }
}
