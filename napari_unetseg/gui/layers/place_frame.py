"""Frame around a place of an image that is to be checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes

from napari_unetseg.gui.layers.alignment import transform_over

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.annotations.sparse_array import Region

COLOR = "#FFD400"


class PlaceFrame:
    """A rectangle in a layer of its own, which takes no brush out of the user's hand."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Shapes | None = None

    def show(self, image: Image, region: Region) -> None:
        """Frame a region of an image's grid instead of the one before."""
        self.remove()
        *leading, y, x = region
        corners = [(y.start, x.start), (y.start, x.stop), (y.stop, x.stop), (y.stop, x.start)]
        frame = np.array([[*(s.start for s in leading), *corner] for corner in corners], float)
        frame[:, -2:] -= 0.5  # pixels are centred on whole numbers
        self._layer = Shapes(
            [frame],
            name=f"{image.name} · place to check",
            edge_color=COLOR,
            face_color="transparent",
            edge_width=max(1.0, (y.stop - y.start) / 100),
            metadata={"napari_unetseg": {"kind": "frame"}},
            **transform_over(image),
        )
        self._layer.editable = False
        selected = set(self._viewer.layers.selection)
        self._viewer.add_layer(self._layer)
        self._viewer.layers.selection = selected

    def remove(self) -> None:
        """Show no frame."""
        if self._layer is not None and self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer = None
