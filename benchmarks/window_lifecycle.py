"""Open a window, train in it, close it, and see that the process ends well; again and again.

    QT_API=pyside6 python benchmarks/window_lifecycle.py [--times 20]  (needs a screen or xvfb-run)

Each time a new process opens napari with the dock, an image and strokes, trains a tiny network,
predicts, removes the layers and closes the window, as a user does: by its close button, with
napari's event loop running. It must end with exit code 0 and nothing on standard error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from home import leave_home

TINY = {"depth": 2, "width": 4, "steps": 10, "patch": 32, "batch": 2, "threads": 1}
PATIENCE = 300
"""Seconds after which a process counts as one that does not end."""
UNASKED = ("QStandardPaths: XDG_RUNTIME_DIR not set", "System theme detection requires a Qt6")
DEPRECATED = "napari support for the PyQt5 backend is deprecated"
"""What Qt and napari write about the machine and about PyQt5."""


def squares(side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares on a dark ground, and strokes on them."""
    image = np.random.default_rng(0).integers(10, 40, (side, side)).astype(np.uint8)
    strokes = np.zeros_like(image)
    image[8:28, 8:28] += 150
    strokes[16:18, 10:26], strokes[40:43, 4:60] = 1, 255
    return image, strokes


# -- the child -------------------------------------------------------------------------------------


def child() -> int:
    """One window, from opening to closing."""
    leave_home()
    import napari
    from napari.settings import get_settings

    from napari_unetseg.gui.dock_widget import UNetDock

    get_settings().application.confirm_close_window = False
    viewer = napari.Viewer()
    image, strokes = squares()
    viewer.add_image(image, name="squares")
    viewer.add_labels(strokes, name="strokes")
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net segmentation")
    dock.session.change_settings(**TINY)
    user = User(viewer, dock)
    napari.run()
    assert user.is_done, "napari ended before the window was closed"
    print("closed", flush=True)
    return 0


class User:
    """Does one thing after another from a timer, each when the one before is done."""

    def __init__(self, viewer: Any, dock: Any) -> None:
        from qtpy.QtCore import QTimer

        self._viewer, self._dock = viewer, dock
        self._steps = self._all()
        self._done: Callable[[], bool] = lambda: True
        self.is_done = False
        self._timer = QTimer()
        self._timer.timeout.connect(self._on_tick)
        self._timer.start(50)

    def _on_tick(self) -> None:
        if self._done():
            self._done = next(self._steps, lambda: False)

    def _all(self) -> Iterator[Callable[[], bool]]:
        session = self._dock.session
        yield lambda: bool(session.counts)
        self._dock.train.button.click()
        yield lambda: session.job is None and bool(session.history)
        self._dock.result.plane.click()
        yield lambda: session.job is None
        self._dock.help.click()
        yield lambda: True
        self._viewer.layers.clear()
        yield lambda: True
        self._timer.stop()
        self.is_done = True
        self._viewer.window._qt_window.close()


# -- the parent ------------------------------------------------------------------------------------


def main() -> int:
    """Open and close; returns 1 if any process ended badly or said anything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child()
    good = 0
    for number in range(1, options.times + 1):
        start = time.monotonic()
        wrong = one()
        good += not wrong
        print(f"{number:3d}  {time.monotonic() - start:5.1f} s  {wrong or 'well'}", flush=True)
    binding = os.environ.get("QT_API", "the default binding")
    print(f"{binding}, Python {sys.version.split()[0]}: {good} of {options.times} ended well")
    return int(good < options.times)


def one() -> str:
    """Run one process; what was wrong with it, or nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", __file__, "--child"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {PATIENCE} s"
    said = [line for line in done.stderr.splitlines() if not is_expected(line)]
    if done.returncode or said or done.stdout.split() != ["closed"]:
        return f"exit code {done.returncode}; {done.stdout.strip()}\n" + "\n".join(said)
    return ""


def is_expected(line: str) -> bool:
    """Whether a line on standard error is about the machine or PyQt5, not about this program."""
    return any(text in line for text in (*UNASKED, DEPRECATED, "theme_type=get_system_theme()"))


if __name__ == "__main__":
    sys.exit(main())
