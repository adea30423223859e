"""Training curve: points and marks of a training's events."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.gui.state.session import Mark, MarkKind, Point
from napari_unetseg.training.training_events import AnnotationsUpdated, EpochDone, ModelImproved

if TYPE_CHECKING:
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.gui.state.session import Session

MOST_CLASSES = 4
"""With more structures only the mean and the worst few are drawn."""
WORST = 3


def note(session: Session, event: EpochDone | ModelImproved | AnnotationsUpdated) -> None:
    """Add an event of a training to the session's curve and marks."""
    match event:
        case EpochDone():
            session.curve = (*session.curve, _point(event))
        case ModelImproved():
            dice = _known(event.scores.mean_dice) if event.scores else None
            mark = Mark(MarkKind.SHOWN, event.step, event.seconds, dice)
            session.marks = (*session.marks, mark)
        case AnnotationsUpdated():
            mark = Mark(MarkKind.STROKES, event.step, event.seconds)
            session.marks = (*session.marks, mark)
            session.say(
                f"Training continues with the new annotations: {event.voxels:,} labelled pixels."
            )


def _point(event: EpochDone) -> Point:
    scores = event.scores
    if scores is None:
        return Point(event.step, event.train_loss, None, event.seconds)
    return Point(
        event.step,
        event.train_loss,
        _known(scores.mean_dice),
        event.seconds,
        _known(scores.loss),
        tuple(_each(scores)),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _each(scores: Scores) -> Iterator[tuple[int, float]]:
    pairs = zip(scores.numbers, scores.dice, strict=True)
    return ((number, dice) for number, dice in pairs if not math.isnan(dice))


class Columns:
    """The points of a curve as columns; new points are appended.

    Attributes
    ----------
    steps, seconds, loss, validation_loss, mean
        One value per point; NaN if missing.
    dice
        The same for each structure, by number.
    """

    def __init__(self) -> None:
        self._points: Sequence[Point] = ()
        self._clear()

    def _clear(self) -> None:
        self.steps: list[float] = []
        self.seconds: list[float] = []
        self.loss: list[float] = []
        self.validation_loss: list[float] = []
        self.mean: list[float] = []
        self.dice: dict[int, list[float]] = {}

    def take(self, points: Sequence[Point]) -> None:
        """Set the points."""
        known = len(self._points)
        if len(points) < known or (known and points[known - 1] is not self._points[-1]):
            self._clear()
            known = 0
        for point in points[known:]:
            self._add(point)
        self._points = points

    def _add(self, point: Point) -> None:
        before = len(self.steps)
        self.steps.append(point.step)
        self.seconds.append(point.seconds)
        self.loss.append(point.loss)
        self.validation_loss.append(_number(point.validation_loss))
        self.mean.append(_number(point.dice))
        for number, _ in point.dices:
            self.dice.setdefault(number, [math.nan] * before)
        each = dict(point.dices)
        for number, column in self.dice.items():
            column.append(each.get(number, math.nan))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: name, ends in data units, colour, axis and line style."""

    name: str
    x: np.ndarray
    y: np.ndarray
    color: str
    dice: bool = False
    dashed: bool = False
    bold: bool = False


def classes_to_show(dice: Mapping[int, Sequence[float]]) -> list[int]:
    """Structures to draw: all of a few, or the worst of many by their newest Dice."""
    if len(dice) <= MOST_CLASSES:
        return sorted(dice)
    newest = {number: column[-1] for number, column in dice.items() if column[-1] == column[-1]}
    return sorted(sorted(newest, key=lambda number: newest[number])[:WORST])


def finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The finite points of a curve, as x and y, float64."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(ys)
    return xs[known], ys[known]
