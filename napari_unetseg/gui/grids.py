"""Arrays of an image's grid: made, walked through, counted. NumPy alone."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.labels import BRUSH, LabelKind

__all__ = ["count_labels", "empty_grid", "guess_kind", "planes_of"]

ON_DISK_BYTES = 2**30
"""Grids larger than this live in a file of the temporary folder."""
CHUNK = 2**20
_numbers = count()


@cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="napari-unetseg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def empty_grid(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros of that shape, uint8; memory or disk is used only where something is written."""
    if int(np.prod(shape, dtype=np.int64)) <= ON_DISK_BYTES:
        return np.zeros(shape, np.uint8)
    path = _temporary_folder() / f"{next(_numbers)}.u8"
    return np.memmap(path, np.uint8, "w+", shape=shape)


def planes_of(array: Any) -> Iterator[tuple[int, ...]]:
    """Indices of the YX planes of an array."""
    return iter(np.ndindex(*array.shape[:-2]))


def count_labels(data: Any) -> dict[int, int]:
    """Voxels of each number but 0, in small steps so that other threads get their turn."""
    totals: dict[int, int] = {}
    for plane in planes_of(data):
        flat = np.asarray(data[plane]).ravel()
        for start in range(0, flat.size, CHUNK):
            piece = flat[start : start + CHUNK]
            if piece.any():
                values, counts = np.unique(piece[piece != 0], return_counts=True)
                for value, number in zip(values.tolist(), counts.tolist(), strict=True):
                    totals[int(value)] = totals.get(int(value), 0) + number
    return totals


def guess_kind(counts: dict[int, int], size: int) -> LabelKind:
    """What an existing layer most likely holds; the user can say otherwise.

    Strokes where little is labelled or 255 stands beside others; instances where numbers are many.
    """
    if counts and (max(counts) > BRUSH or len(counts) > 12):
        return LabelKind.INSTANCES
    if not counts or (BRUSH in counts and len(counts) > 1):
        return LabelKind.STROKES
    return LabelKind.FULL if sum(counts.values()) > 0.05 * size else LabelKind.STROKES
