"""Overlay layers: corrections, and differences of two models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.gui.layers.alignment import transform_over
from napari_unetseg.gui.layers.following import follow

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.annotations.sparse_array import Region

CORRECTED, ACCEPTED = 1, 2
OWN = {CORRECTED: ("corrected", "#FF00FF"), ACCEPTED: ("accepted", "#00E5A0")}
LOST, GAINED, OTHER = 1, 2, 3
DIFFERENCES = {
    LOST: ("no longer found", "#D55E00"),
    GAINED: ("newly found", "#56B4E9"),
    OTHER: ("another structure", "#F0E442"),
}


def _overlay(
    image: Image, data: np.ndarray, name: str, kind: str, what: dict[int, tuple[str, str]]
) -> Labels:
    colors: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colors.update({number: color for number, (_, color) in what.items()})
    layer = Labels(
        data,
        name=f"{image.name} · {name}",
        opacity=0.7,
        metadata={"napari_unetseg": {"kind": kind}},
        features={"index": [0, *what], "name": ["", *(text for text, _ in what.values())]},
        **transform_over(image),
    )
    layer.colormap = DirectLabelColormap(color_dict=colors)
    layer.editable = False
    follow(image, layer)
    return layer


def _put_on_top(viewer: ViewerModel, layer: Labels) -> None:
    """Add a layer on top without changing the selected layer and its brush."""
    selected = set(viewer.layers.selection)
    viewer.add_layer(layer)
    if selected:
        viewer.layers.selection.update(selected)
        viewer.layers.selection.discard(layer)


class CorrectionsOverlay:
    """Outlines of corrected and accepted voxels of an image."""

    def __init__(self, viewer: ViewerModel, image: Image, annotated: ImageAnnotations) -> None:
        self._viewer, self._annotated, self.image = viewer, annotated, image
        self._data = empty_grid(annotated.shape)
        self._dirty = False
        self.layer = _overlay(image, self._data, "yours", "yours", OWN)
        self.layer.contour = 1
        for origin in (LabelSource.CORRECTIONS, LabelSource.ACCEPTED):
            grid = annotated.grid(origin)
            for cell in grid.cells():
                self.renew(grid.region_of(cell))

    def show(self) -> None:
        """Add the layer."""
        _put_on_top(self._viewer, self.layer)

    @property
    def alive(self) -> bool:
        """Whether the layer is in the viewer."""
        return self.layer in self._viewer.layers

    def renew(self, region: Region) -> None:
        """Mark a region as changed."""
        own = np.where(self._annotated.read(LabelSource.CORRECTIONS, region) != 0, CORRECTED, 0)
        own[self._annotated.read(LabelSource.ACCEPTED, region) != 0] = ACCEPTED
        self._data[region] = own
        self._dirty = True

    def flush(self) -> None:
        """Redraw the changed regions."""
        if self._dirty:
            self._dirty = False
            self.layer.refresh(extent=False, highlight=False)

    def remove(self) -> None:
        """Remove the layer."""
        if self.alive:
            self._viewer.layers.remove(self.layer)


def show_difference(viewer: ViewerModel, image: Image, difference: np.ndarray) -> Labels:
    """Add a layer of the differences between two masks; an earlier one of that image is replaced.

    ``difference`` is uint8: 0 nothing, 1 no longer found, 2 newly found, 3 another structure.
    """
    layer = _overlay(image, difference, "what changed", "difference", DIFFERENCES)
    for old in [one for one in viewer.layers if one.name == layer.name]:
        if old.metadata.get("napari_unetseg", {}).get("kind") == "difference":
            viewer.layers.remove(old)
    _put_on_top(viewer, layer)
    return layer
