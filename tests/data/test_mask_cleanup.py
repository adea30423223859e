"""Tidying up masks, on shapes with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import disk

from napari_unetseg.data.mask_cleanup import TidySettings, tidy


def blobs() -> np.ndarray:
    """Two touching discs of structure 1, a ring of structure 2, and one lonely pixel."""
    mask = np.zeros((80, 120), np.uint8)
    for center in ((30, 30), (30, 50)):
        mask[disk(center, 12)] = 1
    mask[disk((40, 95), 14)] = 2
    mask[disk((40, 95), 6)] = 0
    mask[70, 10] = 1
    return mask


def test_holes_are_filled_with_their_structure() -> None:
    out = tidy(blobs(), TidySettings(), (1.0, 1.0))
    assert out.dtype == np.uint8
    assert out[40, 95] == 2
    assert out[70, 10] == 1


def test_another_structure_inside_is_not_filled() -> None:
    mask = blobs()
    mask[38:42, 93:97] = 1
    assert (tidy(mask, TidySettings(), (1.0, 1.0))[38:42, 93:97] == 1).all()


@pytest.mark.parametrize(("spacing", "kept"), [((1.0, 1.0), False), ((2.0, 2.0), True)])
def test_small_is_measured_with_the_pixel_size(spacing: tuple[float, float], kept: bool) -> None:
    out = tidy(blobs(), TidySettings(smallest=4.0), spacing)
    assert bool(out[70, 10]) is kept


def test_touching_objects_are_split_and_others_are_not() -> None:
    settings = TidySettings(split=True, smallest=3.0)
    out = tidy(blobs(), settings, (1.0, 1.0))
    assert out.dtype == np.int32
    assert out.max() == 3
    assert out[30, 22] != out[30, 58]
    np.testing.assert_array_equal(out > 0, tidy(blobs(), settings.model_copy(), (1, 1)) > 0)


def test_objects_are_numbered_from_one() -> None:
    out = tidy(blobs(), TidySettings(objects=True), (1.0, 1.0))
    assert sorted(np.unique(out)) == [0, 1, 2, 3]


def test_a_volume_is_one_object_through_its_planes() -> None:
    volume = np.zeros((5, 20, 20), np.uint8)
    volume[1:4, 5:15, 5:15] = 1
    volume[2, 9, 9] = 0
    out = tidy(volume, TidySettings(objects=True, smallest=10), (2.0, 1.0, 1.0))
    assert out.max() == 1
    assert out[2, 9, 9] == 1


def test_an_empty_mask_stays_empty() -> None:
    empty = np.zeros((4, 4), np.uint8)
    assert not tidy(empty, TidySettings(split=True, smallest=2), (1.0, 1.0)).any()
