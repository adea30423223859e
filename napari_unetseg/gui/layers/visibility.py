"""Visibility of the plugin's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels


def show_or_hide(layer: Labels) -> None:
    """Toggle the visibility of a layer."""
    layer.visible = not layer.visible


def remove_layer(viewer: ViewerModel, layer: Labels) -> None:
    """Remove one of the plugin's layers from the viewer; its brush is put down first."""
    layer.mode = "pan_zoom"
    viewer.layers.remove(layer)
