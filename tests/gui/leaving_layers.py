"""Windows whose layers leave while they are drawn; a program of its own, as it may crash."""

from __future__ import annotations

import time
from typing import Any

import napari
from gui_parts import squares, strokes
from qtpy.QtWidgets import QApplication

from napari_unetseg.gui.dock_widget import UNetDock

PATIENCE = 60.0


class Screen:
    """A napari window with the dock in it, whose frames are counted."""

    def __init__(self) -> None:
        self.viewer: Any = napari.Viewer()
        self.viewer.window.add_dock_widget(UNetDock(self.viewer))
        self.frames = 0
        self._canvas = self.viewer.window._qt_viewer.canvas._scene_canvas
        self._canvas.events.draw.connect(self._on_draw)
        self.draw()

    def _on_draw(self, _: object) -> None:
        self.frames += 1

    def draw(self) -> None:
        """Have some frames drawn."""
        wanted, end = self.frames + 3, time.monotonic() + PATIENCE
        while self.frames < wanted:
            assert time.monotonic() < end, "nothing is drawn"
            self._canvas.native.update()
            QApplication.processEvents()
            time.sleep(0.002)

    def fill(self) -> None:
        """Add labels to paint on, other labels, and an image."""
        self.viewer.add_labels(strokes(), name="strokes").mode = "paint"
        self.viewer.add_labels(strokes(), name="more")
        self.viewer.add_image(squares(), name="squares")
        self.draw()


def remove_one_after_the_other(screen: Screen) -> None:
    """As a plugin or a script does."""
    while screen.viewer.layers:
        screen.viewer.layers.pop(0)
        screen.draw()


def clear(screen: Screen) -> None:
    """The brush stays on the canvas when the layer that it belongs to has left."""
    screen.viewer.layers.clear()
    screen.draw()


def close_one_of_two(screen: Screen) -> None:
    """Both windows show the same layers; one is closed, the other goes on."""
    other = Screen()
    for layer in screen.viewer.layers:
        other.viewer.add_layer(layer)
    other.draw()
    screen.viewer.close()
    other.draw()
    other.viewer.layers["squares"].contrast_limits = (0, 100)
    other.draw()
    other.viewer.close()


if __name__ == "__main__":
    window = Screen()
    for scene in (remove_one_after_the_other, clear, close_one_of_two):
        print(scene.__name__, flush=True)  # noqa: T201 - the last one said is the one that crashed
        window.viewer.layers.clear()
        window.fill()
        scene(window)
    QApplication.processEvents()
    print("done", flush=True)  # noqa: T201
