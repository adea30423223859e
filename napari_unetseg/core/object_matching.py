"""Numbers of objects that stay the same from one mask to the next."""

from __future__ import annotations

import numpy as np

KEPT = 0.5
"""Fraction of the smaller of two objects that they must share to keep the number."""


def keep_ids(new: np.ndarray, old: np.ndarray, first: int | None = None) -> np.ndarray:
    """Number new objects as the old ones that they overlap by more than half.

    Parameters
    ----------
    new, old
        Numbers of the objects, integer, 0 for none; of the same shape.
    first
        The first number for an object that was not there before, greater than all that are in use;
        by default one more than the largest of ``old``.

    Returns
    -------
    numpy.ndarray
        The new objects, int32. Each old number is given once, to the new object that shares most
        with it; the others get new numbers.
    """
    found, index, sizes = np.unique(new, return_inverse=True, return_counts=True)
    index = index.reshape(new.shape)
    numbers = np.zeros(len(found), np.int32)
    free = int(old.max(initial=0)) + 1 if first is None else first
    both = (new > 0) & (old > 0)
    base = int(old.max(initial=0)) + 1
    pairs, shared = np.unique(index[both].astype(np.int64) * base + old[both], return_counts=True)
    old_sizes = np.bincount(old[old > 0], minlength=base)
    taken: set[int] = set()
    for at in np.argsort(-shared, kind="stable").tolist():
        row, number = divmod(int(pairs[at]), base)
        smaller = min(int(sizes[row]), int(old_sizes[number]))
        if not numbers[row] and number not in taken and shared[at] > KEPT * smaller:
            numbers[row] = number
            taken.add(number)
    for row in np.flatnonzero((numbers == 0) & (found > 0)).tolist():
        numbers[row] = free
        free += 1
    return np.asarray(numbers[index])
