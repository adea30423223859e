"""Candidate regions of an image for active learning, in windows that are predicted as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

Plane = tuple[int, ...]
Region = tuple[slice, ...]

EDGE_FRACTION, EDGES = 4, (64, 256)
"""Size of a region as a fraction of a plane's shorter edge, and its limits in voxels."""
DEEP = 16
"""Planes of a region of a volume."""
WINDOW = {2: 512, 3: 128}
"""Largest edge of a window in Y and X."""
WINDOW_DEEP = 32


@dataclass(slots=True, eq=False)
class WindowGrid:
    """Windows and regions of one image."""

    shape: tuple[int, ...]
    leading: tuple[int, ...]
    """Spatial shape, and shape of the leading axes."""
    region: tuple[int, ...]
    """Shape of a region."""
    windows: list[Region] = field(default_factory=list)
    """The windows of a plane or volume, which cover it once."""

    @classmethod
    def of(cls, stack: Stack, dims: int) -> Self:
        """Divide an image into planes or volumes, and these into windows.

        Raises
        ------
        UserError
            The image has no volumes.
        """
        stack.check_dims(dims)
        shape = stack.spatial_shape(dims)
        ground = cls(shape, stack.leading_shape(dims), region_shape(shape))
        most = (*(WINDOW_DEEP for _ in shape[:-2]), WINDOW[dims], WINDOW[dims])
        spans = []
        for size, least, edge in zip(shape, ground.region, most, strict=True):
            spans.append(_divided(size, math.ceil(size / max(edge, least))))
        ground.windows = list(product(*spans))
        return ground

    @property
    def count(self) -> int:
        """Windows of all planes."""
        return math.prod(self.leading) * len(self.windows)

    def place(self, number: int) -> tuple[Plane, Region]:
        """Plane and region of a window by its number."""
        plane, window = divmod(number, len(self.windows))
        index = np.unravel_index(plane, self.leading) if self.leading else ()
        return tuple(int(i) for i in index), self.windows[window]


def region_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of a region: a typical field of view for painting.

    Parameters
    ----------
    shape
        Spatial shape YX or ZYX; along Y and X a region is a quarter of the shorter edge wide, 64
        to 256 voxels, and along Z 16 voxels deep, where the image is as large.
    """
    edge = int(np.clip(min(shape[-2:]) / EDGE_FRACTION, *EDGES))
    wanted = (*(DEEP for _ in shape[:-2]), edge, edge)
    return tuple(min(n, w) for n, w in zip(shape, wanted, strict=True))


def _divided(size: int, count: int) -> list[slice]:
    """An axis in so many equal parts, at least one."""
    ends = [round(i * size / max(1, count)) for i in range(max(1, count) + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def cells_of(size: Sequence[int], region: Sequence[int]) -> Iterator[Region]:
    """Pieces of a window of about a region's size that cover it once."""
    return product(*(_divided(n, round(n / edge)) for n, edge in zip(size, region, strict=True)))


def moved(region: Region, window: Region) -> Region:
    """A region of a window in coordinates of the plane."""
    return tuple(
        slice(r.start + w.start, r.stop + w.start) for r, w in zip(region, window, strict=True)
    )
