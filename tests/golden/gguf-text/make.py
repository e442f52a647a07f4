"""Token ids of llama.cpp (and for BERT of transformers) for small vocabularies in GGUF's form.

Writes, for tests/gguf_tokenizers.rs:
  sentencepiece.json   {"tokens", "scores", "types", "texts", "ids", "ids_without_prefix"}: a BPE of 1,200 pieces trained here
  wordpiece.json       {"tokens", "types", "special", "texts", "ids", "llama_cpp"}: ids are transformers' with [CLS] and [SEP];
                       llama_cpp lists the texts for which llama.cpp has the same ones
  pretokenizers.json   {"texts", "ids": {NAME: …}}: the vocabulary of ../pretokenizers, the names that are not there

    pip install gguf llama-cpp-python numpy sentencepiece tokenizers transformers
    python make.py
"""

import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from llama_cpp import Llama
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizerFast

HERE = Path(__file__).parent
LINES = [json.loads(line)["text"] for line in (HERE.parent / "smollm2/lines.jsonl").read_text().split("\n") if line]
PLAIN = [line for line in LINES if "<|" not in line and "<repo" not in line and "<file" not in line]
NAMES = """deepseek-llm deepseek-coder deepseek-v3 falcon jais-2 qwen35 bloom viking glm4 chameleon gpt-4o superbpe bailingmoe
seed-coder exaone-moe minicpm5 laguna""".split()
EDGES = [
    "1234567 12 3 4567", "x\u00a0\u2003y \t z", "don't DON'T I'LL we'Re", "ab12cd345678", "   lead", "trail   ", "a\n\n\nb\r\nc",
    "日本語テキスト 中文", "foo_bar(baz)[0]='x';", "$100,000.00", "IMGIMGABZ <sentinel:12>", " / // a/b/", "١٢٣٤٥", "é e\u0301 ñ",
    "x" + " " * 600 + "y", "…—“q”",
]
SPECIAL = ["<s>hi</s> there <|user|> x", "===a=== b", "  two  spaces ", "\n\n", "<0x0A>", "▁a ▁", "🙂é日", "a" * 40, "", "<unk>"]
BERT = [
    "हिन्दी में लिखा हुआ वाक्य", "한국어 문장", "İstanbul DİYARBAKIR ẞ ŒUVRE", "e\u0301 o\u0308x ﬁ ½", "a\u200bb\u200d\u00adc",
    "x\u00a0y\u3000z\u2028w", "中文 字符, 漢字かな", "$5+3=8^2 `q` |a| ~b <c>", "tab\tnew\nline\r\x00\x01\x7f end\ufffd", "a" * 150,
    "[CLS] hi [SEP] [MASK] [unused1]", "don't U.S.A. 3.14", "Ǆ Ⅷ Ω Å", "zzqqxx",
]


def dump(name, value):
    (HERE / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def ids(folder, tokens, texts, special=True, **keys):
    """llama.cpp's ids for a file with these metadata and a decoder of zeros."""
    path = folder / "model.gguf"
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(32)
    w.add_embedding_length(4)
    w.add_block_count(1)
    w.add_feed_forward_length(4)
    w.add_head_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_token_list(tokens)
    for key, value in keys.items():
        getattr(w, f"add_{key}")(value)
    shapes = {"token_embd": (len(tokens), 4), "output_norm": (4,), "blk.0.attn_norm": (4,), "blk.0.ffn_norm": (4,)}
    shapes |= {f"blk.0.{p}": (4, 4) for p in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    for part, shape in shapes.items():
        w.add_tensor(f"{part}.weight", np.zeros(shape, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    model = Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=special) for text in texts]


def sentence_piece(folder):
    (folder / "lines.txt").write_text("\n".join(" ".join(line.split("\n")) for line in LINES))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "lines.txt"), model_prefix=str(folder / "model"), vocab_size=1200, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        user_defined_symbols=["<|user|>", "==="], unk_id=0, bos_id=1, eos_id=2, pad_id=-1, max_sentence_length=100000, minloglevel=2,
    )
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "model.model"))
    n = range(sp.vocab_size())
    tokens = [sp.id_to_piece(i) for i in n]
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 4 if i in (3, 4) else 1
    vocabulary = {"tokens": tokens, "scores": [sp.get_score(i) for i in n], "types": [kind(i) for i in n]}
    keys = {"tokenizer_model": "llama", "token_scores": vocabulary["scores"], "token_types": vocabulary["types"]}
    texts = LINES[::8] + SPECIAL
    own = {"texts": texts, "ids": ids(folder, tokens, texts, **keys)}
    own["ids_without_prefix"] = ids(folder, tokens, texts, add_space_prefix=False, **keys)
    dump("sentencepiece.json", vocabulary | own)


def word_piece(folder):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1200, limit_alphabet=500, special_tokens=special, show_progress=False)
    tok.train_from_iterator(LINES + BERT * 3, trainer)
    words = sorted(tok.get_vocab(), key=tok.get_vocab().get)
    (folder / "vocab.txt").write_text("\n".join(words))
    bert = BertTokenizerFast(vocab=tok.get_vocab(), do_lower_case=True)
    # As llama.cpp's converter writes them.
    bracketed = lambda word: len(word) > 2 and word.startswith("[") and word.endswith("]")
    tokens = [w if bracketed(w) else w[2:] if w.startswith("##") and len(w) > 2 else "▁" + w for w in words]
    types = [3 if word in special and word != "[unused1]" else 1 for word in words]
    texts = LINES[::8] + BERT
    expected = [bert(text)["input_ids"] for text in texts]
    keys = {f"{k}_token_id": words.index(t) for k, t in (("bos", "[CLS]"), ("sep", "[SEP]"), ("unk", "[UNK]"))}
    found = ids(folder, tokens, texts, tokenizer_model="bert", token_types=types, **keys)
    same = [i for i, (a, b) in enumerate(zip(expected, found)) if a[1:-1] == b]
    dump("wordpiece.json", {"tokens": tokens, "types": types, "special": [words.index(t) for t in ("[CLS]", "[SEP]", "[UNK]")],
                            "texts": texts, "ids": expected, "llama_cpp": same})


def pre_tokenizers_of(folder):
    vocabulary = json.loads((HERE.parent / "pretokenizers/vocabulary.json").read_text())
    texts = PLAIN[::25] + EDGES
    keys = {"tokenizer_model": "gpt2", "token_merges": vocabulary["merges"], "bos_token_id": 0}
    found = {name: ids(folder, vocabulary["tokens"], texts, tokenizer_pre=name, **keys) for name in NAMES}
    dump("pretokenizers.json", {"texts": texts, "ids": found})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sentence_piece(Path(scratch))
        word_piece(Path(scratch))
        pre_tokenizers_of(Path(scratch))
