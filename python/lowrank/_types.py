"""The shapes of arguments and results: what type checkers and readers want to know.

Nothing here is needed to call anything; a plain dictionary does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

if TYPE_CHECKING:
    from lowrank._lowrank import Adapter

__all__ = [
    "Adapters",
    "Classified",
    "Data",
    "EvaluateOptions",
    "GenerateOptions",
    "Measures",
    "TrainOptions",
]


# An adapter, one with its weight, or several whose contributions add up.
Adapters = Union[
    "Adapter", "tuple[Adapter, float]", "Sequence[Adapter | tuple[Adapter, float]]", None
]

# A file, or examples in memory.
Data = Union[str, "os.PathLike[str]", Iterable[Union[str, Mapping[str, Any]]]]


class GenerateOptions(TypedDict, total=False):
    """How a prompt is continued."""

    adapter: Adapters
    # The most tokens of the reply. Default: 128.
    max_tokens: int
    # Texts that end the reply and are no part of it.
    stop: str | Sequence[str] | None
    # Divides the logits; 0, the default, always takes the most probable token.
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    # Makes tokens that were there already less probable; 1, the default, does not.
    repetition_penalty: float
    # The same seed gives the same text. Default: 0.
    seed: int
    # Variables for the chat template.
    template_variables: Mapping[str, Any] | None


class EvaluateOptions(TypedDict, total=False):
    """How data is measured."""

    adapter: Adapters
    task: Literal["lm", "classify"]
    max_length: int | None
    completions_only: bool
    template_variables: Mapping[str, Any] | None
    # 0, the default, is one per core.
    threads: int
    precision: Literal["exact", "fast"]


class TrainOptions(TypedDict, total=False):
    """How training goes: names, defaults and meaning are those of ``lowrank train --help``."""

    task: Literal["lm", "classify"]
    # Default: 8. alpha is twice the rank where it is not given.
    rank: int | None
    alpha: float | None
    # "all-linear", names, or a regular expression for whole module paths.
    target_modules: str | Sequence[str] | None
    rank_pattern: Mapping[str, int] | None
    alpha_pattern: Mapping[str, float] | None
    init: Literal["kaiming", "gaussian"] | None
    dropout: float
    # One epoch is the default; either epochs or steps.
    epochs: int | None
    steps: int | None
    batch_size: int
    accumulation: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"]
    # Steps, or a share of all below 1.
    warmup: float
    optimizer: Literal["adamw", "adamw8bit", "sgd"]
    weight_decay: float
    max_norm: float
    label_smoothing: float
    max_length: int | None
    completions_only: bool
    packing: bool
    # Put examples of similar lengths together. Default: yes.
    sort: bool
    template_variables: Mapping[str, Any] | None
    lora_plus_ratio: float
    lora_plus_embedding_rate: float
    dylora_frozen: bool
    lora_fa_preconditioned: bool
    # DyLoRA keeps the smallest rank whose validation loss is within this share of the best.
    rank_tolerance: float
    # Keep only the inputs of blocks: less memory, more time.
    checkpointing: bool
    seed: int
    validate_every: int | None
    patience: int | None
    # 0, the default, is one per core.
    threads: int
    precision: Literal["exact", "fast"]


class _Measured(TypedDict):
    loss: float
    perplexity: float
    examples: int
    scored: int


class Measures(_Measured, total=False):
    """What a model does on data. ``accuracy`` and ``f1`` are there with ``task="classify"``, ``cut`` and
    ``left_out`` in what ``evaluate`` says."""

    accuracy: float
    f1: float
    cut: int
    left_out: int


class Classified(TypedDict):
    """The likeliest label of a text, and the probability of every label."""

    label: str
    probability: float
    probabilities: dict[str, float]
