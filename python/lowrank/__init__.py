"""One 4-bit base model with many swappable low-rank adapters, on devices.

    import lowrank

    base = lowrank.Base.open("base.lrk")
    style = lowrank.Adapter.open("style.lrk", base=base)
    with lowrank.Session(base) as session:
        print(session.generate("Once upon a time", adapter=style, max_tokens=50))

Bases and adapters are those of the command line ``lowrank``, and so are the numbers, bit for bit.
"""

from lowrank._errors import (
    BusyError,
    DivergedError,
    Error,
    FormatError,
    InputError,
    OtherBaseError,
    OutOfMemoryError,
)
from lowrank._lowrank import (
    Adapter,
    Base,
    Reply,
    Session,
    Stream,
    Tokenizer,
    Training,
    classify,
    compare,
    embed,
    evaluate,
    memory,
    train,
    train_memory,
)
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
    "Adapters",
    "Base",
    "BusyError",
    "Classified",
    "Data",
    "DivergedError",
    "Error",
    "EvaluateOptions",
    "FormatError",
    "GenerateOptions",
    "InputError",
    "Measures",
    "OtherBaseError",
    "OutOfMemoryError",
    "Reply",
    "Session",
    "Stream",
    "Tokenizer",
    "TrainOptions",
    "Training",
    "classify",
    "compare",
    "embed",
    "evaluate",
    "memory",
    "train",
    "train_memory",
]
