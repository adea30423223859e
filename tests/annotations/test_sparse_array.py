"""Grids that are mostly zero: what was written is found without looking at the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import Watched, blobs, run_training, strokes, tiny

from napari_unetseg.annotations.sparse_array import SparseArray, planes_with
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import LabelKind, most_probable
from napari_unetseg.data.annotated_image import AnnotatedImage


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a file was written")
def test_of_a_large_file_only_the_written_planes_are_looked_at(tmp_path: Path) -> None:
    shape = (50, 1000, 1024, 1024)  # 52 GB that take no room
    grid = np.memmap(tmp_path / "grid.raw", np.uint8, "w+", shape=shape)
    grid[7, 3, 100, 100] = grid[7, 4, 0, 0] = 2
    grid[20, 999, 1023, 1023] = 1
    found = planes_with(grid)
    assert {(7, 3), (7, 4), (20, 999)} <= set(found)
    assert len(found) < 10
    copy = SparseArray(shape)
    for region in copy.differing(grid):
        copy.write(region, np.asarray(grid[region]))
    assert copy.planes() == {(7, 3), (7, 4), (20, 999)}
    assert copy[(7, 3)][100, 100] == 2
    assert list(SparseArray(shape).differing(grid)) == [copy.region_of(c) for c in copy.cells()]


def test_views_and_arrays_are_looked_at_as_a_whole(tmp_path: Path) -> None:
    grid = np.memmap(tmp_path / "grid.raw", np.uint8, "w+", shape=(6, 64, 64))
    for array in (grid[1:], grid[:, ::2], np.zeros((5, 8, 8), np.uint8)):
        assert planes_with(array) == [(i,) for i in range(array.shape[0])]


def test_two_grids_are_the_same_by_what_they_hold() -> None:
    one, other = SparseArray((3, 300, 300)), SparseArray((3, 300, 300))
    region = (slice(1, 2), slice(10, 290), slice(20, 40))
    one.write(region, np.full((1, 280, 20), 5, np.uint8))
    assert not one.same_as(other)
    other.write(region, np.full((1, 280, 20), 5, np.uint8))
    assert one.same_as(other)
    assert np.asarray(one).sum() == 5 * 280 * 20


def test_a_snapshot_stays_as_it_was_and_shares_what_nobody_wrote_to() -> None:
    grid, left = SparseArray((1, 300, 600)), (slice(0, 1), slice(0, 9), slice(0, 9))
    right = (slice(0, 1), slice(270, 280), slice(500, 510))
    for region in (left, right):
        grid.write(region, np.full([s.stop - s.start for s in region], 3, np.uint8))
    before, first = np.asarray(grid), grid.snapshot()
    assert first.same_as(grid)
    for value in (4, 5):  # the second time in a chunk that was copied already
        grid.write(left, np.full((1, 9, 9), value, np.uint8))
    second, after = grid.snapshot(), np.asarray(grid)
    second.write(right, np.zeros((1, 10, 10), np.uint8))
    np.testing.assert_array_equal(first, before)
    np.testing.assert_array_equal(grid, after)
    assert second.cells() == [(0, 0, 0)]
    assert first.chunk((0, 1, 1)) is grid.chunk((0, 1, 1)), "no voxel was copied"
    assert [first.same_chunk(grid, cell) for cell in ((0, 0, 0), (0, 1, 1), (0, 0, 1))] == [
        False,
        True,
        True,
    ]
    assert not first.same_as(second)


def test_a_snapshot_has_what_was_put_off() -> None:
    grid, part = SparseArray((256, 256), np.uint32), (slice(0, 256), slice(0, 256))
    where = np.eye(256, dtype=bool)
    grid.set_lazy(part, where, np.uint32(7))
    copy = grid.snapshot()
    grid.set_lazy(part, where[::-1], np.uint32(8))
    np.testing.assert_array_equal(copy, 7 * where)
    np.testing.assert_array_equal(grid, np.where(where[::-1], 8, 7 * where))


@pytest.mark.parametrize(
    "index", [(1,), (1, 2), (slice(None), 3), (2, slice(5, 9), slice(4, None)), (slice(1, 3),)]
)
def test_a_sparse_grid_is_indexed_as_an_array_is(index: tuple[int | slice, ...]) -> None:
    dense = np.arange(3 * 12 * 13).reshape(3, 12, 13).astype(np.uint16)
    grid = SparseArray(dense.shape, dense.dtype)
    grid.write((slice(0, 3), slice(0, 12), slice(0, 13)), dense)
    np.testing.assert_array_equal(grid[index], dense[index])


def test_training_reads_the_planes_with_strokes_and_a_few_for_the_range() -> None:
    image, truth = blobs((128, 128), 12, seed=1)
    planes = Watched(np.stack([image] * 400), most=image.size)
    labels = SparseArray(planes.shape)
    labels.write((slice(123, 124), slice(0, 128), slice(0, 128)), strokes(truth)[np.newaxis])
    read: list[int] = []
    get = planes.__class__.__getitem__

    class Noting(Watched):
        def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
            read.append(int(index[0]))
            return get(self, index)

    stack = Stack(Noting(planes.array, most=image.size), "ZYX")
    run_training([AnnotatedImage(stack, labels, LabelKind.STROKES)], tiny(steps=4))
    assert 123 in read
    assert len(set(read)) <= 12  # eight for the range of intensities, two for the fingerprint


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_the_most_probable_class_is_argmax(classes: int) -> None:
    rng = np.random.default_rng(classes)
    shares = rng.integers(0, 5, (classes, 40, 30)).astype(np.float32)  # many are equal
    found = most_probable(shares)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, shares.argmax(0))
