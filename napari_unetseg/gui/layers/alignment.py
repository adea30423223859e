"""Alignment of a layer with an image's grid.

The one place that decides whether labels, masks and further channels lie on an image's grid. Axes
of length 1 are ignored. Transforms are compared in world coordinates and measured in voxels of the
image: layers are aligned if no voxel is off by half a voxel or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from napari.layers import Labels

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.singleton_axes import on_grid, same_but_singletons
from napari_unetseg.gui.layers.layer_axes import grid_shape, level0
from napari_unetseg.gui.layers.world_units import unit_factors

if TYPE_CHECKING:
    from napari.layers import Image

    Scalar: TypeAlias = Image | Labels

TRANSFORM_ATTRIBUTES = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""Attributes of a layer's transform; each has an event of its name."""
HALF = 0.5 - 1e-6
"""From a shift of half a voxel on, a neighbouring voxel is shown."""


class Alignment(StrEnum):
    """How a layer lies on the grid of an image."""

    ALIGNED = "aligned"
    """Every voxel of the layer is shown over the corresponding one of the image."""
    MISPLACED = "misplaced"
    """Same number of voxels, but shown elsewhere; `align_to` corrects it."""
    OTHER_SHAPE = "other shape"
    """The layer has another shape."""


def alignment(image: Image, layer: Scalar) -> Alignment:
    """How a layer lies on the grid of an image."""
    try:
        shape = grid_shape(image)
    except UserError:
        return Alignment.OTHER_SHAPE
    own = tuple(level0(layer).shape)
    if not same_but_singletons(own, shape):
        return Alignment.OTHER_SHAPE
    n = min(len(own), len(shape))
    if own[-n:] != shape[-n:]:  # napari shows the last axis of one over the last of the other
        return Alignment.OTHER_SHAPE if layer.multiscale else Alignment.MISPLACED
    return Alignment.ALIGNED if _shift(image, layer, shape[-n:]) < HALF else Alignment.MISPLACED


def in_other_units(image: Image, layer: Scalar) -> bool:
    """Whether a layer has other units of the same dimension than an image, such as nm and µm."""
    n = min(layer.ndim, len(grid_shape(image)))
    return bool((unit_factors(layer.units[-n:], image.units[-n:]) != 1).any())


def voxels_of(image: Image, labels: Labels) -> Any:
    """A writable view of a layer's data with the axes of an image's grid.

    Raises
    ------
    ValueError
        The layer has another shape.
    """
    return on_grid(level0(labels), grid_shape(image))


# -- places ----------------------------------------------------------------------------------------


def transform_of(layer: Scalar) -> dict[str, Any]:
    """The transform of a layer as keyword arguments for new layers; arrays are copies."""
    return {
        "scale": np.array(layer.scale, float),
        "translate": np.array(layer.translate, float),
        "rotate": np.array(layer.rotate, float),
        "shear": _shear(layer),
        "affine": np.array(layer.affine.affine_matrix, float),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }


def transform_over(image: Image, ndim: int | None = None) -> dict[str, Any]:
    """The transform of a layer that lies exactly over an image.

    Parameters
    ----------
    ndim
        Axes of the layer, the last ones of the image; all of the image's grid by default.
    """
    transform = transform_of(image)
    first = image.ndim - (len(grid_shape(image)) if ndim is None else ndim)
    return {name: _last(value, first) for name, value in transform.items()}


def set_transform(layer: Scalar, transform: Mapping[str, Any]) -> None:
    """Set the attributes of a layer's transform that differ."""
    before = transform_of(layer)
    for name, value in transform.items():
        if not np.array_equal(value, before[name]):
            setattr(layer, name, value)


def align_to(image: Image, layer: Scalar) -> None:
    """Align a layer of the same number of voxels with an image, voxel on voxel.

    A layer with axes of length 1 between its others gets the axes of the image.
    """
    shape, own = grid_shape(image), tuple(level0(layer).shape)
    n = min(len(own), len(shape))
    if own[-n:] != shape[-n:]:
        layer.data, n = on_grid(level0(layer), shape), len(shape)
    before = transform_of(layer)
    set_transform(
        layer, {name: _extended(before[name], v) for name, v in transform_over(image, n).items()}
    )


def _shear(layer: Scalar) -> np.ndarray:
    """The shear of a layer as a matrix; napari gives the upper triangle where the rest is zero."""
    shear = np.array(layer.shear, float)
    if shear.ndim == 2:
        return shear
    matrix = np.eye(layer.ndim)
    matrix[np.triu_indices(layer.ndim, 1)] = shear
    return matrix


def _last(value: Any, first: int) -> Any:
    """The part of a transform attribute from an axis on."""
    square = isinstance(value, np.ndarray) and value.ndim == 2
    return value[first:, first:] if square else value[first:]


def _extended(before: Any, value: Any) -> Any:
    """A transform attribute of the last axes, extended by that of the axes before them."""
    more = len(before) - len(value)
    if isinstance(value, tuple):
        return before[:more] + value
    if value.ndim == 1:
        return np.concatenate([before[:more], value])
    matrix = np.eye(len(before))
    matrix[more:, more:] = value
    return matrix


def _to_world(layer: Scalar, n: int) -> np.ndarray:
    """The affine map from the last axes of a layer's data to those of the world, (n, n + 1)."""
    inner = np.eye(layer.ndim + 1)
    inner[:-1, :-1] = layer.rotate @ _shear(layer) @ np.diag(layer.scale)
    inner[:-1, -1] = layer.translate
    matrix: np.ndarray = np.asarray(layer.affine.affine_matrix) @ inner
    return matrix[-n - 1 : -1, -n - 1 :]


def _shift(image: Image, layer: Scalar, shape: tuple[int, ...]) -> float:
    """The largest shift of a layer's voxels from the image's, in voxels of the image."""
    n = len(shape)
    of_image, of_layer = _to_world(image, n), _to_world(layer, n)
    of_layer *= unit_factors(layer.units[-n:], image.units[-n:])[:, np.newaxis]
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))])
    apart = (of_layer - of_image) @ corners.T  # an affine map deviates most at a corner
    try:
        return float(np.abs(np.linalg.solve(of_image[:, :n], apart)).max())
    except np.linalg.LinAlgError:
        return float("inf")


# -- in words --------------------------------------------------------------------------------------


def misalignment_text(image: Image, layer: Scalar) -> str:
    """Why a layer is not on the grid of an image, and what to do; empty if it is."""
    match alignment(image, layer):
        case Alignment.ALIGNED:
            return ""
        case Alignment.MISPLACED:
            return (
                f"'{layer.name}' does not lie over '{image.name}': {_difference(image, layer)}. "
                "Press 'Align' to lay it over the image, pixel on pixel; it is not used until then."
            )
        case Alignment.OTHER_SHAPE:
            return _other_shape(image, layer)


def _difference(image: Image, layer: Scalar) -> str:
    """Describe how the transforms of two layers of the same shape differ."""
    shape, own = grid_shape(image), tuple(level0(layer).shape)
    n = min(len(own), len(shape))
    if own[-n:] != shape[-n:]:
        return "its axes are in another order"
    of_image, of_layer = _to_world(image, n), _to_world(layer, n)
    factors = unit_factors(layer.units[-n:], image.units[-n:])
    the, its = (np.linalg.norm(one[:, :n], axis=0) for one in (of_image, of_layer))
    of_layer *= factors[:, np.newaxis]
    times = its * factors / the
    askew = np.abs(of_layer[:, :n] - of_image[:, :n] * times) * shape[-n:]  # at the far end
    if askew.max() > HALF / 2 * the.min():
        return "it is rotated, mirrored or sheared relative to the image"
    differ = np.flatnonzero(np.abs(times - 1) * shape[-n:] > HALF / 2)
    if len(differ):
        first = min(int(differ[0]), n - 2)
        digits = max(4, 2 - int(np.log10(np.abs(times - 1).max())))  # enough to differ
        sizes = _sizes(its[first:], layer, digits), _sizes(the[first:], image, digits)
        return f"its pixels are {sizes[0]}, the image's {sizes[1]}"
    return f"it is shifted by {_sizes(of_layer[:, n] - of_image[:, n], image, between=', ')}"


def _sizes(sizes: np.ndarray, layer: Scalar, digits: int = 4, *, between: str = " × ") -> str:
    """Sizes along the last axes of a layer, such as ``0.5 × 0.5 µm``; without a unit in pixels."""
    of_pint = ["" if str(u) == "pixel" else f" {u:~P}" for u in layer.units[-len(sizes) :]]
    units = [unit.replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}") for unit in of_pint]
    numbers = [f"{size:.{digits}g}" for size in sizes]
    if len(set(units)) == 1:
        return between.join(numbers) + units[0]
    return between.join(number + unit for number, unit in zip(numbers, units, strict=True))


def _other_shape(image: Image, layer: Scalar) -> str:
    """Explain that a layer and an image differ in shape, and what to do."""
    try:
        shape = grid_shape(image)
    except UserError as error:
        return str(error)
    own = tuple(int(n) for n in level0(layer).shape)
    its, the = (" × ".join(map(str, one)) for one in (own, shape))
    who = f"Labels '{layer.name}' have" if isinstance(layer, Labels) else f"'{layer.name}' has"
    text = f"{who} {its} pixels, the image '{image.name}' {the}"
    if same_but_singletons(own, shape):
        return f"{text}: save the layer with the axes of the image."
    if same_but_singletons(own, shape[-2:]):
        return (
            f"{text}. The layer is of one plane: right-click the image, choose 'Split Stack' and "
            "that plane as image, or press 'New layer' and paint there."
        )
    if _same_extent(image, layer, own, shape):
        return f"{text}: the layer is of another resolution, so resize it to the image's pixels."
    return f"{text}: choose labels of the same image, or press 'New layer'."


def _same_extent(image: Image, layer: Scalar, own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether two layers of different shapes have the same extent in the world, within 5 %."""
    n = len(shape)
    if len(own) != n:
        return False
    factors = unit_factors(layer.units[-n:], image.units[-n:])
    its = np.linalg.norm(_to_world(layer, n)[:, :n], axis=0) * own[-n:] * factors
    the = np.linalg.norm(_to_world(image, n)[:, :n], axis=0) * shape[-n:]
    return bool(np.allclose(its, the, rtol=0.05))
