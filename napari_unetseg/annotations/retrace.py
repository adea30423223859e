"""The steps that led to what was said, so that an undo or a redo brings back the times of before.

NumPy alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, MutableSequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_unetseg.annotations.sparse_array import Region, SparseGrid, parts, within

__all__ = ["Steps", "changed"]

MOST_STEPS = 100
"""Steps of one origin that an undo is looked for in, as many as napari keeps."""
MOST_BYTES = 2**26
"""Memory of these steps."""
DENSE, LARGE = 16, 2**14
"""Where more than one voxel in so many of a large part changed, its chunk is remembered, which
needs no copy now; else the voxels that changed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """What a step changed in a part of a region: values and times, before and after.

    Attributes
    ----------
    index
        Of the arrays in an array of the part: everything, or the places that changed.
    where
        Which of these changed, of the arrays' shape; True if all of them did.
    """

    part: Region
    index: Any
    where: Any
    values: tuple[np.ndarray, np.ndarray]
    stamps: tuple[np.ndarray, np.uint32]

    @property
    def nbytes(self) -> int:
        places = self.index if isinstance(self.index, tuple) else (self.where,)
        arrays = (*places, *self.values, self.stamps[0])
        return sum(a.nbytes for a in arrays if any(a.strides))


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A change that may be undone."""

    region: Region
    pieces: list[_Piece]
    nbytes: int


def changed(
    grid: SparseGrid, region: Region, values: np.ndarray
) -> Iterator[tuple[Region, np.ndarray, np.ndarray]]:
    """The parts of a region where values differ from a grid's, where in them, and the values."""
    for part in parts(region):
        new = values[within(part, region)]
        differs = new != grid.look(part)
        if differs.any():
            yield part, differs, new


class Steps:
    """The last steps of one origin, and those of them that were taken back.

    Parameters
    ----------
    values, stamps
        What is said now, and since when.
    """

    def __init__(self, values: SparseGrid, stamps: SparseGrid) -> None:
        self._values, self._stamps = values, stamps
        self._done: deque[_Step] = deque(maxlen=MOST_STEPS)
        self._undone: list[_Step] = []

    def remember(
        self, region: Region, found: Iterable[tuple[Region, np.ndarray, np.ndarray]], stamp: int
    ) -> None:
        """Remember a step that is about to be made, as `changed` found it.

        Nobody writes to its arrays any more.
        """
        pieces = [self._piece(*one, np.uint32(stamp)) for one in found]
        self._done.append(_Step(region, pieces, sum(piece.nbytes for piece in pieces)))
        self._undone.clear()
        while len(self._done) > 1 and sum(s.nbytes for s in self._done) > MOST_BYTES:
            self._done.popleft()

    def _piece(
        self, part: Region, differs: np.ndarray, values: np.ndarray, stamp: np.uint32
    ) -> _Piece:
        dense = bool(DENSE * int(np.count_nonzero(differs)) > differs.size >= LARGE)
        before = self._values.look(part, keep=dense)
        times = self._stamps.look(part, keep=dense)
        if dense:
            return _Piece(part, ..., differs, (before, values), (times, stamp))
        flat = np.unravel_index(np.flatnonzero(differs), differs.shape)
        places = tuple(axis.astype(np.uint16) for axis in flat)
        return _Piece(part, places, True, (before[places], values[places]), (times[places], stamp))

    def retraced(self, region: Region, values: np.ndarray) -> np.ndarray | None:
        """The times of a region, uint32, if what changes there are steps back or forth.

        They are taken for taken back, or made again, from now on.
        """
        differs = self._values.read(region) != values
        ways: tuple[tuple[MutableSequence[_Step], MutableSequence[_Step]], ...]
        ways = (self._done, self._undone), (self._undone, self._done)
        for side, (steps, others) in enumerate(ways):
            stamps = self._stamps.read(region)
            taken = _follow(steps, side, region, differs, values, stamps)
            for step in taken:
                steps.remove(step)
                others.append(step)
            if taken:
                return stamps
        return None


def _follow(
    steps: MutableSequence[_Step],
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
        if not _inside(step.region, region):
            return []  # only a part of it
        for piece in step.pieces:
            place = within(piece.part, region)
            more = _take(piece, side, left[place], values[place], stamps[place])
            if more is None:
                return []  # something was said there since
            wrong += more
        taken.append(step)
        if wrong == 0:
            return taken
    return []


def _take(
    piece: _Piece, side: int, left: np.ndarray, values: np.ndarray, stamps: np.ndarray
) -> int | None:
    """Take a piece back (side 0) or make it again; by how many voxels more are left to explain.

    None if its voxels are not of the time that they were left at. Changes ``left`` and ``stamps``.
    """
    index, where = piece.index, piece.where
    since, times = stamps[index], piece.stamps
    if ((since != times[1 - side]) & where).any():
        return None
    now = (values[index] != piece.values[side]) & where
    before = left[index]
    more = int(np.count_nonzero(now)) - int(np.count_nonzero(before & where))
    left[index] = np.where(where, now, before)
    stamps[index] = np.where(where, times[side], since)
    return more


def _inside(one: Region, other: Region) -> bool:
    both = zip(one, other, strict=True)
    return all(o.start <= s.start and s.stop <= o.stop for s, o in both)


def _meet(a: Region, b: Region) -> bool:
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a, b, strict=True))
