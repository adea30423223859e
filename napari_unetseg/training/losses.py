"""Losses of labelled voxels, normalised by them, and of borders where nothing is labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE

__all__ = ["class_weights", "edge_loss", "segmentation_loss", "segmentation_sums"]

LARGEST_WEIGHT = 20.0
TINY = 1e-30
"""Divisor where nothing is labelled."""
TRUST = 0.5
"""How far estimated shares are believed: 0 not at all, 1 as if they were known."""
REACH, NEAR = 5, 3.0
"""Largest distance of two voxels that are compared, and the scale on which it counts, in voxels."""
PAIRINGS = 12
"""Directions and distances that a step compares, drawn anew for each."""
MOST_NUMBERS = 2**24
"""Probabilities, or intensities, that a step compares at most: 64 MiB in each of a few arrays."""


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


def segmentation_sums(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Sums over labelled voxels that `segmentation_loss` is made of.

    Those of the parts of a batch, added, are those of the batch.

    Parameters
    ----------
    logits
        (N, K, *spatial); K = 1 for background and one structure.
    target
        (N, *spatial) class indices, `IGNORE` where nothing is labelled.
    weights
        (classes,) weight of each class, or None.

    Returns
    -------
    Tensor
        (2 + 3K,) float32: of the weighted cross-entropies and of the weights; then, for each class,
        of what was found rightly, of what was found and what is there, and of its voxels.
    """
    known = target != IGNORE
    logits = logits.movedim(1, -1)[known].float()  # (V, K), labelled voxels only
    truth = target[known].long()
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
    each = weight[:, None]
    hit, both = (each * shares * wanted).sum(0), (each * (shares + wanted)).sum(0)
    entropy = torch.stack([(losses * weight).sum(), weight.sum()])
    return torch.cat([entropy, hit, both, wanted.sum(0)])


def segmentation_loss(sums: Tensor, *, dice: bool) -> Tensor:
    """Cross-entropy over labelled voxels, plus soft Dice if wanted.

    Binary cross-entropy with logits for one output channel (Ronneberger et al. 2015 use the two
    class form), cross-entropy for several. The Dice term is that of Milletari et al. 2016
    (https://arxiv.org/abs/1606.04797) with the mask of labelled voxels in all three sums.

    Parameters
    ----------
    sums
        Of a batch, as `segmentation_sums` gives them.
    dice
        Whether to add the Dice term: 1 − soft Dice, the mean over the classes that occur.

    Returns
    -------
    Tensor
        A number; 0 when no voxel is labelled.
    """
    loss: Tensor = sums[0] / sums[1].clamp(min=TINY)
    if not dice:
        return loss
    hit, both, voxels = sums[2:].view(3, -1)
    score = (2 * hit + 1.0) / (both + 1.0)
    occurs = voxels > 0
    loss += ((1 - score) * occurs).sum() / occurs.sum().clamp(min=1)
    return loss


def edge_loss(image: Tensor, logits: Tensor, target: Tensor, samples: int | None = None) -> Tensor:
    """Draws the borders of a mask to the edges of the image, where nothing is labelled.

    Strokes lie inside things, and say nothing of the voxels between them. Here two voxels within
    `REACH` of each other in the plane cost as much as they look alike and are thought to be of
    different classes: a contrast-sensitive Potts model (Boykov and Jolly 2001,
    https://doi.org/10.1109/ICCV.2001.937505) as a loss, as Tang et al. 2018
    (https://arxiv.org/abs/1803.09569) and Obukhov et al. 2019 (https://arxiv.org/abs/1906.04651)
    train from scribbles. What looks alike is measured by the mean contrast of neighbours in each
    sample. Every pair counts alike; pairs of two labelled voxels cost nothing. Two voxels that look
    alike also cost where the network cannot decide, so that it becomes surer of itself away from
    the strokes.

    Parameters
    ----------
    image
        (N, C, *spatial), with the sample's geometry.
    logits
        (N, K, *spatial); K = 1 for background and one structure.
    target
        (N, *spatial) class indices, `IGNORE` where nothing is labelled.
    samples
        Those of the whole batch, where these N are a part of it: the parts' losses add up to that
        of the batch if PyTorch's random numbers are the same for all.

    Returns
    -------
    Tensor
        A number from 0 to 1.
    """
    samples = samples or len(target)
    shares = _shares(logits.float())
    sharpness = -1 / _contrast(image).clamp(min=1e-6)
    image, shares, target = _less(image, shares, target, samples)
    steps = _steps()
    with torch.no_grad():
        far = (_moved(image, steps, math.inf) - image).square_().sum(2)
        alike = far.mul_(sharpness).exp_()  # 0 beyond the sample
        unknown = target == IGNORE
        alike *= _moved(unknown, steps, False) | unknown
    losses = alike * _differ(shares, _moved(shares, steps, 0.0))
    height, width = target.shape[-2:]
    pairs = sum(max(0, height - y) * max(0, width - abs(x)) for y, x in steps)
    planes = samples * target[0, ..., 0, 0].numel()
    return losses.sum() / max(1, pairs * planes)


def _less(
    image: Tensor, shares: Tensor, target: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A random part of the plane, where all of it would take too much memory."""
    numbers = PAIRINGS * max(image.shape[1], shares.shape[1]) * target[0].numel() * samples
    if numbers <= MOST_NUMBERS:
        return image, shares, target
    part: list[Any] = [...]
    for size in target.shape[-2:]:
        edge = min(size, max(2 * REACH, int(size * math.sqrt(MOST_NUMBERS / numbers))))
        start = int(torch.randint(size - edge + 1, ()))
        part.append(slice(start, start + edge))
    index = tuple(part)
    return image[index], shares[index], target[index]


def _moved(x: Tensor, steps: Sequence[tuple[int, int]], beyond: float) -> Tensor:
    """What is a step away from each voxel, (steps, *shape of x); ``beyond`` outside of it."""
    height, width = x.shape[-2:]
    x = functional.pad(x, (REACH, REACH, 0, REACH), value=beyond)
    found = [x[..., y : y + height, REACH + d : REACH + d + width] for y, d in steps]
    return torch.stack(found)


def _shares(logits: Tensor) -> Tensor:
    """Probabilities (N, K, *spatial); for one logit of its structure alone."""
    return torch.sigmoid(logits) if logits.shape[1] == 1 else logits.softmax(1)


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """How likely voxels (N, K, *spatial) are of other classes than (steps, N, K, *spatial)."""
    if a.shape[1] > 1:
        return 1 - (a * b).sum(2)
    return (a + b - 2 * a * b)[:, :, 0]


def _contrast(image: Tensor) -> Tensor:
    """Mean square of the differences between neighbours in the plane, (N, 1, …)."""
    along = [image.diff(dim=axis).square().sum(1, keepdim=True) for axis in (-1, -2)]
    means = [d.flatten(1).mean(1) if d.numel() else image.new_zeros(len(d)) for d in along]
    return (means[0] + means[1]).view(-1, *(1,) * (image.ndim - 2))


def _steps() -> list[tuple[int, int]]:
    """Pairs of voxels to compare, as steps along Y and X: near ones more often than far ones."""
    reach = range(-REACH, REACH + 1)
    all_of_them = [(y, x) for y in range(REACH + 1) for x in reach if (y, x) > (0, 0)]
    odds = torch.tensor([math.exp(-(y * y + x * x) / (2 * NEAR**2)) for y, x in all_of_them])
    return [all_of_them[i] for i in torch.multinomial(odds, PAIRINGS, replacement=True).tolist()]
