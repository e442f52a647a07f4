"""PEFT models in memory become adapters, and adapters become PEFT models.

    from lowrank.integrations.transformers import from_peft_model, to_peft_model

torch and peft are imported when a function is called.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank import Adapter, Base

if TYPE_CHECKING:
    from typing import Literal

__all__ = ["from_peft_model", "to_peft_model"]


def from_peft_model(
    model: Any,
    base: Base,
    *,
    adapter_name: str | None = None,
    name: str | None = None,
    factors: Literal["as-is", "f32", "f16", "int8"] = "as-is",
) -> Adapter:
    """The adapter of a ``peft.PeftModel``, for the base that was imported from the same model.

    ``adapter_name`` is which one of several; the active one if it is not given. A float16 parameter
    stays float16, bfloat16 becomes float32, exactly. Nothing is written to disk.
    """
    import torch
    from peft import get_peft_model_state_dict

    adapter_name = adapter_name if adapter_name is not None else model.active_adapter
    config = model.peft_config[adapter_name]
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    arrays = {}
    for key, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.float()
        arrays[key] = tensor.numpy()
    return Adapter.from_state(
        arrays,
        base,
        config=config.to_dict(),
        name=name if name is not None else adapter_name,
        factors=factors,
    )


def to_peft_model(
    adapter: Adapter,
    model: Any,
    *,
    base: Base | None = None,
    adapter_name: str = "default",
    is_trainable: bool = False,
) -> Any:
    """``model``, a transformers model, with the adapter: a ``peft.PeftModel``.

    ``base`` is the adapter's base, unless the adapter knows it. The adapter's dtype is kept; it goes
    through a temporary directory, which PEFT reads as one of its own.
    """
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "adapter"
        adapter.export_peft(directory, base=base)
        return PeftModel.from_pretrained(
            model, str(directory), adapter_name=adapter_name, is_trainable=is_trainable
        )

