"""Training curve: points and marks of a training's events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.score_text import class_values
from napari_unetseg.gui.state.session import Mark, MarkKind, Point
from napari_unetseg.training.training_events import AnnotationsUpdated, EpochDone, ModelUpdated

if TYPE_CHECKING:
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.gui.state.session import Session

CONTINUES = "Training continues with the new annotations: {:,} labelled pixels."
HELD_OUT = (
    "What you just painted lies in a block that is held out for the score, so the mask does not "
    "follow it; paint the same elsewhere too."
)
MOST_CLASSES = 4
"""With more structures only the mean and the worst few are drawn."""
WORST = 3


def note(session: Session, event: EpochDone | ModelUpdated | AnnotationsUpdated) -> None:
    """Add an event of a training to the session's curve and marks."""
    match event:
        case EpochDone():
            session.curve = (*session.curve, _point(event))
        case ModelUpdated() if event.urgent:
            value = _known(event.scores.value) if event.scores else None
            mark = Mark(MarkKind.SHOWN, event.step, event.seconds, value)
            session.marks = (*session.marks, mark)
        case AnnotationsUpdated():
            mark = Mark(MarkKind.STROKES, event.step, event.seconds)
            session.marks = (*session.marks, mark)
            session.say(HELD_OUT if event.held_out else CONTINUES.format(event.voxels))


def _point(event: EpochDone) -> Point:
    scores = event.scores
    if scores is None:
        return Point(event.step, event.train_loss, None, event.seconds)
    return Point(event.step, event.train_loss, scores, event.seconds, _known(scores.loss))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


class Columns:
    """The points of a curve as columns; new points are appended.

    Attributes
    ----------
    steps, seconds, loss, validation_loss, values
        One number a point; NaN where there is none. ``values`` are those of `Scores`.
    each
        The same for each structure's number.
    newest
        Scores of the last point, if any.
    """

    def __init__(self) -> None:
        self._points: Sequence[Point] = ()
        self._clear()

    def _clear(self) -> None:
        self.steps: list[float] = []
        self.seconds: list[float] = []
        self.loss: list[float] = []
        self.validation_loss: list[float] = []
        self.values: list[float] = []
        self.each: dict[int, list[float]] = {}
        self.newest: Scores | None = None

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
        self.newest = scores = point.scores
        self.values.append(math.nan if scores is None else scores.value)
        each = {} if scores is None else class_values(scores)
        for number in each:
            if number:  # the list of brushes shows that of the background
                self.each.setdefault(number, [math.nan] * before)
        for number, column in self.each.items():
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
    score: bool = False
    dashed: bool = False
    bold: bool = False


def classes_to_show(each: Mapping[int, Sequence[float]]) -> list[int]:
    """Numbers of the structures to draw: all of a few, the worst of many by their newest score."""
    if len(each) <= MOST_CLASSES:
        return sorted(each)
    newest = {number: column[-1] for number, column in each.items() if column[-1] == column[-1]}
    return sorted(sorted(newest, key=lambda number: newest[number])[:WORST])


def finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The finite points of a curve, as x and y, float64."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(ys)
    return xs[known], ys[known]
