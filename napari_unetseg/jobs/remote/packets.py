"""Message framing: JSON and arrays in one safetensors buffer, without pickles.

Frames and the authentication are of `multiprocessing.connection`; its pickling `send` and `recv`
are not used.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from napari_unetseg.core.errors import ModelFileError, TrainingError, UserError

MAX_BYTES = 2**30
"""Largest message;"""
MAX_JSON_BYTES = 16 * 2**20
"""and largest JSON in it, since parsed objects take much more memory."""
STALL_SECONDS = 30
"""Most seconds that a message may stall."""
KINDS = {"training": TrainingError, "model": ModelFileError, "user": UserError}
"""Error types by their name in messages; the first that fits."""
Json = dict[str, Any]
"""A JSON object."""
Message = tuple[Json, list[np.ndarray]]


class BadMessageError(UserError):
    """An invalid message."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The other computer sent {what}; is the same version of napari-unetseg there?"
        )


def pack(words: Json, arrays: Sequence[np.ndarray] = ()) -> bytes:
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
        It is invalid.
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


class MessageChannel:
    """Messages over a socket, which it owns; for one thread.

    All methods raise `OSError` or `EOFError` where the other side is gone, stalls in the middle of
    a message, or announces one of more than `MAX_BYTES`.
    """

    def __init__(self, sock: socket.socket) -> None:
        windows = sys.platform == "win32"
        limit = struct.pack("@L", STALL_SECONDS * 1000)
        limit = limit if windows else struct.pack("@ll", STALL_SECONDS, 0)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, limit)
        self._connection = connection.Connection(sock.detach())
        self.close, self.poll = self._connection.close, self._connection.poll

    def authenticate(self, key: bytes, *, caller: bool) -> None:
        """Authenticate each other, the caller first.

        Raises
        ------
        multiprocessing.AuthenticationError
            The other side has another key.
        """
        steps = [connection.answer_challenge, connection.deliver_challenge]
        for step in steps if caller else reversed(steps):
            step(self._connection, key)

    def send(self, words: Json, arrays: Sequence[np.ndarray] = ()) -> None:
        """Send a message; raises `UserError` for one that is too large."""
        self._connection.send_bytes(pack(words, arrays))

    def receive(self) -> Message:
        """Read a message; raises `BadMessageError` if invalid."""
        return unpack(self._connection.recv_bytes(MAX_BYTES))
