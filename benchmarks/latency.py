"""How long a user waits from the press of Train to the first mask on screen.

The real dock in a real window, an image of 512 × 512 with strokes. The clock stops when the canvas
has been drawn after the prediction layer showed a mask that is not empty. PyTorch is imported
before the press, or not; each time in a process of its own. The lateness of the event loop is that
of a timer which asks to be called every 10 ms: while waiting for the mask, and afterwards.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/latency.py [--paint] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from window import Painter, Stopwatch, open_window, run_event_loop, show_lateness, summary

LIMIT = 3.0
"""Seconds to the first mask that are allowed with PyTorch imported."""
PATIENCE = 300.0
"""Seconds after which nobody waits any more."""
CASES = ("imported", "fresh")


class FirstMask:
    """Notes when a prediction that is not empty has been drawn."""

    def __init__(self, viewer: Any) -> None:
        self.seen: float | None = None
        self._ready = False
        viewer.layers.events.inserted.connect(lambda event: self._watch(event.value))
        canvas = viewer.window._qt_viewer.canvas._scene_canvas
        canvas.events.draw.connect(self._on_drawn, position="last")

    def _watch(self, layer: Any) -> None:
        layer.events.set_data.connect(lambda: self._look(layer))
        self._look(layer)

    def _look(self, layer: Any) -> None:
        if layer.metadata.get("napari_unetseg", {}).get("kind") == "prediction":
            self._ready = self._ready or (layer.visible and bool(np.any(layer.data)))

    def _on_drawn(self, _: Any) -> None:
        if self._ready and self.seen is None:
            self.seen = time.perf_counter()


def press(button: Any) -> float:
    """Move the mouse to a button and click it; return when."""
    from qtpy.QtCore import Qt
    from qtpy.QtGui import QCursor
    from qtpy.QtTest import QTest

    QCursor.setPos(button.mapToGlobal(button.rect().center()))
    pressed = time.perf_counter()
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    return pressed


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds to the first mask, and lateness in ms while waiting and afterwards."""
    viewer, dock = open_window(options.size, options.window)
    if case == "imported":
        from napari_unetseg.gui.import_torch import import_torch

        import_torch()
    session = dock.session
    session.change_settings(minutes=60)
    run_event_loop(3.0)
    assert ("torch" in sys.modules) == (case == "imported")
    stopwatch, painter, mask = Stopwatch(), Painter(viewer), FirstMask(viewer)
    if options.paint:
        dock.plugin.structures.choose_brush(1)
        painter.start()
    with stopwatch.measuring("waiting"):
        pressed = press(dock.train.button)
        run_event_loop(PATIENCE, lambda: mask.seen is not None or session.job is None)
    with stopwatch.measuring("afterwards"):
        run_event_loop(options.seconds)
    painter.stop()
    text = session.message.text
    dock.plugin.jobs.stop()
    run_event_loop(60.0, lambda: session.job is None)
    viewer.close()
    if mask.seen is None:
        raise SystemExit(f"There was no mask: {text}")
    return {"seconds": mask.seen - pressed, "late": dict(stopwatch.late)}


def run(case: str, arguments: list[str]) -> dict[str, Any]:
    """Measure once in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--one", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Take turns, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, default=10.0, help="lateness after the mask")
    parser.add_argument("--size", type=int, default=512, help="edge of the image in pixels")
    parser.add_argument("--window", type=int, nargs=2, default=(1366, 768), metavar=("W", "H"))
    parser.add_argument("--paint", action="store_true", help="paint all the while")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    waits, late = defaultdict(list), defaultdict(list)
    for _ in range(options.times):
        for case in CASES:
            found = run(case, sys.argv[1:])
            waits[case].append(found["seconds"])
            for part, values in found["late"].items():
                late[f"PyTorch {case}, {part}"] += values
    for case, seconds in waits.items():
        wanted = f", wanted {LIMIT:g}" if case == "imported" else ""
        each = ", ".join(f"{s:.2f}" for s in seconds)
        print(f"first mask, PyTorch {case}: {median(seconds):.2f} s ({each}{wanted})")
    table = summary(late)
    show_lateness(table)
    if options.out:
        from watch import machine, write_json

        first = {case: {"median": median(s), "each": s} for case, s in waits.items()}
        task = {"size": options.size, "paint": options.paint}
        report = {"machine": machine(), "task": task, "seconds": first, "late_ms": table}
        write_json(options.out, report)


if __name__ == "__main__":
    main()
