"""What was said of a mask is kept, with the time when it was said, whatever comes between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gui_parts import squares
from live_parts import Puppet, constant
from napari.components import ViewerModel
from napari.layers import Image, Labels, Shapes
from sync_runner import SyncRunner

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.annotations.sparse_array import whole
from napari_unetseg.core.events import TilePredicted
from napari_unetseg.gui.features import review
from napari_unetseg.gui.layers import prediction_layer as prediction_layer
from napari_unetseg.gui.layers import strokes as stroke_layer
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.state.session import Level, Mode, ModelEntry
from napari_unetseg.io.project.project import Project
from napari_unetseg.training.training_events import TrainingPrepared

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from napari_unetseg.core.events import Event

SIDE = 32
STROKES, CORRECTIONS, ACCEPTED = LabelSource.STROKES, LabelSource.CORRECTIONS, LabelSource.ACCEPTED


class Desk:
    """A plugin without a window, an image, strokes and a mask that says 1 everywhere."""

    def __init__(self, planes: tuple[int, ...] = (), runner: Any = None) -> None:
        self.viewer = ViewerModel()
        data = squares(planes)[..., :SIDE, :SIDE]
        self.image = self.viewer.add_layer(Image(data, name="cells"))
        self.plugin = Plugin(self.viewer, runner or SyncRunner())
        self.session = self.plugin.session
        self.said: list[str] = []
        self.session.events.message.connect(lambda m: self.said.append(m.text))
        layer = self.plugin.sources.new_annotation()
        assert layer is not None
        self.strokes: Labels = layer
        self.use(1)
        self.plugin.prediction.predict_stack()

    def use(self, number: int, grain: float = 0.0) -> ModelEntry:
        self.session.entry = ModelEntry(constant(number, grain), f"says {number}")
        return self.session.entry

    @property
    def mask(self) -> Labels:
        assert self.plugin.masks.current is not None
        assert self.plugin.masks.current.layer is not None
        return self.plugin.masks.current.layer

    def mask_of(self, image: Image) -> Labels:
        layer = self.plugin.masks.predictions[image].layer
        assert layer is not None
        return layer

    @property
    def truth(self) -> Any:
        return self.plugin.annotations.of(self.image)

    def read(self, origin: LabelSource) -> np.ndarray:
        return np.asarray(self.truth.read(origin, whole(self.truth.shape)))

    def winning(self) -> np.ndarray:
        return np.asarray(self.truth.effective_overrides(whole(self.truth.shape)))

    def begin(self, model: str) -> None:
        self.target = self.plugin.masks.open(self.image, model, self.session.structures)

    def tile(self, mask: Any, rows: slice, columns: slice, plane: tuple[int, ...] = ()) -> None:
        values = np.broadcast_to(np.asarray(mask, np.uint8), (len(range(SIDE)[rows]), SIDE))
        self.target.write(TilePredicted(plane, (rows, columns), values[:, columns], None, 1, 2))

    def shapes(self, *areas: tuple[int, int, int, int]) -> Shapes:
        """Rectangles around whole pixels: first and last row, first and last column."""
        layer = Shapes()
        self.viewer.add_layer(layer)
        for top, bottom, left, right in areas:
            a, b, c, d = top - 0.5, bottom + 0.5, left - 0.5, right + 0.5
            layer.add_rectangles([[a, c], [a, d], [b, d], [b, c]])
        self.viewer.layers.selection.active = layer
        return layer


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    yield one
    one.plugin.disconnect()


def put(layer: Labels, row: int, column: int, number: int, plane: tuple[int, ...] = ()) -> None:
    layer.data_setitem(tuple(np.array([i]) for i in (*plane, row, column)), number)


ALL = slice(0, SIDE)


# -- tiles and strokes -------------------------------------------------------------------------


def test_the_beginning_of_a_stroke_that_a_tile_came_over_is_taken_down(desk: Desk) -> None:
    """Nothing tells of it later: the tile took napari's history away, also of what is elsewhere."""
    desk.begin("next")
    desk.mask.brush_size = 1
    with desk.mask.block_history():
        desk.mask.paint((2, 2), 2)
        desk.mask.paint((30, 30), 2)
        desk.tile(1, slice(0, 16), ALL)
    desk.target.close()
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    wanted[2, 2] = wanted[30, 30] = 2
    np.testing.assert_array_equal(desk.read(CORRECTIONS), wanted)


def test_a_tile_over_an_older_stroke_costs_nothing_of_a_stroke_elsewhere(desk: Desk) -> None:
    """napari's history goes for the older stroke's sake, and the newer one's beginning with it."""
    put(desk.mask, 3, 3, 2)
    desk.begin("next")
    desk.mask.brush_size = 1
    with desk.mask.block_history():
        desk.mask.paint((30, 30), 2)
        desk.tile(0, slice(0, 16), ALL)
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    wanted[3, 3] = wanted[30, 30] = 2
    np.testing.assert_array_equal(desk.read(CORRECTIONS), wanted)


def test_all_dabs_of_a_moving_brush_are_taken_down(desk: Desk) -> None:
    """After a tile came over a stroke each dab is a step by itself, told of before it is made."""
    desk.mask.brush_size = 5
    desk.mask.mode = "paint"
    desk.mask._draw(2, (8, 8), (8, 24))
    assert (desk.mask.data == 2).any()
    np.testing.assert_array_equal(desk.read(CORRECTIONS) == 2, desk.mask.data == 2)


@pytest.mark.parametrize("at_once", [True, False], ids=["small", "large"])
def test_a_change_that_is_not_found_yet_outlives_what_the_plugin_does(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    put(desk.mask, 3, 3, 2)
    if not at_once:
        monkeypatch.setattr(prediction_layer, "SYNC_SEARCH_VOXELS", 0)
    desk.plugin.review.accept_plane()
    desk.mask.undo()
    desk.plugin.review.withdraw_plane()
    desk.plugin.tick()
    assert desk.mask.data[3, 3] == 1
    assert not desk.read(CORRECTIONS).any()


def test_undos_that_were_quicker_than_a_search_are_the_newest(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        put(desk.strokes, 5, 5, number)
    put(desk.mask, 5, 5, 2)
    assert desk.winning()[5, 5] == 2
    monkeypatch.setattr(stroke_layer, "SYNC_SEARCH_VOXELS", 0)
    for _ in range(2):
        desk.strokes.undo()
    desk.plugin.tick()
    assert desk.read(STROKES)[5, 5] == 1
    assert desk.winning()[5, 5] == 0, "the undo is newer than the correction"
    desk.strokes.undo()
    desk.plugin.tick()
    assert desk.winning()[5, 5] == 2, "there is no stroke any more"
    put(desk.mask, 5, 5, 3)
    desk.strokes.redo()
    desk.plugin.tick()
    assert desk.winning()[5, 5] == 0, "so is a redo"


@pytest.mark.parametrize("onto", ["strokes", "mask"])
def test_what_is_painted_right_after_an_undo_is_newer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, onto: str
) -> None:
    """An undo in a huge grid is taken down at once, not when a search has found it."""
    layers = [(desk.strokes, STROKES), (desk.mask, CORRECTIONS)]
    (layer, origin), (other, _) = layers if onto == "strokes" else reversed(layers)
    put(layer, 5, 5, 2)
    put(layer, 5, 5, 4)
    for module in (stroke_layer, prediction_layer):
        monkeypatch.setattr(module, "SYNC_SEARCH_VOXELS", 0)
    layer.undo()
    put(other, 5, 5, 3)
    desk.plugin.tick()
    assert desk.read(origin)[5, 5] == 2
    assert desk.winning()[5, 5] == (3 if onto == "strokes" else 0)


def test_a_layer_that_is_no_longer_used_is_not_settled(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(desk.strokes, 5, 5, 1)
    monkeypatch.setattr(stroke_layer, "SYNC_SEARCH_VOXELS", 0)
    desk.strokes.undo()
    other = desk.viewer.add_layer(Labels(np.full((SIDE, SIDE), 3, np.uint8), name="other"))
    desk.plugin.sources.choose_labels(other)
    desk.plugin.tick()
    assert (desk.read(STROKES) == 3).all()


def test_strokes_of_a_deleted_layer_win_no_more(desk: Desk) -> None:
    put(desk.mask, 5, 5, 2)
    put(desk.strokes, 5, 5, 1)
    assert not desk.winning().any()
    desk.viewer.layers.remove(desk.strokes)
    assert desk.winning()[5, 5] == 2
    assert desk.read(STROKES)[5, 5] == 1, "the project still has them"


# -- accept, take back, forget -----------------------------------------------------------------


def test_what_is_accepted_again_is_the_newest_again(desk: Desk) -> None:
    desk.plugin.review.accept_plane()
    put(desk.strokes, 5, 5, 2)
    assert desk.winning()[5, 5] == 0
    desk.plugin.review.accept_plane()
    assert desk.winning()[5, 5] == 1
    desk.plugin.undo.undo()
    assert desk.winning()[5, 5] == 0, "what is undone never was"
    desk.plugin.undo.redo()
    assert desk.winning()[5, 5] == 1


def test_an_undone_correction_leaves_an_accepted_place_its_time(desk: Desk) -> None:
    desk.plugin.review.accept_plane()
    put(desk.strokes, 5, 5, 2)
    put(desk.mask, 5, 5, 2)
    assert desk.winning()[5, 5] == 2
    desk.mask.undo()
    assert desk.read(ACCEPTED)[5, 5] == 1
    assert desk.winning()[5, 5] == 0, "the stroke is newer than the acceptance"


def test_an_undone_acceptance_goes_also_where_it_was_corrected(desk: Desk) -> None:
    desk.plugin.review.accept_plane()
    put(desk.mask, 5, 5, 2)
    assert desk.read(ACCEPTED)[5, 5] == 2
    desk.plugin.undo.undo()
    assert not desk.read(ACCEPTED).any()
    assert desk.read(CORRECTIONS)[5, 5] == 2


def test_corrections_that_come_back_are_as_old_as_they_were(desk: Desk) -> None:
    put(desk.mask, 5, 5, 2)
    desk.plugin.review.drop_corrections_plane()
    assert desk.mask.data[5, 5] == 1
    put(desk.strokes, 5, 5, 3)
    put(desk.mask, 9, 9, 2)
    desk.plugin.undo.undo()
    assert desk.mask.data[5, 5] == 2
    assert desk.read(CORRECTIONS)[9, 9] == 2
    assert desk.winning()[5, 5] == 0, "the stroke is newer"


def test_an_acceptance_elsewhere_leaves_an_undone_stroke_no_trace(desk: Desk) -> None:
    put(desk.mask, 5, 5, 2)
    desk.shapes((20, 25, 20, 25))
    desk.plugin.review.accept_shapes()
    desk.plugin.review.withdraw_plane()
    desk.mask.undo()
    assert desk.mask.data[5, 5] == 1
    assert not desk.read(CORRECTIONS).any()


def test_every_act_of_review_says_what_it_did_and_is_one_step(desk: Desk) -> None:
    review_of, steps = desk.plugin.review, desk.plugin.undo
    put(desk.mask, 5, 5, 2)
    desk.shapes((2, 9, 2, 9), (20, 25, 20, 25))
    desk.viewer.cursor.position = (5, 5)
    for act, said, step in (
        (
            review_of.accept_object,
            "Accepted the object: it is used for training as it is",
            "the object",
        ),
        (review_of.accept_shapes, "Accepted what the shapes enclose", "what the shapes enclose"),
        (review_of.withdraw_shapes, "No longer accepted: what the shapes", "what the shapes"),
        (review_of.accept_plane, "Accepted the plane", "accepting the plane"),
        (review_of.withdraw_plane, "No longer accepted: the plane.", "taking back the plane"),
        (
            review_of.drop_corrections_shapes,
            "The corrections inside the shapes were removed",
            "inside",
        ),
    ):
        before = {o: desk.read(o) for o in (CORRECTIONS, ACCEPTED)}, desk.mask.data.copy()
        act()
        assert desk.said[-1].startswith(said)
        assert step in desk.session.undoable
        after = {o: desk.read(o) for o in (CORRECTIONS, ACCEPTED)}, desk.mask.data.copy()
        for turn, wanted in ((steps.undo, before), (steps.redo, after)):
            turn()
            for origin, values in wanted[0].items():
                np.testing.assert_array_equal(desk.read(origin), values)
            np.testing.assert_array_equal(desk.mask.data, wanted[1])
    assert not desk.read(CORRECTIONS).any()
    put(desk.mask, 5, 5, 2)
    review_of.drop_corrections_all()
    assert desk.said[-1] == ("The corrections were removed: the network's own mask is shown there.")
    put(desk.mask, 6, 6, 2)
    review_of.drop_corrections_plane()
    assert desk.said[-1].startswith("The corrections on this plane were removed")


def test_every_refusal_of_review_says_what_to_do(desk: Desk) -> None:
    one = desk.plugin.review
    desk.viewer.layers.selection.active = desk.strokes
    desk.viewer.cursor.position = (99, 99)
    for act, said in (
        (one.accept_shapes, review.NO_SHAPES),
        (one.withdraw_plane, review.NONE_THERE),
        (one.drop_corrections_plane, review.NOTHING_CORRECTED),
        (one.drop_corrections_all, review.NOTHING_CORRECTED),
        (one.accept_object, "There is no object under the mouse; point at one and press the key."),
    ):
        act()
        assert (desk.session.message.text, desk.session.message.level) == (said, Level.WARNING)
    assert desk.session.undoable == ""
    desk.viewer.layers.remove(desk.mask)
    for act in (
        one.accept_plane,
        one.withdraw_plane,
        one.drop_corrections_plane,
        one.accept_object,
    ):
        act()
        assert desk.session.message.text == review.NO_MASK
    desk.plugin.undo.undo()
    assert desk.session.message.text.startswith("There is no action of the plugin to undo")
    desk.plugin.undo.redo()
    assert desk.session.message.text.startswith("There is no action of the plugin to redo")


def test_steps_of_a_deleted_image_are_forgotten(desk: Desk) -> None:
    desk.plugin.review.accept_plane()
    assert desk.session.undoable
    desk.viewer.layers.remove(desk.image)
    assert desk.session.undoable == ""


# -- which part has a mask ---------------------------------------------------------------------


def test_a_mask_that_is_there_in_part_is_no_truth_and_not_fresh(desk: Desk) -> None:
    desk.viewer.layers.remove(desk.mask)
    desk.begin("half")
    desk.tile(1, slice(0, 16), ALL)
    desk.target.detach()
    prediction = desk.plugin.masks.current
    assert prediction is not None
    assert not prediction.masks.is_fresh((), "half")
    desk.plugin.review.accept_plane()
    assert desk.session.message.text == review.NO_MASK
    assert not desk.read(ACCEPTED).any()
    desk.shapes((2, 9, 2, 9))
    desk.plugin.review.accept_shapes()
    assert int((desk.read(ACCEPTED) == 1).sum()) == 64
    desk.begin("half")
    desk.tile(1, slice(16, SIDE), ALL)
    assert prediction.masks.is_fresh((), "half")
    desk.plugin.review.accept_plane()
    assert (desk.read(ACCEPTED) == 1).all()


def test_a_mask_that_was_stopped_halfway_is_of_one_model(desk: Desk) -> None:
    desk.begin("other")
    desk.tile(2, slice(0, 16), ALL)
    desk.target.close()
    assert (desk.mask.data[:16] == 2).all()
    assert not desk.mask.data[16:].any(), "the earlier model said 1 there"


def test_the_model_before_is_brought_back_with_what_it_had_not_seen_yet(
    broken_core: Any,
) -> None:
    puppet = Puppet()
    desk = Desk((9,))
    desk.viewer.dims.set_point(0, 0)
    newer = desk.use(1, 0.5)
    desk.plugin.tick()
    prediction = desk.plugin.masks.current
    assert prediction is not None
    assert prediction.masks.is_fresh((0,), newer.model.id)
    assert not prediction.masks.is_fresh((8,), newer.model.id)
    put(desk.strokes, 5, 5, 1, (0,))
    broken_core(puppet.train_events)
    puppet.improve(0)
    puppet.fail(ValueError("enough"))
    desk.plugin.training.start()
    desk.use(0, 0.7)
    desk.plugin.prediction.predict_plane()
    assert not desk.mask.data.any()
    desk.plugin.comparison.bring_back()
    assert (desk.mask.data == 1).all()
    assert prediction.masks.is_fresh((0,), newer.model.id)
    assert not prediction.masks.is_fresh((8,), newer.model.id), (
        "an older model's mask is shown there"
    )
    desk.plugin.disconnect()


def test_a_deleted_mask_is_not_brought_back_as_another_model_s(desk: Desk) -> None:
    prediction = desk.plugin.masks.current
    assert prediction is not None
    prediction.masks.mark()
    desk.viewer.layers.remove(desk.mask)
    desk.use(0, 0.2)
    desk.plugin.prediction.predict_plane()
    assert not prediction.masks.can_bring_back


# -- frozen, and outlines ----------------------------------------------------------------------


def test_nothing_changes_on_a_frozen_screen(
    desk: Desk, broken_core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a mask that is on its way, nor by the end of the training."""
    puppet = Puppet()
    broken_core(puppet.train_events)
    put(desk.strokes, 5, 5, 1)
    seen: list[np.ndarray] = []
    real = desk.plugin.jobs._on_event

    def freeze(number: int, event: Any) -> None:
        if isinstance(event, TilePredicted):
            desk.session.mode = Mode.FROZEN
            desk.plugin.jobs.stop()
        real(number, event)
        seen.append(desk.mask.data.copy())

    monkeypatch.setattr(desk.plugin.jobs, "_on_event", freeze)
    puppet.improve(0)
    desk.plugin.training.start()
    assert len(seen) > 1
    assert (desk.mask.data == 1).all()
    assert all((data == 1).all() for data in seen)
    assert "frozen" in desk.session.message.text.lower()


def test_outlines_of_one_s_own_go_with_the_chosen_image(desk: Desk) -> None:
    put(desk.mask, 5, 5, 2)
    desk.plugin.outline.show(True)
    (own,) = [one for one in desk.viewer.layers if "yours" in one.name]
    assert (own.data[5, 5], int(own.data.sum())) == (1, 1)
    desk.shapes((10, 11, 10, 11))
    desk.plugin.review.accept_shapes()
    assert int((own.data == 2).sum()) == 4
    desk.plugin.undo.undo()
    assert int(own.data.sum()) == 1
    assert not own.editable
    other = desk.viewer.add_layer(Image(squares((2,)), name="other"))
    desk.plugin.sources.choose_image(other)
    put(desk.mask_of(desk.image), 6, 6, 2)
    assert own not in desk.viewer.layers
    (own,) = [one for one in desk.viewer.layers if "yours" in one.name]
    assert own.data.shape == other.data.shape
    assert not own.data.any()
    desk.viewer.layers.remove(own)
    assert not desk.plugin.outline.shown
    desk.plugin.outline.show(False)


def test_what_changed_between_two_models_is_a_layer(desk: Desk) -> None:
    prediction = desk.plugin.masks.current
    assert prediction is not None
    desk.plugin.comparison.show_difference()
    assert desk.session.message.level is Level.WARNING
    prediction.masks.mark()
    desk.begin("next")
    rows = np.ones((SIDE, SIDE), np.uint8)
    rows[:4], rows[4:8] = 0, 2
    desk.tile(rows, ALL, ALL)
    desk.target.close()
    for _ in range(2):
        desk.plugin.comparison.show_difference()
        (layer,) = [one for one in desk.viewer.layers if "what changed" in one.name]
        wanted = np.zeros((SIDE, SIDE), np.uint8)
        wanted[:4], wanted[4:8] = 1, 3
        np.testing.assert_array_equal(layer.data, wanted)
    prediction.bring_back()
    np.testing.assert_array_equal(
        np.isin(prediction.masks.difference(), (2, 3)), np.isin(wanted, (1, 3))
    )


# -- other arrays, other moments ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_an_array_that_was_put_into_a_mask_is_corrections(desk: Desk, dtype: type) -> None:
    put(desk.mask, 5, 5, 2)
    theirs = desk.mask.data.astype(dtype)
    theirs[8, 8] = 3
    desk.mask.data = theirs
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    wanted[5, 5], wanted[8, 8] = 2, 3
    np.testing.assert_array_equal(desk.read(CORRECTIONS), wanted)
    assert desk.mask.data.dtype == np.uint8
    assert desk.said[-1].startswith("The changes in the mask data are taken as corrections")
    put(desk.mask, 9, 9, 3)
    assert desk.read(CORRECTIONS)[9, 9] == 3, "what is painted afterwards is seen"
    desk.use(0)
    desk.plugin.prediction.predict_plane()
    assert desk.mask.data[8, 8] == 3
    assert desk.mask.data[0, 0] == 0, "masks go on coming"


@pytest.mark.parametrize(
    "theirs",
    [np.ones((SIDE, SIDE + 1), np.uint8), np.full((SIDE, SIDE), 300, np.int32)],
    ids=["another shape", "other numbers"],
)
def test_a_mask_that_became_something_else_is_the_user_s(desk: Desk, theirs: np.ndarray) -> None:
    put(desk.mask, 5, 5, 2)
    layer = desk.mask
    layer.data = theirs
    assert "the plugin no longer uses this layer" in desk.said[-1]
    desk.plugin.prediction.predict_plane()
    np.testing.assert_array_equal(layer.data, theirs)
    assert desk.mask is not layer
    assert desk.mask.data[5, 5] == 2
    assert desk.read(CORRECTIONS)[5, 5] == 2
    put(layer, 6, 6, 1)
    assert desk.read(CORRECTIONS)[6, 6] == 0


def test_labels_that_were_given_wider_numbers_are_followed(desk: Desk) -> None:
    put(desk.strokes, 5, 5, 1)
    put(desk.mask, 5, 5, 2)
    wide = desk.strokes.data.astype(np.int32)
    wide[6, 6] = 300
    desk.strokes.data = wide
    assert desk.read(STROKES)[5:7, 5:7].tolist() == [[1, 0], [0, 300]]
    assert desk.winning()[5, 5] == 2, "what was painted keeps its time"
    put(desk.strokes, 7, 7, 1000)
    desk.strokes.undo()
    desk.strokes.undo()
    assert desk.strokes.data[5:7, 5:7].tolist() == [[1, 0], [0, 300]], "nothing of the old array"
    project = desk.plugin.store.project
    assert project is not None
    (kept,) = Project.read(project.folder).by_image.values()
    np.testing.assert_array_equal(kept.read(STROKES, whole(kept.shape)), wide)
    np.testing.assert_array_equal(kept.effective_overrides(whole(kept.shape)), desk.winning())


def test_labels_of_another_shape_are_said_and_nothing_of_them_is_lost(desk: Desk) -> None:
    put(desk.strokes, 5, 5, 1)
    put(desk.mask, 5, 5, 2)
    put(desk.strokes, 5, 5, 3)
    before = desk.strokes.data
    desk.strokes.data = np.ones((SIDE, SIDE + 3), np.uint8)
    assert "now has another shape than cells" in desk.said[-1]
    assert desk.session.training == ()
    put(desk.strokes, 1, 1, 2)
    assert desk.read(STROKES)[5, 5] == 3
    desk.strokes.data = before
    desk.plugin.sources.choose_labels(desk.strokes)
    assert desk.read(STROKES)[1, 1] == 0
    assert desk.winning()[5, 5] == 0, "the stroke is newer than the correction"


def test_labels_that_were_taken_off_come_back_as_old_as_they_are(desk: Desk) -> None:
    put(desk.mask, 5, 5, 2)
    put(desk.strokes, 5, 5, 3)
    put(desk.strokes, 7, 7, 3)
    put(desk.mask, 7, 7, 2)
    desk.plugin.sources.choose_labels(None)
    assert desk.winning()[5, 5] == 2
    put(desk.strokes, 8, 8, 1)
    desk.plugin.sources.choose_labels(desk.strokes)
    assert desk.winning()[[5, 7], [5, 7]].tolist() == [0, 2]
    assert desk.read(STROKES)[8, 8] == 1


def test_labels_that_came_from_a_project_are_followed_after_others(desk: Desk) -> None:
    """What is known of their image is by then the others'."""
    put(desk.strokes, 5, 5, 1)
    folder = desk.plugin.store.project
    assert folder is not None
    desk.plugin.restore.open(folder.folder)
    first = desk.session.training[0].labels
    other = desk.viewer.add_layer(Labels(np.full((SIDE, SIDE), 3, np.uint8), name="other"))
    desk.plugin.sources.choose_labels(other)
    assert (desk.read(STROKES) == 3).all()
    desk.plugin.sources.choose_labels(first)
    np.testing.assert_array_equal(desk.read(STROKES), first.data)


class Thinking(SyncRunner):
    """Searches for changes are made, and answered, when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.searches: list[tuple[Any, Any]] = []
        self.answers: list[tuple[Any, Any]] = []

    def query(self, query: Any, on_result: Any, on_error: Any = None, *, about: str = "") -> None:
        if about == "changes":
            self.searches.append((query, on_result))
        else:
            super().query(query, on_result, on_error, about=about)

    def search(self) -> None:
        question, on_result = self.searches.pop(0)
        self.answers.append((on_result, question()))

    def answer(self) -> None:
        on_result, found = self.answers.pop(0)
        on_result(found)


@pytest.mark.parametrize("onto", ["strokes", "mask"])
@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_quick_undos_and_strokes_beside_a_search_lose_nothing(
    monkeypatch: pytest.MonkeyPatch, onto: str, when: str
) -> None:
    """Of a huge grid: an undo and a stroke around it before, while and after it is searched."""
    runner = Thinking()
    desk = Desk(runner=runner)
    while runner.searches:
        runner.search()
        runner.answer()
    layer, origin = (desk.strokes, STROKES) if onto == "strokes" else (desk.mask, CORRECTIONS)
    other = desk.mask if onto == "strokes" else desk.strokes
    for module in (stroke_layer, prediction_layer):
        monkeypatch.setattr(module, "SYNC_SEARCH_VOXELS", 0)
    put(layer, 5, 5, 2)
    put(other, 5, 5, 3)
    put(layer, 5, 5, 4)
    put(layer, 9, 9, 4)

    def hands() -> None:
        layer.undo()
        layer.undo()
        with layer.block_history():
            for row, column in ((3, 3), (12, 12)):
                layer.data_setitem((np.array([row]), np.array([column])), 7)

    layer.refresh()
    if when == "before":
        hands()
    desk.plugin.tick()
    if when == "while":
        hands()
    runner.search()
    if when == "after":
        hands()
    runner.answer()
    desk.plugin.tick()
    while runner.searches:
        runner.search()
        runner.answer()
        desk.plugin.tick()
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    wanted[[5, 3, 12], [5, 3, 12]] = 2, 7, 7
    np.testing.assert_array_equal(desk.read(origin), wanted)
    assert desk.winning()[5, 5] == (0 if onto == "strokes" else 2), "the undo is the newest"
    assert layer.data[9, 9] in (0, 1)
    desk.plugin.disconnect()


def test_a_search_that_fails_is_made_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    strokes = desk.plugin.annotations.strokes[desk.image]
    monkeypatch.setattr(stroke_layer, "SYNC_SEARCH_VOXELS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(strokes, "search", lambda: 1 / 0)
        desk.strokes.refresh()
        desk.plugin.tick()
    desk.strokes.data[4, 4] = 1
    desk.strokes.refresh()
    desk.plugin.tick()
    assert desk.read(STROKES)[4, 4] == 1


def test_a_failed_training_leaves_the_model_before_where_it_was(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer: list[Any] = [constant(0, 0.5)]

    def train_events(*_: Any, **__: Any) -> Generator[Event, None, Any]:
        yield TrainingPrepared(0, 5, 10, 100, 0, 0, "cpu", 99, (32, 32), 2)
        return newer.pop()  # raises where there is none

    monkeypatch.setattr("napari_unetseg.training.train.train_events", train_events)
    put(desk.strokes, 5, 5, 1)
    before = desk.session.entry
    desk.plugin.training.start()
    after = desk.session.entry
    desk.plugin.training.start()
    assert desk.session.message.level is Level.ERROR
    assert desk.session.entry is after
    desk.plugin.comparison.bring_back()
    assert desk.session.entry is before
    assert (desk.mask.data == 1).all()
