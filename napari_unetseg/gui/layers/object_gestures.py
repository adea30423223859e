"""Lines drawn and clicks made with the mouse on a layer, in its voxels."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Labels

LEFT = 1


class Gestures:
    """Tells the line from where the left button is pressed to where it is released.

    Parameters
    ----------
    layer
        The layer that is clicked on; while `active` it neither paints nor moves the camera.
    on_line
        Called with the two ends (2, axes), float, in voxels; of a click they are the same.
    """

    def __init__(self, layer: Labels, on_line: Callable[[np.ndarray], None]) -> None:
        self.layer, self._on_line = layer, on_line
        self._active = False
        layer.mouse_drag_callbacks.append(self._on_drag)

    @property
    def active(self) -> bool:
        """Whether lines are told rather than painted."""
        return self._active

    @active.setter
    def active(self, wanted: bool) -> None:
        if wanted:
            self.layer.mode = "pan_zoom"
        self.layer.mouse_pan = not wanted
        self._active = wanted

    def _on_drag(self, layer: Labels, event: Any) -> Generator[None, None, None]:
        if not self._active or event.button != LEFT or layer.mode != "pan_zoom":
            return
        first = last = layer.world_to_data(event.position)
        shown = _Line(layer)
        yield
        while event.type == "mouse_move":
            last = layer.world_to_data(event.position)
            shown.show(first, last)
            yield
        shown.hide()
        self._on_line(np.array([first, last], float))

    def end(self) -> None:
        """Listen no more."""
        self.active = False
        with suppress(ValueError):
            self.layer.mouse_drag_callbacks.remove(self._on_drag)


class _Line:
    """A line on the canvas, by the overlay with which napari draws polygons of labels.

    It is private to napari, so that there is no line where it is not as expected.
    """

    def __init__(self, layer: Labels) -> None:
        self._overlay = getattr(layer, "_overlays", {}).get("polygon")

    def show(self, first: Any, last: Any) -> None:
        with suppress(Exception):
            assert self._overlay is not None
            self._overlay.points = [list(first), list(last)]
            self._overlay.visible = True

    def hide(self) -> None:
        with suppress(Exception):
            assert self._overlay is not None
            self._overlay.points = []
            self._overlay.visible = False
