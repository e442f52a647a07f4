"""Golden logits of other configurations of the same decoder: Qwen2, Qwen3, scaled rotary embeddings, a tied head.
Writes tiny-variants/."""

import json

import torch
from transformers import AutoConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from common import folder, save_json, save_tensors, settle
from make_llama import config, fill, logits, numbered, save_model, tokens

SHAPE = dict(
    hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64, max_position_embeddings=128,
)  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Small enough that within 28 positions some pairs keep their frequency, some are blended and some are slowed.
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}
WIDE = SHAPE | dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16)
QWEN = dict(bos_token_id=None, eos_token_id=2, tie_word_embeddings=False, rms_norm_eps=1e-6)


def models():
    yield "qwen2", Qwen2ForCausalLM(Qwen2Config(**SHAPE, **QWEN, rope_parameters=dict(ROPE, rope_theta=1e6)))
    qwen3 = Qwen3Config(**SHAPE, **QWEN, head_dim=16, rope_parameters=dict(ROPE, rope_theta=1e6))
    yield "qwen3", Qwen3ForCausalLM(qwen3)
    yield "llama3-rope", LlamaForCausalLM(config(WIDE, rope_parameters=LLAMA3))
    yield "linear-rope", LlamaForCausalLM(config(WIDE, rope_parameters=LINEAR))
    yield "tied", LlamaForCausalLM(config(SHAPE | dict(head_dim=8), tie_word_embeddings=True))


def older_config(facts):
    """The same configuration in the keys that transformers 4 wrote, as most published checkpoints have them."""
    facts = dict(facts)
    rope = dict(facts.pop("rope_parameters"))
    facts["rope_theta"] = rope.pop("rope_theta")
    facts["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    facts["torch_dtype"] = facts.pop("dtype")
    facts.pop("layer_types", None)
    return facts


def run():
    settle(4)
    for i, (name, model) in enumerate(models()):
        out = folder(f"tiny-variants/{name}")
        model.set_attn_implementation("eager")
        fill(model, 200 + i)
        model.tie_weights()
        save_model(model, out)
        sequences = tokens(SHAPE["vocab_size"], (28,), 210 + i)
        save_json(out / "tokens.json", {"sequences": sequences})
        stored = numbered("base", logits(model, sequences))
        save_json(out / "config.v4.json", older_config(json.loads((out / "config.json").read_text())))
        again = type(model)._from_config(AutoConfig.from_pretrained(out / "config.v4.json"), attn_implementation="eager")
        again.load_state_dict(model.state_dict())
        assert torch.equal(logits(again.eval(), sequences)[0], stored["base.0"]), name
        save_tensors(out / "logits.safetensors", stored)
