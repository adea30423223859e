"""Tiles without a network: what is put together again equals the whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from helpers import random_network

from napari_unetseg.inference.tiling import (
    Region,
    blend,
    exact_tiles,
    halo_factor,
    overlapping_tiles,
)
from napari_unetseg.models.unet import UNet

TABLE = [
    ((1, 1), 8),
    ((1, 40), 8),
    ((7, 100), 8),
    ((64, 64), 16),
    ((65, 63), 16),
    ((33, 129), 32),
    ((30, 30), 64),
    ((100, 3), 9),
    ((5, 40, 31), 8),
    ((1, 17, 33), 16),
    ((20, 20, 20), 12),
]


@dataclass
class BoxMean:
    """Pools by ``factor``, spreads again, then takes a box mean: its reach is easily known.

    Like a U-Net it depends on where the pooling grid lies, and pads with zeros at borders.
    """

    dims: int
    factor: int
    radius: int

    @property
    def stride(self) -> tuple[int, ...]:
        return (self.factor,) * self.dims

    def input_range(self, start: int, stop: int, axis: int) -> tuple[int, int]:
        low, high = start - self.radius, stop - 1 + self.radius
        return low // self.factor * self.factor, (high // self.factor + 1) * self.factor

    def __call__(self, image: np.ndarray) -> np.ndarray:
        out = image.astype(float)
        for axis, size in enumerate(image.shape):
            cells = np.arange(0, size, self.factor)
            sums = np.add.reduceat(out, cells, axis)
            out = np.repeat(sums, self.factor, axis).take(range(size), axis)
            pads = [(self.radius, self.radius) if a == axis else (0, 0) for a in range(out.ndim)]
            padded = np.pad(out, pads)
            out = sum(padded.take(range(k, k + size), axis) for k in range(2 * self.radius + 1)) / (
                2 * self.radius + 1
            )
        return out


@pytest.mark.parametrize(("shape", "edge"), TABLE)
@pytest.mark.parametrize(("factor", "radius"), [(1, 0), (1, 3), (2, 1), (4, 7), (8, 2)])
def test_tiled_equals_whole_with_a_filter_of_known_reach(
    shape: tuple[int, ...], edge: int, factor: int, radius: int
) -> None:
    image = np.random.default_rng(0).integers(0, 100, shape).astype(float)
    box = BoxMean(len(shape), factor, radius)
    whole, tiled = box(image), np.full(shape, np.nan)
    for tile in exact_tiles(shape, box, edge):
        assert np.isnan(tiled[tile.core]).all()  # covered once
        tiled[tile.core] = box(image[tile.read])[tile.inner]
    np.testing.assert_allclose(tiled, whole, rtol=1e-12)


def test_the_filter_needs_its_halo() -> None:
    """The test above can fail: without a halo, or off the pooling grid, the result differs."""
    image = np.random.default_rng(0).random((64, 64))
    box = BoxMean(2, 4, 3)
    assert not np.allclose(box(image[16:32, 16:32]), box(image)[16:32, 16:32])
    assert not np.allclose(box(image[2:, 2:])[20:40, 20:40], box(image)[22:42, 22:42])


@pytest.mark.parametrize(("shape", "edge"), TABLE)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_exact_tiles_read_inside_the_image_and_stay_near_the_wanted_edge(
    shape: tuple[int, ...], edge: int, depth: int
) -> None:
    network = UNet(dims=len(shape), depth=depth, width=1)
    for tile in exact_tiles(shape, network, edge):
        for read, core, inner, size, stride in zip(
            tile.read, tile.core, tile.inner, shape, network.stride, strict=True
        ):
            assert 0 <= read.start <= core.start < core.stop <= read.stop <= size
            assert read.start % stride == 0
            assert (inner.start, inner.stop) == (core.start - read.start, core.stop - read.start)
            assert core.stop - core.start < 1.5 * edge + stride + 1


def test_an_image_that_fits_is_one_tile_without_a_halo() -> None:
    tiles = exact_tiles((100, 90), random_network(depth=3, width=1), 512)
    assert len(tiles) == 1
    assert halo_factor(tiles) == 1.0


@pytest.mark.parametrize(("shape", "edge"), TABLE)
@pytest.mark.parametrize("step", [1, 8])
def test_overlapping_tiles_cover_all_and_overlap_by_a_quarter(
    shape: tuple[int, ...], edge: int, step: int
) -> None:
    axis, rows = overlapping_tiles(shape, (step,) * len(shape), edge)
    seen = np.zeros(shape, int)
    for row in rows:
        for region in row:
            assert all(0 <= r.start < r.stop <= s for r, s in zip(region, shape, strict=True))
            seen[region] += 1
    assert seen.min() >= 1
    starts = [row[0][axis] for row in rows]
    for first, second in pairwise(starts):
        assert (first.stop - second.start) * 4 >= first.stop - first.start


@pytest.mark.parametrize(("shape", "edge"), TABLE)
def test_blend_covers_all_once_and_gives_back_what_does_not_depend_on_the_tile(
    shape: tuple[int, ...], edge: int
) -> None:
    image = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    out = np.full_like(image, np.nan)
    sizes = []

    def infer(region: Region) -> np.ndarray:
        sizes.append([r.stop - r.start for r in region])
        return image[(slice(None), *region)]

    for region, values in blend(shape, (4,) * len(shape), edge, infer):
        assert np.isnan(out[(slice(None), *region)]).all()
        out[(slice(None), *region)] = values
    np.testing.assert_allclose(out, image, rtol=1e-5)
    assert max(max(s) for s in sizes) <= edge + 3


def test_blend_is_a_smooth_passage_from_tile_to_tile() -> None:
    """Two tiles that disagree by 1 are joined without a step."""
    regions: list[Region] = []

    def infer(region: Region) -> np.ndarray:
        regions.append(region)
        shape = [r.stop - r.start for r in region]
        return np.full((1, *shape), float(len(regions)), np.float32)

    pieces = [values for _, values in blend((8, 56), (1, 1), 32, infer)]
    line = np.concatenate(pieces, axis=2)[0, 4]
    assert len(regions) == 2
    assert line[0] == 1.0
    assert line[-1] == 2.0
    assert np.abs(np.diff(line)).max() < 0.25
