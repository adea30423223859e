"""Memory over many rounds: train, predict, correct; with and without a window; docks come and go.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/soak.py [--rounds 200] [--out FILE]

Each part runs in a process of its own, with a small image and a network of two levels. The resident
memory is read after each round, when what can be collected was collected; growth is the slope of a
line through the second half of the rounds (Theil-Sen, so that single jumps do not count). Threads
and layers are counted before and after.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from home import leave_home

SIDE = 96
PARTS = ("headless", "window", "dock")


def picture() -> tuple[np.ndarray, np.ndarray]:
    """An image of bright squares and strokes on it, uint8."""
    rng = np.random.default_rng(0)
    image = rng.integers(10, 40, (SIDE, SIDE)).astype(np.uint8)
    image[10:40, 10:40] += 150
    image[50:80, 40:85] += 150
    strokes = np.zeros((SIDE, SIDE), np.uint8)
    strokes[20:23, 12:38] = strokes[60:63, 42:80] = 1
    strokes[44:47, 5:90] = strokes[88:91, 5:60] = 255
    return image, strokes


def resident_kb() -> float:
    """Resident memory of this process in kB, after collecting."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def slope(values: Sequence[float]) -> float:
    """Median of the slopes between all pairs of the second half, in units a round."""
    late = np.asarray(values[len(values) // 2 :])
    first, second = np.triu_indices(len(late), 1)
    return float(np.median((late[second] - late[first]) / (second - first)))


SETTINGS = {"depth": 2, "width": 4, "steps": 6, "patch": 32, "batch": 2, "threads": 1}


def headless(rounds: int) -> dict[str, Any]:
    """Controllers' rounds without a window."""
    from napari.components import ViewerModel

    from napari_unetseg.gui.plugin import Plugin
    from napari_unetseg.gui.services.job_runner import ThreadRunner

    viewer = ViewerModel()
    plugin = Plugin(viewer, ThreadRunner())
    found = _rounds(viewer, plugin, rounds, lambda: None)
    plugin.close()
    return found


def window(rounds: int) -> dict[str, Any]:
    """The same with a window."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_unetseg.gui.dock_widget import UNetDock

    viewer = napari.Viewer(show=True)
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock)
    return _rounds(viewer, dock.plugin, rounds, QApplication.processEvents)


def _rounds(viewer: Any, plugin: Any, rounds: int, breathe: Callable[[], object]) -> Any:
    image, strokes = picture()
    viewer.add_image(image, name="squares")
    labels = viewer.add_labels(strokes, name="strokes")
    plugin.session.change_settings(**SETTINGS)
    rng = np.random.default_rng(1)

    def wait() -> None:
        breathe()
        plugin.tick()
        while plugin.session.job is not None or plugin.jobs.idle_runs:
            breathe()
            plugin.tick()

    memory, before = [], None
    for number in range(rounds):
        plugin.training.start()
        wait()
        plugin.prediction.predict_plane()
        wait()
        layer = plugin.masks.current.layer
        for one in (labels, layer):
            row = int(rng.integers(5, SIDE - 5))
            one.data_setitem((np.full(5, row), np.arange(5) + row // 2), 1)
        layer.undo()
        wait()
        memory.append(resident_kb())
        if number == rounds // 4:
            before = _things(viewer)
    return {"kb": memory, "before": before, "after": _things(viewer)}


def dock(rounds: int) -> dict[str, Any]:
    """The dock opened and closed again and again."""
    import napari
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    from napari_unetseg.gui.dock_widget import UNetDock

    viewer = napari.Viewer(show=True)
    image, strokes = picture()
    viewer.add_image(image, name="squares")
    viewer.add_labels(strokes, name="strokes")
    memory, before = [], None
    for number in range(rounds):
        widget = UNetDock(viewer)
        held = viewer.window.add_dock_widget(widget)
        for _ in range(20):
            QApplication.processEvents()
        viewer.window.remove_dock_widget(held)
        widget.deleteLater()
        del widget, held
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        for _ in range(20):
            QApplication.processEvents()
        memory.append(resident_kb())
        if number == rounds // 4:
            before = _things(viewer)
    return {"kb": memory, "before": before, "after": _things(viewer)}


def _things(viewer: Any) -> dict[str, Any]:
    """Names of threads, and the numbers of layers and of Qt's timers and widgets."""
    threads = sorted(one.name for one in threading.enumerate())
    found: dict[str, Any] = {"threads": threads, "layers": len(viewer.layers)}
    if "qtpy" in sys.modules:
        from qtpy.QtCore import QTimer
        from qtpy.QtWidgets import QApplication

        found["widgets"] = len(QApplication.allWidgets())
        found["timers"] = sum(isinstance(one, QTimer) for one in gc.get_objects())
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part, print growth, write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        leave_home()
        print(json.dumps(globals()[options.part](options.rounds)), flush=True)
        os._exit(0)
    report = {}
    for part in options.parts.split(","):
        rounds = options.rounds // 4 if part == "dock" else options.rounds
        command = [sys.executable, __file__, "--part", part, "--rounds", str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:])
            return 1
        found = json.loads(done.stdout.splitlines()[-1])
        report[part] = found | {"kb_a_round": slope(found["kb"])}
        print(
            f"{part:9} {rounds:4} rounds: {report[part]['kb_a_round']:7.1f} kB a round; "
            f"from {found['kb'][0] / 1024:.0f} to {found['kb'][-1] / 1024:.0f} MB; "
            f"{found['before']} then {found['after']}",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
