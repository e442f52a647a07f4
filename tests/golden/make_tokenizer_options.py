"""Token ids of `AutoTokenizer` for small folders: classes of transformers times what tokenizer_config.json and its older
companions say. Writes tokenizer-options/: four tokenizers, cases.jsonl with one folder a line, and ids.jsonl, the ids that
occur, one line for all texts.

    python make_tokenizer_options.py

A case: `model` (its model_type), `tokenizer` (a file here) and `patch` (keys of it that are replaced), `files` (the folder's
other files), `ids` (a line of ids.jsonl: one list a text of `texts.json`, special tokens included; `cut` where texts are cut
to that many tokens), or `refused`, the key that lowrank refuses.
Made with transformers 5.24.0, tokenizers 0.23.3. Folders that transformers itself cannot read are left out."""

import itertools
import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

OUT = Path(__file__).resolve().parent / "tokenizer-options"
TEXTS = [
    "Hello WORLD, é É 日本",
    "x<s>the  in</s> the",
    "a <tool> b<tool>c < TOOL >",
    "don't 2024  12345\n\n\tx",
    "the [SEP]<|im_end|>\u0301 Ⅻ",
    "",
]


def wordpiece():
    letters = [chr(c) for c in range(33, 127)] + list("éÉ日本\u0301Ⅻ")
    pieces = ["hello", "world", "Hello", "the", "##ing", "WORLD"] + ["##" + c for c in letters]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + letters + pieces
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def with_merges(vocab, merges):
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    return vocab, merges


def byte_level():
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("h", "e"), ("t", "he"), ("i", "n"), ("Ġ", "t"), ("Ġt", "he"), ("Ġ", "Ġ"), ("Ġ", "2"), ("2", "0"), ("o", "n")]
    vocab, merges = with_merges(vocab, merges)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>", "<|im_end|>")])
    return tokenizer


def sentencepiece():
    """The BPE of Llama 2 with the normalizer of its older conversions."""
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])}
    for c in "▁" + "".join(chr(c) for c in range(33, 127)):
        vocab.setdefault(c, len(vocab))
    vocab, merges = with_merges(vocab, [("h", "e"), ("t", "he"), ("▁", "the"), ("▁", "▁"), ("▁", "x"), ("i", "n"), ("▁", "in")])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0", pair="<s>:0 $A:0 <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


def unigram():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "▁in", "the", "▁hello", "▁world"]
    vocab = [(t, 0.0) for t in pieces[:4]] + [(t, -2.0 - i / 4) for i, t in enumerate(pieces[4:])]
    vocab += [(chr(c), -8.0) for c in range(33, 127)] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


TOKENIZERS = {f.__name__: f() for f in (wordpiece, byte_level, sentencepiece, unigram)}
TOKENIZERS = {name: json.loads(tokenizer.to_str()) for name, tokenizer in TOKENIZERS.items()}
CASED = {"normalizer": {**TOKENIZERS["wordpiece"]["normalizer"], "lowercase": False}}
# SmolLM's pre-tokenizer: every digit alone.
DIGITS = {
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, TOKENIZERS["byte_level"]["pre_tokenizer"]],
    }
}
LEFT = {"truncation": {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}}


def token(content="<tool>", **flags):
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


def marked(**flags):
    return {"__type": "AddedToken", **token(**flags)}


def config(**settings):
    return {"tokenizer_config.json": settings}


SPECIAL = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
NEW = "5000"  # transformers takes the next free id, whatever is stated
# Options that any class may have beside it.
OPTIONS = {
    "nothing": {},
    "additional": config(additional_special_tokens=["<tool>"]),
    "additional, flags": config(additional_special_tokens=[marked(lstrip=True, rstrip=True)]),
    "extra, a dictionary": config(extra_special_tokens={"tool_token": "<tool>"}),
    "a role of its own": config(tool_token="<tool>"),
    "pad": config(pad_token="<tool>"),
    "decoder": config(added_tokens_decoder={NEW: token()}),
    "decoder, special by its role": config(added_tokens_decoder={NEW: token(special=False)}, pad_token="<tool>"),
    "decoder, lstrip": config(added_tokens_decoder={NEW: token(lstrip=True)}),
    "decoder, rstrip": config(added_tokens_decoder={NEW: token(rstrip=True)}),
    "decoder, normalized": config(added_tokens_decoder={NEW: token(normalized=True, special=False)}),
    "decoder, single word": config(added_tokens_decoder={NEW: token("b", single_word=True)}),
    "decoder, a word of the vocabulary": config(added_tokens_decoder={"20": token("the"), "7": token("x", lstrip=True)}),
    "added_tokens.json": {"added_tokens.json": {"<tool>": 5000, "hel": 5001}},
    "added_tokens.json, special": {"added_tokens.json": {"<tool>": 5000}, "tokenizer_config.json": {"pad_token": "<tool>"}},
    "special_tokens_map.json": {
        "special_tokens_map.json": {"pad_token": {k: v for k, v in token(lstrip=True).items() if k != "special"}},
        "tokenizer_config.json": {"pad_token": "x"},
    },
    "special_tokens_map.json, additional": {"special_tokens_map.json": {"additional_special_tokens": ["<tool>", "in"]}},
    "bos, eos": config(add_bos_token=True, add_eos_token=True, eos_token="<tool>"),
}
PREFIX = {"prefix": config(add_prefix_space=True), "no prefix": config(add_prefix_space=False)}
LEGACY = {"legacy": config(legacy=True), "not legacy": config(legacy=False), "legacy, no prefix": config(legacy=True, add_prefix_space=False)}
BERT = {
    "lower": config(do_lower_case=True),
    "not lower": config(do_lower_case=False),
    "accents kept": config(strip_accents=False),
    "accents stripped": config(do_lower_case=False, strip_accents=True),
    "no Chinese": config(tokenize_chinese_chars=False),
    "not basic": config(do_basic_tokenize=False, never_split=["hello"], clean_text=False),
}


def cases():
    """model, tokenizer, patch, class, options, and the key that lowrank refuses or the length that texts are cut to."""
    for (patch, name), (label, options) in itertools.product(
        [({}, None), (CASED, None)]
        + [
            (patch, name)
            for patch in ({}, CASED)
            for name in ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "DistilBertTokenizer", "FancyTokenizer", "ElectraTokenizer")
        ],
        BERT.items(),
    ):
        yield "bert", "wordpiece", patch, name, {"tokenizer_config.json": {**SPECIAL, **options["tokenizer_config.json"]}}, None
    for name, options in itertools.product((None, "PreTrainedTokenizerFast", "BertTokenizer"), OPTIONS.values()):
        yield "bert", "wordpiece", {}, name, options, None
    for name in ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast", "CamembertTokenizer", "PreTrainedTokenizerFast"):
        for options in ({}, *PREFIX.values(), OPTIONS["additional"], OPTIONS["decoder, lstrip"]):
            yield "bert", "unigram", {}, name, options, None
    yield "bert", "unigram", {}, "CamembertTokenizer", config(mask_token="<mask>", unk_token="a", additional_special_tokens=[]), None
    for name in ("RobertaTokenizer", "RobertaTokenizerFast"):
        for options in (*OPTIONS.values(), *PREFIX.values()):
            yield "bert", "byte_level", {}, name, options, None
    classes = (None, "PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer")
    classes += ("GPT2Tokenizer", "GPTNeoXTokenizerFast", "GemmaTokenizer")
    for model, name in itertools.product(("llama", "qwen2", "qwen3"), classes):
        for tokenizer, patch in (("byte_level", {}), ("byte_level", DIGITS), ("sentencepiece", {})):
            yield model, tokenizer, patch, name, {}, None
    for name in ("PreTrainedTokenizerFast", "LlamaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer"):
        for options in (*OPTIONS.values(), *PREFIX.values()):
            yield "llama", "byte_level", {}, name, options, None
    for name in ("PreTrainedTokenizerFast", "LlamaTokenizer", "GemmaTokenizer"):
        for options in (*OPTIONS.values(), *PREFIX.values(), *LEGACY.values()):
            yield "llama", "sentencepiece", {}, name, options, None
    for options in OPTIONS.values():
        yield "qwen2", "byte_level", {}, "PreTrainedTokenizerFast", options, None
    for name in ("GPT2TokenizerFast", "GemmaTokenizerFast", "PreTrainedTokenizer", "BloomTokenizerFast", "Phi3TokenizerFast"):
        for tokenizer in ("byte_level", "sentencepiece"):
            yield "llama", tokenizer, {}, name, {}, None
    for name in ("MobileBertTokenizerFast", "LayoutLMTokenizer", "RetriBertTokenizer", "LxmertTokenizer"):
        yield "bert", "wordpiece", CASED, name, {}, None
    # The class may stand in config.json too; a class in code of the model's own is not run.
    yield "llama", "sentencepiece", {}, None, {"config.json": {"tokenizer_class": "LlamaTokenizer"}}, None
    code = {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}
    yield "llama", "byte_level", {}, None, config(**code), "auto_map"
    yield "qwen2", "byte_level", {}, "Qwen2Tokenizer", config(**code), None
    for name in ("CodeLlamaTokenizer", "CohereTokenizerFast", "T5Tokenizer", "ByT5Tokenizer"):
        yield "llama", "sentencepiece", {}, name, {}, "tokenizer_class"
    for name in ("MPNetTokenizer", "AlbertTokenizerFast", "LukeTokenizer", "LongformerTokenizer", "ConvBertTokenizerFast", "DPRReaderTokenizer"):
        yield "bert", "wordpiece", {}, name, {}, "tokenizer_class"
    yield "llama", "byte_level", {}, None, config(split_special_tokens=True), "split_special_tokens"
    yield "bert", "wordpiece", {}, None, config(split_special_tokens=True), "split_special_tokens"
    yield "llama", "byte_level", {}, None, config(fast_tokenizer_files=["tokenizer.4.0.0.json"]), "fast_tokenizer_files"
    yield "bert", "wordpiece", {}, None, config(do_lower_case="yes"), "do_lower_case"
    yield "bert", "wordpiece", {}, None, config(sep_token=None), "sep_token"
    for patch, name, side in itertools.product(({}, LEFT), ("BertTokenizer", "PreTrainedTokenizerFast"), (None, "left", "right")):
        yield "bert", "wordpiece", patch, name, config(**({"truncation_side": side} if side else {})), 5


def folder(model, tokenizer, patch, name, options):
    files = {file: dict(value) for file, value in options.items()}
    files["config.json"] = {"model_type": model, **files.get("config.json", {})}
    if name:
        files["tokenizer_config.json"] = {"tokenizer_class": name, **files.get("tokenizer_config.json", {})}
    files["tokenizer.json"] = {**TOKENIZERS[tokenizer], **patch}
    return files


def expected(files, cut):
    with tempfile.TemporaryDirectory() as place:
        for name, value in files.items():
            Path(place, name).write_text(json.dumps(value))
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        options = {"truncation": True, "max_length": cut} if cut else {}
        return [tokenizer(text, **options)["input_ids"] for text in TEXTS]


def main():
    OUT.mkdir(exist_ok=True)
    for name, value in TOKENIZERS.items():
        (OUT / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    (OUT / "texts.json").write_text(json.dumps(TEXTS) + "\n")
    lines, all_ids, left_out = [], {}, []
    for model, tokenizer, patch, name, options, more in cases():
        files = folder(model, tokenizer, patch, name, options)
        case = {"model": model, "tokenizer": tokenizer, "patch": patch}
        case["files"] = {file: value for file, value in files.items() if file not in ("tokenizer.json", "config.json")}
        case["config"] = {key: value for key, value in files["config.json"].items() if key != "model_type"}
        if isinstance(more, str):
            case["refused"] = more
        else:
            try:
                ids = json.dumps(expected(files, more), separators=(",", ":"))
            except Exception as error:
                left_out.append(f"{model} {tokenizer} {name} {options}: {type(error).__name__} {str(error)[:80]}")
                continue
            case["ids"] = all_ids.setdefault(ids, len(all_ids))
            if more:
                case["cut"] = more
        line = json.dumps(case, ensure_ascii=False, separators=(",", ":"))
        if line not in lines:
            lines.append(line)
    (OUT / "cases.jsonl").write_text("\n".join(lines) + "\n")
    (OUT / "ids.jsonl").write_text("\n".join(all_ids) + "\n")
    print(len(lines), "cases; transformers cannot read", len(left_out))
    print("\n".join(left_out))


if __name__ == "__main__":
    main()
