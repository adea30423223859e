"""Scores from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_unetseg.core.labels import IGNORE, Classes

__all__ = ["Scores", "confusion", "mean_of", "scores_of"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Dice and IoU of each structure over pooled voxels; NaN for one that occurs nowhere.

    ``voxels`` labelled voxels were compared, in ``blocks`` validation blocks.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    dice: tuple[float, ...]
    iou: tuple[float, ...]
    voxels: int
    blocks: int = 0

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the structures that occur."""
        return mean_of(self.dice)

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the structures that occur."""
        return mean_of(self.iou)


def mean_of(values: Sequence[float]) -> float:
    """Mean without NaN; NaN when nothing is left."""
    known = [v for v in values if v == v]
    return sum(known) / len(known) if known else float("nan")


def confusion(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Count voxels by true and predicted class.

    Parameters
    ----------
    truth, predicted
        Class indices of the same shape; voxels whose truth is `IGNORE` are left out.
    n_classes
        Number of classes.

    Returns
    -------
    numpy.ndarray
        (n_classes, n_classes) int64, rows are the truth.
    """
    known = truth != IGNORE
    pairs = truth[known].astype(np.int64) * n_classes + predicted[known]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def scores_of(counts: np.ndarray, classes: Classes, blocks: int = 0) -> Scores:
    """Dice (Sørensen 1948) and IoU (Jaccard 1912) of each structure from a confusion matrix."""
    first = int(classes.background)
    hit = np.diag(counts)[first:].astype(float)
    both = (counts.sum(0) + counts.sum(1))[first:].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        dice = 2 * hit / both
        iou = hit / (both - hit)
    return Scores(
        names=tuple(s.name for s in classes.structures),
        numbers=tuple(s.number for s in classes.structures),
        dice=tuple(float(d) for d in dice),
        iou=tuple(float(i) for i in iou),
        voxels=int(counts.sum()),
        blocks=blocks,
    )
