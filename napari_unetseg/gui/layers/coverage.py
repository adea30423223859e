"""Predicted part of each plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np

Plane = tuple[int, ...]


class Coverage:
    """The rectangles of each plane that were written.

    Parameters
    ----------
    shape
        Of the grid; the last two axes are Y and X.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape[-2:])
        self._parts: dict[Plane, frozenset[tuple[tuple[int, int], ...]]] = {}

    def planes(self) -> set[Plane]:
        """Leading indices of the planes with anything written."""
        return set(self._parts)

    def add(self, plane: Plane, spans: Sequence[slice]) -> None:
        """Mark a rectangle of a plane as written."""
        part = tuple((s.start, s.stop) for s in spans)
        self._parts[plane] = self._parts.get(plane, frozenset()) | {part}

    def drop(self, plane: Plane) -> None:
        """Mark a plane as empty."""
        self._parts.pop(plane, None)

    def copy_plane(self, plane: Plane, other: Coverage) -> None:
        """Copy the coverage of a plane from another object."""
        if plane in other._parts:
            self._parts[plane] = other._parts[plane]
        else:
            self.drop(plane)

    def copy(self) -> Self:
        """An independent copy."""
        new = type(self)(self._shape)
        new._parts = dict(self._parts)
        return new

    def where(self, plane: Plane) -> np.ndarray:
        """The written part of a plane, bool YX."""
        out = np.zeros(self._shape, bool)
        for (top, bottom), (left, right) in self._parts.get(plane, ()):
            out[top:bottom, left:right] = True
        return out

    def is_complete(self, plane: Plane) -> bool:
        """Whether a plane was written completely."""
        return self.covers(plane, [slice(0, n) for n in self._shape])

    def covers(self, plane: Plane, spans: Sequence[slice]) -> bool:
        """Whether a rectangle of a plane was written completely."""
        parts = self._parts.get(plane, ())
        if sum(math.prod(b - a for a, b in part) for part in parts) < _size(spans):
            return False
        return bool(self.where(plane)[tuple(spans)].all())


def _size(spans: Sequence[slice]) -> int:
    return math.prod(s.stop - s.start for s in spans)
