"""How good the first predictions were, told by what is known to be true of their planes now.

A model that annotation has made better predicts new planes better: the agreement of each plane's
first prediction with its final truth, over the time that was spent annotating until then.
NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.annotations.annotation_store import Origin, Truth
from napari_unetseg.annotations.sparse_array import Cell, Region, whole
from napari_unetseg.core.labels import IGNORE, Classes, LabelKind, Structure
from napari_unetseg.core.metrics import Scores, confusion, scores_of

if TYPE_CHECKING:
    from napari_unetseg.annotations.annotation_time import First

__all__ = ["PlaneQuality", "agreement", "first_qualities", "labelled_planes", "plane_region"]

COMPLETE = 0.95
"""A plane of which so much was accepted is known as a whole."""
SAID = (Origin.STROKES, Origin.CORRECTIONS, Origin.ACCEPTED)


@dataclass(frozen=True, slots=True)
class PlaneQuality:
    """How well a plane's first prediction agrees with what is true of it.

    Attributes
    ----------
    plane
        Leading index of a YX plane.
    minutes
        Of annotation in the project until the plane was first predicted.
    dice
        Mean Dice over the structures that occur, 0 to 1.
    voxels
        How many were compared.
    accepted
        Share of the plane that was accepted, 0 to 1.
    """

    plane: Cell
    minutes: float
    dice: float
    voxels: int
    accepted: float

    @property
    def complete(self) -> bool:
        """Whether the plane was accepted as a whole, so that its Dice is not biased."""
        return self.accepted >= COMPLETE


def plane_region(plane: Cell, shape: Sequence[int]) -> Region:
    """All of a YX plane of a grid."""
    return (*(slice(i, i + 1) for i in plane), *whole(shape[-2:]))


def labelled_planes(truth: Truth) -> list[Cell]:
    """Leading indices of the planes of which something was said, in order."""
    return sorted(set().union(*(truth.grid(origin).planes() for origin in SAID)))


def first_qualities(
    truth: Truth, firsts: Mapping[Cell, First], structures: Sequence[Structure]
) -> list[PlaneQuality]:
    """The first prediction of every plane against what is true of it now.

    Compared is where the truth is known: accepted places in full, elsewhere what was corrected or
    painted, the newest word of each voxel. Strokes that are older than the plane's first
    prediction are left out, also where a place was accepted later: the network may have learned
    them by heart. So are places that the first prediction did not reach, and those where it says a
    structure that was deleted or merged into another since.

    Only a plane that was accepted as a whole (`PlaneQuality.complete`) is judged without bias. Of
    any other one it is known only where a person chose to say something. Corrections are made
    where the prediction was wrong, so that alone they make it look worse than it was; strokes stay
    away from borders, and single objects are accepted without what is around them, which makes
    it look better. Planes of which nothing was said later give no point, nor do those where
    no structure occurs, in the prediction or in the truth.

    Parameters
    ----------
    truth
        What was said about an image.
    firsts
        When its planes were first predicted; a plane without a time gives no point.
    structures
        The structures now.

    Returns
    -------
    list of PlaneQuality
        In the order of time.
    """
    found = []
    for plane in labelled_planes(truth):
        if (first := firsts.get(plane)) is None:
            continue
        region = plane_region(plane, truth.shape)
        predicted = truth.read(Origin.FIRST, region)
        scores = agreement(truth, region, predicted, structures, after=first.stamp)
        if scores is None:
            continue
        accepted = float((truth.read(Origin.ACCEPTED, region) != 0).mean())
        minutes, dice = first.seconds / 60, scores.mean_dice
        found.append(PlaneQuality(plane, minutes, dice, scores.voxels, accepted))
    return sorted(found, key=lambda quality: (quality.minutes, quality.plane))


def agreement(
    truth: Truth,
    region: Region,
    predicted: np.ndarray,
    structures: Sequence[Structure],
    *,
    after: int | None = None,
) -> Scores | None:
    """Compare a prediction with what is known to be true of a region.

    Parameters
    ----------
    truth, region
        What was said, and where.
    predicted
        Of the region's shape, numbers as in corrections: 0 not predicted, 255 background.
    structures
        Those to compare; others are left out.
    after
        Leave out what was painted up to this time of the image; None takes all.

    Returns
    -------
    Scores or None
        None if nothing is known there, or no structure occurs.
    """
    classes = Classes(tuple(structures), background=True)
    known = _known(truth, region, classes, after)
    said = classes.encode(predicted, LabelKind.STROKES)
    known[said == IGNORE] = IGNORE
    scores = scores_of(confusion(known, said, len(classes.numbers)), classes)
    return scores if scores.mean_dice == scores.mean_dice else None


def _known(truth: Truth, region: Region, classes: Classes, after: int | None) -> np.ndarray:
    """Class index of each voxel, `IGNORE` where nothing is known."""
    painted = classes.encode(truth.read(Origin.STROKES, region), truth.kind)
    over = classes.encode(truth.winning(region), LabelKind.STROKES)
    known = np.where(over == IGNORE, IGNORE if truth.strokes_are_away else painted, over)
    if after is not None:
        known[(painted != IGNORE) & (truth.times(Origin.STROKES, region) <= after)] = IGNORE
    return known
