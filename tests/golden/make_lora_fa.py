"""LoRA-FA as people run it: PEFT's optimizer, made with its defaults, under transformers' Trainer with its own (linear schedule,
gradients clipped at 1). Two runs of ten steps: a language model on tiny-llama, and a classifier on tiny-bert with weight decay. The
files hold every trained parameter before and after, and the losses; the data is in facts.json beside them."""

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer, lorafa
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Trainer, TrainingArguments

from common import HERE, folder, save_json, save_tensors, settle
from make_train import key, shake

RATE, STEPS, BATCH, RANK, ALPHA = 1e-2, 10, 2, 4, 8
DECAY = 0.1


class InOrder(Trainer):
    """Takes the examples as they come and keeps the loss of every step."""

    losses = ()

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def training_step(self, *arguments, **named):
        loss = super().training_step(*arguments, **named)
        self.losses = (*self.losses, loss.item())
        return loss


def train(name, model, examples, decay):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad or "lora_A" in name}
    shake(name, trained)
    # Gradients above 1, so that clipping acts.
    chosen = create_lorafa_optimizer(model, r=RANK, lora_alpha=ALPHA, lr=RATE, weight_decay=decay)
    # On CPUs with bf16 PEFT multiplies with the inverse in bf16; the definition is the f32 branch.
    lorafa.is_bf16_available = lambda: False
    out = {f"init.{key(name)}": p.detach().clone() for name, p in trained.items()}
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory, max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=RATE, save_strategy="no", report_to=[],
            logging_steps=1, disable_tqdm=True, use_cpu=True,
        )
        assert arguments.max_grad_norm == 1.0 and arguments.lr_scheduler_type == "linear"
        trainer = InOrder(model, arguments, train_dataset=examples, optimizers=(chosen, None))
        trainer.train()
        norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(norms) == STEPS and max(norms) > 1.5, norms
    out |= {f"after.{key(name)}": p.detach().clone() for name, p in trained.items() if "lora_A" not in name}
    out["losses"] = torch.tensor(trainer.losses, dtype=torch.float64)
    save_tensors(folder("lora-fa") / f"{name}.safetensors", out)


def run():
    settle(31)
    texts = torch.randint(3, 60, (STEPS * BATCH, 14))
    classes = torch.randint(0, 3, (STEPS * BATCH,))
    facts = {"rate": RATE, "batch": BATCH, "rank": RANK, "alpha": ALPHA, "decay": DECAY}
    save_json(folder("lora-fa") / "facts.json", facts | {"texts": texts.tolist(), "classes": classes.tolist()})

    base = AutoModelForCausalLM.from_pretrained(HERE / "tiny-llama", dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"]))
    train("lm", model, [{"input_ids": text, "labels": text} for text in texts], 0.0)

    base = AutoModelForSequenceClassification.from_pretrained(
        HERE / "tiny-bert", num_labels=3, pad_token_id=0, dtype=torch.float32, attn_implementation="eager"
    )
    config = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["query"])
    examples = [{"input_ids": text, "labels": label} for text, label in zip(texts, classes)]
    train("classify", get_peft_model(base, config), examples, DECAY)
