"""Compressed labels, to keep the undo stack small."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_unetseg.annotations.annotation_store import TimedValues


class PackedLabels:
    """Values and times of a region, compressed."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self._arrays = [(zlib.compress(a.tobytes(), 1), a.dtype, a.shape) for a in arrays]

    def unpack(self) -> TimedValues:
        """The values and times, read-only."""
        values, stamps = (
            np.frombuffer(zlib.decompress(packed), dtype).reshape(shape)
            for packed, dtype, shape in self._arrays
        )
        return values, stamps
