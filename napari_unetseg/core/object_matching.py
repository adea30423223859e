"""Numbers of predicted objects: the same from one prediction to the next, beside finished ones."""

from __future__ import annotations

import numpy as np

SHARE = 0.5
"""Fraction of an object above which it is taken for another one, or is hidden by others."""


def keep_ids(new: np.ndarray, old: np.ndarray, highest: int) -> np.ndarray:
    """Give objects the numbers that they had before.

    An object keeps the number of the earlier one of which it covers more than half; of several
    that of the one of which it covers the most voxels.

    Parameters
    ----------
    new
        Numbers of the objects from 1 on, 0 elsewhere; integer, any shape.
    old
        Earlier numbers, 0 elsewhere; integer, of the same shape.
    highest
        Highest number that was ever given: objects without an earlier number have the next ones.

    Returns
    -------
    numpy.ndarray
        uint32, of the same shape.
    """
    numbers = np.arange(int(new.max(initial=0)) + 1, dtype=np.uint32)
    known = np.zeros(len(numbers), bool)
    values, place, sizes = np.unique(old, return_inverse=True, return_counts=True)
    both = place.reshape(new.shape).astype(np.int64) * len(numbers) + new
    pairs, shared = np.unique(both[(new > 0) & (old > 0)], return_counts=True)
    earlier, later = np.divmod(pairs, len(numbers))
    most = np.flatnonzero(shared > SHARE * sizes[earlier])
    for at in most[np.argsort(shared[most], kind="stable")]:  # the largest is written last
        numbers[later[at]], known[later[at]] = values[earlier[at]], True
    present = np.zeros(len(numbers), bool)
    present[new] = True
    fresh = np.flatnonzero(present & ~known)[int(present[0]) :]
    numbers[fresh] = highest + np.arange(1, len(fresh) + 1, dtype=np.uint32)
    numbers[0] = 0
    return np.asarray(numbers[new])


def beside_finished(predicted: np.ndarray, finished: np.ndarray) -> np.ndarray:
    """Predicted and finished objects together.

    A finished object has all its voxels. A predicted one is left out where finished ones cover
    more than half of it, or one has its number: it was finished.

    Parameters
    ----------
    predicted, finished
        Numbers of the objects, 0 elsewhere; integer, of one shape.

    Returns
    -------
    numpy.ndarray
        uint32, of the same shape.
    """
    covered = finished > 0
    out = np.where(covered, finished, predicted).astype(np.uint32)
    met = np.unique(predicted[covered & (predicted > 0)])
    if len(met):
        rest = np.isin(predicted, met)
        place = np.searchsorted(met, predicted[rest])
        hidden = np.bincount(place, covered[rest], len(met))
        gone = hidden > SHARE * np.bincount(place, minlength=len(met))
        gone |= np.isin(met, finished[covered])
        rest[rest] = gone[place]
        out[rest & ~covered] = 0
    return out
