"""Average precision and panoptic quality of numbered objects, pooled over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_unetseg.core.object_metrics import ObjectCounts, count_objects

if TYPE_CHECKING:
    import numpy as np

MEASURES = ("ap50", "ap75", "ap", "pq")


def scores_of_objects(
    truths: Sequence[np.ndarray], found: Sequence[np.ndarray], *, partial: bool = False
) -> dict[str, float]:
    """AP at 0.5 and 0.75, its mean over 0.5:0.95, PQ, and splits and merges, of pairs of images.

    With ``partial`` the truths hold some objects only; see `count_objects`.
    """
    pairs = zip(truths, found, strict=True)
    each = (count_objects(truth, other, partial=partial) for truth, other in pairs)
    counts = sum(each, ObjectCounts())
    return {
        "ap50": counts.precision_at(0.5),
        "ap75": counts.precision_at(0.75),
        "ap": counts.mean_precision,
        "pq": counts.panoptic_quality,
        "true": counts.true,
        "predicted": counts.predicted,
        "split": counts.split,
        "merged": counts.merged,
    }
