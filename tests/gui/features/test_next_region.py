"""Next, differences, planes and the uncertainty layer, without a window."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from attention_parts import reader
from gui_parts import SIDE, TINY, squares, strokes
from helpers import random_model
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers._source import layer_source
from sync_runner import SyncRunner

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services.job_runner import ThreadRunner
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Mode, ModelEntry
from napari_unetseg.inference import query_strategy
from napari_unetseg.inference.query_strategy import ALL_DONE
from napari_unetseg.inference.uncertainty import uncertainty_map


def dark(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def use(plugin: Plugin, *models: Any) -> None:
    for number, model in enumerate(models):
        plugin.models.add(ModelEntry(model, f"Model {number}"))


@pytest.fixture
def viewer() -> ViewerModel:
    """A time series with a pixel size and a single picture, each with one doubtful square."""
    viewer = ViewerModel()
    viewer.canvas.size = (600, 800)
    series = dark((4, 256, 256))
    series[2, 200:220, 30:50] = 0.5
    single = dark((128, 128))
    single[90:120, 90:120] = 0.5
    viewer.add_layer(Image(series, name="series", scale=(2, 0.5, 0.5), translate=(0, 10, 20)))
    viewer.add_layer(Image(single, name="single"))
    return viewer


@pytest.fixture
def plugin(viewer: ViewerModel) -> Iterator[Plugin]:
    one = Plugin(viewer, SyncRunner())
    one.session.mode = Mode.FROZEN
    yield one
    one.disconnect()


@pytest.fixture
def said(plugin: Plugin) -> list[str]:
    sentences: list[str] = []
    plugin.session.events.message.connect(lambda m: sentences.append(m.text))
    return sentences


def seen(viewer: ViewerModel, image: Image) -> tuple[np.ndarray, np.ndarray]:
    """What the camera shows of an image: first and last row and column."""
    half = np.asarray(viewer.canvas.size) / viewer.scene.camera.zoom / 2
    center = np.asarray(viewer.scene.camera.center[-2:])
    scale, offset = np.asarray(image.scale[-2:]), np.asarray(image.translate[-2:])
    return (center - half - offset) / scale, (center + half - offset) / scale


def test_next_goes_to_the_doubtful_place_of_any_image(
    plugin: Plugin, viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_strategy, "noise", lambda _: 0.0)
    use(plugin, reader())
    series, single = viewer.layers["series"], viewer.layers["single"]
    plugin.sources.choose_image(series)
    plugin.sources.new_annotation()
    strokes_of_series = viewer.layers.selection.active
    for _ in range(2):
        plugin.next_region.next_region()
        found = plugin.next_region.suggestion
        assert found is not None
        assert plugin.session.image is found.layer
        assert found.layer.visible
        low, high = seen(viewer, found.layer)
        place = {series: (210, 40), single: (105, 105)}[found.layer]
        assert (low < place).all()
        assert (place < high).all()
        edges = [s.stop - s.start for s in found.region]
        assert (high - low >= edges).all()
        assert (high - low).min() <= 2.5 * max(edges), "near enough to paint"
        if found.layer is series:
            assert found.plane == (2,)
            assert napari_layers.plane_on_screen(viewer, series, 2) == (2,)
            assert viewer.layers.selection.active is strokes_of_series
            assert not single.visible
        else:
            assert not series.visible
            assert not strokes_of_series.visible
    assert {series, single} == {found.layer, *({series, single} - {found.layer})}


def test_the_other_channel_of_an_image_is_no_image_of_its_own(
    plugin: Plugin, viewer: ViewerModel, said: list[str]
) -> None:
    """Even where nobody has said that it is a channel: from one file they are one picture."""
    viewer.layers.clear()
    doubtful = dark((256, 256))
    doubtful[100:140, 100:140] = 0.5
    with layer_source(path="cells.tif"):
        first, second = Image(dark((256, 256)), name="a"), Image(doubtful, name="b")
    for layer in (first, second):
        viewer.add_layer(layer)
    use(plugin, reader())
    plugin.sources.choose_image(first)
    plugin.sources.new_annotation()
    for press in (plugin.next_region.next_region, plugin.next_region.next_plane):
        press()
        found = plugin.next_region.suggestion
        assert found is not None
        assert found.layer is first
        assert plugin.session.image is first
        assert said[-1].startswith("a: ")


def test_what_is_painted_is_not_asked_for_again(
    plugin: Plugin, viewer: ViewerModel, said: list[str]
) -> None:
    use(plugin, reader())
    viewer.layers.remove("series")
    labels = plugin.sources.new_annotation()
    assert labels is not None
    labels.data_setitem(np.nonzero(np.ones((128, 128), bool)), BACKGROUND_LABEL)
    plugin.next_region.next_region()
    assert said[-1] == ALL_DONE
    assert plugin.next_region.suggestion is None


def test_without_model_or_image_it_is_said(
    plugin: Plugin, viewer: ViewerModel, said: list[str]
) -> None:
    plugin.next_region.next_region()
    assert said[-1] == messages.NO_MODEL
    use(plugin, reader())
    plugin.next_region.next_disagreement()
    assert said[-1] == messages.NO_OTHER_MODEL
    viewer.layers.clear()
    plugin.next_region.next_region()
    assert "No open image" in said[-1]
    plugin.next_region.next_plane()
    assert said[-1] == messages.NO_IMAGE


def test_next_disagreement_shows_where_the_masks_differ(
    plugin: Plugin, viewer: ViewerModel
) -> None:
    viewer.layers["series"].data[0, 20:50, 200:230] = 0.35
    use(plugin, reader(threshold=0.2), reader(threshold=0.45))
    plugin.next_region.next_disagreement()
    found = plugin.next_region.suggestion
    assert found is not None
    assert (found.layer.name, found.plane) == ("series", (0,))
    assert found.region[0].start <= 35 < found.region[0].stop
    assert found.region[1].start <= 215 < found.region[1].stop


def test_next_plane_steps_over_what_is_labelled_and_then_to_other_images(
    plugin: Plugin, viewer: ViewerModel, said: list[str]
) -> None:
    series, single = viewer.layers["series"], viewer.layers["single"]
    plugin.sources.choose_image(series)
    labels = plugin.sources.new_annotation()
    assert labels is not None
    viewer.dims.set_point(0, 0)

    def paint(plane: int) -> None:
        labels.data_setitem((np.array([plane]), np.array([3]), np.array([4])), 1)

    paint(1)
    plugin.next_region.next_plane()
    assert napari_layers.plane_on_screen(viewer, series, 2) == (2,)
    paint(2)
    paint(3)
    plugin.next_region.next_plane()
    assert plugin.session.image is series
    assert napari_layers.plane_on_screen(viewer, series, 2) == (0,)
    paint(0)
    plugin.next_region.next_plane()
    assert plugin.session.image is single
    other = plugin.sources.new_annotation()
    assert other is not None
    other.data_setitem((np.array([3]), np.array([4])), 1)
    plugin.next_region.next_plane()
    assert said[-1] == messages.NO_PLANE_LEFT


def test_the_uncertainty_lies_over_the_image_and_follows_plane_and_wish(
    plugin: Plugin, viewer: ViewerModel
) -> None:
    use(plugin, reader())
    series = viewer.layers["series"]
    plugin.sources.choose_image(series)
    viewer.dims.set_point(0, 4.0)
    active = viewer.layers.selection.active
    plugin.uncertainty.show(True)
    plugin.tick()
    layer = viewer.layers["series · uncertainty"]
    assert layer.data.shape == series.data.shape
    assert layer.data.dtype == np.float32
    np.testing.assert_array_equal(layer.scale, series.scale)
    np.testing.assert_array_equal(layer.translate, series.translate)
    assert layer.data[2, 210, 40] == pytest.approx(1.0, abs=1e-3)
    assert layer.data[2, 50, 50] == pytest.approx(0.0, abs=1e-3)
    assert not layer.data[0].any()
    assert viewer.layers.selection.active is active
    assert layer not in plugin.sources.images()
    assert plugin.session.image is series
    viewer.dims.set_point(0, 0.0)
    plugin.tick()
    assert layer.data[0].any()
    plugin.uncertainty.show(False)
    assert layer not in viewer.layers


def test_when_nothing_else_is_to_be_done_the_uncertainty_is_averaged(
    plugin: Plugin, viewer: ViewerModel
) -> None:
    use(plugin, random_model(1, depth=2, width=4))
    now = 0.0
    plugin.next_region.clock = lambda: now
    series = viewer.layers["series"]
    plugin.sources.choose_image(series)
    viewer.dims.set_point(0, 4.0)
    plugin.uncertainty.show(True)
    plugin.tick()
    layer = viewer.layers["series · uncertainty"]
    once = layer.data[2].copy()
    stack, model = plugin.sources.stack(), plugin.session.newest_model
    assert once == pytest.approx(uncertainty_map(model, stack, (2,)), abs=1e-5)
    now = 1.0
    plugin.tick()
    four = uncertainty_map(model, stack, (2,), passes=4)
    assert np.abs(four - once).max() > 0.01
    assert layer.data[2] == pytest.approx(four, abs=1e-5)
    layer.data[2] = 0.0
    now = 2.0
    plugin.tick()
    assert not layer.data[2].any(), "it is made once"


def test_a_deleted_uncertainty_layer_is_no_longer_wished_for(
    plugin: Plugin, viewer: ViewerModel
) -> None:
    use(plugin, reader())
    plugin.uncertainty.show(True)
    plugin.tick()
    viewer.layers.remove(f"{plugin.session.image.name} · uncertainty")
    plugin.tick()
    assert not plugin.session.uncertain


def test_nothing_is_kept_of_an_image_that_is_gone(plugin: Plugin, viewer: ViewerModel) -> None:
    use(plugin, reader())
    plugin.next_region.next_region()
    plugin.uncertainty.show(True)
    plugin.tick()
    survey = weakref.ref(plugin.next_region._queries["region"][1])
    assert plugin.next_region.suggestion is not None
    gone = plugin.next_region.suggestion.layer
    name = f"{gone.name} · uncertainty"
    viewer.layers.remove(gone)
    gc.collect()
    assert survey() is None
    assert plugin.next_region.suggestion is None
    assert name not in viewer.layers
    plugin.next_region.next_region()
    assert plugin.next_region.suggestion is not None
    assert plugin.next_region.suggestion.layer is not gone


def test_next_answers_while_a_training_goes_on() -> None:
    viewer = ViewerModel()
    viewer.add_layer(Image(squares(), name="squares"))
    viewer.add_layer(Labels(strokes(), name="strokes"))
    plugin = Plugin(viewer, ThreadRunner())
    session = plugin.session
    session.change_settings(**{**TINY, "steps": 100_000})
    plugin.training.start()
    wait(plugin, lambda: session.improved is not None)
    assert session.entry is None
    plugin.next_region.next_region()
    wait(plugin, lambda: plugin.next_region.suggestion is not None)
    assert session.job is not None, "Training continues"
    assert plugin.next_region.suggestion is not None
    assert plugin.next_region.suggestion.region == (slice(0, SIDE), slice(0, SIDE))
    names = {thread.name for thread in threading.enumerate()}
    plugin.jobs.stop()
    wait(plugin, lambda: session.job is None)
    assert session.improved is None
    assert "unetseg-job" in names
    assert plugin.close()


def wait(plugin: Plugin, condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, plugin.session.message.text
        plugin.tick()
        time.sleep(0.005)
