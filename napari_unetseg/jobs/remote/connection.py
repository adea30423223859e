"""Connection of a window to a worker."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from napari_unetseg import __version__
from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.jobs.remote.packets import KINDS, MessageChannel
from napari_unetseg.jobs.remote.worker_key import key_for

if TYPE_CHECKING:
    import numpy as np

    from napari_unetseg.jobs.remote.packets import Json, Message

CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""Seconds of silence after which the connection counts as lost,"""
STOP_PATIENCE_SECONDS = 10.0
"""and the same once the task was stopped."""
SILENT = (EOFError, TimeoutError, BlockingIOError, ConnectionError)
"""Errors where the tunnel has no worker behind it."""


class RemoteError(Exception):
    """An unexpected failure on the other computer."""


def address_of(text: str) -> str:
    """Parse an address such as ``127.0.0.1:8786``.

    Raises
    ------
    UserError
        It is not one.
    """
    found = re.fullmatch(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", text.strip())
    if found is None or not 0 < int(found[1]) < 2**16:
        raise UserError(
            f"{text.strip()!r} is no address; it looks like 127.0.0.1:8786, where the tunnel to "
            "the other computer begins."
        )
    return found[0]


class Link:
    """A connection to a worker, which runs one task for it; a context manager that closes it.

    Parameters
    ----------
    address
        Of the worker, or of the tunnel to it.
    key_file
        As in `key_for`.
    hurried
        Whether the shorter `STOP_PATIENCE_SECONDS` applies.

    Raises
    ------
    UserError
        There is no worker, or one with another key or version.
    """

    def __init__(
        self,
        address: str,
        key_file: Path | None = None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self.address, self._hurried = address_of(address), hurried
        self._heard = time.monotonic()
        self._channel = self._connect(key_for(self.address, key_file))
        while not (hello := self.receive(1.0)[0]):
            pass
        if hello.get("version") != __version__:
            self.close()
            raise UserError(
                f"The other computer has version {hello.get('version')} of napari-unetseg and this "
                f"one {__version__}; install the same on both."
            )
        self.device = str(hello.get("device", ""))
        self.pieces, self.models = _texts(hello.get("pieces")), _texts(hello.get("models"))
        """Hashes of the image pieces, and keys of the models, that the worker has cached."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, which ends the task."""
        self._channel.close()

    def _connect(self, key: bytes) -> MessageChannel:
        host, _, port = self.address.rpartition(":")
        channel = None
        try:
            sock = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
            channel = MessageChannel(sock)
            if not channel.poll(CONNECT_SECONDS):
                raise TimeoutError
            channel.authenticate(key, caller=True)
        except Exception as error:
            if channel is not None:
                channel.close()
            raise UserError(self._refusal(error, reached=channel is not None)) from error
        return channel

    def _refusal(self, error: Exception, *, reached: bool) -> str:
        """Why the connection failed."""
        if isinstance(error, AuthenticationError):
            return (
                f"The worker at {self.address} has another key; choose 'ADDRESS KEY' as computer "
                "again, as 'unetseg worker' prints it, or give --key-file in a command."
            )
        if reached and not isinstance(error, SILENT):
            return (
                f"At {self.address} there is no worker of napari-unetseg; start 'unetseg worker' "
                "on the other computer."
            )
        return (
            f"{self.address} does not answer. See that 'unetseg worker' runs on the other "
            "computer and the tunnel to it is open, or use this computer: choose 'this one' in "
            "the dock, leave out --on in a command."
        )

    def send(self, words: Json, arrays: Sequence[np.ndarray] = ()) -> None:
        """Send a message; raises `LostError` without a connection."""
        try:
            self._channel.send(words, arrays)
        except OSError as error:
            raise self._lost() from error

    def receive(self, seconds: float) -> Message:
        """The worker's next message; empty without one within so many seconds.

        Raises
        ------
        LostError
            The connection is lost.
        BadMessageError
            The message is invalid.
        """
        try:
            if self._channel.poll(seconds):
                self._heard = time.monotonic()
                return self._channel.receive()
            limit = STOP_PATIENCE_SECONDS if self._hurried() else PATIENCE_SECONDS
            if time.monotonic() - self._heard > limit:
                raise TimeoutError("no answer")
        except (OSError, EOFError) as error:
            raise self._lost() from error
        except UserError:
            self.close()
            raise
        return {}, []

    def _lost(self) -> LostError:
        self._channel.close()
        return LostError(
            f"The connection to {self.address} was lost; from now on this computer does the work, "
            "until you choose the other one again."
        )


def _texts(found: Any) -> frozenset[str]:
    return frozenset(str(one) for one in found) if isinstance(found, list) else frozenset()


def device_at(address: str) -> str:
    """Name of the worker's device, such as ``cuda:0 (NVIDIA T4)``; raises as `Link` does."""
    with Link(address) as link:
        return link.device


def failure(received: Json) -> Exception:
    """The worker's error, as an exception."""
    kind, text = str(received.get("error")), str(received.get("text"))
    if kind == "memory":
        return MemoryError("out of memory on the other computer")
    return KINDS.get(kind, RemoteError)(text)
