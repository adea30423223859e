"""Fast adaptation of the shown model to newer strokes.

EMA weights take many steps to beat the best checkpoint, but a painter wants to see the mask change.
So a copy of the shown model is trained briefly around the newer strokes; then weights interpolated
between the two are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.models.unet import NORMS

if TYPE_CHECKING:
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.data.validation_split import VoxelIndex, VoxelIndices
    from napari_unetseg.training.batch_sampler import Batch
    from napari_unetseg.training.trainer import Trainer, Weights

STEPS, BATCH, NEWER = 8, 4, 2
"""Steps of the copy, its largest batch, and samples with newer strokes in a batch."""
EVALUATED_CROPS = 8
"""Crops around newer strokes on which weights are evaluated."""
BISECTIONS = 4
"""Bisection steps of the interpolation weight."""
SLACK = 0.02
"""Soft Dice may be lower by this much, since corrected models are less certain; Dice may not."""
TOLERATED_ERROR = 0.1
"""Fraction of newer voxels that may be wrong without adaptation, since stroke rims are imprecise.
"""
STREAM = 2**20
"""Separates the random numbers of adaptations from those of steps."""


def no_worse(scores: Scores, than: Scores, soft_dice: float) -> bool:
    """Whether new weights may replace the shown ones, scored on the same blocks.

    Parameters
    ----------
    scores, than
        Of the new and of the shown weights: Dice of no structure may be lower.
    soft_dice
        Best value of this training; the new one may be lower by `SLACK` at most, so that repeated
        adaptations do not add up.
    """
    pairs = zip(scores.dice, than.dice, strict=True)
    kept = all(math.isnan(old) or new >= old for new, old in pairs)
    return kept and scores.soft_dice >= soft_dice - SLACK


class StrokeAdaptation:
    """A copy of the shown network that is trained on newer strokes.

    Parameters
    ----------
    trainer
        Provides data and loss; it is not changed.
    shown
        Weights of the shown model.
    newer
        Newly labelled voxels, at least one.
    number
        Number of this adaptation in the training, for its random numbers.
    """

    def __init__(self, trainer: Trainer, shown: Weights, newer: VoxelIndices, number: int) -> None:
        self.trainer, self.shown, self.newer = trainer, shown, newer
        self._seed = [trainer.settings.seed, STREAM, number]
        self._ends = np.cumsum([len(indices) for _, indices in newer])
        self._samples = self._crops()

    def _voxel(self, number: int) -> VoxelIndex:
        which = int(np.searchsorted(self._ends, number, side="right"))
        plane, indices = self.newer[which]
        return plane, int(indices[number - self._ends[which]])

    def _crops(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, *patch) around newer strokes, targets (N, *patch) of newer labels alone."""
        trainer, rng = self.trainer, np.random.default_rng(self._seed)
        images, targets = [], []
        only = {id(plane): np.full_like(plane.train, IGNORE_INDEX) for plane, _ in self.newer}
        for plane, indices in self.newer:
            np.put(only[id(plane)], indices, plane.train.reshape(-1)[indices])
        for number in np.unique(np.linspace(0, self._ends[-1] - 1, EVALUATED_CROPS).astype(int)):
            plane, anchor = self._voxel(int(number))
            image, target = trainer.data.crop_patch(
                plane, anchor, trainer.patch, rng, labels=only[id(plane)]
            )
            images.append(torch.from_numpy(image))
            targets.append(torch.from_numpy(target))
        return torch.stack(images).to(trainer.device), torch.stack(targets).to(trainer.device)

    @torch.inference_mode()
    def wrong(self, weights: Weights) -> float:
        """Fraction of the sampled newer voxels that these weights get wrong."""
        images, targets = self._samples
        network = self.trainer.network_of(weights).folded()
        logits = torch.cat([network(image[None]) for image in images])
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        known = targets != IGNORE_INDEX
        return float((logits.argmax(1) != targets)[known].float().mean())

    def learn(self, between: Callable[[], object]) -> Weights:
        """Weights after `STEPS` steps; ``between`` is called before each, and may raise."""
        trainer = self.trainer
        network = trainer.network_of(self.shown)
        for name, parameter in trainer.network.named_parameters():
            network.get_parameter(name).requires_grad_(parameter.requires_grad)
        network.train()
        for module in network.modules():  # so few samples give no batch statistics
            if isinstance(module, NORMS):
                module.eval()
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
        scaler = torch.amp.GradScaler(trainer.device.type, enabled=trainer.device.type == "cuda")
        for step in range(STEPS):
            between()
            rate = trainer.settings.learning_rate * trainer.lr_scale
            optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 3) * (1 - step / STEPS)
            loss = trainer.loss(network, self._key(step), *self._batch(step))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(trained, 12.0)
            scaler.step(optimizer)
            scaler.update()
        return trainer.copied(network)

    def _batch(self, step: int) -> Batch:
        """A batch with some samples around newer strokes; of size 1, every other step."""
        rng = np.random.default_rng([*self._seed, step])
        batch = min(self.trainer.batch, BATCH)
        newer = min(NEWER, batch // 2) or (step + 1) % 2
        indices = [self._voxel(int(rng.integers(self._ends[-1]))) for _ in range(newer)]
        return self.trainer.sampler.batch(self._key(step), range(batch), indices)

    def _key(self, step: int) -> tuple[int, int]:
        return STREAM + self._seed[-1], step

    def smallest_change(self, learned: Weights) -> Weights | None:
        """The interpolated weights nearest to the shown ones that halve their errors, or None."""
        wrong = self.wrong(self.shown)
        if self.wrong(learned) > wrong / 2:
            return None
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            enough = self.wrong(self._towards(learned, middle)) <= wrong / 2
            low, high = (low, middle) if enough else (middle, high)
        return self._towards(learned, high)

    def _towards(self, learned: Weights, weight: float) -> Weights:
        """Linear interpolation from the shown weights (0) to the trained copy (1)."""
        return {
            name: torch.lerp(value, learned[name], weight) if value.is_floating_point() else value
            for name, value in self.shown.items()
        }
