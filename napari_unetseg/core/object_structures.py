"""Structures of objects, and objects at the rim of an image."""

from __future__ import annotations

import numpy as np


def structures_of(ids: np.ndarray, mask: np.ndarray) -> dict[int, int]:
    """The structure of each object: the one that most of its voxels have.

    Parameters
    ----------
    ids
        Numbers of the objects, 0 elsewhere; non-negative integers, any shape.
    mask
        Numbers of the structures, 0 to 255; of the same shape.

    Returns
    -------
    dict
        Structure by the object's number; 0 where no voxel of it has one, of equal ones the lowest.
    """
    inside = ids > 0
    numbers, place = np.unique(ids[inside], return_inverse=True)
    votes = np.zeros((len(numbers), 256), np.int64)
    np.add.at(votes, (place.ravel(), mask[inside].astype(np.uint8)), 1)
    votes[:, 0] = 0
    return dict(zip(numbers.tolist(), votes.argmax(1).tolist(), strict=True))


def rim_numbers(ids: np.ndarray) -> np.ndarray:
    """Numbers of the objects that touch the first or last row or column of an array (…, Y, X)."""
    sides = [ids[..., 0, :], ids[..., -1, :], ids[..., 0], ids[..., -1]]
    found = np.unique(np.concatenate([side.ravel() for side in sides]))
    return found[found > 0]


def without_rim_objects(ids: np.ndarray) -> np.ndarray:
    """A copy without the objects that touch the rim in Y or X.

    Parameters
    ----------
    ids
        Numbers of the objects of a plane (Y, X) or volume (Z, Y, X), 0 elsewhere. An object of a
        volume is left out if any of its slices touches the rim; the first and last slice are no
        rim, since many stacks are thinner than what they show.
    """
    at_rim = rim_numbers(ids)
    return np.where(np.isin(ids, at_rim), np.zeros((), ids.dtype), ids)
