"""Annotation layers: creation, colours, counts, copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_unetseg.annotations.sparse_array import planes_with
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure, default_color
from napari_unetseg.core.singleton_axes import on_grid
from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.gui.layers.alignment import transform_of, transform_over
from napari_unetseg.gui.layers.following import follow, image_of
from napari_unetseg.gui.layers.layer_axes import grid_shape, level0

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

BRUSH_SIZE_FRACTION = 60
"""The image's size divided by this is the size of a new layer's brush."""

_written: WeakKeyDictionary[Labels, dict[int, str]] = WeakKeyDictionary()
"""Names written by the plugin, which it may overwrite."""


def colors_of(structures: Sequence[Structure]) -> dict[int | None, str]:
    """Colour of each number, for napari; numbers without a structure remain visible."""
    colors: dict[int | None, str] = {
        None: "#FFFFFF",
        0: "transparent",
        BACKGROUND_LABEL: default_color(BACKGROUND_LABEL),
    }
    colors.update({s.number: s.color for s in structures})
    return colors


def features_of(structures: Sequence[Structure]) -> dict[str, list[Any]]:
    """Names of the numbers, which napari shows in its status bar."""
    ordered = sorted(structures, key=lambda s: s.number)
    return {
        "index": [0, *(s.number for s in ordered), BACKGROUND_LABEL],
        "name": ["", *(s.name for s in ordered), "background"],
    }


def paint_colors(layer: Labels, structures: Sequence[Structure]) -> None:
    """Set a layer's colours and names from the structures."""
    layer.colormap = DirectLabelColormap(color_dict=colors_of(structures))
    write_names(layer, structures)


def write_names(layer: Labels, structures: Sequence[Structure]) -> None:
    """Write the structures' names; other rows, columns and names of the table are kept."""
    table, ours = layer.features, features_of(structures)
    names = dict(zip(ours["index"], ours["name"], strict=True))
    columns, written = set(table.columns), _written.get(layer)
    _written[layer] = names
    numbers = table["index"].tolist() if "index" in columns else list(range(len(table)))
    old = table["name"].tolist() if "name" in columns else [""] * len(table)
    made_here = bool(declared(layer)) or dict(zip(numbers, old, strict=True)) == written
    if not columns or (made_here and columns == {"index", "name"}):
        layer.features = ours
        return
    blank = {"", *(written or {}).values()}
    new = [
        names.get(n, name) if not isinstance(name, str) or name in blank else name
        for n, name in zip(numbers, old, strict=True)
    ]
    if new != old:
        layer.features = table.assign(name=new)


def new_annotation(viewer: ViewerModel, image: Image, structures: Sequence[Structure]) -> Labels:
    """Add an empty annotation layer over an image, with the first structure's brush selected."""
    shape = grid_shape(image)
    layer = Labels(empty_grid(shape), name=f"{image.name} · annotations", **transform_over(image))
    layer.metadata = {"napari_unetseg": {"kind": str(LabelKind.STROKES)}}
    paint_colors(layer, structures)
    layer.brush_size = max(3, min(shape[-2:]) // BRUSH_SIZE_FRACTION)
    follow(image, layer)
    viewer.add_layer(layer)
    activate_brush(viewer, layer, structures[0].number if structures else 1)
    return layer


def add_tidied(
    viewer: ViewerModel, source: Labels, data: np.ndarray, structures: Sequence[Structure]
) -> Labels:
    """Add a post-processed mask, or numbered objects, as a new layer above its source."""
    objects = data.dtype != np.uint8
    layer = Labels(
        data,
        name=f"{source.name} · {'objects' if objects else 'tidied'}",
        metadata={"napari_unetseg": {"kind": "tidied"}},
        **transform_of(source),
    )
    if not objects:
        paint_colors(layer, structures)
    if (image := image_of(source)) is not None:
        follow(image, layer)
    viewer.layers.insert(viewer.layers.index(source) + 1, layer)
    return layer


def add_labels(viewer: ViewerModel, source: Labels, data: np.ndarray, kind: LabelKind) -> Labels:
    """Add labels that were converted from another layer above it, and hide that layer."""
    layer = Labels(
        data,
        name=f"{source.name} · labels",
        metadata={"napari_unetseg": {"kind": str(kind)}},
        **transform_of(source),
    )
    if (image := image_of(source)) is not None:
        follow(image, layer)
    source.visible = False
    viewer.layers.insert(viewer.layers.index(source) + 1, layer)
    return layer


def activate_brush(viewer: ViewerModel, layer: Labels, number: int) -> None:
    """Select the brush of a structure, or 255 of the background."""
    viewer.layers.selection.active = layer
    layer.selected_label = number
    if layer.editable and layer.visible:
        layer.mode = "paint"


def snapshot(layer: Labels) -> Any:
    """A copy of the labels that is independent of later painting; lazy arrays are not copied."""
    data = level0(layer)
    return _dense_copy(data) if isinstance(data, np.ndarray) else data


def _dense_copy(data: np.ndarray) -> np.ndarray:
    copy = empty_grid(data.shape, data.dtype)
    for plane in planes_with(data):
        if data[plane].any():
            copy[plane] = data[plane]
    return copy


def mask_of(image: Image, layer: Labels) -> Any:
    """A copy of a mask on an image's grid; 255 in the plugin's own masks is background."""
    mask = on_grid(snapshot(layer), grid_shape(image))
    if is_ours(layer) and mask.dtype == np.uint8:
        for plane in planes_with(mask):
            mask[plane][mask[plane] == BACKGROUND_LABEL] = 0
    return mask


def declared(layer: Image | Labels) -> dict[str, Any]:
    """The plugin's metadata of a layer."""
    return dict(layer.metadata.get("napari_unetseg", {}))


def is_ours(layer: Labels) -> bool:
    """Whether the layer is a result of this plugin and not an annotation layer."""
    return declared(layer).get("kind") in ("prediction", "objects", "tidied") or is_overlay(layer)


def is_overlay(layer: Image | Labels) -> bool:
    """Whether the layer is only for display: no image, labels or mask."""
    return declared(layer).get("kind") in ("yours", "difference", "uncertainty")


def is_declared(layer: Labels) -> bool:
    """Whether this plugin, or one of its samples, made the layer."""
    return bool(declared(layer))


def declared_kind(layer: Labels) -> LabelKind | None:
    """The kind of labels in the layer's metadata, if any."""
    kind = declared(layer).get("kind")
    return LabelKind(kind) if kind in set(LabelKind) else None


def is_painted(layer: Labels) -> bool:
    """Whether a layer has any nonzero voxel."""
    data = level0(layer)
    return any(np.any(data[plane]) for plane in planes_with(data))


def names_in(layer: Labels) -> dict[int, str]:
    """Names of the numbers in the layer's features, if any."""
    table = layer.features
    if "index" not in table or "name" not in table:
        return {}
    pairs = zip(table["index"].tolist(), table["name"].tolist(), strict=True)
    return {
        int(number): str(name) for number, name in pairs if 0 < number < BACKGROUND_LABEL and name
    }
