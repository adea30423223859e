"""Split of labelled planes into training and validation blocks.

A hash of the image's fingerprint and the block's position decides, so that it never changes. Labels
in a guard band around validation blocks are used for neither.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

BLOCKS_ALONG = 8
"""Blocks along the shorter of Y and X, within the limits of the next line, in voxels."""
SMALLEST_BLOCK, LARGEST_BLOCK = 12, 96
GUARD = 8
"""Width of a guard band as a fraction of a block."""
MOST_ANCHORS = 20_000
"""Most labelled voxels kept for sampling, for each class and plane."""
PIECE = 2**24
"""Voxels processed at once, so that memory stays near one byte a voxel."""


@dataclass(frozen=True, slots=True)
class ValidationBlock:
    """A validation block: slices, number of labelled voxels, slices with guard band."""

    region: tuple[slice, ...]
    labelled: int
    guarded: tuple[slice, ...]


@dataclass(slots=True, eq=False)
class LabelledPlane:
    """A labelled plane or volume: class indices for training and validation, and its blocks."""

    stack: Stack
    pair: int
    index: tuple[int, ...]
    train: np.ndarray
    validate: np.ndarray
    blocks: list[ValidationBlock]
    counts: np.ndarray
    """Voxels of each class that train, int64."""
    anchors: dict[int, np.ndarray] = field(default_factory=dict)
    distillation_labels: np.ndarray | None = None
    """Training labels of `Distillation`, cached."""
    maps: np.ndarray | None = None
    """Object maps that train, as of `core.object_maps.encode_maps`; None without objects."""
    objects: np.ndarray | None = None
    """Numbers of the known objects, 0 for none; None without objects."""

    def index_anchors(self, rng: np.random.Generator) -> None:
        """Store voxels of each class for sampling."""
        for number, count in enumerate(self.counts.tolist()):
            if count:
                self.anchors[number] = _voxels_of(self.train, number, count, rng)


VoxelIndex = tuple[LabelledPlane, int]
"""A voxel of a plane, by its flat index."""
VoxelIndices = list[tuple[LabelledPlane, np.ndarray]]
"""Voxels of some planes, by their flat indices (int64), at least one of each."""


def count_classes(target: np.ndarray, n_classes: int) -> np.ndarray:
    """Voxels of each class, int64; in pieces, since ``bincount`` takes 8 bytes a voxel."""
    flat = target.reshape(-1)
    pieces = (flat[start : start + PIECE] for start in range(0, flat.size, PIECE))
    return sum(
        (np.bincount(piece, minlength=256)[:n_classes] for piece in pieces),
        np.zeros(n_classes, np.int64),
    )


def _voxels_of(target: np.ndarray, number: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Flat indices of at most `MOST_ANCHORS` of the ``count`` voxels of a class, int64."""
    chosen = np.arange(count)
    if count > MOST_ANCHORS:
        chosen = np.sort(rng.choice(count, MOST_ANCHORS, replace=False))
    flat, voxels, before = target.reshape(-1), [], 0
    for start in range(0, flat.size, PIECE):
        here = np.flatnonzero(flat[start : start + PIECE] == number)
        first, last = np.searchsorted(chosen, [before, before + len(here)])
        voxels.append(here[chosen[first:last] - before] + start)
        before += len(here)
    return np.concatenate(voxels)


def block_shape(shape: tuple[int, ...], spacing: Sequence[float]) -> tuple[int, ...]:
    """Edges of a block in voxels, independent of the strokes."""
    edge = max(SMALLEST_BLOCK, min(LARGEST_BLOCK, min(shape[-2:]) // BLOCKS_ALONG))
    if len(shape) == 2:
        return edge, edge
    deep = round(edge * spacing[-1] / spacing[0]) if spacing[0] > 0 else edge
    return max(2, min(edge, deep, max(2, shape[0] // 2))), edge, edge


def _validates(key: str, cell: tuple[int, ...], fraction: float) -> bool:
    digest = hashlib.blake2b(f"{key}:{cell}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def split_train_validation(
    target: np.ndarray, key: str, spacing: Sequence[float], fraction: float
) -> tuple[np.ndarray, np.ndarray, list[ValidationBlock]]:
    """Split the labels of a plane or volume by block.

    Parameters
    ----------
    target
        Class indices, `IGNORE_INDEX` where nothing is labelled.
    key
        Identity of the image, the same for all its planes.
    spacing
        Voxel size along each axis.
    fraction
        Fraction of the blocks that validate.

    Returns
    -------
    train, validate
        Class indices for either use, `IGNORE_INDEX` elsewhere and in the guard band.
    blocks
        The validating blocks that hold labels.
    """
    edges = block_shape(target.shape, spacing)
    guards = [max(1, e // GUARD) for e in edges]
    train = target.copy()
    validate = np.full_like(target, IGNORE_INDEX)
    blocks = []
    for cell in np.ndindex(*(math.ceil(s / e) for s, e in zip(target.shape, edges, strict=True))):
        if not _validates(key, cell, fraction):
            continue
        region = tuple(
            slice(c * e, min((c + 1) * e, s))
            for c, e, s in zip(cell, edges, target.shape, strict=True)
        )
        guarded = tuple(
            slice(max(0, r.start - g), r.stop + g) for r, g in zip(region, guards, strict=True)
        )
        train[guarded] = IGNORE_INDEX
        validate[region] = target[region]
        labelled = int((target[region] != IGNORE_INDEX).sum())
        if labelled:
            blocks.append(ValidationBlock(region, labelled, guarded))
    return train, validate, blocks
