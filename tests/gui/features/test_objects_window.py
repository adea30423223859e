"""Objects of the nuclei sample in a real window: by mouse and keys, while a training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from napari.layers import Labels, Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from scipy import ndimage
from skimage.measure import regionprops
from window_parts import Window, in_front

from napari_unetseg import sample
from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.state.session import Level, ObjectTool

if TYPE_CHECKING:
    import threading

pytestmark = pytest.mark.gui

CONTROL = Qt.KeyboardModifier.ControlModifier
SIDE, RIM = 512, 40
Spot = tuple[float, float]


def opened() -> list[Layer]:
    """The image and the strokes of the sample, and more strokes: it is soon learned well."""
    image, strokes = (Layer.create(data.copy(), *more) for data, *more in sample.nuclei2d())
    truth = tifffile.imread(sample.sample_path("nuclei2d_mask.tif")) > 0
    more = (np.arange(SIDE) // 6 % 4 == 0)[:, None] & (strokes.data == 0)
    strokes.data[more] = np.where(truth, 1, BACKGROUND_LABEL)[more]
    return [image, strokes]


class Nuclei(Window):
    """The window with the sample, whose nuclei are numbered while a training goes on."""

    def begin(self) -> None:
        for layer in opened():
            self.viewer.add_layer(layer)
        self.viewer.reset_view()
        self.session.change_settings(depth=2, width=8, patch=64, batch=4)
        self.wait(lambda: self.session.counts.get(1, 0) > 0)
        self.click(self.dock.annotate.objects)
        assert self.session.structures[0].objects
        self.train()

    def train(self) -> None:
        """Train until newer objects were shown twice, and many of them are round."""
        shown: list[int] = []

        def count(_: Any) -> None:
            shown.append(len(round_ones(self.data)) if self.there() else 0)

        self.plugin.object_layers.shown.connect(count)
        self.click(self.dock.train.button)
        self.wait(lambda: len(shown) > 1 and shown[-1] > 10, 240.0)
        self.plugin.object_layers.shown.disconnect(count)
        assert not self.idle()

    def stop(self) -> None:
        self.click(self.dock.train.button)
        self.wait(lambda: bool(self.session.history) and self.idle())
        self.wait(self.settled)

    def show_all(self) -> None:
        """Fit the image into the canvas, which is smaller since the dock shows more."""
        self.settle(self.viewer.window._qt_viewer.canvas.native)
        self.viewer.reset_view()

    def settled(self) -> bool:
        """Whether the objects are those of the mask; finished ones may hide what is left of one."""
        mask = self.plugin.masks.current
        assert mask is not None
        assert mask.layer is not None
        found = self.plugin.object_layers.newest[self.session.image].ids
        hidden = np.isin(found, found[self.of(LabelSource.OBJECTS) > 0])
        return bool((((self.layer.data > 0) == (mask.layer.data == 1)) | hidden).all())

    def there(self) -> bool:
        found = self.plugin.object_layers.current
        return found is not None and found.layer is not None

    @property
    def layer(self) -> Labels:
        found = self.plugin.object_layers.current
        assert found is not None
        assert found.layer is not None
        return found.layer

    @property
    def data(self) -> np.ndarray:
        """A copy of the numbers on screen."""
        return np.array(self.layer.data)

    def of(self, origin: LabelSource) -> np.ndarray:
        image = self.session.image
        return self.plugin.annotations.of(image).read(origin, (slice(0, SIDE), slice(0, SIDE)))

    def tool(self, tool: ObjectTool) -> None:
        if self.session.object_tool is not tool or tool is ObjectTool.PAINT:
            self.click(self.dock.objects.tools[tool])
        assert self.session.object_tool is tool

    def undo(self) -> None:
        self.press(Qt.Key.Key_Z, CONTROL)


def round_ones(data: np.ndarray) -> list[Any]:
    """Objects that are large, in one piece, convex and away from the rim."""
    return [
        one
        for one in regionprops(data.astype(np.int32))
        if 200 < one.area < 1500
        and one.solidity > 0.9
        and ndimage.label(one.image)[1] == 1
        and min(one.bbox[:2]) > RIM
        and max(one.bbox[2:]) < SIDE - RIM
    ]


def middle(one: Any) -> Spot:
    """The pixel of an object that is deepest in it."""
    depth = ndimage.distance_transform_edt(np.pad(one.image, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return float(row + one.bbox[0]), float(column + one.bbox[1])


def crossed(data: np.ndarray, start: Spot, end: Spot) -> set[int]:
    """Numbers on a line, and beside it."""
    points = np.rint(np.linspace(start, end, 100)).astype(int)
    near = [data[y - 1 : y + 2, x - 1 : x + 2] for y, x in points]
    return set(np.unique(near).tolist()) - {0}


def neighbours(data: np.ndarray) -> tuple[Any, Any]:
    """The two that lie nearest to each other, with nothing between them."""
    ones = round_ones(data)
    pairs = [
        (a, b)
        for i, a in enumerate(ones)
        for b in ones[:i]
        if crossed(data, middle(a), middle(b)) == {a.label, b.label}
    ]
    return min(pairs, key=lambda p: float(np.hypot(*np.subtract(middle(p[0]), middle(p[1])))))


def across(one: Any) -> tuple[Spot, Spot]:
    """A line through the middle of an object across its longer side, from outside to outside."""
    row, column = one.centroid
    length = one.axis_minor_length / 2 + 4
    step = np.array([-np.sin(one.orientation), np.cos(one.orientation)]) * length
    return (row - step[0], column - step[1]), (row + step[0], column + step[1])


@pytest.fixture
def nuclei(make_napari_viewer: Any, endless: threading.Event) -> Nuclei:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1400, 900)
    one = Nuclei(viewer)
    one.begin()
    return one


@pytest.mark.bindings
def test_edits_by_mouse_are_one_step_of_undo_each_and_no_prediction_changes_them(
    nuclei: Nuclei, make_napari_viewer: Any, tmp_path: Path
) -> None:
    nuclei.stop()
    nuclei.show_all()
    layer, before = nuclei.layer, nuclei.data

    # merge: drag across two
    one, other = neighbours(before)
    nuclei.tool(ObjectTool.MERGE)
    nuclei.draw(middle(one), middle(other))
    merged = nuclei.data
    number = int(merged[tuple(map(round, middle(one)))])
    assert number in (one.label, other.label)
    assert (merged[np.isin(before, (one.label, other.label))] == number).all()
    assert np.array_equal(nuclei.of(LabelSource.OBJECTS) == number, merged == number)
    undone(nuclei, before)
    nuclei.press(Qt.Key.Key_Z, CONTROL | Qt.KeyboardModifier.ShiftModifier)
    np.testing.assert_array_equal(nuclei.data, merged)

    # split: drag through one
    alone = [o for o in round_ones(merged) if crossed(merged, *across(o)) == {o.label}]
    one = max((o for o in alone if o.label != number), key=lambda o: o.axis_minor_length)
    nuclei.tool(ObjectTool.SPLIT)
    nuclei.draw(*across(one))
    cut = nuclei.data
    parts = np.unique(cut[merged == one.label])
    assert len(parts) == 2
    assert parts[0] == one.label
    assert parts[1] > merged.max()
    assert np.array_equal(cut > 0, merged > 0)
    undone(nuclei, merged)
    nuclei.draw(*across(one))
    cut = nuclei.data

    # delete and accept: click
    done = {number, one.label, int(cut.max())}
    gone, right = [o for o in round_ones(cut) if o.label not in done][:2]
    nuclei.tool(ObjectTool.DELETE)
    nuclei.tap(middle(gone))
    np.testing.assert_array_equal(nuclei.data, np.where(cut == gone.label, 0, cut))
    undone(nuclei, cut)
    nuclei.tap(middle(gone))
    said = nuclei.of(LabelSource.CORRECTIONS)
    assert (said[cut == gone.label] == BACKGROUND_LABEL).all()
    nuclei.tool(ObjectTool.ACCEPT)
    finished = nuclei.of(LabelSource.OBJECTS)
    nuclei.tap(middle(right))
    assert np.array_equal(nuclei.of(LabelSource.OBJECTS) == right.label, cut == right.label)
    nuclei.undo()
    np.testing.assert_array_equal(nuclei.of(LabelSource.OBJECTS), finished)
    nuclei.tap(middle(right))

    # a new one: napari's brush
    kept = nuclei.data
    nuclei.tool(ObjectTool.PAINT)
    new = int(layer.selected_label)
    assert new > kept.max()
    layer.brush_size = 12
    free = free_place(kept)
    nuclei.draw(free, (free[0], free[1] + 20))
    assert set(np.unique(nuclei.data[kept != nuclei.data])) == {new}
    assert np.array_equal(nuclei.of(LabelSource.OBJECTS) == new, nuclei.data == new)
    undone(nuclei, kept)
    nuclei.draw(free, (free[0], free[1] + 20))
    nuclei.wait(lambda: nuclei.session.objects.finished == 5)
    assert "5 finished" in nuclei.dock.objects.counts.text()

    # newer predictions, and a gesture while they come
    truth = nuclei.of(LabelSource.OBJECTS)
    assert set(np.unique(truth)) == {0, *done, right.label, new}
    nuclei.train()
    kept_all(nuclei, truth, gone=cut == gone.label)
    late = next(o for o in round_ones(nuclei.data) if o.label not in np.unique(truth))
    nuclei.tool(ObjectTool.ACCEPT)
    nuclei.tap(middle(late))
    nuclei.stop()
    now = nuclei.of(LabelSource.OBJECTS)
    np.testing.assert_array_equal(now[truth > 0], truth[truth > 0])
    assert len(np.unique(now)) == len(np.unique(truth)) + 1
    kept_all(nuclei, now, gone=cut == gone.label)

    # saved and opened again
    nuclei.plugin.saving.save_as(tmp_path / "mine")
    nuclei.wait(lambda: nuclei.session.project == tmp_path / "mine" and nuclei.idle())
    nuclei.viewer.close()
    QApplication.processEvents()
    again = Nuclei(make_napari_viewer(show=True))
    again.viewer.add_layer(opened()[0])
    again.plugin.restore.open(tmp_path / "mine")
    again.wait(lambda: again.session.structures[0].objects and again.idle())
    np.testing.assert_array_equal(again.of(LabelSource.OBJECTS), now)
    again.click(again.dock.result.plane)
    again.wait(lambda: again.idle() and again.there() and again.settled())
    kept_all(again, now, gone=cut == gone.label)


def undone(nuclei: Nuclei, before: np.ndarray) -> None:
    """Ctrl+Z brings the objects back, in one step."""
    nuclei.undo()
    np.testing.assert_array_equal(nuclei.data, before)


def kept_all(nuclei: Nuclei, truth: np.ndarray, gone: np.ndarray) -> None:
    """What was finished is on screen with its number and nowhere else; deleted ones are not."""
    for number in np.unique(truth[truth > 0]):
        assert np.array_equal(nuclei.data == number, truth == number), number
    assert not nuclei.data[gone & (truth == 0)].any()


def free_place(data: np.ndarray) -> Spot:
    """The middle of the largest place without objects, away from the rim."""
    depth = ndimage.distance_transform_edt(data == 0)
    depth[:RIM], depth[-RIM:], depth[:, :RIM], depth[:, -RIM:] = 0, 0, 0, 0
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return float(row), float(column) - 10


@pytest.mark.bindings
def test_keys_take_the_tools_and_a_click_beside_says_what_to_do(nuclei: Nuclei) -> None:
    nuclei.stop()
    in_front(nuclei)
    keys = {
        Qt.Key.Key_N: ObjectTool.PAINT,
        Qt.Key.Key_J: ObjectTool.MERGE,
        Qt.Key.Key_K: ObjectTool.SPLIT,
        Qt.Key.Key_W: ObjectTool.DELETE,
        Qt.Key.Key_G: ObjectTool.ACCEPT,
    }
    for key, tool in keys.items():
        nuclei.press(key)
        assert nuclei.session.object_tool is tool
        assert nuclei.dock.objects.tools[tool].isChecked()
        assert nuclei.viewer.layers.selection.active is nuclei.layer
        assert nuclei.dock.objects.how.isVisibleTo(nuclei.dock)
    nuclei.show_all()
    before = nuclei.data
    nuclei.tap(free_place(before))
    assert nuclei.session.message.level is Level.WARNING
    np.testing.assert_array_equal(nuclei.data, before)
    nuclei.press(Qt.Key.Key_2)  # napari's own: the brush
    assert nuclei.session.object_tool is ObjectTool.NONE
    assert nuclei.layer.mode == "paint"
    assert not nuclei.dock.objects.how.isVisibleTo(nuclei.dock)

    # objects or areas: at the structure, too; finished ones keep it
    nuclei.press(Qt.Key.Key_G)
    nuclei.tap(middle(round_ones(nuclei.data)[0]))
    box = nuclei.dock.annotate.objects
    nuclei.click(box)
    assert box.isChecked()
    assert nuclei.session.message.level is Level.WARNING
    nuclei.undo()
    nuclei.click(box)
    assert not nuclei.session.structures[0].objects
    assert not nuclei.dock.objects.isVisibleTo(nuclei.dock)
