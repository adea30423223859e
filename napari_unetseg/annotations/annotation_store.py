"""What a person said about one image: strokes, corrections, accepted regions, kept apart.

Every voxel of each remembers when it was last changed, so that where they disagree the newest wins.
An undo is a change like any other, and so the newest. NumPy alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from napari_unetseg.annotations.sparse_array import (
    Cell,
    Region,
    SparseArray,
    parts,
    uniform,
    within,
)
from napari_unetseg.core.labels import LabelKind

LEAST_READY, MOST_READY = 2**18, 2**23
"""Bytes of a fill, the next of which finds memory that was touched already: at 5 µs a page, new
memory took longer than all else."""
Said = tuple[np.ndarray, np.ndarray]
"""Values and their times, of one region's shape."""


class LabelSource(StrEnum):
    """Where a label comes from."""

    STROKES = "strokes"
    """Painted in the annotation layer, in the numbers of its kind."""
    CORRECTIONS = "corrections"
    """Painted on a prediction: 0 nothing, 1 to 254 a structure, 255 background."""
    ACCEPTED = "accepted"
    """Declared right; numbers as in corrections."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationChange:
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
        Times of all voxels, uint32, where they do not follow from ``stamp``; None otherwise.
    """

    origin: LabelSource
    region: Region
    values: np.ndarray
    stamp: int
    stamps: np.ndarray | None = None


SAID = (LabelSource.CORRECTIONS, LabelSource.ACCEPTED)
"""What may win over strokes."""


class _Layer:
    """Values and times of one origin."""

    def __init__(self, values: SparseArray, stamps: SparseArray) -> None:
        self.values, self.stamps = values, stamps

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: Any) -> _Layer:
        return cls(SparseArray(shape, dtype), SparseArray(shape, np.uint32))


class ImageAnnotations:
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
        self._ready, self._wanted = np.empty(0, np.uint8), 0
        self._layers = {o: _Layer.empty(shape, np.uint8) for o in LabelSource}
        self._layers[LabelSource.STROKES] = _Layer.empty(shape, dtype)

    def grid(self, origin: LabelSource) -> SparseArray:
        """The values of one origin; not to be written to."""
        return self._layers[origin].values

    def stamps(self, origin: LabelSource) -> SparseArray:
        """The time of the last change of every voxel of one origin, 0 for never."""
        return self._layers[origin].stamps

    def read(self, origin: LabelSource, region: Region) -> np.ndarray:
        """A copy of what one origin says in a region."""
        with self._lock:
            return self.grid(origin).read(region)

    def record(
        self, origin: LabelSource, region: Region, values: np.ndarray
    ) -> AnnotationChange | None:
        """Take down what a region holds now, as the newest of all; None if nothing changed."""
        with self._lock:
            layer = self._layers[origin]
            found = list(_changed(layer.values, region, values))
            if not found:
                return None
            cut = _bounds((part, differs) for part, differs, _ in found)
            values = self._copied(values[within(cut, region)])
            self.stamp += 1
            for part, differs, _ in found:
                _say(layer, *_clip(cut, values, part, differs), self.stamp)
            return AnnotationChange(origin, cut, values, self.stamp)

    def flush(self, most: int = 16) -> bool:
        """Do what was put off so that nobody waits, for so many chunks; whether nothing is left."""
        with self._lock:
            left = [layer for layer in self._layers.values() if not layer.stamps.flush(most)]
            if not left and self._ready.nbytes < self._wanted:
                self._ready = np.ones(self._wanted, np.uint8)
            return not left

    def _copied(self, values: np.ndarray) -> np.ndarray:
        """A copy; of a fill in memory that `settle` made ready, since new memory comes slowly."""
        if not LEAST_READY <= values.nbytes <= MOST_READY:
            return values.copy()
        ready, self._ready, self._wanted = self._ready, np.empty(0, np.uint8), values.nbytes
        if not values.nbytes <= ready.nbytes <= 2 * values.nbytes:
            return values.copy()
        copy = ready[: values.nbytes].view(values.dtype).reshape(values.shape)
        copy[...] = values
        return copy

    def times(self, origin: LabelSource, region: Region) -> np.ndarray:
        """A copy of the times of a region's last changes, uint32, 0 for never."""
        with self._lock:
            return self.stamps(origin).read(region)

    def put_back(
        self, origin: LabelSource, region: Region, now: Said, then: Said, *, also: Any = False
    ) -> AnnotationChange | None:
        """Say ``then`` again where that differs from ``now`` and nothing else was said since.

        Parameters
        ----------
        also
            Where it is said even though there is another value by now, of the same time; bool.
        """
        with self._lock:
            values, stamps = self.read(origin, region), self.times(origin, region)
            back = ((values == now[0]) | also) & (stamps == now[1])
            back &= (now[0] != then[0]) | (now[1] != then[1])
            values[back], stamps[back] = then[0][back], then[1][back]
            return self.restore(origin, region, values, stamps)

    def restore(
        self, origin: LabelSource, region: Region, values: np.ndarray, stamps: np.ndarray
    ) -> AnnotationChange | None:
        """Let a region hold values of certain times again; None if it does."""
        with self._lock:
            if np.array_equal(values, self.read(origin, region)) and np.array_equal(
                stamps, self.times(origin, region)
            ):
                return None
            change = AnnotationChange(origin, region, values, self.stamp, stamps.astype(np.uint32))
            self.put(change)
            return change

    def renew(
        self, origin: LabelSource, region: Region, where: np.ndarray
    ) -> AnnotationChange | None:
        """Say again what is said there already, so that it is the newest; None if it is nothing."""
        with self._lock:
            values, stamps = self.read(origin, region), self.times(origin, region)
            if not where.any():
                return None
            self.stamp += 1
            stamps[where] = self.stamp
            return self.restore(origin, region, values, stamps)

    def put(self, change: AnnotationChange) -> None:
        """Make a change that was taken down before."""
        with self._lock:
            layer, region, values = self._layers[change.origin], change.region, change.values
            if change.stamps is not None:
                layer.stamps.write(region, change.stamps)
                layer.values.write(region, values)
            else:
                for part, differs, new in list(_changed(layer.values, region, values)):
                    _say(layer, part, differs, new.copy(), change.stamp)
            self.stamp = max(self.stamp, change.stamp)

    def adopt(self, array: Any, kind: LabelKind) -> Iterator[AnnotationChange]:
        """Begin anew with the strokes of a layer, which are older than all else.

        Yields
        ------
        Change
            A chunk that holds something.
        """
        self.begin_strokes(array.dtype, kind)
        for region in self.grid(LabelSource.STROKES).differing(array):
            change = AnnotationChange(LabelSource.STROKES, region, np.array(array[region]), 0)
            self.put(change)
            yield change

    def begin_strokes(self, dtype: Any, kind: LabelKind) -> None:
        """Forget all strokes: those of another layer come."""
        with self._lock:
            self.kind, self._away = kind, False
            self._layers[LabelSource.STROKES] = _Layer.empty(
                self.shape, np.dtype(dtype).newbyteorder("=")
            )

    def retype(self, dtype: Any) -> None:
        """Have strokes of another type of numbers, with their times.

        Numbers that do not fit become others: what the layer holds is to be noted after this.
        """
        with self._lock:
            old = self._layers[LabelSource.STROKES]
            values = SparseArray(self.shape, np.dtype(dtype).newbyteorder("="))
            new = _Layer(values, old.stamps)
            for cell in old.values.cells():
                region = old.values.region_of(cell)
                new.values.write(region, old.values.read(region).astype(new.values.dtype))
            self._layers[LabelSource.STROKES] = new

    @property
    def grid_dtype(self) -> str:
        """Name of the type of the annotation layer's numbers."""
        return str(self.grid(LabelSource.STROKES).dtype)

    def put_strokes_away(self) -> None:
        """There is no annotation layer any more: its strokes win no more, but are kept."""
        with self._lock:
            self._away = True

    @property
    def strokes_are_away(self) -> bool:
        """Whether there is no annotation layer."""
        return self._away

    def take_strokes_back(self) -> None:
        """Their annotation layer is there again."""
        with self._lock:
            self._away = False

    def overrides(self, region: Region) -> np.ndarray:
        """What corrections and accepted regions say of a region, the newer of both.

        Returns
        -------
        numpy.ndarray
            uint8: 0 nothing, 1 to 254 a structure, 255 background.
        """
        with self._lock:
            return self._over(region)[0]

    def effective_overrides(self, region: Region) -> np.ndarray:
        """As `over`, but 0 where a newer stroke says something."""
        with self._lock:
            over, times = self._over(region)
            if self._away:
                return over
            layer = self._layers[LabelSource.STROKES]
            newer = layer.stamps.read(region) > times
            if self.kind is LabelKind.STROKES:
                newer &= layer.values.read(region) != 0
            over[newer] = 0
            return over

    def snapshot(self) -> ImageAnnotations:
        """What is said now, as a truth of its own that nobody changes.

        It shares chunks with this one, so that it takes no time and no memory for voxels.
        """
        with self._lock:
            copy = ImageAnnotations(self.shape, kind=self.kind)
            copy.stamp, copy._away = self.stamp, self._away
            for origin, layer in self._layers.items():
                copy._layers[origin] = _Layer(layer.values.snapshot(), layer.stamps.snapshot())
            return copy

    def corrections(
        self, before: tuple[ImageAnnotations, SparseArray | None] | None = None
    ) -> SparseArray | None:
        """What wins over strokes in the whole grid, as `winning`; None if nothing does.

        Parameters
        ----------
        before
            An earlier snapshot of the same truth, and its corrections: chunks in which nothing was
            said since are taken from there.
        """
        old, known = before or (None, None)
        if old is None or (old.kind, old._away) != (self.kind, self._away):
            old = known = None
        out = SparseArray(self.shape) if known is None else known.snapshot()
        for cell in {c for origin in SAID for c in self.grid(origin).cells()}.union(out.cells()):
            if old is None or not self._shares(old, cell):
                region = out.region_of(cell)
                out.write(region, self.effective_overrides(region))
        return out if out.cells() else None

    def _shares(self, other: ImageAnnotations, cell: Cell) -> bool:
        """Whether nothing was said in a chunk between two snapshots of one truth."""
        return all(
            mine.values.shares(theirs.values, cell) and mine.stamps.shares(theirs.stamps, cell)
            for mine, theirs in ((self._layers[o], other._layers[o]) for o in LabelSource)
        )

    def count(self, origin: LabelSource) -> int:
        """Voxels of which one origin says something."""
        with self._lock:
            grid = self.grid(origin)
            chunks = (grid.chunk(cell) for cell in grid.cells())
            return sum(int((chunk != 0).sum()) for chunk in chunks if chunk is not None)

    def chunks(
        self, origin: LabelSource, cells: Iterable[Cell] | None = None
    ) -> Iterator[tuple[Cell, np.ndarray | None, np.ndarray | None]]:
        """Copies of what one origin holds, chunk by chunk: place, values and times that fit.

        Of all chunks that hold anything, or of ``cells``. Either is None where all of it is zero.
        What is said meanwhile may or may not be in it.
        """
        layer = self._layers[origin]
        if cells is None:
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
            return (
                self.grid(LabelSource.CORRECTIONS).planes()
                | self.grid(LabelSource.ACCEPTED).planes()
            )

    def _over(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        corrections, accepted = (
            self._layers[o] for o in (LabelSource.CORRECTIONS, LabelSource.ACCEPTED)
        )
        out, times = corrections.values.read(region), corrections.stamps.read(region)
        times[out == 0] = 0
        values, stamps = accepted.values.read(region), accepted.stamps.read(region)
        newer = (values != 0) & (stamps > times)
        out[newer], times[newer] = values[newer], stamps[newer]
        return out, times


def _changed(
    grid: SparseArray, region: Region, values: np.ndarray
) -> Iterator[tuple[Region, np.ndarray, np.ndarray]]:
    """The parts of a region where values differ from a grid's, where in them, and the values."""
    for part in parts(region):
        new = values[within(part, region)]
        differs = new != grid.view(part)
        if differs.any():
            yield part, differs, new


def _say(layer: _Layer, part: Region, differs: np.ndarray, values: np.ndarray, stamp: int) -> None:
    """Write a part's values, which are the layer's now, and the time where they differ."""
    if differs.all():
        layer.stamps.adopt_chunk(part, uniform(np.uint32(stamp), differs.shape))
    else:
        layer.stamps.set_lazy(part, differs, np.uint32(stamp))
    layer.values.adopt_chunk(part, values)


def _clip(
    box: Region, values: np.ndarray, part: Region, differs: np.ndarray
) -> tuple[Region, np.ndarray, np.ndarray]:
    """What of a part is in a box, where it differs, and its values of those of the box."""
    both = list(zip(part, box, strict=True))
    if all(b.start <= p.start and p.stop <= b.stop for p, b in both):
        return part, differs, values[within(part, box)]
    inside = tuple(slice(max(p.start, b.start), min(p.stop, b.stop)) for p, b in both)
    return inside, differs[within(inside, part)], values[within(inside, box)]


def _bounds(found: Iterable[tuple[Region, np.ndarray]]) -> Region:
    """The bounding box of what differs in parts of a region."""
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    for part, differs in found:
        for axis, along in enumerate(part):
            if axis in low and low[axis] <= along.start and along.stop <= high[axis]:
                continue
            others = tuple(a for a in range(differs.ndim) if a != axis)
            places = np.flatnonzero(differs.any(axis=others))
            first, last = along.start + int(places[0]), along.start + int(places[-1])
            low[axis] = min(low.get(axis, first), first)
            high[axis] = max(high.get(axis, 0), last + 1)
    return tuple(map(slice, low.values(), high.values()))
