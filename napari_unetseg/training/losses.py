"""The training loss: a weighted sum of the terms in `LOSSES`.

A new loss is a function of `LossInputs` here and an entry in `LOSSES`. Trainer, training curve and
report read that list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.core.object_maps import FULL_SCALE, UNKNOWN
from napari_unetseg.training.distillation import dilated, distillation_loss
from napari_unetseg.training.edge_loss import edge_loss

if TYPE_CHECKING:
    from napari_unetseg.core.settings import TrainSettings

LARGEST_WEIGHT = 20.0
RIM, RIM_WEIGHT = 2, 1.0
"""Voxels around known objects, and the weight of their loss."""
OBJECT_WEIGHT = 1.0
"""Weight of the loss of the object maps."""
TINY = 1e-30
"""Divisor where nothing is labelled."""
TRUST = 0.5
"""Exponent of the class priors: 0 ignores them, 1 takes them as exact."""


class Mean(NamedTuple):
    """The mean of a loss over a batch, and the total weight of what it is a mean over.

    Data-parallel processes combine their means by these weights. Both are scalars; ``weight`` has
    no gradient.
    """

    value: Tensor
    weight: Tensor


Means = dict[str, tuple[float, Mean]]
"""Weight and mean of each term of the loss, by its name."""


@dataclass(frozen=True)
class LossInputs:
    """What a loss term is computed from, on one device."""

    images: Tensor
    """(N, C, *spatial) float32, augmented."""
    logits: Tensor
    """(N, K, *spatial); K = 1 for background and one structure."""
    targets: Tensor
    """(N, *spatial) uint8 class indices, `IGNORE_INDEX` where nothing is labelled."""
    class_weights: Tensor | None = None
    """(classes,) weight of each class, or None."""
    distilled: tuple[Tensor, Tensor, Tensor] | None = None
    """Logits of the network and of the earlier model, and targets with `distillation.HELD_OUT`, of
    those samples that are distilled; None where there are none."""
    maps: tuple[Tensor, Tensor] | None = None
    """Logits (N, 2, *spatial) of the object maps, and the encoded maps, uint8; None where no
    structure consists of objects."""

    @cached_property
    def labelled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (V, K), classes (V,) and class weights (V,) of the labelled voxels."""
        known = self.targets != IGNORE_INDEX
        logits = self.logits.movedim(1, -1)[known].float()
        truth = self.targets[known].long()
        weights = self.class_weights
        return logits, truth, torch.ones_like(logits[:, 0]) if weights is None else weights[truth]


@dataclass(frozen=True, slots=True)
class WeightInputs:
    """What the weight of a loss term may depend on.

    ``label_amount`` (0 to 1) grows with the number of labelled voxels; ``separable`` (0 to 1) says
    how well the initial model tells the labelled classes apart; ``edge_ramp`` (0 to 1) rises over
    the first steps from random weights; ``has_strokes`` is False where all masks are full;
    ``distils`` is True where an earlier model is distilled, ``has_objects`` where whole objects
    are known.
    """

    settings: TrainSettings
    label_amount: float = 1.0
    separable: float = 1.0
    edge_ramp: float = 1.0
    has_strokes: bool = True
    distils: bool = False
    has_objects: bool = False


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A term of the training loss: its name, its weight (0: not computed) and its mean."""

    name: str
    weight: Callable[[WeightInputs], float]
    value: Callable[[LossInputs], Mean]


def cross_entropy(batch: LossInputs) -> Mean:
    """Cross-entropy over labelled voxels, weighted by class.

    Binary cross-entropy with logits for one output channel (Ronneberger et al. 2015 use the two
    class form), cross-entropy for several; 0 where nothing is labelled.
    """
    logits, truth, weight = batch.labelled
    if logits.shape[1] == 1:
        losses = functional.binary_cross_entropy_with_logits(
            logits[:, 0], truth.float(), reduction="none"
        )
    else:
        losses = functional.cross_entropy(logits, truth, reduction="none")
    total = weight.sum()
    return Mean((losses * weight).sum() / total.clamp(min=TINY), total)


def dice_loss(batch: LossInputs) -> Mean:
    """1 − soft Dice over labelled voxels, weighted by class; the mean over classes that occur.

    Milletari et al. 2016 (https://arxiv.org/abs/1606.04797), with the mask of labelled voxels in
    all three sums. Of several processes each has the Dice of its own samples.
    """
    logits, truth, weight = batch.labelled
    if logits.shape[1] == 1:
        found, wanted = torch.sigmoid(logits), truth.float()[:, None]
    else:
        found = torch.softmax(logits, dim=1)
        wanted = functional.one_hot(truth, logits.shape[1]).float()
    each = weight[:, None]
    hit, both = (each * found * wanted).sum(0), (each * (found + wanted)).sum(0)
    occurs = wanted.sum(0) > 0
    losses = 1 - (2 * hit + 1.0) / (both + 1.0)
    return Mean((losses * occurs).sum() / occurs.sum().clamp(min=1), weight.sum())


def _distillation(batch: LossInputs) -> Mean:
    if batch.distilled is None:
        zero = batch.logits.new_zeros((), dtype=torch.float32)
        return Mean(zero, zero)
    return Mean(*distillation_loss(*batch.distilled))


def object_map_loss(batch: LossInputs) -> Mean:
    """Binary cross-entropy to the object maps where they are known, twice the mean of both maps.

    Distances to centre and border for a watershed follow Archit et al. 2025 (CochleaNet) and Bai
    and Urtasun 2017 (https://arxiv.org/abs/1611.08303).
    """
    if batch.maps is None:
        return Mean(zero := batch.logits.new_zeros((), dtype=torch.float32), zero)
    logits, encoded = batch.maps
    known = encoded != UNKNOWN
    wanted = encoded[known].float() / FULL_SCALE
    losses = functional.binary_cross_entropy_with_logits(
        logits[known].float(), wanted, reduction="none"
    )
    number = known.sum().float()
    return Mean(2 * losses.sum() / number.clamp(min=1), number)


def rim_loss(batch: LossInputs) -> Mean:
    """Cross-entropy to background just outside known objects, as far as it looks like background.

    Nothing is labelled there, since another object may touch. The weight of a voxel is the
    network's own probability of background, so that a certain neighbour is left as it is.
    """
    if batch.maps is None:
        return Mean(zero := batch.logits.new_zeros((), dtype=torch.float32), zero)
    inside = batch.maps[1][:, 0] != UNKNOWN
    rim = dilated(inside, RIM) & (batch.targets == IGNORE_INDEX)
    logits = batch.logits.movedim(1, -1)[rim].float()
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    background = logits.log_softmax(1)[:, 0]
    weight = background.detach().exp()
    number = torch.tensor(float(len(weight)), device=logits.device)
    return Mean(-(background * weight).sum() / number.clamp(min=1), number)


def _edges(batch: LossInputs) -> Mean:
    value = edge_loss(batch.images, batch.logits, batch.targets)
    return Mean(value, value.new_tensor(float(len(batch.targets))))


LOSSES = (
    LossTerm("cross_entropy", lambda _: 1.0, cross_entropy),
    LossTerm("dice", lambda x: float(x.settings.dice), dice_loss),
    LossTerm("distillation", lambda x: x.settings.distillation_weight * x.distils, _distillation),
    LossTerm(
        "edges",
        lambda x: (
            x.settings.edge_loss_weight * x.label_amount * x.separable * x.edge_ramp * x.has_strokes
        ),
        _edges,
    ),
    LossTerm("rims", lambda x: RIM_WEIGHT * x.has_objects, rim_loss),
    LossTerm("objects", lambda x: OBJECT_WEIGHT * x.has_objects, object_map_loss),
)
"""The terms of the training loss, in the order in which curve and report show them."""


def class_weights(voxels: Tensor, class_priors: Tensor | None = None) -> Tensor:
    """Class weights that balance the classes, or follow the square root of their priors.

    Parameters
    ----------
    voxels
        (classes,) labelled voxels of each class in what is sampled.
    class_priors
        (classes,) estimated fraction of the images that each class covers. Without them a rare
        structure, which is painted as much as the background, grows beyond its edges.

    Returns
    -------
    Tensor
        (classes,) float32; their mean over the labelled voxels is 1 unless the largest weight is
        clipped to twenty times the smallest.
    """
    fraction = voxels.float() / voxels.sum().clamp(min=1)
    weights = 1.0 / fraction.clamp(min=1e-6)
    if class_priors is not None:
        weights = weights * class_priors.to(weights) ** TRUST
    weights = weights.clamp(max=LARGEST_WEIGHT * float(weights.min()))
    return weights / (weights * fraction).sum()
