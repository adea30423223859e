"""Commands of napari's menus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from napari.utils.notifications import show_info, show_warning

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import Structure
from napari_unetseg.gui import layers
from napari_unetseg.gui.state import messages

if TYPE_CHECKING:
    import napari.viewer


def new_annotation_layer(viewer: napari.viewer.Viewer) -> None:
    """Make an annotation layer for the active image, or for the only one that there is."""
    real = getattr(viewer, "__wrapped__", viewer)
    active = real.layers.selection.active
    images = [layer for layer in real.layers if isinstance(layer, Image)]
    if not isinstance(active, Image):
        if len(images) != 1:
            show_warning(
                "Choose one image in the layer list first." if images else messages.NO_IMAGE
            )
            return
        active = images[0]
    try:
        layer = layers.new_annotation(real, active, [Structure(1)])
    except UserError as error:
        show_warning(str(error))
        return
    show_info(f"{layer.name}: paint structures with 1, 2, … and the background with 255.")
