"""Models that say the same number everywhere, and a training that hands them out on demand."""

from __future__ import annotations

import queue
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from gui_parts import TINY, squares, strokes

from napari_unetseg.core.agreement import Agreement
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.metrics import Scores
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.models.training_record import AutoSetting
from napari_unetseg.training.train import train
from napari_unetseg.training.training_events import (
    ModelSetAside,
    ModelUpdated,
    Outcome,
    SetAside,
    StepDone,
    TrainingDone,
    TrainingPrepared,
)

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.models.model import Model

CHOICES = (
    AutoSetting("Patch", "32 × 32", "the painted structures are 20 pixels wide", "patch"),
    AutoSetting("Normalization", "range of all images", "their ranges are alike", ""),
)


def scores(dice: float) -> Scores:
    """Of 23 held-out strokes."""
    own = Agreement(dice, 0.7, 1.0, 11)
    found = Agreement(dice, 0.75, 0.97, 23, ((0, own), (1, own)))
    iou = dice / (2 - dice)
    return Scores(("structure 1",), (1,), (1.0,), (iou,), 500, 14, dice, 1 - dice, found)


@cache
def _trained() -> Model:
    pair = AnnotatedImage(Stack.from_array(squares()), strokes(), LabelKind.STROKES)
    return train([pair], TrainSettings(**{**TINY, "steps": 1, "threads": 1}))


def constant(number: int, grain: float = 0.0) -> Model:
    """A model whose mask is ``number`` (0 or 1) everywhere; ``grain`` makes another one of it."""
    model = _trained()
    weights = dict(model.weights)
    weights["head.weight"] = torch.zeros_like(weights["head.weight"])
    weights["head.bias"] = torch.full_like(weights["head.bias"], 20.0 * number - 10.0 + grain)
    return replace(model, weights=weights)


class Puppet:
    """In the place of the core's training: goes on until it is stopped or told to fail.

    ``remaining`` seconds are left at every step.
    """

    def __init__(self, remaining: float | None = None) -> None:
        self._remaining = remaining
        self._orders: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        self._made = 0
        self.offered: list[tuple[AnnotatedImage, ...]] = []
        self.wanted = 0
        """Requests for the model that was set aside, in the running training."""
        self._first = constant(0)  # made by the real training, before this takes its place

    def improve(self, number: int, dice: float | None = None) -> Model:
        """Have a newer model to show at once, which says ``number`` everywhere."""
        self._made += 1
        model = constant(number, 0.01 * self._made)
        now = None if dice is None else scores(dice)
        self._orders.put(ModelUpdated(model, now, 1.0, self._made, urgent=True))
        return model

    def set_aside(self, number: int, reason: SetAside) -> Model:
        """Leave a model that says ``number`` everywhere."""
        self._made += 1
        model = constant(number, 0.01 * self._made)
        self._orders.put(ModelSetAside(model, reason, self._made))
        return model

    def fail(self, error: Exception) -> None:
        self._orders.put(error)

    def train_events(
        self, pairs: Sequence[AnnotatedImage], *_: Any, control: JobControl, **__: Any
    ) -> Generator[Event, None, Model]:
        last, step = ModelUpdated(self._first, None, 0.0), 0
        self.wanted = 0
        yield TrainingPrepared(0, 5, 10, 100, 50, 14, "cpu", 99, (32, 32), 2, CHOICES)
        while not control.stopped:
            step += 1
            if newer := control.pop_annotations():
                self.offered.append(newer)
            self.wanted += control.pop_set_aside_request()
            yield StepDone(step, 0, 0.5, 0.01 * step, self._remaining)
            try:
                order = self._orders.get(timeout=0.01)
            except queue.Empty:
                continue
            if isinstance(order, Exception):
                raise order
            if isinstance(order, ModelUpdated):
                last = order
            yield order
        yield TrainingDone(Outcome.STOPPED, "Training was stopped.", last.scores, 1, step, 1.0)
        return last.model
