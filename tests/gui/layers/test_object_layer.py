"""The object layer: predicted objects, finished ones on top, and what is painted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.gui import layers

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region

SHAPE = (2, 16, 20)
PLANE = (slice(0, 1), slice(0, 16), slice(0, 20))


def two() -> np.ndarray:
    ids = np.zeros((1, 16, 20), np.uint32)
    ids[0, 2:8, 2:8], ids[0, 2:8, 10:18] = 5, 6
    return ids


def shown() -> tuple[ViewerModel, layers.ObjectLayer, Labels]:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros(SHAPE), name="cells"))
    one = layers.ObjectLayer(viewer, image, ImageAnnotations(SHAPE))
    layer = one.show(None)
    one.put(PLANE, two(), (1,), 2)
    return viewer, one, layer


def finish(one: layers.ObjectLayer, region: Region, number: int) -> None:
    values = np.full([s.stop - s.start for s in region], number, np.uint32)
    one.annotated.record(LabelSource.OBJECTS, region, values)
    one.renew(region)


def test_it_shows_what_is_predicted_and_is_nobodys_annotation() -> None:
    _, one, layer = shown()
    assert layer.name == "cells · objects"
    assert layer.data.dtype == np.uint32
    np.testing.assert_array_equal(layer.data[0], two()[0])
    assert layers.is_ours(layer)
    assert one.highest == 6


def test_finished_objects_lie_on_top_and_come_off_again() -> None:
    _, one, layer = shown()
    region = (slice(0, 1), slice(2, 8), slice(3, 10))
    finish(one, region, 9)
    assert set(np.unique(layer.data[0])) == {0, 6, 9}, "the rest of object 5 is hidden"
    finish(one, region, 0)
    np.testing.assert_array_equal(layer.data[0], two()[0])


def test_a_correction_to_background_hides_what_is_predicted() -> None:
    _, one, layer = shown()
    region = (slice(0, 1), slice(2, 4), slice(0, 20))
    one.annotated.record(LabelSource.CORRECTIONS, region, np.full((1, 2, 20), 255, np.uint8))
    one.renew(region)
    assert not layer.data[0, 2:4].any()
    assert set(np.unique(layer.data[0, 4:8])) == {0, 5, 6}
    one.annotated.record(LabelSource.CORRECTIONS, region, np.full((1, 2, 20), 1, np.uint8))
    one.renew(region)
    np.testing.assert_array_equal(layer.data[0], two()[0])


def test_a_stroke_is_told_and_newer_objects_do_not_wipe_it_out_meanwhile() -> None:
    _, one, layer = shown()
    told: list[tuple[Region, np.ndarray, np.ndarray]] = []
    one.on_painted = lambda r: told.append((r, one.read(r), one.before(r)))
    layer.data[0, 12, 4] = 7  # a brush that moves: napari tells nothing yet
    one.put(PLANE, np.zeros_like(two()), (1,), 2)
    assert layer.data[0, 12, 4] == 7
    layer.data_setitem((np.array([0]), np.array([12]), np.array([5])), 7)
    region, now, before = told[-1]
    assert region[0] == slice(0, 1)
    assert (now != before).any()
    one.settle(PLANE)
    assert not layer.data.any(), "nobody recorded it"


def test_a_layer_that_was_deleted_comes_back_with_its_objects() -> None:
    viewer, one, layer = shown()
    viewer.layers.remove(layer)
    one.end()
    assert not one.alive
    again = one.show(None)
    assert again is not layer
    np.testing.assert_array_equal(again.data[0], two()[0])
