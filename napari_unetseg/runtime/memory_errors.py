"""Detection of out-of-memory errors of NumPy, the system and PyTorch."""

from __future__ import annotations

import errno

TEXTS = ("out of memory", "can't allocate memory", "not enough memory")
"""Texts of PyTorch's `RuntimeError` on GPUs, and of its CPU allocator on Linux and Windows."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device.

    PyTorch's own error is known by its name, so that nothing needs PyTorch to ask.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or any(words in text for words in TEXTS)
