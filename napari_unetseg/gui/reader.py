"""napari reader of image files, with voxel size, units, names and colours.

A file becomes one layer a channel, lazy, at all the resolutions that it is stored in; a file of
several images becomes the layers of all of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.open_image import is_image, open_all, open_labels_levels
from napari_unetseg.io.readers.lazy_array import FileArray, LazyView
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.io.readers.ome_zarr import label_names
from napari_unetseg.io.readers.zarr_nodes import is_zarr

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

    LayerData = tuple[Any, dict[str, Any], str]

PIECE = 64 * 2**20
"""Maximum bytes of one read: a plane, or part of a larger one."""
MAX_DASK_CHUNKS = 1000
"""Images of more planes are not dask arrays: dask takes 50 ms for a plane of 10,000."""
PROBED = 3
"""Number of planes from which the contrast limits are measured."""
COLORMAPS = ("cyan", "yellow", "magenta", "red", "green", "blue")
TWO = ("magenta", "green")


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """The reader function for a path, as napari requests it; None if the path is not supported."""
    if not isinstance(path, str) or not is_image(path):
        return None
    return read


def read(path: str) -> list[LayerData]:
    """Layers of an image: one for each channel, and one for each group of labels in it.

    Of several images in a file the one with the largest planes is visible and the others are
    hidden, since a thumbnail may come first. Times or slices that are missing in a file are left
    out. Notes on how the file was read are warnings, which napari shows.

    Parameters
    ----------
    path
        A file, a Zarr store, or a folder of pictures of one shape.

    Returns
    -------
    list of (data, keyword arguments, layer type)
        Data are dask arrays, of many planes arrays in files; of an image with several resolutions
        a list of them.

    Raises
    ------
    UserError
        As for `open_stack`.
    """
    images = open_all(path, missing_planes=MissingPlanes.DROP)
    notes = [text for levels in images for text in levels[0].notes]
    sizes = [math.prod(levels[0].spatial_shape(2)) for levels in images]
    largest = sizes.index(max(sizes))
    if len(images) > 1:
        which = f"the largest, number {largest + 1}," if largest else "the first"
        text = (
            f"{Path(path).name} holds {len(images)} images; {which} is shown, the layers of the "
            "others are hidden: click a layer's eye icon to show it."
        )
        notes = [text, *notes]
    for text in dict.fromkeys(notes):
        warnings.warn(text, stacklevel=2)
    layers = [
        layer for n, levels in enumerate(images) for layer in _layers(levels, visible=n == largest)
    ]
    names = label_names(Path(path)) if is_zarr(Path(path)) else ()
    return [*layers, *(_labels(path, images[0][0], name) for name in names)]


def _layers(levels: Sequence[Stack], *, visible: bool) -> list[LayerData]:
    """The layers of an image, one for each channel."""
    stack = levels[0]
    arrays = [_lazy(level) for level in levels]
    limits = _limits(levels)
    shown: dict[str, Any] = {} if visible else {"visible": False}
    return [
        (
            _one([_channel(a, stack, c) for a in arrays]),
            _options(stack, c) | limits[c] | shown,
            "image",
        )
        for c in range(_separate(stack))
    ]


def _separate(stack: Stack) -> int:
    """Number of layers of an image; RGB is one."""
    return 1 if "S" in stack.axes else stack.n_channels


def _channel(array: Any, stack: Stack, channel: int) -> Any:
    """The part of an array that one layer shows: a channel, or colours with their samples last."""
    axis = stack.channel_axis
    if axis is None:
        return array
    if stack.axes[axis] == "C" or stack.n_channels == 1:  # of two samples one is alpha
        index = channel if stack.axes[axis] == "C" else 0
        return array[(slice(None),) * axis + (index,)]
    if axis == array.ndim - 1:
        return array
    order = [i for i in range(array.ndim) if i != axis]
    return array.transpose([*order, axis])


def _options(stack: Stack, channel: int) -> dict[str, Any]:
    many = _separate(stack)
    named = stack.channels[channel]
    plain = many == 1 and ("S" in stack.axes or named == "channel 1")
    options: dict[str, Any] = {
        "name": stack.name if plain else f"{stack.name} · {named}",
        **_grid(stack),
    }
    if "S" in stack.axes and stack.n_channels > 1:
        return {**options, "rgb": True}
    if stack.colors:
        options["colormap"] = stack.colors[channel]
    elif many > 1:
        options["colormap"] = (TWO if many == 2 else COLORMAPS)[channel % len(COLORMAPS)]
    if many > 1:
        options["blending"] = "additive" if channel else "translucent_no_depth"
    return options


def _limits(levels: Sequence[Stack]) -> list[dict[str, Any]]:
    """Contrast limits of each layer of an image that does not lie at the origin.

    napari measures them in the plane at the origin, which such an image lacks.
    """
    stack = levels[0]
    if stack.data.dtype == np.uint8 or "S" in stack.axes or not any(stack.grid_translate):
        return [{}] * _separate(stack)
    pieces = [np.nan_to_num(p.reshape(len(p), -1)) for p in levels[-1].probe(PROBED)]
    low = np.min([p.min(1) for p in pieces], axis=0)
    high = np.max([p.max(1) for p in pieces], axis=0)
    return [
        {"contrast_limits": (float(a), float(b))} if a < b else {}
        for a, b in zip(low, high, strict=True)
    ]


def _grid(stack: Stack) -> dict[str, Any]:
    """Transform of a stack's layer: scale, translation, units and axis labels."""
    return {
        "scale": stack.grid_spacing,
        "translate": stack.grid_translate,
        "units": stack.grid_units,
        "axis_labels": tuple(stack.grid_axes.lower()),
    }


def _labels(path: str, image: Stack, name: str) -> LayerData:
    """The layer of a label group; hidden, so that the image is seen first."""
    levels = open_labels_levels(Path(path) / "labels" / name)
    first = levels[0]
    if first.grid_axes != first.axes:
        raise UserError(f"{path} has labels {name!r} with channels; save one number per voxel.")
    options = {"name": f"{image.name} · {name}", "visible": False, **_grid(first)}
    return _one([as_dask(level) for level in levels]), options, "labels"


def _one(arrays: list[Any]) -> Any:
    return arrays if len(arrays) > 1 else arrays[0]


def _lazy(stack: Stack) -> Any:
    """A dask array, or the array itself if it has many planes: dask handles all chunks for each.

    Colours whose axis must be moved are dask arrays too.
    """
    moved = "S" in stack.axes[:-1] and stack.n_channels > 1
    many = math.prod(stack.leading_shape(2)) > MAX_DASK_CHUNKS
    return (
        LazyView(stack.data)
        if many and isinstance(stack.data, FileArray) and not moved
        else as_dask(stack)
    )


def as_dask(stack: Stack) -> Any:
    """A dask array with a chunk for each plane, or for parts of large ones; nothing is read."""
    import dask.array as da

    data = stack.data
    last = {a: stack.axes.index(a) for a in "YXS" if a in stack.axes}
    inner = getattr(data, "chunks", (1,) * len(data.shape))
    sizes = [1] * len(data.shape)
    for axis in last.values():
        sizes[axis] = int(data.shape[axis])
    share = math.prod(sizes) * data.dtype.itemsize / PIECE
    if share > 1:
        for axis in (last["Y"], last["X"]):
            part = max(1, round(sizes[axis] / math.sqrt(share) / inner[axis]))
            sizes[axis] = min(sizes[axis], part * inner[axis])
    meta = np.empty((0,) * len(data.shape), data.dtype)
    make: Any = da.from_array  # dask has no types for it
    return make(data, chunks=tuple(sizes), name=False, asarray=True, meta=meta)
