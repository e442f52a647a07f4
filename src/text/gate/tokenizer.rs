//! A tokenizer of the library behind the checks.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, Encoding, ModelWrapper, NormalizedString,
    Normalizer, PostProcessor, Tokenizer as Library, TruncationDirection,
};

use super::Refusal;
use super::check::{self, Growth};
use super::json::{self, Json};
use super::model;
use super::quiet::{PANICKED, guarded};

/// Bytes of a tokenizer.json; the largest published ones have 34 million.
const FILE: usize = 64 << 20;
/// A text may become this many times as long, or [`FEW`] bytes.
const TIMES: usize = 16;
const FEW: usize = 4 << 20;
/// A normalizer that makes no more than this of a byte is let run, and its result looked at.
const TAME: usize = 40;

/// Texts that a tokenizer is tried on before a file is taken.
const PROBES: [&str; 4] = [
    "Hello world, it's 12:30!\n\tab  abc",
    "Grüße, 漢字 日本語 🙂 e\u{301} \u{fdfa}\u{feff}",
    " \u{0}\u{7f}\u{fffd} ",
    "",
];

/// A tokenizer that was checked. Its methods are the library's, without its panics.
#[derive(Debug, Clone)]
pub(crate) struct GuardedTokenizer {
    library: Library,
    growth: Growth,
    cut: TruncationDirection,
}

impl GuardedTokenizer {
    /// The tokenizer that `json` describes. Settings about cutting and padding that some files
    /// still carry from a training run are dropped: a prompt is never cut or filled up silently.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, Refusal> {
        if json.len() > FILE {
            let reason = format!("it has {} bytes, at most {FILE} are read", json.len());
            return Err(Refusal::new("", reason));
        }
        let whole = |reason| Refusal::new("", reason);
        let Json::Map(mut fields) = Json::read(json).map_err(|error| whole(error.to_string()))?
        else {
            return Err(whole("an object was expected".to_owned()));
        };
        let model = json::take(&mut fields, "model").map_err(whole)?;
        let mut parts = json::into_map(fields).map_err(whole)?;
        let growth = check::check(&parts)?;
        let added = added_tokens(&mut parts, &growth)?;
        let model = model::build(model, check::all_bytes(&parts))?;
        let library = run(|| assemble(parts, model, added)).map_err(whole)?;
        // Only the side counts from which a text is cut that an encoder reads.
        let cut = library.get_truncation().map_or(TruncationDirection::Right, |t| t.direction);
        let mut tokenizer = Self { library, growth, cut };
        tokenizer.library.with_padding(None);
        tokenizer
            .library
            .with_truncation(None)
            .map_err(|error| Refusal::new("truncation", error.to_string()))?;
        Ok(tokenizer)
    }

    /// [`from_json`](Self::from_json) of a file that is about to be imported: tried on some texts,
    /// so that what would fail later is refused now.
    pub(crate) fn import(json: &[u8]) -> Result<Self, Refusal> {
        let tokenizer = Self::from_json(json)?;
        for probe in PROBES {
            let tried = |error| Refusal::new("", format!("tried on the text {probe:?}: {error}"));
            let encoding = tokenizer.encode_fast(probe, true).map_err(tried)?;
            tokenizer.decode(encoding.get_ids(), true).map_err(tried)?;
        }
        Ok(tokenizer)
    }

    /// The tokens of a text, with the special tokens around it if `special`.
    pub(crate) fn encode_fast(&self, text: &str, special: bool) -> Result<Encoding, String> {
        check_growth(self.library.get_normalizer(), &self.growth, text)?;
        run(|| self.library.encode_fast(text, special))
    }

    /// Puts special tokens around the tokens of one text.
    pub(crate) fn post_process(&self, encoding: Encoding) -> Result<Encoding, String> {
        run(|| self.library.post_process(encoding, None, true))
    }

    /// How many special tokens [`post_process`](Self::post_process) adds.
    pub(crate) fn added_tokens(&self) -> usize {
        self.library.get_post_processor().map_or(0, |post| post.added_tokens(false))
    }

    /// The text of tokens; special ones are left out if `skip`.
    pub(crate) fn decode(&self, ids: &[u32], skip: bool) -> Result<String, String> {
        if ids.is_empty() {
            return Ok(String::new());
        }
        run(|| self.library.decode(ids, skip))
    }

    /// From which side a text that is too long is cut.
    pub(crate) fn cut(&self) -> TruncationDirection {
        self.cut
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        self.library.id_to_token(id)
    }

    pub(crate) fn get_vocab(&self, added: bool) -> HashMap<String, u32> {
        self.library.get_vocab(added)
    }

    pub(crate) fn get_added_vocabulary(&self) -> &AddedVocabulary {
        self.library.get_added_vocabulary()
    }

    pub(crate) fn get_decoder(&self) -> Option<&DecoderWrapper> {
        self.library.get_decoder()
    }

    /// Are special tokens in a text plain text?
    pub(crate) fn set_encode_special_tokens(&mut self, plain: bool) {
        self.library.set_encode_special_tokens(plain);
    }
}

fn run<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    guarded(call).ok_or(PANICKED)?.map_err(|error| error.to_string())
}

/// The library's tokenizer of checked parts: read without a model and added tokens, which then come
/// in the order in which the library takes them.
fn assemble(
    mut parts: Map<String, Value>,
    model: ModelWrapper,
    added: Vec<AddedToken>,
) -> tokenizers::Result<Library> {
    parts.insert("model".to_owned(), json!({ "type": "BPE", "vocab": {}, "merges": [] }));
    let mut library = Library::from_bytes(Value::Object(parts).to_string())?;
    library.with_model(model);
    library.add_tokens(added)?;
    Ok(library)
}

/// Takes the added tokens out. They are normalized when the library takes them: they are texts too.
fn added_tokens(
    parts: &mut Map<String, Value>,
    growth: &Growth,
) -> Result<Vec<AddedToken>, Refusal> {
    let refused = |reason| Refusal::new("added_tokens", reason);
    let list = parts.remove("added_tokens").unwrap_or(Value::Null);
    let tokens = match list {
        Value::Null => Vec::new(),
        list => Vec::<AddedToken>::deserialize(list).map_err(|error| refused(error.to_string()))?,
    };
    let normalizer = parts.get("normalizer").unwrap_or(&Value::Null);
    let total: usize = tokens.iter().map(|token| token.content.len()).sum();
    if total.saturating_mul(growth.total()) <= FEW || normalizer.is_null() {
        return Ok(tokens);
    }
    let normalizer = run(|| Ok(NormalizerWrapper::deserialize(normalizer)?))
        .map_err(|reason| Refusal::new("normalizer", reason))?;
    let mut made = 0;
    for token in &tokens {
        made += check_growth(Some(&normalizer), growth, &token.content).map_err(refused)?;
        if made > FEW * TIMES {
            return Err(refused(format!("they become more than {made} bytes")));
        }
    }
    Ok(tokens)
}

/// Refuses a text that the normalizers would make too long; says how long it may become. Where the
/// description alone excludes that, nothing is computed.
fn check_growth(
    normalizer: Option<&NormalizerWrapper>,
    growth: &Growth,
    text: &str,
) -> Result<usize, String> {
    let most = FEW.max(text.len().saturating_mul(TIMES));
    let described = text.len().saturating_mul(growth.total());
    let (Some(normalizer), true) = (normalizer, described > most) else { return Ok(described) };
    let mut steps = Vec::new();
    collect(normalizer, &mut steps);
    let mut normalized = NormalizedString::from(text);
    for (step, &growth) in steps.into_iter().zip(&growth.normalizers) {
        let next = normalized.get().len().saturating_mul(growth);
        if growth > TAME && next > most {
            return Err(too_long(text.len(), next));
        }
        run(|| step.normalize(&mut normalized))?;
        if normalized.get().len() > most {
            return Err(too_long(text.len(), normalized.get().len()));
        }
    }
    Ok(normalized.get().len())
}

fn too_long(text: usize, made: usize) -> String {
    format!("its normalizers would make {made} bytes of {text}")
}

/// The normalizers in their order, lists opened.
fn collect<'n>(normalizer: &'n NormalizerWrapper, steps: &mut Vec<&'n NormalizerWrapper>) {
    match normalizer {
        NormalizerWrapper::Sequence(list) => {
            list.as_ref().iter().for_each(|step| collect(step, steps));
        }
        step => steps.push(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTE_LEVEL: &str =
        include_str!("../../../tests/golden/tokenizer-options/byte_level.json");

    /// What is built of checked parts is what the library itself reads of the file.
    #[test]
    fn the_librarys_own_reader_makes_the_same_tokenizer() {
        // As old files have it: merges in lines, no type.
        let mut old: Value = serde_json::from_str(BYTE_LEVEL).unwrap();
        for merge in old["model"]["merges"].as_array_mut().unwrap() {
            let joined = merge.as_array().map(|pair| pair.iter().filter_map(Value::as_str));
            if let Some(parts) = joined.map(Vec::from_iter) {
                *merge = parts.join(" ").into();
            }
        }
        old["model"].as_object_mut().unwrap().remove("type");
        let words = json!({ "version": "1.0", "model": {
            "type": "WordLevel", "unk_token": "?", "vocab": { "?": 0, "a\u{e9}\n": 1 } } });
        for json in [
            BYTE_LEVEL,
            &old.to_string(),
            &words.to_string(),
            include_str!("../../../tests/golden/tokenizer-options/sentencepiece.json"),
            include_str!("../../../tests/golden/tokenizer-options/unigram.json"),
            include_str!("../../../tests/golden/tokenizer-options/wordpiece.json"),
            include_str!("../../../tests/golden/tiny-roberta/tokenizer.json"),
            include_str!("../../../tests/golden/tiny-xlm-roberta/tokenizer.json"),
        ] {
            let ours = GuardedTokenizer::from_json(json.as_bytes()).unwrap().library;
            let mut theirs = Library::from_bytes(json).unwrap();
            theirs.with_padding(None).with_truncation(None).unwrap();
            let value = |library: &Library| serde_json::to_value(library).unwrap();
            assert!(value(&theirs)["model"]["vocab"] != json!({}));
            assert_eq!(value(&ours), value(&theirs));
        }
    }
}
