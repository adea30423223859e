"""Current OpenGL context of napari's canvas when layers are deleted."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.components import ViewerModel


class CanvasContext:
    """Makes the canvas's context current before napari handles the removal of a layer.

    napari (0.6.5 to 0.9.2 at least) deletes the shader programs of a removed layer immediately, in
    the current context, which outside of a paint event is the one in which Qt composes the window.
    Mesa's software renderer then unbinds the canvas's shaders without updating its state, and the
    process crashes at the next frame (docs/upstream/napari-removed-layers.md).
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        events = viewer.layers.events
        # napari deletes on `removed` and `end_batch`, which its own callbacks hear first
        for signal in (events.removing, events.begin_batch):
            signal.connect(self._make_current)

    def _make_current(self, _: Any = None) -> None:
        # `_qt_viewer` is private; without it, napari may well have fixed the bug
        with suppress(AttributeError, RuntimeError):  # RuntimeError: Qt has deleted the canvas
            canvas = self._viewer.window._qt_viewer.canvas.native
            if canvas.isValid():
                canvas.makeCurrent()
