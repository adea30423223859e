"""The side of the window: a task as the same generator of events, run by another computer."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.core.events import Event, TilePredicted
from napari_unetseg.jobs.live_predictor import MaskBegins, Screen, View
from napari_unetseg.jobs.remote.connection import Link, RemoteError, failure
from napari_unetseg.jobs.remote.event_messages import check_place, decoded
from napari_unetseg.jobs.remote.image_messages import cut, hash_of
from napari_unetseg.jobs.remote.model_messages import content_of, model_of
from napari_unetseg.jobs.remote.packets import BadMessageError, Message, Words
from napari_unetseg.jobs.remote.task_messages import Known, told_pairs, told_region, told_task
from napari_unetseg.jobs.tasks import ComputerLost, Prediction, Task
from napari_unetseg.training.training_events import Improved, Outcome, StepDone, TrainingDone

if TYPE_CHECKING:
    import numpy as np

    from napari_unetseg.core.job_control import Control
    from napari_unetseg.models.model import Model

__all__ = ["run"]


def run(task: Task, address: str, control: Control) -> Generator[Event, None, Any]:
    """Have a task done by the worker behind an address.

    Parameters
    ----------
    task
        What to do; its images are read here, as far as it asks for them there.
    address
        Of a dask scheduler, such as ``tcp://127.0.0.1:8786``.
    control
        Stops it, brings newer annotations. Its threads are this computer's and not passed on.

    Yields
    ------
    Event
        As the task itself would.

    Returns
    -------
    Model or None
        What the task returns; of a training that was cut off the best model so far.

    Raises
    ------
    LostError
        The worker does not answer any more, and nothing was learned yet.
    UserError, MemoryError, RemoteError
        As the task itself would.
    """
    with Link(address, lambda: control.stopped) as link:
        call = _Call(task, link, control)
        try:
            return (yield from call.events())
        except LostError as error:
            if call.best is None:
                raise
            yield ComputerLost()
            yield call.cut_off(error)
            return call.best.model
        finally:
            call.end()


class _Call:
    """One task, from here."""

    def __init__(self, task: Task, link: Link, control: Control) -> None:
        self._task, self._link, self._control = task, link, control
        self._known, self._sent = Known(), set(link.pieces)
        self._out: Iterator[Message] = iter(())
        self._asked: deque[Words] = deque()
        self._job: str | None = None
        self._told_stop = False
        self._shape: tuple[int, ...] = ()
        self._view: View | None = None
        self._seen: tuple[slice, ...] | None = None
        self.best: Improved | None = None
        self._step: StepDone | None = None
        self._newest: Any = None

    def events(self) -> Generator[Event, None, Any]:
        """Begin, and relay what is said until it ends."""
        self._begin()
        while True:
            told, arrays = self._link.call(*self._next_word())
            self._asked.extend(_dicts(told, "asked"))
            left = iter(arrays)
            yield from self._events(told, left)
            if (end := told.get("end")) is not None:
                return self._result(end, list(left))

    def end(self) -> None:
        """Let the worker forget the task."""
        if self._job is not None:
            with suppress(UserError, RemoteError):
                self._link.call({"do": "end", "job": self._job})

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
        words["do"] = "begin"
        if isinstance(self._task, Prediction):
            self._shape = self._task.stack.grid_shape
        else:
            words |= self._looks(self._task.screen)
        if model is not None and words["model"] not in self._link.models:
            words["sent"] = True
            arrays.append(content_of(model))
        job = self._link.call(words, arrays)[0].get("job")
        if not isinstance(job, str):
            raise BadMessageError("no answer to a task")
        self._job = job

    # -- what is said there --------------------------------------------------------------------

    def _events(self, told: Words, arrays: Iterator[np.ndarray]) -> Iterator[Event]:
        for entry in told.get("events", ()):
            try:
                words, count = entry
                taken = [next(arrays) for _ in range(count)]
            except (TypeError, ValueError, StopIteration) as error:
                raise BadMessageError("events that are none") from error
            event = decoded(words, taken, self._known.views)
            self._notice(event)
            yield event

    def _notice(self, event: Event) -> None:
        if isinstance(event, MaskBegins):
            self._shape = event.view.stack.grid_shape
        elif isinstance(event, TilePredicted):
            check_place(event, self._shape)
        elif isinstance(event, Improved):
            self.best = event
        elif isinstance(event, StepDone):
            self._step = event

    def _result(self, end: Words, arrays: list[np.ndarray]) -> Model | None:
        if "error" in end:
            raise failure(end)
        if "left" in end:
            raise LostError("The other computer had heard nothing for a minute and ended its task.")
        if end.get("untaken") and self._newest is not None:
            self._control.offer_pairs(self._newest)
        return model_of(arrays[0]) if arrays else None

    # -- what is said here ---------------------------------------------------------------------

    def _next_word(self) -> Message:
        """What changed here since the last word, and the next pieces that were asked for."""
        words: Words = {"do": "talk", "job": self._job}
        arrays: list[np.ndarray] = []
        if self._control.stopped and not self._told_stop:
            self._told_stop = words["stop"] = True
        if not isinstance(self._task, Prediction):
            words |= self._looks(self._task.screen)
        if (newer := self._control.take_pairs()) is not None:
            self._newest = newer
            told, arrays = told_pairs(newer, self._known)
            words |= told
        else:
            told, arrays = self._next_pieces()
            words |= told
        return words, arrays

    def _looks(self, screen: Screen) -> Words:
        words: Words = {}
        view, seen = screen.view, screen.seen
        if view is not self._view:
            self._view = view
            words["view"] = self._known.view(view)
        if seen != self._seen:
            self._seen = seen
            words["seen"] = told_region(seen)
        return words

    def _next_pieces(self) -> Message:
        while True:
            if (message := next(self._out, None)) is not None:
                return message
            if not self._asked:
                return {}, []
            self._out = self._answers(self._asked.popleft())

    def _answers(self, asked: Words) -> Iterator[Message]:
        """Pieces of an image, a few at a time; why not, where they cannot be read."""
        try:
            stack = self._known.stacks[asked["image"]]
            cells = [tuple(int(n) for n in cell) for cell in asked["cells"]]
            whole = bool(asked["whole"])
        except (LookupError, TypeError, ValueError) as error:
            raise BadMessageError("a question that is none") from error
        try:
            for batch in cut(stack, cells):
                yield self._told_pieces(batch, whole=whole)
        except (UserError, OSError, ValueError) as error:
            yield {"refused": f"{stack.name} cannot be read: {error}"}, []

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


def _dicts(told: Words, name: str) -> list[Words]:
    found = told.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadMessageError("an answer that is none")
    return found
