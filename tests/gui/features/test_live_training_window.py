"""Masks that come while a training goes on, in a real window, with hands at work meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gui_parts import squares, strokes
from live_parts import CHOICES, Puppet
from napari.layers import Image, Labels
from qtpy.QtWidgets import QApplication, QLabel

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind
from napari_unetseg.jobs import live_predictor

if TYPE_CHECKING:
    import threading

    from window_parts import Window

pytestmark = pytest.mark.gui


@pytest.fixture
def puppet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Puppet]:
    import napari_unetseg.training.train as train

    puppet = Puppet()
    monkeypatch.setattr(train, "train_events", puppet.train_events)
    monkeypatch.setattr(live_predictor, "EVERY_SECONDS", 0.0)
    return puppet


def training(window: Window) -> bool:
    return window.session.job is not None and window.session.job.kind is JobKind.TRAIN


def start(window: Window, puppet: Puppet, number: int = 1, plane: tuple[int, ...] = ()) -> Labels:
    """Press Train and wait for the first mask; return its layer."""
    window.click(window.dock.train.button)
    puppet.improve(number, 0.91)
    return shown(window, number, plane)


def shown(window: Window, number: int, plane: tuple[int, ...] = ()) -> Labels:
    """Wait until most of a plane says a number while the training goes on."""

    def there() -> bool:
        prediction = window.plugin.masks.current
        if prediction is None or not prediction.alive or prediction.layer is None:
            return False
        return bool((prediction.layer.data[plane] == number).mean() > 0.8)

    window.wait(there)
    assert training(window)
    prediction = window.plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    return prediction.layer


def stop(window: Window) -> None:
    window.click(window.dock.train.button)
    window.wait(lambda: bool(window.session.history) and window.idle())


@pytest.mark.bindings
def test_a_mask_and_its_score_appear_before_the_training_ends(
    painted: Window, puppet: Puppet
) -> None:
    before = painted.session.training[0].labels.data.copy()
    layer = start(painted, puppet)
    assert not painted.session.history
    assert (
        painted.dock.train.result.text()
        == "Agreement with held-out strokes 0.91 (0.75 to 0.97, 23 strokes)."
    )
    assert painted.dock.status.text.text() == messages.MASK_BEGINS
    model = puppet.improve(0, None)
    shown(painted, 0)
    assert "0.91" in painted.dock.train.result.text()  # the last score, until there is another
    stop(painted)
    assert painted.dock.train.result.text().startswith("Not validated")
    assert painted.session.entry is not None
    assert painted.session.entry.model.id == model.id
    assert painted.plugin.masks.current is not None
    assert painted.plugin.masks.current.layer is layer
    assert not layer.data.any()
    np.testing.assert_array_equal(painted.session.training[0].labels.data, before)


@pytest.mark.bindings
def test_the_real_training_shows_its_masks(painted: Window, endless: threading.Event) -> None:
    painted.click(painted.dock.train.button)
    painted.wait(lambda: painted.plugin.masks.current is not None)
    assert training(painted)
    assert not endless.is_set()
    assert not painted.session.history
    assert painted.dock.train.result.text()
    stop(painted)


def all_offered(puppet: Puppet, labels: Labels) -> bool:
    """Whether the newest offer has every stroke: the first may be of half a stroke."""
    return bool(puppet.offered) and np.array_equal(puppet.offered[-1][0].labels, labels.data)


def test_what_is_painted_meanwhile_is_counted_and_offered_once(
    painted: Window, puppet: Puppet
) -> None:
    """Strokes and corrections; scrolling or a new mask offers nothing."""
    painted.viewer.reset_view()
    labels = painted.session.training[0].labels
    painted.wait(lambda: bool(painted.session.counts))
    before = dict(painted.session.counts)
    layer = start(painted, puppet)
    assert not puppet.offered
    painted.viewer.layers.selection.active = labels
    painted.click(painted.dock.annotate.brushes.row_of(BACKGROUND_LABEL))
    painted.draw((4, 6), (4, 50))
    painted.wait(lambda: all_offered(puppet, labels))
    assert painted.session.counts[BACKGROUND_LABEL] > before[BACKGROUND_LABEL]
    assert puppet.offered[-1][0].corrections is None
    puppet.improve(1, 0.95)
    painted.wait(lambda: "0.95" in painted.dock.train.result.text())
    painted.viewer.layers.selection.active = layer
    painted.click(painted.dock.annotate.brushes.row_of(BACKGROUND_LABEL))
    painted.draw((30, 10), (30, 50))
    drawn = np.where(layer.data == 0, BACKGROUND_LABEL, 0)
    painted.wait(lambda: np.array_equal(puppet.offered[-1][0].corrections, drawn))
    assert painted.session.corrected == int((drawn == BACKGROUND_LABEL).sum()) > 0
    held = [(np.asarray(p.labels), p.corrections) for (p,) in puppet.offered]
    assert not any(all(map(np.array_equal, one, other)) for one, other in pairwise(held))
    stop(painted)


def test_corrections_made_meanwhile_survive_every_mask_and_undo(
    painted: Window, puppet: Puppet
) -> None:
    painted.viewer.reset_view()
    layer = start(painted, puppet)
    painted.viewer.layers.selection.active = layer
    painted.click(painted.dock.annotate.brushes.row_of(BACKGROUND_LABEL))
    painted.draw((30, 10), (30, 50))
    assert layer.data[30, 30] == 0
    corrected = layer.data == 0
    puppet.improve(1)
    painted.wait(
        lambda: (
            painted.plugin.masks.current.annotated.count(LabelSource.CORRECTIONS) == corrected.sum()
        )
    )
    painted.click(painted.dock.annotate.brushes.row_of(1))
    puppet.improve(0)
    assert shown(painted, 0) is layer
    painted.draw((50, 10), (50, 50))
    assert layer.data[50, 30] == 1
    puppet.improve(1)
    shown(painted, 1)
    np.testing.assert_array_equal(layer.data == 0, corrected)
    puppet.improve(0)
    shown(painted, 0)
    assert layer.data[50, 30] == 1
    mask = layer.data.copy()
    for _ in range(4):
        layer.undo()
    np.testing.assert_array_equal(layer.data, mask)
    stop(painted)
    np.testing.assert_array_equal(layer.data, mask)
    assert str(layer.mode) == "paint"


def tools(layer: Labels) -> tuple[Any, ...]:
    return str(layer.mode), layer.selected_label, layer.brush_size, layer.editable


@pytest.mark.bindings
@pytest.mark.parametrize("first", [True, False], ids=["the first mask", "a later mask"])
def test_a_stroke_goes_on_while_a_mask_comes(painted: Window, puppet: Puppet, first: bool) -> None:
    viewer, labels = painted.viewer, painted.session.training[0].labels
    viewer.reset_view()
    painted.click(painted.dock.annotate.brushes.row_of(1))
    if first:
        painted.click(painted.dock.train.button)
        painted.wait(lambda: training(painted))
    else:
        start(painted, puppet, 0)
    before, strokes_before = tools(labels), labels.data.copy()

    def mask_comes() -> None:
        puppet.improve(1)
        shown(painted, 1)
        assert viewer.layers.selection.active is labels

    painted.draw((20, 5), (20, 55), mask_comes)
    assert (labels.data[20, 8:52] == 1).all()
    assert tools(labels) == before
    assert set(viewer.layers.selection) == {labels}
    labels.undo()
    np.testing.assert_array_equal(labels.data, strokes_before)
    stop(painted)


def test_a_correction_goes_on_while_a_mask_comes(painted: Window, puppet: Puppet) -> None:
    painted.viewer.reset_view()
    layer = start(painted, puppet, 0)
    painted.viewer.layers.selection.active = layer
    painted.click(painted.dock.annotate.brushes.row_of(1))
    before = tools(layer)

    def mask_comes() -> None:
        done = painted.plugin.masks.current
        puppet.improve(0)
        painted.wait(lambda: bool((done._shown == 1).any()))

    painted.draw((20, 5), (20, 55), mask_comes)
    assert (layer.data[20, 8:52] == 1).all()
    assert tools(layer) == before
    puppet.improve(0, 0.5)
    painted.wait(lambda: "0.50" in painted.dock.train.result.text())
    stop(painted)
    mask = layer.data.copy()
    for _ in range(10):
        layer.undo()
    np.testing.assert_array_equal(layer.data, mask)
    assert (layer.data[20, 8:52] == 1).all()


def test_the_plane_on_screen_is_the_one_predicted(window: Window, puppet: Puppet) -> None:
    viewer = window.viewer
    viewer.add_layer(Image(squares((3,)), name="stack"))
    viewer.add_layer(Labels(strokes((3,)), name="strokes"))
    viewer.dims.set_current_step(0, 1)
    layer = start(window, puppet, 1, (1,))
    assert [int(plane.max()) for plane in layer.data] == [0, 1, 0]
    viewer.dims.set_current_step(0, 2)
    shown(window, 1, (2,))
    model = puppet.improve(1)
    viewer.dims.set_current_step(0, 0)
    shown(window, 1, (0,))
    stop(window)
    assert window.session.entry is not None
    assert window.session.entry.model.id == model.id
    assert (layer.data[0] == 1).all()
    assert not layer.data[1].any()
    assert viewer.dims.current_step[0] == 0


def test_hands_that_rest_are_not_stirred_by_a_mask(painted: Window, puppet: Puppet) -> None:
    start(painted, puppet)
    painted.wait(lambda: bool(painted.session.counts))
    touched: list[None] = []
    painted.plugin.events.labels_touched.connect(lambda: touched.append(None))
    puppet.improve(0)
    shown(painted, 0)
    QApplication.processEvents()
    assert not touched
    stop(painted)


def test_a_prediction_deleted_meanwhile_stays_away_and_stop_keeps_the_rest(
    painted: Window, puppet: Puppet
) -> None:
    layer = start(painted, puppet)
    painted.viewer.layers.remove(layer)
    puppet.improve(0)
    painted.wait(lambda: painted.session.message.text == messages.MASK_DELETED)
    assert training(painted)
    assert layer not in painted.viewer.layers
    stop(painted)
    assert painted.plugin.masks.current is not None
    assert painted.plugin.masks.current.alive


def test_what_was_chosen_is_listed_with_its_reasons(painted: Window, puppet: Puppet) -> None:
    chosen = painted.dock.train.chosen
    assert not chosen.isVisibleTo(painted.dock)
    start(painted, puppet)
    assert chosen.isVisibleTo(painted.dock)
    assert not chosen.fold.isExpanded()
    chosen.fold.expand(animate=False)
    texts = [label.text() for label in chosen.findChildren(QLabel) if label.isVisibleTo(chosen)]
    assert texts == [text for c in CHOICES for text in (c.name, c.value, c.reason)]
    stop(painted)
    painted.session.choices = ()
    assert not chosen.isVisibleTo(painted.dock)
