"""Chunked sparse arrays for grids that are mostly zero."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, TypeVar

import numpy as np

CHUNK = 256
"""Edge of a chunk along Y and X; along every other axis it is one."""

MAX_MERGED_VOXELS = 2**23
"""Largest bounding box, in voxels, for which regions are merged."""

Region = tuple[slice, ...]
"""One slice with start and stop for each axis of a grid."""
Chunk = TypeVar("Chunk", np.ndarray, None)
Cell = tuple[int, ...]
"""Index of a chunk along each axis."""


def whole(shape: Sequence[int]) -> Region:
    """The region of a whole grid."""
    return tuple(slice(0, size) for size in shape)


def cells(region: Region) -> Iterator[Cell]:
    """The chunks that a region touches."""
    leading = [range(s.start, s.stop) for s in region[:-2]]
    spatial = [range(s.start // CHUNK, -(-s.stop // CHUNK)) for s in region[-2:]]
    return product(*leading, *spatial)


def cells_in(planes: Iterable[Cell], shape: Sequence[int]) -> Iterator[Cell]:
    """The chunks of some planes of a grid, in order."""
    for plane in sorted(planes):
        yield from cells(plane_region(plane, shape))


def plane_region(plane: Cell, shape: Sequence[int]) -> Region:
    """The region of a YX plane, by its leading index."""
    return (*(slice(i, i + 1) for i in plane), *whole(shape[-2:]))


def planes_with(array: Any) -> list[Cell]:
    """Leading indices of the YX planes that may hold anything but zero, in order.

    Of a `SparseArray` and, on Linux, of a sparse memory-mapped file only written planes; else all.
    """
    if isinstance(array, SparseArray):
        return sorted(array.planes())
    numbers = _written(array) if isinstance(array, np.memmap) else None
    leading = tuple(array.shape[:-2])
    if numbers is None:
        return list(np.ndindex(*leading))
    return [tuple(int(i) for i in np.unravel_index(n, leading)) for n in numbers]


def _written(array: np.memmap) -> list[int] | None:
    """Flat numbers of the written planes of a sparse file; None where that is unknown."""
    whole_file = array.flags.c_contiguous and array.base is getattr(array, "_mmap", None)
    if sys.platform != "linux" or array.ndim < 3 or array.filename is None or not whole_file:
        return None
    size, found, at = array.nbytes // math.prod(array.shape[:-2]), set[int](), array.offset
    try:
        file = os.open(array.filename, os.O_RDONLY)
    except OSError:
        return None
    try:
        while True:
            start = os.lseek(file, at, os.SEEK_DATA)
            at = os.lseek(file, start, os.SEEK_HOLE)
            first, last = ((n - array.offset) // size for n in (start, at - 1))
            found.update(range(max(0, first), min(last, array.nbytes // size - 1) + 1))
    except OSError:  # past the last data
        return sorted(found)
    finally:
        os.close(file)


def parts(region: Region) -> Iterator[Region]:
    """A region cut along chunk borders."""
    for cell in cells(region):
        ends = zip(cell[-2:], region[-2:], strict=True)
        spans = (slice(max(c * CHUNK, s.start), min(c * CHUNK + CHUNK, s.stop)) for c, s in ends)
        yield (*(slice(c, c + 1) for c in cell[:-2]), *spans)


def within(part: Region, region: Region) -> Region:
    """The slices of a part in an array of a region."""
    both = zip(part, region, strict=True)
    return tuple(slice(p.start - r.start, p.stop - r.start) for p, r in both)


def intersection(one: Region, other: Region) -> Region | None:
    """What two regions have in common; None where that is nothing."""
    pairs = zip(one, other, strict=True)
    both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)
    return both if all(s.start < s.stop for s in both) else None


def merge_regions(regions: Sequence[Region]) -> list[Region]:
    """The bounding box of regions, or the regions where that would be large."""
    if len(regions) < 2:
        return list(regions)
    spans = zip(*regions, strict=True)
    box = tuple(slice(min(s.start for s in on), max(s.stop for s in on)) for on in spans)
    return [box] if math.prod(s.stop - s.start for s in box) <= MAX_MERGED_VOXELS else list(regions)


class SparseArray:
    """A chunked array that is zero where nothing was written.

    A chunk that holds a single number takes no memory.

    Parameters
    ----------
    shape
        Shape of the grid, the last two axes are Y and X.
    dtype
        Of its values.
    """

    def __init__(self, shape: Sequence[int], dtype: Any = np.uint8) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._chunks: dict[Cell, np.ndarray] = {}
        self._shared: set[Cell] = set()
        self._deferred: dict[Cell, tuple[Region, np.ndarray, Any]] = {}

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        """A copy of a region by an index of the first axes, such as a plane; slices of step 1."""
        spans = [
            slice(*i.indices(n)[:2]) if isinstance(i, slice) else slice(i, i + 1)
            for i, n in zip(index, self.shape, strict=False)
        ]
        region = (*spans, *whole(self.shape[len(index) :]))
        single = tuple(axis for axis, i in enumerate(index) if not isinstance(i, slice))
        return self.read(region).squeeze(single)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it; for small grids."""
        del copy
        return self.read(whole(self.shape)).astype(dtype or self.dtype, copy=False)

    def snapshot(self) -> SparseArray:
        """A copy on write: chunks are shared until either is written to."""
        copy = SparseArray(self.shape, self.dtype)
        copy._chunks, copy._deferred = self._chunks.copy(), self._deferred.copy()
        self._shared.update(self._chunks)
        copy._shared.update(copy._chunks)
        return copy

    def same_chunk(self, other: SparseArray, cell: Cell) -> bool:
        """Whether a chunk is the same object in two snapshots; False says nothing."""
        return self._chunks.get(cell) is other._chunks.get(cell) and self._deferred.get(
            cell
        ) is other._deferred.get(cell)

    def same_as(self, other: SparseArray) -> bool:
        """Whether another array has the same content."""
        mine, theirs = set(self.cells()), set(other.cells())
        return (self.shape, mine) == (other.shape, theirs) and all(
            self.same_chunk(other, c)
            or np.array_equal(np.asarray(self.chunk(c)), np.asarray(other.chunk(c)))
            for c in mine
        )

    def region_of(self, cell: Cell) -> Region:
        """The region of a chunk; chunks at the far end are cut off."""
        leading = [slice(c, c + 1) for c in cell[:-2]]
        ends = zip(cell[-2:], self.shape[-2:], strict=True)
        return (*leading, *(slice(c * CHUNK, min(c * CHUNK + CHUNK, n)) for c, n in ends))

    def chunk(self, cell: Cell) -> np.ndarray | None:
        """A chunk, None where all is zero; read-only."""
        if cell in self._deferred:
            self._apply(cell)
        return self._chunks.get(cell)

    def cells(self) -> list[Cell]:
        """The indices of the chunks that are not zero."""
        return list(self._chunks | self._deferred)

    def view(self, part: Region) -> np.ndarray:
        """A read-only view of a part of `parts`, valid until the next write there."""
        *_, y, x = part
        cell = _cell_of(part)
        chunk = self.chunk(cell)
        if chunk is None:
            return uniform(self.dtype.type(0), tuple(s.stop - s.start for s in part))
        top, left = cell[-2] * CHUNK, cell[-1] * CHUNK
        return chunk[..., y.start - top : y.stop - top, x.start - left : x.stop - left]

    def read(self, region: Region) -> np.ndarray:
        """A copy of a region."""
        out = np.zeros([s.stop - s.start for s in region], self.dtype)
        for cell in cells(region):
            if (chunk := self.chunk(cell)) is not None:
                inside, outside = _overlap(self.region_of(cell), region)
                out[outside] = chunk[inside]
        return out

    def write(self, region: Region, values: np.ndarray) -> None:
        """Set a region; chunks that become zero are dropped."""
        for cell in cells(region):
            place = self.region_of(cell)
            inside, outside = _overlap(place, region)
            chunk = self._written(cell, place, inside, values[outside])
            if chunk is None:
                self._chunks.pop(cell, None)
            elif chunk is not self._chunks.get(cell):
                self._chunks[cell] = chunk

    def _written(
        self, cell: Cell, place: Region, inside: Region, values: np.ndarray
    ) -> np.ndarray | None:
        """A chunk after a write, copied where it is shared; None if it is zero."""
        shape, before = tuple(s.stop - s.start for s in place), self.chunk(cell)
        if values.shape == shape:
            first = self.dtype.type(values.flat[0])
            if not any(values.strides) or (values == first).all():
                return (
                    self._unshared(cell, uniform(first, shape))
                    if first
                    else self._unshared(cell, None)
                )
        elif before is None and not values.any():
            return None
        if before is None:
            before = self._unshared(cell, np.zeros(shape, self.dtype))
        elif cell in self._shared or not before.flags.writeable:
            before = self._unshared(cell, before.copy())
        before[inside] = values
        return before if before.any() else self._unshared(cell, None)

    def adopt_chunk(self, part: Region, values: np.ndarray) -> None:
        """Set a part of `parts`, without a copy where it is a whole chunk.

        The array owns ``values`` from then on.
        """
        if values.size != CHUNK * CHUNK or values.dtype != self.dtype:
            self.write(part, values)
            return
        cell, first = _cell_of(part), values.flat[0]
        self._deferred.pop(cell, None)
        if any(values.strides) and not (values == first).all():
            self._chunks[cell] = values
            self._shared.add(cell)  # copied before the next write
            return
        self._shared.discard(cell)
        self._chunks.pop(cell, None)
        if first:
            self._chunks[cell] = uniform(first, values.shape)

    def set_lazy(self, part: Region, where: np.ndarray, value: np.generic) -> None:
        """Set a non-zero value in a mask of a part, deferred until its chunk is read, or `flush`.

        The array owns ``where`` from then on.
        """
        cell = _cell_of(part)
        if cell in self._deferred:
            self._apply(cell)
        self._deferred[cell] = part, where, value

    def flush(self, most: int) -> bool:
        """Apply deferred writes of at most so many chunks; whether none is left."""
        for cell in list(self._deferred)[:most]:
            self._apply(cell)
        return not self._deferred

    def _apply(self, cell: Cell) -> None:
        part, where, value = self._deferred.pop(cell)
        self.adopt_chunk(part, np.where(where, value, self.view(part)))

    def _unshared(self, cell: Cell, chunk: Chunk) -> Chunk:
        """Mark a chunk as not shared."""
        self._shared.discard(cell)
        return chunk

    def differing(self, array: Any) -> Iterator[Region]:
        """The chunks where an array of the same shape differs; reads it in pieces."""
        for cell in cells_in({*planes_with(array), *self.planes()}, self.shape):
            region = self.region_of(cell)
            values, chunk = np.asarray(array[region]), self.chunk(cell)
            if values.any() if chunk is None else not np.array_equal(values, chunk):
                yield region

    def planes(self) -> set[Cell]:
        """Leading indices of the planes that are not zero."""
        return {cell[:-2] for cell in self.cells()}


def uniform(value: np.generic, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only array of one value that takes no memory."""
    array: np.ndarray = np.ndarray(shape, value.dtype, np.asarray(value), strides=(0,) * len(shape))
    array.flags.writeable = False
    return array


def _cell_of(part: Region) -> Cell:
    """The chunk that contains a part of `parts`."""
    *leading, y, x = [s.start for s in part]
    return (*leading, y // CHUNK, x // CHUNK)


def _overlap(place: Region, region: Region) -> tuple[Region, Region]:
    """The intersection of a chunk and a region: slices in the chunk, slices in the region."""
    both = [
        (max(p.start, r.start), min(p.stop, r.stop)) for p, r in zip(place, region, strict=True)
    ]
    inside = tuple(slice(a - p.start, b - p.start) for (a, b), p in zip(both, place, strict=True))
    outside = tuple(slice(a - r.start, b - r.start) for (a, b), r in zip(both, region, strict=True))
    return inside, outside
