"""Height maps whose hills are objects: of both object maps, or of the distance to the border.

Heights are whole numbers and depend on the voxels around alone, so that a piece of an image has
the same as the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from napari_unetseg.core.object_maps import BORDER, CENTRE, FULL_SCALE
from napari_unetseg.core.settings import ObjectSettings
from napari_unetseg.data.object_basins import OUTSIDE

LEVELS = 2000
"""Height of 1."""
NECKS = ObjectSettings(prominence=0.1)
"""How masks are split at necks where nothing else is asked for."""
USUAL_RADIUS = 8.0
"""Of objects of which none was found to be measured."""
ENOUGH_VOXELS = 2000
"""Voxels of objects in which their radius is measured."""
WINDOW = {2: 512, 3: 96}
"""Edge of a window in which it is measured."""
TRUNCATE = 4.0
"""Standard deviations after which the Gaussian ends."""


@dataclass(frozen=True, slots=True)
class MapHeights:
    """Product of the distance to the border and the nearness of the centre, smoothed."""

    structures: tuple[int, ...]
    sigma: tuple[float, ...]
    """Standard deviation of the Gaussian, in voxels along each axis."""
    prominence: int
    """Least height of an object above its valleys."""
    smallest: int
    """Least voxels of an object."""
    maps: bool = True
    """Whether object maps are used."""

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels around a region, along each axis, on which its heights depend."""
        return _reach(self.sigma)

    def of(self, mask: np.ndarray, maps: np.ndarray | None) -> np.ndarray:
        """Heights, int16: 0 to `LEVELS` in structures of objects, elsewhere `OUTSIDE`.

        ``mask`` is uint8 (Z, Y, X) or (Y, X), ``maps`` as of `quantized` (2, *shape).
        """
        assert maps is not None
        centre, border = (_smooth(maps[row], self.sigma) / FULL_SCALE for row in (CENTRE, BORDER))
        return _inside(border * (1 - centre), np.isin(mask, self.structures))


@dataclass(frozen=True, slots=True)
class NeckHeights:
    """Distance to the border of the mask, up to a radius, smoothed.

    Holes narrower than the radius are no border.
    """

    structures: tuple[int, ...]
    sigma: tuple[float, ...]
    prominence: int
    smallest: int
    radius: float
    """Greatest distance, and the extent of holes, in the unit of ``spacing``."""
    spacing: tuple[float, ...]
    maps: bool = False

    @property
    def halo(self) -> tuple[int, ...]:
        """As of `MapHeights`."""
        smoothed = _reach(self.sigma)
        return tuple(s + 2 * e + 2 for s, e in zip(smoothed, self._extent, strict=True))

    @property
    def _extent(self) -> tuple[int, ...]:
        return tuple(math.ceil(self.radius / s) for s in self.spacing)

    def of(self, mask: np.ndarray, maps: np.ndarray | None) -> np.ndarray:  # noqa: ARG002
        """As of `MapHeights`."""
        heights = np.full(mask.shape, OUTSIDE, np.int16)
        for number in self.structures:
            region = mask == number
            if region.any():
                depth = np.minimum(self._depth(region), self.radius).astype(np.float32)
                found = _smooth(depth, self.sigma) / np.float32(self.radius)
                heights = np.maximum(heights, _inside(found, region))
        return heights

    def _depth(self, region: np.ndarray) -> np.ndarray:
        from scipy.ndimage import distance_transform_edt, find_objects, label

        filled = region.copy()
        holes, _ = label(~region)
        for number, box in enumerate(find_objects(holes), 1):
            ends = zip(box, region.shape, self._extent, strict=True)
            if all(0 < s.start and s.stop < n and s.stop - s.start <= e for s, n, e in ends):
                filled[box] |= holes[box] == number
        if filled.all():
            return np.full(region.shape, self.radius)
        return np.asarray(distance_transform_edt(filled, sampling=self.spacing))


@dataclass(frozen=True, slots=True)
class MixedHeights:
    """The weighted geometric mean of heights of object maps and of the mask's shape."""

    learned: MapHeights
    shape: NeckHeights
    weight: float
    """Of the shape, 0 to 1."""
    maps: bool = True

    @property
    def prominence(self) -> int:
        """As of `MapHeights`."""
        return self.learned.prominence

    @property
    def smallest(self) -> int:
        """As of `MapHeights`."""
        return self.learned.smallest

    @property
    def halo(self) -> tuple[int, ...]:
        """As of `MapHeights`."""
        return tuple(map(max, self.learned.halo, self.shape.halo))

    def of(self, mask: np.ndarray, maps: np.ndarray | None) -> np.ndarray:
        """As of `MapHeights`."""
        learned, shape = self.learned.of(mask, maps), self.shape.of(mask, None)
        inside = learned > OUTSIDE
        one, other = (np.maximum(h, 0).astype(np.float32) for h in (learned, shape))
        mean = one ** np.float32(1 - self.weight) * other ** np.float32(self.weight)
        return np.where(inside, np.rint(mean), OUTSIDE).astype(np.int16)


Heights = MapHeights | NeckHeights | MixedHeights
"""How heights follow from a mask and its object maps."""


def heights_of(
    settings: ObjectSettings | None,
    structures: Sequence[int],
    spacing: Sequence[float],
    *,
    maps: bool,
    mask: Any = None,
) -> Heights:
    """How the heights of an image are made.

    Parameters
    ----------
    settings
        How objects are told apart; None: at necks.
    structures
        Those that consist of objects.
    spacing
        Voxel size along the spatial axes.
    maps
        Whether there are object maps.
    mask
        Array-like of the whole image, read a window at a time; needed for necks.
    """
    used = settings or NECKS
    finest = min(spacing[-2:])
    sigma = tuple(used.smoothing * finest / s for s in spacing)
    numbers = tuple(sorted(structures))
    prominence = max(1, round(used.prominence * LEVELS))
    learned = MapHeights(numbers, sigma, prominence, used.smallest)
    if maps and settings is not None and not used.shape:
        return learned
    radius = used.radius * finest if used.radius else usual_radius(mask, numbers, spacing)
    shape = NeckHeights(numbers, sigma, prominence, used.smallest, radius, tuple(spacing))
    return MixedHeights(learned, shape, used.shape) if maps and settings is not None else shape


def usual_radius(mask: Any, structures: Sequence[int], spacing: Sequence[float]) -> float:
    """The depth of 95 % of the voxels of objects, in the unit of the spacing.

    It is measured in windows spread over the image, in more of them until there are objects enough.
    """
    dims, finest = len(spacing), min(spacing[-2:])
    edges = [1] * (len(mask.shape) - dims) + [min(WINDOW[dims], n) for n in mask.shape[-dims:]]
    seen: set[tuple[int, ...]] = set()
    depths: list[np.ndarray] = [np.zeros(0)]
    per_axis = 2
    while sum(map(len, depths)) < ENOUGH_VOXELS:
        starts = [s for s in _spread(mask.shape, edges, per_axis) if s not in seen]
        if not starts:
            break
        for start in starts:
            window = tuple(slice(s, s + e) for s, e in zip(start, edges, strict=True))
            piece = np.asarray(mask[window]).reshape(edges[-dims:])
            depths += [_depths(piece == number, spacing) for number in structures]
        seen.update(starts)
        per_axis *= 2
    found = np.concatenate(depths)
    return max(float(np.percentile(found, 95)) if len(found) else USUAL_RADIUS * finest, finest)


def _spread(shape: Sequence[int], edges: Sequence[int], per_axis: int) -> Iterator[tuple[int, ...]]:
    """First voxels of windows spread evenly over an image, at most so many along each axis."""
    along = []
    for size, edge in zip(shape, edges, strict=True):
        count = min(per_axis, -(-size // edge))
        along.append(sorted({(size - edge) * i // max(1, count - 1) for i in range(count)}))
    return product(*along)


def _depths(region: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    if region.all() or not region.any():
        return np.zeros(0)
    return np.asarray(distance_transform_edt(region, sampling=spacing)[region])


def _smooth(values: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(values, sigma, output=np.float32, truncate=TRUNCATE))


def _reach(sigma: Sequence[float]) -> tuple[int, ...]:
    return tuple(int(TRUNCATE * s + 0.5) for s in sigma)


def _inside(heights: np.ndarray, region: np.ndarray) -> np.ndarray:
    """As whole numbers, and `OUTSIDE` around the region."""
    return np.where(region, np.rint(heights * np.float32(LEVELS)), OUTSIDE).astype(np.int16)
