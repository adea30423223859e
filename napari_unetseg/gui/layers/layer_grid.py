"""Image layers as stacks, and their visible part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.gui.layers.alignment import misalignment_text
from napari_unetseg.gui.layers.layer_axes import grid_shape, layer_axes, level0
from napari_unetseg.gui.layers.world_units import to_data

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

SHORT = {
    "micrometer": "um",
    "nanometer": "nm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "second": "s",
    "millisecond": "ms",
    "minute": "min",
    "hour": "h",
}


@dataclass(frozen=True, slots=True, eq=False)
class _Channels:
    """Arrays of one shape as one array with a leading channel axis."""

    arrays: tuple[Any, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.arrays), *self.arrays[0].shape)

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        chosen = self.arrays[index[0]]
        return np.stack([np.asarray(a[index[1:]]) for a in chosen]).astype(self.dtype, copy=False)


def unit_names(layer: Image | Labels) -> tuple[str, ...]:
    """Pint name of the unit of each axis, such as ``um`` or ``pixel``."""
    return tuple(SHORT.get(str(u), str(u)) for u in layer.units)


def stack_of(image: Image, channels: Sequence[Image] = ()) -> Stack:
    """A stack of an image layer and of further layers as its other channels; no pixels are read.

    Raises
    ------
    UserError
        Layers of different shapes or at different places, RGB beside others, or a channel axis
        that is not the first.
    """
    axes = layer_axes(image)
    scale, units, name = tuple(float(s) for s in image.scale), unit_names(image), image.name
    if not channels:
        rgb = bool(image.rgb)
        return Stack(
            level0(image),
            axes + "S" * rgb,
            scale + (1.0,) * rgb,
            units + ("pixel",) * rgb,
            ("red", "green", "blue") if rgb else (name,) if "C" not in axes else (),
            name,
        )
    check_channels(image, channels)
    if text := next(filter(None, (misalignment_text(image, layer) for layer in channels)), None):
        raise UserError(text)
    arrays = tuple(level0(layer) for layer in (image, *channels))
    data = _Channels(arrays, np.result_type(*(a.dtype for a in arrays)))
    names = tuple(layer.name for layer in (image, *channels))
    return Stack(data, "C" + axes, (1.0, *scale), ("pixel", *units), names, name)


def check_channels(image: Image, channels: Sequence[Image]) -> None:
    """Raise `UserError` unless the layers can be channels of an image; transforms are ignored."""
    if any(layer.rgb for layer in (image, *channels)) or "C" in layer_axes(image):
        raise UserError(
            f"{image.name} cannot be combined with other channels; choose layers with one "
            "channel, or this layer alone."
        )
    shape = tuple(level0(image).shape)
    for layer in channels:
        if tuple(level0(layer).shape) != shape:
            raise UserError(
                f"{layer.name} has the shape {tuple(level0(layer).shape)} and {image.name} "
                f"{shape}; channels must have the same shape."
            )


def plane_on_screen(viewer: ViewerModel, image: Image, dims: int) -> tuple[int, ...]:
    """Leading index of the visible plane or volume of an image.

    Sliders are in world coordinates, so the layer's transform and units are taken into account.
    """
    shape = grid_shape(image)
    position = to_data(viewer, image, viewer.dims.point)[-len(shape) :]
    steps = np.clip(np.round(position), 0, np.asarray(shape) - 1).astype(int)
    return tuple(int(s) for s in steps[: len(shape) - dims])


def region_on_screen(image: Image, dims: int) -> tuple[slice, ...]:
    """The visible part of an image's plane or volume, or the last visible one."""
    corners = np.asarray(image.corner_pixels, float)
    if image.multiscale:
        corners = corners * np.asarray(image.downsample_factors[image.data_level])
    shape = grid_shape(image)[-dims:]
    first, last = (corners[side, corners.shape[1] - dims :] for side in (0, 1))
    spans = zip(np.floor(first), np.ceil(last), shape, strict=True)
    return tuple(slice(max(0, int(a)), min(n, int(b) + 1)) for a, b, n in spans)


def same_picture(one: Image, other: Image) -> bool:
    """Whether two layers of one shape come from the same file or sample, as channels do."""
    mine, theirs = ((layer.source.path, layer.source.sample) for layer in (one, other))
    return any(mine) and mine == theirs and grid_shape(one) == grid_shape(other)
