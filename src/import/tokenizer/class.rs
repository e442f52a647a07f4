//! Which class of transformers reads a folder's tokenizer, as `AutoTokenizer` decides it.
//!
//! transformers 5 takes tokenizer.json as it is for some classes only. Others keep its vocabulary
//! and merges and build the rest anew (`pipeline`), whatever the file says.

use crate::file::FileError;

use super::super::json::Json;

/// What is done with tokenizer.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It is taken as it is.
    AsItIs,
    Bert,
    Camembert,
    Gemma,
    Gpt2,
    GptNeoX,
    Llama,
    Qwen2,
    Roberta,
    XlmRoberta,
}

/// Classes that build the tokenizer by rules of their own which are not known here, or in Python;
/// without `Tokenizer` and `Fast` behind the name.
const OTHERS: [&str; 88] = [
    "Albert",
    "Bart",
    "Barthez",
    "Bartpho",
    "BertGeneration",
    "BertJapanese",
    "Bertweet",
    "BigBird",
    "BioGpt",
    "Blenderbot",
    "BlenderbotSmall",
    "ByT5",
    "CLIP",
    "CTRL",
    "Canine",
    "Clvp",
    "CodeGen",
    "CodeLlama",
    "Cohere",
    "ConvBert",
    "Cpm",
    "CpmAnt",
    "DPRContextEncoder",
    "DPRQuestionEncoder",
    "DPRReader",
    "Deberta",
    "DebertaV2",
    "Dia",
    "Esm",
    "Esmc",
    "FNet",
    "FSMT",
    "FastSpeech2Conformer",
    "Flaubert",
    "Funnel",
    "GPTNeoXJapanese",
    "GPTSw3",
    "Herbert",
    "LED",
    "Lasr",
    "LayoutLMv2",
    "LayoutLMv3",
    "LayoutXLM",
    "Longformer",
    "Luke",
    "M2M100",
    "MBart",
    "MBart50",
    "MLuke",
    "MPNet",
    "Marian",
    "MarkupLM",
    "Mgpstr",
    "Mvp",
    "MyT5",
    "Nllb",
    "Nougat",
    "OpenAIGPT",
    "PLBart",
    "Pegasus",
    "Perceiver",
    "Phobert",
    "ProphetNet",
    "Qwen3_5",
    "Reformer",
    "RemBert",
    "RoCBert",
    "RoFormer",
    "SeamlessM4T",
    "Siglip",
    "Siglip2",
    "Speech2Text",
    "SpeechT5",
    "Splinter",
    "T5",
    "Tapas",
    "Tipsv2",
    "Udop",
    "VideoPrism",
    "Vits",
    "Wav2Vec2CTC",
    "Wav2Vec2PhonemeCTC",
    "Whisper",
    "XGLM",
    "XLM",
    "XLNet",
    "Pop2Piano",
    "Rag",
];

impl Class {
    /// The class for a folder with this config.json, this tokenizer_config.json, and this text of
    /// tokenizer.json.
    pub(super) fn of(config: &Json, settings: &Json, text: &[u8]) -> Result<Self, FileError> {
        let model = config.text("model_type")?.unwrap_or_default();
        // The only supported type whose folders are known to name a wrong class.
        let is_overruled = model == "qwen2";
        let has_code = settings
            .get("auto_map")
            .is_some_and(|map| map.is_array() || !map["AutoTokenizer"].is_null());
        if has_code && !is_overruled {
            let reason = "a tokenizer in Python code of the model's own is not supported; without the key the class in tokenizer_class is taken";
            return Err(settings.error("auto_map", reason));
        }
        let registered = match model {
            "bert" | "distilbert" => Some("BertTokenizer"),
            "camembert" => Some("CamembertTokenizer"),
            "qwen2" | "qwen3" => Some("Qwen2Tokenizer"),
            "roberta" => Some("RobertaTokenizer"),
            "xlm-roberta" => Some("XLMRobertaTokenizer"),
            _ => None,
        };
        let source = if settings.get("tokenizer_class").is_some() { settings } else { config };
        let stated =
            source.text("tokenizer_class")?.map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let name = match (stated, registered) {
            (Some("LlamaTokenizer"), _) if !is_overruled && has_byte_level(text) => {
                return Ok(Self::AsItIs);
            }
            (Some(_), Some(registered)) if is_overruled && !has_code => registered,
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Ok(Self::AsItIs),
        };
        Self::named(name).ok_or_else(|| {
            let reason = format!(
                "\"{name}\" builds its tokenizer by rules that are not supported; with \"PreTrainedTokenizerFast\" tokenizer.json is taken as it is"
            );
            source.error("tokenizer_class", reason)
        })
    }

    /// A class that transformers does not have takes tokenizer.json as it is.
    fn named(name: &str) -> Option<Self> {
        let stem = name.strip_suffix("Tokenizer").unwrap_or(name);
        match stem {
            "Bert" | "DistilBert" | "Electra" | "LayoutLM" | "Lxmert" | "MobileBert"
            | "SqueezeBert" => Some(Self::Bert),
            "Camembert" => Some(Self::Camembert),
            "Gemma" => Some(Self::Gemma),
            "GPT2" => Some(Self::Gpt2),
            "GPTNeoX" => Some(Self::GptNeoX),
            "Llama" | "Phi3" => Some(Self::Llama),
            "Qwen2" => Some(Self::Qwen2),
            "Roberta" => Some(Self::Roberta),
            "XLMRoberta" => Some(Self::XlmRoberta),
            _ if stem != name && OTHERS.contains(&stem) => None,
            _ => Some(Self::AsItIs),
        }
    }

    /// The special tokens that the class has where the folder names none.
    pub(super) fn default_tokens(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::AsItIs => &[],
            Self::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::Gemma => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Gpt2 => &[("unk_token", END), ("bos_token", END), ("eos_token", END)],
            Self::GptNeoX => &[
                ("unk_token", END),
                ("bos_token", END),
                ("eos_token", END),
                ("pad_token", "<|padding|>"),
            ],
            Self::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::Qwen2 => &[("unk_token", END), ("eos_token", END), ("pad_token", END)],
            Self::Camembert | Self::Roberta | Self::XlmRoberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("sep_token", "</s>"),
                ("cls_token", "<s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
        }
    }
}

/// As transformers looks for it.
fn has_byte_level(text: &[u8]) -> bool {
    const NAME: &[u8] = b"\"ByteLevel\"";
    text.windows(NAME.len()).any(|window| window == NAME)
}
