# The extension module. Documentation is in the docstrings: help(lowrank.Session).

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Self, Unpack

from lowrank._types import (
    Adapters,
    Classified,
    Data,
    EvaluateOptions,
    GenerateOptions,
    Measures,
    TrainOptions,
)

__all__ = [
    "Adapter",
    "Base",
    "Reply",
    "Session",
    "Stream",
    "Tokenizer",
    "Training",
    "classify",
    "compare",
    "embed",
    "evaluate",
    "memory",
    "train",
    "train_memory",
]

_Path: TypeAlias = str | os.PathLike[str]
_Prompt: TypeAlias = str | Sequence[Mapping[str, object]] | Sequence[int] | npt.NDArray[np.integer[Any]]
_Ids: TypeAlias = Iterable[int] | npt.NDArray[np.integer[Any]]
_Weights: TypeAlias = Literal["nf4", "int8", "f16", "f32"]
_Factors: TypeAlias = Literal["as-is", "f32", "f16", "int8"]
_Precision: TypeAlias = Literal["exact", "fast"]
_Kv: TypeAlias = Literal["f32", "f16", "int8"]

class _Event(Protocol):
    def is_set(self) -> bool: ...

class _TrainKeywords(TrainOptions, total=False):
    validation: Data | None
    method: str | None
    adapter: Adapter | None
    name: str
    output: _Path | None
    force: bool
    checkpoint: _Path | None
    checkpoint_every: int
    resume: bool
    on_step: Callable[[int, int, float], object] | None
    on_validation: Callable[[int, float, float | None], object] | None
    stop: _Event | Callable[[], bool] | None

class _MemoryKeywords(TrainOptions, total=False):
    method: str
    data: Data | None
    validation: Data | None
    labels: int | None
    checkpoint_every: int

class _CompareKeywords(TrainOptions, total=False):
    on_step: Callable[[int, int, float], object] | None
    on_validation: Callable[[int, float, float | None], object] | None
    stop: _Event | Callable[[], bool] | None

@final
class Base:
    @classmethod
    def open(cls, path: _Path) -> Self: ...
    @classmethod
    def import_(
        cls,
        source: _Path,
        output: _Path,
        *,
        weights: _Weights | None = None,
        embedding: _Weights | None = None,
        block: int = 64,
        fit: bool = False,
        without_tokenizer: bool = False,
        content_version: int = 1,
        force: bool = False,
        on_progress: Callable[[int, int, str], object] | None = None,
    ) -> Self: ...
    @property
    def path(self) -> os.PathLike[str]: ...
    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def labels(self) -> list[str]: ...
    @property
    def modules(self) -> list[str]: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def verify(self) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Tokenizer:
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: _Ids, *, skip_special_tokens: bool = True) -> str: ...
    def render_chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str: ...
    @property
    def has_template(self) -> bool: ...
    @property
    def end_token(self) -> int | None: ...
    def is_stop(self, token: int) -> bool: ...

@final
class Adapter:
    @classmethod
    def open(cls, path: _Path, *, base: Base | None = None) -> Self: ...
    @classmethod
    def from_bytes(cls, data: bytes, *, base: Base | None = None) -> Self: ...
    @classmethod
    def from_peft(
        cls,
        source: _Path,
        base: Base,
        *,
        name: str | None = None,
        factors: _Factors = "as-is",
        labels: Sequence[str] | None = None,
    ) -> Self: ...
    @classmethod
    def from_state(
        cls,
        state: dict[str, npt.NDArray[np.float32]] | dict[str, npt.NDArray[np.float16]],
        base: Base,
        *,
        config: dict[str, Any] | None = None,
        alpha: float | None = None,
        rank_stabilized: bool = False,
        name: str | None = None,
        factors: _Factors = "as-is",
        labels: Sequence[str] | None = None,
    ) -> Self: ...
    def state(self, base: Base | None = None) -> dict[str, npt.NDArray[np.float32]]: ...
    def peft_config(self, base: Base | None = None) -> dict[str, Any]: ...
    def save(self, path: _Path, *, force: bool = False) -> None: ...
    def export_peft(
        self, directory: _Path, *, base: Base | None = None, force: bool = False
    ) -> None: ...
    def to_bytes(self) -> bytes: ...
    @property
    def name(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def targets(self) -> list[str]: ...
    @property
    def labels(self) -> list[str]: ...
    @property
    def facts(self) -> dict[str, Any]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def base_fingerprint(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Reply:
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> list[int] | None: ...
    @property
    def stop_reason(self) -> str: ...
    @property
    def stop(self) -> str | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...

@final
class Session:
    def __new__(
        cls,
        base: Base,
        *,
        context: int | None = None,
        threads: int = 0,
        precision: _Precision | None = None,
        kv: _Kv = "f16",
        lookup: int = 0,
        batch: int = 8,
        reuse: bool = False,
    ) -> Self: ...
    def generate(self, prompt: _Prompt, **options: Unpack[GenerateOptions]) -> Reply: ...
    def stream(self, prompt: _Prompt, **options: Unpack[GenerateOptions]) -> Stream: ...
    def generate_batch(
        self,
        prompts: Sequence[_Prompt],
        *,
        adapters: Sequence[Adapters] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Reply]: ...
    def logits(
        self, tokens: _Ids, *, adapter: Adapters = None, precision: _Precision = "exact"
    ) -> npt.NDArray[np.float32]: ...
    @property
    def base(self) -> Base: ...
    @property
    def context(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, *_error: type[BaseException] | BaseException | TracebackType | None
    ) -> None: ...

@final
class Stream(Iterator[str]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> str: ...
    @property
    def reply(self) -> Reply | None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, *_error: type[BaseException] | BaseException | TracebackType | None
    ) -> None: ...

@final
class Training:
    @property
    def adapter(self) -> Adapter | None: ...
    @property
    def base(self) -> Base | None: ...
    @property
    def steps(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def losses(self) -> npt.NDArray[np.float32]: ...
    @property
    def validations(self) -> list[tuple[int, float, float | None]]: ...
    @property
    def validation(self) -> Measures | None: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    @property
    def trainable_parameters(self) -> int: ...

def train(base: Base, data: Data, **options: Unpack[_TrainKeywords]) -> Training: ...
def evaluate(base: Base, data: Data, **options: Unpack[EvaluateOptions]) -> Measures: ...
def classify(
    base: Base,
    texts: Sequence[str],
    *,
    adapter: Adapters = None,
    max_length: int | None = None,
    threads: int = 0,
    precision: _Precision = "exact",
) -> list[Classified]: ...
def embed(
    base: Base,
    texts: Sequence[str],
    *,
    adapter: Adapters = None,
    pooling: Literal["mean", "cls", "pooler"] | None = None,
    max_length: int | None = None,
    threads: int = 0,
    precision: _Precision = "exact",
) -> npt.NDArray[np.float32]: ...
def compare(
    base: Base,
    data: Data,
    validation: Data,
    methods: Sequence[str],
    *,
    seeds: int = 1,
    on_run: Callable[[str, int], object] | None = None,
    **options: Unpack[_CompareKeywords],
) -> list[dict[str, Any]]: ...
def memory(
    base: Base,
    *,
    adapter: Adapters = None,
    context: int | None = None,
    batch: int = 1,
    prefill_chunk: int = 32,
    lookup: int = 0,
    kv: _Kv = "f16",
    threads: int = 0,
    precision: _Precision | None = None,
) -> dict[str, int]: ...
def train_memory(base: Base, **options: Unpack[_MemoryKeywords]) -> dict[str, Any]: ...
