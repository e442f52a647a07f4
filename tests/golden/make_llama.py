"""Golden logits of a tiny random Llama under PEFT adapters. Writes tiny-llama/ and tiny-zero-row/.

PEFT and transformers do the arithmetic here; check.py repeats it without them."""

import json
import warnings

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from common import folder, save_json, save_tensors, settle

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = dict(
    hidden_size=64, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    vocab_size=96, max_position_embeddings=64,
)  # fmt: skip
SMALL = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    vocab_size=64, max_position_embeddings=64,
)  # fmt: skip
LENGTHS = (20, 14, 6)


def config(shape, **more):
    rope = more.pop("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0})
    special = dict(bos_token_id=1, eos_token_id=2, pad_token_id=None, tie_word_embeddings=False)
    return LlamaConfig(**shape, rope_parameters=rope, rms_norm_eps=1e-5, **special | more)


def fill(model, seed):
    """Weights that make every part matter: norms away from 1, attention that picks tokens, logits of order 1 to 5."""
    g = np.random.default_rng(seed)
    for name, p in model.named_parameters():
        if p.ndim == 1 and name.endswith("bias"):
            value = g.standard_normal(p.shape) * 0.3
        elif p.ndim == 1:
            value = g.uniform(0.6, 1.4, p.shape)
        elif "embed" in name:
            value = g.standard_normal(p.shape) * 0.5
        else:
            value = g.standard_normal(p.shape) * 1.3 / np.sqrt(p.shape[1])
        p.data.copy_(torch.from_numpy(value.astype(np.float32)))
    return model.eval()


def llama(shape, seed, **more):
    model = LlamaForCausalLM(config(shape, **more))
    model.set_attn_implementation("eager")
    return fill(model, seed)


def save_model(model, out):
    """save_pretrained without generation_config.json, which holds nothing of use here."""
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    (out / "model.safetensors").chmod(0o644)


def tokens(vocab, lengths, seed):
    g = np.random.default_rng(seed)
    return [[int(t) for t in g.integers(3, vocab, n)] for n in lengths]


def read_tokens(name):
    return json.loads((folder(name) / "tokens.json").read_text())["sequences"]


@torch.no_grad()
def logits(model, sequences):
    return [model(torch.tensor([s]), use_cache=False).logits[0].float() for s in sequences]


def numbered(variant, values):
    return {f"{variant}.{i}": v for i, v in enumerate(values)}


def randomize(model, adapter, seed):
    """Fills A, B, bias and moves DoRA's magnitudes, in the order of names so that a rerun is the same."""
    g = np.random.default_rng(seed)
    for name, p in sorted(model.named_parameters()):
        if adapter not in name.split("."):
            continue
        if "lora_magnitude_vector" in name:
            value = p.detach().numpy() * g.uniform(0.7, 1.3, p.shape)
        elif "lora_A" in name or "lora_embedding_A" in name:
            value = g.standard_normal(p.shape) / np.sqrt(p.shape[1])
        else:
            value = g.standard_normal(p.shape) * 0.25
        p.data.copy_(torch.from_numpy(value.astype(np.float32)))


def attach(model, seed, adapter="default", **settings):
    """A fresh adapter, filled and active. PEFT calls the first one "default"; that name never reaches a file."""
    settings = LoraConfig(**dict(r=4, lora_alpha=8, target_modules=LINEAR, lora_dropout=0.0, task_type="CAUSAL_LM") | settings)
    if isinstance(model, PeftModel):
        model.add_adapter(adapter, settings)
    else:
        model = get_peft_model(model, settings, adapter_name=adapter)
    randomize(model, adapter, seed)
    model.set_adapter(adapter)
    return model.eval()


def save_adapter(model, out):
    """PEFT's own save, with the machine's paths and the order of sets taken out of adapter_config.json."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    path = out / "adapter_config.json"
    facts = json.loads(path.read_text())
    facts["base_model_name_or_path"] = None
    facts["target_modules"] = sorted(facts["target_modules"])
    save_json(path, facts)
    (out / "adapter_model.safetensors").chmod(0o644)


def layers(model):
    return [m for m in model.modules() if hasattr(m, "set_scale")]


ADAPTERS = {
    "lora": dict(),
    "rslora": dict(
        use_rslora=True,
        rank_pattern={"q_proj": 2, "layers.1.mlp.down_proj": 6},
        alpha_pattern={"v_proj": 3, "layers.0.self_attn.o_proj": 5, "layers.1.mlp.down_proj": 12},
    ),
    "dora": dict(use_dora=True),
    "embed_head": dict(target_modules=["embed_tokens", "lm_head"]),
    "lora_bias": dict(lora_bias=True),
}


def tiny_llama():
    out = folder("tiny-llama")
    base = llama(SHAPE, 100)
    save_model(base, out)
    sequences = tokens(SHAPE["vocab_size"], LENGTHS, 101)
    save_json(out / "tokens.json", {"sequences": sequences})
    stored = numbered("base", logits(base, sequences))
    for i, (name, settings) in enumerate(ADAPTERS.items()):
        # A fresh base each time: PEFT changes it in place.
        model = attach(llama(SHAPE, 100), 110 + i, **settings)
        save_adapter(model, folder(f"tiny-llama/adapters/{name}"))
        stored |= numbered(name, logits(model, sequences))
    both = attach(llama(SHAPE, 100), 110, **ADAPTERS["lora"])
    both = attach(both, 111, "second", **ADAPTERS["rslora"])
    both.base_model.set_adapter(["default", "second"])
    stored |= numbered("two", logits(both, sequences))
    for layer in layers(both):
        layer.set_scale("default", 0.5)
        layer.set_scale("second", -1.25)
    stored |= numbered("two_weighted", logits(both, sequences))
    mixed = attach(llama(SHAPE, 100), 112, **ADAPTERS["dora"])
    mixed = attach(mixed, 110, "second", **ADAPTERS["lora"])
    # DoRA first: PEFT scales by k whatever the adapters before it have already added, so only this order is the plain sum.
    mixed.base_model.set_adapter(["default", "second"])
    stored |= numbered("dora_lora", logits(mixed, sequences[:1]))
    save_tensors(out / "logits.safetensors", stored)


def zero_row():
    """Rows 5 and 6 of o_proj are zero. Row 5 has ΔW ≠ 0 and a magnitude, row 6 has ΔW ≠ 0 and magnitude 0: both finite.
    dora_zero_norm is the same with ΔW = 0 in row 6, where ‖W + sBA‖ = 0 and PEFT gives NaN."""
    out = folder("tiny-zero-row")
    base = llama(SMALL, 140)
    base.model.layers[0].self_attn.o_proj.weight.data[5:7] = 0
    save_model(base, out)
    sequences = tokens(SMALL["vocab_size"], (20,), 141)
    save_json(out / "tokens.json", {"sequences": sequences})
    stored = numbered("base", logits(base, sequences))
    model = attach(base, 142, use_dora=True)
    o_proj = model.base_model.model.model.layers[0].self_attn.o_proj
    magnitude = o_proj.lora_magnitude_vector["default"].weight.data
    assert magnitude[5:7].tolist() == [0, 0]
    magnitude[5] = 0.37
    stored |= numbered("dora", logits(model, sequences))
    save_adapter(model, folder("tiny-zero-row/adapters/dora"))
    o_proj.lora_B["default"].weight.data[6] = 0
    save_adapter(model, folder("tiny-zero-row/adapters/dora_zero_norm"))
    assert all(torch.isfinite(v).all() for v in stored.values())
    assert torch.isnan(logits(model, sequences)[0]).all(), "PEFT now guards a zero norm: README.md says it does not"
    save_tensors(out / "logits.safetensors", stored)


def run():
    settle(2)
    tiny_llama()
    zero_row()
