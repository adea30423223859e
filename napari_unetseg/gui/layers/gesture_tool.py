"""Mouse gestures on an object layer: a click, or a drag that is shown as a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Vectors

from napari_unetseg.gui.layers.alignment import transform_of
from napari_unetseg.gui.layers.visibility import insert_unselected
from napari_unetseg.gui.layers.world_units import to_data

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

COLOR = "#FFD400"
SCREEN_WIDTH = 3.0
"""Width of the line in pixels of the screen."""
MODE = "pick"
"""napari's mode in which the mouse neither paints nor moves the camera."""


@dataclass(frozen=True, slots=True, eq=False)
class Gesture:
    """Where the mouse went with its left button down.

    ``plane`` is the index along each axis but Y and X, ``path`` are the places on the way, (n, 2)
    float in voxels of Y and X, which may lie outside of the layer.
    """

    plane: tuple[int, ...]
    path: np.ndarray


class GestureTool:
    """Listens to the mouse on one layer at a time.

    Attributes
    ----------
    on_gesture
        Called with a finished gesture.
    on_left
        Called when the user chose another mode of the layer.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None
        self._line: Vectors | None = None
        self.on_gesture: Callable[[Gesture], None] = lambda _: None
        self.on_left: Callable[[], None] = lambda: None

    def take(self, layer: Labels) -> None:
        """Take the mouse on a layer, which is selected."""
        if layer is not self._layer:
            self.drop()
            self._layer = layer
            self._line = self._new_line(layer)
            self._viewer.layers.selection.active = layer
            layer.visible, layer.mode = True, MODE
            layer.mouse_drag_callbacks.append(self._on_drag)
            layer.events.mode.connect(self._on_mode)

    def drop(self) -> None:
        """Leave the mouse to napari."""
        layer, self._layer = self._layer, None
        if layer is not None:
            layer.events.mode.disconnect(self._on_mode)
            layer.mouse_drag_callbacks.remove(self._on_drag)
            if layer.mode == MODE:
                layer.mode = "pan_zoom"
        if self._line is not None and self._line in self._viewer.layers:
            self._viewer.layers.remove(self._line)
        self._line = None

    def _on_mode(self, event: Any) -> None:
        if str(event.mode) != MODE:
            self.drop()
            self.on_left()

    def _on_drag(self, layer: Labels, event: Any) -> Iterator[None]:
        if event.button != 1 or self._viewer.dims.ndisplay != 2:
            return
        start = to_data(self._viewer, layer, event.position)
        plane = tuple(int(i) for i in np.round(start[:-2]))
        path = [start[-2:]]
        yield
        while event.type == "mouse_move":
            path.append(to_data(self._viewer, layer, event.position)[-2:])
            self._draw(plane, np.array(path))
            yield
        self._draw(plane, np.zeros((0, 2)))
        if all(0 <= i < n for i, n in zip(plane, layer.data.shape, strict=False)):
            self.on_gesture(Gesture(plane, np.array(path)))

    # -- the line ------------------------------------------------------------------------------

    def _new_line(self, layer: Labels) -> Vectors:
        new = Vectors(
            np.zeros((0, 2, layer.ndim)),
            name=f"{layer.name} · line",
            edge_color=COLOR,
            vector_style="line",
            metadata={"napari_unetseg": {"kind": "frame"}},
            **transform_of(layer),
        )
        insert_unselected(self._viewer, len(self._viewer.layers), new)
        return new

    def _draw(self, plane: tuple[int, ...], path: np.ndarray) -> None:
        """Show a line through these points of a plane; none for fewer than two."""
        shown = self._line
        if shown is None or shown not in self._viewer.layers:
            return
        steps = np.zeros((max(0, len(path) - 1), 2, shown.ndim))
        if len(steps):
            steps[:, 0, :-2], steps[:, 0, -2:] = plane, path[:-1]
            steps[:, 1, -2:] = np.diff(path, axis=0)
            scale = abs(float(shown.scale[-1])) * self._viewer.camera.zoom
            shown.edge_width = SCREEN_WIDTH / max(scale, 1e-9)
        shown.data = steps
