"""Live masks with nothing else to do; trainings that strokes begin; without and with threads."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gui_parts import squares, strokes
from live_parts import Puppet, constant
from napari.components import ViewerModel
from napari.layers import Image, Labels
from sync_runner import SyncRunner

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.annotations.sparse_array import whole
from napari_unetseg.core.events import TilePredicted
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.gui.features import training
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services.job_runner import ThreadRunner
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind, Level, Mode, ModelEntry
from napari_unetseg.inference.tiling import Tile, nearest_first
from napari_unetseg.jobs.live_predictor import (
    MaskStarted,
    Viewport,
    ViewportState,
    ViewportTask,
    near,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANES = 30


class Reads:
    """A stack whose reading may be held up, and whose planes may be broken."""

    def __init__(self, planes: int = PLANES) -> None:
        self.data = squares((planes,))
        self.shape, self.dtype, self.ndim = self.data.shape, self.data.dtype, 3
        self.held = False
        self.broken: set[int] = set()
        self.free = threading.Event()
        self.free.set()

    def __getitem__(self, index: Any) -> np.ndarray:
        first = index[0] if isinstance(index, tuple) else index
        if threading.current_thread() is not threading.main_thread():
            self.held = not self.free.is_set()
            assert self.free.wait(60)
        if isinstance(first, int | np.integer) and int(first) in self.broken:
            raise OSError(f"plane {int(first)} is gone")
        return np.asarray(self.data[index])


class Desk:
    """A plugin over a stack, with strokes, a model that says 1, and a mask of plane 0."""

    def __init__(self, runner: Any, planes: int = PLANES) -> None:
        self.source = Reads(planes)
        self.viewer = ViewerModel()
        self.image = self.viewer.add_layer(Image(self.source.data, name="cells"))
        self.strokes = self.viewer.add_layer(Labels(strokes((planes,)), name="strokes"))
        self.viewer.dims.set_point(0, 0)
        self.plugin = Plugin(self.viewer, runner)
        self.session = self.plugin.session
        self.session.entry = ModelEntry(constant(1), "says 1")
        self.said: list[str] = []
        self.session.events.message.connect(lambda m: self.said.append(m.text))
        self.begun: list[int] = []

        def watch(kind: JobKind, event: Any) -> None:
            if kind is JobKind.LIVE and isinstance(event, MaskStarted):
                self.begun.append(event.view.plane[0])

        self.plugin.events.job_event.connect(watch)
        self.plugin.prediction.predict_plane()
        self.wait(lambda: self.session.job is None)
        stack = Stack(self.source, "ZYX", name="cells")  # type: ignore[arg-type]
        self.plugin.sources.stack = lambda: stack  # type: ignore[method-assign]

    def wait(self, condition: Any, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain; {self.session.message.text}"
            self.plugin.tick()
            time.sleep(0.002)

    def scroll(self, plane: int) -> None:
        self.viewer.dims.set_point(0, plane)

    def rests(self) -> bool:
        return not self.plugin.jobs.idle_runs and not self.plugin.runner.busy

    def settle(self) -> None:
        """Until nothing is begun any more."""
        self.plugin.tick()
        self.wait(self.rests)
        self.plugin.tick()
        assert self.rests()

    @property
    def mask(self) -> Labels:
        assert self.plugin.masks.current is not None
        assert self.plugin.masks.current.layer is not None
        return self.plugin.masks.current.layer

    def shown(self) -> list[int]:
        return [int(z) for z in np.flatnonzero((self.mask.data == 1).all(axis=(1, 2)))]

    def close(self) -> None:
        self.source.free.set()
        assert self.plugin.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("unetseg")]


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk(SyncRunner())
    yield one
    one.close()


@pytest.fixture
def threaded() -> Iterator[Desk]:
    constant(1)
    one = Desk(ThreadRunner())
    yield one
    one.close()


@pytest.fixture
def puppet(broken_core: Any) -> Puppet:
    puppet = Puppet()
    broken_core(puppet.train_events)
    return puppet


# -- which plane -----------------------------------------------------------------------------------


def test_scrolling_predicts_the_plane_and_its_neighbours_the_nearest_first(desk: Desk) -> None:
    desk.scroll(10)
    desk.plugin.tick()
    assert desk.begun == [10, 11, 9, 12, 8]
    assert desk.shown() == [0, 8, 9, 10, 11, 12]
    desk.scroll(11)
    desk.plugin.tick()
    assert len(desk.begun) == 5, "it is there already"
    desk.scroll(PLANES - 1)
    desk.plugin.tick()
    assert desk.begun[5:] == [PLANES - 1, PLANES - 2, PLANES - 3]


@pytest.mark.parametrize("mode", [Mode.ONCE, Mode.FROZEN])
def test_nothing_is_fetched_unless_it_is_live(desk: Desk, mode: Mode) -> None:
    desk.session.mode = mode
    desk.scroll(10)
    desk.plugin.tick()
    assert desk.begun == []
    assert desk.shown() == [0]
    desk.session.mode = Mode.LIVE
    desk.plugin.tick()
    assert desk.begun[0] == 10


def test_nothing_is_fetched_while_nobody_looks_or_no_mask_was_asked_for(desk: Desk) -> None:
    desk.plugin.session.watched = False
    desk.scroll(10)
    desk.plugin.tick()
    assert desk.begun == []
    desk.plugin.session.watched = True
    desk.viewer.layers.remove(desk.mask)
    desk.plugin.tick()
    assert desk.begun == []


def test_another_model_predicts_what_is_on_screen_anew(desk: Desk) -> None:
    desk.session.entry = ModelEntry(constant(0), "says 0")
    desk.plugin.tick()
    assert desk.begun == [0, 1, 2]
    assert desk.shown() == []


def test_near_planes_lie_along_the_last_leading_axis() -> None:
    stack = Stack.from_array(np.zeros((2, 5, 8, 8), np.uint8))
    assert near(Viewport("layer", stack, (1, 1)), 2) == [(1, 1), (1, 2), (1, 0), (1, 3)]
    flat = Stack.from_array(np.zeros((8, 8), np.uint8))
    assert near(Viewport("layer", flat, ()), 2) == [()]


def test_a_new_view_drops_what_is_under_way() -> None:
    stack = Stack.from_array(np.zeros((20, 1100, 8), np.uint8))
    screen = ViewportState()
    screen.view = Viewport("layer", stack, (3,))
    work = ViewportTask(constant(1), screen, "cpu", frozenset())
    planes: list[int] = []
    for event in work(JobControl(1)):
        if isinstance(event, TilePredicted):
            planes.append(event.plane[0])
            if len(planes) == 1:
                screen.view = Viewport("layer", stack, (12,))
    assert planes[0] == 3
    assert planes[1:] == [p for p in (12, 13, 11, 14, 10) for _ in range(2)]


def test_tiles_come_in_order_of_their_distance_from_what_is_seen_now() -> None:
    def tile(row: int) -> Tile:
        core = (slice(10 * row, 10 * row + 10), slice(0, 10))
        return Tile(core, core)

    tiles = [tile(n) for n in range(6)]
    assert list(nearest_first(tiles, lambda: None)) == tiles
    seen = iter([(slice(40, 50), slice(0, 10)), *[(slice(0, 10), slice(0, 10))] * 5])
    assert list(nearest_first(tiles, lambda: next(seen))) == [tiles[n] for n in (4, 0, 1, 2, 3, 5)]


# -- what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [False, True])
def test_another_exposure_is_said_once_and_not_with_every_plane(
    desk: Desk, in_memory: bool
) -> None:
    desk.source.data = desk.source.data.astype(np.uint16) * 3
    if in_memory:
        bright = Stack(desk.source.data, "ZYX", name="cells")
        desk.plugin.sources.stack = lambda: bright  # type: ignore[method-assign]
    for plane in (10, 11, 20, 10):
        desk.scroll(plane)
        desk.plugin.tick()
    assert {10, 11, 20} <= set(desk.shown())
    said = [text for text in desk.said if "is brighter than the training images" in text]
    assert len(said) == 1
    assert desk.session.message.text == said[0]


def test_what_is_said_of_an_image_stays_when_its_prediction_is_there(desk: Desk) -> None:
    assert desk.session.message.text.startswith("Prediction shown")
    desk.source.data = desk.source.data.astype(np.uint16) * 3
    desk.plugin.prediction.predict_plane()
    desk.wait(lambda: desk.session.job is None)
    assert desk.session.message.text.startswith("cells is brighter than the training images (")
    assert "Prediction shown" in desk.session.message.text


def warned(desk: Desk, pixels: np.ndarray) -> None:
    """A model that knows the image; then the image has other pixels."""
    usual = Normalization.choose([Stack(desk.source.data, "ZYX")])
    desk.session.entry = ModelEntry(replace(constant(1), normalization=usual), "knows it")
    desk.source.data = pixels


def test_a_mask_that_may_be_wrong_is_warned_of(desk: Desk) -> None:
    saturated = np.minimum(desk.source.data, np.percentile(desk.source.data, 70))
    warned(desk, saturated)
    desk.scroll(10)
    desk.settle()
    assert "is saturated" in desk.session.message.text
    assert desk.session.message.level is Level.WARNING
    desk.plugin.prediction.predict_plane()
    desk.wait(lambda: desk.session.job is None)
    assert "is saturated" in desk.session.message.text
    assert desk.session.message.text.endswith(messages.NOT_VALIDATED)
    assert desk.session.message.level is Level.WARNING


def test_an_exposure_that_is_made_up_for_is_no_warning(desk: Desk) -> None:
    warned(desk, desk.source.data.astype(np.uint16) * 3)
    desk.scroll(10)
    desk.settle()
    desk.plugin.prediction.predict_plane()
    desk.wait(lambda: desk.session.job is None)
    assert "is brighter than" in desk.session.message.text
    assert desk.session.message.level is Level.INFO


def test_the_warning_of_another_pixel_size_stays_beside_what_else_is_said(desk: Desk) -> None:
    warned(desk, desk.source.data.astype(np.uint16) * 3)
    assert desk.session.entry is not None
    model = replace(desk.session.entry.model, spacing=(0.2, 0.2), units=("um", "um"))
    desk.session.entry = ModelEntry(model, "of other pixels")
    stack = Stack(desk.source, "ZYX", (1.0, 0.05, 0.05), ("um",) * 3, name="cells")  # type: ignore[arg-type]
    desk.plugin.sources.stack = lambda: stack  # type: ignore[method-assign]
    desk.session.mode = Mode.ONCE
    desk.plugin.prediction.predict_plane()
    desk.wait(lambda: desk.session.job is None)
    text = desk.session.message.text
    assert text.index("cells has pixels of 0.05 µm") < text.index("is brighter than")
    assert desk.session.message.level is Level.WARNING


# -- what goes wrong -------------------------------------------------------------------------------


def test_an_error_is_said_once_and_not_tried_again_and_again(desk: Desk) -> None:
    desk.source.broken = {10}
    desk.scroll(10)
    for _ in range(3):
        desk.plugin.tick()
    assert desk.begun == [10]
    assert len(desk.said) == len([s for s in desk.said if "plane 10 is gone" in s]) + 1
    assert desk.session.message.level is Level.WARNING
    desk.scroll(11)
    for _ in range(3):
        desk.plugin.tick()
    assert desk.begun == [10, 11, 12, 10]
    desk.scroll(10)
    desk.plugin.tick()
    assert desk.begun == [10, 11, 12, 10], "it is known to fail"
    assert len([s for s in desk.said if "plane 10 is gone" in s]) == 1


# -- trainings that strokes begin ------------------------------------------------------------------


def paint(desk: Desk, row: int = 2) -> None:
    desk.strokes.data_setitem(tuple(np.array([i]) for i in (0, row, 2)), 1)


def trains(desk: Desk) -> bool:
    """Whether time that passes begins a training."""
    begun: list[Any] = []
    desk.session.events.job.connect(begun.append)
    desk.plugin.tick()
    desk.session.events.job.disconnect(begun.append)
    return any(job is not None and job.kind is JobKind.TRAIN for job in begun)


@pytest.mark.parametrize("stopped", [False, True], ids=["ended by itself", "stopped"])
def test_strokes_begin_a_training_anew_if_it_ended_by_itself(
    desk: Desk, broken_core: Any, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    from napari_unetseg.training.training_events import (
        ModelUpdated,
        Outcome,
        TrainingDone,
        TrainingPrepared,
    )

    newer: list[Any] = []

    def train_events(pairs: Any, *_: Any, **__: Any) -> Any:
        newer.append([region for pair in pairs for region in pair.newer])
        yield TrainingPrepared(0, 5, 10, 100, 0, 0, "cpu", 99, (32, 32), 2)
        yield ModelUpdated(constant(1), None, 0.0)
        if stopped:
            desk.plugin.jobs.stop()
        yield TrainingDone(Outcome.EARLY_STOPPED, "Done.", None, 1, 1, 1.0)
        return constant(1)

    broken_core(train_events)
    monkeypatch.setattr(training, "PAUSE_SECONDS", 0.0)
    paint(desk)
    assert not trains(desk), "nobody pressed Train yet"
    desk.plugin.training.start()
    assert not trains(desk), "nothing was painted since"
    paint(desk, 3)
    desk.session.mode = Mode.ONCE
    assert not trains(desk)
    desk.session.mode = Mode.LIVE
    assert trains(desk) is not stopped
    assert not trains(desk)
    assert len(newer) == 1 + (not stopped)
    if not stopped:
        assert [region[1] for region in newer[-1]] == [slice(3, 4)], "what was painted since"


def test_a_training_begins_anew_only_when_hands_rest(
    desk: Desk, broken_core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PAUSE_SECONDS", 1e9)
    desk.plugin.session.retrain = True
    paint(desk)
    assert not trains(desk)


def test_what_was_learned_while_it_trained_begins_no_other_training(
    threaded: Desk, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PAUSE_SECONDS", 0.0)
    threaded.plugin.training.start()
    threaded.wait(lambda: bool(threaded.session.choices))
    paint(threaded)
    threaded.wait(lambda: bool(puppet.offered))
    threaded.plugin.jobs.stop()
    threaded.wait(lambda: bool(threaded.session.history) and threaded.session.job is None)
    threaded.plugin.session.retrain = True
    threaded.settle()
    assert len(threaded.session.history) == 1
    paint(threaded, 5)
    threaded.wait(lambda: threaded.session.job is not None)
    assert threaded.session.job is not None
    assert threaded.session.job.kind is JobKind.TRAIN


# -- with threads ----------------------------------------------------------------------------------


def hold(desk: Desk, plane: int) -> None:
    """A look is under way, and its worker waits for its image."""
    desk.source.free.clear()
    desk.scroll(plane)
    desk.wait(lambda: desk.source.held)
    assert desk.plugin.jobs.idle_runs


def test_train_pressed_while_a_look_is_under_way_begins_after_it(
    threaded: Desk, puppet: Puppet
) -> None:
    hold(threaded, 10)
    threaded.plugin.training.start()
    assert threaded.session.job is not None
    threaded.plugin.prediction.predict_plane()
    assert threaded.session.message.level is Level.WARNING, "one job at a time"
    threaded.source.free.set()
    threaded.wait(lambda: bool(threaded.session.choices))
    assert threaded.session.job.kind is JobKind.TRAIN
    assert not threaded.plugin.jobs.idle_runs
    threaded.plugin.jobs.stop()
    threaded.wait(lambda: threaded.session.job is None)
    assert len(threaded.session.history) == 1


def test_predict_pressed_while_a_look_is_under_way_shows_its_mask(threaded: Desk) -> None:
    hold(threaded, 10)
    threaded.plugin.prediction.predict_stack()
    threaded.source.free.set()
    threaded.wait(lambda: threaded.session.job is None)
    assert threaded.shown() == list(range(PLANES))


def test_a_mask_that_was_deleted_while_it_was_looked_at_stays_away(threaded: Desk) -> None:
    hold(threaded, 10)
    layer = threaded.mask
    threaded.viewer.layers.remove(layer)
    threaded.source.free.set()
    threaded.settle()
    assert not [one for one in threaded.viewer.layers if "prediction" in one.name]


def test_another_model_ends_the_look_of_the_one_before(threaded: Desk) -> None:
    hold(threaded, 10)
    threaded.session.entry = ModelEntry(constant(0), "says 0")
    threaded.plugin.tick()
    threaded.source.free.set()
    prediction = threaded.plugin.masks.current
    assert prediction is not None
    threaded.wait(lambda: prediction.masks.is_fresh((10,), constant(0).id))
    assert threaded.shown() == [0]
    threaded.wait(threaded.rests)


def test_planes_that_are_passed_by_are_not_predicted(threaded: Desk) -> None:
    hold(threaded, 3)
    for plane in range(4, 25):
        threaded.scroll(plane)
        threaded.plugin.tick()
    threaded.source.free.set()
    threaded.wait(lambda: 24 in threaded.shown())
    threaded.settle()
    assert threaded.begun == [3, 24, 25, 23, 26, 22]
    assert set(threaded.shown()) - {3} == {0, 22, 23, 24, 25, 26}


def test_closing_while_a_look_is_under_way_leaves_nothing(threaded: Desk) -> None:
    hold(threaded, 10)
    threaded.plugin.training.start()
    threading.Timer(0.2, threaded.source.free.set).start()
    assert threaded.plugin.close()
    assert not threaded.session.history, "a training that waited is not begun"


def test_strokes_painted_while_a_look_runs_are_all_kept(threaded: Desk) -> None:
    rng = np.random.default_rng(0)
    wanted = threaded.strokes.data.copy()
    corrected = np.zeros_like(wanted)
    threaded.session.entry = ModelEntry(constant(1, 0.7), "says 1 too")
    for turn in range(60):
        plane = int(rng.integers(0, PLANES))
        threaded.scroll(plane)
        row, column = (int(n) for n in rng.integers(0, 64, 2))
        at = tuple(np.array([i]) for i in (plane, row, column))
        threaded.strokes.data_setitem(at, 1 + turn % 2)
        wanted[plane, row, column] = 1 + turn % 2
        threaded.mask.data_setitem(at, 2)
        corrected[plane, row, column] = 2
        threaded.plugin.tick()
    threaded.settle()
    truth = threaded.plugin.annotations.of(threaded.image)
    everything = whole(truth.shape)
    np.testing.assert_array_equal(threaded.strokes.data, wanted)
    np.testing.assert_array_equal(truth.read(LabelSource.STROKES, everything), wanted)
    np.testing.assert_array_equal(truth.read(LabelSource.CORRECTIONS, everything), corrected)
    assert (threaded.mask.data[corrected == 2] == 2).all()
