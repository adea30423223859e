"""Access to napari layers, which are known by identity, never by name."""

from __future__ import annotations

from napari_unetseg.gui.layers.alignment import (
    TRANSFORM_ATTRIBUTES,
    Alignment,
    align_to,
    alignment,
    in_other_units,
    misalignment_text,
    set_transform,
    transform_of,
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
from napari_unetseg.gui.layers.camera import bring_to_front, center_on
from napari_unetseg.gui.layers.disk_space_guard import DiskSpaceGuard
from napari_unetseg.gui.layers.following import (
    follow,
    follow_as_its_original,
    image_of,
    unfollow,
)
from napari_unetseg.gui.layers.gesture_tool import Gesture, GestureTool
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
from napari_unetseg.gui.layers.object_composition import composed
from napari_unetseg.gui.layers.object_layer import ObjectLayer
from napari_unetseg.gui.layers.overlays import CorrectionsOverlay, show_difference
from napari_unetseg.gui.layers.place_frame import PlaceFrame
from napari_unetseg.gui.layers.prediction_layer import PredictionLayer
from napari_unetseg.gui.layers.regions import (
    RegionMask,
    object_at,
    plane_at,
    regions_in_shapes,
    visible_plane,
)
from napari_unetseg.gui.layers.strokes import Strokes
from napari_unetseg.gui.layers.uncertainty_layer import UncertaintyLayer
from napari_unetseg.gui.layers.visibility import remove_layer, show_or_hide

__all__ = [
    "TRANSFORM_ATTRIBUTES",
    "Alignment",
    "CorrectionsOverlay",
    "DiskSpaceGuard",
    "Gesture",
    "GestureTool",
    "ObjectLayer",
    "PlaceFrame",
    "PredictionLayer",
    "RegionMask",
    "Strokes",
    "UncertaintyLayer",
    "activate_brush",
    "add_labels",
    "add_mask",
    "add_tidied",
    "align_to",
    "alignment",
    "bring_to_front",
    "center_on",
    "check_channels",
    "composed",
    "data_of",
    "declared_kind",
    "follow",
    "follow_as_its_original",
    "grid_shape",
    "image_of",
    "in_other_units",
    "is_declared",
    "is_ours",
    "is_overlay",
    "is_painted",
    "mask_of",
    "misalignment_text",
    "names_in",
    "new_annotation",
    "object_at",
    "open_images",
    "paint_colors",
    "path_of",
    "plane_at",
    "plane_on_screen",
    "reader_of",
    "region_on_screen",
    "regions_in_shapes",
    "remove_layer",
    "restore_window",
    "same_picture",
    "set_transform",
    "show_difference",
    "show_or_hide",
    "snapshot",
    "stack_of",
    "strokes_layer",
    "transform_of",
    "unfollow",
    "visible_plane",
    "voxels_of",
    "window_state",
    "write_names",
]
