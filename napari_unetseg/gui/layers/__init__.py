"""Access to napari layers, which are known by identity, never by name."""

from __future__ import annotations

from napari_unetseg.gui.layers.alignment import (
    PLACE,
    Alignment,
    alignment,
    in_other_units,
    lay_over,
    misfit,
    place_of,
    put,
    voxels_of,
)
from napari_unetseg.gui.layers.annotation_layer import (
    activate_brush,
    add_labels,
    add_tidied,
    declared_kind,
    is_declared,
    is_ours,
    is_overlay,
    is_painted,
    mask_of,
    names_in,
    new_annotation,
    paint_colors,
    snapshot,
    write_names,
)
from napari_unetseg.gui.layers.camera import bring_forward, look_at
from napari_unetseg.gui.layers.disk_space_guard import PaintRoom
from napari_unetseg.gui.layers.following import (
    follow,
    follow_as_its_original,
    image_of,
    unfollow,
)
from napari_unetseg.gui.layers.layer_axes import grid_shape
from napari_unetseg.gui.layers.layer_axes import level0 as data_of
from napari_unetseg.gui.layers.layer_files import (
    add_mask,
    open_images,
    path_of,
    reader_of,
    restore_window,
    strokes_layer,
    window_state,
)
from napari_unetseg.gui.layers.layer_grid import (
    check_channels,
    plane_on_screen,
    region_on_screen,
    same_picture,
    stack_of,
)
from napari_unetseg.gui.layers.overlays import CorrectionsOverlay, show_difference
from napari_unetseg.gui.layers.place_frame import PlaceFrame
from napari_unetseg.gui.layers.prediction_layer import PredictionLayer
from napari_unetseg.gui.layers.regions import Place, drawn, object_at, plane_at, visible_plane
from napari_unetseg.gui.layers.strokes import Strokes
from napari_unetseg.gui.layers.uncertainty_layer import Uncertainty
from napari_unetseg.gui.layers.visibility import show_or_hide, take_away

__all__ = [
    "PLACE",
    "Alignment",
    "CorrectionsOverlay",
    "PaintRoom",
    "Place",
    "PlaceFrame",
    "PredictionLayer",
    "Strokes",
    "Uncertainty",
    "activate_brush",
    "add_labels",
    "add_mask",
    "add_tidied",
    "alignment",
    "bring_forward",
    "check_channels",
    "data_of",
    "declared_kind",
    "drawn",
    "follow",
    "follow_as_its_original",
    "grid_shape",
    "image_of",
    "in_other_units",
    "is_declared",
    "is_ours",
    "is_overlay",
    "is_painted",
    "lay_over",
    "look_at",
    "mask_of",
    "misfit",
    "names_in",
    "new_annotation",
    "object_at",
    "open_images",
    "paint_colors",
    "path_of",
    "place_of",
    "plane_at",
    "plane_on_screen",
    "put",
    "reader_of",
    "region_on_screen",
    "restore_window",
    "same_picture",
    "show_difference",
    "show_or_hide",
    "snapshot",
    "stack_of",
    "strokes_layer",
    "take_away",
    "unfollow",
    "visible_plane",
    "voxels_of",
    "window_state",
    "write_names",
]
