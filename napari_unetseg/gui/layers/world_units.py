"""World coordinates of voxels, in a viewer with other units than the layer's.

napari converts units where it draws and slices, but not in ``world_to_data`` and ``data_to_world``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pint

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


def unit_factors(units: Sequence[Any] | None, wanted: Sequence[Any] | None) -> np.ndarray:
    """Factor that converts positions from one unit to another, for each axis.

    1 where the units have different dimensions, such as pixels and micrometres: napari then uses
    the numbers unchanged.
    """
    if units is None or wanted is None or tuple(units) == tuple(wanted):
        return np.ones(1)
    pairs = list(zip(units, wanted, strict=True))
    if any(a.dimensionality != b.dimensionality for a, b in pairs):
        return np.ones(1)
    base = pint.application_registry.get_base_units
    return np.array([base(a)[0] / base(b)[0] for a, b in pairs])


def _world_units(viewer: ViewerModel, count: int) -> Sequence[Any] | None:
    """Units of the last axes of a viewer; None if any of them has none."""
    units = getattr(viewer.dims, "units", None)
    if units is None or len(units) < count:
        return None
    last: Sequence[Any] = units[-count:]
    return last


def to_data(viewer: ViewerModel, layer: Layer, point: Sequence[float] | np.ndarray) -> np.ndarray:
    """Convert a world position to a layer's data coordinates, one value for each axis of the layer.

    Leading axes of the layer that the world lacks are at zero.
    """
    point = np.asarray(point, float)[-layer.ndim :]
    point = np.concatenate([np.zeros(layer.ndim - len(point)), point])
    factors = unit_factors(_world_units(viewer, layer.ndim), layer.units)
    return np.asarray(layer.world_to_data(point * factors), float)


def to_world(viewer: ViewerModel, layer: Layer, place: Sequence[float] | np.ndarray) -> np.ndarray:
    """Convert a layer's data coordinates to a world position, one value for each axis."""
    factors = unit_factors(layer.units, _world_units(viewer, layer.ndim))
    position: np.ndarray = np.asarray(layer.data_to_world(place), float) * factors
    return position
