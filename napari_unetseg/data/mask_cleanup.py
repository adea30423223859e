"""Mask post-processing: fill holes, drop small objects, split touching ones, number objects.

Every function takes one plane (YX) or volume (ZYX).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class TidySettings(BaseModel):
    """Post-processing steps of a mask, in this order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fill_holes: bool = True
    """Fill background that a structure encloses."""
    smallest: float = Field(0.0, ge=0)
    """Drop objects smaller than this: µm² in planes and µm³ in volumes, or pixels."""
    split: bool = False
    """Split touching objects at their necks; makes objects."""
    objects: bool = False
    """Number the objects instead of keeping the structures' numbers."""


def tidy(mask: np.ndarray, settings: TidySettings, spacing: Sequence[float]) -> np.ndarray:
    """Tidy up one plane or volume.

    Parameters
    ----------
    mask
        Structures' numbers, 0 for background; (Y, X) or (Z, Y, X), uint8.
    settings
        What to do.
    spacing
        Size of a voxel along each axis; 1.0 in an image without calibration.

    Returns
    -------
    numpy.ndarray
        The same shape: structures' numbers (uint8), or objects from 1 on (int32).
    """
    as_objects = settings.split or settings.objects
    out = np.zeros(mask.shape, np.int32 if as_objects else np.uint8)
    least = settings.smallest / math.prod(spacing)
    count = 0
    for number in (int(v) for v in np.unique(mask) if v):
        region = mask == number
        if settings.fill_holes:
            region = _filled(region) & ((mask == number) | (mask == 0))
        objects = _split(region, spacing) if settings.split else _components(region)
        objects = _without_small(objects, least)
        if as_objects:
            out[objects > 0] = objects[objects > 0] + count
            count = int(out.max())
        else:
            out[objects > 0] = number
    return out


def _filled(region: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes(region))


def _components(region: np.ndarray) -> np.ndarray:
    """Connected components with full connectivity."""
    from skimage.measure import label

    return np.asarray(label(region, connectivity=region.ndim))  # type: ignore[no-untyped-call]


def _without_small(objects: np.ndarray, least: float) -> np.ndarray:
    """Drop objects of fewer voxels and renumber from 1."""
    sizes = np.bincount(objects.ravel())
    keep = sizes >= least
    keep[0] = False
    numbers = np.zeros(len(sizes), np.int32)
    numbers[keep] = np.arange(1, int(keep.sum()) + 1)
    return np.asarray(numbers[objects])


def _split(region: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Split at necks: watershed of the distance to the edge, from its smoothed peaks.

    The distance transform follows the voxel size (Beucher and Lantuéjoul 1979 for the watershed).
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    if not region.any():
        return np.zeros(region.shape, np.int32)
    distance = distance_transform_edt(region, sampling=spacing)
    smooth = gaussian_filter(distance, 1.0) * region
    depth = 0.1 * float(np.percentile(smooth[region], 95))
    tops = h_maxima(smooth, max(depth, 1e-6))  # type: ignore[no-untyped-call]
    split = watershed(-smooth, _components(tops > 0), mask=region)  # type: ignore[no-untyped-call]
    return np.asarray(split)
