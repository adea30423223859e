"""One network being trained: a step, a score, and the weights to keep."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_unetseg.core.augment import Augmenter, margin
from napari_unetseg.core.devices import is_out_of_memory, release_memory
from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.losses import class_weights, segmentation_loss
from napari_unetseg.core.metrics import Scores, confusion, scores_of, soft_confusion, soft_dice_of
from napari_unetseg.core.native import load_triton_apart
from napari_unetseg.core.unet import UNet, probabilities

if TYPE_CHECKING:
    from napari_unetseg.core.config import TrainSettings
    from napari_unetseg.core.plan import Plan
    from napari_unetseg.core.samples import Block, Plane, TrainingData

__all__ = ["Learner", "NotFiniteError"]

AVERAGE = 0.98
"""Share of the averaged weights that a step leaves as they are."""
SMALLEST_PATCH = 32
Weights = dict[str, Tensor]


class NotFiniteError(Exception):
    """The loss of a step or its gradient was no number; the weights were not changed."""


class Learner:
    """A network, its optimiser (Adam, Kingma and Ba 2015) and its averaged weights."""

    def __init__(
        self,
        data: TrainingData,
        plan: Plan,
        settings: TrainSettings,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        load_triton_apart()
        self.settings, self.device = settings, device
        self.patch, self.batch = plan.patch, plan.batch
        with seeded(settings.seed, 0, device):
            self.network = UNet(**plan.net.model_dump())
        if weights is not None:
            self.network.load_state_dict(dict(weights))
        self.network.to(device)
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.augment = Augmenter(settings.augment, data.dims)
        self.use(data)
        self.continued = weights is not None
        self.steps = 0
        self.damping = 1.0
        self.context = max(self.network.receptive_field) // 2
        self._freeze()
        self._new_optimizer()

    def use(self, data: TrainingData) -> None:
        """Train and score on these data from now on."""
        self.data = data
        weights = class_weights(torch.from_numpy(data.counts)) if self.settings.balance else None
        self.class_weights = weights if weights is None else weights.to(self.device)

    def _freeze(self) -> None:
        if self.settings.freeze_encoder and self.continued:
            self.network.encoder.requires_grad_(False)

    def _new_optimizer(self) -> None:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=self.settings.learning_rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.device.type == "cuda")

    # -- a step ------------------------------------------------------------------------------------

    def step(self, rate: float) -> float:
        """One optimiser step at ``rate`` times the learning rate; returns the loss.

        Raises
        ------
        NotFiniteError
            The loss or its gradient is NaN or infinite.
        """
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate * self.damping
        self.network.train()
        if self.settings.freeze_encoder and self.continued:
            self.network.encoder.eval()
        with seeded(self.settings.seed, self.steps, self.device):
            images, targets = self._draw()
            with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
                logits = self.network(images.to(self.device))
            loss = segmentation_loss(
                logits, targets.to(self.device), self.class_weights, dice=self.settings.dice
            )
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFiniteError
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        length = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        if not self.scaler.is_enabled() and not math.isfinite(float(length)):
            raise NotFiniteError  # with mixed precision the scaler leaves such a step out
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average()
        return value

    def _draw(self) -> tuple[Tensor, Tensor]:
        """A batch (N, C, *patch) and its targets (N, *patch)."""
        rng = np.random.default_rng([self.settings.seed, self.steps])
        factor = margin(self.settings.augment, self.data.dims)
        cut = tuple(math.ceil(p * factor) for p in self.patch)
        images, targets = [], []
        for _ in range(self.batch):
            image, target = self.data.draw(cut, rng, self.patch)
            x, y = self.augment(torch.from_numpy(image), torch.from_numpy(target), self.patch)
            images.append(x)
            targets.append(y)
        return torch.stack(images), torch.stack(targets)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the newest ones; a new network's faster at first."""
        early = 1.0 if self.continued else self.steps / (self.steps + 10)
        keep = min(AVERAGE, early) if self.settings.average else 0.0
        newest = self.network.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(newest[name], 1.0 - keep)
            else:
                value.copy_(newest[name])

    # -- what was learned --------------------------------------------------------------------------

    def weights(self) -> Weights:
        """A copy of the averaged weights, on the CPU."""
        return {n: t.detach().cpu().clone() for n, t in self.averaged.state_dict().items()}

    def restore(self, weights: Weights) -> None:
        """Go back to earlier weights after a failed step, and on with a tenth of the rate."""
        for network in (self.network, self.averaged):
            network.load_state_dict(weights)
        self.damping /= 10.0
        self._new_optimizer()

    def shrink(self) -> str:
        """Take less memory a step; say how. Raises `TrainingError` when nothing is left to cut."""
        self.optimizer.zero_grad(set_to_none=True)
        self._new_optimizer()  # a step that was cut off leaves optimiser and scaler half done
        release_memory(self.device)
        if self.batch > 1:
            self.batch //= 2
            return f"Not enough memory: going on with {self.batch} patch(es) a step."
        least = [max(SMALLEST_PATCH, 2 * s) for s in self.network.stride]
        smaller = tuple(
            max(min(p, low), math.ceil(p / 2 / s) * s)
            for p, low, s in zip(self.patch, least, self.network.stride, strict=True)
        )
        if smaller == self.patch:
            raise TrainingError(
                "There is not enough memory for even the smallest patch; close other programs, or "
                "choose a smaller width or depth under Advanced."
            )
        self.patch = smaller
        return f"Not enough memory: going on with patches of {' × '.join(map(str, smaller))}."

    def score(self) -> Scores | None:
        """Scores of the averaged weights on the validation blocks.

        None where there are none, or where not even a block without its context fits in memory.
        """
        while self.data.validated:
            try:
                return self._score()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            release_memory(self.device)
            if not self.context:
                break
            self.context //= 2
        return None

    @torch.inference_mode()
    def _score(self) -> Scores:
        blocks = self.data.validation_blocks()
        n = len(self.data.classes.numbers)
        counts, sums = np.zeros((n, n), np.int64), np.zeros((n, n))
        for plane, block in blocks:
            truth, shares = plane.validate[block.region], self._predict_block(plane, block)
            counts += confusion(truth, shares.argmax(0), n)
            sums += soft_confusion(truth, shares)
        return scores_of(counts, self.data.classes, len(blocks), soft_dice_of(sums))

    def _predict_block(self, plane: Plane, block: Block) -> np.ndarray:
        """Probabilities (classes, *block) of a block, which is seen with some context."""
        read = tuple(
            slice(max(0, r.start - self.context) // s * s, min(size, r.stop + self.context))
            for r, s, size in zip(
                block.region, self.network.stride, plane.validate.shape, strict=True
            )
        )
        image = torch.from_numpy(self.data.read(plane, read))[None].to(self.device)
        shares = probabilities(self.averaged(image)[0].float())
        inner = tuple(
            slice(b.start - r.start, b.stop - r.start)
            for b, r in zip(block.region, read, strict=True)
        )
        return shares[(slice(None), *inner)].cpu().numpy()


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """PyTorch's random numbers follow from seed and step; elsewhere they go on as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        yield
