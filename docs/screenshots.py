"""Pictures of the dock for the documents: light and dark, on a small screen and at 200 %.

``python docs/screenshots.py [FOLDER]`` writes ``dock-THEME.png`` at 1366 × 768 and, from a fresh
interpreter with QT_SCALE_FACTOR=2, ``dock-THEME-200.png`` at 2732 × 1536. A screen of that size is
needed; ``xvfb-run -a -s "-screen 0 2732x1536x24"`` makes one. ``--help-too`` adds the help.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALL = (1366, 768)
THEMES = ("dark", "light")
STEPS = 60


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--font-size", type=int, help="of napari, in points")
    parser.add_argument("--help-too", action="store_true")
    options = parser.parse_args()
    if "QT_SCALE_FACTOR" in os.environ or options.font_size:
        pictures(options, f"-{options.font_size}pt" if options.font_size else "-200")
        return
    pictures(options, "")
    subprocess.run(
        [sys.executable, __file__, *sys.argv[1:]],
        env=os.environ | {"QT_SCALE_FACTOR": "2"},
        check=True,
    )


def pictures(options: argparse.Namespace, suffix: str) -> None:
    """Train once, then take a picture in each theme, with the curve and the model in sight."""
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp()  # nobody's own settings
    os.environ["NAPARI_CONFIG"] = str(Path(os.environ["XDG_CONFIG_HOME"]) / "napari.yaml")
    import napari
    from napari.layers import Layer
    from napari.settings import get_settings

    from napari_unetseg import sample
    from napari_unetseg.gui.dock import UNetDock

    if options.font_size:
        get_settings().appearance.font_size = options.font_size
    viewer = napari.Viewer()
    viewer.window.resize(*SMALL)
    for layer in sample.nuclei2d():
        viewer.add_layer(Layer.create(*layer))
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net segmentation", area="right")
    viewer.reset_view()
    shoot = partial_shoot(viewer, dock, options.folder, suffix)
    shoot("first", "welcome")
    dock.session.change_settings(steps=STEPS)
    dock.train.button.click()
    wait(lambda: dock.session.job is None and dock.session.entry is not None)
    dock.advanced.fold.expand(animate=False)
    shoot("dock", "plot")
    shoot("lower", "advanced")
    if options.help_too:
        dock.help.click()
        pause()
        for theme in THEMES:
            viewer.theme = theme
            pause()
            dock.workbench.keys._help.grab().save(str(options.folder / f"help-{theme}{suffix}.png"))
    viewer.close()


def partial_shoot(viewer: Any, dock: Any, folder: Path, suffix: str) -> Callable[[str, str], None]:
    """A function that takes a picture of the window in each theme, scrolled to a part."""
    from qtpy.QtWidgets import QScrollArea

    scroll = dock.findChild(QScrollArea)

    def shoot(name: str, part: str) -> None:
        pause()
        bar = scroll.verticalScrollBar()
        bar.setValue({"welcome": 0, "plot": dock.train.y(), "advanced": bar.maximum()}[part])
        for theme in THEMES:
            viewer.theme = theme
            pause()
            dock.window().grab().save(str(folder / f"{name}-{theme}{suffix}.png"))

    return shoot


def wait(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Let the window live until a condition holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the window did not get so far")
        QApplication.processEvents()
        time.sleep(0.005)


def pause(seconds: float = 0.7) -> None:
    """Let everything be laid out and drawn."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


if __name__ == "__main__":
    main()
