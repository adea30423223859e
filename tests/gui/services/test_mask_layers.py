"""Masks of a training in the window's layers: when they are shown, and when not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from gui_parts import SIDE, squares
from live_parts import Puppet
from napari.layers import Image

from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind, Level, Mode
from napari_unetseg.jobs.live_predictor import (
    Viewport,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.plugin import Plugin


@pytest.fixture
def puppet(broken_core: Any) -> Puppet:
    puppet = Puppet()
    broken_core(puppet.train_events)
    return puppet


def test_a_mask_is_shown_with_its_score_before_the_training_ends(
    plugin: Plugin, puppet: Puppet
) -> None:
    shown: list[tuple[str, int]] = []

    def watch(job: Any) -> None:
        if job is None or job.stopping or plugin.masks.current is None:
            return
        assert plugin.masks.current.layer is not None
        if plugin.masks.current.layer.data.any():
            shown.append((plugin.session.result, len(plugin.session.history)))
            plugin.jobs.stop()

    plugin.session.events.job.connect(watch)
    puppet.improve(1, 0.91)
    plugin.training.start()
    assert shown[0] == ("Agreement with held-out strokes 0.91 (0.75 to 0.97, 23 strokes).", 0)
    assert len(plugin.session.history) == 1
    assert plugin.masks.current is not None
    assert plugin.masks.current.layer is not None
    assert (plugin.masks.current.layer.data == 1).all()
    assert plugin.session.choices[0].name == "Patch"


def test_a_failed_training_keeps_what_is_shown(plugin: Plugin, puppet: Puppet) -> None:
    puppet.improve(1)
    puppet.fail(ValueError("bad"))
    plugin.training.start()
    assert "bad" in plugin.session.message.text
    assert plugin.masks.current is not None
    assert plugin.masks.current.layer is not None
    assert (plugin.masks.current.layer.data == 1).all()


def test_no_mask_is_shown_where_none_is_wanted(plugin: Plugin, puppet: Puppet) -> None:
    plugin.session.mode = Mode.FROZEN
    puppet.improve(1)
    puppet.fail(ValueError("enough"))
    plugin.training.start()
    assert plugin.masks.current is None


def test_a_deleted_prediction_stays_away_until_the_training_ends(
    plugin: Plugin, model_viewer: ViewerModel, puppet: Puppet, said: list[str]
) -> None:
    deleted: list[str] = []

    def delete(job: Any) -> None:
        prediction = plugin.masks.current
        if job is None or prediction is None or not prediction.alive:
            return
        deleted.append(job.text)
        model_viewer.layers.remove(prediction.layer)
        plugin.training_mask._screen.view = Viewport(  # type: ignore[union-attr]
            plugin.session.image, plugin.sources.stack(), ()
        )
        puppet.improve(0)
        puppet.fail(ValueError("enough"))

    plugin.session.events.job.connect(delete)
    puppet.improve(1)
    plugin.training.start()
    assert len(deleted) == 1
    assert messages.MASK_DELETED in said
    assert plugin.masks.current is not None
    assert not plugin.masks.current.alive


def test_an_image_deleted_meanwhile_needs_no_mask(
    plugin: Plugin, model_viewer: ViewerModel, puppet: Puppet
) -> None:
    def delete(job: Any) -> None:
        prediction = plugin.masks.current
        if job is not None and prediction is not None and prediction.alive:
            model_viewer.layers.remove(plugin.session.image)
            puppet.improve(0)
            puppet.fail(ValueError("enough"))

    plugin.session.events.job.connect(delete)
    puppet.improve(1)
    plugin.training.start()
    assert plugin.session.message.text.startswith("Training failed (ValueError: enough)")
    assert not plugin.masks.predictions


def test_the_view_is_made_anew_only_when_it_changes(
    plugin: Plugin, model_viewer: ViewerModel
) -> None:
    stack = model_viewer.add_layer(Image(squares((4,)), name="stack"))
    plugin.sources.choose_image(stack)
    screen = plugin.training_mask.follow_screen(2)
    view = screen.view
    plugin.tick()
    assert screen.view is view
    assert view is not None
    assert (view.image, view.stack.grid_shape) == (stack, (4, SIDE, SIDE))
    model_viewer.dims.set_point(0, 3)
    plugin.tick()
    assert screen.view is not view
    assert screen.view is not None
    assert screen.view.plane == (3,)
    plugin.session.mode = Mode.FROZEN
    plugin.tick()
    assert screen.view is None
    plugin.events.job_ended.emit(JobKind.TRAIN)
    assert plugin.session.message.level is Level.INFO
