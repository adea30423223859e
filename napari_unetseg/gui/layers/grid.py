"""Image layers as stacks: axes, spacing, channels, and the geometry that labels of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image import Stack

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

__all__ = [
    "geometry",
    "grid_shape",
    "like",
    "plane_on_screen",
    "region_on_screen",
    "same_picture",
    "stack_of",
    "unit_names",
]

LETTERS = {
    **{letter: letter.upper() for letter in "tzyxc"},
    "time": "T",
    "channel": "C",
    "channels": "C",
}
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
BY_POSITION = "QPTZYX"


@dataclass(frozen=True, slots=True, eq=False)
class _Channels:
    """Arrays of one shape, read as one array with a first axis of channels."""

    arrays: tuple[Any, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.arrays), *self.arrays[0].shape)

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        chosen = self.arrays[index[0]]
        return np.stack([np.asarray(a[index[1:]]) for a in chosen]).astype(self.dtype, copy=False)


def level0(layer: Image | Labels) -> Any:
    """The data of a layer; of a multiscale one at full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def layer_axes(layer: Image) -> str:
    """One letter for each axis of a layer, without the samples of RGB.

    The layer's axis labels are taken where they are time, channel, z, y and x; otherwise the
    axes go by position and are the last letters of TZYX.
    """
    n = layer.ndim
    if n > len(BY_POSITION):
        raise UserError(f"{layer.name} has {n} axes, more than can be used; take a part of it.")
    named = [LETTERS.get(str(label).lower(), "") for label in layer.axis_labels]
    if all(named) and len(set(named)) == n and "".join(named).replace("C", "").endswith("YX"):
        return "".join(named)
    return BY_POSITION[-n:]


def unit_names(layer: Image | Labels) -> tuple[str, ...]:
    """Pint name of the unit of each axis, such as ``um`` or ``pixel``."""
    return tuple(SHORT.get(str(u), str(u)) for u in layer.units)


def stack_of(image: Image, channels: Sequence[Image] = ()) -> Stack:
    """A stack of an image layer and of further layers as its other channels; reads nothing.

    Raises
    ------
    UserError
        Layers of different shapes, RGB beside others, or a channel axis that is not the first.
    """
    axes = layer_axes(image)
    scale, units, name = tuple(float(s) for s in image.scale), unit_names(image), image.name
    if "C" in axes[1:]:
        raise UserError(
            f"{name} has its channels in the middle of its axes; right-click the layer, choose "
            "'Split Stack' along the channels, and choose the first as image."
        )
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
    arrays = tuple(level0(layer) for layer in (image, *channels))
    if any(layer.rgb for layer in (image, *channels)) or "C" in axes:
        raise UserError(
            f"{name} cannot be joined with other channels; choose one-channel layers, or it alone."
        )
    for layer, array in zip(channels, arrays[1:], strict=True):
        if tuple(array.shape) != tuple(arrays[0].shape):
            raise UserError(
                f"{layer.name} has the shape {tuple(array.shape)} and {name} "
                f"{tuple(arrays[0].shape)}; channels must have the same shape."
            )
    data = _Channels(arrays, np.result_type(*(a.dtype for a in arrays)))
    names = tuple(layer.name for layer in (image, *channels))
    return Stack(data, "C" + axes, (1.0, *scale), ("pixel", *units), names, name)


def grid_shape(image: Image) -> tuple[int, ...]:
    """Shape that labels of an image have: without channels and samples."""
    return stack_of(image).grid_shape


def geometry(image: Image) -> dict[str, Any]:
    """The keyword arguments that put a Labels layer exactly over an image."""
    first = 1 if layer_axes(image).startswith("C") else 0
    rotate, affine = np.asarray(image.rotate), np.asarray(image.affine.affine_matrix)
    return {
        "scale": image.scale[first:],
        "translate": image.translate[first:],
        "rotate": rotate[first:, first:],
        "shear": image.shear if first == 0 else None,
        "affine": affine[first:, first:],
        "units": image.units[first:],
        "axis_labels": image.axis_labels[first:],
    }


def like(image: Image, labels: Labels) -> bool:
    """Whether a Labels layer has the grid of an image."""
    try:
        return tuple(level0(labels).shape) == grid_shape(image)
    except UserError:
        return False


def plane_on_screen(viewer: ViewerModel, image: Image, dims: int) -> tuple[int, ...]:
    """Leading index of the plane or volume of an image that the viewer shows.

    Sliders are in world coordinates, so the layer's scale and translation are taken into account.
    """
    shape = grid_shape(image)
    point = np.asarray(viewer.dims.point, float)[-image.ndim :]
    position = np.asarray(image.world_to_data(point), float)[-len(shape) :]
    steps = np.clip(np.round(position), 0, np.asarray(shape) - 1).astype(int)
    return tuple(int(s) for s in steps[: len(shape) - dims])


def region_on_screen(image: Image, dims: int) -> tuple[slice, ...]:
    """The part of an image's plane or volume that the viewer shows, or last showed."""
    corners = np.asarray(image.corner_pixels, float)
    if image.multiscale:
        corners = corners * np.asarray(image.downsample_factors[image.data_level])
    shape = grid_shape(image)[-dims:]
    first, last = (corners[side, corners.shape[1] - dims :] for side in (0, 1))
    spans = zip(np.floor(first), np.ceil(last), shape, strict=True)
    return tuple(slice(max(0, int(a)), min(n, int(b) + 1)) for a, b, n in spans)


def same_picture(one: Image, other: Image) -> bool:
    """Whether two layers of one shape come from one file or sample, as channels of an image do."""
    mine, theirs = ((layer.source.path, layer.source.sample) for layer in (one, other))
    return any(mine) and mine == theirs and grid_shape(one) == grid_shape(other)
