"""Objects of a mask: numbers from its object maps, or by splitting it at necks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.object_maps import quantized
from napari_unetseg.data.object_basins import OUTSIDE, Block, basins
from napari_unetseg.data.object_forest import numbers, united
from napari_unetseg.data.object_heights import Heights, heights_of

if TYPE_CHECKING:
    from napari_unetseg.core.settings import ObjectSettings


def find_objects(
    mask: np.ndarray,
    maps: np.ndarray | None,
    structures: Sequence[int],
    settings: ObjectSettings | None,
    spacing: Sequence[float],
) -> np.ndarray:
    """Number the objects of one plane or volume.

    Both maps make one that is high where an object is deep and its centre near; at necks it is the
    distance to the border. Each of its hills that stands out by the prominence is an object, with
    its part of the mask (see `object_forest`).

    Parameters
    ----------
    mask
        Structures' numbers, 0 for background; (Y, X) or (Z, Y, X), uint8.
    maps
        Object maps, float32 (2, *shape), as of `core.object_maps`; None: split at necks.
    structures
        Those that consist of objects.
    settings
        How hills are told apart; None: split at necks.
    spacing
        Voxel size along each axis.

    Returns
    -------
    numpy.ndarray
        Numbers of the objects from 1 on in the order of their highest voxels, 0 elsewhere; int32,
        of the same shape.
    """
    how = heights_of(settings, structures, spacing, maps=maps is not None, mask=mask)
    return number_objects(mask, None if maps is None else quantized(maps), how)


def number_objects(mask: np.ndarray, maps: np.ndarray | None, how: Heights) -> np.ndarray:
    """`find_objects` with given heights, of maps that are `quantized`."""
    block = Block(
        np.pad(how.of(mask, maps), 1, constant_values=OUTSIDE),
        np.pad(mask, 1),
        (0,) * mask.ndim,
        mask.shape,
    )
    labels, hills = basins(block)
    now, hills = united(hills, how.prominence)
    found = np.concatenate([[0], numbers(hills, how.smallest)[now]]).astype(np.int32)
    return np.asarray(found[labels])
