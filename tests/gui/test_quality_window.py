"""Quality over time in a real window: points, and a click that goes to the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gui_parts import squares, strokes
from live_parts import constant
from napari.layers import Image, Labels
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_unetseg.gui.state.session import Mode, ModelEntry

if TYPE_CHECKING:
    from window_parts import Window

pytestmark = pytest.mark.gui


def shown(window: Window) -> int:
    """The plane that is on screen."""
    return int(window.viewer.dims.current_step[0])


def looked_at(window: Window) -> None:
    """Planes 1 and 2 are predicted and said something about: one wholly right, one wrong."""
    window.viewer.add_layer(Image(squares((3,)), name="stack"))
    labels = window.viewer.add_layer(Labels(strokes((3,)), name="strokes"))
    session, plugin = window.session, window.plugin
    session.mode = Mode.ONCE
    window.wait(lambda: session.counts.get(1, 0) > 0)
    labels.data_setitem((np.array([0]), np.array([1]), np.array([1])), 1)  # a project begins
    entry = ModelEntry(constant(1), "constant")
    session.history, session.entry = (entry,), entry
    window.click(window.dock.result.whole)
    window.wait(window.idle)
    window.wait(lambda: bool((plugin.masks.current.layer.data == 1).all()))
    window.viewer.dims.set_current_step(0, 1)
    window.click(window.dock.review.accept)
    rows, columns = np.indices((10, 10)).reshape(2, -1)
    labels.data_setitem((np.full(100, 2), rows, columns), np.repeat([1, 255], 50))
    window.viewer.dims.set_current_step(0, 0)


def test_a_click_on_a_point_moves_the_viewer_to_its_plane(window: Window) -> None:
    looked_at(window)
    plots = window.dock.train.plots
    assert plots.isVisibleTo(window.dock)
    assert plots.quality.chart is None
    window.click(plots.buttons[1])
    window.wait(lambda: len(window.session.quality) == 2)
    assert not plots.curve.isVisibleTo(window.dock)
    found = {p.quality.plane: p.quality for p in window.session.quality}
    assert (found[1,].dice, found[1,].complete) == (1.0, True)
    assert (found[2,].dice, found[2,].voxels) == (pytest.approx(2 / 3), 100)
    assert not found[2,].complete
    assert "2 planes" in plots.quality.legend.text()
    chart = plots.quality.chart
    window.settle(chart)
    planes = [p.quality.plane[0] for p in window.session.quality]
    for plane in (2, 1, 2):
        place = chart.at(planes.index(plane)).toPoint()
        QTest.mouseClick(chart.viewport(), Qt.MouseButton.LeftButton, pos=place)
        window.wait(lambda plane=plane: shown(window) == plane)


def test_the_arrow_keys_go_from_point_to_point(window: Window) -> None:
    looked_at(window)
    plots = window.dock.train.plots
    assert plots.quality.focusPolicy() == Qt.FocusPolicy.NoFocus
    window.click(plots.buttons[1])
    window.wait(lambda: len(window.session.quality) == 2)
    planes = [p.quality.plane[0] for p in window.session.quality]
    plots.quality.setFocus()
    for key, number in (("Right", 0), ("Right", 1), ("Right", 1), ("Left", 0)):
        QTest.keyClick(plots.quality, getattr(Qt.Key, f"Key_{key}"))
        assert shown(window) == planes[number]


def test_it_follows_what_is_said_only_while_it_is_looked_at(window: Window) -> None:
    looked_at(window)
    plots, session = window.dock.train.plots, window.session
    window.click(plots.buttons[1])
    window.wait(lambda: len(session.quality) == 2)
    window.viewer.dims.set_current_step(0, 2)
    window.click(window.dock.review.accept)
    window.wait(lambda: all(p.quality.complete for p in session.quality))
    window.click(plots.buttons[0])
    before = session.quality
    window.click(window.dock.review.undo)
    for _ in range(50):
        window.plugin.tick()
    assert session.quality is before
    window.viewer.layers.remove("stack")
    window.wait(lambda: not session.quality)
