//! Where llama.cpp cuts a text before byte-level BPE: its pre-tokenizers by name.
//!
//! The patterns are llama.cpp's, written such that the `tokenizers` crate cuts at the same places:
//! - a trailing `|\s+` where llama.cpp leaves over what no pattern took;
//! - contractions as letters in either case, not everything that case folding reaches;
//! - `[ \t\n\x{b}\x{c}\r]` where its engine takes `\s` as ASCII (patterns without categories).
//!
//! Names whose cutting is no list of patterns (kimi-k2, afmoe, gemma4 …) are refused.

use super::reader::Reader;
use crate::file::FileError;

/// A pre-tokenizer that llama.cpp has a name for.
pub(super) struct PreTokenizer {
    /// Patterns that cut, one after the other.
    pub(super) patterns: &'static [&'static str],
    /// Is a whole piece that is a token taken without merging?
    pub(super) ignores_merges: bool,
    /// Is a begin-of-sequence token put in front if the file does not say?
    pub(super) adds_bos: bool,
}

/// English contractions.
macro_rules! contractions {
    () => {
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    };
}

/// Line ends, then what is left of white space.
macro_rules! spaces {
    () => {
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}

/// What capitals and small letters are to the patterns that tell them apart: every letter but the
/// other ASCII case.
macro_rules! cased {
    ($behind:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
            $behind,
            r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
            $behind,
        )
    };
}

/// White space of ASCII, inside a class.
macro_rules! ascii_space {
    () => {
        r" \t\n\x{b}\x{c}\r"
    };
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Letters with what stands before them, `$numbers`, other characters.
macro_rules! words {
    ($numbers:expr, $line_ends:expr) => {
        concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|", $numbers, r"| ?[^\s\p{L}\p{N}]+", $line_ends)
    };
}
const LLAMA3: &str = concat!(contractions!(), "|", words!(r"\p{N}{1,3}", r"[\r\n]*"), spaces!());
const QWEN2: &str = concat!(contractions!(), "|", words!(r"\p{N}", r"[\r\n]*"), spaces!());
const UFAKZEKA: &str = concat!(words!(r"\p{N}", r"[\r\n]*"), spaces!());
const MINICPM5: &str = concat!(contractions!(), "|", words!(r"\p{N}+", r"[\r\n]*"), spaces!());
const SEED_CODER: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+", spaces!());
const BAILING: &str = concat!(
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|",
    words!(r"\p{N}", r"[\r\n]*"),
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
);
const JAIS2: &str = concat!(
    contractions!(),
    "|",
    words!(r"\p{N}{1,3}", r"[\r\n]*"),
    r"|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)",
    r"|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
);
const QWEN35: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    spaces!()
);
/// llama.cpp writes the letters as `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`: the same texts, but a
/// repetition of a repetition, on which a search that comes back may take long.
const EXAONE_MOE: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}(?:[\p{L}\p{M}]| \p{L})*|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(cased!(""), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*", spaces!());
const GPT4O: &str = concat!(
    cased!(concat!("(?:", contractions!(), ")?")),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    spaces!()
);
/// Cuts at sentence marks, not at words.
const BLOOM: &str = concat!(" ?[^(", ascii_space!(), "|.,!?…。，、।۔،)]+");
const CHINESE: &str = "[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
    spaces!()
);
/// Letters with case, as DeepSeek lists them.
const DEEPSEEK_LETTERS: &str = concat!(
    "[",
    ascii_space!(),
    "]?[",
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ",
    "ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭ",
    "Ꚁ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃",
    "]+"
);
const DEEPSEEK_LLM: &[&str] = &[
    "[\r\n]",
    DEEPSEEK_LETTERS,
    concat!("[", ascii_space!(), "]?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"),
    concat!("[", ascii_space!(), "]+$"),
    CHINESE,
    r"\p{N}+",
];
const CHAMELEON: &[&str] = &[
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"([\t\n]|    |  )",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
    GPT2,
];
const DEFAULT: &[&str] = &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// The pre-tokenizer that the file names; without a name llama.cpp's default.
pub(super) fn of(reader: &Reader) -> Result<PreTokenizer, FileError> {
    let key = "tokenizer.ggml.pre";
    let name = reader.string(key)?.filter(|name| !name.is_empty()).unwrap_or("default");
    let patterns = patterns(name)
        .ok_or_else(|| reader.error(key, format!("the pre-tokenizer {name:?} is not known")))?;
    let is_llama3 = LIKE_LLAMA3.contains(&name);
    Ok(PreTokenizer {
        patterns,
        ignores_merges: is_llama3 || ["tekken", "minicpm5"].contains(&name),
        adds_bos: is_llama3 || ["tekken", "chameleon"].contains(&name),
    })
}

/// Those that take whole tokens without merging and put a begin-of-sequence token in front.
const LIKE_LLAMA3: [&str; 9] = [
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
];

/// What cuts, one after the other.
fn patterns(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "default" => DEFAULT,
        "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "mpt" | "olmo" | "jais"
        | "trillion" | "granite-docling" | "exaone4" => &[GPT2],
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => &[r"\p{N}", GPT2],
        like_llama3 if LIKE_LLAMA3.contains(&like_llama3) => &[LLAMA3],
        "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => &[LLAMA3],
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
        | "solar-open" | "grok-2" => &[QWEN2],
        "qwen35" => &[QWEN35],
        "tekken" => &[TEKKEN],
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => &[GPT4O],
        "deepseek-llm" => DEEPSEEK_LLM,
        "deepseek-coder" => &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CHINESE, r"\p{N}"],
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3]
        }
        "falcon" => &[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"],
        "jais-2" => &[JAIS2],
        "bloom" | "poro-chat" | "gpt3-finnish" => &[BLOOM],
        "viking" => &[BLOOM, r"\p{N}"],
        "chameleon" => CHAMELEON,
        "superbpe" => &[r"\p{N}+", "(?=(?:[0-9]{3})+(?![0-9]))"],
        "bailingmoe" | "bailingmoe2" | "llada-moe" => &[BAILING],
        "seed-coder" => &[SEED_CODER],
        "exaone-moe" => &[EXAONE_MOE],
        "minicpm5" => &[r"\p{N}{1,3}", MINICPM5],
        "laguna" => &[r"[^\n]+|[\n]+", QWEN2],
        "ufakzeka" => &[UFAKZEKA],
        _ => return None,
    })
}
