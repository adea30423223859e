"""Validation scores on held-out blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

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
from napari_unetseg.models.unet import UNet, probabilities
from napari_unetseg.runtime.devices import release_memory
from napari_unetseg.runtime.distributed import ProcessGroup
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.data.validation_split import LabelledPlane, ValidationBlock

Region = tuple[slice, ...]
MOST_VOXELS = 2**21
"""Planes of more voxels are scored block by block."""


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

    def score(self, network: UNet, probs: Sequence[float] | None = None) -> Scores | None:
        """Scores on the validation blocks; ``probs`` as in `soft_dice_of`.

        None without blocks, or where not even a block without context fits in memory.
        """
        while self.data.validated:
            try:
                return self._score(network, probs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            release_memory(self.device)
            if not self.context:
                break
            self.context //= 2
        return None

    @torch.inference_mode()
    def _score(self, network: UNet, of_classes: Sequence[float] | None) -> Scores:
        n, blocks = len(self.data.classes.numbers), len(self.data.validation_blocks())
        own = self.group.run_together(lambda: self._count(network.folded(), n))
        total = self.group.all_reduce(torch.from_numpy(own))
        self.group.broadcast([total])
        rows = total.numpy()
        counts, sums, losses = rows[:n].astype(np.int64), rows[n : 2 * n], rows[2 * n]
        soft = soft_dice_of(sums, of_classes)
        loss = loss_of(losses, counts.sum(1), of_classes)
        return scores_of(counts, self.data.classes, blocks, soft, loss)

    def _count(self, network: UNet, n: int) -> np.ndarray:
        """Sums over this process's blocks, (2n + 1, n): confusion, soft confusion, losses."""
        counts, sums, losses = np.zeros((n, n)), np.zeros((n, n)), np.zeros(n)
        for plane, block, probs in self._predicted(network):
            truth = plane.validate[block.region]
            counts += confusion(truth, probs.argmax(0), n)
            sums += soft_confusion(truth, probs)
            losses += log_losses(truth, probs)
        return np.concatenate([counts, sums, losses[None]])

    def _predicted(
        self, network: UNet
    ) -> Iterator[tuple[LabelledPlane, ValidationBlock, np.ndarray]]:
        """Probabilities (classes, *block) of each block; planes with many are predicted whole."""
        blocks = self.data.validation_blocks()
        planes = [list(group) for _, group in groupby(blocks, key=lambda found: id(found[0]))]
        for mine in self.group.shard(planes):
            plane = mine[0][0]
            shape = plane.validate.shape
            reads = [self._with_context(block.region, shape) for _, block in mine]
            whole = math.prod(shape)
            if whole <= min(MOST_VOXELS, sum(_voxels(r) for r in reads)):
                all_of_it = tuple(slice(0, s) for s in shape)
                probs = self._infer(network, plane, all_of_it)
                yield from ((plane, b, probs[(slice(None), *b.region)]) for _, b in mine)
                continue
            for (_, block), read in zip(mine, reads, strict=True):
                inner = tuple(
                    slice(b.start - r.start, b.stop - r.start)
                    for b, r in zip(block.region, read, strict=True)
                )
                yield plane, block, self._infer(network, plane, read)[(slice(None), *inner)]

    def _with_context(self, region: Region, shape: tuple[int, ...]) -> Region:
        return tuple(
            slice(max(0, r.start - self.context) // s * s, min(size, r.stop + self.context))
            for r, s, size in zip(region, self.stride, shape, strict=True)
        )

    def _infer(self, network: UNet, plane: LabelledPlane, read: Region) -> np.ndarray:
        image = torch.from_numpy(self.data.read(plane, read))[None].to(self.device)
        if image.ndim == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        return probabilities(network(image)[0].float()).cpu().numpy()


def _voxels(region: Region) -> int:
    return math.prod(s.stop - s.start for s in region)


def labelled_error(network: UNet, data: TrainingDataset, device: torch.device) -> float:
    """Fraction of the voxels labelled for training that a network gets wrong.

    1 where there is not enough memory to predict them.
    """
    try:
        return _labelled_error(network.folded(), data, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory(device)
    return 1.0


@torch.inference_mode()
def _labelled_error(network: UNet, data: TrainingDataset, device: torch.device) -> float:
    wrong, labelled = 0, 0
    for image, target in data.labelled_regions():
        pixels = torch.from_numpy(image)[None].to(device)
        truth = torch.from_numpy(target).to(device)
        inside = tuple(slice(0, size) for size in target.shape)
        logits = network(pixels)[0][(slice(None), *inside)]
        found = logits[0] > 0 if len(logits) == 1 else logits.argmax(0)
        known = truth != IGNORE_INDEX
        wrong += int((found != truth)[known].sum())
        labelled += int(known.sum())
    return wrong / max(1, labelled)
