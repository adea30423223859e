"""Finished objects: one step of undo each, kept, and trained on as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gui_parts import squares
from napari.components import ViewerModel
from napari.layers import Image
from sync_runner import SyncRunner

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.annotations.object_edits import merge, split
from napari_unetseg.annotations.sparse_array import whole
from napari_unetseg.core.events import TilePredicted
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services.annotation_snapshot import take_snapshots
from napari_unetseg.io.project.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE = 32
OBJECTS, CORRECTIONS = LabelSource.OBJECTS, LabelSource.CORRECTIONS


class Desk:
    """A plugin without a window, and an image with strokes."""

    def __init__(self, planes: tuple[int, ...] = ()) -> None:
        self.viewer = ViewerModel()
        self.image = self.viewer.add_layer(Image(squares(planes)[..., :SIDE, :SIDE], name="cells"))
        self.plugin = Plugin(self.viewer, SyncRunner())
        self.strokes = self.plugin.sources.new_annotation()
        self.truth = self.plugin.annotations.of(self.image)
        self.service = self.plugin.finished_objects

    def read(self, origin: LabelSource) -> np.ndarray:
        return self.truth.read(origin, whole(self.truth.shape))

    def draw(self, rows: slice, columns: slice, number: int | None = None) -> int:
        mask = np.zeros((SIDE, SIDE), bool)
        mask[rows, columns] = True
        return self.service.finish(self.image, whole(mask.shape), mask, number=number)

    def state(self) -> list[np.ndarray]:
        return [self.read(o) for o in LabelSource] + [
            self.truth.times(o, whole(self.truth.shape)) for o in LabelSource
        ]

    def trained_objects(self) -> np.ndarray:
        (one,) = take_snapshots(self.plugin.session.sources, self.plugin.annotations.by_image)
        return np.asarray(one.pair().objects)


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    yield one
    one.plugin.close()
    one.viewer.layers.clear()


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_finished_object_is_its_own_number_and_its_structure(desk: Desk) -> None:
    first, second = desk.draw(slice(2, 8), slice(2, 8)), desk.draw(slice(2, 8), slice(8, 12))
    assert (first, second) == (1, 2)
    ids = desk.read(OBJECTS)
    assert ids.dtype == np.uint32
    assert [(ids == n).sum() for n in (1, 2)] == [36, 24]
    np.testing.assert_array_equal(desk.read(CORRECTIONS), ids > 0)
    assert desk.plugin.session.structures[0].objects
    np.testing.assert_array_equal(desk.trained_objects(), ids)
    assert desk.truth.object_numbers().tolist() == [1, 2]


def test_undo_and_redo_are_one_step_each(desk: Desk) -> None:
    desk.draw(slice(2, 8), slice(2, 8))
    before = desk.state()
    number = desk.draw(slice(10, 20), slice(10, 20))
    after = desk.state()
    desk.plugin.undo.undo()
    assert same(desk.state(), before)
    desk.plugin.undo.redo()
    assert same(desk.state(), after)
    desk.plugin.undo.undo()
    assert desk.draw(slice(20, 22), slice(1, 9)) == number + 1, "a number is never given twice"


def test_an_object_drawn_anew_is_background_where_it_was(desk: Desk) -> None:
    number = desk.draw(slice(2, 8), slice(2, 8))
    other = desk.draw(slice(2, 8), slice(8, 12))
    before = desk.state()
    assert desk.draw(slice(4, 8), slice(4, 9), number) == number
    ids, said = desk.read(OBJECTS), desk.read(CORRECTIONS)
    assert (ids[4:8, 4:9] == number).all()
    assert (ids == number).sum() == 20
    assert (ids == other).sum() == 24 - 4
    assert (said[2:4, 2:8] == 255).all()
    assert (said[ids > 0] == 1).all()
    desk.plugin.undo.undo()
    assert same(desk.state(), before)


def test_a_deleted_object_is_background(desk: Desk) -> None:
    number, other = desk.draw(slice(2, 8), slice(2, 8)), desk.draw(slice(9, 12), slice(2, 8))
    before = desk.state()
    desk.service.delete(desk.image, number)
    assert desk.truth.object_numbers().tolist() == [other]
    assert (desk.read(CORRECTIONS)[2:8, 2:8] == 255).all()
    desk.plugin.undo.undo()
    assert same(desk.state(), before)


def test_a_merge_and_its_undo_keep_the_others(desk: Desk) -> None:
    for columns in (slice(2, 8), slice(8, 12), slice(20, 25)):
        desk.draw(slice(2, 10), columns)
    before = desk.state()
    edit = merge(desk.read(OBJECTS), np.array([[5, 4], [5, 10]]))
    desk.service.put_objects(desk.image, [edit], "merging objects")
    assert desk.truth.object_numbers().tolist() == [1, 3]
    ids = desk.read(OBJECTS)
    cut = split(ids, np.array([[0, 7], [12, 7]]), desk.service.next_id(desk.image))
    desk.service.put_objects(desk.image, [cut], "splitting an object")
    assert desk.truth.object_numbers().tolist() == [1, 3, 4]
    np.testing.assert_array_equal(desk.read(OBJECTS) == 3, before[3] == 3)
    desk.plugin.undo.undo()
    np.testing.assert_array_equal(desk.read(OBJECTS), ids)
    desk.plugin.undo.undo()
    assert same(desk.state(), before)


def test_objects_have_the_structure_that_their_mask_has(desk: Desk) -> None:
    desk.plugin.structures.add()
    prediction = desk.plugin.masks.open(desk.image, "a", desk.plugin.session.structures)
    mask = np.ones((SIDE, SIDE), np.uint8)
    mask[:, 16:] = 2
    prediction.write(TilePredicted((), whole(mask.shape), mask, None, 1, 1))
    prediction.close()
    desk.draw(slice(2, 8), slice(14, 20))
    assert (desk.read(CORRECTIONS)[2:8, 14:20] == 2).all()
    assert [s.objects for s in desk.plugin.session.structures] == [False, True]
    current = desk.plugin.masks.current
    assert current is not None
    assert current.layer is not None
    assert (current.layer.data[2:8, 14:20] == 2).all(), "shown at once"
    desk.plugin.undo.undo()
    np.testing.assert_array_equal(current.layer.data, mask)
    assert not desk.read(CORRECTIONS).any()


def test_what_is_painted_later_leaves_the_object(desk: Desk) -> None:
    desk.draw(slice(2, 8), slice(2, 8))
    assert desk.strokes is not None
    desk.strokes.data_setitem((np.array([3]), np.array([3])), 1)
    desk.strokes.data_setitem((np.array([3]), np.array([4])), 255)
    trained = desk.trained_objects()
    assert trained[3, 3] == 1, "a stroke of its own structure says nothing new"
    assert trained[3, 4] == 0
    assert (trained > 0).sum() == 35
    desk.draw(slice(2, 8), slice(2, 8), 1)
    assert (desk.trained_objects() == 1).sum() == 36, "what is finished later is newer"


def test_it_is_in_the_project_before_the_next_event(desk: Desk) -> None:
    desk.draw(slice(2, 8), slice(2, 8))
    project = desk.plugin.store.project
    assert project is not None
    desk.service.delete(desk.image, 1)
    desk.draw(slice(4, 9), slice(4, 9))
    (now,) = Project.read(project.folder).by_image.values()
    for origin in LabelSource:
        assert np.array_equal(now.read(origin, whole(now.shape)), desk.read(origin)), origin
    assert now.next_object == desk.truth.next_object
