"""Tilings of a plane or volume: exact tiles with a halo, or blended overlapping ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol, Self

import numpy as np

Region = tuple[slice, ...]
Span = tuple[int, int]


class Reach(Protocol):
    """Strides and receptive field of a network."""

    @property
    def stride(self) -> tuple[int, ...]:
        """Total down-sampling along each axis."""

    def input_range(self, start: int, stop: int, axis: int) -> Span:
        """Input voxels that the output voxels ``start:stop`` depend on."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile: slices that are read, and slices of the core that is kept."""

    read: Region
    core: Region

    @property
    def inner(self) -> Region:
        """The core in coordinates of the tile."""
        return tuple(
            slice(c.start - r.start, c.stop - r.start)
            for c, r in zip(self.core, self.read, strict=True)
        )


def exact_step(size: int, edge: int, stride: int) -> int:
    """Step of exact tiles along an axis: about ``edge``, a multiple of the stride."""
    count = max(1, round(size / edge))
    return math.ceil(size / count / stride) * stride


def read_span(core: slice, size: int, axis: int, reach: Reach) -> slice:
    """The input range along an axis for which ``core`` equals that of the whole image."""
    stride = reach.stride[axis]
    first, last = reach.input_range(core.start, core.stop, axis)
    return slice(max(0, first // stride * stride), min(size, -(-last // stride) * stride))


def exact_tiles(shape: Sequence[int], reach: Reach, edge: int) -> list[Tile]:
    """Tiles whose cores cover the shape once, each with its whole receptive field.

    Tiles begin at multiples of the network's stride, so that pooling falls on the same voxels as
    in the whole image; the network itself pads the image's far end.

    Parameters
    ----------
    shape
        Spatial shape, YX or ZYX.
    reach
        The network.
    edge
        Wanted edge of a core in voxels.
    """
    spans: list[list[tuple[slice, slice]]] = []
    for axis, (size, stride) in enumerate(zip(shape, reach.stride, strict=True)):
        step = exact_step(size, edge, stride)
        cores = [slice(start, min(start + step, size)) for start in range(0, size, step)]
        spans.append([(read_span(core, size, axis, reach), core) for core in cores])
    return [Tile(tuple(r for r, _ in t), tuple(c for _, c in t)) for t in product(*spans)]


def nearest_first(tiles: Sequence[Tile], seen: Callable[[], Region | None]) -> Iterator[Tile]:
    """Tiles by distance from the visible region, which is asked for before each.

    In their own order without one.
    """
    left = list(tiles)
    while left:
        region = seen()
        yield left.pop(0 if region is None else _nearest([t.core for t in left], region))


def _nearest(cores: Sequence[Region], seen: Region) -> int:
    middles = np.array([[s.start + s.stop for s in core] for core in cores]) / 2
    target = np.array([s.start + s.stop for s in seen]) / 2
    return int(((middles - target) ** 2).sum(1).argmin())


def halo_factor(tiles: Sequence[Tile]) -> float:
    """Voxels read for each voxel kept."""

    def voxels(region: Region) -> int:
        return math.prod(s.stop - s.start for s in region)

    return sum(voxels(t.read) for t in tiles) / sum(voxels(t.core) for t in tiles)


def overlap(size: int, edge: int, stride: int) -> tuple[int, list[int]]:
    """Along an axis: the edge of tiles that overlap by at least a quarter, and their starts."""
    tile = min(size, math.ceil(edge / stride) * stride)
    count = 1 if tile >= size else math.ceil((size - tile) / max(1, tile * 3 // 4)) + 1
    last = max(0, size - tile)
    return tile, [round(i * last / max(1, count - 1)) for i in range(count)]


def overlapping_tiles(
    shape: Sequence[int], stride: Sequence[int], edge: int
) -> tuple[int, list[list[Region]]]:
    """Tiles that overlap by at least a quarter, in rows along the longest axis.

    Returns
    -------
    axis
        The longest axis.
    rows
        For each position along it, the regions of the tiles there.
    """
    starts = []
    sizes = []
    for size, step in zip(shape, stride, strict=True):
        tile, begins = overlap(size, edge, step)
        starts.append(begins)
        sizes.append(tile)
    axis = max(range(len(shape)), key=lambda a: shape[a])
    others = [s for a, s in enumerate(starts) if a != axis]
    rows = []
    for begin in starts[axis]:
        row = []
        for rest in product(*others):
            place = [*rest[:axis], begin, *rest[axis:]]
            row.append(tuple(slice(p, p + s) for p, s in zip(place, sizes, strict=True)))
        rows.append(row)
    return axis, rows


def blend(
    shape: Sequence[int],
    stride: Sequence[int],
    edge: int,
    infer: Callable[[Region], np.ndarray],
) -> Iterator[tuple[Region, np.ndarray]]:
    """Weighted mean of overlapping tiles, row after row along the longest axis.

    Parameters
    ----------
    shape, stride, edge
        As in `overlapping_tiles`.
    infer
        Gives the probabilities (classes, *region) of a region.

    Yields
    ------
    region, probabilities
        Slabs that cover the shape once; memory holds one row of tiles.
    """
    axis, rows = overlapping_tiles(shape, stride, edge)
    bounds = [row[0][axis].start for row in rows[1:]] + [shape[axis]]
    done = 0
    total: np.ndarray | None = None
    weight = np.zeros(0)
    for row, bound in zip(rows, bounds, strict=True):
        stop = row[0][axis].stop
        for region in row:
            values = infer(region)
            weights = window(values.shape[1:])
            if total is None:
                total = np.zeros((len(values), *_resized(shape, axis, 0)), np.float32)
                weight = np.zeros(_resized(shape, axis, 0), np.float32)
            missing = (stop - done) - weight.shape[axis]
            if missing > 0:
                total = _grown(total, axis + 1, missing)
                weight = _grown(weight, axis, missing)
            place = list(region)
            place[axis] = slice(region[axis].start - done, region[axis].stop - done)
            total[(slice(None), *place)] += values * weights
            weight[tuple(place)] += weights
        assert total is not None
        final = [slice(None)] * len(shape)
        final[axis] = slice(0, bound - done)
        where = [slice(0, s) for s in shape]
        where[axis] = slice(done, bound)
        yield tuple(where), total[(slice(None), *final)] / weight[tuple(final)]
        final[axis] = slice(bound - done, None)
        total, weight = total[(slice(None), *final)].copy(), weight[tuple(final)].copy()
        done = bound


def _resized(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if a == axis else s for a, s in enumerate(shape))


def _grown(array: np.ndarray, axis: int, more: int) -> np.ndarray:
    extra = np.zeros(_resized(array.shape, axis, more), array.dtype)
    return np.concatenate([array, extra], axis)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiling of any region of a plane or volume, independent of the region's place."""

    shape: tuple[int, ...]
    """Spatial shape, YX or ZYX."""
    edges: tuple[int, ...]
    """Edges of a tile along each axis: of its core, or of all of it where tiles overlap."""
    blended: bool
    """Whether tiles overlap and are blended."""
    reach: Reach
    """The network."""

    @classmethod
    def plan(cls, shape: tuple[int, ...], reach: Reach, edge: int, *, blended: bool) -> Self:
        """Tiles of about that edge."""
        sizes = zip(shape, reach.stride, strict=True)
        edges = (
            overlap(n, edge, stride)[0] if blended else exact_step(n, edge, stride)
            for n, stride in sizes
        )
        return cls(shape, tuple(edges), blended, reach)

    def tiles(self, region: Region) -> list[Tile]:
        """Input and output regions of each tile of a region, in order."""
        spans = [self._spans(axis, span) for axis, span in enumerate(region)]
        return [Tile(tuple(r for r, _ in t), tuple(c for _, c in t)) for t in product(*spans)]

    def read(self, region: Region) -> Region:
        """The whole input region of a region."""
        spans = [[read for read, _ in self._spans(axis, one)] for axis, one in enumerate(region)]
        return tuple(
            slice(min(read.start for read in along), max(read.stop for read in along))
            for along in spans
        )

    def pieces(
        self, region: Region, infer: Callable[[Region], np.ndarray]
    ) -> Iterator[tuple[Region, np.ndarray]]:
        """Probabilities of a region: exact tiles one by one, blended ones as a whole.

        ``infer`` gives the probabilities (classes, *region) of a tile.
        """
        if self.blended:
            yield region, self._blend(region, infer)
            return
        for tile in self.tiles(region):
            yield tile.core, infer(tile.read)[(slice(None), *tile.inner)]

    def whole(self, region: Region, infer: Callable[[Region], np.ndarray]) -> np.ndarray:
        """Probabilities (classes, *region) of a region; exact tiles are spaced evenly."""
        sizes = [s.stop - s.start for s in region]
        even = (-(-n // max(1, round(n / e))) for n, e in zip(sizes, self.edges, strict=True))
        tiling = self if self.blended else replace(self, edges=tuple(even))
        found: np.ndarray | None = None
        for core, shares in tiling.pieces(region, infer):
            if core == region:
                return shares
            if found is None:
                found = np.empty((len(shares), *sizes), np.float32)
            found[(slice(None), *within(core, region))] = shares
        assert found is not None
        return found

    def _blend(self, region: Region, infer: Callable[[Region], np.ndarray]) -> np.ndarray:
        """Weighted mean of the tiles that touch the region, added up in the order of `blend`."""
        longest = max(range(len(self.shape)), key=lambda axis: self.shape[axis])
        weight = np.zeros([s.stop - s.start for s in region], np.float32)
        total: np.ndarray | None = None
        for tile in sorted(self.tiles(region), key=lambda tile: tile.read[longest].start):
            shares = infer(tile.read)
            weights = window(shares.shape[1:])
            if total is None:
                total = np.zeros((len(shares), *weight.shape), np.float32)
            place, inner = within(tile.core, region), tile.inner
            total[(slice(None), *place)] += (shares * weights)[(slice(None), *inner)]
            weight[place] += weights[inner]
        assert total is not None
        total /= weight
        return total

    def _spans(self, axis: int, span: slice) -> list[tuple[slice, slice]]:
        """Input and output ranges along an axis."""
        size, edge = self.shape[axis], self.edges[axis]
        if not self.blended:
            starts = range(span.start, span.stop, edge)
            cores = [slice(start, min(start + edge, span.stop)) for start in starts]
            return [(read_span(core, size, axis, self.reach), core) for core in cores]
        _, begins = overlap(size, edge, self.reach.stride[axis])
        reads = [slice(b, b + edge) for b in begins if b < span.stop and b + edge > span.start]
        return [(r, slice(max(r.start, span.start), min(r.stop, span.stop))) for r in reads]


def within(region: Region, outer: Region) -> Region:
    """A region in coordinates of a larger one."""
    return tuple(
        slice(r.start - o.start, r.stop - o.start) for r, o in zip(region, outer, strict=True)
    )


def window(shape: Sequence[int]) -> np.ndarray:
    """Gaussian weights of a tile, largest in its centre and never 0."""
    out = np.ones((), np.float32)
    for size in shape:
        x = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / max(1.0, size / 4)
        out = out[..., np.newaxis] * np.exp(-0.5 * x**2)
    return np.maximum(out, 1e-3, dtype=np.float32)
