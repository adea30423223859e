"""Reading of array-like pixels as native NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError


def spread(size: int, blocks: int, edge: int = 128) -> list[slice]:
    """Evenly spaced slices of an axis; one of all where it is short."""
    if size <= blocks * edge:
        return [slice(0, size)]
    starts = [(size - edge) * (2 * i + 1) // (2 * blocks) for i in range(blocks)]
    return [slice(start, start + edge) for start in starts]


def native(array: Any) -> np.ndarray:
    """A C-contiguous array in the machine's byte order, ready for torch.

    Booleans become uint8; complex and object arrays are refused with a `UserError`.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise UserError(
            f"This image holds values of type {array.dtype}; convert it to integers or floats."
        )
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def as_float32(array: np.ndarray) -> np.ndarray:
    """A C-contiguous float32 copy; overflow becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(array, np.float32, order="C")


def finite_values(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """All finite values of some arrays, flat, float32."""
    values = np.concatenate([as_float32(piece).ravel() for piece in pieces])
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def read_array(piece: Any) -> Any:
    """A NumPy array of a slice; dask arrays are computed without callbacks.

    napari's dask cache is such a callback, and callbacks of several threads fail now and then.
    """
    if type(piece).__module__.startswith("dask."):
        return piece.compute(scheduler="threads", callbacks=())
    return np.asarray(piece)
