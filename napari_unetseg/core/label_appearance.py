"""Classification of a label image by its values and their regions.

Labels are regions of one value; one region a value means instances. Values that change from pixel
to pixel are an image, a probability map, or mask edges blurred by JPEG or interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

MOST_PLANES, EDGE, READ = 5, 512, 2048
"""Most sampled planes, edge of the crop of each, and of the region read for it."""
JPEG_BLOCK = 8
"""Distance from an edge within which JPEG changes values."""
FEWEST = 4
"""Number of values, with 0, below which labels are not in doubt."""
LEAST_GAP = 16
"""Least distance between the levels of a blurred mask."""
MANY_OBJECTS = 30
"""Number of single-region values from which on they are objects whatever their sizes."""


class Appearance(StrEnum):
    """Kind of content of a label image."""

    LABELS = "labels"
    """Strokes or structures: regions of one value, several of most values, or few values."""
    OBJECTS = "objects"
    """Instances: each value a single region, mostly surrounded by 0 and of similar size."""
    BLURRED = "blurred"
    """A mask after JPEG or interpolation: few large values, and many in between along their edges.
    """
    IMAGE = "image"
    """An image or a probability map."""


@dataclass(frozen=True, slots=True)
class LabelAppearance:
    """Appearance of a label image."""

    appearance: Appearance = Appearance.LABELS
    """Kind of content."""
    threshold: float = 0.0
    """A whole number halfway between its two most frequent values that lie far from each other."""


def classify_labels(
    labels: Any, ignore: int | None = None, planes: Sequence[tuple[int, ...]] | None = None
) -> LabelAppearance:
    """Classify a label image from crops of at most five planes.

    Parameters
    ----------
    labels
        Array-like of shape (…, Y, X) of numbers; NaN counts as 0.
    ignore
        A value that counts as 0, too.
    planes
        Indices of the planes to sample, at least one; evenly spaced ones by default.
    """
    pieces = _pieces(labels, ignore, planes or _spread(labels.shape[:-2]))
    values, codes = np.unique(pieces, return_inverse=True)
    if len(values) < FEWEST:
        return LabelAppearance()
    values, codes = values.astype(np.float64), codes.reshape(pieces.shape).astype(np.int32)
    frequent = _frequent(values, codes)
    levels, regions = _far_apart(values[frequent]), _Regions.of(codes, values)
    appearance = _changing(values, codes, frequent, regions, levels)
    if appearance is None:
        appearance = Appearance.OBJECTS if regions.are_objects() else Appearance.LABELS
    return LabelAppearance(appearance, float(np.floor(values[frequent[:2]].mean())))


def _spread(leading: tuple[int, ...]) -> list[tuple[int, ...]]:
    numbers = sorted({int(n) for n in np.linspace(0, math.prod(leading) - 1, MOST_PLANES)})
    return [tuple(int(i) for i in np.unravel_index(n, leading)) for n in numbers]


def _pieces(labels: Any, ignore: int | None, planes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Crops (n, Y, X) of planes, each around the centre of the non-zero voxels."""
    middle = tuple(_span(n // 2, READ, n) for n in labels.shape[-2:])
    pieces = []
    for index in planes[:MOST_PLANES]:
        plane = np.asarray(labels[(*index, *middle)])
        if plane.dtype.kind == "f":
            plane = np.where(np.isnan(plane), 0, plane)
        if ignore is not None:
            plane = np.where(plane == ignore, 0, plane)
        rows, columns = (np.flatnonzero(plane.any(axis)) for axis in (1, 0))
        at = [n[len(n) // 2] if len(n) else 0 for n in (rows, columns)]
        spans = (_span(int(a), EDGE, n) for a, n in zip(at, plane.shape, strict=True))
        pieces.append(plane[tuple(spans)])
    return np.stack(pieces)


def _span(middle: int, edge: int, size: int) -> slice:
    start = max(0, min(middle - edge // 2, size - edge))
    return slice(start, min(size, start + edge))


def _frequent(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Codes of values that fill areas, the most frequent one first, then one far from it.

    Far is more than half of the range.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    counts = np.bincount(codes.ravel(), minlength=len(values))
    flat = maximum_filter(codes, (1, 3, 3)) == minimum_filter(codes, (1, 3, 3))
    inside = np.bincount(codes[flat], minlength=len(values))
    first = int(counts.argmax())
    far = np.abs(values - values[first]) > np.ptp(values) / 2
    found = [first, int(np.where(far, counts, 0).argmax())] if far.any() else [first]
    areas = np.flatnonzero((counts >= 0.01 * codes.size) & (inside >= 0.3 * counts))
    return np.array(list(dict.fromkeys([*found, *areas.tolist()])))


@dataclass(frozen=True, slots=True)
class _Regions:
    """Connected regions of one value, with 8-connectivity.

    ``labels`` (n, Y, X) are their numbers in each plane; for each plane and value but 0: the
    voxels, whether nearly all are one region, and whether that region borders on 0; ``zero``: some
    voxels are 0.
    """

    labels: np.ndarray
    plane: np.ndarray
    voxels: np.ndarray
    single: np.ndarray
    beside_zero: np.ndarray
    zero: bool

    @classmethod
    def of(cls, codes: np.ndarray, values: np.ndarray) -> _Regions:
        """Find the regions of values ``codes`` (n, Y, X)."""
        from scipy.ndimage import maximum_filter
        from skimage.measure import label

        zero = values[codes] == 0
        near_zero = maximum_filter(zero, (1, 3, 3))
        rows, labels = [], np.empty(codes.shape, np.int32)
        for number, plane in enumerate(codes):
            labels[number] = label(plane + 1, background=0, connectivity=2)  # type: ignore[no-untyped-call]
            flat = labels[number].ravel()
            sizes = np.bincount(flat)[1:]
            touch = np.bincount(flat, near_zero[number].ravel())[1:] > 0
            owner = np.zeros(len(sizes), np.int64)
            owner[flat - 1] = plane.ravel()
            order = np.lexsort((sizes, owner))  # the largest region of each value comes last
            owners, starts = np.unique(owner[order], return_index=True)
            last = order[np.append(starts[1:], len(order)) - 1]
            total = np.bincount(owner, sizes)[owners]
            row = [np.full(len(owners), number), total, sizes[last] >= 0.95 * total, touch[last]]
            rows.append(np.stack(row)[:, values[owners] != 0])
        plane_of, voxels, single, beside = np.concatenate(rows, 1)
        is_zero = bool(zero.mean() >= 0.01)
        return cls(labels, plane_of, voxels, single > 0, beside > 0, is_zero)

    def mean_size(self, where: np.ndarray) -> float:
        """Mean size in voxels of the regions in a mask (n, Y, X) of whole regions."""
        count = sum(
            len(np.unique(plane[inside])) for plane, inside in zip(self.labels, where, strict=True)
        )
        return float(where.sum()) / max(1, count)

    def are_objects(self) -> bool:
        """Whether each value is a single region that resembles an object."""
        if not self.zero or not len(self.voxels) or self.single.mean() < 0.9:
            return False
        values = int(np.bincount(self.plane.astype(np.int64)).max())
        middle = np.median(self.voxels)
        alike = ((self.voxels > middle / 4) & (self.voxels < middle * 4)).mean() >= 0.75
        return values >= MANY_OBJECTS or bool(
            values >= FEWEST and alike and self.beside_zero.mean() >= 0.75
        )


def _far_apart(values: np.ndarray) -> np.ndarray:
    """The most frequent values without those near a more frequent one; sorted.

    254 beside 255 is not a level of its own.
    """
    levels = values[:1]
    for value in values[1:]:
        if np.abs(levels - value).min() >= LEAST_GAP:
            levels = np.append(levels, value)
    return np.sort(levels)


def _changing(
    values: np.ndarray,
    codes: np.ndarray,
    frequent: np.ndarray,
    regions: _Regions,
    levels: np.ndarray,
) -> Appearance | None:
    """Blurred, or an image; None where regions of one value prevail."""
    from scipy.ndimage import maximum_filter, minimum_filter

    others = ~np.isin(codes, frequent)
    if len(values) - len(frequent) < 3:
        return None
    low, high = minimum_filter(codes, (1, 3, 3)), maximum_filter(codes, (1, 3, 3))
    slopes = float(((low < codes) & (codes < high))[others].mean())  # few where objects touch
    flat = float((low == high)[others].mean())
    if slopes >= 0.25 and flat < 0.25 and _is_along_edges(values, codes, others, levels):
        return Appearance.BLURRED
    size = regions.mean_size(others)
    single = regions.single.mean() >= 0.8 and size >= 2  # tiny objects that touch
    changes = slopes >= 0.2 and size < 5 and others.mean() > 0.05
    return Appearance.IMAGE if changes and len(values) >= 16 and not single else None


def _is_along_edges(
    values: np.ndarray, codes: np.ndarray, others: np.ndarray, levels: np.ndarray
) -> bool:
    """Whether the ``others`` lie along the edges of areas of several levels."""
    from scipy.ndimage import maximum_filter, minimum_filter

    if len(levels) == 1:
        return False
    distance = np.abs(values[:, None] - levels)
    nearest, reach = distance.argmin(1)[codes], 2 * JPEG_BLOCK + 1
    edges = maximum_filter(nearest, (1, reach, reach)) > minimum_filter(nearest, (1, reach, reach))
    close = distance.min(1) <= 0.15 * np.diff(levels).min()
    foreground = close[codes[codes != np.bincount(codes.ravel()).argmax()]]
    return bool(edges[others].mean() >= 0.9 and foreground.mean() >= 0.4)
