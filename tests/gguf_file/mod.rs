//! GGUF files for tests, built from scratch.

#![allow(dead_code)]

use std::fs;

use lowrank::import::Gguf;

/// A GGUF file under construction: little-endian, version 3, one padding rule.
#[derive(Clone)]
pub struct File {
    /// Key, type and value, as they are written.
    pub pairs: Vec<Vec<u8>>,
    /// Name, dimensions innermost first, type number, data.
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl File {
    pub fn pair(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut Self {
        self.pairs.retain(|pair| !pair.starts_with(&string(key)));
        self.pairs.push([&string(key), &kind.to_le_bytes()[..], value].concat());
        self
    }

    pub fn number(&mut self, key: &str, value: u32) -> &mut Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub fn float(&mut self, key: &str, value: f32) -> &mut Self {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.pair(key, 8, &string(value))
    }

    pub fn texts(&mut self, key: &str, values: &[&str]) -> &mut Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| string(value)).collect();
        self.pair(
            key,
            9,
            &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &elements].concat(),
        )
    }

    pub fn numbers(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.pair(
            key,
            9,
            &[&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &elements].concat(),
        )
    }

    pub fn floats(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.pair(
            key,
            9,
            &[&6u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &elements].concat(),
        )
    }

    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.pair(key, 7, &[value.into()])
    }

    /// A tensor of zeros in f32; `shape` outermost first.
    pub fn zeros(&mut self, name: &str, shape: &[u64]) -> &mut Self {
        self.tensors.retain(|tensor| tensor.0 != name);
        let bytes = 4 * shape.iter().product::<u64>() as usize;
        self.tensors.push((name.into(), shape.iter().rev().copied().collect(), 0, vec![0; bytes]));
        self
    }

    pub fn without(&mut self, name: &str) -> &mut Self {
        self.tensors.retain(|tensor| tensor.0 != name);
        self.pairs.retain(|pair| !pair.starts_with(&string(name)));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        let mut data = Vec::new();
        for (name, dimensions, kind, bytes) in &self.tensors {
            out.extend(string(name));
            out.extend((dimensions.len() as u32).to_le_bytes());
            out.extend(dimensions.iter().flat_map(|n| n.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            data.resize(data.len().next_multiple_of(32), 0);
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    /// Opens it as a model; the file is gone afterwards.
    pub fn open(&self) -> Result<Gguf, String> {
        open(&self.bytes())
    }
}

pub fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

pub fn open(bytes: &[u8]) -> Result<Gguf, String> {
    Gguf::open(temporary(bytes).path()).map_err(|error| error.to_string())
}

/// The smallest decoder: one block, everything 4 wide, a vocabulary of `tokens`.
pub fn smallest(tokens: &[&str]) -> File {
    let mut file = File { pairs: Vec::new(), tensors: Vec::new() };
    file.text("general.architecture", "llama").text("general.name", "smallest");
    for (key, value) in [
        ("embedding_length", 4),
        ("block_count", 1),
        ("feed_forward_length", 4),
        ("context_length", 32),
    ] {
        file.number(&format!("llama.{key}"), value);
    }
    file.number("llama.attention.head_count", 1)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    file.zeros("token_embd.weight", &[tokens.len() as u64, 4]).zeros("output_norm.weight", &[4]);
    for part in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        file.zeros(&format!("blk.0.{part}.weight"), &[4, 4]);
    }
    file.zeros("blk.0.attn_norm.weight", &[4]).zeros("blk.0.ffn_norm.weight", &[4]);
    file.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", tokens);
    file.texts("tokenizer.ggml.merges", &[]);
    file
}
