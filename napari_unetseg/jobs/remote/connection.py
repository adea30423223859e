"""A connection to a dask scheduler, through which its workers are asked; blocking, of bytes.

Not dask's client: that keeps a thread and unpickles what it is sent. Here nothing that could run is
unpickled, so that a workstation that was taken over does not reach the laptop through this.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Self, TypeVar

from napari_unetseg import __version__
from napari_unetseg.core.errors import LostError, ModelFileError, TrainingError, UserError
from napari_unetseg.jobs.remote.packets import OPERATION, Message, Words, pack, unpack

__all__ = ["Link", "RemoteError", "address_of", "device_at"]

T = TypeVar("T")
CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""An answer may take so long before the connection counts as lost,"""
HURRY_SECONDS = 10.0
"""and so long once the task was told to stop."""

_here = threading.local()


class RemoteError(Exception):
    """Something failed on the other computer that nobody can put right here."""


def _refuse(event: str, _: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and getattr(_here, "guarded", False):
        raise RuntimeError("the other side sent a pickle, which could run code")


@cache
def _hook() -> None:
    """See to it that threads which say so unpickle nothing but plain numbers and texts.

    dask reads a message that is a pickle without being asked. An audit hook (PEP 578) cannot be
    taken away again, so there is one at most.
    """
    sys.addaudithook(_refuse)


@contextmanager
def _guarded() -> Iterator[None]:
    _here.guarded = True
    try:
        yield
    finally:
        _here.guarded = False


def address_of(text: str) -> str:
    """The address that was meant, such as ``tcp://127.0.0.1:8786``.

    Raises
    ------
    UserError
        It is none.
    """
    found = re.fullmatch(r"(?:(tcp|tls)://)?([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", text.strip())
    if found is None or not 0 < int(found[3]) < 2**16:
        raise UserError(
            f"{text.strip()!r} is no address; it looks like tcp://127.0.0.1:8786, where the "
            "tunnel to the other computer begins."
        )
    return f"{found[1] or 'tcp'}://{found[2]}:{found[3]}"


class Link:
    """A connection; a context manager that closes it.

    Parameters
    ----------
    address
        Of the scheduler.
    hurried
        Tells whether an answer is worth waiting for only shortly.

    Raises
    ------
    UserError
        Nothing answers there, or what answers has another version, or is something else.
    """

    def __init__(self, address: str, hurried: Callable[[], bool] = lambda: False) -> None:
        self.address, self._hurried = address_of(address), hurried
        self._comm: Any = None
        self._worker = ""
        self.device = ""
        self.pieces: frozenset[str] = frozenset()
        """Hashes of the pieces of images that the worker has,"""
        self.models: frozenset[str] = frozenset()
        """and keys of its models."""
        self._loop = asyncio.new_event_loop()
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._comm is not None:
            self._comm.abort()
            self._comm = None
        if not self._loop.is_closed():
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _connect(self) -> None:
        try:
            from distributed.comm.core import connect
            from distributed.security import Security
        except ImportError as error:
            raise UserError(
                "Another computer needs the package distributed here too; install it with "
                "pip install distributed."
            ) from error
        options = Security().get_connection_args("client")
        _hook()
        try:
            self._comm = self._run(
                connect(self.address, timeout=CONNECT_SECONDS, deserialize=False, **options)
            )
        except Exception as error:
            raise UserError(
                f"{self.address} does not answer. See that 'unetseg worker' runs on the other "
                "computer and the tunnel to it is open, or use this computer: choose 'this one' in "
                "the dock, leave out --on in a command."
            ) from error
        self._comm.allow_offload = False  # what is read is read in this thread, which is guarded
        self._find()

    def _find(self) -> None:
        """Find a worker that knows us."""
        told = self._ask({"op": "identity"})
        workers = told.get("workers") if isinstance(told, dict) else None
        for worker in workers if isinstance(workers, dict) else ():
            if (hello := self._hello(str(worker))) is not None:
                break
        else:
            raise UserError(
                f"At {self.address} there is no worker of napari-unetseg; start 'unetseg worker' "
                "on the other computer."
            )
        if hello.get("version") != __version__:
            raise UserError(
                f"The other computer has version {hello.get('version')} of napari-unetseg and this "
                f"one {__version__}; install the same on both."
            )
        self.device = str(hello.get("device", ""))
        self.pieces, self.models = _texts(hello.get("pieces")), _texts(hello.get("models"))

    def _hello(self, worker: str) -> Words | None:
        self._worker = worker
        answer = self._ask_worker(pack({"do": "hello"}))
        return unpack(answer)[0] if isinstance(answer, bytes) else None

    def call(self, words: Words, arrays: Any = ()) -> Message:
        """Ask the worker, and wait for its answer.

        Raises
        ------
        LostError
            It does not answer any more.
        UserError, MemoryError, RemoteError
            What failed there.
        """
        answer = self._ask_worker(pack(words, arrays))
        if not isinstance(answer, bytes):
            raise self._lost()
        told, got = unpack(answer)
        if "error" in told:
            raise failure(told)
        return told, got

    def _ask_worker(self, data: bytes) -> Any:
        message = {"op": OPERATION, "data": data, "reply": True}
        return self._ask({"op": "proxy", "msg": message, "worker": self._worker})

    def _ask(self, message: Words) -> Any:
        """Ask the scheduler; whatever goes wrong means that it is gone."""

        async def ask() -> Any:
            await self._comm.write({**message, "reply": True})
            return await self._comm.read()

        try:
            return self._run(ask())
        except Exception as error:
            self._comm.abort()
            raise self._lost() from error

    def _lost(self) -> LostError:
        return LostError(
            f"The connection to {self.address} was lost; from now on this computer does the work, "
            "until you choose the other one again."
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer, with patience."""
        task = self._loop.create_task(work)
        start = time.monotonic()

        async def wait() -> None:
            await asyncio.wait({task}, timeout=0.2)

        while not task.done():
            limit = HURRY_SECONDS if self._hurried() else PATIENCE_SECONDS
            if time.monotonic() - start > limit:
                task.cancel()
            with _guarded():
                self._loop.run_until_complete(wait())
        if task.cancelled():
            raise TimeoutError("no answer")
        return task.result()


def _texts(found: Any) -> frozenset[str]:
    return frozenset(str(one) for one in found) if isinstance(found, list) else frozenset()


def device_at(address: str) -> str:
    """The device of the worker there, such as ``cuda:0 (NVIDIA T4)``; raises as `Link` does."""
    with Link(address) as link:
        return link.device


def failure(told: Words) -> Exception:
    """What failed on the other computer, to be raised here."""
    text = str(told.get("text"))
    kinds = {"training": TrainingError, "model": ModelFileError, "user": UserError}
    if told.get("error") == "memory":
        return MemoryError("out of memory on the other computer")
    kind = kinds.get(str(told.get("error")))
    return kind(text) if kind else RemoteError(text)
