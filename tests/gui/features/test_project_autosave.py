"""What people do is in a project as they do it; opened again, all of it is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from gui_parts import SIDE, TINY, squares, strokes
from napari.components import ViewerModel
from napari.layers import Image, Labels
from project_parts import kill, no_room
from sync_runner import SyncRunner

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.features import project_autosave
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services import session_models
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level, Mode
from napari_unetseg.io.project import locations
from napari_unetseg.io.project.database import Database

pytestmark = pytest.mark.usefixtures("readers")
PLANE = (slice(0, SIDE), slice(0, SIDE))


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = str(tmp_path / "data"), str(tmp_path / "config")
    monkeypatch.setattr(locations.platformdirs, "user_data_dir", lambda *_, **__: data)
    monkeypatch.setattr(locations.platformdirs, "user_config_dir", lambda *_, **__: config)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "pictures" / "squares.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, squares())
    return path


@pytest.fixture
def work(picture: Path) -> Iterator[Plugin]:
    """A session on a file, with strokes, a model, a correction and an accepted place."""
    one = started(picture)
    plugin = one
    layer = plugin.viewer.layers[0]
    plugin.sources.choose_image(layer)
    annotations = plugin.sources.new_annotation()
    assert annotations is not None
    where = np.nonzero(strokes())
    annotations.data_setitem(where, strokes()[where])
    plugin.structures.rename(1, "square")
    plugin.training.start()
    prediction = plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    shown = prediction.layer.data
    prediction.layer.data_setitem((np.array([3, 3]), np.array([3, 4])), 1 - shown[3, 3:5])
    plugin.review.accept_plane()
    yield plugin
    plugin.disconnect()


def started(picture: Path | None) -> Plugin:
    viewer = ViewerModel()
    if picture is not None:
        viewer.open(str(picture))
    plugin = Plugin(viewer, SyncRunner())
    plugin.session.change_settings(**TINY)
    return plugin


def said(plugin: Plugin) -> list[np.ndarray]:
    assert plugin.session.image is not None
    truth = plugin.annotations.by_image[plugin.session.image]
    return [truth.read(origin, PLANE) for origin in LabelSource]


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def killed(plugin: Plugin) -> None:
    """The process ends without a word: nothing is written any more, and its lock is free."""
    project = plugin.store.project
    assert project is not None
    kill(project)
    plugin.store.project = None
    plugin.disconnect()


def assert_recovered(plugin: Plugin) -> None:
    """Kill the process; another one finds all that was said."""
    before = said(plugin)
    killed(plugin)
    again = started(None)
    again.restore.recover(again.session.recoveries[0])
    assert_same(said(again), before)
    again.disconnect()


def test_a_window_that_crashed_is_offered_and_brings_everything_back(
    work: Plugin, picture: Path
) -> None:
    before, session = said(work), work.session
    assert session.project is None
    strokes_before = session.training[0].labels.data.copy()
    mask = (
        work.masks.current.layer.data.copy()
        if work.masks.current and work.masks.current.layer
        else None
    )
    model = session.entry.model.id if session.entry else None
    killed(work)

    again = started(None)
    (recovery,) = again.session.recoveries
    assert recovery.names == ("squares",)
    again.restore.recover(recovery)
    assert again.session.message.text.endswith("is open with all its annotations.")
    assert_same(said(again), before)
    labels = again.session.training[0].labels
    np.testing.assert_array_equal(labels.data, strokes_before)
    assert labels.name == "squares · annotations"
    assert again.session.structures[0].name == "square"
    assert again.session.entry is not None
    assert again.session.entry.model.id == model
    assert again.masks.current is not None
    assert again.masks.current.layer is not None
    np.testing.assert_array_equal(again.masks.current.layer.data, mask)
    again.training.start()
    assert len(again.session.history) == 2
    assert again.session.recoveries == ()
    again.disconnect()


def test_strokes_fill_undo_redo_and_labels_of_ones_own_are_there_again(picture: Path) -> None:
    one = started(picture)
    own = np.zeros((SIDE, SIDE), np.int32)
    own[:5, :5] = 700
    layer = one.viewer.add_layer(Labels(own, name="objects"))
    one.sources.choose_labels(layer)
    layer.data_setitem((np.array([9]), np.array([9])), 900)
    layer.paint((20, 20), 31)
    layer.fill((50, 50), 77)
    layer.undo()
    layer.paint((40, 40), 32)
    layer.undo()
    layer.redo()
    now = layer.data.copy()
    killed(one)
    again = started(None)
    again.restore.recover(again.session.recoveries[0])
    found = again.session.training[0]
    np.testing.assert_array_equal(found.labels.data, now)
    assert found.labels.data.dtype == np.int32
    assert str(found.kind) == str(one.annotations.of(one.viewer.layers[0]).kind)
    again.disconnect()


def test_a_named_project_moves_with_its_images(work: Plugin, tmp_path: Path) -> None:
    before = said(work)
    folder = tmp_path / "pictures" / "project"
    work.saving.save_as(folder)
    assert work.session.project == folder
    assert list(locations.recovery_folder().glob("*")) == []
    assert locations.recent() == [folder]
    work.session.mode = Mode.ONCE
    labels = work.session.training[0].labels
    labels.data_setitem((np.array([60]), np.array([60])), BACKGROUND_LABEL)
    after = said(work)
    assert not np.array_equal(before[0], after[0])
    work.disconnect()
    shutil.move(tmp_path / "pictures", tmp_path / "elsewhere")
    again = started(None)
    again.restore.open(tmp_path / "elsewhere" / "project")
    assert_same(said(again), after)
    assert again.session.mode is Mode.ONCE
    assert Path(again.viewer.layers[0].source.path).parent == tmp_path / "elsewhere"
    assert again.session.settings.depth == TINY["depth"]
    again.disconnect()


@pytest.mark.parametrize("by", ["choosing its file", "dropping it"])
def test_a_missing_image_is_asked_for_and_nothing_of_it_is_lost(
    work: Plugin, picture: Path, tmp_path: Path, by: str
) -> None:
    before = said(work)
    folder = tmp_path / "project"
    work.saving.save_as(folder)
    work.disconnect()
    picture.rename(tmp_path / "other name.tif")
    again = started(None)
    again.restore.open(folder)
    assert "Not found: squares" in again.session.message.text
    assert again.session.missing == ("squares",)
    tifffile.imwrite(tmp_path / "not that.tif", np.zeros((SIDE, SIDE), np.uint8))
    again.restore.find(tmp_path / "not that.tif")
    assert again.session.message.text == messages.NOT_THAT_IMAGE.format("not that.tif")
    assert again.session.missing == ("squares",)
    if by == "dropping it":
        again.viewer.open(str(tmp_path / "other name.tif"))
        again.tick()
    else:
        again.restore.find(tmp_path / "other name.tif")
    assert again.session.missing == ()
    assert again.session.message.level is Level.DONE
    assert_same(said(again), before)
    again.disconnect()
    third = started(None)
    third.restore.open(folder)
    assert third.session.missing == (), "where it is was kept"
    third.disconnect()


def test_an_image_without_a_file_is_known_by_its_pixels(tmp_path: Path) -> None:
    one = started(None)
    one.viewer.add_layer(Image(squares(), name="made"))
    labels = one.sources.new_annotation()
    assert labels is not None
    labels.data_setitem((np.array([5]), np.array([6])), 1)
    killed(one)
    again = started(None)
    again.viewer.add_layer(Image(np.zeros((SIDE, SIDE)), name="made"))
    again.viewer.add_layer(Image(squares(), name="another name"))
    again.restore.recover(again.session.recoveries[0])
    assert again.session.image.name == "another name"
    assert again.session.training[0].labels.data[5, 6] == 1
    again.disconnect()


def test_looking_keeps_nothing_and_a_first_stroke_does(picture: Path) -> None:
    one = started(picture)
    one.sources.choose_image(one.viewer.layers[0])
    layer = one.viewer.add_layer(Labels(strokes(), name="strokes"))
    assert one.store.project is None
    layer.data_setitem((np.array([0]), np.array([0])), 1)
    assert one.store.project is not None
    one.disconnect()
    assert len(locations.recoveries()) == 1


def test_discarded_is_gone_and_others_are_not(work: Plugin, picture: Path) -> None:
    killed(work)
    other = started(picture)
    other.sources.choose_image(other.viewer.layers[0])
    labels = other.sources.new_annotation()
    assert labels is not None
    labels.data_setitem((np.array([0]), np.array([0])), 1)
    (recovery,) = other.session.recoveries
    other.restore.discard(recovery)
    assert not recovery.folder.exists()
    assert other.store.project is not None
    assert other.store.project.folder.exists()
    other.disconnect()


def test_a_full_disk_is_said_once_and_so_is_its_end(
    work: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences: list[str] = []
    work.session.events.message.connect(lambda m: sentences.append(m.text))
    monkeypatch.setattr(project_autosave, "RETRY_SECONDS", 0.0)
    labels = work.session.training[0].labels
    with no_room():
        for place in range(9):
            labels.data_setitem((np.array([place]), np.array([0])), 1)
        assert len([s for s in sentences if "what you do is kept in memory" in s]) == 1
        work.autosave.tick()
    work.autosave.tick()
    assert sentences[-1] == messages.KEPT_AGAIN
    assert_recovered(work)


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def models_on_disk(plugin: Plugin) -> set[str]:
    project = plugin.store.project
    assert project is not None
    return {file.stem for file in (project.folder / "models").glob("*.safetensors")}


@pytest.fixture
def sentences_of(work: Plugin) -> list[str]:
    sentences: list[str] = []
    work.session.events.message.connect(lambda m: sentences.append(m.text))
    return sentences


def test_a_model_that_found_no_room_is_said_and_written_when_there_is(
    work: Plugin, sentences_of: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetseg.models import model_file

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "content", full_disk)
        work.training.start()
        work.structures.rename(1, "disc")  # another occasion, at which it fails again
    new = work.session.history[-1]
    (text,) = [s for s in sentences_of if s.startswith(f"{new.name} could not be written")]
    assert "(no space left on device); it is kept in memory and will be written again" in text
    assert new.model.id not in models_on_disk(work)

    monkeypatch.setattr(project_autosave, "RETRY_SECONDS", 0.0)
    work.tick()
    assert sentences_of[-1] == messages.KEPT_AGAIN
    assert new.model.id in models_on_disk(work)
    work.tick()
    assert sentences_of.count(messages.KEPT_AGAIN) == 1
    killed(work)
    again = started(None)
    again.restore.recover(again.session.recoveries[0])
    assert [entry.model.id for entry in again.session.history][-1] == new.model.id
    again.disconnect()


def test_one_model_that_cannot_be_written_keeps_no_other_from_it(
    work: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetseg.models.model import Model

    write, first = Model.save, work.session.history[0].model
    project = work.store.project
    assert project is not None
    project.remove_model(first.id)

    def save(model: Model, path: Path) -> Path:
        if model is first:
            full_disk()
        return write(model, path)

    monkeypatch.setattr(Model, "save", save)
    work.saving.save_as(project.folder.parent / "named")  # which writes every model
    work.training.start()
    assert models_on_disk(work) == {work.session.history[-1].model.id}
    assert work.store.project is not project


def test_a_model_that_waits_for_room_is_tried_once_more_when_the_window_closes(
    work: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetseg.models import model_file

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "content", full_disk)
        work.training.start()
    project = work.store.project
    assert project is not None
    work.store.close()
    name = f"{work.session.history[-1].model.id}.safetensors"
    assert (project.folder / "models" / name).exists()


def test_a_save_that_fails_for_any_reason_is_said_and_made_again(
    work: Plugin, sentences_of: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(project_autosave, "SAVE_BYTES", 0)
    monkeypatch.setattr(project_autosave, "SYNC_SECONDS", 1e9)
    monkeypatch.setattr(project_autosave, "RETRY_SECONDS", 0.0)

    def breaks(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Database, "checkpoint", breaks)
        work.tick()
        work.tick()
    (text,) = [s for s in sentences_of if s.startswith("The project could not be written")]
    assert "(there is not enough memory)" in text
    work.tick()
    assert sentences_of[-1] == messages.KEPT_AGAIN
    assert_recovered(work)


def test_a_project_in_another_window_is_refused_in_a_sentence(work: Plugin, tmp_path: Path) -> None:
    work.saving.save_as(tmp_path / "one")
    other = started(None)
    other.restore.open(tmp_path / "one")
    assert "open in another window" in other.session.message.text
    other.disconnect()


def test_merged_structures_are_there_again(work: Plugin) -> None:
    work.structures.add()
    labels = work.session.training[0].labels
    labels.data_setitem((np.array([1]), np.array([1])), 2)
    work.training.start()  # it knows structure 2
    work.classes.merge(2, 1)
    before = said(work)
    killed(work)
    again = started(None)
    again.restore.recover(again.session.recoveries[0])
    assert_same(said(again), before)
    again.prediction.predict_plane()
    assert [s.number for s in again.session.structures] == [1], "the model's mask shows 2 no more"
    again.disconnect()


@pytest.mark.parametrize(
    "renumbered",
    [
        [],
        "x",
        {"a": 3},
        {"a": {"x": 1}},
        {"a": {"999": 1}},
        {"a": {"-1": 1}},
        {"a": {"2": 0}},
        {"a": {"2": 256}},
        {"a": {"2": 1.5}},
    ],
    ids=str,
)
def test_numbers_that_no_structure_has_are_not_taken_from_a_project(
    work: Plugin, renumbered: object
) -> None:
    project = work.store.project
    assert project is not None
    project.put_values({**project.values, "renumbered": renumbered})
    killed(work)
    again = started(None)
    again.restore.recover(again.session.recoveries[0])
    assert not any(again.masks.renumbered.values())
    assert again.session.entry is not None
    again.disconnect()


def test_a_window_that_is_closed_comes_back_in_its_mode_and_at_its_plane(
    tmp_path: Path,
) -> None:
    one = started(None)
    one.viewer.add_layer(Image(squares((3,)), name="stack"))
    labels = one.sources.new_annotation()
    assert labels is not None
    labels.data_setitem((np.array([1]), np.array([2]), np.array([3])), 1)
    one.session.mode = Mode.ONCE
    one.saving.save_as(tmp_path / "one")
    one.viewer.dims.set_point(0, 2)
    one.tick()
    one.viewer.layers.clear()
    assert one.close()
    again = started(None)
    again.viewer.add_layer(Image(squares((3,)), name="stack"))
    again.restore.open(tmp_path / "one")
    assert again.session.mode is Mode.ONCE
    assert again.viewer.dims.point[0] == 2
    again.disconnect()


def test_a_window_that_is_closed_with_its_layers_loses_nothing(
    work: Plugin, tmp_path: Path
) -> None:
    """napari takes all layers away before it closes a window."""
    work.saving.save_as(tmp_path / "one")
    before = said(work)
    work.viewer.layers.clear()
    work.disconnect()
    again = started(None)
    again.restore.open(tmp_path / "one")
    assert_same(said(again), before)
    again.disconnect()


def test_a_day_of_trainings_keeps_the_files_of_the_models_that_are_listed(
    work: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_models, "MOST_MODELS", 2)
    for _ in range(3):
        work.training.start()
    assert work.store.project is not None
    files = {p.stem for p in (work.store.project.folder / "models").iterdir()}
    assert files == {entry.model.id for entry in work.session.history}
    assert 2 <= len(files) < 4


# -- a project over what is open, and events that come while it is restored ----------------------


def annotations(plugin: Plugin) -> list[Labels]:
    return [one for one in plugin.viewer.layers if one.name.startswith("squares · annot")]


def assert_learned(plugin: Plugin, layer: Labels) -> None:
    """What is painted on a layer is in what trains, and in the project."""
    layer.data_setitem((np.array([59]), np.array([59])), BACKGROUND_LABEL)
    (source,) = plugin.session.training
    assert source.labels is layer
    truth = plugin.annotations.by_image[plugin.session.image]
    assert truth.read(LabelSource.STROKES, PLANE)[59, 59] == BACKGROUND_LABEL
    assert plugin.store.project is not None
    assert truth in plugin.store.project.by_image.values()


@pytest.mark.parametrize("named", [True, False])
def test_a_project_opened_over_its_own_layers_uses_them(
    work: Plugin, tmp_path: Path, named: bool
) -> None:
    if named:
        work.saving.save_as(tmp_path / "one")
    assert work.store.project is not None
    folder, before, layers = work.store.project.folder, said(work), list(work.viewer.layers)
    for _ in range(2):
        work.restore.open(folder)
        assert "is open with all its annotations" in work.session.message.text
    assert list(work.viewer.layers) == layers
    assert_same(said(work), before)
    assert_learned(work, annotations(work)[0])


def test_layers_that_were_deleted_come_back_when_the_project_is_opened_again(
    work: Plugin, tmp_path: Path
) -> None:
    work.saving.save_as(tmp_path / "one")
    before = said(work)
    work.viewer.layers.remove(annotations(work)[0])
    work.restore.open(tmp_path / "one")
    (layer,) = annotations(work)
    assert_same(said(work), before)
    assert_learned(work, layer)
    work.viewer.layers.remove(work.session.image)
    assert work.session.image is None
    work.restore.open(tmp_path / "one")
    assert work.session.image.name == "squares"
    assert len(annotations(work)) == 1
    assert len([one for one in work.viewer.layers if "prediction" in one.name]) == 1


def test_a_project_takes_the_place_of_what_was_painted_before_which_is_kept(
    work: Plugin, picture: Path, tmp_path: Path
) -> None:
    before = said(work)
    work.saving.save_as(tmp_path / "one")
    work.disconnect()
    again = started(picture)
    again.sources.choose_image(again.viewer.layers[0])
    layer = again.sources.new_annotation()
    assert layer is not None
    layer.data_setitem((np.array([1]), np.array([1])), 1)
    again.masks.open(again.session.image, "", again.session.structures).close()
    again.restore.open(tmp_path / "one")
    (restored,) = annotations(again)
    assert restored is not layer
    assert_same(said(again), before)
    assert_learned(again, restored)
    prediction = again.masks.current
    assert prediction is not None
    assert prediction.annotated is again.annotations.by_image[again.session.image]
    assert len([one for one in again.viewer.layers if "prediction" in one.name]) == 1
    assert [recovery.names for recovery in again.session.recoveries] == [("squares",)]
    again.disconnect()


def test_labels_of_the_users_own_are_hidden_and_not_taken_away_by_a_project(
    work: Plugin, picture: Path, tmp_path: Path
) -> None:
    work.saving.save_as(tmp_path / "one")
    work.disconnect()
    again = started(picture)
    mine = again.viewer.add_layer(Labels(np.eye(SIDE, dtype=np.uint8), name="mine"))
    assert again.session.training[0].labels is mine
    again.restore.open(tmp_path / "one")
    assert mine in again.viewer.layers
    assert not mine.visible
    assert_learned(again, annotations(again)[0])
    again.disconnect()


@pytest.mark.parametrize("by", ["choosing its file", "opening the project"])
def test_events_that_napari_handles_while_it_opens_a_file_begin_nothing(
    work: Plugin, picture: Path, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window's timer, and clicks, come while a progress bar of napari is updated."""
    before = said(work)
    work.saving.save_as(tmp_path / "one")
    work.disconnect()
    again = started(None)
    file = picture
    if by == "choosing its file":
        file = picture.rename(tmp_path / "other name.tif")
        again.restore.open(tmp_path / "one")
    ticks: list[str] = []
    refused: list[str] = []

    def on_layer() -> None:
        again.events.tick.connect(lambda: ticks.append("a tick"), max_args=0)
        again.tick()
        for begin in (
            again.sources.new_annotation,
            lambda: again.restore.find(file),
            again.training.start,
        ):
            again.session.say("")
            begin()
            refused.append(again.session.message.text)

    again.viewer.layers.events.inserted.connect(on_layer)
    if by == "choosing its file":
        again.restore.find(file)
    else:
        again.restore.open(tmp_path / "one")
    again.viewer.layers.events.inserted.disconnect(on_layer)
    assert refused
    assert set(refused) == {messages.BUSY}
    assert not ticks
    assert [type(one).__name__ for one in again.viewer.layers] == ["Image", "Labels", "Labels"]
    (layer,) = annotations(again)
    assert_same(said(again), before)
    assert_learned(again, layer)
    again.disconnect()


def test_a_tick_inside_a_tick_does_nothing(work: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    depth: list[int] = []

    def look() -> None:
        depth.append(len(depth) + 1)
        work.tick()

    work.events.tick.connect(look, max_args=0)
    work.tick()
    assert depth == [1]
    work.tick()
    assert depth == [1, 2], "the next one does"


def test_labels_dropped_while_a_project_is_restored_are_taken_afterwards(
    picture: Path, tmp_path: Path
) -> None:
    one = started(None)
    with one.sources.opening():
        one.viewer.open(str(picture))
        one.viewer.add_layer(Labels(strokes(), name="mine"))
        assert one.session.image is None
    assert one.session.image.name == "squares"
    assert one.session.training[0].labels.name == "mine"
    one.disconnect()


def test_a_restored_layer_lies_where_its_image_is_by_now(work: Plugin, picture: Path) -> None:
    killed(work)
    tifffile.imwrite(picture, squares(), imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    again = started(None)
    again.restore.recover(again.session.recoveries[0])
    image = again.session.image
    if tuple(image.scale) == (1, 1):  # napari's own reader knows no sizes
        image.scale = (0.25, 0.25)
    for layer in again.viewer.layers[1:]:
        assert tuple(layer.scale) == (0.25, 0.25)
    again.disconnect()
