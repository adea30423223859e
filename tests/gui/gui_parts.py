"""A small image with two grey levels and strokes on it."""

from __future__ import annotations

import numpy as np

from napari_unetseg.core.labels import BACKGROUND_LABEL

SIDE = 64
TINY = {"depth": 2, "width": 4, "steps": 4, "patch": 32, "batch": 2}


def squares(planes: tuple[int, ...] = ()) -> np.ndarray:
    """Bright squares on a dark ground with some noise, uint8."""
    rng = np.random.default_rng(0)
    image = rng.integers(10, 40, (*planes, SIDE, SIDE)).astype(np.uint8)
    image[..., 8:28, 8:28] += 150
    image[..., 36:58, 34:60] += 150
    return image


def strokes(planes: tuple[int, ...] = ()) -> np.ndarray:
    """Strokes on the first plane: structure 1 in the squares, 255 outside."""
    labels = np.zeros((*planes, SIDE, SIDE), np.uint8)
    first = labels[(0,) * len(planes)]
    first[16:18, 10:26] = first[44:46, 36:58] = 1
    first[30:33, 4:60] = first[60:62, 2:30] = BACKGROUND_LABEL
    return labels
