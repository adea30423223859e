"""The side that computes: tasks of windows, a connection each, in threads of their own.

Of files it reads none but models that came as bytes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from napari_unetseg import __version__
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.job_control import Control
from napari_unetseg.jobs.live_predictor import Screen
from napari_unetseg.jobs.remote.event_messages import encoded
from napari_unetseg.jobs.remote.image_messages import Cell, Piece, stack_of
from napari_unetseg.jobs.remote.model_messages import content_of, key_of, model_of
from napari_unetseg.jobs.remote.packets import KINDS, BadMessageError, Channel, Message, Words
from napari_unetseg.jobs.remote.recent import Recent
from napari_unetseg.jobs.remote.task_messages import pairs_of, region_of, task_of, view_of
from napari_unetseg.runtime.devices import device_name, pick_device
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    import socket

    import numpy as np

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.jobs.tasks import Task
    from napari_unetseg.models.model import Model

__all__ = ["Desk", "RemoteJob"]

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
"""A connection ends, and its task, when nothing came for so long."""
MOST_CONNECTIONS = 32
MOST_MODELS = 10
"""Models that are remembered, so that the same is not sent for every mask;"""
PIECE_BYTES = 4 * 2**30
"""and pieces of images."""
MOST_NAMES = 100_000
"""Pieces of images whose names are told to who connects."""


class _LeftError(Exception):
    """Nobody asks for the task any more."""


class RemoteJob:
    """The task of one connection, in a thread; what it says and asks for waits to be fetched."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._control, self._screen = desk, Control(desk.threads), Screen()
        self._ready, self._asking = threading.Condition(), threading.Lock()
        self._said: deque[Message] = deque()
        self._bytes = 0
        self._asked: deque[Words] = deque()
        self._pieces: dict[Cell, Piece] = {}
        self._refused = ""
        self._stacks: dict[int, tuple[Words, Stack]] = {}
        self._left = False
        self._end: Message | None = None
        self._thread: threading.Thread | None = None

    # -- in the task's thread ------------------------------------------------------------------

    def _run(self, task: Task) -> None:
        try:
            events = task(self._control)
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    self._finish(end.value)
                    return
                self._say(encoded(event, self._desk.models))
        except _LeftError:
            log.info("a task was left")
        except BaseException as error:
            if not isinstance(error, UserError):
                log.exception("a task failed")
            self._close(({"error": _kind_of(error), "text": _text_of(error)}, []))

    def _finish(self, result: Model | None) -> None:
        if result is not None:
            self._desk.models.put(key_of(result), result)
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

    def _wait(self, condition: Callable[[], object]) -> None:
        self._ready.wait_for(lambda: self._left or condition())
        if self._left:
            raise _LeftError

    def stack(self, words: Words) -> Stack:
        """The image that was described; the same one for the same words."""
        number = int(words["number"])
        known = self._stacks.get(number)
        if known is None or known[0] != words:
            stack = stack_of(words, self._desk.pieces, partial(self._ask, number))
            known = self._stacks[number] = (words, stack)
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

    # -- in the thread of the connection -------------------------------------------------------

    def answer(self, words: Words, arrays: list[np.ndarray]) -> Message:
        """Answer a question; an error is an answer too."""
        try:
            if words.get("do") == "begin" and self._thread is None:
                self._begin(words, arrays)
                return {}, []
            if words.get("do") == "talk":
                self._hear(words, arrays)
                return self._news()
            raise BadMessageError("a request that is none")
        except Exception as error:
            if not isinstance(error, UserError):
                log.exception("a request failed")
            return {"error": _kind_of(error), "text": _text_of(error)}, []

    def leave(self) -> None:
        """Nobody will ask any more: end after the step at hand, and wait for that."""
        self._control.stop()
        with self._ready:
            self._left = True
            self._ready.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _begin(self, words: Words, arrays: list[np.ndarray]) -> None:
        models, key = self._desk.models, words["model"]
        if words.get("sent"):
            model = model_of(arrays.pop())
            models.put(key_of(model), model)
        threads = words["settings"].get("threads") if "settings" in words else None
        self._control = Control(threads or self._desk.threads)
        task, self._screen = task_of(words, arrays, models.get(key), self.stack)
        self._thread = threading.Thread(
            target=self._run, args=(task,), name="unetseg-task", daemon=True
        )
        self._thread.start()

    def _hear(self, words: Words, arrays: Sequence[np.ndarray]) -> None:
        """Take what the other side says: stop, what is on screen, pieces, newer annotations."""
        if words.get("stop"):
            self._control.stop()
        if "view" in words:
            self._screen.view = view_of(words["view"], self.stack)
        if "seen" in words:
            self._screen.seen = region_of(words["seen"])
        with self._ready:
            for place, name, at in words.get("pieces", ()):
                self._pieces[tuple(place)] = (name, None if at is None else arrays[at])
            self._refused = str(words.get("refused", self._refused))
            self._ready.notify_all()
        if "pairs" in words:
            self._control.offer_pairs(pairs_of(words, arrays, self.stack))

    def _news(self) -> Message:
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
                untaken = bool(self._control.take_pairs())  # also what came after the last step
                answer["end"] = {**words, "untaken": untaken}
                arrays += result
            self._ready.notify_all()
        return answer, arrays


def _size(message: Message) -> int:
    return 2000 + sum(array.nbytes for array in message[1])


def _kind_of(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "memory"
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), "other")


def _text_of(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


class Desk:
    """Lets windows in; the models and pieces of images that are remembered for them.

    Parameters
    ----------
    threads
        CPU threads of a task whose settings name no number; None: one less than there are cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self.models, self.pieces = Recent["Model"](MOST_MODELS), Recent["np.ndarray"](PIECE_BYTES)
        self._closed = threading.Event()
        self._visits: list[threading.Thread] = []

    def welcome(self, sock: socket.socket, key: bytes) -> None:
        """Serve a connection in a thread of its own, if there are not too many."""
        self._visits = [visit for visit in self._visits if visit.is_alive()]
        if len(self._visits) >= MOST_CONNECTIONS:
            sock.close()
            return
        visit = threading.Thread(
            target=self._serve, args=(Channel(sock), key), name="unetseg-visit", daemon=True
        )
        self._visits.append(visit)
        visit.start()

    def _serve(self, channel: Channel, key: bytes) -> None:
        job = RemoteJob(self)
        try:
            channel.authenticate(key, caller=False)
            channel.send(self._hello())
            while self._wait(channel):
                channel.send(*job.answer(*channel.receive()))
        except Exception as error:  # noqa: BLE001 - whoever it is, the others are served
            log.info("a connection ended: %s", _text_of(error))
        finally:
            channel.close()
            job.leave()

    def _wait(self, channel: Channel) -> bool:
        """Wait for a question; False where none will come."""
        end = time.monotonic() + SILENCE_SECONDS
        while not self._closed.is_set() and time.monotonic() < end:
            if channel.poll(0.5):
                return True
        return False

    def _hello(self) -> Words:
        device = device_name(pick_device("auto"))
        known = {"pieces": self.pieces.keys()[-MOST_NAMES:], "models": self.models.keys()}
        return {"version": __version__, "device": device, **known}

    def close(self) -> None:
        """End all tasks: a thread that is left inside PyTorch takes the process down."""
        self._closed.set()
        end = time.monotonic() + CLOSE_SECONDS
        for visit in self._visits:
            visit.join(max(0.0, end - time.monotonic()))
