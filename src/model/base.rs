//! A base of whatever family, opened from its archive: the only list of all families.
//!
//! Whoever asks every family the same uses [`Base`](crate::adapter::Base) or `with_family`.

use super::bert::Bert;
use super::llama::Llama;
use super::lstm::Lstm;
use super::mlp::Mlp;
use crate::adapter::Base;
use crate::archive::Header;
use crate::error::{Error, Result, RootKind};

/// An opened base of any family.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum AnyBase<'a> {
    /// A decoder.
    Llama(Llama<'a>),
    /// An encoder.
    Bert(Bert<'a>),
    /// A recurrent model.
    Lstm(Lstm<'a>),
    /// Linear layers.
    Mlp(Mlp<'a>),
}

/// Evaluates an expression with the opened model of an [`AnyBase`].
macro_rules! with_family {
    ($base:expr, $model:ident => $body:expr) => {
        match $base {
            $crate::model::AnyBase::Llama($model) => $body,
            $crate::model::AnyBase::Bert($model) => $body,
            $crate::model::AnyBase::Lstm($model) => $body,
            $crate::model::AnyBase::Mlp($model) => $body,
        }
    };
}
#[cfg(feature = "std")]
pub(crate) use with_family;

/// Does [`Precision::Fast`](crate::kernel::Precision::Fast) change what this base computes: is a
/// layer of it nf4 or int8? (An embedding is looked up, not multiplied, unless it is the head too.)
#[cfg(feature = "std")]
pub fn has_fast(base: &dyn Base) -> bool {
    let is_product = |&site: &u32| match base.site(site) {
        Some((_, _, is_embedding)) => !is_embedding || base.tied().is_some(),
        None => false,
    };
    let weights = (0..base.sites()).filter(is_product).filter_map(|site| base.weight_at(site));
    let kernels = crate::kernel::kernels();
    weights.into_iter().any(|weight| kernels.has_fast(&weight))
}

impl<'a> AnyBase<'a> {
    /// Opens an archive by the kind of its root.
    ///
    /// # Errors
    /// Those of the family's `open`; [`Error::WrongRoot`] if it is no base.
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        match Header::parse(archive)?.root {
            RootKind::LLAMA => Llama::open(archive).map(Self::Llama),
            kind if kind.is_encoder() => Bert::open(archive).map(Self::Bert),
            RootKind::LSTM => Lstm::open(archive).map(Self::Lstm),
            RootKind::MLP => Mlp::open(archive).map(Self::Mlp),
            found => Err(Error::WrongRoot { found, expected: RootKind::LLAMA }),
        }
    }

    /// As [`open`](Self::open), and reads the whole archive.
    ///
    /// # Errors
    /// Those of the family's `verify`; [`Error::WrongRoot`] if it is no base.
    pub fn verify(archive: &'a [u8]) -> Result<Self> {
        match Header::parse(archive)?.root {
            RootKind::LLAMA => Llama::verify(archive).map(Self::Llama),
            kind if kind.is_encoder() => Bert::verify(archive).map(Self::Bert),
            RootKind::LSTM => Lstm::verify(archive).map(Self::Lstm),
            RootKind::MLP => Mlp::verify(archive).map(Self::Mlp),
            found => Err(Error::WrongRoot { found, expected: RootKind::LLAMA }),
        }
    }

    /// What adapters are bound to.
    pub fn as_base(&self) -> &dyn Base {
        with_family!(self, model => model)
    }

    /// The label names of the base's own head; none without such a head.
    #[cfg(feature = "alloc")]
    pub fn labels(&self) -> alloc::vec::Vec<alloc::string::String> {
        with_family!(self, model => model.labels().map(Into::into).collect())
    }
}

#[cfg(all(test, feature = "import"))]
mod tests {
    use super::*;
    use crate::archive::to_buffer;
    use crate::import::{BaseOptions, fresh_to_buffer};
    use crate::model::{Family, Opened};

    const CONFIGS: [(RootKind, &str); 4] = [
        (
            RootKind::LLAMA,
            r#"{"model_type": "qwen3", "tokenizer": "bytes", "hidden_size": 64, "head_dim": 16,
            "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 32, "attention_bias": true}"#,
        ),
        (
            RootKind::BERT,
            r#"{"model_type": "bert", "tokenizer": "bytes", "hidden_size": 64,
            "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 32}"#,
        ),
        (
            RootKind::LSTM,
            r#"{"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 32,
            "hidden_size": 16, "num_layers": 2, "labels": ["no", "yes"]}"#,
        ),
        (
            RootKind::MLP,
            r#"{"model_type": "mlp", "input_size": 4, "hidden_sizes": [16, 8],
            "labels": ["no", "yes"]}"#,
        ),
    ];

    /// The archive that is written from `model` part by part.
    fn rewritten<F: Family>(model: &Opened<'_, F>) -> Vec<u8> {
        let stop: Vec<u32> = model.stop_tokens().collect();
        let version = model.header().content_version;
        F::with_root(&model.frame(&stop), model, |root| to_buffer(root, version)).unwrap().to_vec()
    }

    #[test]
    fn a_root_that_is_built_anew_from_its_own_parts_is_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, config) in CONFIGS {
            let path = folder.path().join("model.json");
            std::fs::write(&path, config).unwrap();
            let archive = fresh_to_buffer(&path, 1, &BaseOptions::default()).unwrap();
            let base = AnyBase::verify(&archive).unwrap();
            assert_eq!(base.as_base().root(), kind);
            assert!(with_family!(&base, model => rewritten(model)) == archive[..], "{kind}");
        }
    }
}
