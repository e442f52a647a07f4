"""Training goldens: gradients and parameters after ten optimizer steps of PEFT's LoRA, DoRA, LoRA+ and LoRA-FA on tiny-llama, and
of its LoRA and DoRA with a classifier on tiny-bert and of its LoRA with one on tiny-llama.

A and B start from random numbers that are not zero. The loss is the mean over the next tokens of two sequences of equal length, or
over the classes of five texts, padded and masked."""

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, lorafa
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

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
BERT_METHODS = {"bert-lora": {}, "bert-dora": {"use_dora": True}}
BERT_MODULES = ["query", "key", "value", "dense"]
BERT_LENGTHS, BERT_CLASSES = (9, 1, 13, 5, 20), (0, 2, 1, 1, 0)


def key(name):
    """base_model.model.PATH.lora_A.default.weight -> PATH|A; the classifier is classifier|weight and classifier|bias, a decoder's
    (`score`) the first of them"""
    name = name.removeprefix("base_model.model.").removeprefix("bert.")
    if name.startswith(("classifier.modules_to_save.default.", "score.modules_to_save.default.")):
        return f"classifier|{name.rsplit('.', 1)[1]}"
    for part, short in ((".lora_A.default.weight", "A"), (".lora_B.default.weight", "B"), (".lora_magnitude_vector.default.weight", "m"), (".ia3_l.default", "l")):
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
    # Biases do not decay, as in transformers' Trainer.
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    biases = [p for name, p in trained if name.endswith("bias")]
    others = [p for name, p in trained if not name.endswith("bias")]
    return torch.optim.AdamW([{"params": others}, {"params": biases, "weight_decay": 0.0}], lr=RATE, weight_decay=0.01)


def shake(method, trained):
    with torch.no_grad():
        for name, p in trained.items():
            if "magnitude" in name:
                p.mul_(1 + 0.1 * torch.randn_like(p))
            else:
                p.copy_(SPREAD.get(method, 0.2) * torch.randn_like(p))


def train(method, model, trained, chosen, loss_of):
    """Ten steps; the file has every parameter before and after, the first gradient and the losses."""
    out = {f"init.{key(name)}": p.detach().clone() for name, p in trained.items()}
    losses = []
    for step in range(STEPS):
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            out |= {f"grad.{key(name)}": p.grad.clone() for name, p in trained.items() if p.grad is not None}
        chosen.step()
    out |= {f"after.{key(name)}": p.detach().clone() for name, p in trained.items()}
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    save_tensors(folder("train") / f"{method}.safetensors", out)


def one(method, extra, tokens):
    settle(sum(map(ord, method)))
    base = AutoModelForCausalLM.from_pretrained(HERE / "tiny-llama", dtype=torch.float32, attn_implementation="eager")
    alpha = RSLORA_ALPHA if method == "rslora" else ALPHA
    config = LoraConfig(r=RANK, lora_alpha=alpha, target_modules=MODULES, **extra)
    model = get_peft_model(base, config).train()
    low_rank = {name: p for name, p in model.named_parameters() if "lora_" in name}
    shake(method, low_rank)
    for name, p in low_rank.items():
        p.requires_grad_(not (method.startswith("lora-fa") and "lora_A" in name))
    train(method, model, low_rank, optimizer(method, model), lambda model: model(input_ids=tokens, labels=tokens).loss)


def one_class(method, extra, texts, base, modules, parts):
    """A run with a classifier of `parts` tensors."""
    settle(sum(map(ord, method)))
    # 0 is in no text: it pads.
    base = AutoModelForSequenceClassification.from_pretrained(
        HERE / base, num_labels=3, pad_token_id=0, dtype=torch.float32, attn_implementation="eager"
    )
    config = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=modules, **extra)
    model = get_peft_model(base, config).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum("modules_to_save" in name for name in trained) == parts, list(trained)
    shake(method, trained)
    longest = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    loss = lambda model: model(input_ids=tokens, attention_mask=mask, labels=torch.tensor(BERT_CLASSES)).loss
    train(method, model, trained, optimizer(method, model), loss)


def run():
    settle(9)
    tokens = torch.randint(3, 60, (2, 14))
    texts = [torch.randint(3, 90, (length,)).tolist() for length in BERT_LENGTHS]
    facts = {"tokens": tokens.tolist(), "rate": RATE, "rank": RANK, "alpha": ALPHA, "ratio": RATIO}
    save_json(folder("train") / "facts.json", facts | {"texts": texts, "classes": BERT_CLASSES})
    for method, extra in METHODS.items():
        one(method, extra, tokens)
    for method, extra in BERT_METHODS.items():
        one_class(method, extra, texts, "tiny-bert", BERT_MODULES, 2)
    one_class("llama-score", {}, texts, "tiny-llama", MODULES, 1)
