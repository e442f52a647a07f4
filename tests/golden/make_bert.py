"""Golden states of a tiny random BERT, bare and under PEFT adapters. Writes tiny-bert/.

PEFT and transformers do the arithmetic here."""

import warnings

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, BertModel

from common import folder, save_json, save_tensors, settle
from make_llama import fill, numbered, randomize, save_adapter, save_model, tokens

SHAPE = dict(
    hidden_size=48, intermediate_size=76, num_hidden_layers=2, num_attention_heads=3, vocab_size=96,
    max_position_embeddings=40, type_vocab_size=2,
)  # fmt: skip
LENGTHS = (20, 1, 13, 6)
LINEAR = ["query", "key", "value", "dense"]
ADAPTERS = {
    "lora": dict(target_modules=LINEAR),
    "dora": dict(target_modules=LINEAR, use_dora=True),
    "embedding": dict(target_modules=["word_embeddings", "query"]),
}


def config(**more):
    return BertConfig(**SHAPE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more)


def bert(seed, **more):
    model = BertModel(config(**more))
    model.set_attn_implementation("eager")
    return fill(model, seed)


@torch.no_grad()
def states(model, sequences, types):
    """Hidden states, their mean, the pooler's output; text by text."""
    out = {}
    for i, (ids, kinds) in enumerate(zip(sequences, types)):
        result = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([kinds]))
        hidden = result.last_hidden_state[0]
        out |= {f"hidden.{i}": hidden, f"mean.{i}": hidden.mean(0), f"pooler.{i}": result.pooler_output[0]}
    return out


def named(variant, values):
    return {f"{variant}.{key}": value for key, value in values.items()}


def attach(model, seed, **settings):
    model = get_peft_model(model, LoraConfig(**dict(r=4, lora_alpha=8, lora_dropout=0.0) | settings))
    randomize(model, "default", seed)
    return model.eval()


def classifier(out, sequences, types):
    """The same base with three labels, a LoRA and its classifier, as PEFT saves them for SEQ_CLS."""
    model = BertForSequenceClassification(config(num_labels=3))
    model.set_attn_implementation("eager")
    model.bert.load_state_dict(bert(200).state_dict())
    settings = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["query", "value"])
    model = get_peft_model(model.eval(), settings)
    randomize(model, "default", 230)
    g = np.random.default_rng(231)
    for name, p in sorted(model.named_parameters()):
        if "classifier.modules_to_save" in name:
            p.data.copy_(torch.from_numpy((g.standard_normal(p.shape) * 0.4).astype(np.float32)))
    save_adapter(model.eval(), out)
    with torch.no_grad():
        run = lambda ids, kinds: model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([kinds])).logits[0]
        return numbered("classifier.logits", [run(*both) for both in zip(sequences, types)])


def run():
    settle(7)
    out = folder("tiny-bert")
    save_model(bert(200), out)
    sequences = tokens(SHAPE["vocab_size"], LENGTHS, 201)
    # The second half of the third text is a second sentence.
    types = [[int(i == 2 and at > n // 2) for at in range(n)] for i, n in enumerate(LENGTHS)]
    save_json(out / "tokens.json", {"sequences": sequences, "types": types})
    stored = named("base", states(bert(200), sequences, types))
    for activation in ("gelu_new", "relu"):
        stored |= named(activation, states(bert(200, hidden_act=activation), sequences[:1], types))
    for i, (name, settings) in enumerate(ADAPTERS.items()):
        model = attach(bert(200), 210 + i, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_adapter(model, folder(f"tiny-bert/adapters/{name}"))
        stored |= named(name, states(model, sequences, types))
    stored |= classifier(folder("tiny-bert/adapters/classifier"), sequences, types)
    assert all(torch.isfinite(value).all() for value in stored.values())
    save_tensors(out / "states.safetensors", stored)
