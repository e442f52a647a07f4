"""Golden logits of decoders that classify: transformers' …ForSequenceClassification under PEFT's SEQ_CLS adapters, which bring their
classifier (`score`, no bias, on the last token's state). Writes adapters/score and score.safetensors of tiny-llama/ and
tiny-variants/qwen3/, whose bases are those that make_llama.py and make_variants.py left there.

PEFT and transformers do the arithmetic here."""

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from common import folder, save_tensors, settle
from make_llama import LINEAR, numbered, randomize, read_tokens, save_adapter

LABELS = 3
CASES = {
    "tiny-llama": dict(target_modules=["q_proj", "v_proj", "down_proj"]),
    "tiny-variants/qwen3": dict(target_modules=LINEAR, use_dora=True),
}


@torch.no_grad()
def one(name, seed, settings):
    base = AutoModelForSequenceClassification.from_pretrained(
        folder(name), num_labels=LABELS, dtype=torch.float32, attn_implementation="eager"
    )
    model = get_peft_model(base, LoraConfig(**dict(task_type="SEQ_CLS", r=2, lora_alpha=4, lora_dropout=0.0) | settings))
    randomize(model, "default", seed)
    score = model.base_model.model.score.modules_to_save["default"]
    assert score.bias is None
    value = np.random.default_rng(seed + 1).standard_normal(score.weight.shape) * 0.4
    score.weight.copy_(torch.from_numpy(value.astype(np.float32)))
    save_adapter(model.eval(), folder(f"{name}/adapters/score"))
    # One sequence at a time: without a padding token the last one is pooled.
    logits = [model(torch.tensor([s]), use_cache=False).logits[0] for s in read_tokens(name)]
    save_tensors(folder(name) / "score.safetensors", numbered("score", logits))


def run():
    settle(11)
    for seed, (name, settings) in enumerate(CASES.items()):
        one(name, 260 + 10 * seed, settings)
