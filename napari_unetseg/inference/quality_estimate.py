"""Dice and IoU of a mask, estimated from places drawn at random with known probabilities.

Places are drawn without replacement, with probabilities proportional to a size measure that mixes
how much of a place nobody labelled with how much of each structure is predicted there, so that
rare structures are met (systematic sampling: Madow 1949; Särndal, Swensson and Wretman 1992). A
place counts by the inverse of its probability. Dice is then a ratio of two weighted sums. Its
interval is from a bootstrap over places (Efron 1979) with percentiles expanded for small samples
(Hesterberg 2015), or the jackknife's with Student's t where that is wider: resampled ratios of few
places stay between the lowest and the highest of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from napari_unetseg.core.labels import BACKGROUND_LABEL

if TYPE_CHECKING:
    from napari_unetseg.inference.candidate_windows import Plane, Region

DEFAULT_PLACES = 10
"""Places of a check."""
CONFIDENCE = 0.90
"""Of the intervals."""
RESAMPLES = 4000
SMALLEST = 1e-3
"""Dice, and its distance from 1, below which log odds are cut off."""
ALIKE = 1e-6
"""Width of an interval below which the places are all alike."""
BY_FOREGROUND = 0.5
"""Part of the size measure that follows the predicted structures; the rest follows the area."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A piece of a plane that may be drawn."""

    image: int
    """Index into the images."""
    plane: Plane
    """Index along each leading axis of the image's grid, all but Y and X."""
    region: Region
    """Slices along Y and X."""
    voxels: int
    """Voxels that nobody labelled."""
    foreground: Mapping[int, int] = field(default_factory=dict)
    """How many of them are predicted as each structure, by its number."""


@dataclass(frozen=True, slots=True)
class DrawnPlace:
    """A drawn candidate; ``weight`` is the inverse of its probability."""

    candidate: Candidate
    weight: float


@dataclass(frozen=True, slots=True)
class QualityEstimate:
    """Dice and IoU of one structure with a 90 % interval, from so many places where it occurs."""

    dice: float
    low: float
    high: float
    places: int

    @property
    def iou(self) -> tuple[float, float, float]:
        """IoU and the ends of its interval: a monotone function of Dice."""
        iou, low, high = (d / (2 - d) for d in (self.dice, self.low, self.high))
        return iou, low, high


# -- drawing ---------------------------------------------------------------------------------------


def draw_places(candidates: Sequence[Candidate], count: int, seed: int) -> list[DrawnPlace]:
    """Draw places, in random order, so that the first of them are a random sample too.

    Parameters
    ----------
    candidates
        Pieces of planes that do not overlap; those without unlabelled voxels are never drawn.
    count
        How many; all where there are fewer.
    seed
        Random seed: the same candidates and seed give the same places.
    """
    rng = np.random.default_rng(seed)
    known = [one for one in candidates if one.voxels > 0]
    if not known:
        return []
    shares = _structure_shares(known)
    voxels = np.array([one.voxels for one in known], float)
    area, foreground = voxels / voxels.sum(), shares.mean(1)
    by_foreground = BY_FOREGROUND if foreground.any() else 0.0
    size = (1 - by_foreground) * area + by_foreground * foreground
    chances = _inclusion_probabilities(size, count)
    stratum = np.where(shares.any(1), shares.argmax(1), -1)
    images = _shuffled([one.image for one in known], rng)
    planes = _shuffled([(one.image, one.plane) for one in known], rng)
    order = np.lexsort((rng.permutation(len(known)), planes, images, stratum))
    steps = np.floor(np.concatenate([[0.0], np.cumsum(chances[order])]) + rng.uniform())
    drawn = order[np.diff(steps) > 0]
    return [DrawnPlace(known[i], 1 / chances[i]) for i in rng.permutation(drawn)]


def _shuffled(keys: Sequence[Hashable], rng: np.random.Generator) -> np.ndarray:
    """A random rank for each key, the same for equal ones."""
    known = list(dict.fromkeys(keys))
    ranks = dict(zip(known, rng.permutation(len(known)).tolist(), strict=True))
    return np.array([ranks[key] for key in keys])


def _structure_shares(candidates: Sequence[Candidate]) -> np.ndarray:
    """Part of each predicted structure that lies in each candidate, (candidates, structures)."""
    numbers = sorted({n for one in candidates for n, found in one.foreground.items() if found})
    found = np.array([[one.foreground.get(n, 0) for n in numbers] for one in candidates], float)
    return found / found.sum(0) if numbers else np.zeros((len(candidates), 1))


def _inclusion_probabilities(size: np.ndarray, count: int) -> np.ndarray:
    """Probabilities proportional to a size, at most 1, whose sum is the count."""
    chances = np.zeros(len(size))
    sure = np.zeros(len(size), bool)
    while not sure.all():
        chances[~sure] = max(0, count - sure.sum()) * size[~sure] / size[~sure].sum()
        if not (over := ~sure & (chances >= 1)).any():
            break
        sure |= over
        chances[sure] = 1.0
    return chances


# -- estimating ------------------------------------------------------------------------------------


def overlap_counts(
    truth: np.ndarray, mask: np.ndarray, numbers: Iterable[int]
) -> dict[int, tuple[int, int, int]]:
    """Voxels of each structure in both, in the mask and in the truth of a place.

    Parameters
    ----------
    truth
        uint8: 0 not counted, 1 to 254 a structure, 255 background.
    mask
        uint8 of the same shape: 0 background, else a structure.
    numbers
        The structures.
    """
    counted = truth != 0
    said, right = mask[counted], truth[counted] % BACKGROUND_LABEL
    found = {}
    for n in numbers:
        there, true = said == n, right == n
        found[n] = int((there & true).sum()), int(there.sum()), int(true.sum())
    return found


def estimate(
    counts: np.ndarray, weights: np.ndarray, confidence: float = CONFIDENCE, seed: int = 0
) -> QualityEstimate:
    """Estimate the Dice of a structure over all that the places were drawn from.

    Parameters
    ----------
    counts
        (places, 3): voxels in both, in the mask and in the truth, as from `overlap_counts`.
    weights
        (places,) inverse probabilities.
    confidence
        Of the interval.
    seed
        Of the bootstrap.

    Returns
    -------
    QualityEstimate
        NaN where the structure occurs in no place. From one place the interval is 0 to 1; from
        places that are all alike, such as without any mistake, it is as if one more place of
        their mean size were wholly wrong, or wholly right (Laplace's rule of succession).
    """
    sums = np.stack([2 * counts[:, 0], counts[:, 1] + counts[:, 2]], 1) * weights[:, None]
    sums = sums[sums[:, 1] > 0]
    n = len(sums)
    if n == 0:
        return QualityEstimate(math.nan, math.nan, math.nan, 0)
    dice = float(sums[:, 0].sum() / sums[:, 1].sum())
    if n == 1:
        return QualityEstimate(dice, 0.0, 1.0, 1)
    tail = (1 - confidence) / 2
    low, high = _bootstrap_ends(sums, tail, seed)
    if high - low < ALIKE:
        return QualityEstimate(dice, n * dice / (n + 1), (n * dice + 1) / (n + 1), n)
    lower, higher = _jackknife_ends(sums, tail)
    return QualityEstimate(dice, min(low, lower), max(high, higher), n)


def _bootstrap_ends(sums: np.ndarray, tail: float, seed: int) -> tuple[float, float]:
    """Percentiles of the ratio over resampled places, as far out as Student's t is wider."""
    n = len(sums)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES) @ sums
    expanded = float(special.ndtr(special.stdtrit(n - 1, tail) * math.sqrt(n / (n - 1))))
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [expanded, 1 - expanded])
    return float(low), float(high)


def _jackknife_ends(sums: np.ndarray, tail: float) -> tuple[float, float]:
    """Student's interval with the jackknife's standard error, on the scale of the log odds."""
    n = len(sums)
    both, volume = sums.sum(0)
    without_each = _log_odds((both - sums[:, 0]) / (volume - sums[:, 1]))
    error = math.sqrt((n - 1) * float(without_each.var()))
    ends = _log_odds(np.array(both / volume)) + special.stdtrit(n - 1, [tail, 1 - tail]) * error
    low, high = special.expit(ends)
    return float(low), float(high)


def _log_odds(dice: np.ndarray) -> np.ndarray:
    return np.asarray(special.logit(np.clip(dice, SMALLEST, 1 - SMALLEST)))
