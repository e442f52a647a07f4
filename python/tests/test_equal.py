"""The numbers are those of the command line, bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ASSETS, GOLDEN, Cli

import lowrank

TINY = ASSETS / "tiny.lrk"
PIRATE = ASSETS / "tiny-pirate.lrk"
NOTES = ASSETS / "tiny-notes.lrk"


def generated(cli: Cli, *arguments: object) -> Any:
    return json.loads(cli("generate", "--base", TINY, "--json", *arguments))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--temperature", "0.9", "--seed", "7"], {"temperature": 0.9, "seed": 7}),
        (
            ["--temperature", "1.2", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.02"],
            {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        ),
        (["--repetition-penalty", "1.3"], {"repetition_penalty": 1.3}),
        (["--stop", "the", "--stop", "."], {"stop": ["the", "."]}),
    ],
)
@pytest.mark.parametrize("adapters", [[], ["pirate"], ["pirate", "notes"]])
def test_generate(
    cli: Cli,
    base: lowrank.Base,
    pirate: lowrank.Adapter,
    notes: lowrank.Adapter,
    arguments: list[str],
    options: Any,
    adapters: list[str],
) -> None:
    files = {"pirate": (PIRATE, pirate, 1.0), "notes": (NOTES, notes, 0.5)}
    chosen = [files[name] for name in adapters]
    named = [part for path, _, weight in chosen for part in ("--adapter", f"{path}:{weight}")]
    expected = generated(cli, "--prompt", "Duck and boat:", "--tokens", 60, *named, *arguments)
    with lowrank.Session(base) as session:
        weighted = [(adapter, weight) for _, adapter, weight in chosen]
        # What was read before does not matter.
        session.generate("Another prompt altogether", max_tokens=5)
        reply = session.generate("Duck and boat:", adapter=weighted, max_tokens=60, **options)
        stream = session.stream("Duck and boat:", adapter=weighted, max_tokens=60, **options)
        pieces = list(stream)
    assert reply.tokens == expected["tokens"]
    assert reply.text == expected["text"] == "".join(pieces)
    assert reply.stop_reason == expected["stop_reason"]
    assert reply.stop == expected.get("stop")
    assert reply.prompt_tokens == expected["prompt_tokens"]
    assert stream.reply is not None
    assert stream.reply.tokens == reply.tokens
    assert stream.reply.stop_reason == reply.stop_reason


def test_generate_by_lookup_and_in_other_precisions(cli: Cli, base: lowrank.Base) -> None:
    prompt = "the duck and the boat and the duck and the boat and"
    for arguments, options in [
        (["--lookup", "8"], {"lookup": 8}),
        (["--precision", "exact", "--kv", "f32"], {"precision": "exact", "kv": "f32"}),
        (["--kv", "int8", "--threads", "1"], {"kv": "int8", "threads": 1}),
    ]:
        expected = generated(cli, "--prompt", prompt, "--tokens", 40, *arguments)
        session = lowrank.Session(base, **options)  # type: ignore[arg-type]
        assert session.generate(prompt, max_tokens=40).tokens == expected["tokens"]


def test_a_long_prompt(cli: Cli, base: lowrank.Base) -> None:
    prompt = "A fox went to the lake. " * 4
    expected = generated(cli, "--prompt", prompt, "--tokens", 60)
    reply = lowrank.Session(base).generate(prompt, max_tokens=60)
    assert reply.prompt_tokens > 64, "several parts of 64 tokens were meant"
    assert reply.tokens == expected["tokens"]
    assert reply.stop_reason == expected["stop_reason"]


def test_logits(cli: Cli, session: lowrank.Session, pirate: lowrank.Adapter, tmp_path: Path) -> None:
    tokens = session.base.tokenizer.encode("A duck and a boat")
    listed = ",".join(map(str, tokens))
    for adapter, arguments in [(None, []), ((pirate, 0.25), ["--adapter", f"{PIRATE}:0.25"])]:
        out = tmp_path / f"{len(arguments)}.npy"
        cli("logits", "--base", TINY, "--tokens", listed, *arguments, "-o", out)
        found = session.logits(tokens, adapter=adapter)
        expected = np.load(out)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
        assert session.logits(np.array(tokens), adapter=adapter).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("qlora", {}),
        ("dora", {"rank": 4, "alpha": 6.0, "dropout": 0.1, "seed": 5}),
        ("ia3", {"learning_rate": 5e-3}),
        ("lora+", {"lora_plus_ratio": 8.0, "target_modules": "q_proj,v_proj"}),
        ("rslora", {"optimizer": "sgd", "schedule": "cosine", "warmup": 2, "weight_decay": 0.01}),
        (
            "lora-fa",
            {"lora_fa_preconditioned": True, "checkpointing": True, "completions_only": True},
        ),
    ],
)
def test_train(
    cli: Cli, base: lowrank.Base, completions: Path, tmp_path: Path, method: str, options: Any
) -> None:
    arguments = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        arguments += [option] if value is True else [option, value]
    out = tmp_path / "style.lrk"
    facts = json.loads(
        cli("train", "--base", TINY, "--data", completions, "--method", method, "--steps", 5,
            "--batch-size", 3, "--json", *arguments, "-o", out)
    )
    training = lowrank.train(
        base, completions, method=method, steps=5, batch_size=3, name="style", **options
    )
    assert training.adapter is not None
    assert training.adapter.to_bytes() == out.read_bytes()
    assert training.losses.tolist() == facts["losses"]
    assert training.loss == facts["loss"]
    assert training.trainable_parameters == facts["trainable_parameters"]
    # And in its file, under the name that the file gives it.
    again = tmp_path / "again" / "style.lrk"
    again.parent.mkdir()
    lowrank.train(
        base, completions, method=method, steps=5, batch_size=3, output=again, **options
    )
    assert again.read_bytes() == out.read_bytes()


def test_train_with_validation_and_going_on(
    cli: Cli, base: lowrank.Base, pirate: lowrank.Adapter, completions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "more.lrk"
    facts = json.loads(
        cli("train", "--base", TINY, "--adapter", PIRATE, "--data", completions, "--validation",
            completions, "--epochs", 2, "--batch-size", 5, "--json", "-o", out)
    )
    seen: list[tuple[int, float, float | None]] = []
    training = lowrank.train(
        base,
        str(completions),
        adapter=pirate,
        validation=completions,
        epochs=2,
        batch_size=5,
        name="more",
        on_validation=lambda *event: seen.append(event),
    )
    assert training.adapter is not None
    assert training.adapter.to_bytes() == out.read_bytes()
    assert training.validation == facts["validation"]
    assert training.validations == seen
    assert len(seen) == 2


def test_classifiers(cli: Cli, encoder: Path, reviews: Path, tmp_path: Path) -> None:
    base = lowrank.Base.open(encoder)
    out = tmp_path / "topic.lrk"
    cli("train", "--base", encoder, "--data", reviews, "--task", "classify", "--method",
        "lora", "--epochs", 6, "--learning-rate", "5e-3", "-o", out)
    training = lowrank.train(
        base, reviews, task="classify", method="lora", epochs=6, learning_rate=5e-3, name="topic"
    )
    adapter = training.adapter
    assert adapter is not None
    assert adapter.to_bytes() == out.read_bytes()
    assert adapter.labels == ["bad", "good", "odd"]

    expected = json.loads(
        cli("evaluate", "--base", encoder, "--adapter", out, "--data", reviews, "--task", "classify",
            "--json")
    )
    assert lowrank.evaluate(base, reviews, adapter=adapter, task="classify") == expected

    texts = ["the warm thing is kind", "seven round things", "a " * 200]
    said = [("--text", text) for text in texts]
    printed = cli("classify", "--base", encoder, "--adapter", out, "--json",
                  *[part for pair in said for part in pair])
    lines = [json.loads(line) for line in printed.splitlines()]
    found = lowrank.classify(base, texts, adapter=adapter)
    assert [answer["label"] for answer in found] == [line["label"] for line in lines]
    for answer, line in zip(found, lines, strict=True):
        # JSON has the shortest digits of the f32.
        assert np.float32(answer["probability"]) == np.float32(line["probability"])
        for label, probability in line["probabilities"].items():
            assert np.float32(answer["probabilities"][label]) == np.float32(probability)


def test_embed(cli: Cli, encoder: Path, tmp_path: Path) -> None:
    base = lowrank.Base.open(encoder)
    texts = [f"text {number}, " * (1 + number % 7) for number in range(50)]
    lines = tmp_path / "texts.jsonl"
    lines.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for pooling in (None, "cls"):
        out = tmp_path / f"{pooling}.npy"
        arguments = [] if pooling is None else ["--pooling", pooling]
        cli("embed", "--base", encoder, "--file", lines, *arguments, "-o", out)
        found = lowrank.embed(base, texts, pooling=pooling)
        expected = np.load(out)
        assert found.shape == expected.shape == (50, 64)
        assert found.tobytes() == expected.tobytes()


def test_evaluate(cli: Cli, base: lowrank.Base, pirate: lowrank.Adapter, completions: Path) -> None:
    for adapter, arguments in [(None, []), (pirate, ["--adapter", PIRATE])]:
        for task in ([], ["--completions-only"], ["--max-length", 12]):
            printed = cli("evaluate", "--base", TINY, "--data", completions, "--json", *arguments,
                          *task)
            options: Any = {"completions_only": True} if "--completions-only" in task else {}
            if "--max-length" in task:
                options = {"max_length": 12}
            found = lowrank.evaluate(base, completions, adapter=adapter, **options)
            assert found == json.loads(printed)


def test_compare(cli: Cli, base: lowrank.Base, completions: Path, tmp_path: Path) -> None:
    printed = cli("compare", "--base", TINY, "--data", completions, "--validation", completions,
                  "--methods", "lora,ia3", "--seeds", 2, "--steps", 6, "--json", "-o",
                  tmp_path / "report")
    told: list[tuple[str, int]] = []
    rows = lowrank.compare(
        base, completions, completions, ["lora", "ia3"], seeds=2, steps=6,
        on_run=lambda method, seed: told.append((method, seed)),
    )
    assert told == [("lora", 0), ("lora", 1), ("ia3", 0), ("ia3", 1)]
    for row, expected in zip(rows, json.loads(printed)["methods"], strict=True):
        # Time and heap are the process's.
        for name in ("seconds", "peak_bytes"):
            assert row.pop(name) > 0
            expected.pop(name)
        assert row == expected


def test_memory(cli: Cli, base: lowrank.Base, pirate: lowrank.Adapter) -> None:
    expected = json.loads(
        cli("memory", "--base", TINY, "--adapter", PIRATE, "--context", 128, "--batch", 3, "--json")
    )
    found = lowrank.memory(base, adapter=pirate, context=128, batch=3)
    # The heap of a tokenizer depends on the order of hash maps.
    for name in ("tokenizer_bytes", "peak_bytes"):
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=0.05)
    assert found == expected
    expected = json.loads(
        cli("memory", "--base", TINY, "--method", "dora", "--batch-size", 4, "--max-length", 64,
            "--json")
    )
    planned = lowrank.train_memory(base, method="dora", batch_size=4, max_length=64)
    for facts in (planned, expected):
        assert facts.pop("peak_bytes") > facts["step_bytes"]
    assert planned == expected


def test_import(cli: Cli, tmp_path: Path) -> None:
    source = GOLDEN / "gguf" / "tiny-llama.gguf"
    cli("import", source, "-o", tmp_path / "expected.lrk")
    told: list[tuple[int, int, str]] = []
    base = lowrank.Base.import_(
        source, tmp_path / "found.lrk", on_progress=lambda *progress: told.append(progress)
    )
    assert (tmp_path / "found.lrk").read_bytes() == (tmp_path / "expected.lrk").read_bytes()
    assert base.family == "llama"
    assert told
    cli("import", source, "--weights", "f32", "--embedding", "f16", "-o", tmp_path / "expected.lrk")
    lowrank.Base.import_(source, tmp_path / "found.lrk", weights="f32", embedding="f16")
    assert (tmp_path / "found.lrk").read_bytes() == (tmp_path / "expected.lrk").read_bytes()


def test_full_training_writes_a_base(
    cli: Cli, completions: Path, tmp_path: Path
) -> None:
    config = json.loads((ASSETS / "tiny.json").read_text())
    (tmp_path / "fresh.json").write_text(json.dumps(config))
    fresh = tmp_path / "fresh.lrk"
    cli("init", tmp_path / "fresh.json", "--seed", 1, "-o", fresh)
    cli("train", "--base", fresh, "--data", completions, "--method", "full", "--steps", 3, "-o",
        tmp_path / "expected.lrk")
    training = lowrank.train(
        lowrank.Base.open(fresh), completions, method="full", steps=3,
        output=tmp_path / "found.lrk", name="expected",
    )
    assert (tmp_path / "found.lrk").read_bytes() == (tmp_path / "expected.lrk").read_bytes()
    assert training.base is not None
    assert training.base.family == "llama"
    assert training.adapter is None


def test_a_peft_folder(cli: Cli, pirate: lowrank.Adapter, base: lowrank.Base, tmp_path: Path) -> None:
    cli("adapter", "export", PIRATE, "--base", TINY, "-o", tmp_path / "expected")
    pirate.export_peft(tmp_path / "found")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    cli("adapter", "import", tmp_path / "expected", "--base", TINY, "-o", tmp_path / "again.lrk")
    again = lowrank.Adapter.from_peft(tmp_path / "expected", base)
    assert again.to_bytes() == (tmp_path / "again.lrk").read_bytes()
