"""Golden states of tiny random RoBERTa, XLM-R, CamemBERT and DistilBERT models with their own tokenizers and classifiers,
bare and under PEFT adapters. Writes tiny-roberta/, tiny-xlm-roberta/, tiny-camembert/, tiny-distilbert/.

PEFT, transformers and tokenizers do the work here."""

import re

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers import CamembertConfig, DistilBertConfig, RobertaConfig, XLMRobertaConfig

from common import folder, save_json, save_tensors, settle
from make_llama import fill, randomize, save_adapter, save_model

LABELS = ["dull", "fair", "fine"]
VOCAB = 128
COMMON = dict(vocab_size=VOCAB, num_labels=3, id2label=dict(enumerate(LABELS)), label2id={l: i for i, l in enumerate(LABELS)})
ROBERTA = COMMON | dict(
    hidden_size=32, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=42,
    type_vocab_size=1, layer_norm_eps=1e-5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    pad_token_id=1, bos_token_id=0, eos_token_id=2,
)  # fmt: skip
DISTILBERT = COMMON | dict(
    dim=32, hidden_dim=36, n_layers=2, n_heads=4, max_position_embeddings=40, dropout=0.0, attention_dropout=0.0,
    seq_classif_dropout=0.0, pad_token_id=0,
)  # fmt: skip
# Name, configuration, tokenizer, names of the attention's and the other linear layers.
MODELS = {
    "roberta": (RobertaConfig(**ROBERTA), "bpe", ["query", "value"], ["key", "output.dense"]),
    "xlm-roberta": (XLMRobertaConfig(**ROBERTA), "unigram", ["query", "value"], ["key", "output.dense"]),
    "camembert": (CamembertConfig(**ROBERTA | dict(num_hidden_layers=1)), "unigram", ["query", "value"], ["key", "output.dense"]),
    "distilbert": (DistilBertConfig(**DISTILBERT), "wordpiece", ["q_lin", "v_lin"], ["k_lin", "lin2"]),
}
CLASSES = {
    "roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer",
    "distilbert": "DistilBertTokenizer",
}  # fmt: skip
TEXTS = [
    "the film is a quiet joy from start to end",
    "dull",
    "Ein Café, two voices & no plot: 3 stars.",
    "a  long <mask> walk",
    "you will not laugh",
]
CORPUS = TEXTS * 3 + ["a dull film", "the plot of the film is fair", "two quiet voices laugh", "no joy, no end", "Café au lait"]


def bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False))
    return tokenizer


def pieces(start, inside):
    """Words and beginnings of words, and letters, in a fixed order: the libraries' trainers give another one each time."""
    words = sorted({word for text in CORPUS for word in re.findall(r"\w+|[^\w\s]", text)})
    letters = sorted(set("".join(words)))
    short = sorted({word[:3] for word in words if len(word) > 4})
    first = [start + piece for piece in dict.fromkeys(words[:40] + short + letters)]
    return list(dict.fromkeys(first[:70] + [inside + letter for letter in letters] + [start]))


def unigram(special):
    ordered = [piece for piece in pieces("▁", "") if piece not in special]
    vocab = [(token, 0.0) for token in special]
    vocab += [(piece, -12.0 + len(piece) - 0.01 * i) for i, piece in enumerate(ordered)]
    tokenizer = Tokenizer(models.Unigram(vocab[:VOCAB], unk_id=special.index("<unk>")))
    tokenizer.normalizer = normalizers.NFKC()
    metaspace = pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def wordpiece():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    lowered = dict.fromkeys(special + [piece.lower() for piece in pieces("", "##") if piece])
    vocab = {piece: i for i, piece in enumerate(list(lowered)[:VOCAB])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def make_tokenizer(name, kind, out):
    """tokenizer.json with the vocabulary, tokenizer_config.json with the class; what AutoTokenizer then reads."""
    if kind == "unigram":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        if name == "camembert":
            special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
        tokenizer = unigram(special + ["<mask>"])
    else:
        tokenizer = {"bpe": bpe, "wordpiece": wordpiece}[kind]()
    tokenizer.save(str(out / "tokenizer.json"))
    save_json(out / "tokenizer_config.json", {"tokenizer_class": CLASSES[name], "model_max_length": 40})
    return AutoTokenizer.from_pretrained(out)


def model_of(config, seed):
    model = AutoModelForSequenceClassification.from_config(config)
    model.set_attn_implementation("eager")
    return fill(model, seed)


def attach(model, seed, **settings):
    model = get_peft_model(model, LoraConfig(**dict(r=4, lora_alpha=8, lora_dropout=0.0, task_type="SEQ_CLS") | settings))
    randomize(model, "default", seed)
    g = np.random.default_rng(seed + 1)
    for name, p in sorted(model.named_parameters()):
        if "modules_to_save" in name:
            p.data.copy_(torch.from_numpy((g.standard_normal(p.shape) * 0.4).astype(np.float32)))
    return model.eval()


@torch.no_grad()
def outputs(variant, model, sequences):
    """Hidden states (under adapters those of the first text), and the probabilities of the labels."""
    out = {}
    for i, ids in enumerate(sequences):
        result = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        out[f"{variant}.probabilities.{i}"] = result.logits[0].softmax(-1)
        if variant == "base" or i == 0:
            out[f"{variant}.hidden.{i}"] = result.hidden_states[-1][0]
    return out


def make(name, seed):
    config, kind, attention, more = MODELS[name]
    out = folder(f"tiny-{name}")
    tokenizer = make_tokenizer(name, kind, out)
    save_model(model_of(config, seed), out)
    sequences = [tokenizer(text)["input_ids"] for text in TEXTS]
    pairs = [tokenizer(TEXTS[0], TEXTS[1])["input_ids"]]
    assert max(max(ids) for ids in sequences) < VOCAB
    save_json(out / "tokens.json", {"texts": TEXTS, "sequences": sequences, "pair": pairs[0]})
    stored = outputs("base", model_of(config, seed), sequences)
    # PEFT saves "classifier" by itself; DistilBERT's pooler has to be named.
    saved = dict(modules_to_save=["pre_classifier"]) if name == "distilbert" else {}
    for i, (variant, settings) in enumerate({
        "lora": dict(target_modules=attention),
        "dora": dict(target_modules=attention + more, use_dora=True),
    }.items()):  # fmt: skip
        model = attach(model_of(config, seed), seed + 10 * (i + 1), **settings, **saved)
        save_adapter(model, folder(f"tiny-{name}/adapters/{variant}"))
        stored |= outputs(variant, model, sequences)
    assert all(torch.isfinite(value).all() for value in stored.values())
    save_tensors(out / "states.safetensors", stored)


def run():
    for seed, name in enumerate(MODELS):
        settle(seed)
        make(name, 400 + 100 * seed)
