"""Viewer state for projects: files of layers, camera, restored labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.singleton_axes import same_but_singletons
from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.gui.layers.alignment import transform_over
from napari_unetseg.gui.layers.annotation_layer import paint_colors
from napari_unetseg.gui.layers.following import follow
from napari_unetseg.gui.layers.layer_axes import grid_shape
from napari_unetseg.gui.reader import as_dask

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.labels import Structure

IN_MEMORY = 2**28
"""Masks up to this number of voxels are read into memory and can be edited."""


def path_of(image: Image) -> Path | None:
    """The file that a layer was read from; None for a layer made in memory."""
    path = image.source.path
    return Path(path).resolve() if path and Path(path).exists() else None


def reader_of(image: Image) -> str | None:
    """The plugin that read a layer; None for a layer made in memory."""
    plugin = image.source.reader_plugin
    return str(plugin) if plugin else None


def open_images(viewer: ViewerModel, path: Path, reader: str | None = None) -> list[Image]:
    """Open a file with the reader that opened it before; return its image layers.

    If that fails, the reader chosen in the preferences and napari's own are tried. The list is
    empty if none can open it.
    """
    for plugin in dict.fromkeys((reader, None, "napari")):
        try:
            layers = viewer.open(str(path), plugin=plugin, stack=False)
        except Exception:  # noqa: BLE001 - readers of other plugins raise what they like
            continue
        return [layer for layer in layers if isinstance(layer, Image)]
    return []


def add_mask(
    viewer: ViewerModel, image: Image, mask: Stack, structures: Sequence[Structure]
) -> Labels:
    """Show a mask from a file over its image; read-only and lazy where it is large.

    Without structures its numbers are those of objects, each with a colour of its own.

    Raises
    ------
    UserError
        The mask's shape differs from the image's grid.
    """
    shape = grid_shape(image)
    if not same_but_singletons(mask.grid_shape, shape) or mask.channel_axis is not None:
        raise UserError(f"The mask of {image.name} has another shape; predict it again.")
    small = int(np.prod(mask.grid_shape, dtype=np.int64)) <= IN_MEMORY
    data = (np.asarray(mask.data) if small else as_dask(mask)).reshape(shape)
    name = f"{image.name} · mask"
    if name in viewer.layers:
        viewer.layers.remove(name)
    metadata = {"napari_unetseg": {"kind": "tidied"}}
    layer = Labels(data, name=name, metadata=metadata, **transform_over(image))
    if structures:
        paint_colors(layer, structures)
    follow(image, layer)
    viewer.layers.insert(viewer.layers.index(image) + 1, layer)
    return layer


def strokes_layer(
    image: Image, annotated: ImageAnnotations, structures: Sequence[Structure], name: str | None
) -> Labels:
    """An annotation layer with the recorded strokes of an image."""
    grid = annotated.grid(LabelSource.STROKES)
    if grid.dtype == np.uint8:
        data = empty_grid(annotated.shape)
    else:
        data = np.zeros(annotated.shape, grid.dtype)
    for cell in grid.cells():
        data[grid.region_of(cell)] = grid.chunk(cell)
    metadata = {"napari_unetseg": {"kind": str(annotated.kind)}}
    name = name or f"{image.name} · annotations"
    layer = Labels(data, name=name, metadata=metadata, **transform_over(image))
    if annotated.kind != "instances":
        paint_colors(layer, structures)
    follow(image, layer)
    return layer


def window_state(viewer: ViewerModel) -> dict[str, Any]:
    """Camera and sliders of a viewer, as JSON."""
    return {
        "point": [float(p) for p in viewer.dims.point],
        "center": [float(c) for c in viewer.scene.camera.center],
        "zoom": float(viewer.scene.camera.zoom),
    }


def restore_window(viewer: ViewerModel, state: Mapping[str, Any]) -> None:
    """Restore camera and sliders as far as they fit."""
    try:
        point, center = [float(p) for p in state["point"]], tuple(map(float, state["center"]))
        zoom = float(state["zoom"])
    except (KeyError, TypeError, ValueError):
        return
    if len(point) == viewer.dims.ndim and len(center) == 3 and zoom > 0:
        viewer.dims.point = tuple(point)
        viewer.scene.camera.center, viewer.scene.camera.zoom = center, zoom
