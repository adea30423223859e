"""Next and the uncertainty layer in a real napari window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from attention_parts import reader
from napari.layers import Image

from napari_unetseg.gui.state.session import ModelEntry
from napari_unetseg.inference import query_strategy

if TYPE_CHECKING:
    import threading

    from window_parts import Window

pytestmark = pytest.mark.gui


@pytest.mark.bindings
def test_next_moves_the_camera_and_the_uncertainty_appears(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_strategy, "noise", lambda _: 0.0)
    viewer, look = window.viewer, window.dock.next_region
    stack = np.zeros((3, 256, 256), np.float32)
    stack[1, 190:220, 30:60] = 0.5
    image = viewer.add_layer(Image(stack, name="stack"))
    viewer.reset_view()
    assert not look.next.isEnabled()
    window.plugin.models.add(ModelEntry(reader(), "reader"))
    assert look.next.isEnabled()
    before = viewer.scene.camera.zoom
    window.click(look.next)
    window.wait(lambda: window.plugin.next_region.suggestion is not None)
    assert viewer.dims.current_step[0] == 1
    assert viewer.scene.camera.zoom > before
    window.settle(viewer.window._qt_viewer.canvas.native)
    corners = image.corner_pixels
    assert (corners[0, 1:] <= (190, 30)).all()
    assert (corners[1, 1:] >= (219, 59)).all()

    window.click(look.uncertainty)
    window.wait(lambda: "stack · uncertainty" in viewer.layers)
    layer = viewer.layers["stack · uncertainty"]
    assert layer.data[1, 200, 40] == pytest.approx(1.0, abs=1e-3)
    viewer.layers.remove(layer)
    window.wait(lambda: not look.uncertainty.isChecked())


def test_next_can_be_pressed_while_a_training_goes_on(
    painted: Window, endless: threading.Event
) -> None:
    window = painted
    window.wait(lambda: window.session.counts.get(1, 0) > 0)
    window.click(window.dock.train.button)
    window.wait(window.dock.next_region.next.isEnabled)
    assert window.session.job is not None
    window.click(window.dock.next_region.next)
    window.wait(lambda: window.plugin.next_region.suggestion is not None)
    assert window.session.job is not None
    window.click(window.dock.train.button)
    window.wait(lambda: window.idle() and endless.is_set())
