"""What a person said about one image: strokes, corrections, accepted regions, kept apart.

Every voxel of each remembers when it was last changed, so that where they disagree the newest wins.
An undo gives back the times too: what was taken back never was. NumPy alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.sparse import Cell, Region, SparseGrid, whole

__all__ = ["Change", "Origin", "Truth"]

MOST_STEPS = 100
"""Steps of one origin that an undo is looked for in, as many as napari keeps."""
MOST_BYTES = 2**26
"""Memory of these steps."""


class Origin(StrEnum):
    """Where a label comes from."""

    STROKES = "strokes"
    """Painted in the annotation layer, in the numbers of its kind."""
    CORRECTIONS = "corrections"
    """Painted on a prediction: 0 nothing, 1 to 254 a structure, 255 background."""
    ACCEPTED = "accepted"
    """Declared right; numbers as in corrections."""
    FIRST = "first"
    """The first prediction of a plane, numbers as in corrections; trains nothing, has no times."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a region of one origin holds from now on.

    Attributes
    ----------
    origin, region
        What changed and where.
    values
        What is there now, of the region's shape.
    stamp
        The time of voxels that differ from before: a number that grows with every change.
    stamps
        Times of all voxels, uint32, after an undo or redo; None otherwise.
    """

    origin: Origin
    region: Region
    values: np.ndarray
    stamp: int
    stamps: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A change that may be undone: flat indices in its region; values and times before, after."""

    region: Region
    places: np.ndarray
    values: tuple[np.ndarray, np.ndarray]
    stamps: tuple[np.ndarray, np.ndarray]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (self.places, *self.values, *self.stamps))


class _Layer:
    """Values and times of one origin, and the steps that led there."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.values, self.stamps = SparseGrid(shape, dtype), SparseGrid(shape, np.uint32)
        self.done: deque[_Step] = deque(maxlen=MOST_STEPS)
        self.undone: list[_Step] = []

    def remember(self, step: _Step) -> None:
        self.done.append(step)
        self.undone.clear()
        while len(self.done) > 1 and sum(s.nbytes for s in self.done) > MOST_BYTES:
            self.done.popleft()


class Truth:
    """Strokes, corrections and accepted regions of one image; any thread may ask.

    Parameters
    ----------
    shape
        The image's grid.
    dtype
        Of the annotation layer.
    kind
        What the numbers in the annotation layer mean.
    """

    def __init__(
        self, shape: Sequence[int], dtype: Any = np.uint8, kind: LabelKind = LabelKind.STROKES
    ) -> None:
        self.shape, self.kind = tuple(shape), kind
        self.stamp = 0
        self._away = False
        self._lock = threading.RLock()
        self._layers = {o: _Layer(shape, np.uint8) for o in Origin}
        self._layers[Origin.STROKES] = _Layer(shape, dtype)
        self._layers[Origin.FIRST].values = SparseGrid(shape, packed=True)

    def grid(self, origin: Origin) -> SparseGrid:
        """The values of one origin; not to be written to."""
        return self._layers[origin].values

    def stamps(self, origin: Origin) -> SparseGrid:
        """The time of the last change of every voxel of one origin, 0 for never."""
        return self._layers[origin].stamps

    def read(self, origin: Origin, region: Region) -> np.ndarray:
        """A copy of what one origin says in a region."""
        with self._lock:
            return self.grid(origin).read(region)

    def note(
        self,
        origin: Origin,
        region: Region,
        values: np.ndarray,
        *,
        by_hand: bool = True,
        undoable: bool = True,
    ) -> Change | None:
        """Take down what a region holds now; None if nothing changed.

        Parameters
        ----------
        by_hand
            False if this may be an undo or a redo, which brings back the times of before.
        undoable
            Whether napari's undo may take it back.
        """
        with self._lock:
            layer = self._layers[origin]
            before = layer.values.read(region)
            differs = before != values
            if not differs.any():
                return None
            region, differs, before, values = _trim(region, differs, before, values)
            times = None if by_hand else _retraced(layer, region, differs, values)
            if times is None:
                self.stamp += 1
            change = Change(origin, region, values, self.stamp, times)
            if times is None and undoable and origin is not Origin.FIRST:
                layer.remember(_step(layer, region, differs, before, values, self.stamp))
            self.put(change)
            return change

    def times(self, origin: Origin, region: Region) -> np.ndarray:
        """A copy of the times of a region's last changes, uint32, 0 for never."""
        with self._lock:
            return self.stamps(origin).read(region)

    def restore(
        self, origin: Origin, region: Region, values: np.ndarray, stamps: np.ndarray
    ) -> Change | None:
        """Let a region hold values of certain times again; None if it does."""
        with self._lock:
            if np.array_equal(values, self.read(origin, region)) and np.array_equal(
                stamps, self.times(origin, region)
            ):
                return None
            change = Change(origin, region, values, self.stamp, stamps.astype(np.uint32))
            self.put(change)
            return change

    def renew(self, origin: Origin, region: Region, where: np.ndarray) -> Change | None:
        """Say again what is said there already, so that it is the newest; None if it is nothing."""
        with self._lock:
            values, stamps = self.read(origin, region), self.times(origin, region)
            if not where.any():
                return None
            self.stamp += 1
            stamps[where] = self.stamp
            return self.restore(origin, region, values, stamps)

    def put(self, change: Change) -> None:
        """Make a change that was taken down before."""
        with self._lock:
            layer = self._layers[change.origin]
            if change.origin is not Origin.FIRST:
                stamps = change.stamps
                if stamps is None:
                    stamps = layer.stamps.read(change.region)
                    stamps[layer.values.read(change.region) != change.values] = change.stamp
                layer.stamps.write(change.region, stamps)
            layer.values.write(change.region, change.values)
            self.stamp = max(self.stamp, change.stamp)

    def adopt(self, array: Any, kind: LabelKind) -> Iterator[Change]:
        """Begin anew with the strokes of a layer, which are older than all else.

        Yields
        ------
        Change
            A chunk that holds something.
        """
        self.begin_strokes(array.dtype, kind)
        for region in self.grid(Origin.STROKES).differing(array):
            change = Change(Origin.STROKES, region, np.array(array[region]), 0)
            self.put(change)
            yield change

    def begin_strokes(self, dtype: Any, kind: LabelKind) -> None:
        """Forget all strokes: those of another layer come."""
        with self._lock:
            self.kind, self._away = kind, False
            self._layers[Origin.STROKES] = _Layer(self.shape, np.dtype(dtype).newbyteorder("="))

    @property
    def grid_dtype(self) -> str:
        """Name of the type of the annotation layer's numbers."""
        return str(self.grid(Origin.STROKES).dtype)

    def put_strokes_away(self) -> None:
        """There is no annotation layer any more: its strokes win no more, but are kept."""
        with self._lock:
            self._away = True

    @property
    def away(self) -> bool:
        """Whether there is no annotation layer any more, see `put_strokes_away`."""
        return self._away

    def over(self, region: Region) -> np.ndarray:
        """What corrections and accepted regions say of a region, the newer of both.

        Returns
        -------
        numpy.ndarray
            uint8: 0 nothing, 1 to 254 a structure, 255 background.
        """
        with self._lock:
            return self._over(region)[0]

    def winning(self, region: Region) -> np.ndarray:
        """As `over`, but 0 where a newer stroke says something."""
        with self._lock:
            over, times = self._over(region)
            if self._away:
                return over
            layer = self._layers[Origin.STROKES]
            newer = layer.stamps.read(region) > times
            if self.kind is LabelKind.STROKES:
                newer &= layer.values.read(region) != 0
            over[newer] = 0
            return over

    def corrections(self) -> np.ndarray | None:
        """What wins over strokes in the whole grid, as `winning`; None if nothing does."""
        out: np.ndarray | None = None
        for plane in sorted(self.said()):
            region = (*(slice(i, i + 1) for i in plane), *whole(self.shape[-2:]))
            found = self.winning(region)
            if found.any():
                out = np.zeros(self.shape, np.uint8) if out is None else out
                out[region] = found
        return out

    def count(self, origin: Origin) -> int:
        """Voxels of which one origin says something."""
        with self._lock:
            grid = self.grid(origin)
            chunks = (grid.chunk(cell) for cell in grid.cells())
            return sum(int((chunk != 0).sum()) for chunk in chunks if chunk is not None)

    def chunks(self, origin: Origin) -> Iterator[tuple[Cell, np.ndarray | None, np.ndarray | None]]:
        """Copies of what one origin holds, chunk by chunk: place, values and times that fit.

        Either is None where all of it is zero. What is said meanwhile may or may not be in it.
        """
        layer = self._layers[origin]
        with self._lock:
            cells = {*layer.values.cells(), *layer.stamps.cells()}
        for cell in sorted(cells):
            with self._lock:
                values, stamps = layer.values.chunk(cell), layer.stamps.chunk(cell)
                values = None if values is None else values.copy()
                stamps = None if stamps is None else stamps.copy()
            yield cell, values, stamps

    def said(self) -> set[tuple[int, ...]]:
        """Leading indices of the planes with corrections or accepted regions."""
        with self._lock:
            return self.grid(Origin.CORRECTIONS).planes() | self.grid(Origin.ACCEPTED).planes()

    def _over(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        corrections, accepted = (self._layers[o] for o in (Origin.CORRECTIONS, Origin.ACCEPTED))
        out, times = corrections.values.read(region), corrections.stamps.read(region)
        times[out == 0] = 0
        values, stamps = accepted.values.read(region), accepted.stamps.read(region)
        newer = (values != 0) & (stamps > times)
        out[newer], times[newer] = values[newer], stamps[newer]
        return out, times


def _step(
    layer: _Layer,
    region: Region,
    differs: np.ndarray,
    before: np.ndarray,
    values: np.ndarray,
    stamp: int,
) -> _Step:
    places = np.flatnonzero(differs)
    times = layer.stamps.read(region).ravel()[places]
    now = np.full(len(places), stamp, np.uint32)
    return _Step(region, places, (before.ravel()[places], values.ravel()[places]), (times, now))


def _retraced(
    layer: _Layer, region: Region, differs: np.ndarray, values: np.ndarray
) -> np.ndarray | None:
    """The times of a region, if what changed there are steps back or forth."""
    for steps, others, side in (layer.done, layer.undone, 0), (layer.undone, layer.done, 1):
        stamps = layer.stamps.read(region)
        taken = _follow(steps, side, region, differs, values, stamps)
        for step in taken:
            steps.remove(step)
            others.append(step)
        if taken:
            return stamps
    return None


def _follow(
    steps: Sequence[_Step],
    side: int,
    region: Region,
    differs: np.ndarray,
    values: np.ndarray,
    stamps: np.ndarray,
) -> list[_Step]:
    """The newest steps that together are a change, the newest first; none if it is another one.

    Several were taken back between two looks where people are quicker than a search. Steps
    elsewhere are passed over: they are found by themselves. ``stamps`` become the times on the
    other side of the steps.
    """
    left, wrong = differs.copy(), int(np.count_nonzero(differs))
    taken: list[_Step] = []
    for step in reversed(steps):
        if not _meet(step.region, region):
            continue
        places = _inside(step, region)
        if places is None or (stamps[places] != step.stamps[1 - side]).any():
            return []  # only a part of it, or something was said there since
        now = values[places] != step.values[side]
        wrong += int(np.count_nonzero(now)) - int(np.count_nonzero(left[places]))
        left[places], stamps[places] = now, step.stamps[side]
        taken.append(step)
        if wrong == 0:
            return taken
    return []


def _inside(step: _Step, region: Region) -> tuple[np.ndarray, ...] | None:
    """A step's places as an index of a region; None if they are not all in it."""
    if not all(
        r.start <= s.start and s.stop <= r.stop for s, r in zip(step.region, region, strict=True)
    ):
        return None
    places = np.unravel_index(step.places, [s.stop - s.start for s in step.region])
    return tuple(
        p + (s.start - r.start) for p, s, r in zip(places, step.region, region, strict=True)
    )


def _meet(a: Region, b: Region) -> bool:
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a, b, strict=True))


def _trim(region: Region, differs: np.ndarray, *arrays: np.ndarray) -> tuple[Any, ...]:
    """Cut a region and its arrays down to where they differ."""
    inside = []
    for axis in range(differs.ndim):
        others = tuple(a for a in range(differs.ndim) if a != axis)
        along = np.flatnonzero(differs.any(axis=others))
        inside.append(slice(int(along[0]), int(along[-1]) + 1))
    cut = tuple(inside)
    outer = tuple(
        slice(r.start + i.start, r.start + i.stop) for r, i in zip(region, cut, strict=True)
    )
    return (outer, differs[cut], *(np.ascontiguousarray(a[cut]) for a in arrays))
