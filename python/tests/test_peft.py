"""PEFT models in memory, both ways. Needs torch, transformers and peft; without them it is skipped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowrank

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from lowrank.integrations.transformers import (  # noqa: E402
    from_peft_model,
    to_peft_model,
)

CONFIGS: list[Any] = [
    {"r": 4, "lora_alpha": 8},
    {"r": 4, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}},
    {"r": 3, "use_dora": True, "target_modules": ["q_proj", "down_proj"]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama as transformers saves it, and its archive in f32."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def base(folder: Path, tmp_path: Path) -> lowrank.Base:
    return lowrank.Base.import_(
        folder, tmp_path / "base.lrk", weights="f32", embedding="f32", without_tokenizer=True
    )


def model(folder: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(folder).eval()


def adapted(folder: Path, options: Any) -> Any:
    torch.manual_seed(2)
    options = {"target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    wrapped = peft.get_peft_model(model(folder), peft.LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
            if "magnitude" in name:
                parameter.mul_(1.1)
    return wrapped.eval()


TOKENS = [3, 17, 42, 99, 5, 64]


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


@pytest.mark.parametrize("options", CONFIGS)
def test_a_peft_model_and_back(folder: Path, base: lowrank.Base, options: Any) -> None:
    wrapped = adapted(folder, options)
    adapter = from_peft_model(wrapped, base)
    assert adapter.name == "default"
    # The same numbers under the same names.
    state = peft.get_peft_model_state_dict(wrapped)
    ours = adapter.state()
    assert sorted(ours) == sorted(state)
    for name, tensor in state.items():
        assert ours[name].tobytes() == tensor.detach().numpy().tobytes(), name
    # The same function.
    expected = logits(wrapped)
    found = lowrank.Session(base).logits(TOKENS, adapter=adapter)
    assert np.abs(found - expected).max() < 2e-4
    assert np.abs(lowrank.Session(base).logits(TOKENS) - expected).max() > 1e-3
    back = to_peft_model(adapter, model(folder)).eval()
    assert np.array_equal(logits(back), expected)


def test_half_precision_and_several_adapters(folder: Path, base: lowrank.Base) -> None:
    wrapped = adapted(folder, CONFIGS[0])
    wrapped.add_adapter("other", peft.LoraConfig(r=2, target_modules=["v_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".other." in name:
                parameter.data = parameter.data.to(torch.bfloat16)
    other = from_peft_model(wrapped, base, adapter_name="other", name="second")
    assert (other.name, other.rank, len(other.targets)) == ("second", 2, 2)
    state = peft.get_peft_model_state_dict(wrapped, adapter_name="other")
    for name, array in other.state().items():
        assert array.tobytes() == state[name].detach().float().numpy().tobytes(), name
