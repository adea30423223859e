"""The connection of a window to a worker."""

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

    from napari_unetseg.jobs.remote.packets import Message, Words

CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""A worker may say nothing for so long before the connection counts as lost,"""
HURRY_SECONDS = 10.0
"""and so long once the task was told to stop."""
SILENT = (EOFError, TimeoutError, BlockingIOError, ConnectionError)
"""What is raised where the tunnel ends nowhere."""


class RemoteError(Exception):
    """Something failed on the other computer that nobody can put right here."""


def address_of(text: str) -> str:
    """The address that was meant, such as ``127.0.0.1:8786``.

    Raises
    ------
    UserError
        It is none.
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
        Tells whether the worker is worth waiting for only shortly.

    Raises
    ------
    UserError
        Nothing answers there, or what answers has another key or version, or is something else.
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
        """Hashes of the pieces of images, and keys of the models, that the worker has."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the task with it."""
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
        """Why there is no connection."""
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

    def send(self, words: Words, arrays: Sequence[np.ndarray] = ()) -> None:
        """Say something; raises `LostError` where nobody hears it."""
        try:
            self._channel.send(words, arrays)
        except OSError as error:
            raise self._lost() from error

    def receive(self, seconds: float) -> Message:
        """What the worker says next; empty where it says nothing in so many seconds.

        Raises
        ------
        LostError
            It has said nothing for long, or is gone.
        BadMessageError
            It talks nonsense.
        """
        try:
            if self._channel.poll(seconds):
                self._heard = time.monotonic()
                return self._channel.receive()
            limit = HURRY_SECONDS if self._hurried() else PATIENCE_SECONDS
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
    """The device of the worker there, such as ``cuda:0 (NVIDIA T4)``; raises as `Link` does."""
    with Link(address) as link:
        return link.device


def failure(told: Words) -> Exception:
    """What failed on the other computer, to be raised here."""
    kind, text = str(told.get("error")), str(told.get("text"))
    if kind == "memory":
        return MemoryError("out of memory on the other computer")
    return KINDS.get(kind, RemoteError)(text)
