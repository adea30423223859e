"""One network being trained: a step, a score, and the weights to keep."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.models.encoder_weights import load_encoder
from napari_unetseg.models.registry import build
from napari_unetseg.models.unet import NORMS
from napari_unetseg.runtime.cpu import default_threads
from napari_unetseg.runtime.devices import release_memory
from napari_unetseg.runtime.distributed import ProcessGroup
from napari_unetseg.runtime.llvm_isolation import load_triton_apart
from napari_unetseg.training.augmentation import Augmenter
from napari_unetseg.training.batch_sampler import Batch, Key, Prefetcher, Sampler, seeded
from napari_unetseg.training.distillation import HELD_OUT, Teacher
from napari_unetseg.training.linear_probe import LinearProbe, load_backbone, recalibrate_batchnorm
from napari_unetseg.training.losses import (
    LOSSES,
    TINY,
    LossInputs,
    Means,
    WeightInputs,
    class_weights,
    weighted_sum,
)
from napari_unetseg.training.validation import Validator

if TYPE_CHECKING:
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.models.unet import UNet
    from napari_unetseg.training.training_plan import TrainingPlan

EMA_DECAY = 0.99
"""Share of the averaged weights that a step leaves as they are."""
EMA_DECAY_FROM_INIT = 0.97
"""The same in the first steps of a training that goes on, so that new strokes show in seconds."""
FULL_LR_VOXELS, MIN_LR_SCALE = 16_000, 0.2
"""Labelled voxels from which a pretrained network learns at the full rate: with fewer it is changed
less, as the square root of their number, since it would learn them by heart."""
EDGE_RAMP_STEPS = 200
"""Steps after which a network whose decoder began with random weights is drawn to edges in full."""
CHANNELS_LAST_DEVICES = ("cpu", "cuda")
"""Devices that train faster with channels last and a fused optimiser. On MPS some norms learn
wrongly from channels last (https://github.com/pytorch/pytorch/issues/175189)."""
PREFETCHING, MOST_THREADS = ("cuda",), 4
"""Devices on which samples are drawn beside a step, and by how many threads at most: on a CPU the
step itself needs them."""
SMALLEST_PATCH = 32
Weights = dict[str, Tensor]


class NotFiniteError(Exception):
    """The loss of a step or its gradient was no number; the weights were not changed."""


class Trainer:
    """A network, its optimiser (AdamW, Loshchilov and Hutter 2019) and its averaged weights.

    Of several processes each has the same network, and learns from its share of the samples.
    """

    def __init__(
        self,
        data: TrainingDataset,
        plan: TrainingPlan,
        settings: TrainSettings,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
        shares: tuple[float, ...] | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        load_triton_apart()
        self.group = group or ProcessGroup(device)
        self.settings, self.device = settings, device
        self.patch, self.batch = plan.patch, plan.batch
        with seeded(device, settings.seed, 0):
            self.network = build(plan.net)
        self.from_init = weights is not None
        if weights is None and settings.pretrained:
            weights = load_backbone(plan.net)
        self.pretrained = self.frozen_batchnorm = self.decoder_pretrained = weights is not None
        self.shares = shares
        if weights is not None:
            self.network.load_state_dict(dict(weights), strict=self.from_init)
        if not self.from_init and settings.encoder_weights is not None:
            load_encoder(self.network, settings.encoder_weights)
            self.pretrained = True
        self.frozen = settings.freeze_encoder and (
            self.from_init or settings.encoder_weights is not None
        )
        last = data.dims == 2 and device.type in CHANNELS_LAST_DEVICES
        self.layout = torch.channels_last if last else torch.contiguous_format
        self.network.to(device).to(memory_format=self.layout)
        self.ema_network = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.teacher: Teacher | None = None
        self.augment = Augmenter(settings.augment, data.dims)
        ahead = device.type in PREFETCHING
        self.prefetcher = Prefetcher(min(MOST_THREADS, default_threads()) if ahead else 0)
        self.validator = Validator(data, self.network, device, self.group)
        self.use(data)
        self.steps = 0
        self._parallel: nn.Module | None = None
        self._rehearsed: tuple[int, tuple[int, ...]] | None = None
        self.follows_from = 0 if self.from_init else None
        self.lr_backoff = 1.0
        self._freeze()
        self._new_optimizer()

    def use(self, data: TrainingDataset) -> None:
        """Train and score on these data from now on."""
        self.data = self.validator.data = data
        self._set_class_weights()
        self.label_amount = min(
            1.0, max(MIN_LR_SCALE, math.sqrt(data.train_voxels / FULL_LR_VOXELS))
        )
        self.lr_scale = self.label_amount if self.pretrained else 1.0

    def teacher_of(self, weights: Weights, seen: Collection[str]) -> Teacher | None:
        """What these weights say of images with these fingerprints, or with corrections.

        Their mask could be seen, so that what was painted since is where it was wrong. None where
        the settings ask for no teacher.
        """
        hold = self.settings.distillation_weight
        return Teacher(self.network_of(weights), self.data, seen) if hold else None

    def distill_from(self, teacher: Teacher | None) -> None:
        """Hold on to what a teacher says; the averaged weights follow faster for some steps."""
        self.teacher, self.follows_from = teacher, self.steps

    def _set_class_weights(self) -> None:
        """Weigh the classes by what is labelled and by what they are thought to cover."""
        self.class_weights = None
        if self.settings.class_weighting:
            shares = None if self.shares is None else torch.tensor(self.shares)
            weights = class_weights(torch.from_numpy(self.data.counts), shares)
            self.class_weights = weights.to(self.device)

    def fit_head(self, *, recalibrate: bool, between: Callable[[], object] = lambda: None) -> None:
        """Give an answer without a step: fit the last layer to the labelled voxels.

        ``recalibrate`` first measures the batch norms on these images. ``between`` is called before
        each image, and may raise to end it.
        """
        with seeded(self.device, self.settings.seed, 0):
            samples = []
            for pair in self.data.labelled_regions():
                between()
                samples.append(tuple(torch.from_numpy(array).to(self.device) for array in pair))

            def each() -> Iterator[tuple[Tensor, Tensor]]:
                for image, target in samples:
                    between()
                    yield image, target

            if recalibrate:
                frozen = self.network.encoder if self.frozen else None
                recalibrate_batchnorm(self.network, (image for image, _ in each()), frozen)
            head = LinearProbe(self.network, each())
            self.shares = None
            self._set_class_weights()
            head.fit(self.class_weights)
            if self.settings.class_weighting and head.complete:
                self.shares = tuple(head.class_shares().tolist())
                self._set_class_weights()
                head.fit(self.class_weights)
        self.ema_network.load_state_dict(self.network.state_dict())

    def broadcast_fitted_head(self) -> None:
        """Take over what the first process has found with `fit_head`."""
        self.group.broadcast(self.network.state_dict().values())
        classes = len(self.data.classes.numbers)
        mine = self.shares or (math.nan,) * classes
        shares = self.group.broadcast_numbers(*mine)
        self.shares = None if math.isnan(shares[0]) else shares
        self._set_class_weights()
        self.ema_network.load_state_dict(self.network.state_dict())
        self.frozen_batchnorm = self.pretrained

    def undo_fit(self) -> None:
        """Be as before `fit_head`, which did not come to its end."""
        self.network.load_state_dict(self.ema_network.state_dict())
        self.shares = None
        self._set_class_weights()
        release_memory(self.device)

    def _freeze(self) -> None:
        if self.frozen:
            self.network.encoder.requires_grad_(False)

    def _new_optimizer(self) -> None:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True if self.device.type in CHANNELS_LAST_DEVICES else None,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.device.type == "cuda")

    def _set_mode(self) -> None:
        """Train; the norms of pretrained weights stay as they were measured, as in prediction."""
        self.network.train()
        if self.frozen:
            self.network.encoder.eval()
        if self.frozen_batchnorm:
            for module in self.network.modules():
                if isinstance(module, NORMS):
                    module.eval()

    # -- a step ------------------------------------------------------------------------------------

    def step(self, rate: float) -> dict[str, float]:
        """One optimiser step at ``rate`` times the learning rate; returns the terms of the loss.

        The terms, by name, are weighted and are means over all processes.

        Raises
        ------
        NotFiniteError
            The loss or its gradient is NaN or infinite.
        """
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate * self.lr_backoff * self.lr_scale
        self._set_mode()
        batch = self._draw()
        self._rehearse(batch)
        network = self._data_parallel()
        key = (self.steps,)
        means = self._run(lambda: self._means(network, key, self.batch, *batch))
        loss, losses = self._loss(means)
        self.optimizer.zero_grad(set_to_none=True)
        with self.group.connected():
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        length = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        if not self.scaler.is_enabled() and not math.isfinite(float(length)):
            raise NotFiniteError  # with mixed precision the scaler leaves such a step out
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not (self.group.alone or self.frozen_batchnorm or self._sync_batchnorm):
            self.group.broadcast(self.network.buffers())
        self._update_ema()
        return losses

    def _rehearse(self, batch: Batch) -> None:
        """Take the first step of a size on a copy, without the other processes.

        What does not fit into the memory of one is made smaller by all, which a backward pass that
        exchanges gradients does not allow.
        """
        if self.group.alone or self._rehearsed == (self.batch, self.patch):
            return
        copied = copy.deepcopy(self.network)

        def work() -> None:
            means = self._means(copied, (self.steps,), self.batch, *batch)
            weighted_sum(means).backward()  # type: ignore[no-untyped-call]

        self.group.run_together(work)
        self._rehearsed = self.batch, self.patch

    def _data_parallel(self) -> nn.Module:
        """The network that averages gradients over the processes; made at the first step."""
        if self._parallel is None:
            self._parallel = self.group.wrap(self.network, sync_batchnorm=self._sync_batchnorm)
        return self._parallel

    @property
    def _sync_batchnorm(self) -> bool:
        """Whether batch norms see the samples of all processes; PyTorch can on GPUs alone."""
        return not self.frozen_batchnorm and self.device.type == "cuda"

    def _run(self, work: Callable[[], Means]) -> Means:
        """Do a forward pass; with `SyncBatchNorm` it communicates and cannot be tried again."""
        if not self._sync_batchnorm:
            return self.group.run_together(work)
        with self.group.connected():
            return work()

    def loss(
        self, network: UNet, key: Key, images: Tensor, targets: Tensor, held: Tensor
    ) -> Tensor:
        """The loss of a network on a `Batch` of this process alone."""
        means = self._means(network, key, len(images), images, targets, held)
        return weighted_sum(means)

    def _means(
        self,
        network: nn.Module,
        key: Key,
        batch: int,
        images: Tensor,
        targets: Tensor,
        held: Tensor,
    ) -> Means:
        """Weight and mean of each loss term on this process's samples.

        ``batch`` is the number of samples in all processes.
        """
        teacher = self.teacher if held.any() else None
        images = images.to(self.device, memory_format=self.layout)
        marked, held = targets.to(self.device), held.to(self.device)
        targets = marked.masked_fill(marked == HELD_OUT, IGNORE_INDEX) if teacher else marked
        seed = self.settings.seed
        with (
            seeded(self.device, seed, *key, batch + 1 + self.group.world.rank),
            torch.autocast(self.device.type, enabled=self.device.type == "cuda"),
        ):
            logits = network(images)
            said = teacher(images[held]) if teacher else None
        distilled = None if said is None else (logits[held], said, marked[held])
        inputs = LossInputs(images, logits, targets, self.class_weights, distilled)
        weights = self.loss_weights(self._edge_ramp())
        with seeded(self.device, seed, *key, batch):  # the same in all processes
            return {t.name: (weights[t.name], t.value(inputs)) for t in LOSSES if weights[t.name]}

    def _loss(self, means: Means) -> tuple[Tensor, dict[str, float]]:
        """The loss to learn from, and its terms over all processes.

        Gradients are averaged over the processes, so that each mean is weighted by this process's
        part of what it is a mean over.

        Raises
        ------
        NotFiniteError
            The loss is NaN or infinite.
        """
        values = torch.stack([weight * mean.value for weight, mean in means.values()])
        if not self.group.alone:
            parts = torch.stack([mean.weight for _, mean in means.values()]).detach()
            sums, totals = self.group.all_reduce(torch.stack([values * parts, parts]))
            totals = totals.clamp(min=TINY)
            values = values * parts * self.group.world.size / totals
        found = values.detach() if self.group.alone else sums / totals
        losses = dict(zip(means, found.tolist(), strict=True))
        if not all(map(math.isfinite, losses.values())):
            raise NotFiniteError
        return values.sum(), losses

    def loss_weights(self, edge_ramp: float = 1.0) -> dict[str, float]:
        """Weight of each term of the loss; less of the edges with few labels or full masks."""
        strokes, teacher = self.data.has_strokes, self.teacher is not None
        given = WeightInputs(self.settings, self.label_amount, edge_ramp, strokes, teacher)
        return {term.name: term.weight(given) for term in LOSSES}

    def _edge_ramp(self) -> float:
        """0 to 1: a network with random weights would give every voxel the same class."""
        return 1.0 if self.decoder_pretrained else min(1.0, self.steps / EDGE_RAMP_STEPS)

    @property
    def sampler(self) -> Sampler:
        """Draws samples of what is trained on now."""
        return Sampler(self.data, self.teacher, self.augment, self.settings, self.patch)

    def _draw(self) -> Batch:
        """This process's share of a step's batch."""
        numbers = self.group.shard(range(self.batch))
        return self.prefetcher.batch(self.sampler, self.steps, numbers)

    def close(self) -> None:
        """End the threads that draw samples."""
        self.prefetcher.close()

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Move the averaged weights towards the newest ones, faster at first."""
        keep = min(EMA_DECAY, self._ema_warmup_decay()) if self.settings.ema else 0.0
        newest = self.network.state_dict()
        for name, value in self.ema_network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(newest[name], 1.0 - keep)
            else:
                value.copy_(newest[name])

    def _ema_warmup_decay(self) -> float:
        """As `EMA_DECAY`, for the first steps: a model that goes on is changed with more care."""
        if self.follows_from is not None:
            steps = self.steps - self.follows_from
            return max(EMA_DECAY_FROM_INIT, steps / (steps + 3))
        return self.steps / (self.steps + 10)

    # -- what was learned --------------------------------------------------------------------------

    def weights(self) -> Weights:
        """A copy of the averaged weights, on the CPU."""
        return self.copied(self.ema_network)

    def copied(self, network: UNet) -> Weights:
        """A copy of a network's weights, on the CPU."""
        plain, state = torch.contiguous_format, network.state_dict().items()
        return {n: t.detach().cpu().clone(memory_format=plain) for n, t in state}

    def network_of(self, weights: Weights) -> UNet:
        """A network with these weights, on the device, for prediction."""
        network = copy.deepcopy(self.ema_network)
        network.load_state_dict(weights)
        return network

    def restore(self, weights: Weights) -> None:
        """Go back to earlier weights after a failed step, and on with a tenth of the rate."""
        for network in (self.network, self.ema_network):
            network.load_state_dict(weights)
        self.lr_backoff /= 10.0
        self._new_optimizer()

    def shrink(self) -> str:
        """Take less memory a step; say how. Raises `TrainingError` when nothing is left to cut."""
        self.optimizer.zero_grad(set_to_none=True)
        self._new_optimizer()  # a step that was cut off leaves optimiser and scaler half done
        release_memory(self.device)
        if self.batch > self.group.world.size:
            self.batch = max(self.group.world.size, self.batch // 2)
            return f"Not enough memory: continuing with {self.batch} patch(es) per step."
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
        return f"Not enough memory: continuing with patches of {' × '.join(map(str, smaller))}."

    def score(self, weights: Weights | None = None) -> Scores | None:
        """Scores of these weights, or of the averaged ones, on the validation blocks if any."""
        network = self.ema_network if weights is None else self.network_of(weights)
        return self.validator.score(network, self.shares)
