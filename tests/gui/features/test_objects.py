"""Objects in the window: the layer, its tools, undo, counts and settings, without a window."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import roifile
import tifffile
from gui_parts import SIDE
from live_parts import constant
from shapely.geometry import shape

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL, Structure
from napari_unetseg.core.object_maps import encode_maps
from napari_unetseg.core.settings import ObjectSettings
from napari_unetseg.gui.state.session import Level, ModelEntry, ObjectCount, ObjectTool
from napari_unetseg.jobs.plane_objects import ObjectsFound

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_unetseg.gui.plugin import Plugin

NUCLEI = (Structure(1, "nuclei", objects=True),)


def squares() -> np.ndarray:
    """Sixteen squares of 12 pixels, numbered from 1 on, in pairs that touch."""
    ids = np.zeros((SIDE, SIDE), np.int32)
    for number, (y, x) in enumerate(np.ndindex(4, 4), 1):
        left = 16 * x + (4 if x % 2 == 0 else 0)
        ids[16 * y + 2 : 16 * y + 14, left : left + 12] = number
    return ids


class Desk:
    """A plugin whose mask has just been predicted, with its objects."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin, self.session = plugin, plugin.session
        self.image = self.session.image
        self.session.structures = NUCLEI
        self.find(squares())

    def find(self, ids: np.ndarray, maps: np.ndarray | None = None) -> None:
        target = self.plugin.masks.open(self.image, "a", NUCLEI)
        whole = (slice(0, SIDE), slice(0, SIDE))
        mask = (ids > 0).astype(np.uint8)
        self.plugin.masks.predictions[self.image].write((), mask)
        target.show_objects(ObjectsFound((), whole, ids, mask, maps, (1,), (1.0, 1.0)))
        target.close()

    @property
    def layer(self) -> Labels:
        found = self.plugin.object_layers.current
        assert found is not None
        assert found.layer is not None
        return found.layer

    @property
    def mask(self) -> Labels:
        found = self.plugin.masks.current
        assert found is not None
        assert found.layer is not None
        return found.layer

    def of(self, origin: LabelSource) -> np.ndarray:
        whole = (slice(0, SIDE), slice(0, SIDE))
        return self.plugin.annotations.of(self.image).read(origin, whole)

    def drag(self, tool: ObjectTool, *points: tuple[float, float]) -> None:
        """Take a tool, and drag the mouse through these places."""
        if self.session.object_tool is not tool:
            self.plugin.objects.toggle(tool)
        (callback,) = self.layer.mouse_drag_callbacks[-1:]
        event = Mouse(points[0])
        going = callback(self.layer, event)
        next(going)
        event.type = "mouse_move"
        for place in points[1:]:
            event.position = place
            next(going)
        event.type = "mouse_release"
        with pytest.raises(StopIteration):
            next(going)

    def undo(self) -> None:
        self.press("Ctrl+Z")

    def redo(self) -> None:
        self.press("Ctrl+Shift+Z")

    def press(self, keys: str) -> None:
        """Press keys that are the layer's own."""
        (bound,) = [call for key, call in self.layer.keymap.items() if str(key) == keys]
        assert callable(bound)
        bound(self.layer)


class Mouse:
    """An event of napari's mouse."""

    button, type = 1, "mouse_press"

    def __init__(self, position: tuple[float, float]) -> None:
        self.position = position


@pytest.fixture
def desk(plugin: Plugin) -> Desk:
    return Desk(plugin)


def test_the_layer_is_shown_instead_of_the_mask_which_is_still_there(desk: Desk) -> None:
    np.testing.assert_array_equal(desk.layer.data, squares())
    assert desk.layer.visible
    assert not desk.mask.visible
    desk.plugin.viewer.layers.remove(desk.layer)
    assert desk.mask.visible


def test_the_prediction_is_hidden_with_its_objects(desk: Desk) -> None:
    desk.plugin.masks.show_or_hide()
    assert not desk.layer.visible
    assert not desk.mask.visible
    desk.plugin.masks.show_or_hide()
    assert desk.layer.visible
    assert not desk.mask.visible
    desk.plugin.viewer.layers.remove(desk.layer)
    desk.plugin.masks.show_or_hide()
    assert not desk.mask.visible


def test_a_structure_of_areas_has_no_object_layer(plugin: Plugin) -> None:
    plugin.masks.open(plugin.session.image, "a", (Structure(1),)).close()
    assert plugin.object_layers.current is None
    plugin.objects.toggle(ObjectTool.PAINT)
    assert plugin.session.message.level is Level.WARNING
    plugin.classes.consist_of_objects(1, True)
    plugin.objects.toggle(ObjectTool.PAINT)
    assert plugin.session.object_tool is ObjectTool.PAINT


def test_the_mask_of_objects_and_areas_stays_visible(plugin: Plugin) -> None:
    target = plugin.masks.open(plugin.session.image, "a", (*NUCLEI, Structure(2)))
    region, ids = (slice(0, SIDE), slice(0, SIDE)), squares()
    mask = (ids > 0).astype(np.uint8)
    target.show_objects(ObjectsFound((), region, ids, mask, None, (1,), (1.0, 1.0)))
    assert plugin.masks.current is not None
    assert plugin.masks.current.layer is not None
    assert plugin.masks.current.layer.visible


def test_objects_keep_their_numbers_when_newer_ones_come(desk: Desk) -> None:
    newer = np.roll(squares()[:, ::-1], 1, axis=0)[:, ::-1]
    desk.find(np.where(newer > 0, 17 - newer, 0).astype(np.int32))
    assert (desk.layer.data[newer > 0] == newer[newer > 0]).all()


def test_a_drag_merges_and_undo_takes_it_apart(desk: Desk) -> None:
    desk.drag(ObjectTool.MERGE, (8, 8), (8, 20), (8, 26))
    merged = squares()
    merged[merged == 2] = 1
    np.testing.assert_array_equal(desk.layer.data, merged)
    np.testing.assert_array_equal(desk.of(LabelSource.OBJECTS), np.where(merged == 1, 1, 0))
    assert (desk.of(LabelSource.CORRECTIONS) == (merged == 1)).all()
    desk.undo()
    np.testing.assert_array_equal(desk.layer.data, squares())
    assert not desk.of(LabelSource.OBJECTS).any()
    desk.redo()
    np.testing.assert_array_equal(desk.layer.data, merged)


def test_a_drag_splits(desk: Desk) -> None:
    desk.drag(ObjectTool.SPLIT, (7, 1), (7, 17))
    parts = set(np.unique(desk.layer.data[squares() == 1]).tolist())
    assert len(parts) == 2
    assert 1 in parts
    assert max(parts) > 16
    assert ((desk.layer.data > 0) == (squares() > 0)).all()
    desk.undo()
    np.testing.assert_array_equal(desk.layer.data, squares())


def test_a_drag_that_cuts_nothing_says_why(desk: Desk) -> None:
    desk.drag(ObjectTool.SPLIT, (0, 0), (0, 10))
    assert desk.session.message.level is Level.WARNING
    np.testing.assert_array_equal(desk.layer.data, squares())
    assert not desk.session.undoable


def test_a_click_deletes_and_a_click_accepts(desk: Desk) -> None:
    desk.drag(ObjectTool.DELETE, (8, 8))
    assert not desk.layer.data[squares() == 1].any()
    assert (desk.of(LabelSource.CORRECTIONS)[squares() == 1] == BACKGROUND_LABEL).all()
    desk.drag(ObjectTool.ACCEPT, (8, 40))
    finished = desk.of(LabelSource.OBJECTS)
    np.testing.assert_array_equal(finished, np.where(squares() == 3, 3, 0))
    desk.find(np.zeros_like(squares()))
    np.testing.assert_array_equal(desk.layer.data, finished)
    assert desk.session.object_tool is ObjectTool.ACCEPT


def test_an_object_is_painted_with_a_number_of_its_own(desk: Desk) -> None:
    desk.plugin.objects.toggle(ObjectTool.PAINT)
    number = desk.layer.selected_label
    assert number > 16
    assert desk.layer.mode == "paint"
    where = tuple(np.array([(15, 1), (15, 2), (16, 1), (16, 2)]).T)
    desk.layer.data_setitem(where, number)
    assert (desk.of(LabelSource.OBJECTS)[where] == number).all()
    assert desk.of(LabelSource.OBJECTS).astype(bool).sum() == 4
    desk.plugin.objects.toggle(ObjectTool.PAINT)
    assert desk.layer.selected_label > number
    desk.undo()
    np.testing.assert_array_equal(desk.layer.data, squares())


def test_painting_over_an_object_draws_it_anew_and_erasing_makes_it_smaller(desk: Desk) -> None:
    where = tuple(np.array([(14, 6), (14, 7)]).T)
    desk.layer.data_setitem(where, 1)
    expected = np.where(squares() == 1, 1, 0)
    expected[where] = 1
    np.testing.assert_array_equal(desk.of(LabelSource.OBJECTS), expected)
    rows = np.nonzero(squares() == 1)
    desk.layer.data_setitem(tuple(axis[:12] for axis in rows), 0)
    assert (desk.of(LabelSource.OBJECTS) == 1).sum() == expected.sum() - 12
    assert not desk.layer.data[tuple(axis[:12] for axis in rows)].any()
    desk.undo()
    desk.undo()
    np.testing.assert_array_equal(desk.layer.data, squares())


def test_another_mode_of_the_layer_puts_the_tool_down(desk: Desk) -> None:
    before = list(desk.plugin.viewer.layers)
    desk.plugin.objects.toggle(ObjectTool.MERGE)
    desk.layer.mode = "paint"
    assert desk.session.object_tool is ObjectTool.NONE
    assert list(desk.plugin.viewer.layers) == before
    desk.plugin.objects.toggle(ObjectTool.MERGE)
    desk.plugin.objects.toggle(ObjectTool.MERGE)
    assert desk.session.object_tool is ObjectTool.NONE
    assert desk.layer.mode == "pan_zoom"


def test_objects_are_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_unetseg.gui.features.objects.COUNT_SECONDS", -1.0)
    desk.plugin.tick()
    assert desk.session.objects == ObjectCount(16, 0)
    desk.drag(ObjectTool.MERGE, (8, 8), (8, 26))
    desk.plugin.tick()
    assert desk.session.objects == ObjectCount(15, 1)
    desk.plugin.review.drop_corrections_all()
    desk.plugin.tick()
    assert desk.session.objects == ObjectCount(16, 0)
    desk.plugin.classes.consist_of_objects(1, False)
    assert not desk.session.structures[0].objects, "what was dropped holds nobody up"


def test_settings_change_the_model_and_what_is_on_screen(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(constant(1), object_settings=ObjectSettings(prominence=0.1))
    entry = ModelEntry(model, "one")
    desk.session.history, desk.session.entry = (entry,), entry
    maps = encode_maps(squares(), (1.0, 1.0), background=True)
    desk.find(squares(), maps)
    tuning = desk.plugin.object_settings
    tuning.change(smallest=200)
    tuning.change(prominence=0.2)
    monkeypatch.setattr("napari_unetseg.gui.features.object_tuning.REST_SECONDS", -1.0)
    desk.plugin.tick()
    used: Any = desk.session.entry
    assert used.model.object_settings == ObjectSettings(prominence=0.2, smallest=200)
    assert used.model.id == model.id
    assert desk.session.history == (used,)
    assert not desk.layer.data.any()
    tuning.change(smallest=0)
    desk.plugin.tick()
    assert len(np.unique(desk.layer.data)) == 17


def test_objects_are_exported_as_numbers_and_outlines(desk: Desk, tmp_path: Path) -> None:
    desk.layer.data[20:26, 20:26] = 70_001
    ids = np.array(desk.layer.data)
    export = desk.plugin.export
    assert desk.layer in desk.plugin.sources.mask_candidates()
    export.write(desk.layer, tmp_path / "ids.tif")
    written = tifffile.imread(tmp_path / "ids.tif")
    np.testing.assert_array_equal(written, ids)
    assert written.dtype == np.uint32
    export.write(desk.layer, tmp_path / "objects.zip")
    rois = {roi.properties["object"]: roi for roi in roifile.roiread(tmp_path / "objects.zip")}
    assert sorted(rois) == [int(n) for n in np.unique(ids) if n]
    assert {roi.properties["structure"] for roi in rois.values()} == {"nuclei"}
    export.write(desk.layer, tmp_path / "objects.geojson")
    features = json.loads((tmp_path / "objects.geojson").read_text())["features"]
    for feature in features:
        number = feature["properties"]["label"]
        assert shape(feature["geometry"]).area == (ids == number).sum()
        assert feature["properties"]["classification"]["name"] == "nuclei"
    desk.plugin.viewer.layers.remove(desk.mask)  # there is one structure that they can be of
    export.write(desk.layer, tmp_path / "objects.geojson")
    (name,) = {
        feature["properties"]["classification"]["name"]
        for feature in json.loads((tmp_path / "objects.geojson").read_text())["features"]
    }
    assert name == "nuclei"


def test_a_mask_of_structures_is_exported_as_outlines_of_its_parts(
    desk: Desk, tmp_path: Path
) -> None:
    desk.plugin.export.write(desk.mask, tmp_path / "parts.geojson")
    features = json.loads((tmp_path / "parts.geojson").read_text())["features"]
    areas = [shape(feature["geometry"]).area for feature in features]
    assert areas == [2 * 144] * 8  # pairs touch
