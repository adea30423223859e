"""Basins of steepest ascent of a height map, in a block of an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from napari_unetseg.data.object_forest import Hills, keys

OUTSIDE = -1
"""Height of voxels that are not of an object, or not in the image."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A block with a rim of one voxel on every side, of the blocks beside it or `OUTSIDE`."""

    heights: np.ndarray
    """int16, with the rim."""
    kinds: np.ndarray
    """Structure of each voxel, uint8, with the rim."""
    start: tuple[int, ...]
    """Index of its first voxel, without the rim, in the plane or volume."""
    shape: tuple[int, ...]
    """Shape of the plane or volume."""
    first: int = 0
    """Flat index of the first voxel of the plane or volume in the image."""

    def keys(self, at: np.ndarray) -> np.ndarray:
        """Keys of voxels, by their flat index in the block with its rim."""
        index = np.unravel_index(at, self.heights.shape)
        there = np.zeros(len(at), np.int64)
        for along, start, size in zip(index, self.start, self.shape, strict=True):
            there = there * size + (along + (start - 1))
        return keys(self.heights.ravel()[at], there + self.first)


def basins(block: Block) -> tuple[np.ndarray, Hills]:
    """Basins of a block: from each of their voxels, the steepest ascent leads to the same one.

    Returns
    -------
    numpy.ndarray, Hills
        Numbers of the basins from 1 on, 0 outside, int32, without the rim; and the basins, number
        1 first.
    """
    inner = (slice(1, -1),) * block.heights.ndim
    above = _uphill(block)
    inside = np.zeros(block.heights.shape, bool)
    inside[inner] = block.heights[inner] > OUTSIDE
    at = np.flatnonzero(inside)
    top = _followed(above, at)
    number = np.zeros(block.heights.size, np.int32)
    number[top] = 1
    tops = np.flatnonzero(number)
    number[tops] = np.arange(1, len(tops) + 1, dtype=np.int32)
    labels = np.zeros(block.heights.shape, np.int32)
    labels.flat[at] = number[top]
    return labels[inner], hills_of(block, labels[inner])


def hills_of(block: Block, labels: np.ndarray) -> Hills:
    """Hills of a block's voxels, by their numbers from 1 on, without the rim.

    The peak of one that goes on in the rim is its highest voxel in the block.
    """
    wide = np.pad(labels, 1)
    at = np.flatnonzero(wide)
    number = wide.ravel()[at]
    sizes = np.bincount(number)[1:] if len(at) else np.zeros(0, np.int64)
    heights = block.heights.ravel()[at]
    highest = np.full(len(sizes) + 1, OUTSIDE, np.int16)
    np.maximum.at(highest, number, heights)
    tops = heights == highest[number]
    peaks = np.zeros(len(sizes) + 1, np.int64)
    peaks[number[tops]] = at[tops]  # of equal ones the last
    pairs, low, high = _saddles(block, wide)
    cut = _cut(block, wide, len(sizes))
    return Hills(block.keys(peaks[1:]), sizes, cut, pairs - 1, low, high)


def _uphill(block: Block) -> np.ndarray:
    """Flat index of the highest of each voxel and its neighbours of the same structure.

    Of equal ones it is the last, as `keys` order them; voxels of the rim lead to themselves.
    """
    heights, kinds = block.heights, block.kinds
    inner = (slice(1, -1),) * heights.ndim
    several = len(np.unique(kinds)) > 2
    best = np.full([n - 2 for n in heights.shape], OUTSIDE, np.int16)
    step: np.ndarray = np.zeros(best.shape, np.int32)
    for offset in product((-1, 0, 1), repeat=heights.ndim):
        there = tuple(slice(1 + o, n - 1 + o) for o, n in zip(offset, heights.shape, strict=True))
        higher = heights[there] >= best
        if several:
            higher &= kinds[there] == kinds[inner]
        np.copyto(best, heights[there], where=higher)
        np.copyto(step, np.int32(_flat_step(offset, heights.shape)), where=higher)
    wide = heights.size >= 2**31
    above: np.ndarray = np.arange(heights.size, dtype=np.int64 if wide else np.int32)
    above.reshape(heights.shape)[inner] += step
    return above


def _flat_step(offset: tuple[int, ...], shape: tuple[int, ...]) -> int:
    step = 0
    for along, size in zip(offset, shape, strict=True):
        step = step * size + along
    return step


def _followed(above: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Where the ascents from some voxels end, by pointer jumping."""
    top = above[at]
    while True:
        above[at] = top
        further = above[top]
        if np.array_equal(further, top):
            return np.asarray(top)
        top = further


def _cut(block: Block, labels: np.ndarray, count: int) -> np.ndarray:
    """Which basins touch objects' voxels in the rim."""
    cut = np.zeros(count + 1, bool)
    for axis in range(labels.ndim):
        for rim, face in ((0, 1), (-1, -2)):
            if (np.take(block.heights, rim, axis) > OUTSIDE).any():
                cut[np.take(labels, face, axis)] = True
    return cut[1:]


def half_of_neighbours(dims: int) -> Iterator[tuple[int, ...]]:
    """Offsets to those neighbours, diagonal ones too, that come after a voxel."""
    for offset in product((-1, 0, 1), repeat=dims):
        if offset > (0,) * dims:
            yield offset


def _saddles(block: Block, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers and keys of neighbouring voxels of one structure in different basins."""
    ones, others = [], []
    for offset in half_of_neighbours(labels.ndim):
        here = tuple(
            slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, labels.shape, strict=True)
        )
        there = tuple(
            slice(max(0, o), n + min(0, o)) for o, n in zip(offset, labels.shape, strict=True)
        )
        found = (labels[here] != labels[there]) & (labels[here] > 0) & (labels[there] > 0)
        index = np.nonzero(found)
        one = np.ravel_multi_index(
            tuple(i + s.start for i, s in zip(index, here, strict=True)), labels.shape
        )
        ones.append(one)
        others.append(one + _flat_step(offset, labels.shape))
    return saddles(block, labels, np.concatenate(ones), np.concatenate(others))


def saddles(
    block: Block, labels: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Saddles at pairs of neighbouring voxels, by flat index with the rim; as of `Hills`."""
    kinds = block.kinds.ravel()
    same = kinds[one] == kinds[other]
    one, other = one[same], other[same]
    ends = np.stack([block.keys(one), block.keys(other)])
    pairs = np.stack([labels.ravel()[one], labels.ravel()[other]], axis=1).astype(np.int64)
    return pairs, ends.min(0), ends.max(0)
