"""The side of the window: a task as the same generator of events, run by another computer."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.core.events import Event, TilePredicted
from napari_unetseg.jobs.live_predictor import MaskStarted, Viewport, ViewportState
from napari_unetseg.jobs.remote.connection import Link, failure
from napari_unetseg.jobs.remote.event_messages import check_place, decoded
from napari_unetseg.jobs.remote.image_messages import cut, hash_of
from napari_unetseg.jobs.remote.model_messages import content_of, model_of
from napari_unetseg.jobs.remote.packets import BadMessageError, Message, Words
from napari_unetseg.jobs.remote.task_messages import Known, told_pairs, told_region, told_task
from napari_unetseg.jobs.tasks import PredictTask, RemoteDisconnected, Task
from napari_unetseg.training.training_events import ModelImproved, Outcome, StepDone, TrainingDone

if TYPE_CHECKING:
    import numpy as np

    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.models.model import Model

POLL_SECONDS = 0.02
"""How long something that changed here may wait to be said."""
BEAT_SECONDS = 5.0
"""How often a worker hears that somebody is here."""


def run(
    task: Task, address: str, control: JobControl, key_file: Path | None = None
) -> Generator[Event, None, Any]:
    """Have a task done by the worker behind an address, as `RunOn` says; threads stay unsaid.

    Yields the events of the task and returns what it returns; of a training that was cut off, the
    best model so far.

    Raises
    ------
    LostError
        The worker does not answer any more, and nothing was learned yet.
    UserError, MemoryError, RemoteError
        As the task itself would.
    """
    with Link(address, key_file, lambda: control.stopped) as link:
        call = _Call(task, link, control)
        try:
            return (yield from call.events())
        except LostError as error:
            if call.best is None:
                raise
            yield RemoteDisconnected()
            yield call.cut_off(error)
            return call.best.model


class _Call:
    """One task, from here."""

    def __init__(self, task: Task, link: Link, control: JobControl) -> None:
        self._task, self._link, self._control = task, link, control
        self._known, self._sent = Known(), set(link.pieces)
        self._told_at, self._told_stop = 0.0, False
        self._shape: tuple[int, ...] = ()
        self._view: Viewport | None = None
        self._seen: tuple[slice, ...] | None = None
        self.best: ModelImproved | None = None
        self._step: StepDone | None = None
        self._newest: Any = None
        self._offers = 0

    def events(self) -> Generator[Event, None, Any]:
        """Begin, and relay what is said until it ends."""
        self._begin()
        while True:
            told, arrays = self._link.receive(POLL_SECONDS)
            if not all(isinstance(one, dict) for one in told.values()):
                raise BadMessageError("an answer that is none")
            if "event" in told:
                event = decoded(told["event"], arrays, self._known.views)
                self._notice(event)
                yield event
            elif "ask" in told:
                self._answer(told["ask"])
            elif "end" in told:
                return self._result(told["end"], arrays)
            self._tell()

    def cut_off(self, error: LostError) -> TrainingDone:
        """The end of a training whose computer went away."""
        assert self.best is not None
        step, best = self._step, self.best
        return TrainingDone(
            Outcome.DISCONNECTED,
            f"The other computer failed: {error}",
            best.scores,
            0,
            step.step if step else best.step,
            step.seconds if step else best.seconds,
            best.before,
        )

    def _begin(self) -> None:
        words, arrays, model = told_task(self._task, self._known)
        if isinstance(self._task, PredictTask):
            self._shape = self._task.stack.grid_shape
        else:
            words |= self._looks(self._task.screen)
        if model is not None and words["model"] not in self._link.models:
            words["sent"] = True
            arrays.append(content_of(model))
        self._link.send(words, arrays)

    # -- what is said there --------------------------------------------------------------------

    def _notice(self, event: Event) -> None:
        if isinstance(event, MaskStarted):
            self._shape = event.view.stack.grid_shape
        elif isinstance(event, TilePredicted):
            check_place(event, self._shape)
        elif isinstance(event, ModelImproved):
            self.best = event
        elif isinstance(event, StepDone):
            self._step = event

    def _result(self, end: Words, arrays: list[np.ndarray]) -> Model | None:
        if "error" in end:
            raise failure(end)
        if self._newest is not None and (end.get("untaken") or end.get("offers") != self._offers):
            self._control.push_annotations(self._newest)
        return model_of(arrays[0]) if arrays else None

    # -- what is said here ---------------------------------------------------------------------

    def _tell(self) -> None:
        """Say what changed here; if nothing did, now and then that somebody is here."""
        words: Words = {}
        arrays: list[np.ndarray] = []
        if self._control.stopped and not self._told_stop:
            self._told_stop = words["stop"] = True
        if not isinstance(self._task, PredictTask):
            words |= self._looks(self._task.screen)
        if (newer := self._control.pop_annotations()) is not None:
            self._newest = newer
            self._offers += 1
            told, arrays = told_pairs(newer, self._known)
            words |= told
        if words or time.monotonic() - self._told_at > BEAT_SECONDS:
            self._told_at = time.monotonic()
            self._link.send(words, arrays)

    def _looks(self, screen: ViewportState) -> Words:
        words: Words = {}
        view, seen = screen.view, screen.seen
        if view is not self._view:
            self._view = view
            words["view"] = self._known.view(view)
        if seen != self._seen:
            self._seen = seen
            words["seen"] = told_region(seen)
        return words

    def _answer(self, asked: Words) -> None:
        """Send pieces of an image, a few at a time; why not, where they cannot be read."""
        try:
            stack = self._known.stacks[asked["image"]]
            cells = [tuple(int(n) for n in cell) for cell in asked["cells"]]
            whole = bool(asked["whole"])
        except (LookupError, TypeError, ValueError) as error:
            raise BadMessageError("a question that is none") from error
        try:
            for batch in cut(stack, cells):
                self._link.send(*self._told_pieces(batch, whole=whole))
                self._tell()
        except LostError:
            raise
        except (UserError, OSError, ValueError) as error:
            self._link.send({"refused": f"{stack.name} cannot be read: {error}"})

    def _told_pieces(self, batch: dict[Any, np.ndarray], *, whole: bool) -> Message:
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
