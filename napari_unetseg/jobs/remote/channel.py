"""Authenticated messages over a socket, in the frames of `multiprocessing.connection`.

Only `send_bytes` and `recv_bytes` are used; its `send` and `recv` are pickles.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from multiprocessing import connection
from typing import TYPE_CHECKING

from napari_unetseg.jobs.remote.packets import MAX_BYTES, Message, Words, pack, unpack

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Channel"]

STALL_SECONDS = 30
"""A message that was begun may stand still for so long."""


class Channel:
    """Messages to and from the other computer; used by one thread.

    All methods raise `OSError` or `EOFError` where the other side is gone, stands still in the
    middle of a message, or announces one of more than `MAX_BYTES`.

    Parameters
    ----------
    sock
        A connected one, which is the channel's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, _timeval(STALL_SECONDS))
        self._connection = connection.Connection(sock.detach())

    def close(self) -> None:
        """End it; a second time does nothing."""
        self._connection.close()

    def answer_challenge(self, key: bytes) -> None:
        """Prove to know the key, then have it proven; the side that connected begins so.

        Raises
        ------
        multiprocessing.AuthenticationError
            The other side has another key.
        """
        connection.answer_challenge(self._connection, key)
        connection.deliver_challenge(self._connection, key)

    def deliver_challenge(self, key: bytes) -> None:
        """Have the key proven, then prove it; raises as `answer_challenge`."""
        connection.deliver_challenge(self._connection, key)
        connection.answer_challenge(self._connection, key)

    def poll(self, seconds: float) -> bool:
        """Wait until something can be read; whether it can."""
        return self._connection.poll(seconds)

    def send(self, words: Words, arrays: Sequence[np.ndarray] = ()) -> None:
        """Send a message; raises `UserError` for one that is too large."""
        self._connection.send_bytes(pack(words, arrays))

    def receive(self) -> Message:
        """Read a message; raises `BadMessageError` for bytes that are none."""
        return unpack(self._connection.recv_bytes(MAX_BYTES))


def _timeval(seconds: int) -> bytes:
    return (
        struct.pack("@L", seconds * 1000)
        if sys.platform == "win32"
        else struct.pack("@ll", seconds, 0)
    )
