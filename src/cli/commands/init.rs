//! `lowrank init`: a fresh model to pre-train, from a configuration and a seed.

use std::path::PathBuf;

use clap::Args;
use lowrank::file::Kind;
use lowrank::import::{BaseOptions, write_fresh};

use crate::Failure;
use crate::import::Weights;
use crate::output::{Force, written};

const EXAMPLES: &str = r#"Examples:
  lowrank init tiny.json --seed 1 -o tiny.lrk
  lowrank train --base tiny.lrk --data text.txt --method full -o trained.lrk

tiny.json:
  {"model_type": "llama", "tokenizer": "bytes", "hidden_size": 64,
   "intermediate_size": 128, "num_hidden_layers": 2,
   "num_attention_heads": 4, "num_key_value_heads": 2,
   "max_position_embeddings": 128, "tie_word_embeddings": true}
(qwen2 and qwen3 have the same keys) or
  {"model_type": "bert", "tokenizer": "bytes", "hidden_size": 64,
   "intermediate_size": 128, "num_hidden_layers": 2,
   "num_attention_heads": 4, "max_position_embeddings": 128}
or
  {"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 32,
   "hidden_size": 64, "num_layers": 1}
or
  {"model_type": "mlp", "input_size": 4, "hidden_sizes": [16],
   "labels": ["no", "yes"], "activation": "relu"}"#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The configuration: that of a Hugging Face directory (llama, qwen2, qwen3, bert), or of an
    /// lstm or mlp; "tokenizer" may be "bytes" or the path of a tokenizer.json
    config: PathBuf,
    /// Everything random follows from it
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    force: Force,
    /// The format of the linear layers; full fine-tuning wants f32
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,
    /// The format of the embedding and the output head
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    embedding: Weights,
    /// Weights per block of nf4 and int8: a power of two from 32 to 4096
    #[arg(long, default_value_t = lowrank::quant::BLOCK, value_name = "N")]
    block: usize,
    /// The content version to write into the header
    #[arg(long, default_value_t = 1, value_name = "N")]
    content_version: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let options = BaseOptions {
        weights: arguments.weights.into(),
        embedding: arguments.embedding.into(),
        block: arguments.block,
        allow_missing_tokenizer: true,
        without_tokenizer: false,
        content_version: arguments.content_version,
        ..BaseOptions::default()
    };
    let config = &arguments.config;
    let output = arguments.force.output(&arguments.output, Kind::Base, &[config])?;
    let header = write_fresh(config, arguments.seed, &options, &output)?;
    let bytes = header.payload + lowrank::archive::HEADER_LEN as u64;
    let (path, root, fingerprint) = (output.path().display(), header.root, header.fingerprint);
    let text = format_args!("{path}: {root}, {bytes} bytes, fingerprint {fingerprint}");
    Ok(written(&output, text)?)
}
