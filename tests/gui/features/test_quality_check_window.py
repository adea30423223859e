"""A check of quality in a real window, with the buttons of the dock and a brush."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from attention_parts import reader
from napari.layers import Image

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.state.session import Mode, ModelEntry
from napari_unetseg.io.project.place_rows import PlaceState

if TYPE_CHECKING:
    from window_parts import Window

pytestmark = [pytest.mark.gui, pytest.mark.bindings]

SIDE = 256


@pytest.fixture
def ready(window: Window) -> Window:
    """An image with bright stripes, which the model finds."""
    image = np.zeros((SIDE, SIDE), np.float32)
    image[:, 20:40] = image[:, 90:110] = image[:, 150:170] = image[:, 220:240] = 0.9
    window.viewer.add_layer(Image(image, name="stripes"))
    window.session.mode = Mode.FROZEN
    window.plugin.models.add(ModelEntry(reader(), "Model 1"))
    return window


def has_mask(window: Window) -> bool:
    """Whether the mask of the next place is on screen."""
    place = window.plugin.checked.of_state(PlaceState.PENDING)[0]
    prediction = window.plugin.masks.predictions[window.plugin.checked.image_of(place)]
    return prediction.masks.covers(place.region)


def test_the_check_goes_from_place_to_place_and_says_what_it_found(ready: Window) -> None:
    section, session, checked = ready.dock.quality, ready.session, ready.plugin.checked
    assert not section.right.isVisible()
    assert not section.use.isVisible()
    ready.click(section.begin)
    ready.wait(lambda: session.checking == (1, 10) and section.right.isVisible())
    place = checked.of_state(PlaceState.PENDING)[0]
    image = ready.viewer.layers["stripes"]
    ready.wait(lambda: image in ready.plugin.masks.predictions)
    mask = ready.plugin.masks.predictions[image].layer
    ready.wait(lambda: ready.viewer.layers.selection.active is mask)
    y, x = place.region
    mask.brush_size = 8
    ready.draw((y.start + 20, x.start + 10), (y.start + 20, x.stop - 10))
    ready.click(section.right)
    ready.wait(lambda: session.checking == (2, 10))
    (done,) = checked.of_state(PlaceState.CHECKED)
    assert (done.truth[18:22, 14:-14] == 1).all()
    assert (done.truth[40:] == BACKGROUND_LABEL).any()
    ready.click(section.skip)
    while session.checking is not None:
        ready.wait(lambda: has_mask(ready))
        ready.click(section.right)
    ready.wait(lambda: bool(session.quality) and session.quality[0].places == 9)
    assert section.result.isVisible()
    assert session.quality[0].structures[1].dice < 1
    assert not section.right.isVisible()
    ready.click(section.use)
    ready.wait(lambda: len(checked.of_state(PlaceState.RELEASED)) == 9)
    assert not section.use.isVisible()


def test_stop_ends_the_check_and_what_was_checked_counts(ready: Window) -> None:
    section, session = ready.dock.quality, ready.session
    ready.click(section.begin)
    ready.wait(lambda: session.checking == (1, 10))
    image = ready.viewer.layers["stripes"]
    ready.wait(lambda: image in ready.plugin.masks.predictions and has_mask(ready))
    ready.click(section.right)
    ready.wait(lambda: session.checking == (2, 10))
    ready.click(section.stop)
    ready.wait(lambda: session.checking is None and bool(session.quality))
    assert session.quality[0].places == 1
    assert not [layer for layer in ready.viewer.layers if "place to check" in layer.name]
    assert section.begin.isVisible()
    assert not section.stop.isVisible()
    assert not section.earlier.isVisible()
    ready.plugin.models.add(ModelEntry(reader(threshold=0.4), "Model 2"))
    ready.wait(lambda: len(session.quality) == 2)
    assert section.earlier.isVisible()
