"""Segmentation metrics from confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_unetseg.core.agreement import Agreement  # noqa: TC001 - looked up by pydantic
from napari_unetseg.core.labels import IGNORE_INDEX, Classes

MIN_PROBABILITY = 1e-7
"""Least probability in a loss, so that one voxel cannot make it infinite."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Dice and IoU of each structure over pooled voxels; NaN for one that does not occur.

    ``voxels`` labelled voxels in ``blocks`` validation blocks. ``soft_dice`` (`soft_dice_of`) and
    ``loss``, the cross-entropy (`loss_of`), use probabilities: they tell models apart even when all
    strokes are on the right side.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    dice: tuple[float, ...]
    iou: tuple[float, ...]
    voxels: int
    blocks: int = 0
    soft_dice: float = math.nan
    loss: float = math.nan
    agreement: Agreement | None = None
    """None in scores that are not of validation blocks, and in those of earlier versions."""

    @property
    def on_strokes(self) -> bool:
        """Whether they are of held-out strokes, so that ``agreement`` says what they are worth."""
        return self.agreement is not None and self.agreement.strokes > 0

    @property
    def value(self) -> float:
        """What is shown: the agreement, or the mean Dice of full masks and of earlier versions."""
        return self.mean_dice if self.agreement is None else self.agreement.value

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
        Class indices of the same shape; voxels whose truth is `IGNORE_INDEX` are left out.
    n_classes
        Number of classes.

    Returns
    -------
    numpy.ndarray
        (n_classes, n_classes) int64, rows are the truth.
    """
    known = truth != IGNORE_INDEX
    pairs = truth[known].astype(np.int64) * n_classes + predicted[known]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def soft_confusion(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Sum probabilities by true class.

    Parameters
    ----------
    truth
        Class indices; voxels whose truth is `IGNORE_INDEX` are left out.
    probabilities
        (classes, *shape of truth) probabilities.

    Returns
    -------
    numpy.ndarray
        (classes, classes) float64, rows are the truth.
    """
    n_classes = len(probabilities)
    return np.stack([probabilities[:, truth == k].sum(1, dtype=float) for k in range(n_classes)])


def soft_dice_of(sums: np.ndarray, probabilities: Sequence[float] | None = None) -> float:
    """Mean soft Dice over the classes that occur (Milletari et al. 2016).

    Parameters
    ----------
    sums
        (classes, classes) as from `soft_confusion`.
    probabilities
        Class priors (fraction of the images that each class covers), which replace the class

    Returns
    -------
    float
        0 to 1; NaN when no class occurs.
    """
    known = sums.sum(1)
    occurs = known > 0
    if probabilities is not None:
        sums = sums * (np.asarray(probabilities) / np.where(occurs, known, 1.0))[:, None]
    both = sums.sum(0) + sums.sum(1)
    return float((2 * np.diag(sums)[occurs] / both[occurs]).mean()) if occurs.any() else math.nan


def log_losses(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Sum minus the logarithm of the true class's probability, by true class.

    Parameters
    ----------
    truth
        Class indices; voxels whose truth is `IGNORE_INDEX` are left out.
    probabilities
        (classes, *shape of truth) probabilities.

    Returns
    -------
    numpy.ndarray
        (classes,) float64.
    """
    known = truth != IGNORE_INDEX
    right = truth[known].astype(np.intp)
    true_probabilities = np.take_along_axis(probabilities[:, known], right[None], axis=0)[0]
    sums = -np.log(np.maximum(true_probabilities, MIN_PROBABILITY))
    return np.bincount(right, weights=sums, minlength=len(probabilities))


def loss_of(
    sums: np.ndarray, counts: np.ndarray, probabilities: Sequence[float] | None = None
) -> float:
    """Mean cross-entropy in nats; NaN when nothing is labelled.

    Parameters
    ----------
    sums
        (classes,) as from `log_losses`.
    counts
        (classes,) labelled voxels of each class.
    probabilities
        As in `soft_dice_of`: classes count by these instead of by what was labelled of them.
    """
    occurs = counts > 0
    if not occurs.any():
        return math.nan
    weights = (counts if probabilities is None else np.asarray(probabilities))[occurs].astype(float)
    return float((sums[occurs] / counts[occurs] * weights).sum() / weights.sum())


def scores_of(
    counts: np.ndarray,
    classes: Classes,
    blocks: int = 0,
    soft_dice: float = math.nan,
    loss: float = math.nan,
    agreement: Agreement | None = None,
) -> Scores:
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
        soft_dice=soft_dice,
        loss=loss,
        agreement=agreement,
    )
