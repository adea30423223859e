"""Reproducible sampling and prefetching of batches: samples follow from (seed, step, number)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_unetseg.training.augmentation import Augmenter, margin

if TYPE_CHECKING:
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.data.validation_split import VoxelIndex, VoxelIndices
    from napari_unetseg.training.distillation import Distillation

Key = tuple[int, ...]
"""Seed of a batch's random numbers, besides the training's seed: the step."""
Sample = tuple[Tensor, Tensor, bool]
Batch = tuple[Tensor, Tensor, Tensor]
"""Images (N, C, *patch), targets (N, *patch), and which samples are distilled (N,).

With objects targets are (N, 3, *patch): class indices and object maps.
"""


FOCUS_RATE, RECENT_RATE = 0.3, 0.15
"""Fractions of the samples that contain a voxel of the newest strokes, in the first steps after
them and later.
"""


class Focus:
    """Voxels that samples are drawn to, at least one."""

    def __init__(self, voxels: VoxelIndices) -> None:
        self.voxels = voxels
        self._ends = np.cumsum([len(indices) for _, indices in voxels])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> VoxelIndex:
        """The plane and the flat index of a voxel."""
        which = int(np.searchsorted(self._ends, number, side="right"))
        plane, indices = self.voxels[which]
        return plane, int(indices[number - self._ends[which]])


@dataclass(frozen=True)
class Sampler:
    """Thread-safe sampling from a dataset; equal samplers give equal samples."""

    data: TrainingDataset
    distillation: Distillation | None
    augment: Augmenter
    settings: TrainSettings
    patch: tuple[int, ...]
    focus: Focus | None = None
    focus_rate: float = 0.0

    def sample(self, key: Key, number: int) -> Sample:
        """Image (C, *patch), target as in `Batch`, and whether the sample is distilled."""
        rng = np.random.default_rng([self.settings.seed, *key, number])
        factor = margin(self.settings.augment)
        cut = (*self.patch[:-2], *(math.ceil(p * factor) for p in self.patch[-2:]))
        plane, anchor = self._pick(rng)
        labels = self.distillation.labels(plane) if self.distillation else None
        image, target = self.data.crop_patch(plane, anchor, cut, rng, self.patch, labels)
        generator = torch.Generator()
        generator.manual_seed(seed_of(self.settings.seed, *key, number))
        x, y = self.augment(
            torch.from_numpy(image), torch.from_numpy(target), self.patch, generator
        )
        return x, y, self.distillation is not None and self.distillation.covers(plane)

    def _pick(self, rng: np.random.Generator) -> VoxelIndex:
        """A random labelled voxel, or at `RANDOM_PATCH_RATE` any voxel of a distilled plane."""
        if self.focus is not None and rng.random() < self.focus_rate:
            return self.focus[int(rng.integers(len(self.focus)))]
        return (
            self.distillation.sample_voxel(rng) if self.distillation else None
        ) or self.data.sample_anchor(rng)

    def batch(self, key: Key, numbers: Iterable[int]) -> Batch:
        """The samples with these numbers."""
        return _stacked(self.sample(key, n) for n in numbers)


class Prefetcher:
    """Samples a step's batch, and with threads the next one in advance.

    A prefetched batch of another sampler or step is dropped, so that threads change no result.

    Parameters
    ----------
    threads
        Sampling threads; 0: the caller samples.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "unetseg-samples", _alone) if threads else None
        self._ahead: dict[Hashable, list[Future[Sample]]] = {}

    def batch(self, sampler: Sampler, step: int, numbers: Sequence[int]) -> Batch:
        """The samples of a step with these numbers."""
        if self._pool is None:
            return sampler.batch((step,), numbers)
        ahead, self._ahead = self._ahead, {}
        for at in (step, step + 1):
            key = sampler, at, tuple(numbers)
            self._ahead[key] = ahead.pop(key, []) or [
                self._pool.submit(sampler.sample, (at,), number) for number in numbers
            ]
        _cancel(ahead)
        return _stacked(each.result() for each in self._ahead.pop((sampler, step, tuple(numbers))))

    def close(self) -> None:
        """End the threads."""
        _cancel(self._ahead)
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def seed_of(*numbers: int) -> int:
    """A seed for PyTorch that follows from these numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Seed PyTorch's random numbers within the context."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed_of(*numbers))
        yield


def _alone() -> None:
    """One PyTorch thread, since several threads sample in parallel."""
    torch.set_num_threads(1)


def _cancel(ahead: dict[Hashable, list[Future[Sample]]]) -> None:
    for each in chain.from_iterable(ahead.values()):
        each.cancel()


def _stacked(samples: Iterable[Sample]) -> Batch:
    images, targets, distilled = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(targets), torch.tensor(distilled)
