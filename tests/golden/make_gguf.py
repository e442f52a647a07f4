"""Golden GGUF data: blocks of each tensor type with ggml's own values for them, the tiny Llama and its LoRA adapter as GGUF
files, and other configurations. Writes gguf/. Needs tiny-llama/ and tiny-variants/.

ggml is the shared library inside llama-cpp-python, called through ctypes; gguf-py's numpy dequantizer must agree to the
bit. The files are written with gguf-py, with the tensor names and the q/k row order of llama.cpp's converter."""

import ctypes
import json
import re
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file

from common import HERE, folder, save_tensors, settle
from make_llama import SHAPE, llama, logits, numbered, read_tokens

# Type name → byte offsets of the f16 fields inside a block.
HALVES = {
    "F32": (), "F16": (), "BF16": (), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,),
}  # fmt: skip
COLUMNS = 256


class Traits(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64), ("size", ctypes.c_size_t),
        ("quantized", ctypes.c_bool), ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]  # fmt: skip


def ggml():
    lib = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    return lib


def pointer(a):
    return a.ctypes.data_as(ctypes.c_void_p)


def sample():
    """Rows of weights with outliers, of very different blocks, and one that is zero in half."""
    g = np.random.default_rng(300)
    x = g.standard_normal((3, COLUMNS)) * 0.05
    x[0, ::37] *= 20
    x[1] *= np.repeat(np.exp(g.standard_normal(COLUMNS // 32) * 2), 32)
    x[2, : COLUMNS // 2] = 0
    return x.astype(np.float32)


def quantized(lib, kind, size, x):
    out = np.zeros((len(x), size), np.uint8)
    if kind == "F32":
        return x.view(np.uint8).reshape(len(x), -1)
    number = int(gguf.GGMLQuantizationType[kind])
    assert lib.ggml_quantize_chunk(number, pointer(x), pointer(out), 0, len(x), COLUMNS, None) == out.size
    return out


def arbitrary(kind, block, size, seed):
    """A row of random bytes with small finite f16 fields: every code, also those a quantizer seldom writes."""
    g = np.random.default_rng(seed)
    if kind in ("F32", "F16", "BF16"):
        wide = (g.standard_normal((1, COLUMNS)) * np.exp(g.standard_normal((1, COLUMNS)) * 4)).astype(np.float32)
        wide[0, ::5] *= np.float32(1e-6)  # subnormal in f16
        kinds = {"F32": wide, "F16": np.clip(wide, -6e4, 6e4).astype(np.float16), "BF16": wide.view(np.uint16)[:, 1::2]}
        return np.ascontiguousarray(kinds[kind]).view(np.uint8).reshape(1, -1)
    blocks = g.integers(0, 256, (COLUMNS // block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        blocks[:, at : at + 2] = (g.standard_normal(len(blocks)) * 0.01).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(1, -1)


def block_types(out):
    lib, stored, x = ggml(), {}, sample()
    for i, kind in enumerate(HALVES):
        traits = lib.ggml_get_type_traits(int(gguf.GGMLQuantizationType[kind])).contents
        row = COLUMNS // traits.block * traits.size
        blocks = np.concatenate([quantized(lib, kind, row, x), arbitrary(kind, traits.block, traits.size, 310 + i)])
        values = np.zeros((len(blocks), COLUMNS), np.float32)
        if kind == "F32":
            values = blocks.view(np.float32)
        else:
            traits.to_float(pointer(blocks), pointer(values), values.size)
        assert np.isfinite(values).all()
        again = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
        assert np.array_equal(again.reshape(values.shape), values), kind
        stored |= {f"{kind}.blocks": blocks, f"{kind}.values": values}
    save_tensors(out / "tensors.safetensors", stored)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
LAYER = "model.layers."


def gguf_name(module):
    if module.startswith(LAYER):
        number, rest = module.removeprefix(LAYER).split(".", 1)
        return f"blk.{number}.{NAMES[rest]}"
    return NAMES[module]


def permuted(rows, heads):
    """llama.cpp rotates neighbouring pairs, Hugging Face halves: row order [head, 2, half] becomes [head, half, 2]."""
    return np.ascontiguousarray(rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def unpermuted(rows, heads):
    return np.ascontiguousarray(rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def heads_of(module, config):
    """Heads whose rows the converter permutes in this module; 0 if it does not."""
    if config["model_type"] != "llama":
        return 0
    return {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(module.split(".")[-1], 0)


def bytes_of(writer, path):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.chmod(0o644)


def tokenizer(writer, size):
    """A byte-level BPE of SIZE tokens, enough for llama.cpp to load the file."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    single = ["Ġ", "Ċ"] + letters + [c.upper() for c in letters] + list("0123456789.,!?'-:;")
    merges = "Ġ t|Ġ a|h e|i n|Ġt he|e r|a n|r e|o n|Ġ s|Ġ w|an d|Ġ c|Ġa n|e n|o r|e s|Ġ o|in g|Ġs t|Ġ b".split("|")
    words = ["<|pad|>", "<|bos|>", "<|eos|>"] + single + [m.replace(" ", "") for m in merges]
    words = words[:size]
    assert len(set(words)) == size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (size - 3))
    writer.add_token_merges([m for m in merges if m.replace(" ", "") in words] or ["Ġ t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def write_model(source, path, half=lambda name: False):
    """SOURCE (a Hugging Face folder) as GGUF: norms f32, weights f16 where HALF says so, else f32."""
    config = json.loads((source / "config.json").read_text())
    rope = config["rope_parameters"]
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_type("model")
    writer.add_name(path.stem)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if config["model_type"] == "llama":
        writer.add_rope_dimension_count(head)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half("blk.0.attn_q.weight") else gguf.LlamaFileType.ALL_F32)
    tokenizer(writer, config["vocab_size"])
    for name, value in sorted(load_file(source / "model.safetensors").items()):
        module, _, part = name.rpartition(".")
        heads = heads_of(module, config)
        value = permuted(value, heads) if heads else value
        target = f"{gguf_name(module)}.{part}"
        writer.add_tensor(target, value.astype(np.float16) if value.ndim == 2 and half(target) else value)
    bytes_of(writer, path)


def llama3_factors(rope, head):
    """What llama.cpp divides each frequency by."""
    f = rope["rope_theta"] ** -(np.arange(0, head, 2) / head)
    turns = rope["original_max_position_embeddings"] * f / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def write_adapter(source, config, path):
    facts = json.loads((source / "adapter_config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(facts["lora_alpha"]))
    for name, value in sorted(load_file(source / "adapter_model.safetensors").items()):
        module, part = re.fullmatch(r"base_model\.model\.(.*)\.lora_(A|B)\.weight", name).groups()
        heads = heads_of(module, config)
        if part == "B" and heads:
            value = permuted(value, heads)
        writer.add_tensor(f"{gguf_name(module)}.weight.lora_{part.lower()}", value)
    bytes_of(writer, path)


def weights_of(path):
    """The f32 values of a GGUF written above, under Hugging Face's names and row order."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[f"llama.attention.{key}"].contents()
    heads = {"attn_q": field("head_count"), "attn_k": field("head_count_kv")}
    back = {v: k for k, v in NAMES.items()}
    out = {}
    for t in reader.tensors:
        value = np.array(t.data).astype(np.float32)
        parts = t.name.split(".")
        if parts[-2] in heads:
            value = unpermuted(value, heads[parts[-2]])
        module = f"{LAYER}{parts[1]}.{back[parts[2]]}" if parts[0] == "blk" else back[parts[0]]
        out[f"{module}.{parts[-1]}"] = value
    return out


def run():
    settle(5)
    out = folder("gguf")
    block_types(out)
    source = HERE / "tiny-llama"
    config = json.loads((source / "config.json").read_text())
    # All weights f16 but those of one down_proj.
    write_model(source, out / "tiny-llama.gguf", lambda name: name != "blk.1.ffn_down.weight")
    write_adapter(source / "adapters" / "lora", config, out / "lora.gguf")
    for name in ("qwen2", "qwen3", "llama3-rope", "linear-rope"):
        write_model(HERE / "tiny-variants" / name, out / f"{name}.gguf")
    model = llama(SHAPE, 0)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights_of(out / "tiny-llama.gguf").items()})
    sequences = read_tokens("tiny-llama")[:1]
    stored = numbered("base", logits(model, sequences))
    lora = PeftModel.from_pretrained(model, source / "adapters" / "lora").eval()
    stored |= numbered("lora", logits(lora, sequences))
    save_tensors(out / "logits.safetensors", stored)
