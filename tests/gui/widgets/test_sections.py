"""Panels of the dock without a napari window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gui_parts import squares
from napari.components import ViewerModel
from napari.layers import Image, Labels
from panel_parts import annotate_panel, result_panel
from pydantic import BaseModel, Field
from qtpy.QtWidgets import QApplication, QFileDialog, QInputDialog
from sync_runner import SyncRunner

from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.settings import AugmentSettings, TrainSettings
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.widgets.advanced_settings import ELSEWHERE, form_of
from napari_unetseg.gui.widgets.image_section import ImagePanel
from napari_unetseg.gui.widgets.status_line import READY, WELCOME, StatusPanel

pytestmark = pytest.mark.gui


@pytest.mark.parametrize("agreed", [True, False])
def test_folders_come_with_their_kind(
    qtbot: Any,
    plugin: Plugin,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    agreed: bool,
) -> None:
    panel = annotate_panel(plugin)
    qtbot.addWidget(panel)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    offered: list[str] = []

    def choose(*arguments: Any) -> tuple[str, bool]:
        offered.extend(arguments[3])
        return next(choice for choice in offered if choice.startswith("objects")), agreed

    monkeypatch.setattr(QInputDialog, "getItem", choose)
    panel.folders.click()
    names = ["strokes", "full mask", "objects", "finished objects"]
    assert [choice.split(":")[0] for choice in offered] == names
    kinds = [s.kind for s in plugin.session.sources if s.on_disk]
    assert kinds == ([LabelKind.INSTANCES] if agreed else [])


def test_the_first_hint_knows_of_strokes_that_are_there(qtbot: Any, plugin: Plugin) -> None:
    panel = StatusPanel(plugin.session)
    qtbot.addWidget(panel)
    assert panel.text.text() == WELCOME
    plugin.session.counts = {1: 10}
    assert panel.text.text() == WELCOME
    plugin.tick()
    assert panel.text.text() == READY
    plugin.session.say("Something else.")
    assert panel.text.text() == "Something else."


def test_a_long_sentence_does_not_enlarge_the_window(qtbot: Any, plugin: Plugin) -> None:
    panel = StatusPanel(plugin.session)
    qtbot.addWidget(panel)
    panel.show()
    before = panel.minimumSizeHint()
    plugin.session.say(f"{'long_name_' * 30}.tif cannot be read. {'Do this or that. ' * 9}")
    QApplication.processEvents()  # as layouts hear of it
    assert panel.minimumSizeHint().width() <= before.width()
    assert panel.minimumSizeHint().height() <= 2 * before.height()
    assert panel.text.toolTip() == plugin.session.message.text


class Newer(BaseModel):
    """Settings with fields that no form has heard of."""

    fresh: bool = Field(False, description="Something new.")
    bare: float | None = None
    odd: tuple[int, ...] = ()
    mixed: int | str = 0


def test_a_form_takes_fields_that_it_has_not_heard_of(qtbot: Any) -> None:
    form = form_of(Newer, Newer())
    qtbot.addWidget(form)
    assert {w.name: w.tooltip for w in form.values} == {
        "fresh": "Something new. Default: False.",
        "bare": "Bare. Default: 0 (automatic).",
    }


@pytest.mark.parametrize("model", [TrainSettings, AugmentSettings])
def test_every_setting_has_a_place(qtbot: Any, model: type[BaseModel]) -> None:
    form = form_of(model, model())
    qtbot.addWidget(form)
    assert {w.name for w in form.values} == set(model.model_fields) - set(ELSEWHERE)


def test_only_masks_of_the_image_are_exported(qtbot: Any) -> None:
    viewer = ViewerModel()
    first = viewer.add_layer(Image(squares(), name="first"))
    second = viewer.add_layer(Image(np.zeros((9, 9)), name="second"))
    one = viewer.add_layer(Labels(np.zeros(first.data.shape, np.uint8)))
    two = viewer.add_layer(Labels(np.zeros((9, 9), np.uint8)))
    plugin = Plugin(viewer, SyncRunner())
    plugin.sources.choose_image(first)
    panel = result_panel(plugin)
    qtbot.addWidget(panel)
    assert [c for c in panel.layer.choices if c is not None] == [one]
    plugin.sources.choose_image(second)
    assert [c for c in panel.layer.choices if c is not None] == [two]
    panel.release()


def test_there_is_always_a_way_back_to_planes(qtbot: Any, plugin: Plugin) -> None:
    panel = ImagePanel(plugin.session, plugin.sources, plugin.alignment)
    qtbot.addWidget(panel)
    assert not panel._dims.isVisibleTo(panel)
    plugin.session.change_settings(dims=3)
    assert panel._dims.isVisibleTo(panel)
    panel.planes.click()
    assert plugin.session.settings.dims == 2
    assert not panel._dims.isVisibleTo(panel)
