"""A check of quality without a window: places, truth, results, and nothing of it in a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_parts import reader
from live_parts import Puppet
from napari.components import ViewerModel
from napari.layers import Image, Labels
from sync_runner import SyncRunner

from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX, LabelKind
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services.annotation_snapshot import pairs_of
from napari_unetseg.gui.services.job_runner import ThreadRunner
from napari_unetseg.gui.state.session import Mode, ModelEntry
from napari_unetseg.io.project.place_rows import CheckedPlace, PlaceState
from napari_unetseg.io.project.project import Project
from napari_unetseg.training.training_events import StepDone

SIDE = 256


def picture(planes: tuple[int, ...] = ()) -> np.ndarray:
    """Bright rectangles on a dark ground, float32; `reader` finds what is bright."""
    image = np.zeros((*planes, SIDE, SIDE), np.float32)
    image[..., 30:120, 40:200] = 0.9
    image[..., 170:230, 10:90] = 0.9
    return image


def strokes(planes: tuple[int, ...] = ()) -> np.ndarray:
    labels = np.zeros((*planes, SIDE, SIDE), np.uint8)
    labels[..., 60:64, 60:180] = labels[..., 200:204, 30:70] = 1
    labels[..., 140:144, 20:240] = labels[..., 10:14, 20:240] = BACKGROUND_LABEL
    return labels


@pytest.fixture
def viewer() -> ViewerModel:
    viewer = ViewerModel()
    viewer.canvas.size = (600, 800)
    viewer.add_layer(Image(picture(), name="one"))
    viewer.add_layer(Labels(strokes(), name="strokes"))
    viewer.add_layer(Image(picture((2,)), name="series"))
    return viewer


@pytest.fixture
def plugin(viewer: ViewerModel) -> Iterator[Plugin]:
    one = Plugin(viewer, SyncRunner())
    one.session.mode = Mode.FROZEN
    one.sources.choose_image(viewer.layers["one"])  # its strokes are found
    one.models.add(ModelEntry(reader(), "Model 1 · Dice 1.00"))
    yield one
    one.disconnect()


def pending(plugin: Plugin) -> list[CheckedPlace]:
    return plugin.checked.of_state(PlaceState.PENDING)


def paint(plugin: Plugin, place: CheckedPlace, number: int, part: int = 2) -> None:
    """Paint over the upper part of a place with the tools of the prediction layer."""
    mask = plugin.masks.predictions[plugin.checked.image_of(place)].layer
    assert mask is not None
    *leading, y, x = place.region
    rows = slice(y.start, y.start + (y.stop - y.start) // part)
    at = np.array([(r, c) for r in range(rows.start, rows.stop) for c in range(x.start, x.stop)])
    index = (*(np.full(len(at), s.start) for s in leading), at[:, 0], at[:, 1])
    mask.data_setitem(index, number)


def check(plugin: Plugin, count: int = 6) -> list[CheckedPlace]:
    """All places are right as they are."""
    plugin.quality_check.begin(count)
    while pending(plugin):
        plugin.quality_check.right()
    return plugin.checked.of_state(PlaceState.CHECKED)


def dataset(plugin: Plugin, dims: int = 2) -> TrainingDataset:
    return TrainingDataset(pairs_of(plugin.feed.snapshots()), dims, 0.3)


def labelled_in(data: TrainingDataset, plugin: Plugin, place: CheckedPlace) -> int:
    """Voxels of a place that count and that train or validate, in any image of its shape."""
    shape = plugin.store.project.by_image[place.image].shape  # type: ignore[union-attr]
    found = 0
    for plane in data.planes:
        if plane.stack.grid_shape != shape or plane.index != tuple(
            s.start for s in place.region[:-2]
        ):
            continue
        counts = (place.truth != 0).reshape(place.truth.shape[-2:])
        for labels in (plane.train, plane.validate):
            found += int(((labels[place.region[-2:]] != IGNORE_INDEX) & counts).sum())
    return found


def test_a_perfect_mask_is_told_from_a_wrong_one(plugin: Plugin) -> None:
    places = check(plugin)
    (quality,) = plugin.session.quality
    assert quality.name == "Model 1"
    assert quality.structures[1].dice == 1.0
    assert quality.places == len(places) == 6
    assert {plugin.checked.image_of(p).name for p in places} == {"one", "series"}


def test_what_is_corrected_is_the_truth_and_lowers_the_score(plugin: Plugin) -> None:
    plugin.quality_check.begin(4)
    place = pending(plugin)[0]
    paint(plugin, place, 1)
    paint(plugin, place, 0, part=4)
    plugin.quality_check.right()
    (done,) = plugin.checked.of_state(PlaceState.CHECKED)
    counts = done.truth != 0
    height = done.truth.shape[-2]
    upper = done.truth[..., : height // 4, :]
    middle = done.truth[..., height // 4 : height // 2, :]
    assert set(np.unique(upper)) <= {0, BACKGROUND_LABEL}
    assert set(np.unique(middle)) <= {0, 1}
    assert (counts == (place.truth != 0)).all()
    (quality,) = plugin.session.quality
    assert quality.structures[1].dice < 1.0


def test_places_are_of_what_nobody_labelled(plugin: Plugin, viewer: ViewerModel) -> None:
    image = viewer.layers["one"]
    plugin.quality_check.begin(60)
    painted = strokes() != 0
    here = [p for p in pending(plugin) if plugin.checked.image_of(p) is image]
    assert here
    assert any(painted[p.region].any() for p in here)
    for place in here:
        assert ((place.truth == 0) == painted[place.region]).all()


def test_the_same_seed_draws_the_same_places(plugin: Plugin) -> None:
    found = []
    for seed in (5, 5, 6):
        plugin.quality_check.begin(5, seed)
        found.append([(p.image, p.region, p.weight) for p in pending(plugin)])
        plugin.quality_check.stop()
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("kind", [LabelKind.STROKES, LabelKind.FULL])
def test_nothing_of_a_checked_or_pending_place_trains_until_it_is_released(
    plugin: Plugin, viewer: ViewerModel, kind: LabelKind
) -> None:
    plugin.quality_check.begin(60)  # all there are, so that every voxel nobody labelled is held out
    plugin.quality_check.right()
    for place in pending(plugin)[:20]:
        paint(plugin, place, 1)
        plugin.quality_check.right()
    labels = viewer.layers["strokes"]
    everything = tuple(a.ravel() for a in np.indices((SIDE, SIDE)))
    before = np.asarray(labels.data).copy()
    labels.data_setitem(everything, np.where(before.ravel() == 0, 1, before.ravel()))
    if kind is LabelKind.FULL:
        full = np.asarray(labels.data) % BACKGROUND_LABEL
        plugin.session.image = viewer.layers["one"]
        layer = viewer.add_layer(Labels(full.astype(np.uint8), name="full"))
        plugin.session.change_source(labels=layer, kind=kind)
    held = [p for p in plugin.checked.places if p.held_out]
    assert len(held) == 48
    data = dataset(plugin)
    assert [labelled_in(data, plugin, place) for place in held] == [0] * len(held)
    assert data.train_voxels + sum(int(p.validate.sum()) for p in data.planes)
    plugin.quality_check.use_for_training()
    released = plugin.checked.of_state(PlaceState.RELEASED)
    assert len(released) == 21
    data = dataset(plugin)
    for place in released:
        assert labelled_in(data, plugin, place) > 0


def test_corrections_in_a_place_begin_no_training_and_are_none_of_its_news(plugin: Plugin) -> None:
    plugin.quality_check.begin(3)
    plugin.feed.clear()
    paint(plugin, pending(plugin)[0], 1)
    assert plugin.feed.painted_at is None
    assert not plugin.feed.newer
    plugin.quality_check.right()
    plugin.quality_check.stop()
    plugin.quality_check.use_for_training()
    assert plugin.feed.painted_at is not None


def test_a_released_place_keeps_the_figures_of_earlier_models_and_measures_no_later_one(
    plugin: Plugin,
) -> None:
    check(plugin)
    plugin.models.add(ModelEntry(reader(threshold=0.4), "Model 2"))
    first, second = (one.model for one in plugin.session.quality)
    plugin.quality_check.use_for_training()
    plugin.models.add(ModelEntry(reader(threshold=0.6), "Model 3"))
    assert [one.model for one in plugin.session.quality] == [first, second]
    plugin.quality_check.begin(3)
    while pending(plugin):
        plugin.quality_check.right()
    assert [one.places for one in plugin.session.quality] == [9, 9, 3]


def test_what_the_user_said_since_stays_when_places_are_released(plugin: Plugin) -> None:
    plugin.quality_check.begin(1)
    place = pending(plugin)[0]
    plugin.quality_check.right()
    paint(plugin, place, 0)
    plugin.quality_check.use_for_training()
    image = plugin.checked.image_of(place)
    said = plugin.annotations.of(image).overrides(place.region)
    upper = (slice(None),) * (said.ndim - 2) + (slice(0, said.shape[-2] // 2),)
    changed = said[upper][place.truth[upper] != 0]
    assert (changed == BACKGROUND_LABEL).all()


def test_skipped_places_do_not_count_and_are_trained_on(plugin: Plugin) -> None:
    plugin.quality_check.begin(3)
    plugin.quality_check.skip()
    plugin.quality_check.right()
    plugin.quality_check.right()
    assert plugin.session.checking is None
    assert [p.held_out for p in plugin.checked.places].count(False) == 1
    assert plugin.session.quality[0].places == 2


def test_a_check_goes_on_after_the_program_was_killed(plugin: Plugin, viewer: ViewerModel) -> None:
    plugin.quality_check.begin(5)
    plugin.quality_check.right()
    assert plugin.session.checking == (2, 5)
    assert plugin.store.project is not None
    read = Project.read(plugin.store.project.folder)
    assert [p.state for p in read.places.values()].count(PlaceState.PENDING) == 4
    (done,) = (p for p in read.places.values() if p.state is PlaceState.CHECKED)
    assert list(done.models) == [plugin.session.history[0].model.id]
    folder = plugin.store.project.folder
    plugin.close()
    again = Plugin(viewer, SyncRunner())
    again.restore.open(folder)
    assert again.session.unchecked == 4
    assert [one.places for one in again.session.quality] == [1]
    again.quality_check.begin()
    assert again.session.checking == (2, 5)
    again.disconnect()


class Running:
    """A training in live mode that hands out models on demand, with threads of its own."""

    def __init__(self, viewer: ViewerModel) -> None:
        self.puppet = Puppet()
        self.plugin = Plugin(viewer, ThreadRunner())
        self.image, self.steps = viewer.layers["one"], 0
        self.plugin.sources.choose_image(self.image)
        self.plugin.events.job_event.connect(self._on_event)

    def _on_event(self, _: Any, event: Any) -> None:
        self.steps += isinstance(event, StepDone)

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, self.plugin.session.message.text
            self.plugin.tick()
            time.sleep(0.002)

    def rest(self) -> None:
        """Let the training take two more steps, with what comes between them."""
        steps = self.steps + 2
        self.wait(lambda: self.steps > steps)

    def shows(self, number: int) -> bool:
        """Whether the mask of the image is of this number nearly everywhere."""
        mask = self.plugin.masks.predictions.get(self.image)
        everywhere = (slice(0, SIDE), slice(0, SIDE))
        return mask is not None and bool((mask.masks.shown(everywhere) == number).mean() > 0.9)


@pytest.fixture
def running(viewer: ViewerModel, broken_core: Callable[[Any], None]) -> Iterator[Running]:
    one = Running(viewer)
    broken_core(one.puppet.train_events)
    one.plugin.training.start()
    one.puppet.improve(1)
    one.wait(lambda: one.shows(1))
    yield one
    one.plugin.close()


def test_the_mask_stays_as_it_is_while_the_user_judges_it(running: Running) -> None:
    """Newer models of a training that goes on are shown when the check has ended."""
    check, session = running.plugin.quality_check, running.plugin.session
    check.begin(1)
    running.wait(lambda: session.checking is not None)
    newer = running.puppet.improve(0)
    running.wait(lambda: session.improved is newer)
    running.rest()
    assert running.shows(1)
    check.stop()
    running.wait(lambda: running.shows(0))


def test_labels_in_a_place_that_is_left_out_reach_the_training_that_runs(running: Running) -> None:
    check, puppet = running.plugin.quality_check, running.puppet
    check.begin(3)
    running.wait(lambda: running.plugin.session.checking is not None)
    place = next(p for p in pending(running.plugin) if len(p.region) == 2)
    counts = place.truth != 0
    paint(running.plugin, place, 0)
    running.rest()

    def received() -> bool:
        found = [pair.corrections for pairs in puppet.offered for pair in pairs]
        return any(one is not None and one[place.region][counts].any() for one in found)

    assert not received()
    check.stop()
    running.wait(received)


def test_no_place_of_an_image_that_was_removed_meanwhile_is_drawn(
    viewer: ViewerModel, running: Running
) -> None:
    running.plugin.quality_check.begin(60)
    viewer.layers.remove(viewer.layers["series"])
    running.wait(lambda: bool(pending(running.plugin)))
    assert {running.plugin.checked.image_of(p) for p in pending(running.plugin)} == {running.image}


def test_another_structure_is_measured_anew_when_it_is_merged(plugin: Plugin) -> None:
    plugin.structures.add()
    plugin.quality_check.begin(4)
    while places := pending(plugin):
        paint(plugin, places[0], 2)
        plugin.quality_check.right()
    assert 2 in plugin.session.quality[0].structures
    plugin.classes.merge(2, 1)
    assert set(plugin.session.quality[0].structures) == {1}
    plugin.undo.undo()
    assert set(plugin.session.quality[0].structures) == {1, 2}


def test_another_project_ends_the_check_and_its_own_goes_on_there(
    plugin: Plugin, tmp_path: Path
) -> None:
    plugin.quality_check.begin(4)
    first = plugin.store.project
    assert first is not None
    elsewhere = Plugin(ViewerModel(), SyncRunner())
    elsewhere.saving.save_as(tmp_path / "other")
    elsewhere.close()
    plugin.restore.open(tmp_path / "other")
    assert plugin.session.checking is None
    assert plugin.session.unchecked == 0
    plugin.restore.open(first.folder)
    assert plugin.session.unchecked == 4


@pytest.mark.parametrize("what", ["model", "image"])
def test_without_a_model_or_an_image_there_is_a_sentence(what: str) -> None:
    viewer = ViewerModel()
    one = Plugin(viewer, SyncRunner())
    if what == "image":
        one.models.add(ModelEntry(reader(), "Model 1"))
    said: list[Any] = []
    one.session.events.message.connect(said.append)
    one.quality_check.begin()
    assert said
    assert one.session.checking is None
    one.disconnect()


def test_a_frame_shows_the_place_and_goes_with_the_check(
    plugin: Plugin, viewer: ViewerModel
) -> None:
    names = {layer.name for layer in viewer.layers}
    plugin.quality_check.begin(2)
    place = pending(plugin)[0]
    image = plugin.checked.image_of(place)
    (frame,) = (layer for layer in viewer.layers if "place to check" in layer.name)
    corners = frame.data[0][:, -2:]
    *_, y, x = place.region
    assert (corners.min(0) == [y.start - 0.5, x.start - 0.5]).all()
    assert (corners.max(0) == [y.stop - 0.5, x.stop - 0.5]).all()
    mask = plugin.masks.predictions[image].layer
    assert viewer.layers.selection.active is mask
    assert mask.mode == "paint"
    plugin.quality_check.stop()
    left = {layer.name for layer in viewer.layers} - names
    assert left == {f"{image.name} · prediction"}


def test_places_are_not_released_before_every_model_is_measured(plugin: Plugin) -> None:
    check(plugin)
    plugin.session.measuring = True
    plugin.quality_check.use_for_training()
    assert not plugin.checked.of_state(PlaceState.RELEASED)
    plugin.session.measuring = False
    plugin.quality_check.use_for_training()
    assert len(plugin.checked.of_state(PlaceState.RELEASED)) == 6
