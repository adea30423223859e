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

    Seeds are where both maps say so; a watershed of the distance to the border extends them over
    the mask (Beucher and Lantuéjoul 1979).

    Parameters
    ----------
    mask
        Structures' numbers, 0 for background; (Y, X) or (Z, Y, X), uint8.
    maps
        Object maps, float32 (2, *shape), as of `core.object_maps`; None: split at necks.
    structures
        Those that consist of objects.
    settings
        Thresholds; None: split at necks.
    spacing
        Voxel size along each axis.

    Returns
    -------
    numpy.ndarray
        Numbers of the objects from 1 on, 0 elsewhere; int32, of the same shape.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.measure import label
    from skimage.segmentation import watershed

    out = np.zeros(mask.shape, np.int32)
    if maps is None or settings is None:
        from napari_unetseg.data.mask_cleanup import TidySettings, tidy

        return tidy(np.where(np.isin(mask, structures), mask, 0), TidySettings(split=True), spacing)
    finest = min(s for s in spacing[-2:])
    sigma = [settings.smoothing * finest / s for s in spacing]
    centre, border = (gaussian_filter(maps[row], sigma) for row in (CENTRE, BORDER))
    for number in structures:
        inside = mask == number
        seeds = label(inside & (centre < settings.centre) & (border > settings.border))  # type: ignore[no-untyped-call]
        found = watershed(-border, seeds, mask=inside)  # type: ignore[no-untyped-call]
        sizes = np.bincount(found.ravel())
        keep = sizes >= max(1, settings.smallest)
        keep[0] = False
        numbers = np.zeros(len(sizes), np.int32)
        numbers[keep] = np.arange(1, int(keep.sum()) + 1) + out.max(initial=0)
        out = np.maximum(out, numbers[found])
    return out
