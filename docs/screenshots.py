"""Pictures of the dock for the documents: light and dark, on a small screen and at 200 %.

``python docs/screenshots.py [FOLDER]`` writes ``dock-THEME.png`` from a window of 1366 × 768 and,
from a fresh interpreter with QT_SCALE_FACTOR=2, ``dock-THEME-200.png`` from 2732 × 1536: the dock
at first, after a training and with its advanced settings, and the help. ``batch-THEME.png`` are
the small window with the batch panel, one of five images opened with its mask, ``objects-dark.png``
one with numbered nuclei. It needs a screen of that size;
``xvfb-run -a -s "-screen 0 2732x1536x24"`` makes one.
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
STEPS = 20


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--font-size", type=int, help="of napari, in points")
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
    os.environ["XDG_DATA_HOME"] = os.environ["XDG_CONFIG_HOME"]  # nor projects
    os.environ["NAPARI_CONFIG"] = str(Path(os.environ["XDG_CONFIG_HOME"]) / "napari.yaml")
    import napari
    from napari.layers import Layer
    from napari.settings import get_settings

    from napari_unetseg import sample
    from napari_unetseg.gui.dock_widget import UNetDock

    if options.font_size:
        get_settings().appearance.font_size = options.font_size
    viewer = napari.Viewer()
    viewer.window.resize(*SMALL)
    for layer in sample.nuclei2d():
        viewer.add_layer(Layer.create(*layer))
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net segmentation", area="right")
    viewer.reset_view()
    shots: dict[str, list[Any]] = {theme: [] for theme in THEMES}
    shoot(viewer, dock, shots, "first")
    dock.session.change_settings(steps=STEPS)
    dock.train.button.click()
    wait(lambda: dock.session.job is None and dock.session.entry is not None)
    dock.advanced.fold.expand(animate=False)
    shoot(viewer, dock, shots, "trained")
    shoot(viewer, dock, shots, "advanced")
    dock.help.click()
    shoot(viewer, dock, shots, "help")
    for theme, images in shots.items():
        join(images, options.folder / f"dock-{theme}{suffix}.png")
    if not suffix:
        dock.context.help.close()
        batch(viewer, dock, options.folder)
    viewer.close()
    if not suffix:
        objects(options.folder)


def objects(folder: Path) -> None:
    """Take a picture of the window with numbered objects and the tool that splits them."""
    import napari
    from napari.layers import Layer
    from qtpy.QtWidgets import QScrollArea

    from napari_unetseg import sample
    from napari_unetseg.gui.dock_widget import UNetDock
    from napari_unetseg.gui.state.session import ObjectTool

    viewer = napari.Viewer()
    viewer.window.resize(*SMALL)
    for layer in sample.nuclei2d():
        viewer.add_layer(Layer.create(*layer))
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net segmentation", area="right")
    viewer.reset_view()
    dock.annotate.objects.click()
    dock.session.change_settings(steps=3 * STEPS)
    dock.train.button.click()
    wait(lambda: dock.session.job is None and dock.session.entry is not None)
    wait(lambda: dock.session.objects.on_plane > 0)
    dock.objects.tools[ObjectTool.SPLIT].click()
    pause()
    bar = dock.findChild(QScrollArea).verticalScrollBar()
    bar.setValue(dock.review.y())
    pause()
    viewer.screenshot(str(folder / "objects-dark.png"), canvas_only=False, flash=False)
    viewer.close()


def batch(viewer: Any, dock: Any, folder: Path) -> None:
    """Take pictures of the window with a batch: parts of the sample and a bad file."""
    import numpy as np
    import tifffile

    dock.advanced.fold.collapse(animate=False)
    place = Path(tempfile.mkdtemp())
    whole = np.asarray(viewer.layers[0].data)
    for number in range(4):
        piece = whole[number * 60 : number * 60 + 250, :300]
        tifffile.imwrite(place / f"field_{number + 1:02d}.tif", piece)
    (place / "field_05.tif").write_bytes(b"cut short")
    dock.result.batch.click()
    panel = dock._batch().panel
    dock.plugin.batch.add([place])
    panel._folder = place / "masks"
    panel.where.setText("masks")
    panel.measure.setChecked(True)
    pause()
    panel.run.click()
    wait(lambda: dock.session.job is None)
    panel.table.selectRow(1)
    panel.open.click()
    for theme in THEMES:
        viewer.theme = theme
        pause()
        viewer.screenshot(str(folder / f"batch-{theme}.png"), canvas_only=False, flash=False)


def shoot(viewer: Any, dock: Any, shots: dict[str, list[Any]], part: str) -> None:
    """Take a picture of the dock in each theme, scrolled to a part; or of the help."""
    from qtpy.QtWidgets import QScrollArea

    pause()
    bar = dock.findChild(QScrollArea).verticalScrollBar()
    bar.setValue({"trained": dock.train.y(), "advanced": bar.maximum()}.get(part, 0))
    seen = dock.context.help if part == "help" else dock
    for theme, images in shots.items():
        viewer.theme = theme
        pause()
        images.append(seen.grab().toImage())


def join(images: list[Any], path: Path) -> None:
    """Write pictures side by side."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{n}.png" for n in range(len(images))]
        for image, file in zip(images, files, strict=True):
            image.save(str(file))
        parts = [Image.open(file).convert("RGB") for file in files]
        wide = sum(part.width for part in parts) + 8 * (len(parts) - 1)
        whole = Image.new("RGB", (wide, max(part.height for part in parts)), "#808080")
        left = 0
        for part in parts:
            whole.paste(part, (left, 0))
            left += part.width + 8
    whole.save(path, optimize=True)


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
