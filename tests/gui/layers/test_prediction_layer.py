"""The prediction layer, which loses nothing that was painted."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL, Structure
from napari_unetseg.gui import layers

WHOLE = (slice(0, 16), slice(0, 20))
KNOWN = [Structure(1), Structure(2)]


def predicted(
    value: int, model: str = "a", **more: Any
) -> tuple[ViewerModel, layers.PredictionLayer]:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((16, 20)), name="cells"))
    prediction = layers.PredictionLayer(viewer, image, **more)
    again(prediction, value, model)
    return viewer, prediction


def again(prediction: layers.PredictionLayer, value: int, model: str) -> None:
    prediction.begin(model, KNOWN)
    prediction.write(WHOLE, np.full((16, 20), value, np.uint8))
    prediction.finish()


def test_a_prediction_lies_between_images_and_strokes() -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((16, 20)), name="cells"))
    strokes = layers.new_annotation(viewer, image, KNOWN)
    prediction = layers.PredictionLayer(viewer, image)
    layer = prediction.begin("a", KNOWN)
    assert list(viewer.layers) == [image, layer, strokes]
    assert viewer.layers.selection.active is strokes
    assert layer.name == "cells · prediction"
    assert layer.editable


def test_the_first_mask_selects_nothing_not_even_for_a_moment() -> None:
    """napari would make the controls of a layer that it selects, while the window waits."""
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((16, 20))))
    strokes = layers.new_annotation(viewer, image, ())
    heard: list[Any] = []
    viewer.layers.selection.events.changed.connect(heard.append)
    prediction = layers.PredictionLayer(viewer, image)
    prediction.begin("a", ())
    assert viewer.layers.selection == {strokes}
    assert heard == []
    other = viewer.add_layer(Labels(np.zeros((16, 20), np.uint8)))
    assert viewer.layers.selection == {other}, "napari selects what others add, as ever"


def test_undo_after_a_new_prediction_never_brings_older_voxels_back() -> None:
    _, prediction = predicted(1)
    old = prediction.layer
    assert old is not None
    old.data_setitem((np.array([3]), np.array([4])), [2])
    again(prediction, 2, "b")
    new = prediction.layer
    assert new is not None
    before = new.data.copy()
    for _ in range(3):
        new.undo()
    np.testing.assert_array_equal(new.data, before)
    for _ in range(3):
        old.undo()
    np.testing.assert_array_equal(new.data, before)


def test_a_stroke_made_while_tiles_arrive_is_kept_and_cannot_be_undone_into_old_voxels() -> None:
    _, prediction = predicted(1)
    prediction.begin("a", KNOWN)
    layer = prediction.layer
    assert layer is not None
    layer.data_setitem((np.array([3]), np.array([4])), [2])
    prediction.write(WHOLE, np.zeros((16, 20), np.uint8))
    prediction.finish()
    assert prediction.layer is not None
    assert prediction.layer.data[3, 4] == 2
    prediction.layer.undo()
    assert prediction.layer.data[3, 4] == 2


def test_corrections_are_kept_through_predictions_and_erasing_means_background() -> None:
    viewer, prediction = predicted(1)
    assert prediction.annotated.corrections() is None
    assert prediction.layer is not None
    prediction.layer.data_setitem((np.array([0, 1]), np.array([0, 0])), [0, 2])
    corrections = prediction.annotated.corrections()
    assert corrections is not None
    assert (corrections[0, 0], corrections[1, 0], np.asarray(corrections).sum()) == (
        BACKGROUND_LABEL,
        2,
        BACKGROUND_LABEL + 2,
    )
    again(prediction, 1, "b")
    assert prediction.layer.data[0, 0] == 0
    assert prediction.layer.data[1, 0] == 2
    assert prediction.annotated.count(LabelSource.CORRECTIONS) == 2
    viewer.layers.remove(prediction.layer)
    prediction.end()
    assert prediction.annotated.count(LabelSource.CORRECTIONS) == 2
    again(prediction, 1, "c")
    assert prediction.layer.data[1, 0] == 2


def test_an_undone_correction_is_none() -> None:
    _, prediction = predicted(1)
    assert prediction.layer is not None
    prediction.layer.data_setitem((np.array([0]), np.array([0])), [0])
    assert prediction.annotated.count(LabelSource.CORRECTIONS) == 1
    prediction.layer.undo()
    assert prediction.annotated.count(LabelSource.CORRECTIONS) == 0
    assert prediction.annotated.corrections() is None


def test_forgotten_corrections_show_the_network_s_mask_again() -> None:
    _, prediction = predicted(1)
    assert prediction.layer is not None
    prediction.layer.data_setitem((np.array([0, 9]), np.array([0, 9])), [2, 2])
    prediction.drop_corrections(WHOLE, np.arange(16 * 20).reshape(16, 20) < 100)
    assert (prediction.layer.data[0, 0], prediction.layer.data[9, 9]) == (1, 2)
    corrections = prediction.annotated.corrections()
    assert corrections is not None
    assert (corrections[0, 0], corrections[9, 9]) == (0, 2)


def test_a_new_prediction_keeps_name_place_and_look() -> None:
    viewer, prediction = predicted(1)
    assert prediction.layer is not None
    viewer.add_layer(Labels(np.zeros((16, 20), np.uint8), name="top"))
    prediction.layer.name, prediction.layer.opacity = "mine", 0.3
    prediction.layer.contour, prediction.layer.visible = 2, False
    again(prediction, 1, "b")
    layer = prediction.layer
    assert (layer.name, layer.opacity, layer.contour, layer.visible) == ("mine", 0.3, 2, False)
    assert [one.name for one in viewer.layers] == ["cells", "mine", "top"]


def test_another_model_leaves_no_plane_of_the_old_one() -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((3, 16, 20))))
    prediction = layers.PredictionLayer(viewer, image)
    prediction.begin("a", KNOWN)
    for plane in range(3):
        prediction.write((plane, *WHOLE), np.ones((16, 20), np.uint8))
    prediction.begin("b", KNOWN)
    prediction.write((1, *WHOLE), np.full((16, 20), 2, np.uint8))
    assert prediction.layer is not None
    assert [int(prediction.layer.data[p].max()) for p in range(3)] == [1, 2, 1]
    prediction.layer.data_setitem((np.array([2]), np.array([3]), np.array([4])), [2])
    prediction.finish()
    assert [int(prediction.layer.data[p].max()) for p in range(3)] == [0, 2, 2]
    assert prediction.annotated.count(LabelSource.CORRECTIONS) == 1


def test_a_volume_s_tile_counts_for_all_its_planes() -> None:
    viewer = ViewerModel()
    prediction = layers.PredictionLayer(viewer, viewer.add_layer(Image(np.zeros((4, 16, 20)))))
    prediction.begin("a", KNOWN)
    prediction.write((slice(0, 4), *WHOLE), np.ones((4, 16, 20), np.uint8))
    prediction.begin("b", KNOWN)
    prediction.write((slice(0, 2), *WHOLE), np.full((2, 16, 20), 2, np.uint8))
    prediction.finish()
    assert prediction.layer is not None
    assert [int(prediction.layer.data[p].max()) for p in range(4)] == [2, 2, 0, 0]


def test_a_new_mask_leaves_selection_and_tools_alone_and_is_no_painting() -> None:
    painted: list[str] = []
    viewer, prediction = predicted(1, on_change=lambda change: painted.append("changed"))
    one, two = (viewer.add_layer(Labels(np.zeros((16, 20), np.uint8))) for _ in range(2))
    viewer.layers.selection.clear()
    viewer.layers.selection.update({one, two})
    prediction.on_doubt = lambda: painted.append("painted")
    layer = prediction.layer
    assert layer is not None
    layer.mode, layer.brush_size = "erase", 3
    again(prediction, 2, "b")
    assert prediction.layer is layer
    assert (str(layer.mode), layer.brush_size) == ("erase", 3)
    assert set(viewer.layers.selection) == {one, two}
    assert painted == []
    viewer.layers.remove(layer)
    prediction.end()
    again(prediction, 2, "b")
    assert set(viewer.layers.selection) == {one, two}


def test_undo_during_a_prediction_brings_back_no_voxels_from_before_a_tile() -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((2, 16, 20))))
    prediction = layers.PredictionLayer(viewer, image)
    prediction.begin("a", KNOWN)
    layer = prediction.layer
    assert layer is not None
    layer.mode = "paint"
    layer.data_setitem((np.array([0]), np.array([3]), np.array([4])), [2])
    prediction.write((0, *WHOLE), np.ones((16, 20), np.uint8))
    layer.undo()
    assert layer.data[0, 3, 4] == 2
    assert prediction.annotated.count(LabelSource.CORRECTIONS) == 1
    assert str(layer.mode) == "paint"
    layer.data_setitem((np.array([1]), np.array([3]), np.array([4])), [2])
    layer.undo()
    prediction.write((1, *WHOLE), np.ones((16, 20), np.uint8))
    prediction.finish()
    layer.redo()
    assert prediction.annotated.count(LabelSource.CORRECTIONS) == 1
