"""Golden outputs of PEFT's IA3. Writes tiny-variants/qwen2/ia3.safetensors and adapters/, tiny-bert/ia3.safetensors and its adapters/ia3
and adapters/ia3-classifier, train/ia3.safetensors and train/bert-ia3.safetensors. `llama` and `bert` come first.

PEFT and transformers do the arithmetic here. PEFT has no weights of adapters in its forward pass: a weight w is l ← w l + 1 − w."""

import json
import warnings

import numpy as np
import torch
from peft import IA3Config, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertForSequenceClassification

import make_train
from common import HERE, folder, save_json, save_tensors, settle
from make_bert import SHAPE, bert, config, named, states
from make_llama import LINEAR, logits, numbered, read_tokens, save_adapter

QWEN2 = "tiny-variants/qwen2"
# PEFT's default for Llama and BERT, and every layer, both that can have scaled inputs with them.
USUAL = dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
ALL = dict(target_modules=LINEAR + ["lm_head"], feedforward_modules=["o_proj", "down_proj"])
BERT = dict(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"])


def scales(model, adapter="default"):
    return {name: p for name, p in sorted(model.named_parameters()) if f".ia3_l.{adapter}" in name}


def attach(model, seed, adapter="default", task="CAUSAL_LM", **settings):
    settings = IA3Config(task_type=task, **settings)
    if isinstance(model, PeftModel):
        model.add_adapter(adapter, settings)
    else:
        model = get_peft_model(model, settings, adapter_name=adapter)
    g = np.random.default_rng(seed)
    for p in scales(model, adapter).values():
        p.data.copy_(torch.from_numpy(g.uniform(0.3, 1.9, p.shape).astype(np.float32)))
    return model.eval()


def save(model, out):
    save_adapter(model, out)
    path = out / "adapter_config.json"
    facts = json.loads(path.read_text())
    facts["feedforward_modules"] = sorted(facts["feedforward_modules"])
    save_json(path, facts)


def decoder(path):
    return AutoModelForCausalLM.from_pretrained(HERE / path, dtype=torch.float32, attn_implementation="eager")


def qwen2():
    """Keys, queries and values have biases, which are scaled too."""
    sequences = read_tokens(QWEN2)
    stored = {}
    for i, (name, settings) in enumerate((("ia3", USUAL), ("ia3-all", ALL))):
        model = attach(decoder(QWEN2), 300 + i, **settings)
        save(model, folder(f"{QWEN2}/adapters/{name}"))
        stored |= numbered(name, logits(model, sequences))
    both = attach(attach(decoder(QWEN2), 300, **USUAL), 301, "second", **ALL)
    both.base_model.set_adapter(["default", "second"])
    stored |= numbered("two", logits(both, sequences))
    half = attach(decoder(QWEN2), 300, **USUAL)
    for p in scales(half).values():
        p.data = 0.5 * p.data + 0.5
    stored |= numbered("half", logits(half, sequences))
    save_tensors(HERE / QWEN2 / "ia3.safetensors", stored)


def encoder():
    place = json.loads((HERE / "tiny-bert/tokens.json").read_text())
    sequences, types = place["sequences"], place["types"]
    model = attach(bert(200), 310, task="FEATURE_EXTRACTION", **BERT)
    save(model, folder("tiny-bert/adapters/ia3"))
    stored = named("ia3", states(model, sequences, types))
    model = BertForSequenceClassification(config(num_labels=3))
    model.set_attn_implementation("eager")
    model.bert.load_state_dict(bert(200).state_dict())
    model = attach(model.eval(), 311, task="SEQ_CLS", **BERT)
    g = np.random.default_rng(312)
    for name, p in sorted(model.named_parameters()):
        if "classifier.modules_to_save" in name:
            p.data.copy_(torch.from_numpy((g.standard_normal(p.shape) * 0.4).astype(np.float32)))
    save(model, folder("tiny-bert/adapters/ia3-classifier"))
    with torch.no_grad():
        run = lambda ids, kinds: model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([kinds])).logits[0]
        stored |= numbered("ia3-classifier.logits", [run(*both) for both in zip(sequences, types)])
    save_tensors(HERE / "tiny-bert/ia3.safetensors", stored)


def training():
    """Ten steps as make_train has them, of all linear layers of tiny-llama and of PEFT's default layers of tiny-bert."""
    facts = json.loads((HERE / "train/facts.json").read_text())
    settle(320)
    model = attach(decoder("tiny-llama"), 321, target_modules=LINEAR, feedforward_modules=["down_proj"]).train()
    tokens = torch.tensor(facts["tokens"])
    loss = lambda model: model(input_ids=tokens, labels=tokens).loss
    make_train.train("ia3", model, scales(model), make_train.optimizer("ia3", model), loss)

    settle(322)
    model = AutoModelForSequenceClassification.from_pretrained(
        HERE / "tiny-bert", num_labels=3, pad_token_id=0, dtype=torch.float32, attn_implementation="eager"
    )
    model = attach(model, 323, task="SEQ_CLS", **BERT).train()
    texts = facts["texts"]
    longest = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    loss = lambda model: model(input_ids=tokens, attention_mask=mask, labels=torch.tensor(facts["classes"])).loss
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 4 * SHAPE["num_hidden_layers"] + 2, list(trained)
    make_train.train("bert-ia3", model, trained, make_train.optimizer("ia3", model), loss)


def run():
    settle(30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        qwen2()
        encoder()
        training()
