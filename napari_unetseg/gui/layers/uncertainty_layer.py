"""Uncertainty layer: 0 black, 1 bright."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image

from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.gui.layers.alignment import transform_over
from napari_unetseg.gui.layers.following import follow
from napari_unetseg.gui.layers.layer_axes import grid_shape

if TYPE_CHECKING:
    from napari.components import ViewerModel


class UncertaintyLayer:
    """A layer over one image; voxels without a value are black and invisible."""

    def __init__(self, viewer: ViewerModel, image: Image) -> None:
        self._viewer, self.image = viewer, image
        self._data = empty_grid(grid_shape(image), np.float32)
        self.layer = Image(
            self._data,
            name=f"{image.name} · uncertainty",
            colormap="magma",
            blending="additive",
            contrast_limits=(0.0, 1.0),
            opacity=0.8,
            metadata={"napari_unetseg": {"kind": "uncertainty"}},
            **transform_over(image),
        )
        follow(image, self.layer)
        self._insert()

    @property
    def alive(self) -> bool:
        """Whether the layer and its image are in the viewer."""
        return self.layer in self._viewer.layers and self.image in self._viewer.layers

    def write(self, plane: tuple[int, ...], values: np.ndarray) -> None:
        """Write the uncertainty of a plane or volume: float32 from 0 to 1, its spatial shape."""
        self._data[plane] = values
        self.layer.refresh(extent=False, highlight=False)

    def remove(self) -> None:
        """Remove the layer."""
        if self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)

    def _insert(self) -> None:
        """Insert just above the image, below annotations; keep the selection."""
        layers = self._viewer.layers
        selected, active = set(layers.selection), layers.selection.active
        images = [place for place, layer in enumerate(layers) if isinstance(layer, Image)]
        layers.insert(max(images, default=-1) + 1, self.layer)
        layers.selection.update(selected)
        layers.selection.discard(self.layer)
        layers.selection.active = active
