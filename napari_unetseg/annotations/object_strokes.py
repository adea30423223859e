"""Strokes of a brush in numbered objects, as an edit of the objects that they draw anew."""

from __future__ import annotations

import numpy as np

from napari_unetseg.annotations.object_edits import ObjectEdit


def redrawn(before: np.ndarray, now: np.ndarray) -> ObjectEdit | None:
    """The edit that a stroke makes.

    An object that gained voxels, or of which some were erased, is finished as it is now. One that
    only lost voxels to another object is finished no more than it was before.

    Parameters
    ----------
    before, now
        Numbers of the objects of a plane or volume, in which all that the stroke touched are
        whole; integer, of one shape.

    Returns
    -------
    ObjectEdit or None
        Of the given region; None where nothing was painted.
    """
    painted = before != now
    if not painted.any():
        return None
    drawn = np.union1d(now[painted], before[painted & (now == 0)])
    changed = painted | np.isin(now, drawn[drawn > 0])
    region = tuple(slice(0, size) for size in now.shape)
    return ObjectEdit(region, np.where(changed, now, 0).astype(np.uint32), changed)
