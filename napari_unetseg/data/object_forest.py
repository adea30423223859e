"""Hills of a height map and the saddles between them; hills that hardly stand out are united.

Voxels are ordered by height, those of one height by their place in the image (`keys`), so that no
two are equal. Each hill is joined over its highest saddle while it stands out by less than the
prominence. Since that saddle belongs to the minimum spanning forest whatever the rest of the image
is like (Borůvka 1926), hills may be united piece by piece, in any order, and the objects stay the
same: those of a watershed from the maxima of that prominence (Couprie and Bertrand 1997 for the
dynamics of maxima, Cousty et al. 2009 for watersheds as spanning forests).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

PLACE_BITS = 52
"""Bits of a key for a voxel's place in the image; the higher ones are its height."""


def keys(heights: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Order of voxels, int64, from heights (0 to 2047) and flat indices into the image."""
    return np.asarray((heights.astype(np.int64) << PLACE_BITS) | places)


def places_of(found: np.ndarray) -> np.ndarray:
    """Flat indices of voxels, from their keys."""
    return found & ((1 << PLACE_BITS) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Hills:
    """Hills, by number from 0 on, and saddles between pairs of them."""

    peaks: np.ndarray
    """Key of the highest voxel of each, int64 (n,)."""
    sizes: np.ndarray
    """Voxels of each, int64 (n,)."""
    cut: np.ndarray
    """Whether more saddles of it may be found elsewhere, bool (n,)."""
    pairs: np.ndarray
    """The two hills of each saddle, int64 (m, 2)."""
    low: np.ndarray
    high: np.ndarray
    """Keys of the two neighbouring voxels where it is highest, the lower and the higher, (m,)."""

    @classmethod
    def joined(
        cls, parts: Sequence[Self], pairs: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> Self:
        """Hills of parts of an image, numbered one part after the other, with saddles between them.

        Nothing is cut any more.
        """
        starts = np.cumsum([0, *(len(part.peaks) for part in parts)])
        moved = [part.pairs + start for part, start in zip(parts, starts[:-1], strict=True)]
        peaks = np.concatenate([part.peaks for part in parts])
        return cls(
            peaks,
            np.concatenate([part.sizes for part in parts]),
            np.zeros(len(peaks), bool),
            np.concatenate([*moved, pairs]),
            np.concatenate([*(part.low for part in parts), low]),
            np.concatenate([*(part.high for part in parts), high]),
        )


def united(hills: Hills, prominence: int) -> tuple[np.ndarray, Hills]:
    """Unite hills that stand out by less than the prominence, but for those that are cut.

    Returns
    -------
    numpy.ndarray, Hills
        The new number of each hill, int64 (n,), and the new hills.
    """
    now = np.arange(len(hills.peaks))
    pairs, low, high = highest(hills.pairs, hills.low, hills.high)
    hills = replace(hills, pairs=pairs, low=low, high=high)
    while True:
        joins = _joins(hills, prominence)
        if not len(joins):
            return now, hills
        group = _components(len(hills.peaks), joins)
        now, hills = group[now], _grouped(hills, group)


def _joins(hills: Hills, prominence: int) -> np.ndarray:
    """Pairs to be united: each hill that is too low, with the one beyond its highest saddle."""
    count, (one, other) = len(hills.peaks), hills.pairs.T
    highest = np.full(count, len(one))
    rank = np.arange(len(one))
    for side in (one, other):  # saddles are in descending order
        np.minimum.at(highest, side, rank)
    at = np.flatnonzero(~hills.cut & (highest < len(one)))
    saddle = highest[at]
    above = (hills.peaks[at] >> PLACE_BITS) - (hills.low[saddle] >> PLACE_BITS)
    return np.asarray(hills.pairs[saddle[above < prominence]])


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1]).astype(np.int64)


def _grouped(hills: Hills, group: np.ndarray) -> Hills:
    """The hills of groups, with the highest saddle of each pair."""
    count = int(group.max(initial=-1)) + 1
    peaks, sizes, cut = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, bool)
    np.maximum.at(peaks, group, hills.peaks)
    np.add.at(sizes, group, hills.sizes)
    np.logical_or.at(cut, group, hills.cut)
    return Hills(peaks, sizes, cut, *highest(group[hills.pairs], hills.low, hills.high))


def highest(
    pairs: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The highest saddle of each pair of different hills, in descending order."""
    pairs = np.sort(pairs, axis=1)
    apart = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
    order = apart[np.lexsort((high[apart], low[apart]))[::-1]]
    _, first = np.unique(pairs[order], axis=0, return_index=True)
    order = order[np.sort(first)]
    return pairs[order], low[order], high[order]


def numbers(hills: Hills, smallest: int, left_out: np.ndarray | None = None) -> np.ndarray:
    """Numbers of objects, from 1 on in the order of their peaks' places.

    0 for too small ones, and where ``left_out``, a flag of each hill, is true.
    """
    found = np.zeros(len(hills.peaks), np.int64)
    order = np.argsort(places_of(hills.peaks))
    order = order[hills.sizes[order] >= smallest]
    if left_out is not None:
        order = order[~left_out[order]]
    found[order] = np.arange(1, len(order) + 1)
    return found
