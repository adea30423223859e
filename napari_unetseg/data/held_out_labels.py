"""Labels without some voxels, which no training may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_unetseg.annotations.sparse_array import (
    Region,
    SparseArray,
    intersection,
    whole,
    within,
)
from napari_unetseg.core.labels import LabelKind

IGNORE = -1
"""Stands for "not labelled" where 0 is background."""


@dataclass(frozen=True, slots=True, eq=False)
class Voxels:
    """Some voxels of a grid: a region, and which voxels of it, boolean of the region's shape."""

    region: Region
    where: np.ndarray


class HeldOutLabels:
    """Labels of a grid of which some voxels are not labelled, lazily.

    Parameters
    ----------
    labels
        Array-like.
    voxels
        Where nothing is labelled.
    ignore
        What is there instead.
    """

    def __init__(self, labels: Any, voxels: Sequence[Voxels], ignore: int) -> None:
        self.labels, self.voxels, self.ignore = labels, list(voxels), ignore
        self.shape = tuple(labels.shape)
        plain = np.dtype(labels.dtype)
        self.dtype = plain if plain.kind == "f" else np.promote_types(plain, np.int8)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """A copy of a region by an index of the first axes, such as a plane; slices of step 1."""
        keys = index if isinstance(index, tuple) else (index,)
        spans = [
            slice(*one.indices(size)[:2]) if isinstance(one, slice) else slice(one, one + 1)
            for one, size in zip(keys, self.shape, strict=False)
        ]
        region = (*spans, *whole(self.shape[len(keys) :]))
        found = np.array(self.labels[region]).astype(self.dtype, copy=False)
        for one in self.voxels:
            self._take_out(found, region, one)
        return found.squeeze(
            tuple(axis for axis, key in enumerate(keys) if not isinstance(key, slice))
        )

    def _take_out(self, found: np.ndarray, region: Region, voxels: Voxels) -> None:
        if (both := intersection(region, voxels.region)) is not None:
            found[within(both, region)][voxels.where[within(both, voxels.region)]] = self.ignore

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it; for small grids."""
        del copy
        return self[whole(self.shape)].astype(dtype or self.dtype, copy=False)


def without(labels: Any, kind: LabelKind, voxels: Sequence[Voxels]) -> Any:
    """Labels of a kind in which some voxels are not labelled; the same where there are none.

    Where 0 is background, the value `HeldOutLabels.ignore` says that nothing is labelled.
    """
    if labels is None or not voxels:
        return labels
    if kind is not LabelKind.STROKES:
        return HeldOutLabels(labels, voxels, IGNORE)
    if not isinstance(labels, SparseArray):
        return HeldOutLabels(labels, voxels, 0)
    copy = labels.snapshot()
    for one in voxels:
        values = copy.read(one.region)
        if values[one.where].any():
            values[one.where] = 0
            copy.write(one.region, values)
    return copy
