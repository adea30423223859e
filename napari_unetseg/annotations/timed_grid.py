"""Values of a grid with the time at which each voxel last changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from napari_unetseg.annotations.sparse_array import Region, SparseArray, parts, uniform, within


class TimedGrid:
    """Values and change times (uint32, 0 for never) of one source of labels."""

    def __init__(self, values: SparseArray, stamps: SparseArray) -> None:
        self.values, self.stamps = values, stamps

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: Any) -> TimedGrid:
        """Nothing, at no time."""
        return cls(SparseArray(shape, dtype), SparseArray(shape, np.uint32))


def changed_parts(
    grid: SparseArray, region: Region, values: np.ndarray
) -> Iterator[tuple[Region, np.ndarray, np.ndarray]]:
    """The changed parts of a region, the changed voxels in them, and their values."""
    for part in parts(region):
        new = values[within(part, region)]
        differs = new != grid.view(part)
        if differs.any():
            yield part, differs, new


def write_part(
    layer: TimedGrid, part: Region, differs: np.ndarray, values: np.ndarray, stamp: int
) -> None:
    """Write a part's values, which the layer adopts, and the time where they differ."""
    if differs.all():
        layer.stamps.adopt_chunk(part, uniform(np.uint32(stamp), differs.shape))
    else:
        layer.stamps.set_lazy(part, differs, np.uint32(stamp))
    layer.values.adopt_chunk(part, values)


def clipped(
    box: Region, values: np.ndarray, part: Region, differs: np.ndarray
) -> tuple[Region, np.ndarray, np.ndarray]:
    """Clip a part, its mask of changes and its values to a box."""
    both = list(zip(part, box, strict=True))
    if all(b.start <= p.start and p.stop <= b.stop for p, b in both):
        return part, differs, values[within(part, box)]
    inside = tuple(slice(max(p.start, b.start), min(p.stop, b.stop)) for p, b in both)
    return inside, differs[within(inside, part)], values[within(inside, box)]


def bounds(found: Iterable[tuple[Region, np.ndarray]]) -> Region:
    """The bounding box of the changed voxels."""
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
