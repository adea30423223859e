"""Annotations of one image: strokes, corrections, accepted regions, finished objects; with times.

Where they disagree the newest wins; an undo is a change, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from napari_unetseg.annotations.sparse_array import Cell, Region, SparseArray, within
from napari_unetseg.annotations.timed_grid import (
    TimedGrid,
    bounds,
    changed_parts,
    clipped,
    write_part,
)
from napari_unetseg.core.labels import LabelKind

MIN_FILL_BUFFER, MAX_FILL_BUFFER = 2**18, 2**23
"""Bytes of a reused buffer for fills, since new memory costs 5 µs a page."""
TimedValues = tuple[np.ndarray, np.ndarray]
"""Values and times of a region."""


class LabelSource(StrEnum):
    """Source of a label."""

    STROKES = "strokes"
    """Painted in the annotation layer, in the numbers of its kind."""
    CORRECTIONS = "corrections"
    """Painted on a prediction: 0 nothing, 1 to 254 a structure, 255 background."""
    ACCEPTED = "accepted"
    """Accepted predictions; numbers as in corrections."""
    OBJECTS = "objects"
    """Finished objects: 0 nothing, else the number of the object, uint32. Their structure is in
    the corrections."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationChange:
    """New content of a region of one source."""

    origin: LabelSource
    region: Region
    """Source and region of the change."""
    values: np.ndarray
    """New values, of the region's shape."""
    stamp: int
    """Change time of the voxels that differ from before; times count changes."""
    stamps: np.ndarray | None = None
    """Change times of all voxels, uint32, where ``stamp`` does not give them; None otherwise."""


OVERRIDING = (LabelSource.CORRECTIONS, LabelSource.ACCEPTED)
"""Sources that may override strokes."""


class ImageAnnotations:
    """Thread-safe annotations of one image.

    Parameters
    ----------
    shape
        The image's grid.
    dtype
        Of the annotation layer.
    kind
        Meaning of the numbers in the annotation layer.
    """

    def __init__(
        self, shape: Sequence[int], dtype: Any = np.uint8, kind: LabelKind = LabelKind.STROKES
    ) -> None:
        self.shape, self.kind = tuple(shape), kind
        self.stamp = 0
        self._away, self._newest_object = False, 0
        self._lock = threading.RLock()
        self._ready, self._wanted = np.empty(0, np.uint8), 0
        self._layers = {o: TimedGrid.empty(shape, np.uint8) for o in LabelSource}
        self._layers[LabelSource.STROKES] = TimedGrid.empty(shape, dtype)
        self._layers[LabelSource.OBJECTS] = TimedGrid.empty(shape, np.uint32)

    def grid(self, origin: LabelSource) -> SparseArray:
        """The values of one source; read-only."""
        return self._layers[origin].values

    def stamps(self, origin: LabelSource) -> SparseArray:
        """The change time of every voxel of one source, 0 for never."""
        return self._layers[origin].stamps

    def read(self, origin: LabelSource, region: Region) -> np.ndarray:
        """A copy of a region of one source."""
        with self._lock:
            return self.grid(origin).read(region)

    def record(
        self, origin: LabelSource, region: Region, values: np.ndarray
    ) -> AnnotationChange | None:
        """Record a region's new values as the newest change; None if nothing changed."""
        with self._lock:
            layer = self._layers[origin]
            found = list(changed_parts(layer.values, region, values))
            if not found:
                return None
            cut = bounds((part, differs) for part, differs, _ in found)
            values = self._copied(values[within(cut, region)])
            self._count_objects(origin, values)
            self.stamp += 1
            for part, differs, _ in found:
                write_part(layer, *clipped(cut, values, part, differs), self.stamp)
            return AnnotationChange(origin, cut, values, self.stamp)

    def flush(self, most: int = 16) -> bool:
        """Apply deferred fills of at most so many chunks; whether none is left."""
        with self._lock:
            left = [layer for layer in self._layers.values() if not layer.stamps.flush(most)]
            if not left and self._ready.nbytes < self._wanted:
                self._ready = np.ones(self._wanted, np.uint8)
            return not left

    def _copied(self, values: np.ndarray) -> np.ndarray:
        """A copy; of a fill in the prepared buffer, since new memory is slow."""
        if not MIN_FILL_BUFFER <= values.nbytes <= MAX_FILL_BUFFER:
            return values.copy()
        ready, self._ready, self._wanted = self._ready, np.empty(0, np.uint8), values.nbytes
        if not values.nbytes <= ready.nbytes <= 2 * values.nbytes:
            return values.copy()
        copy = ready[: values.nbytes].view(values.dtype).reshape(values.shape)
        copy[...] = values
        return copy

    def times(self, origin: LabelSource, region: Region) -> np.ndarray:
        """A copy of a region's change times, uint32, 0 for never."""
        with self._lock:
            return self.stamps(origin).read(region)

    def put_back(
        self,
        origin: LabelSource,
        region: Region,
        now: TimedValues,
        then: TimedValues,
        *,
        also: Any = False,
    ) -> AnnotationChange | None:
        """Record ``then`` where it differs from ``now`` and nothing else was recorded since.

        Parameters
        ----------
        also
            Voxels, bool, to record even though their value differs from ``now``.
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
        """Set a region's values with given times; None if unchanged."""
        with self._lock:
            if np.array_equal(values, self.read(origin, region)) and np.array_equal(
                stamps, self.times(origin, region)
            ):
                return None
            change = AnnotationChange(origin, region, values, self.stamp, stamps.astype(np.uint32))
            self.put(change)
            return change

    def restamp(
        self,
        origin: LabelSource,
        region: Region,
        where: np.ndarray,
        values: np.ndarray | None = None,
    ) -> AnnotationChange | None:
        """Record values of some voxels as the newest change, also unchanged ones.

        ``values`` are of the region's shape, by default those that are there. None without voxels.
        """
        with self._lock:
            if not where.any():
                return None
            now, stamps = self.read(origin, region), self.times(origin, region)
            if values is not None:
                now[where] = values[where]
            self.stamp += 1
            stamps[where] = self.stamp
            return self.restore(origin, region, now, stamps)

    def put(self, change: AnnotationChange) -> None:
        """Apply a recorded change."""
        with self._lock:
            layer, region, values = self._layers[change.origin], change.region, change.values
            self._count_objects(change.origin, values)
            if change.stamps is not None:
                layer.stamps.write(region, change.stamps)
                layer.values.write(region, values)
            else:
                for part, differs, new in list(changed_parts(layer.values, region, values)):
                    write_part(layer, part, differs, new.copy(), change.stamp)
            self.stamp = max(self.stamp, change.stamp)

    def adopt(self, array: Any, kind: LabelKind) -> Iterator[AnnotationChange]:
        """Replace all strokes by a layer's, older than all else.

        Yields
        ------
        AnnotationChange
            A chunk with labels.
        """
        self.reset_strokes(array.dtype, kind)
        for region in self.grid(LabelSource.STROKES).differing(array):
            change = AnnotationChange(LabelSource.STROKES, region, np.array(array[region]), 0)
            self.put(change)
            yield change

    def reset_strokes(self, dtype: Any, kind: LabelKind) -> None:
        """Clear the strokes for another layer."""
        with self._lock:
            self.kind, self._away = kind, False
            self._layers[LabelSource.STROKES] = TimedGrid.empty(
                self.shape, np.dtype(dtype).newbyteorder("=")
            )

    def retype(self, dtype: Any) -> None:
        """Change the dtype of the strokes and keep their times.

        Numbers that overflow change: record the layer's values after this.
        """
        with self._lock:
            old = self._layers[LabelSource.STROKES]
            values = SparseArray(self.shape, np.dtype(dtype).newbyteorder("="))
            new = TimedGrid(values, old.stamps)
            for cell in old.values.cells():
                region = old.values.region_of(cell)
                new.values.write(region, old.values.read(region).astype(new.values.dtype))
            self._layers[LabelSource.STROKES] = new

    @property
    def grid_dtype(self) -> str:
        """Name of the annotation layer's dtype."""
        return str(self.grid(LabelSource.STROKES).dtype)

    def disable_strokes(self) -> None:
        """Disable the strokes of a removed annotation layer, but keep them."""
        with self._lock:
            self._away = True

    @property
    def strokes_disabled(self) -> bool:
        """Whether the annotation layer is removed."""
        return self._away

    def enable_strokes(self) -> None:
        """Enable the strokes of a restored annotation layer."""
        with self._lock:
            self._away = False

    def overrides(self, region: Region) -> np.ndarray:
        """The newer of corrections and accepted regions.

        Returns
        -------
        numpy.ndarray
            uint8: 0 nothing, 1 to 254 a structure, 255 background.
        """
        with self._lock:
            return self._over(region)[0]

    def effective_overrides(self, region: Region) -> np.ndarray:
        """As `overrides`, but 0 where a newer stroke lies."""
        with self._lock:
            over, times = self._over(region)
            if self._away:
                return over
            layer = self._layers[LabelSource.STROKES]
            newer = layer.stamps.read(region) > times
            if self.kind in (LabelKind.STROKES, LabelKind.FINISHED):
                newer &= layer.values.read(region) != 0
            over[newer] = 0
            return over

    @property
    def next_object(self) -> int:
        """A number that no finished object has or had, those that were undone included."""
        return self._newest_object + 1

    def _count_objects(self, origin: LabelSource, values: np.ndarray) -> None:
        if origin is LabelSource.OBJECTS:
            self._newest_object = max(self._newest_object, int(values.max(initial=0)))

    def object_numbers(self) -> np.ndarray:
        """The numbers of all finished objects, uint32, in order."""
        with self._lock:
            grid = self.grid(LabelSource.OBJECTS)
            found = [np.unique(np.asarray(grid.chunk(cell))) for cell in grid.cells()]
        numbers = np.unique(np.concatenate([np.zeros(1, np.uint32), *found]))
        return numbers[numbers > 0]

    def effective_objects(self, region: Region) -> np.ndarray:
        """Finished objects of a region without voxels that something newer says otherwise of.

        Returns
        -------
        numpy.ndarray
            uint32: 0 nothing, else the number of the object.
        """
        with self._lock:
            ids, times = (g.read(region) for g in self._grids(LabelSource.OBJECTS))
            if not ids.any():
                return ids
            structures, corrected = (g.read(region) for g in self._grids(LabelSource.CORRECTIONS))
            accepted, agreed = (g.read(region) for g in self._grids(LabelSource.ACCEPTED))
            gone = (corrected > times) | (
                (agreed > times) & (accepted != 0) & (accepted != structures)
            )
            if not self._away:
                painted, at = (g.read(region) for g in self._grids(LabelSource.STROKES))
                if self.kind in (LabelKind.FULL, LabelKind.INSTANCES):
                    painted = np.where(painted == 0, 255, painted)
                gone |= (at > times) & (painted != 0) & (painted != structures)
            ids[gone] = 0
            return ids

    def _grids(self, origin: LabelSource) -> tuple[SparseArray, SparseArray]:
        return self.grid(origin), self.stamps(origin)

    def snapshot(self) -> ImageAnnotations:
        """An immutable copy that shares chunks, so that it takes no time and no memory."""
        with self._lock:
            copy = ImageAnnotations(self.shape, kind=self.kind)
            copy.stamp, copy._away = self.stamp, self._away
            copy._newest_object = self._newest_object
            for origin, layer in self._layers.items():
                copy._layers[origin] = TimedGrid(layer.values.snapshot(), layer.stamps.snapshot())
            return copy

    def corrections(
        self, before: tuple[ImageAnnotations, SparseArray | None] | None = None
    ) -> SparseArray | None:
        """`effective_overrides` of the whole grid; None without any.

        Parameters
        ----------
        before
            An earlier snapshot and its result, from which unchanged chunks are taken.
        """
        return self._gathered(np.uint8, OVERRIDING, self.effective_overrides, before)

    def objects(
        self, before: tuple[ImageAnnotations, SparseArray | None] | None = None
    ) -> SparseArray | None:
        """`effective_objects` of the whole grid; None without any. ``before``: as above."""
        return self._gathered(np.uint32, (LabelSource.OBJECTS,), self.effective_objects, before)

    def _gathered(
        self,
        dtype: Any,
        origins: Sequence[LabelSource],
        read: Callable[[Region], np.ndarray],
        before: tuple[ImageAnnotations, SparseArray | None] | None,
    ) -> SparseArray | None:
        """What ``read`` finds in the chunks of some sources; None if that is nothing."""
        old, known = before or (None, None)
        if old is None or (old.kind, old._away) != (self.kind, self._away):
            old = known = None
        out = SparseArray(self.shape, dtype) if known is None else known.snapshot()
        for cell in {c for origin in origins for c in self.grid(origin).cells()}.union(out.cells()):
            if old is None or not self._same_chunk(old, cell):
                region = out.region_of(cell)
                out.write(region, read(region))
        return out if out.cells() else None

    def _same_chunk(self, other: ImageAnnotations, cell: Cell) -> bool:
        """Whether a chunk is unchanged between two snapshots."""
        return all(
            mine.values.same_chunk(theirs.values, cell)
            and mine.stamps.same_chunk(theirs.stamps, cell)
            for mine, theirs in ((self._layers[o], other._layers[o]) for o in LabelSource)
        )

    def count(self, origin: LabelSource) -> int:
        """Labelled voxels of one source."""
        with self._lock:
            grid = self.grid(origin)
            chunks = (grid.chunk(cell) for cell in grid.cells())
            return sum(int((chunk != 0).sum()) for chunk in chunks if chunk is not None)

    def chunks(
        self, origin: LabelSource, cells: Iterable[Cell] | None = None
    ) -> Iterator[tuple[Cell, np.ndarray | None, np.ndarray | None]]:
        """Copies of the chunks of one source: index, values and consistent times.

        Of all chunks with labels, or of ``cells``. Values or times are None where all are zero.
        Concurrent changes may or may not be in it.
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

    def labelled_planes(self) -> set[tuple[int, ...]]:
        """Leading indices of the planes with corrections, accepted regions or finished objects."""
        with self._lock:
            said = (*OVERRIDING, LabelSource.OBJECTS)
            return set[tuple[int, ...]]().union(*(self.grid(origin).planes() for origin in said))

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
