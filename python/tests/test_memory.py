"""Objects that are made and dropped leave nothing behind."""

import gc
from collections.abc import Callable
from pathlib import Path

from conftest import ASSETS

import lowrank

CYCLES = 10_000
# What the allocator may keep of 10,000 cycles: 50 bytes each.
FLAT = 500_000


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def grown(cycle: Callable[[], object]) -> int:
    for _ in range(CYCLES // 10):
        cycle()
    gc.collect()
    before = resident()
    for _ in range(CYCLES):
        cycle()
    gc.collect()
    return resident() - before


def test_adapters(base: lowrank.Base) -> None:
    path = ASSETS / "tiny-pirate.lrk"
    assert grown(lambda: lowrank.Adapter.open(path, base=base)) < FLAT


def test_states(base: lowrank.Base, pirate: lowrank.Adapter) -> None:
    config = pirate.peft_config()
    state = pirate.state()
    assert grown(lambda: lowrank.Adapter.from_state(state, base, config=config).rank) < FLAT


def test_sessions(base: lowrank.Base, pirate: lowrank.Adapter) -> None:
    def cycle() -> None:
        session = lowrank.Session(base, context=16, threads=1)
        stream = session.stream("Duck", adapter=pirate, max_tokens=3)
        next(stream)

    assert grown(cycle) < FLAT


def test_sessions_with_threads(base: lowrank.Base) -> None:
    def cycle() -> None:
        with lowrank.Session(base, context=16, threads=2) as session:
            session.generate([5], max_tokens=1)

    assert grown(cycle) < FLAT


def test_logits(base: lowrank.Base) -> None:
    session = lowrank.Session(base, context=16, threads=1)
    assert grown(lambda: session.logits([5, 6])) < FLAT


def test_errors(base: lowrank.Base) -> None:
    def cycle() -> None:
        try:
            lowrank.Adapter.from_bytes(b"nonsense")
        except lowrank.FormatError:
            return
        raise AssertionError("no error")

    assert grown(cycle) < FLAT
