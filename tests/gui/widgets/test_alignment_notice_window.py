"""The sentence about a layer that lies elsewhere, and its button, in a real window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gui_parts import squares, strokes
from napari.layers import Image, Labels

if TYPE_CHECKING:
    from window_parts import Window


pytestmark = pytest.mark.gui


def test_labels_seen_elsewhere_are_said_beside_them_and_a_click_aligns_them(window: Window) -> None:
    viewer, panel = window.viewer, window.dock.annotate.alignment_notice
    viewer.add_layer(Image(squares(), name="squares", scale=(0.5, 0.5)))
    assert not panel.isVisible()
    layer = viewer.add_layer(Labels(strokes(), name="mine"))
    window.wait(panel.isVisible)
    assert "'mine' does not lie over 'squares'" in panel.text.text()
    assert window.dock.annotate.labels.value is None
    assert not window.dock.image.alignment_notice.isVisible()
    window.click(window.dock.train.button)
    assert window.session.job is None
    assert window.dock.status.text.text() == panel.text.text()
    window.click(panel.align)
    window.wait(lambda: not panel.isVisible())
    assert window.dock.annotate.labels.value is layer
    assert window.dock.review.undo.isEnabled()
    window.click(window.dock.review.undo)
    window.wait(panel.isVisible)
    assert tuple(layer.scale) == (1, 1)


@pytest.mark.bindings
def test_a_channel_seen_elsewhere_is_said_beside_the_channels(window: Window) -> None:
    viewer, panel = window.viewer, window.dock.image.alignment_notice
    viewer.add_layer(Image(squares(), name="squares", scale=(0.5, 0.5)))
    other = viewer.add_layer(Image(squares(), name="DAPI"))
    (box, _) = window.dock.image.channels[0]
    box.setChecked(True)
    window.wait(panel.isVisible)
    assert "'DAPI' does not lie over 'squares'" in panel.text.text()
    assert not window.dock.annotate.alignment_notice.isVisible()
    window.click(panel.align)
    window.wait(lambda: not panel.isVisible())
    assert tuple(other.scale) == (0.5, 0.5)
    assert window.plugin.sources.stack().n_channels == 2


def test_a_stroke_lands_where_it_is_seen_after_the_image_was_scaled(painted: Window) -> None:
    image, labels = painted.viewer.layers
    painted.session.change_source(labels=None)
    painted.viewer.layers.remove(labels)
    layer = painted.plugin.sources.new_annotation()
    assert layer is not None
    image.scale, image.translate = (0.5, 0.5), (3, 7)
    painted.viewer.reset_view()
    painted.draw((3 + 10, 7 + 5), (3 + 10, 7 + 25))
    rows, columns = np.nonzero(layer.data)
    assert abs(rows.mean() - 20) < 1
    assert (columns.min(), columns.max()) == pytest.approx((10, 50), abs=3)
