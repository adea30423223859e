"""A simulated hand with a mouse: how long it takes to paint, and where it paints.

A model of a hand, not a hand. The part of the image that is seen fills a canvas of `CANVAS` pixels,
and all lengths below are pixels of that canvas: a stroke goes at up to 400 px/s, slower in thin
places (the steering law: a path as wide as W is followed at W / 0.05 s), the pointer travels at 800
px/s, a place takes 200 ms to be found and is missed by 2 px. To look at a new view takes a second,
to take another brush in hand a third of a second. Strokes never come within two pixels of the image
to the edge of what they are painted on, less where that is thin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from painter import BLUR, around, room_inside, walk
from scipy import ndimage

from napari_unetseg.core.labels import BACKGROUND_LABEL

CANVAS = 800.0
SPEED, TRAVEL, STEERING = 400.0, 800.0, 1 / 0.05
FIND, LOOK, KEY = 0.2, 1.0, 0.35
JITTER = 2.0
LENGTH = 100.0
"""Canvas pixels of a stroke."""
BRUSH_WIDTH = 3
"""Pixels of the image; what would come too near to an edge is left out."""
LEAST_ERROR = 0.05
"""Blurred share of wrong pixels below which an error is not seen."""
Box = tuple[slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """Pixels of what is seen (rows, columns), the value painted, and seconds of the hand."""

    pixels: tuple[np.ndarray, np.ndarray]
    value: int
    seconds: float


class Hand:
    """Where the pointer is, which brush it holds, and what it paints next.

    Parameters
    ----------
    seed
        Of all that is random about it.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._at = np.array([CANVAS / 2, CANVAS / 2])
        self._brush = 0

    def ordinary(self, truth: np.ndarray, count: int) -> Iterator[Stroke]:
        """Strokes at ordinary places: ``count`` of every class that is seen, (Y, X) uint8."""
        view = _View(truth, np.zeros(truth.shape, bool))
        for value in view.values:
            for _ in range(count):
                yield from self._stroke(view, value, np.ones(truth.shape, np.float32))

    def corrections(
        self, truth: np.ndarray, mask: np.ndarray, labels: np.ndarray, *, wrong: int, right: int
    ) -> Iterator[Stroke]:
        """Strokes at the largest errors that are seen, and a few of every class where it is right.

        Parameters
        ----------
        truth, mask
            What is seen, (Y, X) uint8, 0 for background.
        labels
            What is painted there already; it is not painted over.
        wrong, right
            How many strokes at errors, all classes together, and of each class where it is right.
        """
        view = _View(truth, labels != 0)
        missed = {v: (truth == v % BACKGROUND_LABEL) & (mask != truth) for v in view.values}
        errors = {
            v: ndimage.gaussian_filter(m.astype(np.float32), BLUR / 2) for v, m in missed.items()
        }
        for _ in range(wrong):
            worst = {v: float(np.where(view.free(v), errors[v], 0.0).max()) for v in view.values}
            value = max(worst, key=lambda v: worst[v], default=0)
            if not value or worst[value] <= LEAST_ERROR:
                break
            yield from self._stroke(view, value, errors[value], largest=True)
        for value in view.values:
            good = ((truth == value % BACKGROUND_LABEL) & (mask == truth)).astype(np.float32)
            for _ in range(right):
                yield from self._stroke(view, value, good)

    def _stroke(
        self, view: _View, value: int, weights: np.ndarray, *, largest: bool = False
    ) -> Iterator[Stroke]:
        """One stroke, unless there is no room for it."""
        inside = view.free(value)
        wanted = np.where(inside, weights, 0.0).ravel()
        if not wanted.any():
            return
        if largest:
            aim = int(wanted.argmax())
        else:
            aim = int(self.rng.choice(wanted.size, p=wanted / wanted.sum(dtype=float)))
        zoom = CANVAS / max(inside.shape)
        start = self._missed(np.array(np.unravel_index(aim, inside.shape)), inside, zoom)
        path = walk(inside, tuple(start), max(2, round(LENGTH / zoom)), self.rng)
        width = 2 * float(view.depth[value][path].mean()) * zoom
        seconds = FIND + float(np.hypot(*(start * zoom - self._at))) / TRAVEL
        seconds += len(path[0]) * zoom / min(SPEED, STEERING * width)
        seconds += KEY if value != self._brush else 0.0
        self._at, self._brush = start * zoom, value
        line = np.zeros(inside.shape, bool)
        line[path] = True
        painted = ndimage.binary_dilation(line, np.ones((BRUSH_WIDTH, BRUSH_WIDTH))) & inside
        view.used |= painted
        view.used[around(path, inside.shape, round(BLUR / 2))] = True
        rows, columns = np.nonzero(painted)
        yield Stroke((rows, columns), value, seconds)

    def _missed(self, aim: np.ndarray, inside: np.ndarray, zoom: float) -> np.ndarray:
        """Where the pointer lands: beside its aim, but still where it may paint."""
        for _ in range(8):
            found = np.rint(aim + self.rng.normal(0, JITTER / zoom, 2)).astype(int)
            if (found >= 0).all() and (found < inside.shape).all() and inside[tuple(found)]:
                return np.asarray(found)
        return aim


class _View:
    """What is seen: the room of every class, and where nothing may be painted any more."""

    def __init__(self, truth: np.ndarray, used: np.ndarray) -> None:
        self.values = [int(n) or BACKGROUND_LABEL for n in np.unique(truth)]
        rooms = {v: room_inside(truth == v % BACKGROUND_LABEL) for v in self.values}
        self.room = {v: room for v, (room, _) in rooms.items()}
        self.depth = {v: np.maximum(depth, 1.0) for v, (_, depth) in rooms.items()}
        self.used = used.copy()

    def free(self, value: int) -> np.ndarray:
        """Where a class may be painted now."""
        return self.room[value] & ~self.used


def box_around(shape: Sequence[int], region: Sequence[slice], surroundings: float) -> Box:
    """A region of a plane with so many times its edge around it, within the plane."""
    found = []
    for size, span in zip(shape, region, strict=True):
        more = round((span.stop - span.start) * surroundings)
        found.append(slice(max(0, span.start - more), min(size, span.stop + more)))
    return found[0], found[1]
