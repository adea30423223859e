"""Held-out strokes: connected components of the labels in validation blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.labels import IGNORE_INDEX, LabelKind

if TYPE_CHECKING:
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.data.validation_split import LabelledPlane, ValidationBlock


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutStrokes:
    """The strokes in the scored blocks; of full masks, each class of a block instead."""

    classes: np.ndarray
    """(n,) int64 class indices."""
    voxels: np.ndarray
    """(n,) int64 voxels."""
    numbers: list[np.ndarray]
    """For each scored block, the number of the stroke of each labelled voxel, in C order, int64."""
    full: bool
    """Whether all masks are full."""


def held_out_strokes(data: TrainingDataset) -> HeldOutStrokes:
    """The held-out strokes of a dataset, in the order of its planes and voxels.

    A stroke is a connected component of the labels of one class in the scored blocks of a plane,
    with diagonal neighbours; it may reach over several blocks.
    """
    classes: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    full, first = True, 0
    for _, group in groupby(data.validation_blocks(), key=lambda found: id(found[0])):
        pairs = list(group)
        plane, blocks = pairs[0][0], [block for _, block in pairs]
        strokes = data.pairs[plane.pair].kind is LabelKind.STROKES
        full &= not strokes
        own = _components(plane, blocks) if strokes else _classes_of_blocks(plane, blocks)
        here = np.concatenate([_labelled(plane, block) for block in blocks])
        kinds = np.zeros(1 + max(n.max(initial=-1) for n in own), np.int64)
        kinds[np.concatenate(own)] = here
        classes.append(kinds)
        numbers += [n + first for n in own]
        first += len(kinds)
    sizes = np.bincount(np.concatenate(numbers), minlength=first) if first else np.zeros(0)
    every = np.concatenate(classes) if classes else np.zeros(0, np.int64)
    return HeldOutStrokes(every, sizes.astype(np.int64), numbers, full)


def _labelled(plane: LabelledPlane, block: ValidationBlock) -> np.ndarray:
    """Class indices of a block's labelled voxels."""
    truth: np.ndarray = plane.validate[block.region]
    labelled: np.ndarray = truth[truth != IGNORE_INDEX].astype(np.int64)
    return labelled


def _classes_of_blocks(plane: LabelledPlane, blocks: Sequence[ValidationBlock]) -> list[np.ndarray]:
    found, first = [], 0
    for block in blocks:
        there, own = np.unique(_labelled(plane, block), return_inverse=True)
        found.append(own.reshape(-1) + first)
        first += len(there)
    return found


def _components(plane: LabelledPlane, blocks: Sequence[ValidationBlock]) -> list[np.ndarray]:
    """Number of the component of each labelled voxel of each block.

    From the labelled voxels alone, since a plane may be a volume of billions of voxels.
    """
    from scipy.sparse import coo_array  # slow to import
    from scipy.sparse.csgraph import connected_components

    shape = tuple(size + 2 for size in plane.validate.shape)  # so that no neighbour wraps round
    places = [np.ravel_multi_index(_places(plane, block), shape) for block in blocks]
    flat = np.concatenate(places)
    kinds = np.concatenate([_labelled(plane, block) for block in blocks])
    order = np.argsort(flat, kind="stable")
    flat, kinds = flat[order], kinds[order]
    edges = [np.zeros((2, 0), np.int64)]
    for step in _half_of_neighbours(shape):
        at = np.minimum(np.searchsorted(flat, flat + step), len(flat) - 1)
        linked = np.flatnonzero((flat[at] == flat + step) & (kinds[at] == kinds))
        edges.append(np.stack([linked, at[linked]]))
    rows, columns = np.concatenate(edges, 1)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), (len(flat), len(flat)))
    _, ordered = connected_components(graph, directed=False)
    found = np.empty(len(flat), np.int64)
    found[order] = ordered
    return np.split(found, np.cumsum([len(p) for p in places])[:-1])


def _places(plane: LabelledPlane, block: ValidationBlock) -> tuple[np.ndarray, ...]:
    """Coordinates of a block's labelled voxels, shifted by one."""
    inside = np.nonzero(plane.validate[block.region] != IGNORE_INDEX)
    return tuple(i + r.start + 1 for i, r in zip(inside, block.region, strict=True))


def _half_of_neighbours(shape: tuple[int, ...]) -> list[int]:
    """Distances to the neighbours that come later in a flat array, diagonal ones too."""
    strides = np.cumprod((1, *shape[:0:-1]))[::-1]
    steps = (int(np.dot(step, strides)) for step in product((-1, 0, 1), repeat=len(shape)))
    return [step for step in steps if step > 0]
