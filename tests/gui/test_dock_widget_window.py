"""The real dock in a real napari window, with mouse events and the worker thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gui_parts import SIDE, TINY, squares
from napari.layers import Image, Layer
from qtpy.QtWidgets import QApplication, QFileDialog, QPushButton

from napari_unetseg import sample
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.dock_widget import UNetDock
from napari_unetseg.training.training_events import EpochDone, StepDone, TrainingPrepared

if TYPE_CHECKING:
    import threading

    from window_parts import Window

    from napari_unetseg.core.job_control import JobControl

pytestmark = pytest.mark.gui


@pytest.mark.bindings
def test_paint_train_stop_predict_correct_train_again_save_load(
    window: Window, endless: threading.Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dock, session, viewer = window.dock, window.session, window.viewer
    for data in sample.nuclei2d():
        viewer.add_layer(Layer.create(*data))
    viewer.reset_view()
    window.wait(lambda: session.counts.get(1, 0) > 0)
    assert dock.annotate.brushes.row_of(1).name.text() == "nucleus"

    # paint with the mouse: the structure, then the background
    labels = session.training[0].labels
    window.click(dock.annotate.brushes.row_of(1))
    window.draw((100, 100), (100, 140))
    assert labels.data[100, 120] == 1
    window.click(dock.annotate.brushes.row_of(BACKGROUND_LABEL))
    window.draw((300, 200), (340, 200))
    assert labels.data[320, 200] == BACKGROUND_LABEL
    window.wait(lambda: session.counts[1] == int((labels.data == 1).sum()))

    # train, paint on meanwhile, stop
    window.click(dock.train.button)
    window.wait(lambda: session.job is not None and session.job.text.startswith("Step"))
    assert dock.train.button.text() == "Stop"
    window.draw((320, 300), (320, 340))
    assert labels.data[320, 320] == BACKGROUND_LABEL
    mine = labels.data.copy()
    window.click(dock.train.button)
    window.wait(lambda: bool(session.history) and window.idle())
    assert endless.is_set()
    assert dock.train.button.text() == "Train"
    assert dock.train.plot.isVisibleTo(dock)

    # the plane was predicted; predict once more
    prediction = window.plugin.masks.current
    assert prediction is not None
    assert prediction.alive
    window.click(dock.result.plane)
    window.wait(window.idle)

    # correct with the mouse, on the prediction layer
    old = viewer.layers.selection.active = prediction.layer
    assert old is not None
    wanted = 1 - int(old.data[400, 70])
    window.click(dock.annotate.brushes.row_of(1 if wanted else BACKGROUND_LABEL))
    window.draw((400, 50), (400, 90))
    assert old.data[400, 70] == wanted
    window.wait(lambda: session.corrected > 0)
    assert dock.review.corrected.isVisibleTo(dock)

    # train again: corrections stay, undo brings nothing back
    window.click(dock.train.button)
    window.wait(lambda: session.job is not None and session.job.text.startswith("Step"))
    window.click(dock.train.button)
    window.wait(lambda: len(session.history) == 2 and window.idle())
    new = prediction.layer
    assert new is old
    assert new.data[400, 70] == wanted
    shown = new.data.copy()
    new.undo()
    np.testing.assert_array_equal(new.data, shown)

    # save, load
    path = tmp_path / "nuclei.safetensors"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    window.click(dock.model.save)
    window.wait(lambda: path.exists() and window.idle())
    window.click(dock.model.load)
    window.wait(lambda: len(session.history) == 3 and window.idle())
    assert session.entry is not None
    assert session.entry.model.id == session.history[1].model.id
    assert dock.model.history.currentText() == "nuclei"
    np.testing.assert_array_equal(labels.data, mine)


@pytest.mark.bindings
def test_the_first_layer_comes_from_the_dock(window: Window) -> None:
    window.viewer.add_layer(Image(squares(), name="squares"))
    window.viewer.reset_view()
    window.click(window.dock.annotate.new)
    labels = window.session.training[0].labels
    window.draw((20, 10), (20, 30))
    assert labels.data[20, 20] == 1
    assert window.dock.annotate.labels.value is labels
    window.click(window.dock.annotate.add)
    window.click(window.dock.annotate.brushes.row_of(2))
    window.draw((40, 10), (40, 30))
    assert labels.data[40, 20] == 2
    window.wait(lambda: window.session.counts.get(2, 0) > 0)


def fails_with(error: BaseException) -> Callable[..., Generator[Event, None, None]]:
    def fail(*_: Any, **__: Any) -> Generator[Event, None, None]:
        yield TrainingPrepared(10, 5, 10, 100, 0, 0, "cpu", 99, (32, 32), 2)
        yield StepDone(1, 10, 0.5, 0.1, 0.9)
        yield EpochDone(1, 5, 0.5, None, False, 0.5)
        raise error

    return fail


@pytest.mark.bindings
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), "ran out of memory"),
        (RuntimeError("expected scalar type Float"), "expected scalar type Float"),
    ],
)
def test_an_error_in_the_worker_is_said_and_train_can_be_pressed_again(
    painted: Window, monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    import napari_unetseg.training.train as train

    real = train.train_events
    monkeypatch.setattr(train, "train_events", fails_with(error))
    before = painted.session.training[0].labels.data.copy()
    painted.click(painted.dock.train.button)
    painted.wait(lambda: words in painted.session.message.text and painted.idle())
    assert words in painted.dock.status.text.text()
    assert painted.dock.train.button.text() == "Train"
    assert painted.dock.train.button.isEnabled()
    np.testing.assert_array_equal(painted.session.training[0].labels.data, before)
    monkeypatch.setattr(train, "train_events", real)
    painted.click(painted.dock.train.button)
    painted.wait(lambda: bool(painted.session.history) and painted.idle())


def test_a_loss_that_is_no_number_is_said(painted: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_unetseg.training.trainer import NotFiniteError, Trainer

    def nan(*_: Any) -> float:
        raise NotFiniteError

    monkeypatch.setattr(Trainer, "step", nan)
    painted.click(painted.dock.train.button)
    painted.wait(lambda: "NaN" in painted.dock.status.text.text() and painted.idle())
    assert painted.dock.train.button.isEnabled()


@pytest.mark.bindings
def test_closing_the_dock_stops_and_a_new_dock_shows_the_same_session(
    painted: Window, endless: threading.Event
) -> None:
    painted.click(painted.dock.train.button)
    painted.wait(lambda: bool(painted.session.job and painted.session.job.text.startswith("Step")))
    before = painted.session.training[0].labels.data.copy()
    painted.viewer.window.remove_dock_widget(painted.dock)
    painted.wait(lambda: endless.is_set() and painted.idle())
    assert len(painted.session.history) == 1
    again = UNetDock(painted.viewer)
    painted.viewer.window.add_dock_widget(again, name="U-Net segmentation")
    assert again.session is painted.session
    assert again.model.history.count() == 1
    assert again.train.button.text() == "Train"
    np.testing.assert_array_equal(painted.session.training[0].labels.data, before)


@pytest.mark.bindings
def test_closing_the_window_while_training_ends_the_worker(
    painted: Window, endless: threading.Event
) -> None:
    painted.click(painted.dock.train.button)
    painted.wait(lambda: bool(painted.session.job and painted.session.job.text.startswith("Step")))
    layer = painted.session.training[0].labels
    before = layer.data.copy()
    painted.viewer.close()
    QApplication.processEvents()
    assert endless.wait(20)
    np.testing.assert_array_equal(layer.data, before)


def test_layers_deleted_and_renamed_while_training(
    painted: Window, endless: threading.Event
) -> None:
    session, viewer = painted.session, painted.viewer
    painted.click(painted.dock.train.button)
    painted.wait(lambda: bool(session.job and session.job.text.startswith("Step")))
    labels = session.training[0].labels
    session.image.name = "renamed"
    assert painted.dock.image.image.value is session.image
    viewer.layers.remove(labels)
    assert painted.dock.annotate.labels.value is None
    painted.click(painted.dock.train.button)
    painted.wait(lambda: bool(session.history) and painted.idle())
    assert painted.dock.train.button.isEnabled()
    painted.click(painted.dock.train.button)
    assert "New layer" in painted.dock.status.text.text()
    viewer.layers.append(labels)
    assert session.training[0].labels is labels
    viewer.layers.remove(session.image)
    assert painted.dock.image.image.value is None


def test_opening_the_dock_imports_no_torch() -> None:
    import subprocess

    code = (
        "import sys, napari_unetseg.gui.dock_widget, napari_unetseg.gui.window_context\n"
        "sys.exit('torch' in sys.modules or 'pyqtgraph' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


ROOT = Path(__file__).resolve().parents[2]


def test_every_control_says_what_it_does(painted: Window) -> None:
    buttons = painted.dock.findChildren(QPushButton)
    mute = [b.text() for b in buttons if not b.toolTip() and not b.isFlat() and b.text()]
    mute = [text.lstrip("▸▾ ") for text in mute]
    folds = {
        "Tidy up",
        "Export",
        "Advanced settings",
        "Augmentation",
        "Chosen for these images",
        "Other models at the same places",
        "Project",
        "How objects are found",
    }
    assert set(mute) <= folds
    for widget in (*painted.dock.advanced.form.values, *painted.dock.advanced.augment.values):
        assert "Default" in widget.tooltip


@pytest.mark.bindings
def test_advanced_settings_and_the_form_follow_each_other(painted: Window) -> None:
    form = painted.dock.advanced.form.values
    assert form["depth"].value == 2
    form["depth"].value = 3
    assert painted.session.settings.depth == 3
    form["patch"].value = 3
    assert painted.session.settings.patch == TINY["patch"]
    assert "patch" in painted.dock.status.text.text().lower()
    assert form["patch"].value == TINY["patch"]
    painted.session.change_settings(width=8, patch=None)
    assert form["width"].value == 8
    assert form["patch"].value == 0
    painted.dock.train.end.setCurrentText("minutes")
    painted.dock.train.end.activated.emit(1)
    assert painted.session.settings.minutes == 5
    assert painted.session.settings.steps is None


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_dock_fits_a_small_screen_in_every_theme(painted: Window, theme: str) -> None:
    painted.viewer.theme = theme
    painted.viewer.window.resize(1366, 768)
    QApplication.processEvents()
    assert painted.dock.width() <= 420
    assert painted.dock.minimumSizeHint().height() < 500
    assert painted.dock.minimumSizeHint().width() < 420


@pytest.fixture
def registered() -> Iterator[None]:
    """The plugin as napari knows it when it is installed."""
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    installed = "napari-unetseg" in manager
    if not installed:
        with manager.events.plugins_registered.blocked():  # the next viewer takes it up, once
            manager.register(PluginManifest.from_file(ROOT / "napari.yaml"))
    yield
    if not installed:
        manager.unregister("napari-unetseg")


@pytest.mark.bindings
def test_dock_and_command_through_napari_s_menus(registered: None, make_napari_viewer: Any) -> None:
    from napari._app_model import get_app_model

    viewer = make_napari_viewer(show=True)
    image = viewer.add_layer(Image(squares(), name="squares"))
    _, dock = viewer.window.add_plugin_dock_widget("napari-unetseg", "U-Net segmentation")
    assert dock.session.image is image
    commands = get_app_model().commands
    commands.execute_command("napari-unetseg.new_annotation_layer").result()
    layer = viewer.layers["squares · annotations"]
    assert layer.data.shape == (SIDE, SIDE)
    assert viewer.layers.selection.active is layer
    assert dock.session.training[0].labels is layer


def test_threads_follow_the_hands(painted: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []
    import napari_unetseg.training.train as train
    from napari_unetseg.gui.services import job_manager

    monkeypatch.setattr(job_manager, "cores", lambda: 8)

    def watch(*_: Any, control: JobControl, **__: Any) -> Generator[Event, None, None]:
        while not control.stopped:
            seen.append(control.threads)
            yield Notice("on")
            time.sleep(0.01)
        raise RuntimeError("enough")

    monkeypatch.setattr(train, "train_events", watch)
    painted.click(painted.dock.train.button)
    painted.wait(lambda: 7 in seen)

    def rested() -> bool:
        painted.dock.context._moved = -1e9
        return 8 in seen

    painted.wait(rested)
    painted.click(painted.dock.train.button)
    painted.wait(painted.idle)
