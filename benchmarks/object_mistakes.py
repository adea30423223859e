"""What a person would do to numbered objects on screen: which are right, and how to mend others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice]
SAME = 0.5
"""IoU from which on a shown object is a true one; share of an object that makes it a piece."""


@dataclass(frozen=True, slots=True)
class Act:
    """``accepted``, ``deleted``, ``merged``, ``split`` or ``painted``, and of which objects.

    ``shown`` are numbers on screen, none where an object is painted; ``true`` the true ones.
    """

    kind: str
    shown: tuple[int, ...] = ()
    true: tuple[int, ...] = ()


def acts(truth: np.ndarray, shown: np.ndarray, box: Box) -> Iterator[Act]:
    """What is to be done to the objects whose middle is in a view, (Y, X) integer both.

    What is no object comes first, what has to be painted last.
    """
    overlap = _Overlap(truth, shown)
    painted, done = [], set[int]()
    for number in centred(shown, box):
        if overlap.is_extra(number):
            yield Act("deleted", (number,))
    for number in centred(truth, box):
        act = overlap.act(number)
        if act.kind == "painted":
            painted.append(act)
        elif number not in done:
            yield act
        done |= set(act.true)
    yield from (act for act in painted)


def centred(ids: np.ndarray, box: Box) -> list[int]:
    """Numbers of the objects whose middle is in a view."""
    numbers = np.unique(ids[box])
    numbers = numbers[numbers > 0]
    middles = ndimage.center_of_mass(ids > 0, ids, numbers)
    return [
        int(number)
        for number, middle in zip(numbers, middles, strict=True)
        if all(side.start <= at < side.stop for side, at in zip(box, middle, strict=True))
    ]


def nearest_of(ids: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    """Everywhere the nearest of some objects."""
    wanted = np.where(np.isin(ids, numbers), ids, 0)
    places = ndimage.distance_transform_edt(
        wanted == 0, return_distances=False, return_indices=True
    )
    return np.asarray(wanted[tuple(places)])


class _Overlap:
    """Voxels that true objects (rows) and shown ones (columns) share."""

    def __init__(self, truth: np.ndarray, shown: np.ndarray) -> None:
        self._both = np.zeros((int(truth.max(initial=0)) + 1, int(shown.max(initial=0)) + 1))
        np.add.at(self._both, (truth.ravel(), shown.ravel()), 1)
        self._true = np.maximum(self._both.sum(1), 1)
        self._shown = np.maximum(self._both.sum(0), 1)
        self._both[0] = self._both[:, 0] = 0

    def is_extra(self, number: int) -> bool:
        """Whether most of a shown object is background."""
        return bool(self._both[:, number].sum() < SAME * self._shown[number])

    def act(self, number: int) -> Act:
        """What is to be done to a true object."""
        both, size = self._both[number], self._true[number]
        iou = both / (size + self._shown - both)
        if iou.max() > SAME:
            return Act("accepted", (int(iou.argmax()),), (number,))
        pieces = np.flatnonzero(both > SAME * self._shown)
        union = size + self._shown[pieces].sum() - both[pieces].sum()
        if len(pieces) > 1 and both[pieces].sum() >= SAME * union:
            return Act("merged", tuple(pieces.tolist()), (number,))
        holder = int(both.argmax())
        held = np.flatnonzero(self._both[:, holder] > SAME * self._true)
        if len(held) > 1 and number in held:
            return Act("split", (holder,), tuple(held.tolist()))
        return Act("painted", (), (number,))
