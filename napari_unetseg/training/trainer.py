"""Training step, EMA and validation score of one network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
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
from napari_unetseg.training.batch_sampler import (
    FOCUS_RATE,
    RECENT_RATE,
    Batch,
    Focus,
    Prefetcher,
    Sampler,
    seeded,
)
from napari_unetseg.training.distillation import HELD_OUT, Distillation
from napari_unetseg.training.linear_probe import load_backbone
from napari_unetseg.training.losses import (
    LOSSES,
    TINY,
    LossInputs,
    Means,
    WeightInputs,
    class_weights,
)
from napari_unetseg.training.validation import Validation, Validator

if TYPE_CHECKING:
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.data.validation_split import VoxelIndices
    from napari_unetseg.models.unet import UNet
    from napari_unetseg.training.training_plan import TrainingPlan

EMA_DECAY = 0.99
"""Fraction of the EMA weights that a step keeps."""
EMA_DECAY_FROM_INIT = 0.97
"""The same in the first steps from an initial model, so that new strokes show in seconds."""
FOCUS_STEPS = 25
"""Steps after newer strokes in which more of the samples are drawn to them."""
FULL_LR_VOXELS, MIN_LR_SCALE = 16_000, 0.2
"""Labelled voxels from which pretrained weights train at the full learning rate; with fewer it is
scaled by the square root of their number, against overfitting.
"""
MIN_LR_SEPARABLE = 0.2
"""Least fraction of the learning rate where pretrained features do not tell the classes apart."""
EDGE_RAMP_STEPS = 200
"""Steps over which the edge loss rises to its full weight from random decoder weights."""
CHANNELS_LAST_DEVICES = ("cpu", "cuda")
"""Devices that train faster with channels last and a fused optimiser; on MPS some norms are wrong
with channels last (https://github.com/pytorch/pytorch/issues/175189).
"""
PREFETCHING, MOST_THREADS = ("cuda",), 4
"""Devices on which batches are prefetched, and the most threads; on a CPU the step needs them."""
SMALLEST_PATCH = 32
Weights = dict[str, Tensor]


class NotFiniteError(Exception):
    """The loss or its gradient is NaN or infinite; the weights were not changed."""


class Trainer:
    """A network, its optimiser (AdamW, Loshchilov and Hutter 2019) and its EMA.

    Under torchrun each process has the same network and its shard of the samples.
    """

    def __init__(
        self,
        data: TrainingDataset,
        plan: TrainingPlan,
        settings: TrainSettings,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
        class_priors: tuple[float, ...] | None = None,
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
        self.class_priors, self.separable = class_priors, 1.0
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
        self.distillation: Distillation | None = None
        self.augment = Augmenter(settings.augment, data.dims)
        ahead = device.type in PREFETCHING
        self.prefetcher = Prefetcher(min(MOST_THREADS, default_threads()) if ahead else 0)
        self.validator = Validator(data, self.network, device, self.group)
        self.use(data)
        self.steps = 0
        self._parallel: nn.Module | None = None
        self._rehearsed: tuple[int, tuple[int, ...]] | None = None
        self.ema_restart = 0 if self.from_init else None
        self._focus_until = 0
        self.lr_backoff = 1.0
        if self.frozen:
            self.network.encoder.requires_grad_(False)
        self._new_optimizer()

    def use(self, data: TrainingDataset) -> None:
        """Train and validate on this dataset from now on, whichever strokes are newer."""
        self.data = self.validator.data = data
        self.focus: Focus | None = None  # its voxels are of earlier labels
        self.use_priors(self.class_priors)
        self.label_amount = min(
            1.0, max(MIN_LR_SCALE, math.sqrt(data.train_voxels / FULL_LR_VOXELS))
        )

    @property
    def learns_maps(self) -> bool:
        """Whether the network has object maps."""
        return self.network.maps_head is not None

    @property
    def lr_scale(self) -> float:
        """What of the learning rate the labels allow pretrained features, up to 1.

        Few labels, or labels that these features do not tell apart, such as strokes at an earlier
        mask's mistakes, would soon be learned by heart.
        """
        if not self.pretrained:
            return 1.0
        return self.label_amount * max(MIN_LR_SEPARABLE, self.separable)

    def distillation_of(self, weights: Weights, seen: Collection[str]) -> Distillation | None:
        """Distillation of these weights in images with these fingerprints, or with corrections.

        None where the settings switch it off.
        """
        hold = self.settings.distillation_weight
        return Distillation(self.network_of(weights), self.data, seen) if hold else None

    def distill_from(self, distillation: Distillation | None) -> None:
        """Distil an earlier model; the EMA is faster for some steps."""
        self.distillation, self.ema_restart = distillation, self.steps

    def focus_on(self, newer: VoxelIndices) -> None:
        """Draw samples to newer strokes for some steps, in which the EMA is faster."""
        self.focus, self._focus_until = Focus(newer), self.steps + FOCUS_STEPS
        self.ema_restart = self.steps

    def use_priors(self, class_priors: tuple[float, ...] | None) -> None:
        """Weight the classes by these priors; None: by their labels alone."""
        self.class_priors, self.class_weights = class_priors, None
        if self.settings.class_weighting:
            priors = None if class_priors is None else torch.tensor(class_priors)
            weights = class_weights(torch.from_numpy(self.data.counts), priors)
            self.class_weights = weights.to(self.device)

    def broadcast_fitted_head(self) -> None:
        """Copy the main process's fitted initial model to all."""
        self.group.broadcast(self.network.state_dict().values())
        classes = len(self.data.classes.numbers)
        mine = self.class_priors or (math.nan,) * classes
        self.separable, *class_priors = self.group.broadcast_numbers(self.separable, *mine)
        self.use_priors(None if math.isnan(class_priors[0]) else tuple(class_priors))
        self.ema_network.load_state_dict(self.network.state_dict())
        self.frozen_batchnorm = self.pretrained

    def undo_fit(self) -> None:
        """Restore the state before the fit of an initial model, which was interrupted."""
        self.network.load_state_dict(self.ema_network.state_dict())
        self.separable = 1.0
        self.use_priors(None)

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
        """Training mode; pretrained batch norms keep their statistics, as in prediction."""
        self.network.train()
        if self.frozen:
            self.network.encoder.eval()
        if self.frozen_batchnorm:
            for module in self.network.modules():
                if isinstance(module, NORMS):
                    module.eval()

    # -- a step ------------------------------------------------------------------------------------

    def step(self, rate: float) -> dict[str, float]:
        """Do one step at ``rate`` times the learning rate; return the weighted loss terms.

        They are means over all processes, by name.

        Raises
        ------
        NotFiniteError
            The loss or its gradient is NaN or infinite.
        """
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate * self.lr_backoff * self.lr_scale
        self._set_mode()
        numbers = self.group.shard(range(self.batch))
        batch = self.prefetcher.batch(self.sampler, self.steps, numbers)
        self._rehearse(batch)
        network = self._data_parallel()
        means = self._run(lambda: self._means(network, *batch))
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

        Out of memory in one process must shrink the batch in all, which is impossible inside a
        backward pass that exchanges gradients.
        """
        if self.group.alone or self._rehearsed == (self.batch, self.patch):
            return
        copied = copy.deepcopy(self.network)

        def work() -> None:
            terms = self._means(copied, *batch).values()
            torch.stack([w * mean.value for w, mean in terms]).sum().backward()  # type: ignore[no-untyped-call]

        self.group.run_together(work)
        self._rehearsed = self.batch, self.patch

    def _data_parallel(self) -> nn.Module:
        """The network that averages gradients over the processes; made at the first step."""
        if self._parallel is None:
            self._parallel = self.group.wrap(self.network, sync_batchnorm=self._sync_batchnorm)
        return self._parallel

    @property
    def _sync_batchnorm(self) -> bool:
        """Whether batch norms see all processes' samples; PyTorch can on GPUs alone."""
        return not self.frozen_batchnorm and self.device.type == "cuda"

    def _run(self, work: Callable[[], Means]) -> Means:
        """Run a forward pass; with `SyncBatchNorm` it communicates and cannot be repeated."""
        if not self._sync_batchnorm:
            return self.group.run_together(work)
        with self.group.connected():
            return work()

    def _means(self, network: nn.Module, images: Tensor, targets: Tensor, distil: Tensor) -> Means:
        """Weight and mean of each loss term on this process's samples of the step."""
        distillation = self.distillation if distil.any() else None
        images = images.to(self.device, memory_format=self.layout)
        targets, maps = targets.to(self.device), None
        if self.learns_maps:
            targets, maps = targets[:, 0], targets[:, 1:]
        labels, distil = targets, distil.to(self.device)
        targets = labels.masked_fill(labels == HELD_OUT, IGNORE_INDEX) if distillation else labels
        seed = self.settings.seed, self.steps
        with (
            seeded(self.device, *seed, self.batch + 1 + self.group.world.rank),
            torch.autocast(self.device.type, enabled=self.device.type == "cuda"),
        ):
            logits = network(images, **({"maps": True} if self.learns_maps else {}))
            earlier_logits = distillation(images[distil]) if distillation else None
        classes = self.data.classes.out_channels
        logits, predicted_maps = logits[:, :classes], logits[:, classes:]
        distilled = (
            None if earlier_logits is None else (logits[distil], earlier_logits, labels[distil])
        )
        object_maps = None if maps is None else (predicted_maps, maps)
        inputs = LossInputs(images, logits, targets, self.class_weights, distilled, object_maps)
        weights = self.loss_weights(self._edge_ramp())
        with seeded(self.device, *seed, self.batch):  # the same in all processes
            return {t.name: (weights[t.name], t.value(inputs)) for t in LOSSES if weights[t.name]}

    def _loss(self, means: Means) -> tuple[Tensor, dict[str, float]]:
        """The loss of this process, and the terms' means over all processes.

        DDP averages gradients, so each mean is scaled by this process's part of its total weight.

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
        """Weight of each term of the loss."""
        strokes, distillation = self.data.has_strokes, self.distillation is not None
        given = WeightInputs(
            self.settings,
            self.label_amount,
            self.separable,
            edge_ramp,
            strokes,
            distillation,
            self.learns_maps and self.data.has_objects,
        )
        return {term.name: term.weight(given) for term in LOSSES}

    def _edge_ramp(self) -> float:
        """0 to 1, since the edge loss alone makes a random network predict one class everywhere."""
        return 1.0 if self.decoder_pretrained else min(1.0, self.steps / EDGE_RAMP_STEPS)

    @property
    def sampler(self) -> Sampler:
        """The sampler of the current dataset."""
        rate = FOCUS_RATE if self.steps <= self._focus_until else RECENT_RATE
        return Sampler(
            self.data, self.distillation, self.augment, self.settings, self.patch, self.focus, rate
        )

    def close(self) -> None:
        """End the sampling threads."""
        self.prefetcher.close()

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Move the averaged weights towards the newest ones, faster at first."""
        steps = self.steps - (self.ema_restart or 0)
        if self.ema_restart is None:
            warmup = steps / (steps + 10)
        else:
            warmup = max(EMA_DECAY_FROM_INIT, steps / (steps + 3))
        keep = min(EMA_DECAY, warmup) if self.settings.ema else 0.0
        newest = self.network.state_dict()
        for name, value in self.ema_network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(newest[name], 1.0 - keep)
            else:
                value.copy_(newest[name])

    # -- what was learned --------------------------------------------------------------------------

    def weights(self) -> Weights:
        """A copy of the EMA weights, on the CPU."""
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

    def restore(self, weights: Weights, backoff: float = 10.0) -> None:
        """Go back to earlier weights, with the learning rate divided by ``backoff``."""
        for network in (self.network, self.ema_network):
            network.load_state_dict(weights)
        self.lr_backoff /= backoff
        self._new_optimizer()

    def shrink(self) -> str:
        """Reduce batch or patch size; return a sentence. Raises `TrainingError` at the smallest."""
        self.optimizer.zero_grad(set_to_none=True)
        self._new_optimizer()  # an interrupted step leaves optimiser and scaler inconsistent
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

    def validate(self, weights: Weights | None = None) -> Validation | None:
        """Validate these weights, by default the EMA, on the validation blocks if any."""
        network = self.ema_network if weights is None else self.network_of(weights)
        return self.validator.validate(network, self.class_priors)
