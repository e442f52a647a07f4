"""What goes wrong, by kind.

Files that cannot be read or written raise Python's own ``OSError`` (``FileNotFoundError``,
``PermissionError`` …) with ``errno`` and ``filename``.
"""

__all__ = [
    "BusyError",
    "DivergedError",
    "Error",
    "FormatError",
    "InputError",
    "OtherBaseError",
    "OutOfMemoryError",
]


class Error(Exception):
    """The parent of all errors of this package."""


class FormatError(Error, ValueError):
    """A file, a folder, an archive or an array is not what it should be."""


class InputError(Error, ValueError):
    """An argument cannot be, has no effect, or does not fit the base."""


class OtherBaseError(Error, ValueError):
    """An adapter was made for another base."""


class OutOfMemoryError(Error, MemoryError):
    """The system does not give the memory, or a limit would be passed."""


class DivergedError(Error, ArithmeticError):
    """Numbers have become infinite or none at all: a loss exploded, or weights are damaged."""


class BusyError(Error, RuntimeError):
    """An object was closed, or was used for something else meanwhile."""


# Users see `lowrank.FormatError`, whichever file it is in.
def _show_as(module: str) -> None:
    for name in __all__:
        globals()[name].__module__ = module


_show_as("lowrank")
