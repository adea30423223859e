"""Label arrays of an image's grid: allocation, counts, kind."""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.annotations.sparse_array import Cell, SparseArray, planes_with
from napari_unetseg.core.label_appearance import Appearance, LabelAppearance
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind

ON_DISK_BYTES = 2**30
"""Bytes above which grids lie in a temporary file."""
LEAST_FREE = 2**28
"""Bytes that stay free on that disk."""
FOLDER = "napari-unetseg-"
"""Prefix of the temporary folder."""
CHUNK = 2**20
FEW_PLANES, FEW_PIXELS = 5, 512
"""Planes, and pixels along an edge of each, in a quick count."""
MOST_STRUCTURES, MANY_NUMBERS = 12, 100
"""Counts of numbers above which they are seldom structures: without and with knowledge of regions.
"""
_numbers = count()


@cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=FOLDER))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def empty_grid(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """Zeros of that shape; memory or disk is used only where something is written."""
    if int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize <= ON_DISK_BYTES:
        return np.zeros(shape, dtype)
    path = _temporary_folder() / f"{next(_numbers)}.raw"
    return np.memmap(path, dtype, "w+", shape=shape)


def is_in_file(array: Any) -> bool:
    """Whether an array is a file of `empty_grid`."""
    named = isinstance(array, np.memmap) and array.filename is not None
    return named and Path(array.filename).parent.name.startswith(FOLDER)


def has_room(array: Any) -> bool:
    """Whether the disk has room for a plane; writing a memory map on a full disk ends the program.

    True where that is unknown.
    """
    if not isinstance(array, np.memmap) or array.filename is None:
        return True
    try:
        free = shutil.disk_usage(Path(array.filename).parent).free
    except OSError:
        return True
    return bool(free > LEAST_FREE + math.prod(array.shape[-2:]) * array.itemsize)


def count_labels(data: Any) -> dict[int, int]:
    """Voxels of each number but 0, in small steps that let other threads run."""
    totals: dict[int, int] = {}
    for plane in planes_with(data):
        flat = np.asarray(data[plane]).ravel()
        for start in range(0, flat.size, CHUNK):
            for value, number in _counts(flat[start : start + CHUNK]).items():
                totals[value] = totals.get(value, 0) + number
    return totals


class LabelCounter:
    """Counts voxels of each number but 0; of a `SparseArray` only changed chunks again."""

    def __init__(self) -> None:
        self._known: dict[Cell, tuple[Any, dict[int, int]]] = {}

    def count(self, data: Any) -> dict[int, int]:
        """Voxels of each number but 0; not thread-safe."""
        before, self._known, totals = self._known, {}, dict[int, int]()
        if not isinstance(data, SparseArray):
            return {} if data is None else count_labels(data)
        for cell in data.cells():
            chunk = data.chunk(cell)
            known = before.get(cell)
            if known is None or known[0] is not chunk:
                known = chunk, _counts(np.asarray(chunk))
            self._known[cell] = known
            for value, number in known[1].items():
                totals[value] = totals.get(value, 0) + number
        return totals


def _counts(piece: np.ndarray) -> dict[int, int]:
    """Voxels of each number but 0."""
    if not piece.any():
        return {}
    values, counts = np.unique(piece[piece != 0], return_counts=True)
    return {int(v): int(n) for v, n in zip(values.tolist(), counts.tolist(), strict=True)}


def thinned_counts(data: Any) -> tuple[dict[int, int], int]:
    """Voxels of each number but 0 in a few thinned planes, and how many were counted."""
    planes = [int(n) for n in np.linspace(0, math.prod(data.shape[:-2]) - 1, FEW_PLANES)]
    step = max(1, max(data.shape[-2:], default=1) // FEW_PIXELS)
    thinned = [
        np.asarray(data[(*np.unravel_index(n, data.shape[:-2]), slice(None, None, step))])
        for n in sorted(set(planes))
    ]
    few = np.stack([plane[:, ::step] for plane in thinned])
    return count_labels(few), few.size


def guess_kind(
    counts: Mapping[int, int], size: int, look: LabelAppearance | None = None
) -> LabelKind:
    """Guess the kind of an existing labels layer.

    Instances where each number is a single region, or numbers are large; a mask where much is
    labelled or one large number stands alone; strokes where 255 stands beside others or little is
    labelled.

    Parameters
    ----------
    counts
        Voxels of each number but 0.
    size
        Number of counted voxels.
    look
        Their appearance, if known.
    """
    numbers, much = [n for n in counts if n > 0], sum(counts.values()) > 0.05 * size
    appearance = look.appearance if look is not None else None
    if appearance in (Appearance.BLURRED, Appearance.IMAGE):
        return LabelKind.FULL
    if not numbers or (BACKGROUND_LABEL in numbers and 1 < len(numbers) <= MOST_STRUCTURES):
        return LabelKind.STROKES
    if len(numbers) == 1 and max(numbers) >= BACKGROUND_LABEL:
        return LabelKind.FULL
    objects = len(numbers) > (MOST_STRUCTURES if look is None else MANY_NUMBERS)
    if appearance is Appearance.OBJECTS:
        objects = much or len(numbers) > MOST_STRUCTURES
    if objects or max(numbers) > BACKGROUND_LABEL:
        return LabelKind.INSTANCES
    return LabelKind.FULL if much else LabelKind.STROKES
