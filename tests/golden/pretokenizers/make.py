"""Token ids of llama.cpp for each pre-tokenizer that the GGUF importer knows, over one vocabulary.

The vocabulary is trained here, on ../smollm2/lines.jsonl and without cutting the text first, so that its merges cross words,
digits, spaces and line ends: a cut in another place almost always shows in the ids. Writes vocabulary.json ({"tokens": […],
"merges": […]}) and ids.json ({NAME: [[ids of line 0], [ids of line 4], …]}, every fourth line).
`make.py DIR` also writes DIR/NAME.gguf and DIR/NAME.json with the ids of all lines.
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from llama_cpp import Llama
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
# One name for each set of patterns and flags.
NAMES = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken", "default"]
SIZE = 3000


def train(lines):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, max_token_length=12, show_progress=False))
    model = json.loads(tok.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(m) for m in model["merges"]]


def write(path, name, tokens, merges):
    """A file with this vocabulary and a decoder of zeros, as small as llama.cpp loads."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(32)
    w.add_embedding_length(4)
    w.add_block_count(1)
    w.add_feed_forward_length(4)
    w.add_head_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(name)
    w.add_token_list(tokens)
    w.add_token_merges(merges)
    w.add_bos_token_id(0)
    shapes = {"token_embd": (len(tokens), 4), "output_norm": (4,), "blk.0.attn_norm": (4,), "blk.0.ffn_norm": (4,)}
    shapes |= {f"blk.0.{p}": (4, 4) for p in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    for part, shape in shapes.items():
        w.add_tensor(f"{part}.weight", np.zeros(shape, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def run(out):
    lines = [json.loads(line)["text"] for line in (HERE.parent / "smollm2/lines.jsonl").read_text().split("\n") if line]
    tokens, merges = train(lines)
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
    (HERE / "vocabulary.json").write_text(dump({"tokens": tokens, "merges": merges}))
    stored = {}
    for name in NAMES:
        write(out / f"{name}.gguf", name, tokens, merges)
        model = Llama(str(out / f"{name}.gguf"), vocab_only=True, verbose=False)
        ids = [model.tokenize(line.encode(), add_bos=False, special=True) for line in lines]
        (out / f"{name}.json").write_text(dump(ids))
        stored[name] = ids[::4]
    (HERE / "ids.json").write_text("{" + ",\n".join(f'"{name}":{dump(ids).strip()}' for name, ids in stored.items()) + "}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            run(Path(scratch))
