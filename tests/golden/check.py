"""An independent check: recomputes the golden logits with numpy in f64 from the stored files alone, by the definitions

    y = W x + b + Σ w·[(k − 1) ⊙ (W x) + k ⊙ s·(B(A x) + b_B)],   k = 1 or m / ‖W + sBA‖ per row,   s = alpha/r or alpha/√r

and compares. It uses none of torch, transformers, PEFT and bitsandbytes."""

import json
import math
import re

import numpy as np
from safetensors.numpy import load_file

from common import HERE

PREFIX = "base_model.model."


def read_json(path):
    return json.loads(path.read_text())


def dequantized(tensors):
    """f32 weights of a checkpoint whose linear layers may be bitsandbytes NF4."""
    out = {}
    for name, value in tensors.items():
        state = tensors.get(f"{name}.quant_state.bitsandbytes__nf4")
        if state is None:
            if ".weight." not in name:
                out[name] = value.astype(np.float64)
            continue
        facts = json.loads(bytes(state))
        scale = tensors[f"{name}.absmax"]
        if "nested_offset" in facts:
            nested = np.repeat(tensors[f"{name}.nested_absmax"], facts["nested_blocksize"])[: scale.size]
            scale = tensors[f"{name}.nested_quant_map"][scale] * nested + np.float32(facts["nested_offset"])
        codes = np.stack([value.reshape(-1) >> 4, value.reshape(-1) & 15], 1).reshape(-1)
        count = math.prod(facts["shape"])
        flat = tensors[f"{name}.quant_map"][codes[:count]] * np.repeat(scale, facts["blocksize"])[:count]
        out[name] = flat.reshape(facts["shape"]).astype(np.float64)
    return out


class Adapter:
    def __init__(self, path, weight=1.0):
        self.facts, self.weight = read_json(path / "adapter_config.json"), weight
        self.tensors = {k: v.astype(np.float64) for k, v in load_file(path / "adapter_model.safetensors").items()}

    def of(self, module, suffix):
        return self.tensors.get(f"{PREFIX}{module}.{suffix}")

    def scale(self, module, rank):
        def pattern(table, default):
            hits = (v for k, v in table.items() if re.match(rf"(.*\.)?({k})$", module))
            return next(hits, default)

        assert rank == pattern(self.facts["rank_pattern"], self.facts["r"]), module
        alpha = pattern(self.facts["alpha_pattern"], self.facts["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.facts["use_rslora"] else rank)


def linear(model, module, x):
    """x [tokens, in] → [tokens, out]"""
    w = model["weights"].get(f"{module}.weight")
    if w is None and module == "lm_head":
        w = model["weights"]["model.embed_tokens.weight"]
    plain = x @ w.T
    bias = model["weights"].get(f"{module}.bias")
    y = plain if bias is None else plain + bias
    for adapter in model["adapters"]:
        a, b = adapter.of(module, "lora_A.weight"), adapter.of(module, "lora_B.weight")
        if a is None:
            continue
        s, m, bias = adapter.scale(module, len(a)), adapter.of(module, "lora_magnitude_vector"), adapter.of(module, "lora_B.bias")
        delta = s * (x @ a.T @ b.T + (0 if bias is None else bias))
        if m is not None:
            norm = np.linalg.norm(w + s * b @ a, axis=1)
            k = m / np.where(norm == 0, 1, norm)
            delta = (k - 1) * plain + k * delta
        y = y + adapter.weight * delta
    return y


def embed(model, ids):
    x = model["weights"]["model.embed_tokens.weight"][ids]
    for adapter in model["adapters"]:
        a = adapter.of("model.embed_tokens", "lora_embedding_A")
        if a is not None:
            b = adapter.of("model.embed_tokens", "lora_embedding_B")
            x = x + adapter.weight * adapter.scale("model.embed_tokens", len(a)) * a.T[ids] @ b.T
    return x


def norm(model, name, x):
    scaled = x / np.sqrt((x * x).mean(-1, keepdims=True) + model["config"]["rms_norm_eps"])
    return scaled * model["weights"][f"{name}.weight"]


def frequencies(config, head):
    rope = config["rope_parameters"]
    f = rope["rope_theta"] ** -(np.arange(0, head, 2) / head)
    if rope["rope_type"] == "linear":
        return f / rope["factor"]
    if rope["rope_type"] == "llama3":
        low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
        turns = old * f / (2 * math.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - smooth) * f / rope["factor"] + smooth * f
    assert rope["rope_type"] == "default"
    return f


def rotate(x, angles):
    """x [tokens, heads, head]: the two halves of a head are a pair."""
    a, b = np.split(x, 2, -1)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(model, name, x):
    c, n = model["config"], len(x)
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    head = c.get("head_dim") or c["hidden_size"] // heads
    q, k, v = (linear(model, f"{name}.{p}_proj", x).reshape(n, -1, head) for p in "qkv")
    if f"{name}.q_norm.weight" in model["weights"]:
        q, k = norm(model, f"{name}.q_norm", q), norm(model, f"{name}.k_norm", k)
    angles = np.arange(n)[:, None] * frequencies(c, head)
    q, k = rotate(q, angles), rotate(k, angles)
    k, v = (np.repeat(t, heads // kv, 1) for t in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(head)
    scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return linear(model, f"{name}.o_proj", np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1))


def forward(model, ids):
    x = embed(model, ids)
    for i in range(model["config"]["num_hidden_layers"]):
        name = f"model.layers.{i}"
        x = x + attention(model, f"{name}.self_attn", norm(model, f"{name}.input_layernorm", x))
        h = norm(model, f"{name}.post_attention_layernorm", x)
        gate, up = linear(model, f"{name}.mlp.gate_proj", h), linear(model, f"{name}.mlp.up_proj", h)
        x = x + linear(model, f"{name}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
    return linear(model, "lm_head", norm(model, "model.norm", x))


def compare(base, variant, adapters=(), expected=None, tokens=None, weights=None, name=None):
    path = HERE / base
    weights = weights or dequantized(load_file(path / "model.safetensors"))
    model = {"config": read_json(path / "config.json"), "weights": weights, "adapters": list(adapters)}
    golden = load_file((HERE / (expected or base)) / "logits.safetensors")
    worst = 0.0
    for i, ids in enumerate(read_json((tokens or path) / "tokens.json")["sequences"]):
        want = golden.get(f"{variant}.{i}")
        if want is None:
            assert i > 0, variant
            break
        worst = max(worst, np.abs(forward(model, ids) - want).max() / np.abs(want).max())
    print(f"  {name or base:24} {variant:14} relative to the largest logit {worst:.1e}")
    assert worst < 1e-5


def run():
    llama = HERE / "tiny-llama"
    stored = lambda name, weight=1.0, at=llama: Adapter(at / "adapters" / name, weight)
    compare("tiny-llama", "base")
    for name in ("lora", "rslora", "dora", "embed_head", "lora_bias"):
        compare("tiny-llama", name, [stored(name)])
    compare("tiny-llama", "two", [stored("lora"), stored("rslora")])
    compare("tiny-llama", "two_weighted", [stored("lora", 0.5), stored("rslora", -1.25)])
    compare("tiny-llama", "dora_lora", [stored("dora"), stored("lora")])
    zero = HERE / "tiny-zero-row"
    compare("tiny-zero-row", "base")
    for name in ("dora", "dora_zero_norm"):
        compare("tiny-zero-row", "dora", [stored(name, at=zero)], name=f"tiny-zero-row {name}")
    for base in ("tiny-llama-bnb", "tiny-llama-bnb-plain"):
        compare(base, "base", tokens=llama)
        compare(base, "lora", [stored("lora")], tokens=llama)
        compare(base, "dora", [stored("dora", at=HERE / "tiny-llama-bnb")], tokens=llama)
    for path in sorted((HERE / "tiny-variants").iterdir()):
        compare(f"tiny-variants/{path.name}", "base")
    check_gguf(stored)


def check_gguf(stored):
    """The values in the GGUF files, read with gguf-py and mapped back to Hugging Face's names and row order; and llama.cpp
    itself on the same files, which computes with f16 caches and so agrees less closely."""
    from make_gguf import weights_of

    weights = {k: v.astype(np.float64) for k, v in weights_of(HERE / "gguf" / "tiny-llama.gguf").items()}
    tokens = HERE / "tiny-llama"
    compare("tiny-llama", "base", expected="gguf", tokens=tokens, weights=weights, name="tiny-llama.gguf")
    compare("tiny-llama", "lora", [stored("lora")], expected="gguf", tokens=tokens, weights=weights, name="tiny-llama.gguf")
    llama_cpp("tiny-llama", "gguf", "base", tokens)
    llama_cpp("tiny-llama", "gguf", "lora", tokens, adapter="lora.gguf")
    for name in ("qwen2", "qwen3", "llama3-rope", "linear-rope"):
        llama_cpp(name, f"tiny-variants/{name}", "base", HERE / "tiny-variants" / name)


def llama_cpp(name, expected, variant, tokens, adapter=None):
    from llama_cpp import Llama

    path = HERE / "gguf"
    model = Llama(
        str(path / f"{name}.gguf"), n_ctx=64, logits_all=True, verbose=False, n_threads=1,
        lora_path=str(path / adapter) if adapter else None,
    )  # fmt: skip
    ids = read_json(tokens / "tokens.json")["sequences"][0]
    model.eval(ids)
    want = load_file(HERE / expected / "logits.safetensors")[f"{variant}.0"]
    worst = np.abs(model.scores[: len(ids)] - want).max() / np.abs(want).max()
    print(f"  {name:24} {variant:14} llama.cpp itself {worst:.1e}")
    assert worst < 2e-2
