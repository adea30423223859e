"""The batch panel in a real window: files, layers, pause, stop, tables, opening, annotating."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from gui_parts import squares, strokes
from helpers import random_model
from napari.layers import Image, Labels
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog
from window_parts import LEFT, NONE, Window

from napari_unetseg.core.file_locks import OutputLock
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.gui.batch_widget import BatchDock
from napari_unetseg.gui.state.batch_rows import RowState
from napari_unetseg.gui.state.session import ModelEntry
from napari_unetseg.inference.predict import predict
from napari_unetseg.io.open_image import open_stack

pytestmark = pytest.mark.gui


@pytest.fixture(autouse=True, scope="module")
def _reader() -> Iterator[None]:
    """The plugin's reader, which napari's test fixtures leave out."""
    from npe2 import DynamicPlugin, PluginManager
    from npe2.manifest.contributions import CommandContribution, ReaderContribution

    if "napari-unetseg" in PluginManager.instance():  # another test has found it
        yield
        return
    with DynamicPlugin("napari-unetseg") as plugin:
        command = "napari-unetseg.get_reader"
        plugin.manifest.contributions.commands = [
            CommandContribution(
                id=command, title="Open", python_name="napari_unetseg.gui.reader:get_reader"
            )
        ]
        plugin.manifest.contributions.readers = [
            ReaderContribution(command=command, filename_patterns=["*.tif"])
        ]
        plugin.cleanup()
        plugin.register()
        yield


class Batch(Window):
    """A window with the dock, the batch panel opened from it, a model, and files."""

    def __init__(self, viewer: Any, folder: Path) -> None:
        super().__init__(viewer)
        self.model = random_model(1, (1,), depth=2, width=4)
        self.plugin.models.add(ModelEntry(self.model, "Model 1"))
        self.click(self.dock.result.batch)
        self.panel, self.folder = self.opened().panel, folder
        self.out = folder / "out"

    def opened(self) -> BatchDock:
        """The batch panel that the window shows."""
        (found,) = self.viewer.window._qt_window.findChildren(BatchDock)
        return found

    def states(self) -> list[str]:
        return [self.panel.table.item(n, 1).text() for n in range(self.panel.table.rowCount())]

    def finished(self) -> bool:
        return self.idle() and RowState.RUNNING not in [row.state for row in self.session.batch]

    def drop(self, *paths: Path) -> None:
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        copy = Qt.DropAction.CopyAction
        self.panel.table.dropEvent(QDropEvent(QPointF(5, 5), copy, data, LEFT, NONE))


@pytest.fixture
def batch(make_napari_viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        tifffile.imwrite(folder / f"f{number}.tif", np.roll(squares(), 7 * number, 1))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: str(tmp_path / "out"))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 800)
    return Batch(viewer, tmp_path)


@pytest.mark.bindings
def test_files_are_dropped_predicted_measured_and_a_bad_one_stops_nothing(batch: Batch) -> None:
    panel, session = batch.panel, batch.session
    assert panel.explanation.isVisibleTo(panel)
    assert not panel.run.isEnabled()
    (batch.folder / "in" / "f1.tif").write_bytes(b"nothing")
    batch.drop(batch.folder / "in")
    assert batch.states() == ["waiting"] * 3
    panel.measure.setChecked(True)
    batch.click(panel.run)
    batch.wait(batch.finished)
    assert batch.states() == ["done", "failed", "done"]
    assert "1 failed" in session.message.text
    assert "cannot be read" in panel.table.item(1, 3).text()
    wanted = predict(batch.model, open_stack(batch.folder / "in" / "f2.tif"), PredictSettings())
    np.testing.assert_array_equal(tifffile.imread(batch.out / "f2.tif"), wanted)
    table = (batch.out / "f2_objects.csv").read_text(encoding="utf-8").splitlines()
    assert panel.table.item(2, 3).text().startswith(f"{len(table) - 1} × ")
    assert 0 < float(panel.table.item(2, 2).text()) < 1
    tifffile.imwrite(batch.folder / "in" / "f1.tif", squares())
    before = (batch.out / "f2.tif").stat().st_mtime_ns
    batch.click(panel.run)
    batch.wait(batch.finished)
    assert batch.states() == ["done"] * 3
    assert (batch.out / "f2.tif").stat().st_mtime_ns == before, "only what was missing"


def test_it_waits_goes_on_and_stops(batch: Batch) -> None:
    panel, session = batch.panel, batch.session
    np.save(batch.folder / "a.npy", np.zeros((4000, 64, 64), np.uint8))
    batch.drop(batch.folder / "a.npy", batch.folder / "in")
    batch.click(panel.run)
    batch.wait(lambda: session.job is not None and (session.job.fraction or 0) > 0)
    batch.click(panel.pause)
    assert batch.states()[0] == "paused"
    assert panel.pause.text() == "Go on"

    def stored() -> list[Path]:
        found = batch.out.glob(".a.unetseg/*/labels/mask/0/c/**/*")
        return [p for p in found if p.is_file() and not p.name.startswith(".")]

    def written() -> int:
        return len(stored())

    counts: list[int] = []

    def rests() -> bool:
        counts.append(written())
        return len(counts) > 150 and len(set(counts[-150:])) == 1

    batch.wait(rests)
    assert counts[-1] < 4000
    batch.click(panel.pause)
    batch.wait(lambda: written() > counts[-1])
    assert panel.run.text() == "Stop"
    batch.click(panel.run)
    batch.wait(batch.finished)
    assert batch.states() == ["waiting"] * 4
    assert "continues where it was" in session.message.text
    kept = {p: p.stat().st_mtime_ns for p in stored()}
    assert kept
    batch.click(panel.run)
    batch.wait(lambda: written() > len(kept))
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    batch.click(panel.run)
    batch.wait(batch.finished)


def test_an_image_that_another_program_predicts_comes_last_and_stop_ends_waiting(
    batch: Batch,
) -> None:
    """The window is as quick as ever meanwhile."""
    other = OutputLock(batch.out / ".f0.unetseg")
    assert other.take() is None
    batch.drop(batch.folder / "in")
    batch.click(batch.panel.run)
    batch.wait(lambda: batch.states() == ["waiting", "done", "done"])
    batch.wait(lambda: batch.session.message.text.endswith("waiting for it."))
    assert batch.session.message.text.startswith("f0.tif is being predicted by process ")
    assert batch.session.job is not None
    batch.click(batch.panel.run)
    batch.wait(batch.finished)
    assert "Stopped: 2 of 3 images done" in batch.session.message.text
    batch.click(batch.panel.run)
    batch.wait(lambda: batch.session.message.text.endswith("waiting for it."))
    other.release()
    batch.wait(batch.finished)
    assert batch.states() == ["done"] * 3
    assert sorted(p.name for p in batch.out.iterdir()) == ["f0.tif", "f1.tif", "f2.tif"]


@pytest.mark.bindings
def test_enter_opens_an_image_with_its_mask_where_it_lies(batch: Batch) -> None:
    batch.drop(batch.folder / "in" / "f0.tif")
    batch.click(batch.panel.run)
    batch.wait(batch.finished)
    batch.panel.table.selectRow(0)
    QTest.keyClick(batch.panel.table, Qt.Key.Key_Return)
    image, mask = batch.viewer.layers["f0"], batch.viewer.layers["f0 · mask"]
    np.testing.assert_array_equal(mask.data, tifffile.imread(batch.out / "f0.tif"))
    np.testing.assert_array_equal(mask.scale, image.scale)
    assert mask.units == image.units
    assert batch.session.image is image
    assert batch.session.source().labels is None, "a mask is nothing to train on"
    QTest.keyClick(batch.panel.table, Qt.Key.Key_Delete)
    assert batch.panel.table.rowCount() == 0
    assert (batch.out / "f0.tif").exists()


def test_the_least_certain_are_opened_to_be_annotated(batch: Batch) -> None:
    panel = batch.panel
    batch.drop(batch.folder / "in")
    batch.click(panel.run)
    batch.wait(batch.finished)
    worst = [row.name for row in batch.plugin.batch.worst(2)]
    unsure = {row.name: row.unsure for row in batch.session.batch}
    assert worst == sorted(unsure, key=lambda name: -unsure[name])[:2]
    panel.count.setValue(2)
    batch.click(panel.worst)
    batch.wait(batch.idle)
    sources = batch.session.training
    assert {source.image.name for source in sources} == set(worst)
    assert batch.session.image.name == worst[0]
    for source in sources:
        seen = source.image.name == worst[0]
        assert source.image.visible == source.labels.visible == seen
    assert batch.plugin.masks.current.layer.visible
    active = batch.viewer.layers.selection.active
    assert (active, active.mode) == (batch.session.source().labels, "paint")


def test_open_layers_are_images_too_and_names_must_differ(batch: Batch) -> None:
    batch.viewer.add_layer(Image(squares(), name="f0", scale=(0.5, 0.5), units="um"))
    batch.viewer.add_layer(Labels(strokes(), name="strokes"))
    batch.click(batch.panel.opened)
    assert [row.name for row in batch.session.batch] == ["f0"]
    batch.drop(batch.folder / "in" / "f0.tif")
    assert "Two images are called f0" in batch.session.message.text
    assert len(batch.session.batch) == 1
    batch.panel.format.setCurrentText("OME-Zarr")
    batch.click(batch.panel.run)
    batch.wait(batch.finished)
    assert batch.states() == ["done"]
    stack = open_stack(batch.out / "f0.zarr" / "labels" / "mask")
    assert stack.spacing == (0.5, 0.5)
    wanted = predict(batch.model, batch.plugin.sources.stack(), PredictSettings())
    np.testing.assert_array_equal(np.asarray(stack.data), wanted)


def test_no_mask_replaces_an_image_that_is_open(batch: Batch) -> None:
    file = batch.folder / "in" / "f0.tif"
    before = file.read_bytes()
    batch.drop(file)
    batch.panel.table.selectRow(0)
    batch.click(batch.panel.open)
    batch.panel._folder = file.parent
    batch.click(batch.panel.run)
    assert "would overwrite an image" in batch.session.message.text
    batch.panel.table.selectRow(0)
    batch.click(batch.panel.remove)
    batch.click(batch.panel.opened)
    assert batch.states() == ["waiting"]
    batch.click(batch.panel.run)
    assert "would overwrite an image" in batch.session.message.text
    batch.wait(batch.finished)
    assert file.read_bytes() == before


def test_a_batch_of_another_window_goes_on_with_a_model_from_a_file(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, file = batch.panel, batch.folder / "m.safetensors"
    random_model(2, (1,), depth=2, width=4).save(file)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (str(file), ""))
    batch.session.entry = None
    batch.click(panel.model)
    batch.wait(batch.idle)
    assert batch.session.entry is not None
    batch.out.mkdir()
    mine = np.zeros((64, 64), np.uint8)
    tifffile.imwrite(batch.out / "f1.tif", mine)
    batch.drop(batch.folder / "in")
    panel.keep.setChecked(True)
    batch.click(panel.run)
    batch.wait(batch.finished)
    assert batch.states() == ["done", "there already", "done"]
    assert "1 had a mask already" in batch.session.message.text
    np.testing.assert_array_equal(tifffile.imread(batch.out / "f1.tif"), mine)
    panel.keep.setChecked(False)
    batch.click(panel.run)
    batch.wait(batch.finished)
    assert batch.states() == ["done"] * 3
    image = open_stack(batch.folder / "in" / "f1.tif")
    wanted = predict(batch.session.entry.model, image, PredictSettings())
    np.testing.assert_array_equal(tifffile.imread(batch.out / "f1.tif"), wanted)


def test_without_a_model_or_a_folder_it_says_what_to_do(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.drop(batch.folder / "in")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: "")
    batch.click(batch.panel.run)
    assert "Masks into" in batch.session.message.text
    batch.session.entry = None
    assert not batch.panel.run.isEnabled()
    assert "train one" in batch.panel.doing.text()


@pytest.mark.bindings
def test_closing_the_panel_stops_the_batch_and_the_list_stays(batch: Batch) -> None:
    np.save(batch.folder / "a.npy", np.zeros((4000, 64, 64), np.uint8))
    batch.drop(batch.folder / "a.npy")
    batch.click(batch.panel.run)
    batch.wait(lambda: (batch.session.job.fraction or 0) > 0)
    dock = batch.panel.parent().parent()
    batch.viewer.window.remove_dock_widget(dock)
    batch.wait(batch.idle)
    batch.click(batch.dock.result.batch)
    again = batch.opened()
    assert again.panel.table.rowCount() == 1


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_both_docks_fit_a_small_screen(batch: Batch, theme: str) -> None:
    batch.viewer.theme = theme
    batch.drop(batch.folder / "in")
    batch.viewer.window.resize(1366, 768)
    batch.settle(batch.panel)
    assert batch.viewer.window._qt_window.height() <= 768
    buttons = (batch.panel.run, batch.panel.pause, batch.panel.open, batch.panel.worst)
    assert all(button.width() >= button.sizeHint().width() for button in buttons)
