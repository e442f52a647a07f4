"""Other threads go on while something computes; Ctrl-C ends it; objects are shared between threads."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ASSETS

import lowrank


def counted(work: Callable[[], object]) -> tuple[int, float]:
    """How far another thread counts meanwhile, in steps that sleep, and how long it took."""
    over = threading.Event()
    ticks = [0]

    def count() -> None:
        while not over.is_set():
            time.sleep(0.001)
            ticks[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    start = time.perf_counter()
    try:
        work()
    finally:
        took = time.perf_counter() - start
        over.set()
        thread.join()
    return ticks[0], took


def test_other_threads_count_while_it_computes(base: lowrank.Base) -> None:
    session = lowrank.Session(base, threads=1)
    text = ["A duck and a boat and a lake. " * 3] * 40

    def generate() -> None:
        for seed in range(60):
            session.generate("Duck", max_tokens=120, temperature=2.0, seed=seed)

    def stream() -> None:
        for seed in range(60):
            for _ in session.stream("Duck", max_tokens=120, temperature=2.0, seed=seed):
                pass

    def batch() -> None:
        session.generate_batch(["Duck"] * 100, max_tokens=100, temperature=2.0)

    def train() -> None:
        lowrank.train(base, text, steps=12, threads=1)

    def evaluate() -> None:
        lowrank.evaluate(base, text * 8, threads=1)

    for work in (generate, stream, batch, train, evaluate):
        ticks, took = counted(work)
        assert took > 0.1, f"{work.__name__} is too short a test: {took:.3f} s"
        # A thread that got the interpreter only between calls would count a handful.
        assert ticks > 0.1 * took / 0.001, f"{work.__name__}: {ticks} ticks in {took:.2f} s"


def test_python_that_never_sleeps_does_not_hold_up_training(base: lowrank.Base) -> None:
    text = ["A duck and a boat and a lake. " * 3] * 16
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        steps: list[int] = []
        lowrank.train(
            base, text, steps=10, threads=1, on_step=lambda step, total, loss: steps.append(step)
        )
    finally:
        over.set()
        thread.join()
    assert steps == list(range(1, 11))


def test_threads_share_a_session(base: lowrank.Base, pirate: lowrank.Adapter) -> None:
    session = lowrank.Session(base)
    prompts = ["Duck", "The boat", "A fox", "Trees"]
    expected = {
        (prompt, adapter is not None): session.generate(prompt, adapter=adapter, max_tokens=20).text
        for prompt in prompts
        for adapter in (None, pirate)
    }
    wrong: list[str] = []

    def ask(prompt: str, adapter: lowrank.Adapter | None) -> None:
        for _ in range(10):
            text = session.generate(prompt, adapter=adapter, max_tokens=20).text
            if text != expected[prompt, adapter is not None]:
                wrong.append(text)

    threads = [
        threading.Thread(target=ask, args=(prompt, adapter))
        for prompt in prompts
        for adapter in (None, pirate)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


INTERRUPTED = {
    "generate": """
        while True:
            session.generate("Duck", max_tokens=100, temperature=2.0)
    """,
    # One call that would take minutes.
    "batch": """
        session.generate_batch(["Duck"] * 200_000, max_tokens=100, temperature=2.0)
    """,
    "stream": """
        while True:
            for piece in session.stream("Duck", max_tokens=100, temperature=2.0):
                pass
    """,
    "train": """
        lowrank.train(base, ["A duck and a boat. " * 5] * 50, steps=1_000_000, threads=1)
    """,
    "compare": """
        lowrank.compare(base, ["A duck. " * 5] * 50, ["A boat."], ["lora"], steps=1_000_000)
    """,
}


# Who starts the tests in the background has its children ignore the signal.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import lowrank
base = lowrank.Base.open({base!r})
session = lowrank.Session(base)
print("begun", flush=True)
try:
{body}
except KeyboardInterrupt:
    # The objects are as good as before.
    assert session.generate("Duck", max_tokens=3).completion_tokens == 3
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("work", list(INTERRUPTED))
def test_ctrl_c(work: str, tmp_path: Path) -> None:
    body = textwrap.indent(textwrap.dedent(INTERRUPTED[work]).strip(), "    ")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(base=str(ASSETS / "tiny.lrk"), body=body))
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    sent = time.perf_counter()
    try:
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "interrupted\n"), error
    assert time.perf_counter() - sent < 20


def test_ctrl_c_writes_the_checkpoint_and_a_resumed_run_ends_with_the_same_bytes(
    base: lowrank.Base, completions: Path, tmp_path: Path
) -> None:
    options = {"steps": 9, "batch_size": 3, "method": "dora", "seed": 4, "name": "style"}
    whole = lowrank.train(base, completions, **options)  # type: ignore[arg-type]
    checkpoint = tmp_path / "run.checkpoint"

    def interrupt(step: int, total: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lowrank.train(base, completions, checkpoint=checkpoint, on_step=interrupt, **options)  # type: ignore[arg-type]
    assert checkpoint.exists()
    steps: list[int] = []
    resumed = lowrank.train(
        base, completions, checkpoint=checkpoint, resume=True,
        on_step=lambda step, total, loss: steps.append(step), **options,  # type: ignore[arg-type]
    )
    assert steps == [5, 6, 7, 8, 9]
    assert not checkpoint.exists()
    assert whole.adapter is not None
    assert resumed.adapter is not None
    assert resumed.adapter.to_bytes() == whole.adapter.to_bytes()
