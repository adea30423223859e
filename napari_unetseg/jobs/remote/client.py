"""Remote client: runs a task on another computer as the same generator of events."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.core.events import Event, TilePredicted
from napari_unetseg.jobs.live_predictor import MaskStarted, Viewport, ViewportState
from napari_unetseg.jobs.plane_objects import ObjectsFound
from napari_unetseg.jobs.remote.connection import Link, failure
from napari_unetseg.jobs.remote.event_messages import check_place, decode_event
from napari_unetseg.jobs.remote.image_messages import cut, hash_of
from napari_unetseg.jobs.remote.model_messages import content_of, model_of
from napari_unetseg.jobs.remote.packets import BadMessageError, Json, Message
from napari_unetseg.jobs.remote.task_messages import (
    MessageNumbers,
    encode_pairs,
    encode_region,
    encode_task,
)
from napari_unetseg.jobs.tasks import PredictTask, RemoteDisconnected, Task
from napari_unetseg.training.training_events import ModelUpdated, Outcome, StepDone, TrainingDone

if TYPE_CHECKING:
    import numpy as np

    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.models.model import Model

POLL_SECONDS = 0.02
"""Polling interval for local changes."""
KEEPALIVE_SECONDS = 5.0
"""Interval of keep-alive messages to the worker."""


def run(
    task: Task, address: str, control: JobControl, key_file: Path | None = None
) -> Generator[Event, None, Any]:
    """Run a task on the worker at an address, as `RunOn` does; ``threads`` are the worker's.

    Yields the events of the task and returns what it returns; of an interrupted training, the
    newest model so far.

    Raises
    ------
    LostError
        The connection was lost before there was a model.
    UserError, MemoryError, RemoteError
        As the task itself would.
    """
    with Link(address, key_file, lambda: control.stopped) as link:
        call = _Call(task, link, control)
        try:
            return (yield from call.events())
        except LostError as error:
            if call.shown is None:
                raise
            yield RemoteDisconnected()
            yield call.cut_off(error)
            return call.shown.model


class _Call:
    """One remote task."""

    def __init__(self, task: Task, link: Link, control: JobControl) -> None:
        self._task, self._link, self._control = task, link, control
        self._numbers, self._sent = MessageNumbers(), set(link.pieces)
        self._last_sent, self._stop_sent = 0.0, False
        self._shape: tuple[int, ...] = ()
        self._view: Viewport | None = None
        self._seen: tuple[slice, ...] | None = None
        self.shown: ModelUpdated | None = None
        self._step: StepDone | None = None
        self._newest: Any = None
        self._offers = 0

    def events(self) -> Generator[Event, None, Any]:
        """Start the task and relay its events."""
        self._begin()
        while True:
            received, arrays = self._link.receive(POLL_SECONDS)
            if not all(isinstance(one, dict) for one in received.values()):
                raise BadMessageError("an answer that is none")
            if "event" in received:
                event = decode_event(received["event"], arrays, self._numbers.views)
                self._notice(event)
                yield event
            elif "ask" in received:
                self._send_pieces(received["ask"])
            elif "end" in received:
                return self._result(received["end"], arrays)
            self._send_changes()

    def cut_off(self, error: LostError) -> TrainingDone:
        """The end of a training whose connection was lost."""
        assert self.shown is not None
        step, shown = self._step, self.shown
        return TrainingDone(
            Outcome.DISCONNECTED,
            f"The other computer failed: {error}",
            shown.scores,
            0,
            step.step if step else shown.step,
            step.seconds if step else shown.seconds,
        )

    def _begin(self) -> None:
        words, arrays, model = encode_task(self._task, self._numbers)
        if isinstance(self._task, PredictTask):
            self._shape = self._task.stack.grid_shape
        else:
            words |= self._viewport(self._task.screen)
        if model is not None and words["model"] not in self._link.models:
            words["sent"] = True
            arrays.append(content_of(model))
        self._link.send(words, arrays)

    # -- what is said there --------------------------------------------------------------------

    def _notice(self, event: Event) -> None:
        if isinstance(event, MaskStarted):
            self._shape = event.view.stack.grid_shape
        elif isinstance(event, TilePredicted | ObjectsFound):
            check_place(event, self._shape)
        elif isinstance(event, ModelUpdated):
            self.shown = event
        elif isinstance(event, StepDone):
            self._step = event

    def _result(self, end: Json, arrays: list[np.ndarray]) -> Model | None:
        if "error" in end:
            raise failure(end)
        if self._newest is not None and (end.get("untaken") or end.get("offers") != self._offers):
            self._control.push_annotations(self._newest)
        return model_of(arrays[0]) if arrays else None

    # -- what is said here ---------------------------------------------------------------------

    def _send_changes(self) -> None:
        """Send local changes, or now and then a keep-alive message."""
        words: Json = {}
        arrays: list[np.ndarray] = []
        if self._control.stopped and not self._stop_sent:
            self._stop_sent = words["stop"] = True
        if self._control.pop_set_aside_request():
            words["set_aside"] = True
        if not isinstance(self._task, PredictTask):
            words |= self._viewport(self._task.screen)
        if (newer := self._control.pop_annotations()) is not None:
            self._newest = newer
            self._offers += 1
            received, arrays = encode_pairs(newer, self._numbers)
            words |= received
        if words or time.monotonic() - self._last_sent > KEEPALIVE_SECONDS:
            self._last_sent = time.monotonic()
            self._link.send(words, arrays)

    def _viewport(self, screen: ViewportState) -> Json:
        words: Json = {}
        view, seen = screen.view, screen.seen
        if view is not self._view:
            self._view = view
            words["view"] = self._numbers.view(view)
        if seen != self._seen:
            self._seen = seen
            words["seen"] = encode_region(seen)
        return words

    def _send_pieces(self, request: Json) -> None:
        """Send pieces of an image, a few at a time; or why they cannot be read."""
        try:
            stack = self._numbers.stacks[request["image"]]
            cells = [tuple(int(n) for n in cell) for cell in request["cells"]]
            whole = bool(request["whole"])
        except (LookupError, TypeError, ValueError) as error:
            raise BadMessageError("a question that is none") from error
        try:
            for batch in cut(stack, cells):
                self._link.send(*self._piece_message(batch, whole=whole))
                self._send_changes()
        except LostError:
            raise
        except (UserError, OSError, ValueError) as error:
            self._link.send({"refused": f"{stack.name} cannot be read: {error}"})

    def _piece_message(self, batch: dict[Any, np.ndarray], *, whole: bool) -> Message:
        pieces: list[list[Any]] = []
        arrays: list[np.ndarray] = []
        for cell, piece in batch.items():
            name = hash_of(piece)
            known = name in self._sent and not whole
            pieces.append([cell, name, None if known else len(arrays)])
            if not known:
                arrays.append(piece)
                self._sent.add(name)
        return {"pieces": pieces}, arrays
