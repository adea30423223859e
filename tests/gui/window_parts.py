"""A napari window with the dock in it, and hands."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gui_parts import TINY
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_unetseg.gui.dock_widget import UNetDock

LEFT = Qt.MouseButton.LeftButton
NONE = Qt.KeyboardModifier.NoModifier


class Window:
    """A napari window with the dock in it, and hands."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.dock = UNetDock(viewer)
        viewer.window.add_dock_widget(self.dock, name="U-Net segmentation")
        self.plugin, self.session = self.dock.plugin, self.dock.session
        self.session.change_settings(**TINY)

    def wait(self, condition: Callable[[], bool], seconds: float = 90.0) -> None:
        """Process events until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain; {self.session.message.text}"
            QApplication.processEvents()
            time.sleep(0.002)

    def idle(self) -> bool:
        return self.session.job is None

    def click(self, widget: Any) -> None:
        QTest.mouseClick(widget, LEFT)

    def settle(self, canvas: Any) -> None:
        """Wait until the canvas keeps its size, as panels that appear take room."""
        sizes: list[Any] = []

        def kept() -> bool:
            sizes.append(canvas.size())
            return len(sizes) > 20 and all(size == sizes[-1] for size in sizes[-20:])

        self.wait(kept)

    def at(self, row: float, column: float) -> QPoint:
        """Where a pixel of the image is on the canvas."""
        canvas = self.viewer.window._qt_viewer.canvas.native
        camera = self.viewer.scene.camera
        middle = np.asarray(camera.center[-2:])
        x, y = (np.array([column, row]) - middle[::-1]) * camera.zoom
        return QPoint(round(canvas.width() / 2 + x), round(canvas.height() / 2 + y))

    def aims(self, canvas: Any, pixel: tuple[float, float]) -> bool:
        """Move the mouse to a pixel; whether napari sees it there.

        A busy screen answers late, and a mouse that is there already tells nothing after a change
        of size: hence the move beside it first.
        """
        QTest.mouseMove(canvas, self.at(*pixel) + QPoint(3, 0))
        QApplication.processEvents()
        QTest.mouseMove(canvas, self.at(*pixel))
        QApplication.processEvents()
        seen = np.asarray(self.viewer.cursor.position[-2:])
        return bool(np.abs(seen - pixel).max() <= max(1.0, 2.0 / self.viewer.scene.camera.zoom))

    def draw(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        halfway: Callable[[], None] = lambda: None,
    ) -> None:
        """Draw a line from one pixel to another with the mouse; something may happen meanwhile."""
        canvas = self.viewer.window._qt_viewer.canvas.native
        self.settle(canvas)
        self.wait(lambda: self.aims(canvas, start))
        points = [tuple(point) for point in np.linspace(start, end, 8)]
        QTest.mousePress(canvas, LEFT, NONE, self.at(*start))
        for number, point in enumerate(points):
            if number == 4:
                halfway()
            self.wait(partial(self.aims, canvas, point))
        QTest.mouseRelease(canvas, LEFT, NONE, self.at(*end))
        QApplication.processEvents()

    def tap(self, pixel: tuple[float, float]) -> None:
        """Click a pixel of the image."""
        canvas = self.viewer.window._qt_viewer.canvas.native
        self.settle(canvas)
        self.wait(lambda: self.aims(canvas, pixel))
        QTest.mousePress(canvas, LEFT, NONE, self.at(*pixel))
        QTest.mouseRelease(canvas, LEFT, NONE, self.at(*pixel))
        QApplication.processEvents()

    def press(self, key: Any, modifier: Any = NONE) -> None:
        """Press a key at the canvas."""
        canvas = self.viewer.window._qt_viewer.canvas.native
        canvas.setFocus()
        QTest.keyClick(canvas, key, modifier)
        QApplication.processEvents()


def in_front(window: Window) -> None:
    """Bring the window to the front, the keyboard at its canvas."""
    main = window.dock.window()
    main.raise_()
    main.activateWindow()
    canvas = window.viewer.window._qt_viewer.canvas.native
    window.wait(main.isActiveWindow)
    canvas.setFocus()
    window.wait(lambda: QApplication.focusWidget() is canvas)
    window.settle(canvas)  # the screen answers late, and a dock that appears takes room
