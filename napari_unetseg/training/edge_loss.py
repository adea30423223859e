"""The edge loss: class borders follow edges of the image where nothing is labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX

REACH, NEAR = 5, 3.0
"""Largest distance of two compared voxels, and decay length of its weight, in voxels."""
PAIRINGS = 12
"""Offsets that a step compares, drawn anew for each."""
MOST_NUMBERS = 2**24
"""Most probabilities, or intensities, in one comparison: 64 MiB an array."""


def edge_loss(image: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Contrast-sensitive Potts loss: class borders cost least along edges of the image.

    Strokes lie inside structures and say nothing of where these end. Two voxels within `REACH` of
    each other in the plane cost the product of their similarity and the probability that their
    classes differ: the model of Boykov and Jolly 2001 (https://doi.org/10.1109/ICCV.2001.937505) as
    a loss for scribbles (Tang et al. 2018, https://arxiv.org/abs/1803.09569; Obukhov et al. 2019,
    https://arxiv.org/abs/1906.04651). Similarity is relative to the mean contrast of neighbours in
    each sample. Every pair has the same weight; pairs of two labelled voxels cost nothing.
    Undecided probabilities cost too, so that the network becomes confident away from the strokes.

    Parameters
    ----------
    image
        (N, C, *spatial), with the sample's geometry.
    logits
        (N, K, *spatial); K = 1 for background and one structure.
    target
        (N, *spatial) class indices, `IGNORE_INDEX` where nothing is labelled.

    Returns
    -------
    Tensor
        A number from 0 to 1.
    """
    probabilities = _probabilities(logits.float())
    sharpness = -1 / _contrast(image).clamp(min=1e-6)
    image, probabilities, target = _random_crop(image, probabilities, target)
    offsets = _draw_offsets()
    with torch.no_grad():
        far = (_shifted(image, offsets, math.inf) - image).square_().sum(2)
        similarity = far.mul_(sharpness).exp_()  # 0 beyond the sample
        unknown = target == IGNORE_INDEX
        similarity *= _shifted(unknown, offsets, False) | unknown
    losses = similarity * _disagreement(probabilities, _shifted(probabilities, offsets, 0.0))
    height, width = target.shape[-2:]
    pairs = sum(max(0, height - y) * max(0, width - abs(x)) for y, x in offsets)
    planes = target[..., 0, 0].numel()
    return losses.sum() / max(1, pairs * planes)


def _random_crop(
    image: Tensor, probabilities: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A random crop in Y and X, where the whole sample would take too much memory."""
    numbers = PAIRINGS * max(image.shape[1], probabilities.shape[1]) * target.numel()
    if numbers <= MOST_NUMBERS:
        return image, probabilities, target
    part: list[Any] = [...]
    for size in target.shape[-2:]:
        edge = min(size, max(2 * REACH, int(size * math.sqrt(MOST_NUMBERS / numbers))))
        start = int(torch.randint(size - edge + 1, ()))
        part.append(slice(start, start + edge))
    index = tuple(part)
    return image[index], probabilities[index], target[index]


def _shifted(x: Tensor, offsets: Sequence[tuple[int, int]], beyond: float) -> Tensor:
    """``x`` at each offset from each voxel, (offsets, *shape of x); ``beyond`` outside of it."""
    height, width = x.shape[-2:]
    x = functional.pad(x, (REACH, REACH, 0, REACH), value=beyond)
    found = [x[..., y : y + height, REACH + d : REACH + d + width] for y, d in offsets]
    return torch.stack(found)


def _probabilities(logits: Tensor) -> Tensor:
    """Probabilities (N, K, *spatial); for one logit of its structure alone."""
    return torch.sigmoid(logits) if logits.shape[1] == 1 else logits.softmax(1)


def _disagreement(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] > 1:
        return 1 - (a * b).sum(2)
    return (a + b - 2 * a * b)[:, :, 0]


def _contrast(image: Tensor) -> Tensor:
    """Mean square of the differences between neighbours in the plane, (N, 1, …)."""
    along = [image.diff(dim=axis).square().sum(1, keepdim=True) for axis in (-1, -2)]
    means = [d.flatten(1).mean(1) if d.numel() else image.new_zeros(len(d)) for d in along]
    return (means[0] + means[1]).view(-1, *(1,) * (image.ndim - 2))


def _draw_offsets() -> list[tuple[int, int]]:
    """Random offsets along Y and X, with near ones more often than far ones."""
    reach = range(-REACH, REACH + 1)
    all_of_them = [(y, x) for y in range(REACH + 1) for x in reach if (y, x) > (0, 0)]
    odds = torch.tensor([math.exp(-(y * y + x * x) / (2 * NEAR**2)) for y, x in all_of_them])
    return [all_of_them[i] for i in torch.multinomial(odds, PAIRINGS, replacement=True).tolist()]
