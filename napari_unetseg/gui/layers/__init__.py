"""The only place that reads or writes napari layers, known by identity, never by name."""

from __future__ import annotations

from napari_unetseg.gui.layers.annotation import (
    activate_brush,
    add_tidied,
    copy_of,
    declared_kind,
    is_declared,
    is_ours,
    mask_of,
    names_in,
    new_annotation,
    paint_colors,
    snapshot,
    write_names,
)
from napari_unetseg.gui.layers.grid import level0 as data_of
from napari_unetseg.gui.layers.grid import like, plane_on_screen, stack_of
from napari_unetseg.gui.layers.prediction import Prediction
from napari_unetseg.gui.layers.visibility import show_or_hide

__all__ = [
    "Prediction",
    "activate_brush",
    "add_tidied",
    "copy_of",
    "data_of",
    "declared_kind",
    "is_declared",
    "is_ours",
    "like",
    "mask_of",
    "names_in",
    "new_annotation",
    "paint_colors",
    "plane_on_screen",
    "show_or_hide",
    "snapshot",
    "stack_of",
    "write_names",
]
