"""Camera moves to a region of an image, which is brought to the front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.gui.layers.layer_axes import grid_shape
from napari_unetseg.gui.layers.world_units import to_world

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

SURROUNDINGS = 0.25
"""Margin around a region on each side, as a fraction of its edge length."""


def center_on(
    viewer: ViewerModel, image: Image, plane: Sequence[int], region: Sequence[slice]
) -> None:
    """Move sliders and camera so that a region and its surroundings fill the canvas.

    Parameters
    ----------
    plane, region
        Index along each leading axis of the image's grid, and a slice for each spatial one; a
        region in a volume is shown at its middle plane.
    """
    leading = (0,) * (image.ndim - len(grid_shape(image)))  # a first axis of channels
    spans = [*((i, i) for i in (*leading, *plane)), *((s.start, s.stop - 1) for s in region)]
    first = viewer.dims.ndim - image.ndim
    middle = to_world(viewer, image, [(a + b) // 2 for a, b in spans])
    displayed = list(viewer.dims.displayed)
    for axis, at in enumerate(middle, first):
        if axis not in displayed:
            viewer.dims.set_point(axis, float(at))
    corners = np.array([to_world(viewer, image, corner) for corner in product(*spans)])
    shown = [axis - first for axis in displayed if axis >= first]
    if len(shown) < len(displayed):  # the image has fewer axes than are shown
        return
    low, high = corners[:, shown].min(0), corners[:, shown].max(0)
    center = (low + high) / 2
    viewer.scene.camera.center = tuple(np.concatenate([np.zeros(3 - len(center)), center]))
    edges = np.maximum(high - low, 1e-12)[-2:] * (1 + 2 * SURROUNDINGS)
    canvas = np.asarray(viewer.canvas.size, float)
    viewer.scene.camera.zoom = float((canvas / edges).min())


def bring_to_front(
    viewer: ViewerModel, mine: Sequence[Layer | None], others: Sequence[Layer | None]
) -> None:
    """Show some layers, hide others that would cover them, and select the newest shown."""
    for layer in others:
        if layer is not None and layer in viewer.layers:
            layer.visible = False
    for layer in mine:
        if layer is not None and layer in viewer.layers:
            layer.visible = True
