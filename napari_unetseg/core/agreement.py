"""Agreement of a mask with held-out strokes, and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.6448536269514722
"""Standard normal quantile of a two-sided interval of 90 %."""


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """How much of each held-out stroke a mask has right.

    Where masks are full there are no strokes, and an observation is a class in a block. The order
    depends on the labels alone, so that models scored on the same ones can be compared in pairs.
    """

    classes: np.ndarray
    """(n,) int64 class indices."""
    voxels: np.ndarray
    """(n,) int64 labelled voxels, at least 1."""
    right: np.ndarray
    """(n,) float64, fraction of them that the mask has right."""
    soft: np.ndarray
    """(n,) float64, mean probability of the true class."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Mean agreement with held-out strokes, or mean Dice on full masks, with a 90 % interval."""

    value: float
    """Mean over classes of the mean fraction right of their strokes, drawn towards 0.5 as
    `mean_interval` describes; the mean Dice where ``strokes`` is 0."""
    low: float
    high: float
    strokes: int
    """Number of held-out strokes; 0 where masks are full."""
    each: tuple[tuple[int, Agreement], ...] = ()
    """Number of each class (0 for background) with the agreement of its own strokes; empty where
    masks are full."""


def mean_interval(
    values: np.ndarray, weights: np.ndarray, effective: float
) -> tuple[float, float, float]:
    """A weighted mean of fractions with a 90 % interval.

    As Agresti and Coull (1998) for proportions: Z² observations, half of them 0 and half 1, are
    added, and mean and variance are those of all.

    Parameters
    ----------
    values, weights
        (n,) fractions from 0 to 1 and their weights, which add up to 1.
    effective
        Number of equally weighted observations with as much information.

    Returns
    -------
    value, low, high
        The mean, drawn towards 0.5 by the added observations, and its limits.
    """
    total = effective + Z**2
    mean = float(effective * (weights @ values) + Z**2 / 2) / total
    own = effective**2 * float(weights**2 @ (values - mean) ** 2)
    added = Z**2 / 2 * (mean**2 + (1 - mean) ** 2)
    half = Z * math.sqrt(own + added) / total
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def agreement_of(found: Observations, numbers: Sequence[int]) -> Agreement | None:
    """Agreement with strokes; every class counts as much, and every stroke of a class.

    Parameters
    ----------
    found
        The held-out strokes.
    numbers
        Number of each class.
    """
    if not len(found.classes):
        return None
    counts = np.bincount(found.classes)
    there = np.flatnonzero(counts)
    weights = 1 / (len(there) * counts[found.classes])
    interval = mean_interval(found.right, weights, _effective(counts[there]))
    each = []
    for k in there.tolist():
        own, many = found.right[found.classes == k], int(counts[k])
        only = mean_interval(own, np.full(many, 1 / many), _effective(counts[[k]]))
        each.append((numbers[k], Agreement(*only, many)))
    return Agreement(*interval, len(found.classes), tuple(each))


def _effective(counts: np.ndarray) -> float:
    """Observations that the mean over classes is worth.

    Half a stroke of each class is taken off, since a single one says nothing of its variance.
    """
    return float(len(counts) ** 2 / (1 / (counts - 0.5)).sum())


def dice_interval(hits: np.ndarray, both: np.ndarray) -> Agreement | None:
    """Mean Dice over structures on full masks; its interval takes a block as one observation.

    Parameters
    ----------
    hits, both
        (blocks, structures) voxels that mask and truth share, and the sum of either's.
    """
    occurs = both.sum(0) > 0
    if not occurs.any():
        return None
    hits, both = hits[:, occurs], both[:, occurs]
    dice = 2 * hits.sum(0) / both.sum(0)
    shares = (both / both.sum(0)).mean(1)
    used = shares > 0
    weights = shares[used]
    values = (2 * hits / both.sum(0)).mean(1)[used] / weights
    effective = max(0.5, 1 / float(weights @ weights) - 0.5)
    _, low, high = mean_interval(values, weights, effective)
    value = float(dice.mean())
    return Agreement(value, min(low, value), max(high, value), 0)
