"""Object maps: for each voxel of an object how far it is from the object's centre and border.

Both are relative to the object, so that they do not depend on its size. The centre is the voxel
deepest inside. A network that predicts them tells touching objects apart, where a mask cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CENTRE, BORDER = 0, 1
"""Rows of a pair of maps: distance to the centre, 0 there and 1 at the farthest voxel of the
object; distance to the border, 1 at the deepest voxel and 0 outside."""
UNKNOWN = 255
"""Value of an encoded map where it is not known; `FULL_SCALE` stands for 1."""
FULL_SCALE = 254


def encode_maps(objects: np.ndarray, spacing: Sequence[float], *, background: bool) -> np.ndarray:
    """The object maps of known objects.

    Where the image cuts an object, its rim is not a border.

    Parameters
    ----------
    objects
        Numbers of the objects, integer, 0 where there is none; (Z, Y, X) or (Y, X).
    spacing
        Voxel size along each axis.
    background
        Whether 0 is background, where the maps are known too (1 and 0).

    Returns
    -------
    numpy.ndarray
        (2, *shape) uint8, 0 to `FULL_SCALE`, and `UNKNOWN` where 0 is not background.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    maps = np.full((2, *objects.shape), UNKNOWN, np.uint8)
    if background:
        maps[CENTRE], maps[BORDER] = FULL_SCALE, 0
    values, found = np.unique(objects, return_inverse=True)
    numbered = found.reshape(objects.shape).astype(np.int32) + int(values[0] != 0)
    sizes = np.asarray(spacing, float)
    sizes = np.where(sizes > 0, sizes, 1.0)
    for number, box in enumerate(find_objects(numbered), 1):
        if box is None:
            continue
        inside = numbered[box] == number
        # a voxel around the object, but not beyond the image
        pads = [
            (int(s.start > 0), int(s.stop < size))
            for s, size in zip(box, objects.shape, strict=True)
        ]
        crop = tuple(slice(low, low + n) for (low, _), n in zip(pads, inside.shape, strict=True))
        padded = np.pad(inside, pads)
        whole = bool(padded.all())  # the object fills the image, and has no border
        depth = (
            inside.astype(float) if whole else distance_transform_edt(padded, sampling=sizes)[crop]
        )
        places = np.argwhere(inside) * sizes
        centre = np.array(np.unravel_index(int(depth.argmax()), depth.shape)) * sizes
        far = np.sqrt(((places - centre) ** 2).sum(1))
        here = maps[(slice(None), *box)]
        here[CENTRE][inside] = np.rint(far / max(far.max(), 1e-9) * FULL_SCALE)
        here[BORDER][inside] = np.rint(depth[inside] / depth.max() * FULL_SCALE)
    return maps


def quantized(maps: np.ndarray) -> np.ndarray:
    """Predicted maps (0 to 1, of any shape) as uint8, 0 to `FULL_SCALE`."""
    return np.asarray(np.rint(np.clip(maps, 0, 1) * np.float32(FULL_SCALE)), np.uint8)
