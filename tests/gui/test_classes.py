"""Structures recoloured, merged and deleted: everywhere at once, and undone in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gui_parts import SIDE
from napari.layers import Labels

from napari_unetseg.annotations.annotation_store import Origin
from napari_unetseg.core.labels import BRUSH, LabelKind, Structure
from napari_unetseg.gui.features.class_editor import balance

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.controller import Controller
    from napari_unetseg.gui.layers import Prediction

PLANE = (slice(None), slice(None))


@pytest.fixture
def mask(controller: Controller) -> Prediction:
    """Structures 1 and 2, both painted and in the mask; 2 is corrected and accepted in places."""
    labels = controller.session.training[0].labels
    labels.data_setitem((np.repeat([20, 21], 10), np.tile(np.arange(40, 50), 2)), 2)
    controller.know([1, 2], {2: "debris"})
    controller.train()
    prediction = controller.prediction
    assert prediction is not None
    assert prediction.layer is not None
    half = np.ones((SIDE, SIDE), np.uint8)
    half[:, 32:] = 2
    prediction.write(PLANE, half)
    prediction.finish()
    prediction.layer.data_setitem((np.array([1, 1]), np.array([1, 2])), 2)
    controller.review.accept_plane()
    return prediction


def numbers(array: np.ndarray) -> set[int]:
    return set(np.unique(array).tolist())


def whole(prediction: Prediction, origin: Origin) -> np.ndarray:
    return prediction.truth.read(origin, (slice(0, SIDE), slice(0, SIDE)))


@pytest.mark.parametrize("into", [1, BRUSH])
def test_merged_structures_are_one_in_labels_corrections_mask_and_list(
    controller: Controller, mask: Prediction, into: int
) -> None:
    labels = controller.session.training[0].labels
    assert mask.layer is not None
    strokes, shown = labels.data.copy(), mask.layer.data.copy()
    said = [whole(mask, origin) for origin in Origin]
    structures = controller.session.structures
    controller.classes.merge(2, into)
    in_mask = into % BRUSH
    np.testing.assert_array_equal(labels.data, np.where(strokes == 2, into, strokes))
    np.testing.assert_array_equal(mask.layer.data, np.where(shown == 2, in_mask, shown))
    for origin, before in zip(Origin, said, strict=True):
        if origin is not Origin.FIRST:
            np.testing.assert_array_equal(whole(mask, origin), np.where(before == 2, into, before))
    assert [s.number for s in controller.session.structures] == [1]
    labels.undo()
    assert 2 not in numbers(labels.data), "napari's undo brings the old number back"

    controller.steps.undo()
    np.testing.assert_array_equal(labels.data, strokes)
    np.testing.assert_array_equal(mask.layer.data, shown)
    for origin, before in zip(Origin, said, strict=True):
        np.testing.assert_array_equal(whole(mask, origin), before)
    assert controller.session.structures == structures
    controller.steps.redo()
    assert 2 not in numbers(labels.data) | numbers(mask.layer.data)


def test_a_deleted_structure_is_labelled_no_more_and_comes_back_with_undo(
    controller: Controller, mask: Prediction
) -> None:
    labels = controller.session.training[0].labels
    strokes = labels.data.copy()
    controller.classes.delete(2)
    np.testing.assert_array_equal(labels.data, np.where(strokes == 2, 0, strokes))
    assert mask.layer is not None
    assert 2 not in numbers(mask.layer.data)
    for origin in (Origin.CORRECTIONS, Origin.ACCEPTED):
        assert 2 not in numbers(whole(mask, origin))
    assert (whole(mask, Origin.ACCEPTED)[:, 40] == 0).all(), "not labelled, so not background"
    controller.steps.undo()
    np.testing.assert_array_equal(labels.data, strokes)
    assert (whole(mask, Origin.ACCEPTED)[:, 40] == 2).all()


def test_the_old_model_s_masks_show_what_structures_became(
    controller: Controller, mask: Prediction
) -> None:
    """The model still says 2; nobody wants to see it, nor the structure in the list again."""
    controller.classes.merge(2, 1)
    controller.predict_plane()
    assert mask.layer is not None
    assert numbers(mask.layer.data) <= {0, 1}
    assert [s.number for s in controller.session.structures] == [1]


def test_a_model_trained_afterwards_may_have_the_number_anew(
    controller: Controller, mask: Prediction
) -> None:
    controller.classes.merge(2, 1)
    controller.add_structure()
    labels = controller.session.training[0].labels
    labels.data_setitem((np.repeat([30, 31], 10), np.tile(np.arange(40, 50), 2)), 2)
    controller.train()
    assert controller.session.entry is not None
    assert not controller.renumbered.get(controller.session.entry.model.id)
    prediction = controller.prediction
    assert prediction is not None
    controller.begin_mask(
        prediction.image, controller.session.entry.model.id, controller.session.structures
    )
    prediction.write((slice(60, 64), slice(60, 64)), np.full((4, 4), 2, np.uint8))
    assert prediction._said((slice(60, 64), slice(60, 64))).min() == 2


def test_masks_of_another_model_leave_merged_structures_merged(
    controller: Controller, mask: Prediction
) -> None:
    """A newer model may use the number for something else; what is left of the older one's not."""
    controller.review.take_back_plane()
    controller.review.forget_all()
    controller.classes.merge(2, 1)
    controller.begin_mask(mask.image, "newer", controller.session.structures)
    mask.write((slice(0, 9), slice(0, 9)), np.full((9, 9), 2, np.uint8))
    assert mask.layer is not None
    assert numbers(mask.layer.data[:9, :9]) == {2}
    assert 2 not in numbers(mask.layer.data[9:])


def test_the_model_before_comes_back_with_its_structures_merged(
    controller: Controller, mask: Prediction
) -> None:
    controller.classes.merge(2, 1)
    controller.train()
    controller.bring_back()
    assert mask.layer is not None
    assert numbers(mask.layer.data) <= {0, 1}


def test_a_structure_may_be_merged_with_what_another_was_merged_into(
    controller: Controller, mask: Prediction
) -> None:
    controller.know([1, 2, 3])
    controller.classes.merge(2, 1)
    controller.classes.merge(1, 3)
    assert mask.layer is not None
    assert numbers(mask.layer.data) == {3}
    controller.steps.undo()
    assert numbers(mask.layer.data) == {1}


def test_undoing_a_merge_leaves_what_was_painted_and_named_since(controller: Controller) -> None:
    labels, image = controller.session.training[0].labels, controller.session.image
    truth, spot = controller.truth(image), (slice(0, 1), slice(0, 3))
    controller.know([1, 2])
    row, column = np.array([0, 0]), np.array([0, 1])
    labels.data_setitem((row, column), 2)  # at both
    truth.note(Origin.CORRECTIONS, spot, np.array([[3, 3, 3]], np.uint8))
    controller.classes.merge(2, 1)
    assert truth.winning(spot).tolist() == [[3, 3, 3]]
    labels.data_setitem((row[:1], column[:1]), 0)
    labels.data_setitem((row[:1], column[:1]), 1)  # painted anew, as the other structure
    labels.data_setitem((np.array([0]), np.array([2])), 1)
    labels.data_setitem((np.array([0]), np.array([2])), 0)
    labels.data_setitem((np.array([0]), np.array([2])), 1)
    controller.rename_structure(1, "cell")
    controller.add_structure()
    controller.add_structure()
    controller.steps.undo()
    assert labels.data[0, :3].tolist() == [1, 2, 1]
    assert truth.winning(spot).tolist() == [[0, 3, 0]], "painted after the correction"
    assert [s.number for s in controller.session.structures] == [1, 2, 3]
    assert controller.session.structures[0].name == "cell"


def test_undoing_a_merge_touches_no_labels_that_came_since(
    controller: Controller, model_viewer: ViewerModel
) -> None:
    labels = controller.session.training[0].labels
    controller.know([1, 2])
    labels.data_setitem((np.array([0]), np.array([0])), 2)
    controller.classes.merge(2, 1)
    other = model_viewer.add_layer(Labels(np.full((SIDE, SIDE), 3, np.uint8), name="other"))
    controller.choose_labels(other)
    controller.steps.undo()
    truth = controller.truth(controller.session.image)
    assert (truth.read(Origin.STROKES, (slice(0, SIDE), slice(0, SIDE))) == 3).all()
    assert (other.data == 3).all()


def test_a_full_mask_s_structure_becomes_its_background_number(controller: Controller) -> None:
    labels = controller.session.training[0].labels
    controller.choose_kind(LabelKind.FULL)
    labels.data_setitem((np.array([0]), np.array([0])), 2)
    controller.know([1, 2])
    controller.classes.merge(2, BRUSH)
    assert labels.data[0, 0] == 0


def test_instances_keep_their_numbers(controller: Controller, model_viewer: ViewerModel) -> None:
    objects = np.arange(SIDE * SIDE, dtype=np.int32).reshape(SIDE, SIDE) // 100
    layer = model_viewer.add_layer(Labels(objects.copy(), name="objects"))
    controller.choose_labels(layer, LabelKind.INSTANCES)
    controller.know([1, 2])
    controller.classes.merge(2, 1)
    np.testing.assert_array_equal(layer.data, objects)


def test_a_colour_goes_into_every_layer_and_back(controller: Controller, mask: Prediction) -> None:
    labels = controller.session.training[0].labels
    assert mask.layer is not None
    controller.choose_brush(2)  # labels that were found keep their colours until then
    before = labels.get_color(2)
    controller.classes.recolor(2, "#123456")
    for layer in (labels, mask.layer):
        np.testing.assert_allclose(layer.get_color(2), [0x12 / 255, 0x34 / 255, 0x56 / 255, 1])
    controller.steps.undo()
    np.testing.assert_allclose(labels.get_color(2), before)


def test_the_last_structure_stays(controller: Controller, said: list[str]) -> None:
    controller.classes.delete(1)
    assert "One structure has to stay" in said[-1]
    controller.add_structure()
    controller.classes.delete(2)
    controller.classes.merge(1, BRUSH)
    assert "One structure has to stay" in said[-1]
    assert [s.number for s in controller.session.structures] == [1]


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({}, ""),
        ({1: 50, 2: 60, BRUSH: 70}, ""),
        ({1: 50, BRUSH: 70}, "Nothing is painted of debris yet."),
        (
            {1: 50, 2: 60, BRUSH: 2000},
            "background has 40 times the pixels of nucleus: paint more of it.",
        ),
    ],
)
def test_unbalanced_strokes_are_said(counts: dict[int, int], sentence: str) -> None:
    assert balance(counts, [Structure(1, "nucleus"), Structure(2, "debris")]) == sentence
