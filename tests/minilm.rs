//! The encoder's promise on the real model: ids and embeddings of transformers. Needs the directory
//! of all-MiniLM-L6-v2, named by `LOWRANK_MINILM` (`tests/minilm.sh` fetches it); without it the
//! test says that it was skipped.

use std::path::{Path, PathBuf};

use lowrank::import::{BaseOptions, HuggingFaceBert, bert_to_buffer};
use lowrank::kernel::Precision;
use lowrank::model::bert::Bert;
use lowrank::quant::Format;
use lowrank::runtime::{Encoder, EncoderLimits, Memory, Threads, encoder_need};
use lowrank::text::Tokenizer;
use safetensors::SafeTensors;
use serde_json::Value;

const DIM: usize = 384;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/minilm").join(name))
        .unwrap()
}

/// The embeddings of all texts in one batch, `[texts, DIM]`, and the archive's size.
fn embed(
    directory: &Path,
    weights: Format,
    embedding: Format,
    precision: Precision,
    ids: &[Vec<u32>],
) -> (Vec<f32>, usize) {
    let source = HuggingFaceBert::open(directory).unwrap();
    let archive = bert_to_buffer(
        &source,
        &BaseOptions { weights, embedding, ..BaseOptions::default() },
        &mut |_| {},
    )
    .unwrap();
    let model = Bert::verify(&archive).unwrap();
    assert_eq!((model.max_length(), model.config().normalize), (256, true));
    let tokenizer = Tokenizer::for_encoder(&model).unwrap();
    let texts = String::from_utf8(golden("texts.jsonl")).unwrap();
    for (line, ids) in texts.lines().zip(ids) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            &tokenizer.encode_text(line["text"].as_str().unwrap(), model.max_length()).unwrap().0,
            ids,
            "{line}"
        );
    }
    let tokens = ids.iter().map(Vec::len).sum();
    let limits = EncoderLimits {
        batch: ids.len(),
        tokens,
        threads: 2,
        precision,
        ..EncoderLimits::new(256)
    };
    let threads = Threads::new(2).unwrap();
    let mut memory = Memory::new(encoder_need(model.config(), &limits));
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &threads).unwrap();
    encoder.encode(&ids.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let vectors =
        (0..ids.len()).flat_map(|text| encoder.embedding(text).unwrap().to_vec()).collect();
    (vectors, archive.len())
}

/// The smallest and the mean cosine of rows of length 1.
fn cosines(ours: &[f32], theirs: &[f32]) -> (f32, f32) {
    let rows = ours.chunks_exact(DIM).zip(theirs.chunks_exact(DIM));
    let cosines: Vec<f32> = rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum()).collect();
    (
        cosines.iter().fold(1.0, |least, &cosine| least.min(cosine)),
        cosines.iter().sum::<f32>() / cosines.len() as f32,
    )
}

#[test]
fn embeddings_are_those_of_transformers() {
    let Some(directory) = std::env::var_os("LOWRANK_MINILM").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED: LOWRANK_MINILM does not name the directory of all-MiniLM-L6-v2 (tests/minilm.sh fetches it)"
        );
        return;
    };
    let ids: Vec<Vec<u32>> = serde_json::from_slice(&golden("ids.json")).unwrap();
    let bytes = golden("embeddings.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let golden = |name: &str| -> Vec<f32> {
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let (plain, nf4) = (golden("embeddings"), golden("nf4"));
    println!(
        "bitsandbytes' NF4: cosine with f32 at least {:.4}, mean {:.4}",
        cosines(&nf4, &plain).0,
        cosines(&nf4, &plain).1
    );
    let measure = |name: &str, weights, embedding, precision| {
        let (vectors, size) = embed(&directory, weights, embedding, precision, &ids);
        let (least, mean) = cosines(&vectors, &plain);
        println!(
            "{name}: cosine with f32 at least {least:.4}, mean {mean:.4}; archive {size} bytes"
        );
        vectors
    };
    let exact = measure("f32", Format::F32, Format::F32, Precision::Exact);
    let quantized = measure("nf4", Format::Nf4, Format::F32, Precision::Exact);
    for (name, ours, theirs) in
        [("transformers", &exact, &plain), ("bitsandbytes' NF4 in transformers", &quantized, &nf4)]
    {
        let worst = ours.iter().zip(theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        println!("largest difference to {name}: {worst:.2e}");
        assert!(ours.len() == theirs.len() && worst <= 1e-5);
    }
    let default = measure(
        "nf4, int8 embedding (the default import)",
        Format::Nf4,
        Format::Int8,
        Precision::Exact,
    );
    let fast = measure("the same, fast", Format::Nf4, Format::Int8, Precision::Fast);
    let int8 = measure("int8", Format::Int8, Format::Int8, Precision::Exact);
    // What NF4 itself costs a small model is bitsandbytes' figure above; what is added to it is
    // ours.
    assert!(
        cosines(&default, &nf4).0 >= 0.999
            && cosines(&fast, &nf4).0 >= 0.99
            && cosines(&int8, &plain).0 >= 0.999
    );
}
