"""Serialisation of sparse labels and corrections."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from napari_unetseg.core.pixel_access import native
from napari_unetseg.jobs.remote.packets import BadMessageError, Json


def pack_grid(grid: Any) -> tuple[Json, np.ndarray]:
    """Compress an array that is mostly zero; read a plane (Y, X) at a time.

    Returns
    -------
    words
        Shape, type, and the index and packed size of each plane that holds anything.
    packed
        The planes, compressed, uint8.
    """
    shape = tuple(int(size) for size in grid.shape)
    dtype = native(np.zeros(1, grid.dtype)).dtype
    planes, packed = [], []
    for index in np.ndindex(*shape[:-2]):
        plane = native(grid[index])
        if plane.any():
            packed.append(zlib.compress(plane.data, 1))
            planes.append([list(index), len(packed[-1])])
    words = {"shape": shape, "dtype": str(dtype), "planes": planes}
    return words, np.frombuffer(b"".join(packed), np.uint8)


def unpack_grid(words: Json, packed: np.ndarray) -> np.ndarray:
    """The unpacked array; empty planes take no memory."""
    try:
        grid = np.zeros(words["shape"], words["dtype"])
        start = 0
        for index, size in words["planes"]:
            plane = grid[tuple(index)]
            data = _unzip(packed[start : start + size].tobytes(), plane.nbytes)
            plane[...] = np.frombuffer(data, grid.dtype).reshape(plane.shape)
            start += size
    except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
        raise BadMessageError("labels that are none") from error
    return grid


def _unzip(data: bytes, size: int) -> bytes:
    """Decompress at most the declared size."""
    out = zlib.decompressobj().decompress(data, size + 1)
    if len(out) != size:
        raise ValueError("another size than declared")
    return out
