"""Adapters as arrays: exact ways out and in, and one clear exception for everything that is wrong."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowrank

State = dict[str, Any]

LABELLED = [{"text": "warm", "label": "good"}, {"text": "cold", "label": "bad"}]


def trained_on(encoder: lowrank.Base) -> lowrank.Adapter:
    training = lowrank.train(encoder, LABELLED, method="lora", task="classify", steps=1)
    assert training.adapter is not None
    return training.adapter


def trained(base: lowrank.Base, method: str, **options: Any) -> lowrank.Adapter:
    examples = [{"prompt": f"A {word}:", "completion": " arr"} for word in ("duck", "boat", "fox")]
    training = lowrank.train(
        base, examples, method=method, steps=4, learning_rate=1e-2, batch_size=2, **options
    )
    assert training.adapter is not None
    return training.adapter


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("qlora", {"rank": 6}),
        ("lora", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3.5}}),
        ("rslora", {"target_modules": ["v_proj", "embed_tokens"]}),
        ("dora", {"rank": 3}),
        ("ia3", {}),
    ],
)
def test_round_trips_are_exact(base: lowrank.Base, method: str, options: Any) -> None:
    adapter = trained(base, method, **options)
    state, config = adapter.state(), adapter.peft_config()
    assert all(array.dtype == np.float32 for array in state.values())
    assert all(name.startswith("base_model.model.model.layers.0") or "layers" in name
               or "embed_tokens" in name for name in state)
    again = lowrank.Adapter.from_state(state, base, config=config)
    assert list(again.state()) == list(state)
    for name, array in again.state().items():
        assert array.tobytes() == state[name].tobytes(), name
    assert again.peft_config() == config
    assert (again.rank, again.alpha, again.targets) == (adapter.rank, adapter.alpha, adapter.targets)
    # What is computed under it is the same, bit for bit.
    session = lowrank.Session(base)
    tokens = base.tokenizer.encode("A duck and a boat")
    expected = session.logits(tokens, adapter=adapter)
    assert session.logits(tokens, adapter=again).tobytes() == expected.tobytes()
    assert session.logits(tokens).tobytes() != expected.tobytes()


def test_the_configuration_can_be_seen_from_the_arrays(base: lowrank.Base) -> None:
    adapter = trained(base, "lora", rank=4, alpha=12.0, rank_pattern={"q_proj": 2})
    again = lowrank.Adapter.from_state(adapter.state(), base, alpha=12.0)
    assert again.fingerprint == adapter.fingerprint
    ia3 = trained(base, "ia3")
    assert lowrank.Adapter.from_state(ia3.state(), base).fingerprint == ia3.fingerprint
    dora = trained(base, "dora", rank=4, alpha=12.0)
    again = lowrank.Adapter.from_state(dora.state(), base, alpha=12.0, name="mine")
    assert (again.name, again.method, again.fingerprint) == ("mine", "dora", dora.fingerprint)


def test_float16_stays_float16(base: lowrank.Base, pirate: lowrank.Adapter) -> None:
    halves = {name: array.astype(np.float16) for name, array in pirate.state().items()}
    config = pirate.peft_config()
    kept = lowrank.Adapter.from_state(halves, base, config=config)
    widened = {name: array.astype(np.float32) for name, array in halves.items()}
    wide = lowrank.Adapter.from_state(widened, base, config=config)
    assert kept.nbytes < wide.nbytes
    for name, array in kept.state().items():
        assert array.tobytes() == widened[name].tobytes()


def test_classifiers_go_the_whole_way(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    base = lowrank.Base.open(encoder)
    training = lowrank.train(base, reviews, method="lora", task="classify", epochs=1)
    adapter = training.adapter
    assert adapter is not None
    state = adapter.state()
    assert state["base_model.model.classifier.weight"].shape == (3, 64)
    again = lowrank.Adapter.from_state(state, base, config=adapter.peft_config())
    assert again.labels == ["bad", "good", "odd"]
    assert lowrank.classify(base, ["warm"], adapter=again) == lowrank.classify(
        base, ["warm"], adapter=adapter
    )
    plain = lowrank.Adapter.from_state(state, base, alpha=16.0, labels=["x", "y", "z"])
    assert plain.labels == ["x", "y", "z"]
    with pytest.raises(lowrank.InputError, match="3 different names were expected"):
        lowrank.Adapter.from_state(state, base, alpha=16.0, labels=["x"])


def test_files_bytes_and_pickles(base: lowrank.Base, pirate: lowrank.Adapter, tmp_path: Path) -> None:
    path = tmp_path / "pirate.lrk"
    pirate.save(path)
    assert path.read_bytes() == pirate.to_bytes()
    opened = lowrank.Adapter.open(path)
    # Nothing of the file is needed any more.
    path.write_bytes(b"something else")
    assert opened.fingerprint == pirate.fingerprint
    assert opened.to_bytes() == pirate.to_bytes()
    assert lowrank.Adapter.from_bytes(pirate.to_bytes(), base=base).targets == pirate.targets
    for thing in (pirate, base):
        copy = pickle.loads(pickle.dumps(thing))
        assert copy.fingerprint == thing.fingerprint
    with pytest.raises(lowrank.FormatError, match="an adapter was expected|not a"):
        pirate.save(path)
    pirate.save(path, force=True)
    assert lowrank.Adapter.open(path).rank == pirate.rank


def test_arrays_are_copies_of_their_own(pirate: lowrank.Adapter) -> None:
    state = pirate.state()
    name = next(iter(state))
    assert state[name].flags.writeable
    assert state[name].flags.c_contiguous
    state[name][:] = 0
    assert np.any(pirate.state()[name])


def changed(state: State, **changes: Any) -> State:
    return {**state, **changes}


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: changed(s, **{A: s[A][:, :-1].copy()}), "the shape is"),
        (lambda s: changed(s, **{A: s[A][:-1].copy()}), "rank"),
        (lambda s: changed(s, **{A: s[A].reshape(-1)}), "rank"),
        (lambda s: changed(s, **{A: s[A].astype(np.float64)}), "float64, float32 or float16"),
        (lambda s: changed(s, **{A: s[A].astype(np.int32)}), "int32, float32 or float16"),
        (lambda s: changed(s, **{A: np.asfortranarray(s[A])}), "Fortran order"),
        (lambda s: changed(s, **{A: np.repeat(s[A], 2, axis=1)[:, ::2]}), "not contiguous"),
        (lambda s: changed(s, **{A: np.where(s[A] == s[A][0, 3], np.nan, s[A])}), "value 3 is NaN"),
        (lambda s: changed(s, **{A: s[A].tolist()}), "type list, a numpy array was expected"),
        (lambda s: {k: v for k, v in s.items() if k != B}, "half a pair: B is missing"),
        (lambda s: changed(s, **{A.replace("layers.0", "layers.99"): s[A]}), "no such linear layer"),
        (lambda s: changed(s, nonsense=s[A]), "not a LoRA tensor"),
        (lambda s: {}, "no arrays"),
    ],
)
def test_wrong_arrays(
    base: lowrank.Base, pirate: lowrank.Adapter, change: Any, message: str
) -> None:
    with pytest.raises(lowrank.FormatError, match=message) as caught:
        lowrank.Adapter.from_state(change(pirate.state()), base, config=pirate.peft_config())
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, lowrank.Error)
    assert "\n" not in str(caught.value)


def test_what_the_arrays_do_not_say(base: lowrank.Base, pirate: lowrank.Adapter) -> None:
    state, config = pirate.state(), pirate.peft_config()
    with pytest.raises(lowrank.InputError, match="alpha"):
        lowrank.Adapter.from_state(state, base)
    with pytest.raises(lowrank.InputError, match="either them or it"):
        lowrank.Adapter.from_state(state, base, config=config, alpha=3.0)
    with pytest.raises(lowrank.FormatError, match="peft_type"):
        lowrank.Adapter.from_state(state, base, config={**config, "peft_type": "ADALORA"})
    with pytest.raises(lowrank.FormatError, match="rank 4, adapter_config says 5"):
        lowrank.Adapter.from_state(state, base, config={**config, "r": 5})
    with pytest.raises(lowrank.FormatError, match="no JSON"):
        lowrank.Adapter.from_state(state, base, config={**config, "r": object()})


def test_wrong_bases(
    base: lowrank.Base, pirate: lowrank.Adapter, encoder: Path, tmp_path: Path
) -> None:
    other = lowrank.Base.open(encoder)
    with pytest.raises(lowrank.FormatError, match="no such linear layer"):
        lowrank.Adapter.from_state(pirate.state(), other, config=pirate.peft_config())
    pirate.save(tmp_path / "pirate.lrk")
    with pytest.raises(lowrank.OtherBaseError, match="made for another base"):
        lowrank.Adapter.open(tmp_path / "pirate.lrk", base=other)
    with pytest.raises(lowrank.OtherBaseError):
        pirate.state(other)
    with pytest.raises(lowrank.OtherBaseError):
        lowrank.embed(other, ["a"], adapter=pirate)
    with pytest.raises(lowrank.OtherBaseError):
        lowrank.train(other, LABELLED, adapter=pirate, task="classify")
    with pytest.raises(lowrank.OtherBaseError):
        lowrank.Session(base).generate("a", adapter=trained_on(other))
    unbound = lowrank.Adapter.open(tmp_path / "pirate.lrk")
    with pytest.raises(lowrank.InputError, match="needs the base"):
        unbound.state()
    assert unbound.state(base).keys() == pirate.state().keys()
