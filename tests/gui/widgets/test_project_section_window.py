"""The project's buttons and the structures' menu, in a real window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.layers import Image
from qtpy.QtGui import QColor, QDesktopServices
from qtpy.QtWidgets import QColorDialog, QFileDialog, QMenu, QMessageBox
from window_parts import Window

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.dock_widget import UNetDock
from napari_unetseg.io.project import locations
from napari_unetseg.io.project.database import FILE
from napari_unetseg.io.project.project import Project

pytestmark = pytest.mark.gui


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = str(tmp_path / "data"), str(tmp_path / "config")
    monkeypatch.setattr(locations.platformdirs, "user_data_dir", lambda *_, **__: data)
    monkeypatch.setattr(locations.platformdirs, "user_config_dir", lambda *_, **__: config)


def saves_to(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(folder), ""))


def answers(monkeypatch: pytest.MonkeyPatch, answer: QMessageBox.StandardButton) -> None:
    monkeypatch.setattr(QMessageBox, "question", lambda *_, **__: answer)


def pick(menu: QMenu, text: str) -> None:
    next(action for action in menu.actions() if action.text() == text).trigger()


def strokes_in(folder: Path) -> int:
    """Voxels of strokes that a project holds."""
    truths = Project.read(folder).by_image
    return sum(truth.count(LabelSource.STROKES) for truth in truths.values())


def test_a_stroke_is_on_disk_before_the_next_event(painted: Window) -> None:
    painted.viewer.reset_view()
    painted.wait(lambda: bool(painted.session.counts))
    labels = painted.session.training[0].labels
    painted.click(painted.dock.annotate.brushes.row_of(1))
    painted.draw((20, 5), (20, 55))
    project = painted.plugin.store.project
    assert project is not None
    assert strokes_in(project.folder) == int((labels.data != 0).sum())


@pytest.mark.bindings
def test_save_open_recent_and_what_the_panel_says(
    painted: Window, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    panel, session = painted.dock.project, painted.session
    painted.wait(lambda: bool(session.counts))
    panel.fold.expand(animate=False)
    saves_to(monkeypatch, tmp_path / "mine")
    painted.click(panel.save)
    painted.wait(lambda: session.project == tmp_path / "mine")
    assert panel.where.text() == f"Everything is saved in {tmp_path / 'mine'}."
    assert (tmp_path / "mine" / FILE).exists()
    labels = session.training[0].labels
    labels.data_setitem((np.array([1]), np.array([1])), BACKGROUND_LABEL)
    before = labels.data.copy()
    panel._on_recent_shown()
    assert [a.text() for a in panel.recent.actions()] == [str(tmp_path / "mine")]
    painted.viewer.layers.remove(labels)
    pick(panel.recent, str(tmp_path / "mine"))
    painted.wait(lambda: painted.idle() and bool(session.training))
    np.testing.assert_array_equal(session.training[0].labels.data, before)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: str(tmp_path))
    painted.click(panel.open)
    painted.wait(lambda: "is no project" in session.message.text)


def test_a_report_of_an_image_that_is_in_no_file(
    painted: Window, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: shown.append(url.toLocalFile()))
    panel, session = painted.dock.project, painted.session
    panel.fold.expand(animate=False)
    saves_to(monkeypatch, tmp_path / "r")
    painted.click(panel.report)
    painted.wait(lambda: "nothing to report" in session.message.text)
    labels = session.training[0].labels
    labels.data_setitem((np.array([1]), np.array([1])), 1)
    painted.wait(lambda: bool(session.counts))
    painted.click(painted.dock.train.button)
    painted.wait(lambda: painted.idle() and bool(session.history))
    painted.click(panel.report)
    painted.wait(lambda: bool(shown))
    page = tmp_path / "r" / "index.html"
    assert shown == [str(page)]
    assert session.message.text == f"The report is {page}."
    text = page.read_text(encoding="utf-8")
    assert "<h1>squares</h1>" in text
    assert "plane-0.png" in text


def test_a_moved_image_is_found_with_the_panel_s_button(
    painted: Window,
    make_napari_viewer: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    readers: None,
) -> None:
    image = painted.session.image
    painted.session.training[0].labels.data_setitem((np.array([1]), np.array([1])), 1)
    painted.plugin.saving.save_as(tmp_path / "mine")
    painted.wait(lambda: painted.idle() and painted.session.project is not None)
    assert painted.plugin.close()
    viewer = make_napari_viewer(show=True)
    window = Window(viewer)
    panel = window.dock.project
    assert not panel.locate.isVisibleTo(window.dock)
    window.plugin.restore.open(tmp_path / "mine")
    window.wait(lambda: bool(window.session.missing))
    assert panel.lost.text() == "Not found: squares."
    assert panel.locate.isVisibleTo(window.dock)
    tifffile.imwrite(tmp_path / "moved.tif", image.data)
    moved = str(tmp_path / "moved.tif")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (moved, ""))
    window.click(panel.locate)
    assert window.session.missing == ()
    assert not panel.locate.isVisibleTo(window.dock)
    assert window.session.training[0].labels.data[1, 1] == 1


def test_another_window_s_strokes_are_offered_recovered_and_discarded(
    painted: Window, make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = painted.session.image
    labels = painted.session.training[0].labels
    labels.data_setitem((np.array([1]), np.array([1])), 1)
    strokes = labels.data.copy()
    assert painted.plugin.close()
    for number in range(2):
        viewer = make_napari_viewer(show=True)
        viewer.add_layer(Image(image.data, name="again"))
        window = Window.__new__(Window)
        window.viewer, window.dock = viewer, UNetDock(viewer)
        viewer.window.add_dock_widget(window.dock)
        window.plugin, window.session = window.dock.plugin, window.dock.session
        panel = window.dock.project
        assert panel._offer.isVisibleTo(window.dock)
        assert ("squares", "again")[number] in panel.left.text()  # as it was named last
        if number == 0:
            window.click(panel.recover)
            window.wait(lambda w=window: w.idle() and bool(w.session.training))
            np.testing.assert_array_equal(window.session.training[0].labels.data, strokes)
            assert not panel._offer.isVisibleTo(window.dock)
            assert window.plugin.close()
        else:
            answers(monkeypatch, QMessageBox.StandardButton.No)
            window.click(panel.discard)
            assert locations.recoveries()
            answers(monkeypatch, QMessageBox.StandardButton.Yes)
            window.click(panel.discard)
            assert not locations.recoveries()
            assert not panel._offer.isVisibleTo(window.dock)


@pytest.mark.bindings
def test_structures_are_coloured_merged_and_deleted_through_their_menu(
    painted: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, annotate = painted.session, painted.dock.annotate
    painted.wait(lambda: bool(session.counts))
    labels = session.training[0].labels
    before = labels.data.copy()
    painted.click(annotate.add)
    painted.wait(lambda: len(session.structures) == 2)
    labels.data_setitem((np.array([1]), np.array([1])), 2)
    shown: list[QMenu] = []
    monkeypatch.setattr(QMenu, "popup", lambda menu, *_: shown.append(menu))
    painted.click(annotate.brushes.row_of(2).more)
    monkeypatch.setattr(QColorDialog, "getColor", lambda *_, **__: QColor("#123456"))
    pick(shown[0], "Colour…")
    assert session.structures[1].color == "#123456"
    assert "#123456" in annotate.brushes.row_of(2).swatch.styleSheet()
    merge = next(a.menu() for a in shown[0].actions() if a.menu() is not None)
    assert [a.text() for a in merge.actions()] == ["structure 1", "background"]
    pick(merge, "background")
    assert labels.data[1, 1] == BACKGROUND_LABEL
    assert len(session.structures) == 1
    painted.click(painted.dock.review.undo)
    assert labels.data[1, 1] == 2
    pick(annotate.menu_of(2), "Delete, with its labels")
    np.testing.assert_array_equal(labels.data, before)


def test_unbalanced_strokes_are_said_under_the_structures(painted: Window) -> None:
    annotate, session = painted.dock.annotate, painted.session
    painted.wait(lambda: bool(session.counts))
    assert not annotate.balance.isVisibleTo(painted.dock)
    painted.click(annotate.add)
    painted.wait(lambda: annotate.balance.isVisibleTo(painted.dock))
    assert annotate.balance.text() == "Nothing is painted of structure 2 yet."
