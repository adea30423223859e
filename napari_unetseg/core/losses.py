"""Losses that see labelled voxels only and are normalised by them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE

__all__ = ["class_weights", "segmentation_loss"]

LARGEST_WEIGHT = 20.0
TRUST = 0.5
"""How far estimated shares are believed: 0 not at all, 1 as if they were known."""


def class_weights(voxels: Tensor, shares: Tensor | None = None) -> Tensor:
    """Weights that make every class count alike, or nearly as much as it covers.

    Parameters
    ----------
    voxels
        (classes,) labelled voxels of each class in what is sampled.
    shares
        (classes,) estimated share of the images that each class covers. A class then counts as the
        square root of its share: without it a rare structure, of which as much is painted as of
        the background, grows beyond its edges, where hardly any background is painted.

    Returns
    -------
    Tensor
        (classes,) float32; the mean over the labelled voxels is 1 unless the largest weight,
        twenty times the smallest, cuts it.
    """
    share = voxels.float() / voxels.sum().clamp(min=1)
    weights = 1.0 / share.clamp(min=1e-6)
    if shares is not None:
        weights = weights * shares.to(weights) ** TRUST
    weights = weights.clamp(max=LARGEST_WEIGHT * float(weights.min()))
    return weights / (weights * share).sum()


def segmentation_loss(
    logits: Tensor, target: Tensor, weights: Tensor | None, *, dice: bool
) -> Tensor:
    """Cross-entropy over labelled voxels, plus soft Dice if wanted.

    Binary cross-entropy with logits for one output channel (Ronneberger et al. 2015 use the two
    class form), cross-entropy for several. The Dice term is that of Milletari et al. 2016
    (https://arxiv.org/abs/1606.04797) with the mask of labelled voxels in all three sums.

    Parameters
    ----------
    logits
        (N, K, *spatial); K = 1 for background and one structure.
    target
        (N, *spatial) class indices, `IGNORE` where nothing is labelled.
    weights
        (classes,) weight of each class, or None.
    dice
        Whether to add the Dice term.

    Returns
    -------
    Tensor
        A number; 0 when no voxel is labelled.
    """
    known = target != IGNORE
    logits = logits.movedim(1, -1)[known].float()  # (V, K), labelled voxels only
    truth = target[known].long()
    if not len(truth):
        return logits.sum() * 0.0
    weight = torch.ones_like(truth, dtype=torch.float32) if weights is None else weights[truth]
    if logits.shape[1] == 1:
        losses = functional.binary_cross_entropy_with_logits(
            logits[:, 0], truth.float(), reduction="none"
        )
        shares = torch.sigmoid(logits)
        wanted = truth.float()[:, None]
    else:
        losses = functional.cross_entropy(logits, truth, reduction="none")
        shares = torch.softmax(logits, dim=1)
        wanted = functional.one_hot(truth, logits.shape[1]).float()
    loss = (losses * weight).sum() / weight.sum()
    return loss + _soft_dice(shares, wanted, weight[:, None]) if dice else loss


def _soft_dice(shares: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """1 − soft Dice, mean over the classes that occur; (V, K), (V, K), (V, 1) → a number."""
    hit = (weight * shares * wanted).sum(0)
    both = (weight * (shares + wanted)).sum(0)
    occurs = wanted.sum(0) > 0
    score = (2 * hit + 1.0) / (both + 1.0)
    return ((1 - score) * occurs).sum() / occurs.sum().clamp(min=1)
