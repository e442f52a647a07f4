"""What the tests share: the tiny model, an encoder with a classifier, and the command line to compare with."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lowrank

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets"
GOLDEN = ROOT / "tests" / "golden"
PROGRAM = Path(os.environ.get("LOWRANK_CLI", ROOT / "target" / "release" / "lowrank"))

Cli = Callable[..., str]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Runs the command line; what it prints."""
    if not PROGRAM.exists():
        pytest.fail(f"{PROGRAM} is not there: cargo build --release --features cli, or LOWRANK_CLI=…")

    def run(*arguments: object) -> str:
        command = [str(PROGRAM), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def base() -> lowrank.Base:
    return lowrank.Base.open(ASSETS / "tiny.lrk")


@pytest.fixture(scope="session")
def pirate(base: lowrank.Base) -> lowrank.Adapter:
    return lowrank.Adapter.open(ASSETS / "tiny-pirate.lrk", base=base)


@pytest.fixture(scope="session")
def notes(base: lowrank.Base) -> lowrank.Adapter:
    return lowrank.Adapter.open(ASSETS / "tiny-notes.lrk", base=base)


@pytest.fixture
def session(base: lowrank.Base) -> lowrank.Session:
    return lowrank.Session(base, context=128)


ENCODER = {
    "model_type": "bert",
    "tokenizer": "bytes",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}

WORDS = {"good": "fine warm kind bright", "bad": "cold grim dull harsh", "odd": "blue round seven"}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """The archive of a fresh encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "bert.json").write_text(json.dumps(ENCODER))
    cli("init", folder / "bert.json", "--seed", 3, "-o", folder / "bert.lrk")
    return folder / "bert.lrk"


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled texts."""
    path = tmp_path_factory.mktemp("reviews") / "reviews.tsv"
    rows = [
        f"the {word} thing is {other}\t{label}"
        for label, words in WORDS.items()
        for word in words.split()
        for other in words.split()
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def completions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and completions."""
    path = tmp_path_factory.mktemp("completions") / "arr.jsonl"
    rows: list[Any] = [
        {"prompt": f"A {word} and a {other}:", "completion": f" arr, {other} {word}"}
        for word in ("duck", "boat", "fox", "tree")
        for other in ("lake", "hill", "moon")
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path
