"""Whole sessions without a window: real core, tiny networks, jobs that run at once."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from gui_parts import SIDE, TINY, squares, strokes
from napari.components import ViewerModel
from napari.layers import Image, Labels
from sync_runner import SyncRunner

from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind
from napari_unetseg.data import image_grids
from napari_unetseg.data.mask_cleanup import TidySettings
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.preferences import Preferences
from napari_unetseg.gui.state.session import Level, Mode
from napari_unetseg.training.training_events import Outcome, StepDone, TrainingDone


def count(plugin: Plugin) -> None:
    plugin.annotations.announce()
    plugin.tick()


def test_image_and_strokes_are_found_and_counted(plugin: Plugin) -> None:
    session = plugin.session
    count(plugin)
    assert session.image.name == "squares"
    assert session.training[0].labels.name == "strokes"
    assert session.training[0].kind is LabelKind.STROKES
    assert session.counts == {1: 76, BACKGROUND_LABEL: 224}


def test_hidden_labels_are_not_taken_by_themselves_but_can_be_chosen() -> None:
    """A mask that comes with an image is what some model said, not what is to be learned."""
    viewer = ViewerModel()
    plugin = Plugin(viewer, SyncRunner())
    viewer.add_layer(Image(squares(), name="image"))
    mask = viewer.add_layer(Labels(strokes(), name="mask", visible=False))
    source = plugin.session.source()
    assert source is None or source.labels is None
    plugin.sources.choose_labels(mask, LabelKind.FULL)
    source = plugin.session.source()
    assert source is not None
    assert source.labels is mask


def test_a_whole_session(plugin: Plugin, tmp_path: Path) -> None:
    session = plugin.session
    plugin.training.start()
    assert session.job is None
    assert len(session.history) == 1
    assert session.curve
    assert session.result
    prediction = plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    assert prediction.layer.data.shape == (SIDE, SIDE)
    first = prediction.layer

    first.data_setitem((np.array([2]), np.array([3])), [1 - first.data[2, 3]])
    wanted = int(first.data[2, 3])
    count(plugin)
    assert session.corrected == 1
    plugin.training.start()
    assert len(session.history) == 2
    assert session.history[1].model.history[-1].parent == session.history[0].model.id
    assert prediction.layer is first
    assert first.data[2, 3] == wanted

    plugin.history.save(tmp_path / "mine.safetensors")
    assert session.entry is not None
    assert session.entry.path == tmp_path / "mine.safetensors"
    plugin.history.use(session.history[0])
    plugin.history.load(tmp_path / "mine.safetensors")
    assert session.entry.model.id == session.history[1].model.id
    plugin.prediction.predict_plane()
    assert session.message.level is Level.DONE


def test_corrections_of_false_positives_alone_train(
    plugin: Plugin, model_viewer: ViewerModel, said: list[str]
) -> None:
    """The second round of somebody who has a model: its mask is wrong here, and that is all."""
    session = plugin.session
    plugin.training.start()
    model_viewer.layers.remove(session.training[0].labels)
    plugin.sources.choose_image(
        model_viewer.add_layer(Image(squares()[::-1].copy(), name="second"))
    )
    plugin.prediction.predict_plane()
    prediction = plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    rows, columns = np.nonzero(prediction.layer.data)
    prediction.layer.data_setitem((rows[:10], columns[:10]), 0)
    count(plugin)
    assert session.corrected == 10
    plugin.training.start()
    assert len(session.history) == 2
    assert any("There are no labels of structure 1: the model keeps" in text for text in said)
    assert session.history[1].model.classes == session.history[0].model.classes
    session.go_on = False
    plugin.training.start()
    assert said[-1].startswith("Only background is labelled; paint")


def test_annotations_are_never_written(plugin: Plugin) -> None:
    before = plugin.session.training[0].labels.data.copy()
    plugin.training.start()
    np.testing.assert_array_equal(plugin.session.training[0].labels.data, before)


def test_every_refusal_says_what_to_do(
    model_viewer: ViewerModel, plugin: Plugin, said: list[str]
) -> None:
    plugin.prediction.predict_plane()
    assert said[-1] == messages.NO_MODEL
    labels = plugin.session.training[0].labels
    labels.data[labels.data == BACKGROUND_LABEL] = 0
    plugin.training.start()
    assert "255" in said[-1]
    labels.data[...] = 0
    plugin.training.start()
    assert plugin.session.entry is None
    nothing = said[-1]
    plugin.tick()
    assert said[-1] == nothing
    labels.data_setitem((np.array([9]), np.array([9])), 1)
    plugin.annotations.announce()
    plugin.tick()
    assert said[-1] == messages.TRAIN_NOW
    model_viewer.layers.remove(labels)
    plugin.training.start()
    assert said[-1] == messages.NO_LABELS
    plugin.sources.choose_labels(model_viewer.add_layer(Labels(np.zeros((9, 9), np.uint8))))
    assert "have 9 × 9 pixels" in said[-1]
    assert "64 × 64" in said[-1]
    model_viewer.layers.clear()
    plugin.training.start()
    assert said[-1] == messages.NO_IMAGE
    assert plugin.session.job is None
    assert not plugin.session.history


def test_two_jobs_at_once_are_refused(
    plugin: Plugin, broken_core: Callable[[Any], None], said: list[str]
) -> None:
    def impatient(*_: Any, **__: Any) -> Generator[Event, None, None]:
        yield Notice("running")
        plugin.training.start()
        yield Notice("still running")
        raise TrainingError("enough")

    broken_core(impatient)
    plugin.training.start()
    assert said == ["running", messages.BUSY, "still running", "enough"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "ran out of memory"),
        (MemoryError(), "ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "ran out of memory"),
        (ValueError("its header says: out of memory"), "its header says"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "mat1 and mat2"),
        (TrainingError("The loss was no number; choose a smaller rate."), "smaller rate"),
    ],
)
def test_a_failed_training_costs_neither_model_nor_strokes(
    plugin: Plugin,
    broken_core: Callable[[Any], None],
    error: Exception,
    words: str,
) -> None:
    plugin.training.start()
    entry = plugin.session.entry
    before = plugin.session.training[0].labels.data.copy()

    def fails(*_: Any, **__: Any) -> Generator[Event, None, None]:
        yield StepDone(1, 10, 0.5, 0.1, 0.9)
        raise error

    broken_core(fails)
    plugin.training.start()
    assert words in plugin.session.message.text
    assert plugin.session.message.level is not Level.INFO
    assert plugin.session.job is None
    assert plugin.session.entry is entry
    np.testing.assert_array_equal(plugin.session.training[0].labels.data, before)


def test_a_loss_that_is_no_number_ends_with_a_sentence_and_the_first_answer(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetseg.training.trainer import NotFiniteError, Trainer

    def nan(*_: Any) -> float:
        raise NotFiniteError

    monkeypatch.setattr(Trainer, "step", nan)
    plugin.training.start()
    assert "NaN" in plugin.session.result
    assert plugin.session.job is None
    assert [entry.model.history[-1].steps for entry in plugin.session.history] == [0]


def test_stop_keeps_what_was_learned(plugin: Plugin) -> None:
    plugin.session.change_settings(steps=1000)
    steps: list[str] = []

    def stop_soon(job: Any) -> None:
        if job is not None and job.text.startswith("Step"):
            steps.append(job.text)
            if not job.stopping:
                plugin.jobs.stop()

    plugin.session.events.job.connect(stop_soon)
    plugin.training.start()
    assert plugin.session.entry is not None
    assert plugin.session.entry.model.history[-1].steps < 5


def test_stop_before_the_first_step_keeps_the_first_answer(plugin: Plugin) -> None:
    def stop_at_the_mask(message: Any) -> None:
        if message.text == messages.MASK_BEGINS:
            plugin.jobs.stop()

    plugin.session.events.message.connect(stop_at_the_mask)
    plugin.training.start()
    assert plugin.session.entry is not None
    assert plugin.session.entry.model.history[-1].steps == 0
    assert plugin.masks.current is not None


def test_layers_deleted_or_renamed_while_training(
    plugin: Plugin, model_viewer: ViewerModel
) -> None:
    labels = plugin.session.training[0].labels
    plugin.session.image.name = "another name"

    def delete(job: Any) -> None:
        if job is not None and labels in model_viewer.layers:
            model_viewer.layers.remove(labels)

    plugin.session.events.job.connect(delete)
    plugin.training.start()
    assert plugin.session.entry is not None
    assert plugin.masks.current is not None
    assert plugin.masks.current.alive
    assert plugin.session.training == ()
    plugin.training.start()
    assert plugin.session.message.text == messages.NO_LABELS


def test_the_image_deleted_while_training_leaves_the_model(
    plugin: Plugin, model_viewer: ViewerModel
) -> None:
    image = plugin.session.image

    def delete(job: Any) -> None:
        if job is not None and image in model_viewer.layers:
            model_viewer.layers.remove(image)

    plugin.session.events.job.connect(delete)
    plugin.training.start()
    assert plugin.session.entry is not None
    assert plugin.session.job is None
    plugin.prediction.predict_plane()
    assert plugin.session.message.text == messages.NO_IMAGE


def test_the_prediction_deleted_while_predicting_stops_with_a_sentence(
    plugin: Plugin, model_viewer: ViewerModel
) -> None:
    plugin.training.start()

    def delete(job: Any) -> None:
        prediction = plugin.masks.current
        if job is not None and prediction is not None and prediction.alive:
            model_viewer.layers.remove(prediction.layer)

    plugin.session.events.job.connect(delete)
    plugin.prediction.predict_plane()
    assert "prediction layer was deleted" in plugin.session.message.text
    assert plugin.session.job is None
    plugin.session.events.job.disconnect(delete)
    plugin.prediction.predict_plane()
    assert plugin.masks.current is not None
    assert plugin.masks.current.alive


def prediction_in_file(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> Labels:
    """The prediction layer of a training, with its voxels in a file."""
    monkeypatch.setattr(image_grids, "ON_DISK_BYTES", 0)
    plugin.training.start()
    assert plugin.masks.current is not None
    assert plugin.masks.current.layer is not None
    assert image_grids.is_in_file(plugin.masks.current.layer.data)
    return plugin.masks.current.layer


def test_a_full_disk_ends_a_mask_in_a_file_with_a_sentence_and_keeps_what_is_there(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = prediction_in_file(plugin, monkeypatch)
    before = np.array(layer.data)
    monkeypatch.setattr(image_grids, "LEAST_FREE", 2**62)
    plugin.prediction.predict_plane()
    assert "nearly full" in plugin.session.message.text
    assert plugin.session.job is None
    assert (np.asarray(layer.data) == before).all()
    monkeypatch.setattr(image_grids, "LEAST_FREE", 0)
    plugin.prediction.predict_plane()
    assert "Prediction shown" in plugin.session.message.text


def test_on_a_full_disk_nobody_paints_on_a_layer_in_a_file_and_what_was_painted_is_known(
    plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = prediction_in_file(plugin, monkeypatch)
    own = np.memmap(tmp_path / "own.raw", np.uint8, "w+", shape=(9, 9))
    others = [
        plugin.session.training[0].labels,
        plugin.viewer.add_layer(Labels(own, name="somebody's file")),
    ]
    layer.mode = "paint"
    value = 1 - int(layer.data[30, 30])
    with layer.block_history():  # a stroke that has not ended
        layer.paint((30, 30), value)
        monkeypatch.setattr(image_grids, "LEAST_FREE", 2**62)
        plugin.tick()
    assert "nearly full" in plugin.session.message.text
    assert layer.name in plugin.session.message.text
    assert (layer.editable, layer.mode) == (False, "pan_zoom")
    assert all(other.editable for other in others)
    plugin.tick()
    truth = plugin.annotations.by_image[plugin.session.image]
    known = truth.corrections()
    assert known is not None
    assert np.asarray(known[30:31, 30:31]).any()
    monkeypatch.setattr(image_grids, "LEAST_FREE", 0)
    plugin.tick()
    assert plugin.session.message.text == messages.ROOM_TO_PAINT.format(layer.name)
    assert layer.editable
    layer.editable = False  # somebody else's wish
    plugin.tick()
    assert not layer.editable


def test_a_temporary_folder_that_is_gone_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_grids, "LEAST_FREE", 2**62)
    assert (
        image_grids.has_room(np.memmap(tmp_path / "there.raw", np.uint8, "w+", shape=(9, 9)))
        is False
    )
    monkeypatch.setattr(image_grids, "LEAST_FREE", 0)
    (tmp_path / "gone").mkdir()
    grid = np.memmap(tmp_path / "gone" / "grid.raw", np.uint8, "w+", shape=(9, 9))
    (tmp_path / "gone" / "grid.raw").unlink()
    (tmp_path / "gone").rmdir()
    assert image_grids.has_room(grid)


def test_a_new_structure_goes_on_from_the_model(plugin: Plugin, said: list[str]) -> None:
    plugin.training.start()
    plugin.session.training[0].labels.data[50:52, 5:25] = 2
    plugin.training.start()
    first, second = (entry.model for entry in plugin.session.history)
    assert [s.number for s in second.classes.structures] == [1, 2]
    assert second.history[-1].parent == first.id
    assert any("the last layer keeps" in s and "Training on" in s for s in said)  # none hides one


def test_an_image_with_other_channels_goes_on_from_the_model(
    plugin: Plugin, model_viewer: ViewerModel
) -> None:
    plugin.training.start()
    colours = np.stack([squares(), 255 - squares(), squares()], -1)
    plugin.sources.choose_image(model_viewer.add_layer(Image(colours, rgb=True, name="colours")))
    plugin.sources.choose_labels(model_viewer.add_layer(Labels(strokes(), name="more")))
    plugin.sources.use_source(plugin.session.sources[0], False)
    plugin.training.start()
    first, second = (entry.model for entry in plugin.session.history)
    assert (first.net.in_channels, second.net.in_channels) == (1, 3)
    assert second.history[-1].parent == first.id


@pytest.mark.parametrize(
    "changes", [{"width": 8}, {"depth": 3}, {"norm": "instance"}], ids=["width", "depth", "norm"]
)
def test_another_network_in_the_settings_begins_a_new_model(
    plugin: Plugin, said: list[str], changes: dict[str, Any]
) -> None:
    plugin.training.start()
    plugin.session.change_settings(**changes)
    plugin.training.start()
    first, second = (entry.model for entry in plugin.session.history)
    assert any(text.startswith("A new model is trained") for text in said)
    assert second.history[-1].parent is None
    assert second.net != first.net


def test_volumes_go_on_from_planes_and_planes_begin_anew(said: list[str]) -> None:
    viewer = ViewerModel()
    viewer.add_layer(Image(squares((8,)), name="volume"))
    viewer.add_layer(Labels(strokes((8,)), name="strokes"))
    plugin = Plugin(viewer, SyncRunner())
    plugin.session.events.message.connect(lambda m: said.append(m.text))
    plugin.session.change_settings(**TINY)
    plugin.training.start()
    for dims in (3, 2):
        plugin.sources.choose_dims(dims)
        plugin.training.start()
    planes, volumes, again = (entry.model for entry in plugin.session.history)
    assert (planes.dims, volumes.dims, again.dims) == (2, 3, 2)
    assert volumes.history[-1].parent == planes.id
    assert again.history[-1].parent is None
    assert any("3D" in text and text.startswith("A new model is trained") for text in said)
    plugin.disconnect()


def test_a_stack_is_predicted_plane_by_plane_from_the_one_on_screen() -> None:
    viewer = ViewerModel()
    viewer.add_layer(Image(squares((4,)), name="stack", scale=(2, 1, 1)))
    viewer.add_layer(Labels(strokes((4,)), name="strokes", scale=(2, 1, 1)))
    plugin = Plugin(viewer, SyncRunner())
    plugin.session.change_settings(**TINY)
    viewer.dims.set_point(0, 4.0)
    plugin.training.start()
    prediction = plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    written: list[int] = []
    write = prediction.write
    prediction.write = lambda index, mask: (written.append(index[0]), write(index, mask))[1]  # type: ignore[method-assign]
    plugin.prediction.predict_stack()
    assert written[0] == 2
    assert sorted(written) == [0, 1, 2, 3]
    np.testing.assert_array_equal(prediction.layer.scale, (2, 1, 1))


def test_several_pairs_and_folders_train_together(
    plugin: Plugin, model_viewer: ViewerModel, tmp_path: Path
) -> None:
    second = model_viewer.add_layer(Image(squares()[::-1].copy(), name="second"))
    truth = (squares()[::-1] > 100).astype(np.uint8)
    plugin.sources.choose_image(second)
    labels = model_viewer.add_layer(Labels(truth, name="truth"))
    plugin.sources.choose_labels(labels, LabelKind.FULL)
    for folder, data in (("images", squares()), ("masks", (squares() > 100) * np.uint8(255))):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", data)
    plugin.sources.add_folders(tmp_path / "images", tmp_path / "masks", LabelKind.FULL)
    plugin.training.start()
    assert plugin.session.entry is not None
    names = [i.name for i in plugin.session.entry.model.history[-1].images]
    assert names == ["squares", "second", "a"]
    plugin.sources.use_source(plugin.session.sources[0], False)
    plugin.sources.remove_source(plugin.session.sources[2])
    assert [s.labels.name for s in plugin.session.training] == ["truth"]


def test_structures_are_named_added_and_found(plugin: Plugin) -> None:
    session = plugin.session
    plugin.structures.rename(1, "nucleus")
    plugin.structures.add()
    assert [(s.number, s.name) for s in session.structures] == [(1, "nucleus"), (2, "structure 2")]
    labels = session.training[0].labels
    assert labels.features["name"].tolist() == ["", "nucleus", "structure 2", "background"]
    assert (session.brush, labels.selected_label, str(labels.mode)) == (2, 2, "paint")
    labels.data[0, 0] = 9
    labels.refresh()
    count(plugin)
    assert [s.number for s in session.structures] == [1, 2, 9]


def test_tidying_makes_a_new_layer_and_export_keeps_the_pixel_size(
    plugin: Plugin, model_viewer: ViewerModel, tmp_path: Path
) -> None:
    for layer in model_viewer.layers:
        layer.scale, layer.units = (0.5, 0.5), ("um", "um")
    plugin.training.start()
    prediction = plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    mask = (squares() > 100).astype(np.uint8)
    mask[15, 15] = 0
    mask[2, 2] = 1
    prediction.layer.data[...] = mask
    plugin.postprocess.run(TidySettings(fill_holes=True, smallest=2.0, objects=True))
    objects = model_viewer.layers[-2 if model_viewer.layers[-1].name == "strokes" else -1]
    assert objects.name == "squares · prediction · objects"
    assert int(objects.data.max()) == 2
    assert objects.data[15, 15] > 0
    assert objects.data[2, 2] == 0
    assert prediction.layer.data[2, 2] == 1
    plugin.export.write(prediction.layer, tmp_path / "mask.ome.tif")
    with tifffile.TiffFile(tmp_path / "mask.ome.tif") as file:
        np.testing.assert_array_equal(file.asarray(), mask)
        assert 'PhysicalSizeX="0.5"' in (file.ome_metadata or "")
    plugin.export.write(prediction.layer, tmp_path / "no" / "such.xyz")
    assert "unknown suffix" in plugin.session.message.text


def test_a_model_of_other_channels_is_refused_at_use(
    plugin: Plugin, model_viewer: ViewerModel, said: list[str]
) -> None:
    plugin.training.start()
    color = model_viewer.add_layer(Image(np.zeros((32, 32, 3), np.uint8), rgb=True, name="colour"))
    plugin.sources.choose_image(color)
    plugin.prediction.predict_plane()
    assert "colour has 3" in said[-1]


def test_a_damaged_model_file_is_refused(plugin: Plugin, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(json.dumps({}).encode())
    plugin.history.load(tmp_path / "bad.safetensors")
    assert plugin.session.message.level is Level.WARNING
    assert plugin.session.entry is None
    assert plugin.session.job is None


def test_volumes_train_and_predict() -> None:
    viewer = ViewerModel()
    viewer.add_layer(Image(squares((6,)), name="stack"))
    labels = strokes((6,))
    labels[1:5] = labels[0]
    viewer.add_layer(Labels(labels))
    plugin = Plugin(viewer, SyncRunner())
    plugin.session.change_settings(**{**TINY, "patch": 16, "steps": 2})
    plugin.sources.choose_dims(3)
    plugin.training.start()
    assert plugin.session.entry is not None, plugin.session.message
    assert plugin.session.entry.model.dims == 3
    assert plugin.masks.current is not None
    assert plugin.masks.current.alive
    plugin.sources.choose_image(viewer.add_layer(Image(squares(), name="flat")))
    assert plugin.session.settings.dims == 2
    plugin.sources.choose_dims(3)
    assert "no Z axis" in plugin.session.message.text


@pytest.mark.parametrize("where", ["strokes", "prediction", "nowhere"])
def test_what_is_painted_while_it_trains_is_learned_from(
    plugin: Plugin, said: list[str], where: str
) -> None:
    """Once, from the next epoch on, and without pressing Train again."""
    plugin.session.change_settings(steps=60)
    labels = plugin.session.training[0].labels
    rows, columns = np.repeat([4, 5], SIDE), np.tile(np.arange(SIDE), 2)
    corrected: list[int] = []

    def paint(job: Any) -> None:
        if job is None or not job.text.startswith("Step") or job.stopping:
            return
        if where == "strokes":
            labels.data_setitem((rows, columns), BACKGROUND_LABEL)
        elif where == "prediction" and plugin.masks.current is not None and not corrected:
            layer = plugin.masks.current.layer
            assert layer is not None
            corrected.append(int((layer.data[rows, columns] != 1).sum()))
            layer.data_setitem((rows, columns), 1)
        count(plugin)

    plugin.session.events.job.connect(paint)
    plugin.training.start()
    assert plugin.session.entry is not None
    record = plugin.session.entry.model.history[-1]
    more = {"strokes": 2 * SIDE, "prediction": sum(corrected), "nowhere": 0}[where]
    assert more or where == "nowhere"
    assert record.labelled_voxels == 300 + more
    told = [text for text in said if "continues with the new annotations" in text]
    assert len(told) == (where != "nowhere")
    assert all(f"{300 + more} labelled pixels" in text for text in told)


def test_folders_are_trained_on_further_when_something_is_painted(
    plugin: Plugin, tmp_path: Path
) -> None:
    for folder, data in (("images", squares()), ("masks", (squares() > 100) * np.uint8(255))):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", data)
    plugin.sources.add_folders(tmp_path / "images", tmp_path / "masks", LabelKind.FULL)
    plugin.session.change_settings(steps=60)
    labels = plugin.session.training[0].labels

    def paint(job: Any) -> None:
        if job is not None and job.text.startswith("Step") and not labels.data[4].any():
            labels.data_setitem((np.full(SIDE, 4), np.arange(SIDE)), BACKGROUND_LABEL)
            count(plugin)

    plugin.session.events.job.connect(paint)
    plugin.training.start()
    assert plugin.session.entry is not None
    record = plugin.session.entry.model.history[-1]
    assert [i.name for i in record.images] == ["squares", "a"]
    assert record.labelled_voxels == 300 + SIDE + SIDE**2


def test_corrections_alone_train(plugin: Plugin, model_viewer: ViewerModel, tmp_path: Path) -> None:
    session = plugin.session
    plugin.training.start()
    plugin.history.save(tmp_path / "mine.safetensors")
    model_viewer.layers.remove(session.training[0].labels)
    plugin.history.load(tmp_path / "mine.safetensors")
    plugin.prediction.predict_plane()
    plugin.training.start()
    assert session.message.text == messages.NO_LABELS
    assert plugin.masks.current is not None
    assert plugin.masks.current.layer is not None
    layer = plugin.masks.current.layer
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[30:] = 1
    plugin.masks.current.write((slice(None), slice(None)), mask)
    layer.data_setitem((np.repeat([16, 17], SIDE), np.tile(np.arange(SIDE), 2)), 1)
    layer.data_setitem((np.repeat([30, 31], SIDE), np.tile(np.arange(SIDE), 2)), 0)
    before = len(session.history)
    plugin.training.start()
    assert len(session.history) == before + 1, session.message.text
    assert session.entry is not None
    assert session.entry.model.history[-1].labelled_voxels == 4 * SIDE


def test_labels_that_were_found_keep_their_look_until_a_brush_is_taken() -> None:
    viewer = ViewerModel()
    viewer.add_layer(Image(squares(), name="squares"))
    labels = viewer.add_layer(Labels(strokes(), name="mine", features={"area": [0.0, 5.0]}))
    before = labels.colormap
    plugin = Plugin(viewer, SyncRunner())
    assert [s.labels for s in plugin.session.training] == [labels]
    plugin.structures.rename(1, "nucleus")
    assert labels.colormap is before
    assert labels.features["area"].tolist() == [0.0, 5.0]
    assert labels.features["name"].tolist() == ["", "nucleus"]
    plugin.structures.choose_brush(1)
    assert labels.colormap is not before
    assert labels.features["area"].tolist() == [0.0, 5.0]


def test_no_labels_stay_no_labels(plugin: Plugin, model_viewer: ViewerModel) -> None:
    plugin.sources.choose_labels(None)
    model_viewer.add_layer(Labels(strokes(), name="another"))
    assert plugin.session.training == ()
    image = plugin.session.image
    second = model_viewer.add_layer(Image(squares(), name="second"))
    plugin.sources.choose_image(second)
    plugin.sources.choose_image(image)
    assert plugin.session.training == ()


def test_our_results_are_never_taken_for_labels(plugin: Plugin, model_viewer: ViewerModel) -> None:
    plugin.training.start()
    plugin.postprocess.run(TidySettings())
    model_viewer.layers.remove(plugin.session.training[0].labels)
    plugin.postprocess.run(TidySettings())
    plugin.prediction.predict_plane()
    assert len([layer for layer in model_viewer.layers if isinstance(layer, Labels)]) == 3
    assert plugin.session.training == ()


def test_the_kind_is_guessed_again_when_all_was_counted() -> None:
    viewer = ViewerModel()
    viewer.add_layer(Image(squares((200,)), name="stack"))
    objects = np.zeros((200, SIDE, SIDE), np.uint16)
    objects[1, :30, 0] = np.arange(1, 31)
    viewer.add_layer(Labels(objects))
    plugin = Plugin(viewer, SyncRunner())
    assert plugin.session.training[0].kind is LabelKind.STROKES
    count(plugin)
    assert plugin.session.training[0].kind is LabelKind.INSTANCES
    assert plugin.session.counts[1] == 30
    assert [s.number for s in plugin.session.structures] == [1]
    plugin.sources.choose_kind(LabelKind.FULL)
    count(plugin)
    assert plugin.session.training[0].kind is LabelKind.FULL


@pytest.mark.parametrize("follow", [True, False])
def test_a_removed_image_is_not_kept_in_memory(
    plugin: Plugin, model_viewer: ViewerModel, follow: bool
) -> None:
    plugin.session.mode = Mode.LIVE if follow else Mode.FROZEN

    def paint(job: Any) -> None:  # so that newer strokes are offered, after the last epoch too
        if job is not None and job.text.startswith("Step"):
            labels.data_setitem(
                (np.array([4]), np.array([int(job.text.split()[1])])), BACKGROUND_LABEL
            )
            count(plugin)

    labels = plugin.session.training[0].labels
    plugin.session.events.job.connect(paint)
    plugin.training.start()
    assert len(plugin.masks.predictions) == follow
    plugin.session.events.job.disconnect(paint)
    pixels = weakref.ref(plugin.session.image.data)
    model_viewer.layers.clear()
    assert not plugin.masks.predictions
    gc.collect()
    assert pixels() is None


@pytest.mark.parametrize(
    ("outcome", "reason", "level"),
    [
        (Outcome.COMPLETED, "All 4 steps were done; nothing failed.", Level.DONE),
        (Outcome.TIME_OVER, "The time was over.", Level.DONE),
        (Outcome.LABELS_LEARNED, "The image named no number.tif is learned.", Level.DONE),
        (Outcome.EARLY_STOPPED, "Nothing improved for 12 epochs.", Level.DONE),
        (Outcome.STOPPED, "You stopped it.", Level.DONE),
        (Outcome.DIVERGED, "The loss was infinite.", Level.WARNING),
        (Outcome.FAILED, "A step broke off (bad).", Level.WARNING),
        (Outcome.DISCONNECTED, "The cable was pulled.", Level.WARNING),
    ],
)
def test_the_result_says_why_a_training_ended(
    plugin: Plugin,
    broken_core: Callable[[Any], None],
    said: list[str],
    outcome: Outcome,
    reason: str,
    level: Level,
) -> None:
    from napari_unetseg.training.train import train_events as real

    def ends(*arguments: Any, **options: Any) -> Generator[Event, None, Any]:
        model = yield from real(*arguments, **options)
        yield TrainingDone(outcome, reason, None, 1, 4, 65.0)
        return model

    broken_core(ends)
    plugin.session.mode = Mode.FROZEN
    plugin.training.start()
    assert f"{reason[:-1]} (1:05)." in plugin.session.result
    assert said[-1].startswith(plugin.session.result)
    assert plugin.session.message.level is level
    assert plugin.session.retrain is (level is Level.DONE)


def test_255_painted_on_a_prediction_is_background_in_files_and_results(
    plugin: Plugin, model_viewer: ViewerModel, tmp_path: Path
) -> None:
    plugin.training.start()
    assert plugin.masks.current is not None
    assert plugin.masks.current.layer is not None
    layer = plugin.masks.current.layer
    layer.data[...] = 1
    layer.data[:4] = BACKGROUND_LABEL
    plugin.export.write(layer, tmp_path / "mask.tif")
    assert np.unique(tifffile.imread(tmp_path / "mask.tif")).tolist() == [0, 1]
    plugin.postprocess.run(TidySettings(fill_holes=False))
    tidied = next(one for one in model_viewer.layers if one.name.endswith("tidied"))
    assert np.unique(tidied.data).tolist() == [0, 1]
    assert layer.data[0, 0] == BACKGROUND_LABEL
    other = model_viewer.add_layer(Labels(np.ones((9, 9), np.uint8), name="other"))
    assert other not in plugin.sources.mask_candidates()
    plugin.export.write(other, tmp_path / "other.tif")
    assert plugin.session.message.text == messages.OTHER_MASK.format("other", "squares")
    assert not (tmp_path / "other.tif").exists()


def test_a_model_of_volumes_leaves_a_plane_its_settings() -> None:
    viewer = ViewerModel()
    stack = viewer.add_layer(Image(squares((6,)), name="stack"))
    labels = strokes((6,))
    labels[1:5] = labels[0]
    viewer.add_layer(Labels(labels))
    plugin = Plugin(viewer, SyncRunner())
    plugin.session.change_settings(**{**TINY, "patch": 16, "steps": 2})
    plugin.sources.choose_dims(3)
    assert plugin.session.settings.depth is None
    plugin.session.change_settings(depth=2)
    plugin.training.start()
    entry = plugin.session.entry
    assert entry is not None, plugin.session.message
    plugin.sources.choose_image(viewer.add_layer(Image(squares(), name="flat")))
    assert (plugin.session.settings.dims, plugin.session.settings.depth) == (2, None)
    plugin.history.use(entry)
    assert plugin.session.settings.dims == 2
    plugin.prediction.predict_plane()
    assert plugin.session.message.level is Level.WARNING
    plugin.sources.choose_image(stack)
    plugin.history.use(entry)
    assert (plugin.session.settings.dims, plugin.session.settings.depth) == (3, 2)


def test_preferences_are_read_before_every_job(model_viewer: ViewerModel) -> None:
    now = Preferences("auto", 2)
    plugin = Plugin(model_viewer, SyncRunner(), preferences=lambda: now)
    plugin.session.change_settings(**TINY)
    now = Preferences("cpu", 1)
    plugin.session.mode = Mode.FROZEN
    plugin.training.start()
    assert plugin.session.entry is not None
    record = plugin.session.entry.model.history[-1]
    assert (record.settings.device, record.threads) == ("cpu", 1)
    plugin.session.change_settings(device="auto")
    plugin.training.start()
    assert plugin.session.settings.device == "auto"
