"""What of our layers is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.layers import Labels

__all__ = ["show_or_hide"]


def show_or_hide(layer: Labels) -> None:
    """Hide a layer that is seen, and the other way round; its voxels stay as they are."""
    layer.visible = not layer.visible
