"""Training goldens: gradients and parameters after ten optimizer steps of PEFT's LoRA, DoRA, LoRA+ and LoRA-FA on tiny-llama.

A and B start from random numbers that are not zero. The loss is the mean over the next tokens of two sequences of equal length."""

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, lorafa
from transformers import AutoModelForCausalLM

from common import HERE, folder, save_json, save_tensors, settle

RATE, STEPS, RANK, ALPHA = 1e-2, 10, 4, 8
# Adam turns the last bits of a gradient near zero into whole steps, so ten steps can multiply rounding beyond any tolerance (torch in
# f32 against torch in f64: up to 6e-3 with LoRA+ at these rates). These numbers keep that below 3e-5.
RATIO = 4.0
RSLORA_ALPHA = 2
SPREAD = {"lora+": 0.05}
METHODS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora+": {},
    "lora-fa": {},
    "lora-fa-preconditioned": {},
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def key(name):
    """base_model.model.PATH.lora_A.default.weight -> PATH|A"""
    name = name.removeprefix("base_model.model.")
    for part, short in ((".lora_A.default.weight", "A"), (".lora_B.default.weight", "B"), (".lora_magnitude_vector.default.weight", "m")):
        if name.endswith(part):
            return f"{name.removesuffix(part)}|{short}"
    raise ValueError(name)


def optimizer(method, model):
    if method == "lora+":
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=RATIO, loraplus_weight_decay=0.0)
    if method == "lora-fa-preconditioned":
        # On CPUs with bf16 PEFT multiplies with the inverse in bf16; the definition is the f32 branch.
        lorafa.is_bf16_available = lambda: False
        return create_lorafa_optimizer(model, r=RANK, lora_alpha=ALPHA, lr=RATE, weight_decay=0.0)
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.01)


def one(method, extra, tokens):
    settle(sum(map(ord, method)))
    base = AutoModelForCausalLM.from_pretrained(HERE / "tiny-llama", dtype=torch.float32, attn_implementation="eager")
    alpha = RSLORA_ALPHA if method == "rslora" else ALPHA
    config = LoraConfig(r=RANK, lora_alpha=alpha, target_modules=MODULES, **extra)
    model = get_peft_model(base, config).train()
    low_rank = {name: p for name, p in model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, p in low_rank.items():
            if "magnitude" in name:
                p.mul_(1 + 0.1 * torch.randn_like(p))
            else:
                p.copy_(SPREAD.get(method, 0.2) * torch.randn_like(p))
            p.requires_grad_(not (method.startswith("lora-fa") and "lora_A" in name))
    chosen = optimizer(method, model)
    out = {f"init.{key(name)}": p.detach().clone() for name, p in low_rank.items()}
    losses = []
    for step in range(STEPS):
        model.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            out |= {f"grad.{key(name)}": p.grad.clone() for name, p in low_rank.items() if p.grad is not None}
        chosen.step()
    out |= {f"after.{key(name)}": p.detach().clone() for name, p in low_rank.items()}
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    save_tensors(folder("train") / f"{method}.safetensors", out)


def run():
    settle(9)
    tokens = torch.randint(3, 60, (2, 14))
    save_json(folder("train") / "facts.json", {"tokens": tokens.tolist(), "rate": RATE, "rank": RANK, "alpha": ALPHA, "ratio": RATIO})
    for method, extra in METHODS.items():
        one(method, extra, tokens)
