"""Distillation of an earlier model where its mask was seen and nothing is labelled."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.data.validation_split import LabelledPlane
    from napari_unetseg.models.unet import UNet

DISTRUST_RADIUS = 8
"""Radius in Y and X, in voxels, around its errors within which the earlier model is not distilled.
"""
RANDOM_PATCH_RATE = 0.25
"""Fraction of the samples that are drawn from anywhere in distilled planes, since strokes in one
corner must not change another.
"""
HELD_OUT = 254
"""Class index of voxels in validation blocks and their guard bands."""


class Distillation:
    """The frozen earlier network, and the planes in which it is distilled.

    Strokes are painted where a mask is wrong; trained on them alone, a network forgets the rest
    (learning without forgetting, Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).

    Parameters
    ----------
    network
        The earlier network; it is copied.
    data
        The training dataset.
    seen
        Fingerprints of images whose mask was seen: those that the network was trained on. Images
        with corrections count too.
    """

    def __init__(self, network: UNet, data: TrainingDataset, seen: Collection[str]) -> None:
        self.follow(network)
        known = [
            pair.corrections is not None or fingerprint in seen
            for pair, fingerprint in zip(data.pairs, data.fingerprints, strict=True)
        ]
        planes = [plane for plane in data.planes if known[plane.pair]]
        if len(data.classes.numbers) > HELD_OUT:  # 254 is then a class index
            planes = []
        self.planes = [plane for plane in planes if _without_blocks(plane).size]
        self._labels = {id(plane): _without_blocks(plane) for plane in self.planes}

    def follow(self, network: UNet) -> None:
        """Distil a copy of this network from now on."""
        self.network = network.folded().requires_grad_(False)

    def labels(self, plane: LabelledPlane) -> np.ndarray:
        """Class indices to train on, with `HELD_OUT` where nothing may be distilled."""
        return self._labels.get(id(plane), plane.train)

    def covers(self, plane: LabelledPlane) -> bool:
        """Whether the plane's mask was seen and part of it is not labelled."""
        return id(plane) in self._labels

    def sample_voxel(self, rng: np.random.Generator) -> tuple[LabelledPlane, int] | None:
        """At `RANDOM_PATCH_RATE` a random voxel of a distilled plane, labelled or not."""
        if not self.planes or rng.random() >= RANDOM_PATCH_RATE:
            return None
        sizes = np.array([plane.train.size for plane in self.planes], float)
        plane = self.planes[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
        return plane, int(rng.integers(plane.train.size))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K, *spatial) of images (N, C, *spatial)."""
        logits: Tensor = self.network(images)
        return logits


def distillation_loss(logits: Tensor, predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy to the earlier model's probabilities where nothing is labelled.

    Voxels within `DISTRUST_RADIUS` of a labelled one that the earlier model gets wrong do not
    count.

    Parameters
    ----------
    logits, predicted
        (N, K, *spatial) of the network and of the earlier one (Hinton et al. 2015,
        https://arxiv.org/abs/1503.02531, at temperature 1); K = 1 for background and one structure.
    target
        (N, *spatial) class indices, `IGNORE_INDEX` where nothing is labelled, `HELD_OUT` in
        validation blocks, which are not trained on.

    Returns
    -------
    tuple of Tensor
        The mean over the voxels that count, float32, 0 without any; and their number.
    """
    logits, predicted = logits.float(), predicted.float()
    if logits.shape[1] == 1:
        answer = (predicted[:, 0] > 0).long()
        losses = functional.binary_cross_entropy_with_logits(
            logits, torch.sigmoid(predicted), reduction="none"
        )[:, 0]
    else:
        answer = predicted.argmax(1)
        losses = -(predicted.softmax(1) * logits.log_softmax(1)).sum(1)
    unknown = target == IGNORE_INDEX
    wrong = ~unknown & (target != HELD_OUT) & (answer != target)
    counts = unknown & ~dilated(wrong, DISTRUST_RADIUS)
    number = counts.sum().float()
    return (losses * counts).sum() / number.clamp(min=1), number


def dilated(places: Tensor, radius: int) -> Tensor:
    """Dilation of a mask (N, *spatial) by a square of so many voxels in Y and X."""
    x, edge = places.flatten(0, -3)[:, None].float(), 2 * radius + 1
    for kernel, pad in (((edge, 1), (radius, 0)), ((1, edge), (0, radius))):
        x = functional.max_pool2d(x, kernel, 1, pad)
    return x.view(places.shape) > 0


def _without_blocks(plane: LabelledPlane) -> np.ndarray:
    """Training labels, `HELD_OUT` in validation blocks and guards; empty if all is labelled.

    Cached in the plane, since newer strokes change few planes.
    """
    if plane.distillation_labels is None:
        labels = plane.train.copy()
        for block in plane.blocks:
            labels[block.guarded] = HELD_OUT
        plane.distillation_labels = labels if (labels == IGNORE_INDEX).any() else labels[:0]
    return plane.distillation_labels
