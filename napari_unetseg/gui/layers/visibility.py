"""Visibility of the plugin's layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.components import LayerList, ViewerModel
    from napari.layers import Labels, Layer


def show_or_hide(layer: Labels) -> None:
    """Toggle the visibility of a layer."""
    layer.visible = not layer.visible


def remove_layer(viewer: ViewerModel, layer: Labels) -> None:
    """Remove one of the plugin's layers from the viewer; its brush is put down first."""
    layer.mode = "pan_zoom"
    viewer.layers.remove(layer)


def insert_unselected(viewer: ViewerModel, place: int, layer: Layer) -> None:
    """Insert a layer at a place; if any layer is selected, the selection stays."""
    layers = viewer.layers
    selected = set(layers.selection)
    with _selecting(layers, not selected):
        layers.insert(place, layer)
    if selected and layers.selection != selected:
        layers.selection.update(selected)
        layers.selection.discard(layer)


@contextmanager
def _selecting(layers: LayerList, wanted: bool) -> Iterator[None]:
    """Set whether napari selects an inserted layer, where napari supports it.

    Selecting builds the layer controls of the new layer and again those of the earlier one: half of
    the time that the first mask blocked the window.
    """
    name = "_activate_on_insert"
    usual = getattr(layers, name, None)
    if usual is not None:
        setattr(layers, name, usual and wanted)
    try:
        yield
    finally:
        if usual is not None:
            setattr(layers, name, usual)
