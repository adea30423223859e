"""Matching of label arrays to an image grid up to axes of length 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def same_but_singletons(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes differ in axes of length 1 at most."""
    return _long(shape) == _long(other)


def on_grid(array: Any, shape: Sequence[int]) -> Any:
    """A view of an array with the axes of length 1 that a grid has; nothing is copied or read.

    Parameters
    ----------
    array
        Anything with ``shape``, ``dtype`` and NumPy slicing; of NumPy arrays a view is returned,
        so that what is written to it is in the array.
    shape
        Of the grid; differs from the array's in axes of length 1 alone.

    Raises
    ------
    ValueError
        It differs in another axis too.
    """
    shape = tuple(shape)
    if tuple(array.shape) == shape:
        return array
    if not same_but_singletons(array.shape, shape):
        raise ValueError(f"an array of shape {tuple(array.shape)} has not the grid {shape}")
    if isinstance(array, np.ndarray):
        return np.expand_dims(array.squeeze(), tuple(i for i, n in enumerate(shape) if n == 1))
    return _OnGrid(array, shape)


def region_on_grid(
    region: Sequence[slice], shape: Sequence[int], grid: Sequence[int]
) -> tuple[slice, ...]:
    """Translate a region of an array to a grid with other axes of length 1."""
    if tuple(shape) == tuple(grid):
        return tuple(region)
    along = iter([s for s, n in zip(region, shape, strict=True) if n != 1])
    return tuple(slice(0, 1) if n == 1 else next(along) for n in grid)


def _long(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(n) for n in shape if n != 1)


class _OnGrid:
    """A lazy array with other axes of length 1."""

    def __init__(self, array: Any, shape: tuple[int, ...]) -> None:
        self._array, self.shape = array, shape
        self.dtype, self.ndim, self.size = array.dtype, len(shape), math.prod(shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        full = (*index, *(slice(None),) * (self.ndim - len(index)))
        along = iter([i for i, n in zip(full, self.shape, strict=True) if n != 1])
        inner = tuple(slice(None) if n == 1 else next(along) for n in self._array.shape)
        wanted = np.broadcast_to(np.uint8(0), self.shape)[full].shape
        if 0 in wanted:
            return np.empty(wanted, self.dtype)
        return np.asarray(self._array[inner]).reshape(wanted)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[()], dtype, copy=copy)
