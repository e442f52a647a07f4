//! What each token adds to a text, in bytes: the decoder of `tokenizer.json`, token by token.
//!
//! `tokenizer.json` decodes a whole list of tokens into characters. Text that is shown while it
//! comes needs more: which bytes a token stands for, so that a character spread over tokens is
//! known to be unfinished. Two families are decoded so: byte-level BPE (`ByteLevel`) and
//! SentencePiece (`Replace`, `ByteFallback`, `Fuse`, `Strip`, or `Metaspace`). Decoders of other
//! models (WordPiece, CTC …) join tokens by rules of their own and are not.

use std::borrow::Cow;

use serde_json::Value;

/// One step from a token's name towards its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// GPT-2's characters are bytes.
    ByteLevel,
    /// Every `pattern` becomes `content`.
    Replace { pattern: String, content: String },
    /// `<0x0A>` is one byte.
    ByteFallback,
    /// Every `replacement` is a space; in the first token it is nothing, if so trained.
    Metaspace { replacement: char, first_is_bare: bool },
}

/// Decodes tokens one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    steps: Vec<Step>,
    /// This many of this byte are left out at the beginning of a text.
    strip: Option<(u8, u64)>,
}

/// How far a text has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Position {
    /// Has a token been decoded?
    has_begun: bool,
    /// Bytes left out at the beginning; `None` once another byte came.
    stripped: Option<u64>,
}

impl Position {
    pub(super) fn start() -> Self {
        Self { has_begun: false, stripped: Some(0) }
    }
}

impl Pieces {
    /// The decoder that `decoder` describes, or `None` if it does not decode token by token.
    pub(super) fn new(decoder: &Value) -> Option<Self> {
        let listed =
            decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
        let (mut steps, mut strip, mut is_fused) = (Vec::new(), None, false);
        for step in listed {
            match (step["type"].as_str()?, is_fused) {
                ("ByteLevel", false) => steps.push(Step::ByteLevel),
                ("ByteFallback", false) => steps.push(Step::ByteFallback),
                ("Replace", false) => steps.push(Step::Replace {
                    pattern: step["pattern"]["String"]
                        .as_str()
                        .filter(|pattern| !pattern.is_empty())?
                        .to_owned(),
                    content: step["content"].as_str()?.to_owned(),
                }),
                ("Metaspace", false) => steps.push(Step::Metaspace {
                    replacement: step["replacement"].as_str()?.chars().next()?,
                    first_is_bare: step["prepend_scheme"] != "never",
                }),
                ("Fuse", _) => is_fused = true,
                // Before the tokens are fused it would act on each of them.
                ("Strip", true) if strip.is_none() && step["stop"] == 0 => {
                    let [byte] = *step["content"].as_str()?.as_bytes() else { return None };
                    strip = Some((byte, step["start"].as_u64()?));
                }
                _ => return None,
            }
        }
        Some(Self { steps, strip })
    }

    /// Appends the bytes of `token` to `bytes`. An added token is text, not bytes under other
    /// names.
    pub(super) fn append(
        &self,
        token: &str,
        is_added: bool,
        position: &mut Position,
        bytes: &mut Vec<u8>,
    ) {
        let is_first = !std::mem::replace(&mut position.has_begun, true);
        let mut text = Cow::Borrowed(token);
        for step in &self.steps {
            match step {
                Step::ByteLevel if is_added => {}
                Step::ByteLevel => {
                    if let Some(named) = text.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                        return self.extend(&named, position, bytes);
                    }
                }
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return self.extend(&[byte], position, bytes);
                    }
                }
                Step::Replace { pattern, content } => {
                    text = text.replace(pattern.as_str(), content).into()
                }
                Step::Metaspace { replacement, first_is_bare } => {
                    text = text
                        .replace(*replacement, if is_first && *first_is_bare { "" } else { " " })
                        .into();
                }
            }
        }
        self.extend(text.as_bytes(), position, bytes);
    }

    /// Appends `new`, without what is stripped at the beginning of a text.
    fn extend(&self, new: &[u8], position: &mut Position, bytes: &mut Vec<u8>) {
        let mut kept = new;
        if let Some((strip, most)) = self.strip {
            while let (Some(stripped), [first, rest @ ..]) = (position.stripped, kept) {
                if *first != strip || stripped == most {
                    position.stripped = None;
                } else {
                    position.stripped = Some(stripped + 1);
                    kept = rest;
                }
            }
        }
        bytes.extend_from_slice(kept);
    }
}

/// The byte that GPT-2 shows as `c`: printable Latin-1 as it is, the others from U+0100 on, in
/// order.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_byte.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn text(pieces: &Pieces, tokens: &[&str]) -> Vec<u8> {
        let (mut position, mut bytes) = (Position::start(), Vec::new());
        tokens.iter().for_each(|token| pieces.append(token, false, &mut position, &mut bytes));
        bytes
    }

    #[test]
    fn every_byte_has_one_character() {
        let bytes: BTreeSet<u8> = ('\0'..='\u{200}').filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(('\0'..='\u{200}').filter_map(byte_of).count(), 256);
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('a'), byte_of(' ')),
            (Some(b' '), Some(b'\n'), Some(b'a'), None)
        );
    }

    #[test]
    fn sentencepiece_spaces_and_bytes() {
        let llama = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] });
        let llama = Pieces::new(&llama).unwrap();
        assert_eq!(
            text(&llama, &["▁", "▁Hi", "▁you", "<0xE2>", "<0x82>", "<0xAC>", "<0x0g>"]),
            " Hi you€<0x0g>".as_bytes()
        );
        assert_eq!(text(&llama, &["Hi", "▁"]), b"Hi ");
        let bare = Pieces::new(&json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true })).unwrap();
        assert_eq!(text(&bare, &["▁a", "▁b"]), b"a b");
    }

    #[test]
    fn decoders_that_join_tokens_by_other_rules_are_not_taken() {
        for other in [
            json!(null),
            json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
            json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }),
            json!({ "type": "Replace", "pattern": { "Regex": "a+" }, "content": "" }),
        ] {
            assert_eq!(Pieces::new(&other), None, "{other}");
        }
    }
}
