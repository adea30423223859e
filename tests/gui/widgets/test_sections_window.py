"""The dock's smaller controls, pressed in a real window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from gui_parts import squares
from napari.layers import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QStyle, QWidget
from qtpy.QtWidgets import QStyleOptionButton as ButtonOption
from roifile import roiread
from superqt import QCollapsible
from window_parts import LEFT, NONE, Window

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.gui.widgets.result_section import OUTLINES

pytestmark = pytest.mark.gui


def press(box: QCheckBox) -> None:
    """Click a box where its mark is."""
    option = ButtonOption()
    option.initFrom(box)
    style = box.style()
    assert style is not None
    mark = style.subElementRect(QStyle.SubElement.SE_CheckBoxIndicator, option, box)
    QTest.mouseClick(box, LEFT, NONE, mark.center() if mark.isValid() else QPoint(8, 8))


def pick(box: QComboBox, text: str) -> None:
    """Choose an entry with the arrow keys."""
    box.setFocus()
    steps = box.findText(text) - box.currentIndex()
    for _ in range(abs(steps)):
        QTest.keyClick(box, Qt.Key.Key_Down if steps > 0 else Qt.Key.Key_Up)
    assert box.currentText() == text


def enter(box: Any, number: int) -> None:
    """Type a number into a field."""
    box.setFocus()
    box.selectAll()
    QTest.keyClicks(box, str(number))
    QTest.keyClick(box, Qt.Key.Key_Return)


def unfold(widget: QWidget) -> None:
    """Open the fold that a widget is in."""
    parent = widget.parentWidget()
    while not isinstance(parent, QCollapsible):
        assert parent is not None
        parent = parent.parentWidget()
    parent.expand(animate=False)


def trained(window: Window) -> None:
    window.click(window.dock.train.button)
    window.wait(lambda: window.idle() and bool(window.session.history))


@pytest.mark.bindings
def test_planes_and_volumes_are_chosen_with_their_buttons(window: Window) -> None:
    window.viewer.add_layer(Image(squares((4,)), name="stack"))
    panel = window.dock.image
    assert panel.planes.isChecked()
    window.click(panel.volume)
    assert window.session.settings.dims == 3
    assert not panel.planes.isChecked()
    window.click(panel.planes)
    assert window.session.settings.dims == 2
    assert not panel.volume.isChecked()


def test_a_training_is_as_long_as_the_field_says(painted: Window) -> None:
    panel, session = painted.dock.train, painted.session
    pick(panel.end, "epochs")
    enter(panel.amount, 2)
    assert (session.settings.epochs, session.settings.minutes) == (2, None)
    trained(painted)
    record = session.history[-1].model.history[-1]
    assert len(record.curve) == 2
    pick(panel.end, "minutes")
    enter(panel.amount, 3)
    assert (session.settings.epochs, session.settings.minutes) == (None, 3.0)


def test_other_layers_become_channels_by_their_boxes(painted: Window) -> None:
    painted.viewer.add_layer(Image(255 - squares(), name="second"))
    (box, layer), *_ = painted.dock.image.channels
    press(box)
    source = painted.session.source()
    assert source is not None
    assert source.channels == (layer,)
    trained(painted)
    assert painted.session.history[-1].model.net.in_channels == 2


def test_going_on_is_a_box(painted: Window) -> None:
    trained(painted)
    first = painted.session.history[-1].model
    press(painted.dock.model.go_on)
    assert not painted.session.go_on
    painted.click(painted.dock.train.button)
    painted.wait(lambda: painted.idle() and painted.session.history[-1].model is not first)
    assert len(painted.session.history[-1].model.history) == 1, "it began anew"


def test_tidying_and_exporting_do_what_their_fields_say(
    painted: Window, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained(painted)
    panel, prediction = painted.dock.result, painted.plugin.masks.current
    assert prediction is not None
    mask = np.zeros((64, 64), np.uint8)
    mask[5:15, 5:15] = mask[30:50, 30:50] = 1
    mask[38:42, 38:42] = 0
    prediction.layer.data[...] = mask
    prediction.layer.refresh()
    unfold(panel.tidy_up)
    form = panel._tidy.values
    press(form["objects"].native)
    press(form["fill_holes"].native)
    enter(panel.smallest.native, 200)
    before = set(painted.viewer.layers)
    painted.click(panel.tidy_up)
    painted.wait(lambda: painted.idle() and len(painted.viewer.layers) > len(before))
    (tidied,) = set(painted.viewer.layers) - before
    assert sorted(np.unique(tidied.data)) == [0, 1]
    assert not tidied.data[10, 10], "it was too small"
    assert not tidied.data[40, 40], "its hole was to stay"

    unfold(panel.write)
    panel.refresh()
    pick(panel.layer.native, tidied.name)  # which no newer prediction changes
    for name, suffix in (("PNG", ".png"), ("OME-TIFF", ".ome.tif")):
        pick(panel.format.native, name)
        path = tmp_path / f"mask{suffix}"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, p=path: (str(p), ""))
        painted.click(panel.write)
        painted.wait(lambda p=path: painted.idle() and p.exists())
    np.testing.assert_array_equal(tifffile.imread(path), tidied.data)
    for name in OUTLINES:
        pick(panel.format.native, name)
        path = tmp_path / f"outlines{OUTLINES[name][0]}"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, p=path: (str(p), ""))
        painted.click(panel.write)
        painted.wait(lambda p=path: painted.idle() and p.exists())
    assert len(roiread(tmp_path / "outlines.zip")) == 1


@pytest.mark.bindings
def test_a_plugin_step_is_undone_and_done_again(painted: Window) -> None:
    trained(painted)
    panel, truth = painted.dock.review, painted.plugin.annotations.of(painted.session.image)

    def accepted() -> int:
        return truth.count(LabelSource.ACCEPTED)

    painted.click(panel.accept)
    painted.wait(lambda: accepted() == 64 * 64)
    painted.click(panel.undo)
    assert accepted() == 0
    painted.click(panel.redo)
    assert accepted() == 64 * 64
