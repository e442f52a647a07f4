"""What users meet: errors by kind, streams, sessions that are closed, runs that are ended, examples that
run."""

import doctest
import inspect
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ASSETS, Cli

import lowrank

EXAMPLES = [{"prompt": f"A {word}:", "completion": " arr"} for word in ("duck", "boat", "fox")]


def documented() -> list[tuple[str, str]]:
    """The docstrings of everything public, by name."""
    found = []
    for name in lowrank.__all__:
        thing = getattr(lowrank, name)
        found.append((name, inspect.getdoc(thing) or ""))
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (inspect.isroutine(value) or
                                                   inspect.isdatadescriptor(value)):
                    found.append((f"{name}.{member}", inspect.getdoc(getattr(thing, member)) or ""))
    return found


def test_everything_public_is_documented() -> None:
    types = {"Adapters", "Data"}
    missing = [name for name, text in documented() if not text and name not in types]
    assert missing == []


def test_the_examples_in_docstrings_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ASSETS)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    examples = 0
    for name, text in documented():
        test = parser.get_doctest(text, {"lowrank": lowrank}, name, None, None)
        runner.run(test)
        examples += len(test.examples)
    assert runner.summarize().failed == 0
    assert examples >= 20


def test_a_base(base: lowrank.Base) -> None:
    assert base.config["dim"] == 128
    assert base.labels == []
    assert len(base.fingerprint) == 32
    assert base.nbytes == (ASSETS / "tiny.lrk").stat().st_size
    assert "model.layers.0.self_attn.q_proj" in base.modules
    assert Path(base.path) == ASSETS / "tiny.lrk"
    base.verify()
    tokens = base.tokenizer.encode("Duck")
    assert base.tokenizer.decode(np.array(tokens)) == "Duck"
    assert base.tokenizer.encode("Duck", add_special_tokens=False) == tokens[1:]
    assert base.tokenizer.end_token is not None
    assert base.tokenizer.is_stop(base.tokenizer.end_token)


def test_an_adapter(pirate: lowrank.Adapter, base: lowrank.Base) -> None:
    assert (pirate.rank, pirate.method, pirate.labels) == (4, "qlora", [])
    assert pirate.base_fingerprint == base.fingerprint
    assert pirate.targets == [name for name in base.modules if "layers" in name]
    training = lowrank.train(base, EXAMPLES, rank=3, steps=1, seed=5, name="mine")
    assert training.adapter is not None
    assert training.adapter.name == "mine"
    assert training.adapter.facts["training"]["rank"] == 3
    assert training.adapter.facts["training"]["seed"] == 5


def test_errors_by_kind(base: lowrank.Base, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        lowrank.Base.open(tmp_path / "none.lrk")
    assert missing.value.filename == str(tmp_path / "none.lrk")
    with pytest.raises(lowrank.FormatError, match="expected"):
        lowrank.Base.open(ASSETS / "tiny-pirate.lrk")
    with pytest.raises(lowrank.FormatError, match="tiny.lrk"):
        lowrank.Adapter.open(ASSETS / "tiny.lrk")
    damaged = bytearray((ASSETS / "tiny.lrk").read_bytes())
    damaged[100_000] ^= 1
    (tmp_path / "damaged.lrk").write_bytes(damaged)
    with pytest.raises(lowrank.FormatError, match="checksum"):
        lowrank.Base.open(tmp_path / "damaged.lrk").verify()
    with pytest.raises(lowrank.InputError, match='precision is "half"'):
        lowrank.Session(base, precision="half")  # type: ignore[arg-type]
    with pytest.raises(lowrank.InputError, match="1 to 128 is allowed"):
        lowrank.Session(base, context=100_000)
    with pytest.raises(lowrank.InputError, match="lorra"):
        lowrank.train(base, EXAMPLES, method="lorra")
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rte'"):
        lowrank.train(base, EXAMPLES, learning_rte=1e-3)  # type: ignore[call-arg]
    with pytest.raises(lowrank.InputError, match="epochs and steps"):
        lowrank.train(base, EXAMPLES, epochs=1, steps=1)
    with pytest.raises(lowrank.InputError, match="learning-rate is 0"):
        lowrank.train(base, EXAMPLES, learning_rate=0.0)
    with pytest.raises(lowrank.FormatError, match="example 2"):
        lowrank.train(base, ["fine", {"txt": "x"}])
    with pytest.raises(lowrank.FormatError, match="an encoder was expected"):
        lowrank.embed(base, ["a"])


def test_memory_that_the_system_does_not_give() -> None:
    program = f"""
import resource
import lowrank
base = lowrank.Base.open({str(ASSETS / "tiny.lrk")!r})
session = lowrank.Session(base, batch=60_000, kv="f32", threads=1)
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
try:
    session.generate_batch(["Duck"])
except lowrank.OutOfMemoryError as error:
    assert isinstance(error, MemoryError)
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the session needs" in done.stdout


def test_requests_that_cannot_be(session: lowrank.Session, pirate: lowrank.Adapter) -> None:
    with pytest.raises(lowrank.InputError, match="prompt is empty"):
        session.generate([])
    for nothing in (None, 5):
        with pytest.raises(TypeError, match="a string, a list of messages or one of token ids"):
            session.generate(nothing)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        session.generate("\ud800")
    with pytest.raises(lowrank.InputError, match="the prompt has 301 tokens, the session has room"):
        session.generate("x" * 300)
    with pytest.raises(lowrank.InputError, match="prompt 1: the prompt has 301 tokens"):
        session.generate_batch(["a", "x" * 300])
    with pytest.raises(lowrank.InputError, match="no chat template"):
        session.generate([{"role": "user", "content": "hello"}])
    with pytest.raises(lowrank.FormatError, match="message 1"):
        session.generate([{"role": "user"}])
    with pytest.raises(lowrank.InputError, match="token 9999"):
        session.generate([5, 9999])
    with pytest.raises(lowrank.InputError, match="temperature"):
        session.generate("a", temperature=-1.0)
    with pytest.raises(lowrank.InputError, match="weight"):
        session.generate("a", adapter=(pirate, float("nan")))
    for wrong in ("pirate.lrk", [pirate, "pirate.lrk"]):
        with pytest.raises(TypeError, match="found str"):
            session.generate("a", adapter=wrong)  # type: ignore[arg-type]
    pair = session.generate("a", adapter=(pirate, pirate), max_tokens=5)
    assert pair.text == session.generate("a", adapter=[pirate, (pirate, 1)], max_tokens=5).text
    with pytest.raises(lowrank.InputError, match="1 entries, 2 were expected"):
        session.generate_batch(["a", "b"], adapters=[None])
    with pytest.raises(lowrank.DivergedError):
        session.generate("a", adapter=(pirate, 1e38))
    # Nothing of it has hurt the session.
    assert session.generate("Duck", max_tokens=4).completion_tokens == 4


def test_streams(session: lowrank.Session) -> None:
    whole = session.generate("Duck and boat:", max_tokens=20)
    stream = session.stream("Duck and boat:", max_tokens=20)
    first = next(stream)
    assert stream.reply is None
    assert first + "".join(stream) == whole.text
    assert stream.reply is not None
    assert stream.reply.text == str(stream.reply) == whole.text
    assert list(stream) == []
    # One that is left early is interrupted.
    with session.stream("Duck and boat:", max_tokens=20) as stream:
        next(stream)
    assert stream.reply is not None
    assert stream.reply.stop_reason == "interrupted"
    assert whole.text.startswith(stream.reply.text)
    # One whose session does something else is over, and says so.
    stream = session.stream("Duck and boat:", max_tokens=20)
    next(stream)
    session.generate("Fox", max_tokens=1)
    with pytest.raises(lowrank.BusyError, match="used for another prompt"):
        next(stream)
    assert list(stream) == []


def test_sessions_are_closed(base: lowrank.Base) -> None:
    with lowrank.Session(base) as session:
        stream = session.stream("Duck", max_tokens=9)
        session.generate_batch(["Duck"], max_tokens=2)
    for use in (
        lambda: session.generate("Duck"),
        lambda: session.generate_batch(["Duck"]),
        lambda: session.stream("Duck"),
        lambda: next(stream),
    ):
        with pytest.raises(lowrank.BusyError, match="closed"):
            use()
    session.close()


def test_a_row_of_a_batch_does_not_depend_on_its_neighbours(
    base: lowrank.Base, pirate: lowrank.Adapter, notes: lowrank.Adapter
) -> None:
    session = lowrank.Session(base, batch=4, precision="exact")
    rows: list[tuple[str, Any]] = [
        (prompt, adapter)
        for prompt in ("Duck and boat:", "A fox", "The tree and the")
        for adapter in (None, pirate, [(notes, 0.5), pirate], notes)
    ]
    together = session.generate_batch(
        [prompt for prompt, _ in rows], adapters=[adapter for _, adapter in rows], max_tokens=24
    )
    for (prompt, adapter), reply in zip(rows, together, strict=True):
        alone = session.generate_batch([prompt], adapters=[adapter], max_tokens=24)[0]
        assert reply.text == alone.text
        assert reply.stop_reason == alone.stop_reason
        # And it is what one sequence says.
        assert reply.text == session.generate(prompt, adapter=adapter, max_tokens=24).text
        assert reply.tokens is None
    assert session.generate_batch([]) == []


def test_what_was_read_can_be_reused(base: lowrank.Base) -> None:
    fresh = lowrank.Session(base, precision="exact")
    chat = lowrank.Session(base, precision="exact", reuse=True)
    text = "Duck and boat:"
    for _ in range(3):
        expected = fresh.generate(text, max_tokens=12)
        assert chat.generate(text, max_tokens=12).text == expected.text
        text += expected.text


def test_runs_are_ended(base: lowrank.Base) -> None:
    # What was learnt so far is the result, as if the run had been this long; the schedule was not.
    constant: Any = {"steps": 50, "schedule": "constant", "batch_size": 2, "name": "x"}
    ended = lowrank.train(base, EXAMPLES, on_step=lambda step, total, loss: step < 3, **constant)
    assert ended.steps == 3
    stop = threading.Event()

    def on_step(step: int, total: int, loss: float) -> None:
        if step == 3:
            stop.set()

    for condition in (stop, stop.is_set):
        stop.clear()
        again = lowrank.train(base, EXAMPLES, on_step=on_step, stop=condition, **constant)
        assert again.steps == 3
        assert again.adapter is not None
        assert ended.adapter is not None
        assert again.adapter.to_bytes() == ended.adapter.to_bytes()

    class Mine(Exception):
        pass

    def fail(step: int, total: int, loss: float) -> None:
        raise Mine

    with pytest.raises(Mine):
        lowrank.train(base, EXAMPLES, on_step=fail, **constant)


def test_examples_of_every_kind(base: lowrank.Base, encoder: Path) -> None:
    tokens = base.tokenizer.encode("A duck and a boat")
    for examples in (
        ["A duck and a boat"],
        [{"text": "A duck and a boat"}],
        [{"tokens": tokens}, {"tokens": np.array(tokens)}],
        (text for text in ("A duck", "A boat")),
    ):
        assert lowrank.train(base, examples, steps=1).steps == 1  # type: ignore[arg-type]
    labelled = [{"text": "warm", "label": 0}, {"text": "cold", "label": 1}]
    training = lowrank.train(
        lowrank.Base.open(encoder), labelled, method="lora", task="classify", steps=1
    )
    assert training.adapter is not None
    assert training.adapter.labels == ["0", "1"]


def test_rows_of_numbers(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mlp.json").write_text(
        '{"model_type": "mlp", "input_size": 2, "hidden_sizes": [16], "labels": ["no", "yes"]}'
    )
    cli("init", tmp_path / "mlp.json", "-o", tmp_path / "mlp.lrk")
    base = lowrank.Base.open(tmp_path / "mlp.lrk")
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(64, 2)).astype(np.float32)
    data = [{"values": row, "label": "yes" if row[0] > row[1] else "no"} for row in rows]
    out = tmp_path / "trained.lrk"
    training = lowrank.train(
        base, data, method="full", task="classify", epochs=40, learning_rate=3e-2, output=out
    )
    assert training.base is not None
    found = lowrank.evaluate(training.base, data, adapter=training.adapter, task="classify")
    assert found.get("accuracy", 0) > 0.9
    with pytest.raises(lowrank.InputError, match="reads numbers"):
        lowrank.classify(base, ["text"])
