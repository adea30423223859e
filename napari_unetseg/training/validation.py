"""Validation scores on held-out blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_unetseg.core.agreement import Observations, agreement_of, dice_interval
from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.core.metrics import (
    Scores,
    confusion,
    log_losses,
    loss_of,
    scores_of,
    soft_confusion,
    soft_dice_of,
)
from napari_unetseg.data.held_out_strokes import HeldOutStrokes, held_out_strokes
from napari_unetseg.models.unet import UNet, probabilities
from napari_unetseg.runtime.devices import unless_out_of_memory
from napari_unetseg.runtime.distributed import ProcessGroup

if TYPE_CHECKING:
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.data.validation_split import LabelledPlane, ValidationBlock

Region = tuple[slice, ...]
MOST_VOXELS = 2**21
"""Planes of more voxels are scored block by block."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores on the validation blocks, and how much of each held-out stroke is right."""

    scores: Scores
    observations: Observations


class Validator:
    """Predicts the validation blocks, each with some context, and scores them.

    Processes split the planes and get the same scores.
    """

    def __init__(
        self,
        data: TrainingDataset,
        network: UNet,
        device: torch.device,
        group: ProcessGroup | None = None,
    ) -> None:
        self.data, self.device, self.group = data, device, group or ProcessGroup(device)
        self.stride = network.stride
        self.context = max(network.receptive_field) // 2
        self._strokes: tuple[TrainingDataset, HeldOutStrokes] | None = None

    @property
    def strokes(self) -> HeldOutStrokes:
        """The held-out strokes of the dataset."""
        if self._strokes is None or self._strokes[0] is not self.data:
            self._strokes = self.data, held_out_strokes(self.data)
        return self._strokes[1]

    def validate(self, network: UNet, priors: Sequence[float] | None = None) -> Validation | None:
        """Scores on the validation blocks, with what they are of; ``priors`` as in `soft_dice_of`.

        None without blocks, or where not even a block without context fits in memory.
        """
        while self.data.validated:
            found = unless_out_of_memory(self.device, lambda: self._validate(network, priors))
            if found is not None or not self.context:
                return found
            self.context //= 2
        return None

    @torch.inference_mode()
    def labelled_error(self, network: UNet) -> float:
        """Fraction of the voxels labelled for training that a network gets wrong."""
        network, n = network.folded(), len(self.data.classes.numbers)
        regions = self.data.labelled_regions()
        counts = sum(confusion(truth, self._infer(network, x).argmax(0), n) for x, truth in regions)
        return 1 - float(np.trace(counts) / np.sum(counts))

    @torch.inference_mode()
    def _validate(self, network: UNet, priors: Sequence[float] | None) -> Validation:
        data, strokes = self.data, self.strokes
        n, blocks = len(data.classes.numbers), len(data.validation_blocks())
        shapes = (n, n), (n, n), (n,), (2, blocks, n), (2, len(strokes.classes))
        own = self.group.run_together(lambda: self._count(network.folded(), shapes))
        total = self.group.all_reduce(torch.from_numpy(own))
        self.group.broadcast([total])
        counts, sums, losses, of_blocks, of_strokes = _split(total.numpy(), shapes)
        right, soft = of_strokes / strokes.voxels
        observations = Observations(strokes.classes, strokes.voxels, right, soft)
        first = int(data.classes.background)
        agreement = (
            dice_interval(*of_blocks[:, :, first:])
            if strokes.full
            else agreement_of(observations, data.classes.numbers)
        )
        scores = scores_of(
            counts.astype(np.int64),
            data.classes,
            blocks,
            soft_dice_of(sums, priors),
            loss_of(losses, counts.sum(1), priors),
            agreement,
        )
        return Validation(scores, observations)

    def _count(self, network: UNet, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Sums over this process's blocks, flat: arrays of these shapes.

        Confusion, soft confusion, losses; for each block and class the voxels that mask and truth
        share and the sum of either's; for each stroke the voxels that are right and the sum of the
        probabilities of the true class.
        """
        flat = np.zeros(sum(map(math.prod, shapes)))
        counts, sums, losses, of_blocks, of_strokes = _split(flat, shapes)
        n = len(counts)
        for number, plane, block, probs in self._predicted(network):
            truth, found = plane.validate[block.region], probs.argmax(0)
            here = confusion(truth, found, n)
            counts += here
            sums += soft_confusion(truth, probs)
            losses += log_losses(truth, probs)
            of_blocks[:, number] = np.diag(here), here.sum(0) + here.sum(1)
            known, strokes = truth != IGNORE_INDEX, self.strokes.numbers[number]
            true = np.take_along_axis(probs[:, known], truth[known][None].astype(np.intp), 0)[0]
            np.add.at(of_strokes[0], strokes, found[known] == truth[known])
            np.add.at(of_strokes[1], strokes, true)
        return flat

    def _predicted(
        self, network: UNet
    ) -> Iterator[tuple[int, LabelledPlane, ValidationBlock, np.ndarray]]:
        """Number and probabilities (classes, *block) of each block.

        Planes with many blocks are predicted whole.
        """
        blocks = [(n, *found) for n, found in enumerate(self.data.validation_blocks())]
        planes = [list(group) for _, group in groupby(blocks, key=lambda found: id(found[1]))]
        for mine in self.group.shard(planes):
            plane = mine[0][1]
            shape = plane.validate.shape
            reads = [self._with_context(block.region, shape) for _, _, block in mine]
            whole = math.prod(shape)
            if whole <= min(MOST_VOXELS, sum(_voxels(r) for r in reads)):
                all_of_it = tuple(slice(0, s) for s in shape)
                probs = self._infer(network, self.data.read(plane, all_of_it))
                yield from ((n, plane, b, probs[(slice(None), *b.region)]) for n, _, b in mine)
                continue
            for (n, _, block), read in zip(mine, reads, strict=True):
                inner = tuple(
                    slice(b.start - r.start, b.stop - r.start)
                    for b, r in zip(block.region, read, strict=True)
                )
                probs = self._infer(network, self.data.read(plane, read))
                yield n, plane, block, probs[(slice(None), *inner)]

    def _with_context(self, region: Region, shape: tuple[int, ...]) -> Region:
        return tuple(
            slice(max(0, r.start - self.context) // s * s, min(size, r.stop + self.context))
            for r, s, size in zip(region, self.stride, shape, strict=True)
        )

    def _infer(self, network: UNet, image: np.ndarray) -> np.ndarray:
        """Probabilities (classes, *spatial) in an image (channels, *spatial)."""
        pixels = torch.from_numpy(image)[None].to(self.device)
        if pixels.ndim == 4:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return probabilities(network(pixels)[0].float()).cpu().numpy()


def _split(flat: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Views of a flat array, one of each shape."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(flat, ends), shapes, strict=True)]


def _voxels(region: Region) -> int:
    return math.prod(s.stop - s.start for s in region)
