"""The switch of live, once and frozen, and the panel to correct and accept, in the real window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from live_parts import constant

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.gui.state.session import Mode, ModelEntry

if TYPE_CHECKING:
    from typing import Any

    from qtpy.QtWidgets import QPushButton
    from window_parts import Window

pytestmark = pytest.mark.gui


def mask(window: Window, number: int = 1) -> Any:
    """A mask that says a number everywhere."""
    entry = ModelEntry(constant(number), "constant")
    window.session.history, window.session.entry = (entry,), entry
    window.click(window.dock.result.plane)
    window.wait(window.idle)
    prediction = window.plugin.masks.current
    assert prediction is not None
    window.wait(lambda: bool((prediction.layer.data == number).all()))
    return prediction.layer


def choose(button: QPushButton, text: str) -> None:
    """Press an entry of a button's menu."""
    menu = button.menu()
    assert menu is not None
    (action,) = [one for one in menu.actions() if one.text() == text]
    action.trigger()


def test_exactly_one_of_live_once_and_frozen_is_down(painted: Window) -> None:
    switch, session = painted.dock.train.modes, painted.session
    assert [m for m, b in switch.buttons.items() if b.isChecked()] == [Mode.LIVE]
    for mode in (Mode.FROZEN, Mode.ONCE, Mode.LIVE):
        painted.click(switch.buttons[mode])
        assert session.mode is mode
        assert [m for m, b in switch.buttons.items() if b.isChecked()] == [mode]
        assert switch.buttons[mode].toolTip()
    session.mode = Mode.ONCE
    assert switch.buttons[Mode.ONCE].isChecked()


@pytest.mark.bindings
def test_the_review_panel_accepts_takes_back_forgets_and_undoes(painted: Window) -> None:
    panel, plugin = painted.dock.review, painted.plugin
    assert not panel.accept.isEnabled()
    assert not panel.undo.isEnabled()
    layer = mask(painted)
    assert panel.accept.isEnabled()
    truth = plugin.annotations.of(painted.session.image)

    painted.click(panel.accept)
    assert truth.count(LabelSource.ACCEPTED) == layer.data.size
    painted.wait(lambda: painted.session.accepted == layer.data.size)
    assert f"{layer.data.size:,} accepted" in panel.corrected.text()
    assert "accepting the plane" in panel.undo.toolTip()
    painted.click(panel.undo)
    assert truth.count(LabelSource.ACCEPTED) == 0
    painted.click(panel.redo)
    assert truth.count(LabelSource.ACCEPTED) == layer.data.size
    choose(panel.more, "Take back on this plane")
    assert truth.count(LabelSource.ACCEPTED) == 0

    layer.data_setitem((np.array([5]), np.array([5])), 0)
    painted.wait(lambda: "1 corrected" in panel.corrected.text())
    choose(panel.more, "Remove all corrections of this image")
    assert layer.data[5, 5] == 1
    painted.wait(lambda: not panel.corrected.isVisibleTo(painted.dock))
    choose(panel.more, "Accept inside the selected shapes")
    assert "Shapes layer" in painted.dock.status.text.text()

    painted.viewer.layers.remove(layer)
    assert not panel.accept.isEnabled()


def test_the_outlines_follow_the_box_and_the_box_the_outlines(painted: Window) -> None:
    layer = mask(painted)
    panel = painted.dock.review
    layer.data_setitem((np.array([5]), np.array([5])), 0)
    panel.own.setChecked(True)
    (own,) = [one for one in painted.viewer.layers if "yours" in one.name]
    assert own.data[5, 5] == 1
    layer.data_setitem((np.array([6]), np.array([6])), 0)
    painted.wait(lambda: own.data[6, 6] == 1)
    painted.viewer.layers.remove(own)
    assert not panel.own.isChecked()
    panel.own.setChecked(True)
    assert [one for one in painted.viewer.layers if "yours" in one.name]
    panel.own.setChecked(False)
    assert not [one for one in painted.viewer.layers if "yours" in one.name]


def test_with_the_dock_closed_nothing_looks_or_trains(painted: Window) -> None:
    assert painted.session.watched
    painted.dock.release()
    assert not painted.session.watched
