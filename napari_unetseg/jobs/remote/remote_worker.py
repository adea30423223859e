"""Remote worker: runs tasks of windows, a connection and thread each.

It reads no files but models sent as bytes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from napari_unetseg import __version__
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, finish
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.jobs.live_predictor import ViewportState
from napari_unetseg.jobs.remote.event_messages import encode_event
from napari_unetseg.jobs.remote.image_messages import Cell, Piece, decode_stack
from napari_unetseg.jobs.remote.model_messages import content_of, key_of, model_of
from napari_unetseg.jobs.remote.packets import KINDS, BadMessageError, Json, MessageChannel
from napari_unetseg.jobs.remote.recent import Recent
from napari_unetseg.jobs.remote.task_messages import (
    decode_pairs,
    decode_region,
    decode_task,
    decode_view,
)
from napari_unetseg.runtime.devices import device_name, pick_device
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.training_events import ModelUpdated

if TYPE_CHECKING:
    import socket

    import numpy as np

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.jobs.tasks import Task
    from napari_unetseg.models.model import Model

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 1.0
"""Interval of keep-alive messages."""
CLOSE_SECONDS = 20.0
"""Seconds that closing waits for a task's current step."""
SILENCE_SECONDS = 60.0
"""Seconds without a message after which a connection and its task end."""
MAX_TIME_FRACTION = 0.1
"""Largest fraction of the time for sending weights between two epochs."""
MOST_CONNECTIONS = 32
MOST_MODELS = 10
"""Size of the model cache,"""
PIECE_BYTES = 4 * 2**30
"""and bytes of the cache of image pieces."""
MOST_NAMES = 100_000
"""Most hashes of cached pieces in the greeting."""


class _DisconnectedError(Exception):
    """The window has disconnected."""


class RemoteJob:
    """The task of one connection, with a receiving thread and a task thread.

    Parameters
    ----------
    server
        Shared caches and limits.
    channel
        To the window.
    """

    def __init__(self, server: WorkerServer, channel: MessageChannel) -> None:
        self._server, self._channel = server, channel
        self._control, self._screen = JobControl(server.threads), ViewportState()
        self._sending, self._asking = threading.Lock(), threading.Lock()
        self._ready = threading.Condition()
        self._pieces: dict[Cell, Piece] = {}
        self._refused = ""
        self._stacks: dict[int, tuple[Json, Stack]] = {}
        self._offers = 0
        self._next_model = 0.0
        self._left = False
        self._thread: threading.Thread | None = None

    # -- in the task's thread ------------------------------------------------------------------

    def _run(self, task: Task) -> None:
        try:
            self._finish(finish(task(self._control), self._tell))
        except _DisconnectedError:
            log.info("a task was left")
        except BaseException as error:  # noqa: BLE001 - sent to the window
            self._fail(error)

    def _tell(self, event: Event) -> None:
        """Send an event; weights between epochs that the line is too slow for are left out."""
        began, model = time.monotonic(), isinstance(event, ModelUpdated)
        between = isinstance(event, ModelUpdated) and not (event.urgent or event.scores)
        if between and began < self._next_model:
            return
        words, arrays = encode_event(event, self._server.models)
        self._send({"event": words}, arrays)
        if model:
            ended = time.monotonic()
            self._next_model = ended + (ended - began) / MAX_TIME_FRACTION

    def _finish(self, result: Model | None) -> None:
        if result is not None:
            self._server.models.put(key_of(result), result)
        with self._ready:  # annotations after the last step are never taken
            end = {"untaken": bool(self._control.pop_annotations()), "offers": self._offers}
        self._send({"end": end}, [] if result is None else [content_of(result)])

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, UserError):
            log.exception("a task failed", exc_info=error)
        with suppress(_DisconnectedError):
            self._send({"end": {"error": _kind_of(error), "text": _text_of(error)}})

    def _send(self, words: Json, arrays: Sequence[np.ndarray] = ()) -> None:
        try:
            with self._sending:
                self._channel.send(words, arrays)
        except OSError as error:
            raise _DisconnectedError from error

    def stack(self, words: Json) -> Stack:
        """The stack of metadata; the same object for the same metadata."""
        number = int(words["number"])
        known = self._stacks.get(number)
        if known is None or known[0] != words:
            stack = decode_stack(words, self._server.pieces, partial(self._ask, number))
            known = self._stacks[number] = (words, stack)
        return known[1]

    def _ask(self, number: int, cells: Sequence[Cell], whole: bool) -> dict[Cell, Piece]:
        """Request pieces of an image and wait for all; one thread at a time."""
        with self._asking:
            self._pieces, self._refused = {}, ""
            self._send({"ask": {"image": number, "cells": cells, "whole": whole}})
            with self._ready:
                self._ready.wait_for(
                    lambda: self._left or self._refused or len(self._pieces) >= len(cells)
                )
            if self._left:
                raise _DisconnectedError
            if self._refused:
                raise UserError(self._refused)
            return self._pieces

    # -- in the thread that hears --------------------------------------------------------------

    def serve(self) -> None:
        """Receive until the window disconnects; then end the task and wait for it."""
        heard = beaten = time.monotonic()
        try:
            while not self._server.closed.is_set() and time.monotonic() - heard < SILENCE_SECONDS:
                if self._channel.poll(KEEPALIVE_SECONDS / 2):
                    heard = time.monotonic()
                    self._handle(*self._channel.receive())
                if time.monotonic() - beaten > KEEPALIVE_SECONDS:
                    beaten = time.monotonic()
                    self._beat()
        finally:
            self._leave()

    def _beat(self) -> None:
        if self._sending.acquire(blocking=False):  # or else a message is sent anyway
            try:
                self._channel.send({})
            finally:
                self._sending.release()

    def _leave(self) -> None:
        self._control.stop()
        with self._ready:
            self._left = True
            self._ready.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _handle(self, words: Json, arrays: list[np.ndarray]) -> None:
        """Handle a message; an error ends the task."""
        try:
            if "task" in words:
                self._begin(words, arrays)
            else:
                self._update(words, arrays)
        except Exception as error:  # noqa: BLE001 - sent to the window
            self._fail(error)

    def _begin(self, words: Json, arrays: list[np.ndarray]) -> None:
        if self._thread is not None:
            raise BadMessageError("a second task")
        models, key = self._server.models, words["model"]
        if words.get("sent"):
            model = model_of(arrays.pop())
            models.put(key_of(model), model)
        threads = words["settings"].get("threads") if "settings" in words else None
        self._control = JobControl(threads or self._server.threads)
        task, self._screen = decode_task(words, arrays, models.get(key), self.stack)
        self._thread = threading.Thread(
            target=self._run, args=(task,), name="unetseg-task", daemon=True
        )
        self._thread.start()

    def _update(self, words: Json, arrays: list[np.ndarray]) -> None:
        """Handle a stop, a viewport, pieces of images, newer annotations."""
        if words.get("stop"):
            self._control.stop()
        if words.get("set_aside"):
            self._control.ask_for_set_aside()
        if "view" in words:
            self._screen.view = decode_view(words["view"], self.stack)
        if "seen" in words:
            self._screen.seen = decode_region(words["seen"])
        pairs = decode_pairs(words, arrays, self.stack) if "pairs" in words else None
        with self._ready:
            if pairs is not None:
                self._control.push_annotations(pairs)
                self._offers += 1
            for place, name, at in words.get("pieces", ()):
                self._pieces[tuple(place)] = (name, None if at is None else arrays[at])
            self._refused = str(words.get("refused", self._refused))
            self._ready.notify_all()


def _kind_of(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "memory"
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), "other")


def _text_of(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


class WorkerServer:
    """Accepts connections; holds the caches of models and image pieces.

    Parameters
    ----------
    threads
        CPU threads of a task whose settings name no number; None: one fewer than there are cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self.models, self.pieces = Recent["Model"](MOST_MODELS), Recent["np.ndarray"](PIECE_BYTES)
        self.closed = threading.Event()
        self._visits: list[threading.Thread] = []

    def welcome(self, sock: socket.socket, key: bytes) -> None:
        """Serve a connection in a thread, unless there are too many."""
        self._visits = [visit for visit in self._visits if visit.is_alive()]
        if len(self._visits) >= MOST_CONNECTIONS:
            sock.close()
            return
        visit = threading.Thread(
            target=self._serve, args=(MessageChannel(sock), key), name="unetseg-visit", daemon=True
        )
        self._visits.append(visit)
        visit.start()

    def _serve(self, channel: MessageChannel, key: bytes) -> None:
        try:
            channel.authenticate(key, caller=False)
            channel.send(self._hello())
            RemoteJob(self, channel).serve()
        except Exception as error:  # noqa: BLE001 - whoever it is, the others are served
            log.info("a connection ended: %s", _text_of(error))
        finally:
            channel.close()

    def _hello(self) -> Json:
        device = device_name(pick_device("auto"))
        known = {"pieces": self.pieces.keys()[-MOST_NAMES:], "models": self.models.keys()}
        return {"version": __version__, "device": device, **known}

    def close(self) -> None:
        """End all tasks: a thread that is left inside PyTorch takes the process down."""
        self.closed.set()
        end = time.monotonic() + CLOSE_SECONDS
        for visit in self._visits:
            visit.join(max(0.0, end - time.monotonic()))
