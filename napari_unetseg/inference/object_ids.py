"""Objects of a mask: numbers from its object maps, or by splitting it at necks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.object_maps import BORDER, CENTRE

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

    Both maps make one that is high where an object is deep and its centre near. Each of its hills
    that stands out by the prominence is an object, to which a watershed gives its part of the mask
    (Beucher and Lantuéjoul 1979).

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
        Numbers of the objects from 1 on, 0 elsewhere; int32, of the same shape.
    """
    from scipy.ndimage import gaussian_filter

    out = np.zeros(mask.shape, np.int32)
    if maps is None or settings is None:
        from napari_unetseg.data.mask_cleanup import TidySettings, tidy

        return tidy(np.where(np.isin(mask, structures), mask, 0), TidySettings(split=True), spacing)
    finest = min(spacing[-2:])
    sigma = [settings.smoothing * finest / s for s in spacing]
    centre, border = (gaussian_filter(maps[row], sigma) for row in (CENTRE, BORDER))
    for number in structures:
        found = _flooded(border * (1 - centre), mask == number, settings.prominence)
        sizes = np.bincount(found.ravel())
        keep = sizes >= max(1, settings.smallest)
        keep[0] = False
        numbers = np.zeros(len(sizes), np.int32)
        numbers[keep] = np.arange(1, int(keep.sum()) + 1) + out.max(initial=0)
        out = np.maximum(out, numbers[found])
    return out


def _flooded(height: np.ndarray, inside: np.ndarray, prominence: float) -> np.ndarray:
    """Numbers of the hills of a map that stand out by so much; every component has one."""
    from skimage.measure import label
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    height = np.where(inside, height, 0)
    full = inside.ndim
    tops = h_maxima(height, max(prominence, 1e-6)) > 0  # type: ignore[no-untyped-call]
    seeds = label(tops & inside, connectivity=full)  # type: ignore[no-untyped-call]
    components = label(inside, connectivity=full)  # type: ignore[no-untyped-call]
    seeded = np.zeros(components.max() + 1, bool)
    seeded[components[seeds > 0]] = True
    seeds = np.where(inside & ~seeded[components], components + seeds.max(), seeds)
    return np.asarray(watershed(-height, seeds, connectivity=full, mask=inside))  # type: ignore[no-untyped-call]
