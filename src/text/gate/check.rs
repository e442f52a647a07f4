//! What a tokenizer.json may say: every component is one that the library has, and none of those
//! on which it panics, never ends or takes memory without bound.

use serde_json::{Map, Value};

use super::{Refusal, charsmap, pattern};

/// Components of one list, those in inner lists too.
const COMPONENTS: usize = 64;
/// Lists in lists.
const NESTING: usize = 4;
/// Bytes of a text that is put in front (`▁`).
const AFFIX: usize = 64;
/// Tokens that a template adds, and those of one special token.
const ADDED: usize = 64;
/// Bytes of one added token, of all, and their number.
const TOKEN: usize = 4_096;
const TOKENS_BYTES: usize = 4 << 20;
const TOKENS: usize = 200_000;
/// Bytes of all regular expressions and search strings.
const PATTERNS: usize = 1 << 14;

/// How many bytes one byte can become, at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Growth {
    /// In each normalizer, in their order.
    pub(super) normalizers: Vec<usize>,
    /// In the pre-tokenizers together.
    pub(super) pre_tokenizer: usize,
}

impl Growth {
    /// Of normalizers and pre-tokenizers together.
    pub(super) fn total(&self) -> usize {
        self.normalizers.iter().fold(self.pre_tokenizer, |all, &one| all.saturating_mul(one))
    }
}

/// The most that all normalizers may do by their descriptions; what a text really becomes is
/// bounded when it is encoded.
const NORMALIZERS: usize = 1 << 20;
/// The same of pre-tokenizers and of decoders.
const OTHERS: usize = 64;

/// What a tokenizer.json has beside its model.
const PARTS: [&str; 8] = [
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
];

/// Checks all of a tokenizer.json but its model.
pub(super) fn check(parts: &Map<String, Value>) -> Result<Growth, Refusal> {
    if let Some(key) = parts.keys().find(|key| !PARTS.contains(&key.as_str())) {
        return Err(Refusal::new("", format!("the key {key:?} is not known")));
    }
    let mut patterns = 0;
    let part = |name: &str| parts.get(name).unwrap_or(&Value::Null);
    let mut each = |name: &str, list: &str, check: Check| {
        let mut all = Vec::new();
        flatten(name, list, part(name), 0, &mut all)?;
        let growths = all.iter().map(|component| {
            patterns += component.get("pattern").map_or(0, |pattern| pattern.to_string().len());
            if patterns > PATTERNS {
                return Err(Refusal::new(name, format!("more than {PATTERNS} bytes of patterns")));
            }
            let kind = kind(name, component)?;
            check(kind, component).map_err(|reason| Refusal::new(format!("{name}.{kind}"), reason))
        });
        growths.collect::<Result<Vec<usize>, Refusal>>()
    };
    let normalizers = each("normalizer", "normalizers", normalizer)?;
    let pre_tokenizer = product(&each("pre_tokenizer", "pretokenizers", pre_tokenizer)?);
    let decoder = product(&each("decoder", "decoders", decoder)?);
    let adding = each("post_processor", "processors", post_processor)?;
    if adding.iter().sum::<usize>() > 1 {
        return Err(Refusal::new("post_processor", "two of its parts put tokens around a text"));
    }
    for (name, growth, most) in [
        ("normalizer", product(&normalizers), NORMALIZERS),
        ("pre_tokenizer", pre_tokenizer, OTHERS),
        ("decoder", decoder, OTHERS),
    ] {
        if growth > most {
            let reason = format!("one byte could become {growth}, at most {most} are allowed");
            return Err(Refusal::new(name, reason));
        }
    }
    added_tokens(part("added_tokens"))?;
    Ok(Growth { normalizers, pre_tokenizer })
}

type Check = fn(&str, &Value) -> Result<usize, String>;

fn product(growths: &[usize]) -> usize {
    growths.iter().fold(1, |all, &one| all.saturating_mul(one))
}

/// The components of a part, lists opened.
fn flatten<'v>(
    name: &str,
    list: &str,
    part: &'v Value,
    depth: usize,
    all: &mut Vec<&'v Value>,
) -> Result<(), Refusal> {
    if part.is_null() && depth == 0 {
        return Ok(());
    }
    if kind(name, part)? != "Sequence" {
        all.push(part);
    } else {
        let items = part[list]
            .as_array()
            .ok_or_else(|| Refusal::new(format!("{name}.{list}"), "a list was expected"))?;
        if depth == NESTING {
            let reason = format!("lists lie in each other more than {NESTING} deep");
            return Err(Refusal::new(name, reason));
        }
        for item in items {
            flatten(name, list, item, depth + 1, all)?;
        }
    }
    if all.len() > COMPONENTS {
        return Err(Refusal::new(name, format!("more than {COMPONENTS} components")));
    }
    Ok(())
}

fn kind<'v>(name: &str, component: &'v Value) -> Result<&'v str, Refusal> {
    component["type"].as_str().ok_or_else(|| Refusal::new(name, "a component has no type"))
}

fn unknown(kind: &str) -> String {
    format!("the type {kind:?} is not known")
}

fn normalizer(kind: &str, component: &Value) -> Result<usize, String> {
    Ok(match kind {
        "BertNormalizer" | "Bert" => 9,
        "Strip" | "StripAccents" | "Nmt" => 1,
        "Lowercase" | "ByteLevel" => 2,
        "NFC" | "NFD" => 3,
        "NFKC" | "NFKD" => 11,
        "Prepend" => 1 + affix(component, "prepend")?,
        "Replace" => replace(component)?,
        "Precompiled" => charsmap::growth(text(component, "precompiled_charsmap")?)
            .map_err(|reason| format!("precompiled_charsmap: {reason}"))?,
        other => return Err(unknown(other)),
    })
}

fn pre_tokenizer(kind: &str, component: &Value) -> Result<usize, String> {
    Ok(match kind {
        "BertPreTokenizer" | "Delimiter" | "Whitespace" | "Punctuation" | "WhitespaceSplit"
        | "Digits" | "UnicodeScripts" => 1,
        "ByteLevel" => 2,
        "Metaspace" => 4,
        "Split" => {
            pattern::shortest(&component["pattern"])?;
            1
        }
        "FixedLength" if component["length"] == 0 => return Err("length is 0".to_owned()),
        "FixedLength" => 1,
        other => return Err(unknown(other)),
    })
}

fn decoder(kind: &str, component: &Value) -> Result<usize, String> {
    Ok(match kind {
        "ByteLevel" | "Metaspace" | "CTC" | "Fuse" | "ByteFallback" => 1,
        "WordPiece" => {
            affix(component, "prefix")?;
            2
        }
        "BPEDecoder" => {
            affix(component, "suffix")?;
            2
        }
        "Replace" => replace(component)?,
        "Strip" if component["stop"] != 0 => {
            return Err("stop is not 0: a token may be shorter than that".to_owned());
        }
        "Strip" => 1,
        other => return Err(unknown(other)),
    })
}

/// 1 if the post-processor puts tokens around a text, else 0.
fn post_processor(kind: &str, component: &Value) -> Result<usize, String> {
    match kind {
        "ByteLevel" => Ok(0),
        "BertProcessing" | "RobertaProcessing" => Ok(1),
        "TemplateProcessing" => template(component).map(|()| 1),
        other => Err(unknown(other)),
    }
}

fn template(component: &Value) -> Result<(), String> {
    let special =
        component["special_tokens"].as_object().ok_or("special_tokens: an object was expected")?;
    for (name, token) in special {
        let count = |key: &str| token[key].as_array().map(Vec::len);
        let (ids, tokens) = (count("ids"), count("tokens"));
        if ids.is_none() || ids != tokens || ids > Some(ADDED) {
            let reason = "as many ids as tokens were expected";
            return Err(format!("special_tokens.{name}: {reason}, at most {ADDED}"));
        }
    }
    let pieces = component["single"].as_array().ok_or("single: a list was expected")?;
    if pieces.len() > ADDED {
        return Err(format!("single: {} pieces, at most {ADDED}", pieces.len()));
    }
    let mut texts = 0;
    for piece in pieces {
        let (sequence, token) = (&piece["Sequence"]["id"], piece["SpecialToken"]["id"].as_str());
        match (sequence.as_str(), token) {
            (Some("A"), None) => texts += 1,
            (Some(_), None) => {
                return Err("single: names sequence B, but one text has no second".to_owned());
            }
            (None, Some(token)) if !special.contains_key(token) => {
                return Err(format!("single: {token:?} is not among special_tokens"));
            }
            (None, Some(_)) => {}
            _ => return Err("single: a sequence or a special token was expected".to_owned()),
        }
    }
    if texts == 1 { Ok(()) } else { Err(format!("single: the text stands in it {texts} times")) }
}

fn replace(component: &Value) -> Result<usize, String> {
    let content = text(component, "content")?.len();
    match pattern::shortest(&component["pattern"])? {
        0 => Ok(1 + content),
        shortest => Ok(content.div_ceil(shortest).max(1)),
    }
}

fn text<'v>(component: &'v Value, key: &str) -> Result<&'v str, String> {
    component[key].as_str().ok_or_else(|| format!("{key}: a string was expected"))
}

/// The length of a short text that is put before or behind others.
fn affix(component: &Value, key: &str) -> Result<usize, String> {
    match text(component, key)?.len() {
        length if length <= AFFIX => Ok(length),
        length => Err(format!("{key} has {length} bytes, at most {AFFIX}")),
    }
}

fn added_tokens(part: &Value) -> Result<(), Refusal> {
    let refused = |reason: String| Err(Refusal::new("added_tokens", reason));
    let tokens = match part {
        Value::Null => return Ok(()),
        Value::Array(tokens) => tokens,
        _ => return refused("a list was expected".to_owned()),
    };
    if tokens.len() > TOKENS {
        return refused(format!("{} of them, at most {TOKENS}", tokens.len()));
    }
    let eats_right = tokens.iter().any(|token| token["rstrip"] == true);
    let mut bytes = 0;
    for token in tokens {
        let Some(content) = token["content"].as_str() else {
            return refused("one has no content".to_owned());
        };
        if token["id"].as_u64().is_none_or(|id| id > u64::from(u32::MAX)) {
            return refused(format!("{content:?} has no id"));
        }
        bytes += content.len();
        if content.len() > TOKEN || bytes > TOKENS_BYTES {
            return refused(format!("more than {TOKEN} bytes in one or {TOKENS_BYTES} in all"));
        }
        // The library then takes the same space twice and slices backwards.
        if eats_right && token["lstrip"] == true && content.trim().is_empty() {
            return refused(format!("{content:?} is space, has lstrip, and another has rstrip"));
        }
    }
    Ok(())
}

/// Is every byte of a text turned into a letter of GPT-2's alphabet, so that a vocabulary with that
/// alphabet has no unknown letters?
pub(super) fn all_bytes(parts: &Map<String, Value>) -> bool {
    ["normalizer", "pre_tokenizer"].iter().any(|&name| {
        let part = parts.get(name).unwrap_or(&Value::Null);
        let lists = ["normalizers", "pretokenizers"];
        let items = lists.iter().filter_map(|list| part[list].as_array()).flatten();
        std::iter::once(part).chain(items).any(|component| component["type"] == "ByteLevel")
    })
}
