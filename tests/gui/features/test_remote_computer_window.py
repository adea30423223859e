"""A window whose jobs run in a worker of its own process, as on another computer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gui_parts import squares, strokes
from napari.layers import Image, Labels
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from remote_parts import Worker, free_port

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.state.session import Level, Mode

if TYPE_CHECKING:
    from window_parts import Window

pytestmark = pytest.mark.gui


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """As on another computer: its key is not known here."""
    with Worker(home=tmp_path) as one:
        yield one


def choose(window: Window, text: str) -> None:
    """Type a computer into its field."""
    field = window.dock.advanced.computer.field
    window.dock.advanced.fold.expand(animate=False)
    line = field.lineEdit()
    line.selectAll()
    QTest.keyClicks(line, text)
    QTest.keyClick(line, Qt.Key.Key_Return)


def test_a_window_trains_and_predicts_there_and_goes_on_here(
    window: Window, worker: Worker
) -> None:
    """From the choice of the computer to its death in the middle of the second training."""
    window.viewer.add_layer(Image(squares((3,)), name="squares"))
    window.viewer.add_layer(Labels(strokes((3,)), name="strokes"))
    session, window.session.mode = window.session, Mode.LIVE
    window.viewer.dims.set_point(0, 0)
    key = worker.key_file.read_text(encoding="utf-8").strip()
    choose(window, worker.address)
    window.wait(lambda: session.message.level is Level.WARNING)
    assert "key" in session.message.text
    choose(window, f"{worker.address} {key}")
    assert session.computer == worker.address
    assert window.dock.advanced.computer.field.currentText() == worker.address
    window.wait(lambda: session.message.level is Level.DONE)
    assert session.message.text == f"{worker.address} is connected: cpu. New jobs run there."

    session.change_settings(steps=100_000)
    window.click(window.dock.train.button)
    window.wait(lambda: window.plugin.masks.current is not None)
    prediction = window.plugin.masks.current
    assert prediction is not None
    window.wait(lambda: bool(session.curve))
    assert session.job is not None
    painted = session.training[0].labels
    painted.data_setitem(np.nonzero(np.ones((1, 2, 20))), BACKGROUND_LABEL)
    window.wait(lambda: any(mark.kind == "strokes" for mark in session.marks))
    window.viewer.dims.set_point(0, 2)
    window.wait(lambda: prediction.layer is not None and prediction.layer.data[2].any())
    window.click(window.dock.train.button)
    window.wait(lambda: bool(session.history) and window.idle())
    assert len(session.history) == 1

    window.viewer.dims.set_point(0, 1)
    window.wait(lambda: prediction.masks.is_fresh((1,), session.history[0].model.id))
    window.click(window.dock.train.button)
    window.wait(lambda: bool(session.curve) and session.improved is not None)
    worker.kill()
    window.wait(lambda: len(session.history) == 2 and window.idle())
    assert session.computer == ""
    assert window.dock.advanced.computer.field.currentText() == "this one"
    assert f"The connection to {worker.address} was lost" in session.result
    window.viewer.dims.set_point(0, 2)
    window.wait(lambda: prediction.masks.is_fresh((2,), session.history[-1].model.id))


def test_a_computer_that_does_not_answer_is_said(painted: Window) -> None:
    session, address = painted.session, f"127.0.0.1:{free_port()}"
    choose(painted, f"{address} {'k' * 43}")
    painted.wait(lambda: session.message.level is Level.WARNING)
    assert "does not answer" in session.message.text
    choose(painted, "nonsense")
    assert "is no address" in session.message.text
    assert session.computer == address
    painted.click(painted.dock.train.button)
    painted.wait(painted.idle)
    assert "does not answer" in session.message.text
    assert not session.history
    field = painted.dock.advanced.computer.field
    field.setCurrentIndex(0)
    field.textActivated.emit("this one")
    assert session.computer == ""
    painted.click(painted.dock.train.button)
    painted.wait(lambda: bool(session.history) and painted.idle())
