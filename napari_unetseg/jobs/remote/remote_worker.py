"""The side that computes: a handler of a dask worker that runs tasks, each in a thread of its own.

`dask_setup` adds it to any dask worker (``--preload napari_unetseg.jobs.remote.remote_worker``),
and ``unetseg worker`` starts one. Requests and answers are bytes that are read here; of files it
reads none but models that came as bytes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari_unetseg import __version__
from napari_unetseg.core.errors import ModelFileError, TrainingError, UserError
from napari_unetseg.core.job_control import Control
from napari_unetseg.jobs.live_predictor import Screen
from napari_unetseg.jobs.remote.event_messages import encoded
from napari_unetseg.jobs.remote.image_messages import Cell, Piece, Store, stack_of
from napari_unetseg.jobs.remote.model_messages import Models, content_of, model_of
from napari_unetseg.jobs.remote.packets import (
    OPERATION,
    BadMessageError,
    Message,
    Words,
    pack,
    unpack,
)
from napari_unetseg.jobs.remote.task_messages import pairs_of, region_of, task_of, view_of
from napari_unetseg.runtime.devices import device_name, pick_device
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    import numpy as np
    from distributed import Worker

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.jobs.tasks import Task
    from napari_unetseg.models.model import Model

__all__ = ["Desk", "dask_setup", "dask_teardown"]

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.05
"""How long an answer waits for something to say."""
GATHER_SECONDS = 0.01
"""How long it waits for more, once there is something."""
REPLY_BYTES = 16 * 2**20
"""Events that are sent in one answer, unless one alone is larger."""
WAITING_BYTES = 64 * 2**20
"""Events that may wait to be fetched before the task has to wait."""
CLOSE_SECONDS = 20.0
"""How long a worker that ends waits for a task's step at hand."""
SILENCE_SECONDS = 60.0
"""A task ends when nobody asked for its events for so long."""


class _LeftError(Exception):
    """Nobody asks for the task any more."""


class Job:
    """A task that runs in a thread; what it says and asks for waits here to be fetched."""

    def __init__(self, control: Control, store: Store, models: Models) -> None:
        self.control, self._store, self._models = control, store, models
        self._screen = Screen()
        self._ready, self._asking = threading.Condition(), threading.Lock()
        self._said: deque[Message] = deque()
        self._bytes = 0
        self._asked: deque[Words] = deque()
        self._pieces: dict[Cell, Piece] = {}
        self._refused = ""
        self._stacks: dict[int, tuple[Words, Stack]] = {}
        self._heard = time.monotonic()
        self._end: Message | None = None
        self._thread: threading.Thread | None = None

    def start(self, words: Words, arrays: Sequence[np.ndarray], model: Model | None) -> None:
        """Begin; raises `UserError` for a task that is refused."""
        task, self._screen = task_of(words, arrays, model, self.stack)
        self._thread = threading.Thread(
            target=self._run, args=(task,), name="unetseg-task", daemon=True
        )
        self._thread.start()

    # -- in the task's thread ------------------------------------------------------------------

    def _run(self, task: Task) -> None:
        try:
            events = task(self.control)
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    self._finish(end.value)
                    return
                self._say(encoded(event, self._models))
        except _LeftError:
            log.info("a task was left")
            self._close(({"left": True}, []))
        except BaseException as error:
            if not isinstance(error, UserError):
                log.exception("a task failed")
            self._close(({"error": _kind_of(error), "text": _text_of(error)}, []))

    def _finish(self, result: Model | None) -> None:
        if result is not None:
            self._models.put(result)
        self._close(({}, [] if result is None else [content_of(result)]))

    def _close(self, end: Message) -> None:
        with self._ready:
            self._end = end
            self._ready.notify_all()

    def _say(self, message: Message) -> None:
        with self._ready:
            self._said.append(message)
            self._bytes += _size(message)
            self._ready.notify_all()
            self._wait(lambda: self._bytes <= WAITING_BYTES)

    def _wait(self, condition: Any) -> None:
        while not self._ready.wait_for(condition, 1.0) or self.left:
            if self.left:
                self.control.stop()
                raise _LeftError

    def stack(self, words: Words) -> Stack:
        """The image that was described; the same one for the same words."""
        number = int(words["number"])
        known = self._stacks.get(number)
        if known is None or known[0] != words:

            def ask(cells: Sequence[Cell], whole: bool) -> dict[Cell, Piece]:
                return self._ask(number, cells, whole)

            known = self._stacks[number] = (words, stack_of(words, self._store, ask))
        return known[1]

    def _ask(self, number: int, cells: Sequence[Cell], whole: bool) -> dict[Cell, Piece]:
        """Ask for pieces of an image and wait until all of them are there; one thread at a time."""
        with self._asking, self._ready:
            self._pieces, self._refused = {}, ""
            self._asked.append({"image": number, "cells": cells, "whole": whole})
            self._ready.notify_all()
            self._wait(lambda: self._refused or len(self._pieces) >= len(cells))
            if self._refused:
                raise UserError(self._refused)
            return self._pieces

    # -- in a thread that answers --------------------------------------------------------------

    @property
    def left(self) -> bool:
        """Whether nobody has asked for it for long."""
        return time.monotonic() - self._heard > SILENCE_SECONDS

    def leave(self) -> None:
        """Nobody will ask any more: end after the step at hand."""
        self.control.stop()
        self._heard = -math.inf
        with self._ready:
            self._ready.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join(seconds)

    def hear(self, words: Words, arrays: Sequence[np.ndarray]) -> None:
        """Take what the other side says: stop, what is on screen, pieces, newer annotations."""
        self._heard = time.monotonic()
        if words.get("stop"):
            self.control.stop()
        if "view" in words:
            self._screen.view = view_of(words["view"], self.stack)
        if "seen" in words:
            self._screen.seen = region_of(words["seen"])
        if "pieces" in words:
            with self._ready:
                for place, name, at in words["pieces"]:
                    self._pieces[tuple(place)] = (name, None if at is None else arrays[at])
                self._ready.notify_all()
        if "refused" in words:
            with self._ready:
                self._refused = str(words["refused"])
                self._ready.notify_all()
        if "pairs" in words:
            self.control.offer_pairs(pairs_of(words, arrays, self.stack))

    def answer(self) -> Message:
        """What was said and asked for since the last time; waits a moment for it."""
        with self._ready:
            self._ready.wait_for(lambda: self._said or self._asked or self._end, WAIT_SECONDS)
            if self._said and not (self._asked or self._end):
                self._ready.wait_for(lambda: self._asked or self._end, GATHER_SECONDS)
            events, arrays, size = [], [], 0
            while self._said and (not size or size + _size(self._said[0]) <= REPLY_BYTES):
                words, more = self._said.popleft()
                events.append([words, len(more)])
                arrays += more
                size += _size((words, more))
                self._bytes -= _size((words, more))
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
            answer: Words = {"events": events, "asked": asked}
            if self._end is not None and not self._said:
                words, result = self._end
                untaken = bool(self.control.take_pairs())  # also what came after the last step
                answer["end"] = {**words, "untaken": untaken}
                arrays += result
            self._ready.notify_all()
        return answer, arrays


def _size(message: Message) -> int:
    return 200 + sum(array.nbytes for array in message[1])


def _kind_of(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "memory"
    kinds = {"training": TrainingError, "model": ModelFileError, "user": UserError}
    return next((name for name, kind in kinds.items() if isinstance(error, kind)), "other")


def _text_of(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


class Desk:
    """Answers requests; the tasks that run, the models and pieces that are remembered.

    Parameters
    ----------
    threads
        CPU threads of a task whose settings name no number; None: one less than there are cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._store, self._models = Store(), Models()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    async def handle(self, data: bytes) -> bytes:
        """Answer a request, in a thread of its own."""
        return await asyncio.to_thread(self.answer, data)

    def answer(self, data: bytes) -> bytes:
        """Answer a request; an error is an answer too."""
        try:
            words, arrays = unpack(data)
            match words.get("do"):
                case "hello":
                    return pack(self._hello())
                case "begin":
                    return pack(self._begin(words, arrays))
                case "talk":
                    job = self._job(words)
                    job.hear(words, arrays)
                    return pack(*job.answer())
                case "end":
                    self._drop(words)
                    return pack({})
            raise BadMessageError("a request that is none")
        except Exception as error:
            if not isinstance(error, UserError):
                log.exception("a request failed")
            return pack({"error": _kind_of(error), "text": _text_of(error)})

    def _hello(self) -> Words:
        device = device_name(pick_device("auto"))
        known = {"pieces": self._store.names(), "models": self._models.keys()}
        return {"version": __version__, "device": device, **known}

    def _begin(self, words: Words, arrays: list[np.ndarray]) -> Words:
        """Begin a task."""
        key = words["model"]
        if words.get("sent"):
            self._models.put(model_of(arrays.pop()))
        model = self._models.get(key) if key is not None else None
        threads = words["settings"].get("threads") if "settings" in words else None
        job = Job(Control(threads or self._threads), self._store, self._models)
        job.start(words, arrays, model)
        name = secrets.token_hex(8)
        with self._lock:
            self._jobs = {n: j for n, j in self._jobs.items() if not j.left}
            self._jobs[name] = job
        return {"job": name}

    def _job(self, words: Words) -> Job:
        job = self._jobs.get(str(words.get("job")))
        if job is None:
            raise UserError(
                "The other computer ended this task, since it had heard nothing for a minute; "
                "begin it again."
            )
        return job

    def _drop(self, words: Words) -> None:
        with self._lock:
            job = self._jobs.pop(str(words.get("job")), None)
        if job is not None:
            job.leave()

    def close(self) -> None:
        """End all tasks: a thread that is left inside PyTorch takes the process down."""
        for job in self._jobs.values():
            job.leave()
        for job in self._jobs.values():
            job.join(CLOSE_SECONDS)


async def dask_setup(worker: Worker, threads: int | None = None) -> None:
    """Let a dask worker run tasks of windows."""
    desk = worker.extensions[OPERATION] = Desk(threads)
    worker.handlers[OPERATION] = desk.handle


async def dask_teardown(worker: Worker) -> None:
    """End them."""
    await asyncio.to_thread(worker.extensions[OPERATION].close)
