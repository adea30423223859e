"""An answer to newer strokes: the model shown, moved towards them while its mask stays as good.

A training needs many steps until its averaged weights score better than the best so far. Somebody
who paints where the mask is wrong wants to see it change. So a copy of the model shown learns for a
few steps around what was painted; then weights on the line between the two are looked at.
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
"""Steps that the copy learns for, samples of each at most, and those of them with newer strokes."""
LOOKED_AT = 8
"""Samples around newer strokes that tell how well weights fit them."""
HALVINGS = 4
"""How closely it is looked for how far towards the copy it takes."""
SLACK = 0.02
"""By how much soft Dice may be lower: who was told to be wrong is less sure, also where it is
right. Dice itself must not be."""
FEW = 0.1
"""Share of newer voxels that may be wrong without an answer: the rim of a stroke is often beside
what it is meant for."""
STREAM = 2**20
"""Keeps the random numbers of answers apart from those of steps."""


def as_good(scores: Scores, than: Scores, soft_dice: float) -> bool:
    """Whether a mask may take the place of another one, both scored on the same blocks.

    Parameters
    ----------
    scores, than
        Of the new weights and of those shown: Dice of no structure may be lower.
    soft_dice
        The best that a model of this training had on these blocks: the new one may be lower by
        `SLACK` at most, however many answers came before.
    """
    pairs = zip(scores.dice, than.dice, strict=True)
    kept = all(math.isnan(old) or new >= old for new, old in pairs)
    return kept and scores.soft_dice >= soft_dice - SLACK


class StrokeAnswer:
    """A copy of a network that learns newer strokes.

    Parameters
    ----------
    trainer
        Has the data and the loss, with the teacher that the copy is held to. It is not changed.
    shown
        Weights of the model shown, where the copy begins.
    newer
        What was painted since, at least one voxel.
    number
        Which of a training's answers this is, for its random numbers.
    """

    def __init__(self, trainer: Trainer, shown: Weights, newer: VoxelIndices, number: int) -> None:
        self.trainer, self.shown, self.newer = trainer, shown, newer
        self._seed = [trainer.settings.seed, STREAM, number]
        self._ends = np.cumsum([len(places) for _, places in newer])
        self._samples = self._look()

    def _place(self, number: int) -> VoxelIndex:
        """A newer voxel, by its number."""
        which = int(np.searchsorted(self._ends, number, side="right"))
        plane, places = self.newer[which]
        return plane, int(places[number - self._ends[which]])

    def _look(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, *patch) around newer strokes, and targets (N, *patch) with these alone."""
        trainer, rng = self.trainer, np.random.default_rng(self._seed)
        images, targets = [], []
        only = {id(plane): np.full_like(plane.train, IGNORE_INDEX) for plane, _ in self.newer}
        for plane, places in self.newer:
            np.put(only[id(plane)], places, plane.train.reshape(-1)[places])
        for number in np.unique(np.linspace(0, self._ends[-1] - 1, LOOKED_AT).astype(int)):
            plane, anchor = self._place(int(number))
            image, target = trainer.data.crop_patch(
                plane, anchor, trainer.patch, rng, labels=only[id(plane)]
            )
            images.append(torch.from_numpy(image))
            targets.append(torch.from_numpy(target))
        return torch.stack(images).to(trainer.device), torch.stack(targets).to(trainer.device)

    @torch.inference_mode()
    def wrong(self, weights: Weights) -> float:
        """Share of the newer voxels that are looked at that these weights have wrong."""
        images, targets = self._samples
        network = self.trainer.network_of(weights).folded()
        logits = torch.cat([network(image[None]) for image in images])
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        known = targets != IGNORE_INDEX
        return float((logits.argmax(1) != targets)[known].float().mean())

    def learn(self, between: Callable[[], object]) -> Weights:
        """What the copy knows after its steps; ``between`` is called before each, and may raise."""
        trainer = self.trainer
        network = trainer.network_of(self.shown)
        for name, parameter in trainer.network.named_parameters():
            network.get_parameter(name).requires_grad_(parameter.requires_grad)
        network.train()
        for module in network.modules():  # as in prediction: so few samples measure nothing
            if isinstance(module, NORMS):
                module.eval()
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
        scaler = torch.amp.GradScaler(trainer.device.type, enabled=trainer.device.type == "cuda")
        for step in range(STEPS):
            between()
            rate = trainer.settings.learning_rate * trainer.lr_scale
            optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 3) * (1 - step / STEPS)
            loss = trainer.loss(network, self._key(step), *self._draw(step))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(trained, 12.0)
            scaler.step(optimizer)
            scaler.update()
        return trainer.copied(network)

    def _draw(self, step: int) -> Batch:
        """A batch: some of it around newer strokes, in turns where it is a single sample."""
        rng = np.random.default_rng([*self._seed, step])
        batch = min(self.trainer.batch, BATCH)
        newer = min(NEWER, batch // 2) or (step + 1) % 2
        places = [self._place(int(rng.integers(self._ends[-1]))) for _ in range(newer)]
        return self.trainer.sampler.batch(self._key(step), range(batch), places)

    def _key(self, step: int) -> tuple[int, int]:
        return STREAM + self._seed[-1], step

    def least(self, learned: Weights) -> Weights | None:
        """The weights nearest to the model shown that have half right of what that has wrong.

        They lie on the line to what was learned; None where not even that has so much right.
        """
        wrong = self.wrong(self.shown)
        if self.wrong(learned) > wrong / 2:
            return None
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = self.wrong(self._towards(learned, middle)) <= wrong / 2
            low, high = (low, middle) if enough else (middle, high)
        return self._towards(learned, high)

    def _towards(self, learned: Weights, share: float) -> Weights:
        """Weights on the line from the model shown to what was learned, which is at 1."""
        return {
            name: torch.lerp(value, learned[name], share) if value.is_floating_point() else value
            for name, value in self.shown.items()
        }
