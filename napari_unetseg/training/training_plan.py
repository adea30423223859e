"""Plan of a training: architecture, patch, batch and length, from settings and data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.settings import NetSettings, TrainSettings

if TYPE_CHECKING:
    from napari_unetseg.data.dataset import TrainingDataset

PATCH_2D = {"cpu": 96, "gpu": 256}
BATCH_2D = {"cpu": 8, "gpu": 16}
PATCH_3D = {"cpu": (16, 64, 64), "gpu": (32, 128, 128)}
BATCH_3D = {"cpu": 1, "gpu": 2}
EPOCHS = 40
"""Epochs of a training without a limit."""
FEWEST_STEPS, MOST_STEPS = 18, 60
"""Limits of an epoch's steps; its samples show each labelled voxel about once."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A training's architecture, sizes and length; ``steps`` is 0 when only time ends it."""

    net: NetSettings
    patch: tuple[int, ...]
    batch: int
    epoch_steps: int
    steps: int


def level_strides(
    shape: Sequence[int], spacing: Sequence[float], depth: int
) -> tuple[tuple[int, ...], ...]:
    """Down-sampling of each level for anisotropic voxels and thin volumes.

    An axis is halved while at least four voxels of it are left (Y and X always are), and these are
    less than twice as long as those of any other axis that can be halved (Isensee et al. 2021,
    https://doi.org/10.1038/s41592-020-01008-z, plan anisotropic networks by a like rule).
    """
    sizes, lengths = [float(s) for s in shape], [float(s) or 1.0 for s in spacing]
    levels = []
    for _ in range(depth - 1):
        able = [size >= 4 or axis >= len(sizes) - 2 for axis, size in enumerate(sizes)]
        shortest = min(length for length, can in zip(lengths, able, strict=True) if can)
        level = tuple(
            2 if can and length < 2 * shortest else 1
            for length, can in zip(lengths, able, strict=True)
        )
        levels.append(level)
        sizes = [s / t for s, t in zip(sizes, level, strict=True)]
        lengths = [x * t for x, t in zip(lengths, level, strict=True)]
    return tuple(levels)


def make_plan(
    data: TrainingDataset,
    settings: TrainSettings,
    device: str,
    init: NetSettings | None,
    processes: int = 1,
) -> TrainingPlan:
    """Choose what the settings leave open.

    Parameters
    ----------
    data
        Images and labels.
    settings
        What the user asked for.
    device
        Type of device: ``cpu`` or that of a GPU.
    init
        Architecture of an initial model.
    processes
        Processes that split a batch; each has one patch at least.

    Raises
    ------
    UserError
        The batch has fewer patches than there are processes.
    """
    where = "cpu" if device == "cpu" else "gpu"
    shapes = [p.image.spatial_shape(data.dims) for p in data.pairs]
    net = init or _net(data, settings, shapes)
    patch = _patch(net, settings, where, shapes)
    if settings.batch and settings.batch < processes:
        raise UserError(
            f"{processes} processes cannot share {settings.batch} patch(es) a step; choose "
            f"--batch {processes} or more, or start fewer processes."
        )
    usual = (BATCH_2D if data.dims == 2 else BATCH_3D)[where]
    batch = settings.batch or max(usual, processes)
    samples = data.train_voxels / (math.prod(patch) * 0.02)
    epoch_steps = max(FEWEST_STEPS, min(MOST_STEPS, round(samples / batch)))
    if settings.steps:
        steps = settings.steps
    elif settings.minutes:
        steps = 0
    else:
        steps = (settings.epochs or EPOCHS) * epoch_steps
    return TrainingPlan(net, patch, batch, epoch_steps, steps)


def _net(
    data: TrainingDataset, settings: TrainSettings, shapes: Sequence[tuple[int, ...]]
) -> NetSettings:
    """The architecture for images of these shapes."""
    image, strides = data.pairs[0].image, None
    depth = settings.depth or ARCHITECTURES[settings.encoder].default_depth[data.dims]
    if data.dims == 3:
        smallest = tuple(min(shape[axis] for shape in shapes) for axis in range(3))
        strides = level_strides(smallest, image.spatial_spacing(3), depth)
    return NetSettings(
        dims=settings.dims,
        in_channels=image.n_channels,
        out_channels=data.classes.out_channels,
        depth=depth,
        width=settings.width,
        norm=settings.norm,
        dropout=settings.dropout,
        strides=strides,
        encoder=settings.encoder,
        image_features=True,
        object_maps=bool(data.classes.objects),
    )


def _patch(
    net: NetSettings, settings: TrainSettings, where: str, shapes: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """Patch edges: multiples of the stride, at most what the largest image needs."""
    wanted = (PATCH_2D[where],) * 2 if net.dims == 2 else PATCH_3D[where]
    if settings.patch:
        wanted = (*wanted[:-2], settings.patch, settings.patch)
    patch = []
    for axis, edge in enumerate(wanted):
        stride = math.prod(s[axis] for s in net.strides) if net.strides else 2 ** (net.depth - 1)
        largest = max(shape[axis] for shape in shapes)
        size = math.ceil(min(edge, largest) / stride) * stride
        patch.append(max(size, 2 * stride if stride > 1 else 1))
    return tuple(patch)
