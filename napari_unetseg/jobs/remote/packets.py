"""Messages as bytes: JSON and arrays in one safetensors buffer, which can run nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from napari_unetseg.core.errors import UserError

__all__ = ["OPERATION", "BadMessageError", "Message", "Words", "pack", "unpack"]

OPERATION = "napari-unetseg"
"""What a dask worker calls the handler of messages."""
Words = dict[str, Any]
"""What JSON holds."""
Message = tuple[Words, list[np.ndarray]]


class BadMessageError(UserError):
    """The other side says what it cannot mean."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The other computer sent {what}; is the same version of napari-unetseg there?"
        )


def pack(words: Words, arrays: Sequence[np.ndarray] = ()) -> bytes:
    """Write a message.

    Parameters
    ----------
    words
        Whatever JSON can hold; NaN and infinities too.
    arrays
        Integers, booleans or floats of up to 8 bytes, of any shape.
    """
    tensors = {str(n): np.ascontiguousarray(array) for n, array in enumerate(arrays)}
    tensors["json"] = np.frombuffer(json.dumps(words).encode(), np.uint8)
    return save(tensors)


def unpack(data: bytes) -> Message:
    """Read a message; the arrays cannot be written to.

    Raises
    ------
    BadMessageError
        It is none.
    """
    try:
        tensors = load(data)
        words = json.loads(tensors.pop("json").tobytes())
        arrays = [tensors[str(n)] for n in range(len(tensors))]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadMessageError("something that is no message") from error
    if not isinstance(words, dict):
        raise BadMessageError("something that is no message")
    return words, arrays
