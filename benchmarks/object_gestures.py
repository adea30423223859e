"""How long edits of numbered objects take, and how soon a stroke changes the numbers on screen.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/object_gestures.py [--side 2048]
                                                   [--objects 1000] [--strokes 6] [--json FILE]

A real window shows a plane with so many round objects in touching pairs. Each gesture is made
with the mouse: the milliseconds go from its release until the layer has the new numbers and is
asked to redraw (``edit``), and until it is drawn (``drawn``), which without a GPU takes processor
time of its own: ``mouse alone`` are the same drags without a tool. Meanwhile, and while new numbers
of the whole plane come twice a second, a timer says how late the event loop is. Before that, the
sample's nuclei (512 × 512) are trained on live: from the end of a stroke where the mask is wrong
the seconds are counted until numbers of a newer model that has taken it are on screen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import center_of_mass
from stroke import SAMPLE, Hand
from window import Stopwatch, open_window, run_event_loop, show_lateness, summary

from napari_unetseg.core.events import TilePredicted
from napari_unetseg.gui.state.session import Level, MarkKind, ObjectTool
from napari_unetseg.jobs.plane_objects import ObjectsFound

REST = 0.25
"""Seconds between two gestures."""
PATIENCE = 20.0


def pairs(side: int, count: int) -> np.ndarray:
    """Touching pairs of round objects in a grid, numbered from 1 on; int32 (side, side)."""
    across = int(np.ceil(np.sqrt(count / 2)))
    cell = side // across
    radius = max(2, int(0.22 * cell))
    y, x = np.mgrid[:cell, :cell] - cell / 2
    tile = np.zeros((cell, cell), np.int32)
    tile[np.hypot(y, x + radius) < radius] = 1
    tile[np.hypot(y, x - radius) < radius] = 2
    ids = np.zeros((side, side), np.int32)
    for number, (row, column) in enumerate(np.ndindex(across, across)):
        if 2 * number + 2 <= count:
            spot = slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell)
            ids[spot] = np.where(tile > 0, tile + 2 * number, 0)
    return ids


class Bench:
    """A window with numbered objects, and hands."""

    def __init__(self, side: int, count: int, window: tuple[int, int]) -> None:
        self.ids = pairs(side, count)
        noise = np.random.default_rng(0).integers(0, 40, self.ids.shape)
        image = ((self.ids > 0) * 150 + noise).astype(np.uint8)
        self.viewer, dock = open_window(side, window, [(image, {"name": "cells"}, "image")])
        self.plugin, self.session = dock.plugin, dock.session
        self.session.structures = tuple(replace(s, objects=True) for s in self.session.structures)
        self.canvas = self.viewer.window._qt_viewer.canvas.native
        self.spent: defaultdict[str, list[float]] = defaultdict(list)
        numbers = np.arange(1, self.ids.max() + 1)
        self.centres = np.array(center_of_mass(self.ids > 0, self.ids, numbers)).reshape(-1, 2, 2)
        self._show_mask()
        self.find(self.ids)
        run_event_loop(PATIENCE, self.shown)
        self.viewer.reset_view()
        run_event_loop(2.0)

    def _show_mask(self) -> None:
        target = self.plugin.masks.open(self.session.image, "model", self.session.structures)
        whole = tuple(slice(0, n) for n in self.ids.shape)
        mask = (self.ids > 0).astype(np.uint8)
        target.write(TilePredicted((), whole, mask, None, 1, 1))
        target.close()

    def find(self, ids: np.ndarray) -> None:
        """Objects of the plane come, as from a prediction."""
        mask = (ids > 0).astype(np.uint8)
        target = self.plugin.masks.open(self.session.image, "model", self.session.structures)
        region = tuple(slice(0, n) for n in ids.shape)
        target.show_objects(ObjectsFound((), region, ids, mask, None, (1,), (1.0, 1.0)))
        target.drop()

    def shown(self) -> bool:
        """Whether numbers are on screen."""
        found = self.plugin.object_layers.current
        return found is not None and found.layer is not None and found.layer.data.any()

    def gesture(self, tool: ObjectTool, start: np.ndarray, end: np.ndarray) -> None:
        """Take a tool and drag the mouse; note how long the edit took."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QApplication

        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        if self.session.object_tool is not tool and tool is not ObjectTool.NONE:
            self.plugin.objects.choose(tool)
        self.canvas.setFocus()
        QTest.mouseMove(self.canvas, self.at(start))
        run_event_loop(REST / 2)
        QTest.mousePress(self.canvas, left, none, self.at(start))
        for share in (0.3, 0.6, 1.0):
            QTest.mouseMove(self.canvas, self.at(start + share * (end - start)))
            run_event_loop(0.03)
        said, begin = self.session.message, time.perf_counter()
        QTest.mouseRelease(self.canvas, left, none, self.at(end))
        edited = time.perf_counter() - begin
        QApplication.processEvents()
        drawn = time.perf_counter() - begin
        if tool is not ObjectTool.NONE:
            self.spent[f"{tool}, edit"].append(1000 * edited)
            self.spent[f"{tool}, drawn"].append(1000 * drawn)
            done = self.session.message
            if done is said or done.level is not Level.INFO:
                raise SystemExit(f"{tool} was not done: {done.text}")
        run_event_loop(REST / 2)

    def places(self, count: int) -> list[np.ndarray]:
        """Centres of both objects of so many pairs."""
        order = np.random.default_rng(1).permutation(len(self.centres))
        return [self.centres[i] for i in order[:count]]

    def at(self, pixel: np.ndarray) -> Any:
        """Where a pixel of the image is on the canvas."""
        from qtpy.QtCore import QPoint

        camera = self.viewer.scene.camera
        x, y = (pixel[::-1] - np.asarray(camera.center[-2:])[::-1]) * camera.zoom
        return QPoint(round(self.canvas.width() / 2 + x), round(self.canvas.height() / 2 + y))


def mouse_alone(bench: Bench, turns: int) -> None:
    """Drags without a tool, in napari's mode of the same name as that of the tools."""
    layer = bench.plugin.object_layers.current.layer
    bench.viewer.layers.selection.active, layer.mode = layer, "pick"
    for one, other in bench.places(turns):
        bench.gesture(ObjectTool.NONE, one, other)


def gestures(bench: Bench, turns: int) -> None:
    """Merge, split, delete and accept, each at pairs of its own."""
    wanted = [t for t in ObjectTool if t not in (ObjectTool.NONE, ObjectTool.PAINT)]
    for turn, (one, other) in enumerate(bench.places(len(wanted) * turns)):
        tool, half = wanted[turn % len(wanted)], np.array([(other - one)[1], 0.0])
        if tool is ObjectTool.MERGE:
            bench.gesture(tool, one, other)
        elif tool is ObjectTool.SPLIT:
            bench.gesture(tool, one - 0.8 * half, one + 0.8 * half)
        else:
            bench.gesture(tool, one, one)


def newer(bench: Bench, seconds: float) -> None:
    """New numbers of the whole plane, twice a second."""
    end, turn = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        turn += 1
        bench.find(np.roll(bench.ids, turn % 3, axis=0))
        run_event_loop(0.5)


def answered(strokes: int, window: tuple[int, int]) -> Iterator[float | None]:
    """Seconds from each stroke to newer numbers on screen while a training runs; None: too long."""
    viewer, dock = open_window(512, window)
    session, plugin = dock.session, dock.plugin
    run_event_loop(2.0)
    session.structures = tuple(replace(s, objects=True) for s in session.structures)
    session.change_settings(minutes=60)
    dock.train.button.click()
    run_event_loop(60.0, lambda: len(plugin.object_layers.newest) > 0)
    run_event_loop(10.0)
    hand = Hand(dock, np.asarray(tifffile.imread(SAMPLE) > 0).astype(np.uint8))
    for _ in range(strokes):
        yield seconds_of(hand, plugin, session)
        run_event_loop(2.0)
    dock.train.button.click()
    run_event_loop(60.0, lambda: session.job is None)
    viewer.close()


def seconds_of(hand: Hand, plugin: Any, session: Any) -> float | None:
    """Paint a stroke; the seconds until numbers of a model that has taken it are on screen."""

    def taken() -> int:
        return sum(mark.kind is MarkKind.STROKES for mark in session.marks)

    def on_shown(_: Any) -> None:
        model = plugin.masks.current.masks.model_id
        if taken() > before and model != old and not found:
            found.append(time.perf_counter() - start)

    found: list[float] = []
    before, old = taken(), plugin.masks.current.masks.model_id
    hand.stroke()
    start = time.perf_counter()
    plugin.object_layers.shown.connect(on_shown)
    run_event_loop(PATIENCE, lambda: bool(found))
    plugin.object_layers.shown.disconnect(on_shown)
    return found[0] if found else None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times of gestures in ms, lateness of the event loop, seconds of answers."""
    report: dict[str, Any] = {"cores": os.cpu_count(), "side": options.side}
    window = tuple(options.window)
    seconds = list(answered(options.strokes, window)) if options.strokes else []
    bench, stopwatch = Bench(options.side, options.objects, window), Stopwatch()
    with stopwatch.measuring("idle"):
        run_event_loop(options.seconds)
    with stopwatch.measuring("mouse alone"):
        mouse_alone(bench, options.turns)
    with stopwatch.measuring("gestures"):
        gestures(bench, options.turns)
    with stopwatch.measuring("new numbers"):
        newer(bench, options.seconds)
    stopwatch.stop()
    bench.viewer.close()
    report["ms"] = {name: spread(ms) for name, ms in bench.spent.items()}
    report["late_ms"] = summary(stopwatch.late)
    report["answer_s"] = [None if s is None else round(s, 2) for s in seconds]
    return report


def spread(values: list[float]) -> dict[str, float]:
    """Median and maximum."""
    return {"median": round(float(np.median(values)), 1), "max": round(max(values), 1)}


def show(report: dict[str, Any], write: Callable[[str], Any] = print) -> None:
    """Print a report."""
    write(f"{'ms':32}{'median':>10}{'max':>10}")
    for name, row in report["ms"].items():
        write(f"{name:32}{row['median']:>10}{row['max']:>10}")
    show_lateness(report["late_ms"])
    known = [s for s in report["answer_s"] if s is not None]
    if known:
        write(
            f"stroke to numbers on screen, s: median {np.median(known):.2f}, {report['answer_s']}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Print a report; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048, help="edge of the plane in pixels")
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=10, help="gestures of each kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the other parts")
    parser.add_argument("--strokes", type=int, default=6)
    parser.add_argument("--window", type=int, nargs=2, default=(1366, 768), metavar=("W", "H"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    report = measure(options)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
