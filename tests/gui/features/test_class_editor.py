"""Structures recoloured, merged and deleted: everywhere at once, and undone in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gui_parts import SIDE
from napari.layers import Labels

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.gui.features.class_editor import balance

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.layers import PredictionLayer
    from napari_unetseg.gui.plugin import Plugin

PLANE = (slice(None), slice(None))


@pytest.fixture
def mask(plugin: Plugin) -> PredictionLayer:
    """Structures 1 and 2, both painted and in the mask; 2 is corrected and accepted in places."""
    labels = plugin.session.training[0].labels
    labels.data_setitem((np.repeat([20, 21], 10), np.tile(np.arange(40, 50), 2)), 2)
    plugin.session.know([1, 2], {2: "debris"})
    plugin.training.start()
    prediction = plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    half = np.ones((SIDE, SIDE), np.uint8)
    half[:, 32:] = 2
    prediction.write(PLANE, half)
    prediction.finish()
    prediction.layer.data_setitem((np.array([1, 1]), np.array([1, 2])), 2)
    plugin.review.accept_plane()
    return prediction


def numbers(array: np.ndarray) -> set[int]:
    return set(np.unique(array).tolist())


def whole(prediction: PredictionLayer, origin: LabelSource) -> np.ndarray:
    return prediction.annotated.read(origin, (slice(0, SIDE), slice(0, SIDE)))


@pytest.mark.parametrize("into", [1, BACKGROUND_LABEL])
def test_merged_structures_are_one_in_labels_corrections_mask_and_list(
    plugin: Plugin, mask: PredictionLayer, into: int
) -> None:
    labels = plugin.session.training[0].labels
    assert mask.layer is not None
    strokes, shown = labels.data.copy(), mask.layer.data.copy()
    said = [whole(mask, origin) for origin in LabelSource]
    structures = plugin.session.structures
    plugin.classes.merge(2, into)
    in_mask = into % BACKGROUND_LABEL
    np.testing.assert_array_equal(labels.data, np.where(strokes == 2, into, strokes))
    np.testing.assert_array_equal(mask.layer.data, np.where(shown == 2, in_mask, shown))
    for origin, before in zip(LabelSource, said, strict=True):
        np.testing.assert_array_equal(whole(mask, origin), np.where(before == 2, into, before))
    assert [s.number for s in plugin.session.structures] == [1]
    labels.undo()
    assert 2 not in numbers(labels.data), "napari's undo brings the old number back"

    plugin.undo.undo()
    np.testing.assert_array_equal(labels.data, strokes)
    np.testing.assert_array_equal(mask.layer.data, shown)
    for origin, before in zip(LabelSource, said, strict=True):
        np.testing.assert_array_equal(whole(mask, origin), before)
    assert plugin.session.structures == structures
    plugin.undo.redo()
    assert 2 not in numbers(labels.data) | numbers(mask.layer.data)


def test_a_deleted_structure_is_labelled_no_more_and_comes_back_with_undo(
    plugin: Plugin, mask: PredictionLayer
) -> None:
    labels = plugin.session.training[0].labels
    strokes = labels.data.copy()
    plugin.classes.delete(2)
    np.testing.assert_array_equal(labels.data, np.where(strokes == 2, 0, strokes))
    assert mask.layer is not None
    assert 2 not in numbers(mask.layer.data)
    for origin in (LabelSource.CORRECTIONS, LabelSource.ACCEPTED):
        assert 2 not in numbers(whole(mask, origin))
    assert (whole(mask, LabelSource.ACCEPTED)[:, 40] == 0).all(), "not labelled, so not background"
    plugin.undo.undo()
    np.testing.assert_array_equal(labels.data, strokes)
    assert (whole(mask, LabelSource.ACCEPTED)[:, 40] == 2).all()


def test_the_old_model_s_masks_show_what_structures_became(
    plugin: Plugin, mask: PredictionLayer
) -> None:
    """The model still says 2; nobody wants to see it, nor the structure in the list again."""
    plugin.classes.merge(2, 1)
    plugin.prediction.predict_plane()
    assert mask.layer is not None
    assert numbers(mask.layer.data) <= {0, 1}
    assert [s.number for s in plugin.session.structures] == [1]


def test_a_model_trained_afterwards_may_have_the_number_anew(
    plugin: Plugin, mask: PredictionLayer
) -> None:
    plugin.classes.merge(2, 1)
    plugin.structures.add()
    labels = plugin.session.training[0].labels
    labels.data_setitem((np.repeat([30, 31], 10), np.tile(np.arange(40, 50), 2)), 2)
    plugin.training.start()
    assert plugin.session.entry is not None
    assert not plugin.masks.renumbered.get(plugin.session.entry.model.id)
    prediction = plugin.masks.current
    assert prediction is not None
    plugin.masks.open(prediction.image, plugin.session.entry.model.id, plugin.session.structures)
    prediction.write((slice(60, 64), slice(60, 64)), np.full((4, 4), 2, np.uint8))
    assert prediction.masks.shown((slice(60, 64), slice(60, 64))).min() == 2


def test_masks_of_another_model_leave_merged_structures_merged(
    plugin: Plugin, mask: PredictionLayer
) -> None:
    """A newer model may use the number for something else; what is left of the older one's not."""
    plugin.review.withdraw_plane()
    plugin.review.drop_corrections_all()
    plugin.classes.merge(2, 1)
    plugin.masks.open(mask.image, "newer", plugin.session.structures)
    mask.write((slice(0, 9), slice(0, 9)), np.full((9, 9), 2, np.uint8))
    assert mask.layer is not None
    assert numbers(mask.layer.data[:9, :9]) == {2}
    assert 2 not in numbers(mask.layer.data[9:])


def test_the_model_before_comes_back_with_its_structures_merged(
    plugin: Plugin, mask: PredictionLayer
) -> None:
    plugin.classes.merge(2, 1)
    plugin.training.start()
    plugin.comparison.bring_back()
    assert mask.layer is not None
    assert numbers(mask.layer.data) <= {0, 1}


def test_a_structure_may_be_merged_with_what_another_was_merged_into(
    plugin: Plugin, mask: PredictionLayer
) -> None:
    plugin.session.know([1, 2, 3])
    plugin.classes.merge(2, 1)
    plugin.classes.merge(1, 3)
    assert mask.layer is not None
    assert numbers(mask.layer.data) == {3}
    plugin.undo.undo()
    assert numbers(mask.layer.data) == {1}


def test_undoing_a_merge_leaves_what_was_painted_and_named_since(plugin: Plugin) -> None:
    labels, image = plugin.session.training[0].labels, plugin.session.image
    truth, spot = plugin.annotations.of(image), (slice(0, 1), slice(0, 3))
    plugin.session.know([1, 2])
    row, column = np.array([0, 0]), np.array([0, 1])
    labels.data_setitem((row, column), 2)  # at both
    truth.record(LabelSource.CORRECTIONS, spot, np.array([[3, 3, 3]], np.uint8))
    plugin.classes.merge(2, 1)
    assert truth.effective_overrides(spot).tolist() == [[3, 3, 3]]
    labels.data_setitem((row[:1], column[:1]), 0)
    labels.data_setitem((row[:1], column[:1]), 1)  # painted anew, as the other structure
    labels.data_setitem((np.array([0]), np.array([2])), 1)
    labels.data_setitem((np.array([0]), np.array([2])), 0)
    labels.data_setitem((np.array([0]), np.array([2])), 1)
    plugin.structures.rename(1, "cell")
    plugin.structures.add()
    plugin.structures.add()
    plugin.undo.undo()
    assert labels.data[0, :3].tolist() == [1, 2, 1]
    assert truth.effective_overrides(spot).tolist() == [[0, 3, 0]], "painted after the correction"
    assert [s.number for s in plugin.session.structures] == [1, 2, 3]
    assert plugin.session.structures[0].name == "cell"


def test_undoing_a_merge_touches_no_labels_that_came_since(
    plugin: Plugin, model_viewer: ViewerModel
) -> None:
    labels = plugin.session.training[0].labels
    plugin.session.know([1, 2])
    labels.data_setitem((np.array([0]), np.array([0])), 2)
    plugin.classes.merge(2, 1)
    other = model_viewer.add_layer(Labels(np.full((SIDE, SIDE), 3, np.uint8), name="other"))
    plugin.sources.choose_labels(other)
    plugin.undo.undo()
    truth = plugin.annotations.of(plugin.session.image)
    assert (truth.read(LabelSource.STROKES, (slice(0, SIDE), slice(0, SIDE))) == 3).all()
    assert (other.data == 3).all()


def test_a_full_mask_s_structure_becomes_its_background_number(plugin: Plugin) -> None:
    labels = plugin.session.training[0].labels
    plugin.sources.choose_kind(LabelKind.FULL)
    labels.data_setitem((np.array([0]), np.array([0])), 2)
    plugin.session.know([1, 2])
    plugin.classes.merge(2, BACKGROUND_LABEL)
    assert labels.data[0, 0] == 0


def test_instances_keep_their_numbers(plugin: Plugin, model_viewer: ViewerModel) -> None:
    objects = np.arange(SIDE * SIDE, dtype=np.int32).reshape(SIDE, SIDE) // 100
    layer = model_viewer.add_layer(Labels(objects.copy(), name="objects"))
    plugin.sources.choose_labels(layer, LabelKind.INSTANCES)
    plugin.session.know([1, 2])
    plugin.classes.merge(2, 1)
    np.testing.assert_array_equal(layer.data, objects)


def test_a_colour_goes_into_every_layer_and_back(plugin: Plugin, mask: PredictionLayer) -> None:
    labels = plugin.session.training[0].labels
    assert mask.layer is not None
    plugin.structures.choose_brush(2)  # labels that were found keep their colours until then
    before = labels.get_color(2)
    plugin.classes.recolor(2, "#123456")
    for layer in (labels, mask.layer):
        np.testing.assert_allclose(layer.get_color(2), [0x12 / 255, 0x34 / 255, 0x56 / 255, 1])
    plugin.undo.undo()
    np.testing.assert_allclose(labels.get_color(2), before)


def test_the_last_structure_stays(plugin: Plugin, said: list[str]) -> None:
    plugin.classes.delete(1)
    assert "At least one structure is needed" in said[-1]
    plugin.structures.add()
    plugin.classes.delete(2)
    plugin.classes.merge(1, BACKGROUND_LABEL)
    assert "At least one structure is needed" in said[-1]
    assert [s.number for s in plugin.session.structures] == [1]


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({}, ""),
        ({1: 50, 2: 60, BACKGROUND_LABEL: 70}, ""),
        ({1: 50, BACKGROUND_LABEL: 70}, "Nothing is painted of debris yet."),
        (
            {1: 50, 2: 60, BACKGROUND_LABEL: 2000},
            "background has 40 times the pixels of nucleus: paint more of it.",
        ),
    ],
)
def test_unbalanced_strokes_are_said(counts: dict[int, int], sentence: str) -> None:
    assert balance(counts, [Structure(1, "nucleus"), Structure(2, "debris")]) == sentence
