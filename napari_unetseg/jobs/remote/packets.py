"""Messages as bytes: JSON and arrays in one safetensors buffer, which can run nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from napari_unetseg.core.errors import UserError

__all__ = ["MAX_BYTES", "BadMessageError", "Message", "Words", "pack", "unpack"]

MAX_BYTES = 2**30
"""A message is refused, before it is read, where it is larger;"""
MAX_JSON_BYTES = 16 * 2**20
"""and where its JSON is, since objects take much more memory than their text."""
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

    Raises
    ------
    UserError
        It is larger than the other side would read.
    """
    text = json.dumps(words).encode()
    if len(text) > MAX_JSON_BYTES or sum(array.nbytes for array in arrays) > MAX_BYTES * 0.99:
        raise UserError(
            "This is more than can be sent to another computer at once (1 GB); train with fewer "
            "images, or on this computer."
        )
    tensors = {str(n): np.ascontiguousarray(array) for n, array in enumerate(arrays)}
    return save(tensors | {"json": np.frombuffer(text, np.uint8)})


def unpack(data: bytes) -> Message:
    """Read a message; the arrays cannot be written to.

    Raises
    ------
    BadMessageError
        It is none.
    """
    try:
        tensors = load(data)
        text = tensors.pop("json")
        if text.nbytes > MAX_JSON_BYTES:
            raise ValueError("too much JSON")
        words = json.loads(text.tobytes())
        arrays = [tensors[str(n)] for n in range(len(tensors))]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadMessageError("something that is no message") from error
    if not isinstance(words, dict):
        raise BadMessageError("something that is no message")
    return words, arrays
