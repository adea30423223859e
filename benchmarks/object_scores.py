"""Average precision and panoptic quality of numbered objects, pooled over pictures.

A found object is right if its IoU with a true one is above a threshold; the average precision is
TP / (TP + FP + FN) (Schmidt et al. 2018, doi:10.1007/978-3-030-00934-2_30).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


def ious(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """IoU of every true (rows) with every found object (columns)."""
    (rows, true), (columns, seen) = (np.unique(a, return_inverse=True) for a in (truth, found))
    both = np.zeros((len(rows), len(columns)))
    np.add.at(both, (true.ravel(), seen.ravel()), 1)
    either = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    return (both / either)[rows > 0][:, columns > 0]


def scores_of_objects(
    truths: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> dict[str, float]:
    """AP at 0.5 and 0.75, its mean over 0.5:0.95, and PQ, of pairs of equal shape."""
    right = dict.fromkeys(THRESHOLDS, 0)
    total, overlap = 0, 0.0
    for one, other in zip(truths, found, strict=True):
        iou = ious(one, other)
        total += sum(iou.shape)
        for threshold in THRESHOLDS:
            rows, columns = linear_sum_assignment(np.where(iou >= threshold, 1 + iou, 0), True)
            hits = iou[rows, columns]
            hits = hits[hits >= threshold]
            right[threshold] += len(hits)
            overlap += float(hits.sum()) if threshold == THRESHOLDS[0] else 0.0
    ap = {t: n / (total - n) if total else float("nan") for t, n in right.items()}
    return {
        "ap50": ap[0.5],
        "ap75": ap[0.75],
        "ap": float(np.mean(list(ap.values()))),
        "pq": 2 * overlap / total if total else float("nan"),
    }
