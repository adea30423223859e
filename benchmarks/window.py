"""A real napari window with the dock, hands that paint, and a clock for its event loop."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from home import leave_home

if TYPE_CHECKING:
    from napari import Viewer

    from napari_unetseg.gui.dock_widget import UNetDock

PERIOD = 0.010
"""Seconds after which the timer asks to be called."""


Layers = Sequence[tuple[np.ndarray, dict[str, Any], str]]
"""Data, options and kind of layers, as napari's readers give them."""


def sample_layers(size: int) -> Layers:
    """The sample's nuclei with their strokes, repeated to about ``size`` pixels."""
    from napari_unetseg import sample

    def tiled(data: np.ndarray) -> np.ndarray:
        return np.tile(data, (max(1, size // data.shape[0]),) * 2)

    return [(tiled(data), options, kind) for data, options, kind in sample.nuclei2d()]


def open_window(
    size: int, window: Sequence[int], layers: Layers | None = None
) -> tuple[Viewer, UNetDock]:
    """These layers, by default `sample_layers`, and the dock."""
    leave_home()
    import napari
    from napari.layers import Layer

    from napari_unetseg.gui.dock_widget import UNetDock

    viewer = napari.Viewer()
    viewer.window.resize(*window)
    for data, options, kind in sample_layers(size) if layers is None else layers:
        viewer.add_layer(Layer.create(data, options, kind))
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net segmentation")
    return viewer, dock


class Stopwatch:
    """Collects how late a timer is called, in ms, under the name of the part that is measured."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.part = ""
        self.late: defaultdict[str, list[float]] = defaultdict(list)
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_called)
        self._start()

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """What is late meanwhile belongs to this part."""
        self.part = part
        try:
            yield
        finally:
            self.part = ""

    def stop(self) -> None:
        """Measure no more."""
        self._timer.stop()

    def _start(self) -> None:
        self._asked = time.perf_counter()
        self._timer.start(round(PERIOD * 1000))

    def _on_called(self) -> None:
        if self.part:
            late = time.perf_counter() - self._asked - PERIOD
            self.late[self.part].append(max(0.0, 1000 * late))
        self._start()


class Painter:
    """Draws on the canvas with mouse events: ten a second, as a slow hand does."""

    MOVES = 8
    STEP = 12.0

    def __init__(self, viewer: Any) -> None:
        from qtpy.QtCore import QTimer

        self._canvas = viewer.window._qt_viewer.canvas.native
        self._rng = np.random.default_rng(0)
        self._moves, self._place = 0, np.zeros(2)
        self._timer = QTimer()
        self._timer.timeout.connect(self._on_move)

    def start(self) -> None:
        """Begin to paint."""
        self._timer.start(100)

    def stop(self) -> None:
        """Lift the brush."""
        self._timer.stop()

    def _on_move(self) -> None:
        from qtpy.QtCore import QPoint, Qt
        from qtpy.QtTest import QTest

        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        size = np.array([self._canvas.width(), self._canvas.height()])
        if self._moves == 0:
            self._place = size * self._rng.uniform(0.3, 0.7, 2)
        else:
            self._place += self._rng.normal(0, self.STEP, 2)
        point = QPoint(*(int(v) for v in self._place))
        QTest.mouseMove(self._canvas, point)
        if self._moves == 0:
            QTest.mousePress(self._canvas, left, none, point)
        elif self._moves == self.MOVES:
            QTest.mouseRelease(self._canvas, left, none, point)
        self._moves = (self._moves + 1) % (self.MOVES + 1)


def run_event_loop(seconds: float, until: Callable[[], bool] | None = None) -> None:
    """Run Qt's own event loop for some time, or until a condition holds."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(round(seconds * 1000), loop.quit)
    check = QTimer()
    check.timeout.connect(lambda: loop.quit() if until is not None and until() else None)
    check.start(50)
    loop.exec() if hasattr(loop, "exec") else loop.exec_()


def summary(late: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Percentiles of each part's lateness in ms."""
    return {
        part: {
            "calls": len(values),
            **{f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)},
            "max": round(max(values), 2),
        }
        for part, values in late.items()
        if values
    }


def show_lateness(table: Mapping[str, Mapping[str, float]]) -> None:
    """Print a summary."""
    print(f"{'lateness, ms':32}{'calls':>8}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}")
    for name, row in table.items():
        print(f"{name:32}" + "".join(f"{row[k]:>8}" for k in ("calls", "p50", "p95", "p99", "max")))
