"""How late the window's event loop is, idle and while a training runs and somebody paints.

A timer asks to be called every 10 ms; its lateness is what a hand would feel. Strokes are real
mouse events, ten times a second. PyTorch is not imported before the first press of Train.
Without a GPU, drawing the window costs processor time of its own, the more the larger it is:
compare with the row without training.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/event_loop.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PERIOD = 0.010
PARTS = ("idle", "painting", "first press, painting", "training, painting")


class Stopwatch:
    """Collects how late a timer is called."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.part = ""
        self.late: dict[str, list[float]] = {part: [] for part in PARTS}
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_called)
        self._start()

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


def run_event_loop(seconds: float, until: Any = None) -> None:
    """Run Qt's own event loop for some time, or until a condition holds."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(round(seconds * 1000), loop.quit)
    check = QTimer()
    check.timeout.connect(lambda: loop.quit() if until is not None and until() else None)
    check.start(50)
    loop.exec() if hasattr(loop, "exec") else loop.exec_()


def measure(seconds: float, size: int, window: tuple[int, int]) -> dict[str, list[float]]:
    """Lateness in ms of each part."""
    import napari
    from napari.layers import Layer

    from napari_unetseg import sample
    from napari_unetseg.gui.dock import UNetDock

    viewer = napari.Viewer()
    viewer.window.resize(*window)
    for data, options, kind in sample.nuclei2d():
        tiles = max(1, size // data.shape[0])
        viewer.add_layer(Layer.create(np.tile(data, (tiles, tiles)), options, kind))
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net segmentation")
    session = dock.session
    run_event_loop(3.0)
    stopwatch, painter = Stopwatch(), Painter(viewer)

    def part(name: str, length: float, until: Any = None) -> None:
        stopwatch.part = name
        run_event_loop(length, until)
        stopwatch.part = ""

    part("idle", seconds)
    session.change_settings(minutes=60)
    dock.controller.choose_brush(1)
    painter.start()
    part("painting", seconds)
    assert "torch" not in sys.modules
    stopwatch.part = "first press, painting"
    dock.train.button.click()
    part("first press, painting", 120.0, lambda: session.job is None or "Step" in session.job.text)
    part("first press, painting", 2.0)
    part("training, painting", 3 * seconds)
    painter.stop()
    dock.train.button.click()
    run_event_loop(60.0, lambda: session.job is None)
    viewer.close()
    return stopwatch.late


def main() -> int:
    """Print a table; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each part")
    parser.add_argument("--size", type=int, default=512, help="edge of the image in pixels")
    parser.add_argument("--window", type=int, nargs=2, default=(1366, 768), metavar=("W", "H"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    late = measure(options.seconds, options.size, tuple(options.window))
    table = {
        name: {
            "calls": len(values),
            **{f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)},
            "max": round(max(values), 2),
        }
        for name, values in late.items()
        if values
    }
    print(f"{'lateness, ms':26}{'calls':>8}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}")
    for name, row in table.items():
        print(f"{name:26}" + "".join(f"{row[k]:>8}" for k in ("calls", "p50", "p95", "p99", "max")))
    if options.json:
        report = {"cores": os.cpu_count(), "qt": os.environ.get("QT_API", ""), "late_ms": table}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
