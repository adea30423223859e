"""Axes of length 1: views of arrays, pieces of lazy ones, and regions."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_unetseg.core.singleton_axes import on_grid, region_on_grid, same_but_singletons

SHAPES = [(1, 3, 4, 5), (3, 1, 4, 5), (3, 4, 5), (1, 3, 1, 4, 5, 1)]


def test_what_is_written_on_the_grid_is_in_the_array() -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    for number, shape in enumerate(SHAPES, 1):
        on_grid(array, shape)[...] = number
        assert (array == number).all()
    spaced = np.zeros((6, 8, 10), np.uint8)[::2, ::2, ::2]
    on_grid(spaced, (1, 3, 1, 4, 5))[0, 1] = 7
    assert (spaced[1] == 7).all(), "also where the array has gaps"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "index", [(), (0,), (slice(0, 1),), (0, slice(None)), (..., 2), (0, 0, slice(1, 3))], ids=str
)
def test_a_lazy_array_gives_the_pieces_that_an_array_gives(shape: Any, index: Any) -> None:
    array = np.arange(60).reshape(3, 4, 5)
    lazy = on_grid(da.from_array(array), shape)
    assert (lazy.shape, lazy.dtype, lazy.ndim) == (shape, array.dtype, len(shape))
    if Ellipsis not in index:
        np.testing.assert_array_equal(lazy[index], array.reshape(shape)[index])
    np.testing.assert_array_equal(np.asarray(lazy), array.reshape(shape))


def test_other_differences_are_refused() -> None:
    assert same_but_singletons((1, 4, 5), (4, 1, 5))
    assert not same_but_singletons((4, 5), (5, 4))
    with pytest.raises(ValueError, match="grid"):
        on_grid(np.zeros((4, 5)), (5, 4))


def test_a_region_is_where_its_voxels_are_on_the_grid() -> None:
    array = np.zeros((3, 1, 4), np.uint8)
    region = (slice(1, 2), slice(0, 1), slice(2, 4))
    array[region] = 1
    grid = on_grid(array, (1, 3, 4))
    assert grid[region_on_grid(region, array.shape, grid.shape)].all()
    assert grid.sum() == 2
