"""Grids that are mostly zero, kept in chunks; where two grids differ. NumPy alone."""

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

MOST_TOGETHER = 2**23
"""Voxels of a bounding box that are still looked at as one."""

Region = tuple[slice, ...]
"""One slice with start and stop for each axis of a grid."""
Chunk = TypeVar("Chunk", np.ndarray, None)
Cell = tuple[int, ...]
"""The place of a chunk: its number along each axis."""


def whole(shape: Sequence[int]) -> Region:
    """All of a grid."""
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
    """All of a YX plane of a grid, by its leading index."""
    return (*(slice(i, i + 1) for i in plane), *whole(shape[-2:]))


def planes_with(array: Any) -> list[Cell]:
    """Leading indices of the YX planes of an array that may hold anything but zero, in order.

    Of a `SparseArray` and, on Linux, of a memory-mapped file those that were written; else all. So
    a grid of terabytes in which somebody painted a plane is looked through at once.
    """
    if isinstance(array, SparseArray):
        return sorted(array.planes())
    numbers = _written(array) if isinstance(array, np.memmap) else None
    leading = tuple(array.shape[:-2])
    if numbers is None:
        return list(np.ndindex(*leading))
    return [tuple(int(i) for i in np.unravel_index(n, leading)) for n in numbers]


def _written(array: np.memmap) -> list[int] | None:
    """Flat numbers of the planes of which the file holds anything; None where it does not say."""
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
    except OSError:  # there is no more, which is how it ends
        return sorted(found)
    finally:
        os.close(file)


def parts(region: Region) -> Iterator[Region]:
    """A region cut along the chunks."""
    for cell in cells(region):
        ends = zip(cell[-2:], region[-2:], strict=True)
        spans = (slice(max(c * CHUNK, s.start), min(c * CHUNK + CHUNK, s.stop)) for c, s in ends)
        yield (*(slice(c, c + 1) for c in cell[:-2]), *spans)


def within(part: Region, region: Region) -> Region:
    """Where a part of a region is in an array of that region."""
    both = zip(part, region, strict=True)
    return tuple(slice(p.start - r.start, p.stop - r.start) for p, r in both)


def together(regions: Sequence[Region]) -> list[Region]:
    """The bounding box of regions, or each by itself where that would be large."""
    if len(regions) < 2:
        return list(regions)
    spans = zip(*regions, strict=True)
    box = tuple(slice(min(s.start for s in on), max(s.stop for s in on)) for on in spans)
    return [box] if math.prod(s.stop - s.start for s in box) <= MOST_TOGETHER else list(regions)


class SparseArray:
    """An array that is zero but for the chunks that were written.

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
        self._kept: set[Cell] = set()
        self._late: dict[Cell, tuple[Region, np.ndarray, Any]] = {}

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        """A copy of what is at an index of the first axes, such as a plane; slices of step 1."""
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
        """A grid that stays as this one is now; chunks are shared until either is written to."""
        copy = SparseArray(self.shape, self.dtype)
        copy._chunks, copy._late = self._chunks.copy(), self._late.copy()
        self._kept.update(self._chunks)
        copy._kept.update(copy._chunks)
        return copy

    def shares(self, other: SparseArray, cell: Cell) -> bool:
        """Whether nothing was written to a chunk since one grid became a `snapshot` of the other.

        Also between two snapshots of one grid. Where it is False both may hold the same.
        """
        return self._chunks.get(cell) is other._chunks.get(cell) and self._late.get(
            cell
        ) is other._late.get(cell)

    def same_as(self, other: SparseArray) -> bool:
        """Whether another grid holds the same."""
        mine, theirs = set(self.cells()), set(other.cells())
        return (self.shape, mine) == (other.shape, theirs) and all(
            self.shares(other, c)
            or np.array_equal(np.asarray(self.chunk(c)), np.asarray(other.chunk(c)))
            for c in mine
        )

    def region_of(self, cell: Cell) -> Region:
        """What a chunk covers; chunks at the far end are cut off."""
        leading = [slice(c, c + 1) for c in cell[:-2]]
        ends = zip(cell[-2:], self.shape[-2:], strict=True)
        return (*leading, *(slice(c * CHUNK, min(c * CHUNK + CHUNK, n)) for c, n in ends))

    def chunk(self, cell: Cell) -> np.ndarray | None:
        """The chunk at a place, None where all is zero; not to be written to."""
        if cell in self._late:
            self._settle(cell)
        return self._chunks.get(cell)

    def cells(self) -> list[Cell]:
        """The places of the chunks that hold anything."""
        return list(self._chunks | self._late)

    def view(self, part: Region) -> np.ndarray:
        """What a part of a region holds, as `parts` gives it, until something is written there.

        Not to be written to.
        """
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
        """Set a region; chunks that become zero are forgotten."""
        for cell in cells(region):
            place = self.region_of(cell)
            inside, outside = _overlap(place, region)
            chunk = self._written(cell, place, inside, values[outside])
            if chunk is None:
                self._chunks.pop(cell, None)
            elif chunk is not self._chunks.get(cell):
                self._chunks[cell] = chunk

    def _written(
        self, cell: Cell, place: Region, inside: Region, piece: np.ndarray
    ) -> np.ndarray | None:
        """The chunk with a piece written to it, or another in its place; None if it is zero."""
        shape, before = tuple(s.stop - s.start for s in place), self.chunk(cell)
        if piece.shape == shape:
            first = self.dtype.type(piece.flat[0])
            if not any(piece.strides) or (piece == first).all():
                return self._new(cell, uniform(first, shape)) if first else self._new(cell, None)
        elif before is None and not piece.any():
            return None
        if before is None:
            before = self._new(cell, np.zeros(shape, self.dtype))
        elif cell in self._kept or not before.flags.writeable:
            before = self._new(cell, before.copy())
        before[inside] = piece
        return before if before.any() else self._new(cell, None)

    def adopt_chunk(self, part: Region, values: np.ndarray) -> None:
        """Set a part, as `parts` gives it, without a copy where it is a whole chunk.

        The values are the grid's from then on: nobody writes to them any more.
        """
        if values.size != CHUNK * CHUNK or values.dtype != self.dtype:
            self.write(part, values)
            return
        cell, first = _cell_of(part), values.flat[0]
        self._late.pop(cell, None)
        if any(values.strides) and not (values == first).all():
            self._chunks[cell] = values
            self._kept.add(cell)  # it is copied before anything is written to it
            return
        self._kept.discard(cell)
        self._chunks.pop(cell, None)
        if first:
            self._chunks[cell] = uniform(first, values.shape)

    def set_lazy(self, part: Region, where: np.ndarray, value: np.generic) -> None:
        """Set a value, not zero, at some places of a part, as `parts` gives it.

        It is done when its chunk is next looked at, or by `settle`: until then it takes neither
        time nor memory. Nobody writes to ``where`` any more.
        """
        cell = _cell_of(part)
        if cell in self._late:
            self._settle(cell)
        self._late[cell] = part, where, value

    def flush(self, most: int) -> bool:
        """Do what `mark` put off, for so many chunks at most; whether nothing is left."""
        for cell in list(self._late)[:most]:
            self._settle(cell)
        return not self._late

    def _settle(self, cell: Cell) -> None:
        part, where, value = self._late.pop(cell)
        self.adopt_chunk(part, np.where(where, value, self.view(part)))

    def _new(self, cell: Cell, chunk: Chunk) -> Chunk:
        """A chunk that nobody has looked at yet."""
        self._kept.discard(cell)
        return chunk

    def differing(self, array: Any) -> Iterator[Region]:
        """The chunks where an array of the same shape holds something else; reads it in pieces."""
        for cell in cells_in({*planes_with(array), *self.planes()}, self.shape):
            region = self.region_of(cell)
            piece, chunk = np.asarray(array[region]), self.chunk(cell)
            if piece.any() if chunk is None else not np.array_equal(piece, chunk):
                yield region

    def planes(self) -> set[Cell]:
        """Leading indices of the planes that hold anything."""
        return {cell[:-2] for cell in self.cells()}


def uniform(value: np.generic, shape: tuple[int, ...]) -> np.ndarray:
    """An array of one value that takes no memory and cannot be written to; made quickly."""
    array: np.ndarray = np.ndarray(shape, value.dtype, np.asarray(value), strides=(0,) * len(shape))
    array.flags.writeable = False
    return array


def _cell_of(part: Region) -> Cell:
    """The chunk that a part, as `parts` gives it, lies in."""
    *leading, y, x = [s.start for s in part]
    return (*leading, y // CHUNK, x // CHUNK)


def _overlap(place: Region, region: Region) -> tuple[Region, Region]:
    """Where a chunk at a place and a region meet: slices in the chunk, slices in the region."""
    both = [
        (max(p.start, r.start), min(p.stop, r.stop)) for p, r in zip(place, region, strict=True)
    ]
    inside = tuple(slice(a - p.start, b - p.start) for (a, b), p in zip(both, place, strict=True))
    outside = tuple(slice(a - r.start, b - r.start) for (a, b), r in zip(both, region, strict=True))
    return inside, outside
