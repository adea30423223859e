"""Visibility of the plugin's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels


def show_or_hide(layer: Labels) -> None:
    """Hide a layer that is seen, and the other way round; its voxels stay as they are."""
    layer.visible = not layer.visible


def take_away(viewer: ViewerModel, layer: Labels) -> None:
    """Take a layer of ours out of the viewer, after no brush is on it any more."""
    layer.mode = "pan_zoom"
    viewer.layers.remove(layer)
