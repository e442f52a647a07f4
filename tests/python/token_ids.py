"""`lowrank tokenize` gives the ids of AutoTokenizer for every text, for encoders of every tokenizer class that an importer knows.

Usage: token_ids.py LOWRANK, the program built with the feature cli. Needs the packages of tests/python/requirements.txt.
Vocabularies of 2,000 to 3,000 tokens are learnt from this project's own pages; the texts are 2,000 of their lines and lines of a dozen
scripts with the spaces, marks, joiners and control characters on which tokenizers differ, from a fixed seed."""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer, CamembertConfig, CamembertModel, CamembertTokenizer
from transformers import DistilBertConfig, DistilBertModel, DistilBertTokenizer, RobertaConfig, RobertaModel, RobertaTokenizer
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()

ROOT = Path(__file__).parent.parent.parent
LINES = 2000
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>NOTUSED", "<unk>NOTUSED", "</s>NOTUSED"]
SCRIPTS = [(0x20, 0x7F), (0xA0, 0x180), (0x300, 0x370), (0x370, 0x400), (0x400, 0x500), (0x590, 0x600), (0x600, 0x700), (0x900, 0x980),
           (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x1F00), (0x2000, 0x2070), (0x2100, 0x2200), (0x3000, 0x3100), (0x4E00, 0x4F00),
           (0xAC00, 0xAD00), (0xFB00, 0xFB07), (0xFF00, 0xFF60), (0x1F300, 0x1F650), (0x00, 0x20)]  # fmt: skip
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\ufeff", ""]


def pages():
    """The lines of the project's pages and sources."""
    files = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("src/**/*.rs")), *sorted(ROOT.glob("examples/**/*.jsonl"))]
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip()]
    return [line for line in dict.fromkeys(lines) if not any(token in line for token in SPECIAL)]


def texts(lines):
    choose = random.Random(17)

    def word():
        first, last = choose.choice(SCRIPTS)
        return "".join(chr(choose.randrange(first, last)) for _ in range(choose.randrange(1, 7)))

    mixed = ["".join(word() + choose.choice(SPACES) for _ in range(choose.randrange(1, 9))) for _ in range(LINES // 2)]
    return choose.sample(lines, LINES - len(mixed)) + [text for text in mixed if text.strip()] + [" ", " a ", "\u00e9 e\u0301"]


def learnt(model, trainer, lines, pre_tokenizer, normalizer=None):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(lines, trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_level(lines):
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    model = learnt(models.BPE(), trainer, lines, pre_tokenizers.ByteLevel(add_prefix_space=False))
    return dict(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def unigram(lines, special):
    trainer = trainers.UnigramTrainer(vocab_size=2000, special_tokens=special, unk_token="<unk>", show_progress=False)
    model = learnt(models.Unigram(), trainer, lines, pre_tokenizers.Metaspace(), normalizers.NFKC())
    return dict(vocab=[tuple(piece) for piece in model["vocab"]])


def word_piece(lines):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=3000, special_tokens=special, show_progress=False)
    model = learnt(models.WordPiece(unk_token="[UNK]"), trainer, lines, pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer())
    return dict(vocab=model["vocab"])


def cases(lines):
    """Name, tokenizer, configuration, model."""
    size = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    small = dict(dim=16, hidden_dim=16, n_layers=1, n_heads=2)
    bytes_, words = byte_level(lines), word_piece(lines)
    xlm = unigram(lines, ["<s>", "<pad>", "</s>", "<unk>"])
    camembert = unigram(lines, ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"])
    yield "roberta", RobertaTokenizer(**bytes_), RobertaConfig(type_vocab_size=1, **size), RobertaModel
    yield "roberta with a space in front", RobertaTokenizer(**bytes_, add_prefix_space=True), RobertaConfig(type_vocab_size=1, **size), RobertaModel
    yield "xlm-roberta", XLMRobertaTokenizer(**xlm), XLMRobertaConfig(type_vocab_size=1, **size), XLMRobertaModel
    yield "camembert", CamembertTokenizer(**camembert), CamembertConfig(type_vocab_size=1, **size), CamembertModel
    yield "distilbert", DistilBertTokenizer(**words), DistilBertConfig(**small), DistilBertModel
    yield "distilbert, cased", DistilBertTokenizer(**words, do_lower_case=False), DistilBertConfig(**small), DistilBertModel
    yield "bert", BertTokenizer(**words), BertConfig(**size), BertModel


def main(lowrank):
    lines = pages()
    all_texts = texts(lines)
    assert len(all_texts) >= LINES, len(all_texts)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = folder / "texts.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in all_texts))
        for name, tokenizer, config, model in cases(lines):
            source, base = folder / name, folder / "base.lrk"
            config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
            model(config).save_pretrained(source)
            tokenizer.save_pretrained(source)
            subprocess.run([lowrank, "import", source, "-o", base], check=True, capture_output=True)
            said = subprocess.run([lowrank, "tokenize", "--base", base, "--file", data], check=True, capture_output=True, text=True).stdout
            ours = [json.loads(line)["ids"] for line in said.splitlines()]
            theirs = AutoTokenizer.from_pretrained(source)(all_texts)["input_ids"]
            assert len(ours) == len(theirs)
            different = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
            for i in different[:3]:
                print(f"{name}: {all_texts[i]!r}\n  lowrank      {ours[i]}\n  transformers {theirs[i]}")
            wrong += len(different)
            used = len({token for ids in theirs for token in ids})
            print(f"{name}: {len(ours) - len(different)} of {len(ours)} texts have the same ids ({used} tokens of {len(tokenizer)} occur)")
    sys.exit(wrong > 0)


main(sys.argv[1])
