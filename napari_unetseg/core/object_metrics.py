"""Scores of numbered objects: average precision, panoptic quality, splits and merges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

THRESHOLDS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))
"""Least IoU of a match, 0.5 to 0.95."""
PART = 0.1
"""Fraction of an object that another one must cover to count in splits and merges."""


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    """What scores are computed from; counts of several images add up.

    ``matched`` true objects have a predicted one of at least each IoU in `THRESHOLDS`, and
    ``iou_sum`` is the sum of the IoU over those of 0.5. ``true`` and ``predicted`` objects in all;
    ``split`` true ones consist of several predicted ones, and ``merged`` predicted ones of several
    true ones.
    """

    matched: tuple[int, ...] = (0,) * len(THRESHOLDS)
    iou_sum: float = 0.0
    true: int = 0
    predicted: int = 0
    split: int = 0
    merged: int = 0

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(
            tuple(a + b for a, b in zip(self.matched, other.matched, strict=True)),
            self.iou_sum + other.iou_sum,
            self.true + other.true,
            self.predicted + other.predicted,
            self.split + other.split,
            self.merged + other.merged,
        )

    def precision_at(self, threshold: float) -> float:
        """TP / (TP + FP + FN) at one of `THRESHOLDS`; NaN without any object.

        This is the average precision of Schmidt et al. 2018 (StarDist,
        https://arxiv.org/abs/1806.03535).
        """
        hits = self.matched[THRESHOLDS.index(threshold)]
        total = self.true + self.predicted - hits
        return hits / total if total else math.nan

    @property
    def mean_precision(self) -> float:
        """Mean of `precision_at` over `THRESHOLDS`."""
        return sum(map(self.precision_at, THRESHOLDS)) / len(THRESHOLDS)

    @property
    def panoptic_quality(self) -> float:
        """Sum of the IoU of matches / (TP + FP/2 + FN/2); Kirillov et al. 2019.

        https://arxiv.org/abs/1801.00868
        """
        total = self.true + self.predicted
        return 2 * self.iou_sum / total if total else math.nan


def count_objects(
    truth: np.ndarray, predicted: np.ndarray, *, partial: bool = False
) -> ObjectCounts:
    """Compare two images of numbered objects.

    Parameters
    ----------
    truth, predicted
        Numbers of the objects, integer, 0 for none; of the same shape.
    partial
        Whether ``truth`` holds some objects only: predicted ones that lie mostly where it has none
        are neither right nor wrong.

    Returns
    -------
    ObjectCounts
        A match is of one to one, as two objects that overlap by an IoU above 0.5 always are; with
        exactly 0.5 the larger number of matches counts.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"{truth.shape} and {predicted.shape} are different shapes")
    overlap, rows, columns, true_sizes, found_sizes = _overlaps(truth, predicted)
    if partial:
        inside = np.bincount(columns, overlap, len(found_sizes))
        judged = 2 * inside > found_sizes
        kept = judged[columns]
        overlap, rows, columns = overlap[kept], rows[kept], columns[kept]
    else:
        judged = np.ones(len(found_sizes), bool)
    iou = overlap / (true_sizes[rows] + found_sizes[columns] - overlap)
    matched = tuple(_matches(rows, columns, iou >= t) for t in THRESHOLDS)
    large = iou >= THRESHOLDS[0]
    most = np.zeros(len(true_sizes))
    np.maximum.at(most, rows[large], iou[large])
    part_of_true, part_of_found = overlap / true_sizes[rows], overlap / found_sizes[columns]
    pieces = np.bincount(rows[(part_of_true > PART) & (part_of_found > 0.5)], minlength=1)
    held = np.bincount(columns[(part_of_found > PART) & (part_of_true > 0.5)], minlength=1)
    return ObjectCounts(
        matched,
        float(np.sort(most)[::-1][: matched[0]].sum()),
        len(true_sizes),
        int(judged.sum()),
        int((pieces > 1).sum()),
        int((held > 1).sum()),
    )


def _matches(rows: np.ndarray, columns: np.ndarray, able: np.ndarray) -> int:
    """Size of a largest one-to-one matching.

    Pairs above an IoU of one half are one to one by themselves; exactly one half is rare.
    """
    rows, columns = rows[able], columns[able]
    if len(np.unique(rows)) == len(rows) == len(np.unique(columns)):
        return len(rows)
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    graph = csr_matrix((np.ones(len(rows)), (rows, columns)))
    return int((maximum_bipartite_matching(graph) >= 0).sum())


def _overlaps(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Voxels that pairs of objects share, the pair's two indices, and the sizes of all objects."""
    true_ids, true_index, true_sizes = _numbered(truth)
    found_ids, found_index, found_sizes = _numbered(predicted)
    both = (true_index >= 0) & (found_index >= 0)
    pairs = true_index[both].astype(np.int64) * max(1, len(found_ids)) + found_index[both]
    keys, overlap = np.unique(pairs, return_counts=True)
    rows, columns = np.divmod(keys, max(1, len(found_ids)))
    del true_ids
    return overlap, rows, columns, true_sizes, found_sizes


def _numbered(objects: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the objects, the index of each voxel's (-1 for none), and their sizes."""
    ids, index, sizes = np.unique(objects.reshape(-1), return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    if len(ids) and ids[0] == 0:
        return ids[1:], index - 1, sizes[1:]
    return ids, index, sizes
