"""What an earlier model said, kept up where its mask was seen and nothing was painted."""

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
"""Voxels along Y and X around a wrong one within which the teacher is not believed."""
RANDOM_PATCH_RATE = 0.25
"""Share of the samples that come from anywhere in labelled planes, not from around labels: what was
painted in one corner must not change another."""
HELD_OUT = 254
"""Class index of voxels that are kept for the score, and of their guard."""


class Teacher:
    """A network that stands still, and the images of which its mask was seen.

    People paint where a mask is wrong. A network that learns from these strokes alone takes them
    for what the image looks like everywhere; here it learns beside them what the earlier one said
    of the rest (learning without forgetting, Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).

    Parameters
    ----------
    network
        The earlier network; it is copied.
    data
        What is trained on.
    seen
        Fingerprints of images that the network was trained on. Corrections say too that its mask
        was seen.
    """

    def __init__(self, network: UNet, data: TrainingDataset, seen: Collection[str]) -> None:
        self.network = network.folded().requires_grad_(False)
        known = [
            pair.corrections is not None or fingerprint in seen
            for pair, fingerprint in zip(data.pairs, data.fingerprints, strict=True)
        ]
        planes = [plane for plane in data.planes if known[plane.pair]]
        if len(data.classes.numbers) > HELD_OUT:  # its number is a class's
            planes = []
        self.planes = [plane for plane in planes if _without_blocks(plane).size]
        self._labels = {id(plane): _without_blocks(plane) for plane in self.planes}

    def labels(self, plane: LabelledPlane) -> np.ndarray:
        """Class indices to train on, with `HELD_OUT` where the teacher must not be asked."""
        return self._labels.get(id(plane), plane.train)

    def knows(self, plane: LabelledPlane) -> bool:
        """Whether its mask of this plane was seen, and something there is not labelled."""
        return id(plane) in self._labels

    def pick(self, rng: np.random.Generator) -> tuple[LabelledPlane, int] | None:
        """Now and then a voxel of a plane that it knows, labelled or not: plane and flat index."""
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


def distillation_loss(logits: Tensor, said: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy to what a teacher says where nothing is labelled.

    Voxels within `DISTRUST_RADIUS` of a labelled one that the teacher gets wrong do not count: what
    was painted there is meant for its surroundings too.

    Parameters
    ----------
    logits, said
        (N, K, *spatial) of the network and of its teacher (Hinton et al. 2015,
        https://arxiv.org/abs/1503.02531, at temperature 1); K = 1 for background and one structure.
    target
        (N, *spatial) class indices, `IGNORE_INDEX` where nothing is labelled, `HELD_OUT` in
        validation blocks: their labels are not to be learned, nor is what contradicts them.

    Returns
    -------
    tuple of Tensor
        The mean over the voxels that count, float32, 0 without any; and their number.
    """
    logits, said = logits.float(), said.float()
    if logits.shape[1] == 1:
        answer = (said[:, 0] > 0).long()
        losses = functional.binary_cross_entropy_with_logits(
            logits, torch.sigmoid(said), reduction="none"
        )[:, 0]
    else:
        answer = said.argmax(1)
        losses = -(said.softmax(1) * logits.log_softmax(1)).sum(1)
    unknown = target == IGNORE_INDEX
    wrong = ~unknown & (target != HELD_OUT) & (answer != target)
    counts = unknown & ~_around(wrong)
    number = counts.sum().float()
    return (losses * counts).sum() / number.clamp(min=1), number


def _around(places: Tensor) -> Tensor:
    """Whether a voxel (N, *spatial) has one of the places near it in its plane."""
    planes = places.flatten(0, -3)[:, None].float()
    return (
        functional.max_pool2d(planes, 2 * DISTRUST_RADIUS + 1, 1, DISTRUST_RADIUS).view(
            places.shape
        )
        > 0
    )


def _without_blocks(plane: LabelledPlane) -> np.ndarray:
    """What to train on, and `HELD_OUT` in the validation blocks and their guard.

    It is empty where all is labelled. A plane keeps it, since newer strokes change few planes.
    """
    if plane.taught is None:
        labels = plane.train.copy()
        for block in plane.blocks:
            labels[block.guarded] = HELD_OUT
        plane.taught = labels if (labels == IGNORE_INDEX).any() else labels[:0]
    return plane.taught
