"""Thresholding of a grey mask or probability map to a full mask of 0 and 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.io.readers.lazy_array import FileArray


def thresholded(piece: Any, threshold: float, ignore: int | None = None) -> np.ndarray:
    """1 where values are above a threshold, uint8; 255 where not labelled.

    Parameters
    ----------
    piece
        Numbers of any shape.
    threshold
        Values above it are 1, all others 0.
    ignore
        A value that means "not labelled", as NaN does.
    """
    piece = np.asarray(piece)
    out: np.ndarray = (piece > threshold).astype(np.uint8)
    if ignore is not None:
        out[piece == ignore] = IGNORE_INDEX
    if piece.dtype.kind == "f":
        out[np.isnan(piece)] = IGNORE_INDEX
    return out


class Thresholded(FileArray):
    """An array in a file with `thresholded` applied on indexing."""

    def __init__(self, array: Any, threshold: float, ignore: int | None = None) -> None:
        self._array, self._threshold, self._ignore = array, threshold, ignore
        self.shape, self.dtype = tuple(array.shape), np.dtype(np.uint8)

    @property
    def path(self) -> Path:
        """The file."""
        path: Path = self._array.path
        return path

    def __getitem__(self, key: Any) -> np.ndarray:
        return thresholded(self._array[key], self._threshold, self._ignore)
