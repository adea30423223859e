"""Compressed labels of a region, to keep the undo stack small."""

from __future__ import annotations

import zlib

import numpy as np


class PackedLabels:
    """Values and times of a region, compressed."""

    def __init__(self, values: np.ndarray, times: np.ndarray) -> None:
        self._arrays = [(zlib.compress(a.tobytes(), 1), a.dtype, a.shape) for a in (values, times)]

    def unpack(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of values and times, read-only."""
        values, times = (
            np.frombuffer(zlib.decompress(packed), dtype).reshape(shape)
            for packed, dtype, shape in self._arrays
        )
        return values, times
