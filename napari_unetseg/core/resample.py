"""Resampling of images to another voxel size and back.

Positions are voxel centres and both grids start at the same edge. A value depends on its position
in the whole image alone, so that pieces equal the whole bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Normalization, Stack

Region = tuple[slice, ...]
TRUNCATE = 4.0
"""Truncation of the anti-aliasing Gaussian, in standard deviations."""
MOST_VOXELS = 2**24
"""Most voxels of a channel that are read at once for down-sampling."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """Grids of a plane or volume and of its resampled version.

    Down-sampling blurs with a Gaussian first, as scikit-image does; interpolation is linear.
    """

    shape: tuple[int, ...]
    """Spatial shape of the image, ZYX or YX."""
    factors: tuple[float, ...]
    """Size of a resampled voxel along each axis, in voxels of the image."""

    @property
    def resampled(self) -> tuple[int, ...]:
        """Spatial shape of the resampled grid; its last voxels may reach beyond the image."""
        sizes = zip(self.shape, self.factors, strict=True)
        return tuple(max(1, math.ceil(n / f - 1e-6)) for n, f in sizes)

    def image_region(self, region: Region) -> Region:
        """The image's voxels that a resampled region depends on."""
        return _support(region, self.factors, self.shape)

    def resampled_region(self, region: Region) -> Region:
        """The resampled voxels that a region of the image depends on, on the way back."""
        return _support(region, [1 / f for f in self.factors], self.resampled)

    def read(self, image: Callable[[Region], np.ndarray], region: Region) -> np.ndarray:
        """Resample a region: (channels, *region) float32.

        ``image`` reads a region of the image; several parts of it where all would take too much
        memory.
        """
        have = self.image_region(region)
        longest = max(range(len(region)), key=lambda a: region[a].stop - region[a].start)
        start, stop = region[longest].start, region[longest].stop
        if math.prod(s.stop - s.start for s in have) > MOST_VOXELS and stop - start > 1:
            parts = [
                self.read(image, (*region[:longest], half, *region[longest + 1 :]))
                for half in (slice(start, (start + stop) // 2), slice((start + stop) // 2, stop))
            ]
            return np.concatenate(parts, longest + 1)
        return _resample(image(have).astype(np.float32, copy=False), have, region, self.factors)

    def bring_back(self, values: np.ndarray, have: Region, wanted: Region) -> np.ndarray:
        """Resample values (channels, *have) of `resampled_region` back to a region of the image."""
        return _resample(values, have, wanted, [1 / f for f in self.factors])

    def image_edges(self, edges: Sequence[int], most: int) -> tuple[int, ...]:
        """Edges of an image region for those of a resampled one.

        Halved where the region would have more than ``most`` voxels.
        """
        sizes = zip(edges, self.factors, self.shape, strict=True)
        found = [max(1, min(round(e * f), n)) for e, f, n in sizes]
        while math.prod(found) > most and max(found) > 1:
            longest = found.index(max(found))
            found[longest] = -(-found[longest] // 2)
        return tuple(found)

    def view(self, stack: Stack) -> Stack:
        """The lazily resampled stack; 3D ones along Z, too."""
        dims = len(self.factors)
        data = _Resampled(stack, self)
        spacing = [*stack.grid_spacing]
        spacing[-dims:] = [s * f for s, f in zip(spacing[-dims:], self.factors, strict=True)]
        return replace(
            stack,
            data=data,
            axes=("S" if "S" in stack.axes else "C") + stack.grid_axes,  # colours stay colours
            spacing=(1.0, *spacing),
            units=("pixel", *stack.grid_units),
            translate=(),
        )


def read_scaled(
    stack: Stack,
    plane: tuple[int, ...],
    region: Region,
    normalization: Normalization,
    resampling: Resampling | None,
) -> np.ndarray:
    """Normalised intensities (channels, *region) float32 of a plane or volume.

    ``region`` is in voxels of ``resampling`` if given. Intensities are scaled first, so that hot
    pixels are clipped and NaN replaced before they spread.
    """

    def scaled(wanted: Region) -> np.ndarray:
        return normalization.apply(stack.read(plane, wanted))

    return scaled(region) if resampling is None else resampling.read(scaled, region)


def _sigma(factor: float) -> float:
    """Standard deviation of the anti-aliasing Gaussian for a factor."""
    return max(0.0, (factor - 1) / 2)


def _correlation(factor: float) -> float:
    """Correlation of the noise of neighbours along a down-sampled axis.

    Interpolation adds 0.2 pixels² to the Gaussian's variance.
    """
    return math.exp(-(factor**2) / (4 * (_sigma(factor) ** 2 + 0.2))) if factor > 1 else 0.0


def _support(region: Region, factors: Sequence[float], sizes: Sequence[int]) -> Region:
    spans = []
    for span, factor, size in zip(region, factors, sizes, strict=True):
        if factor == 1:
            spans.append(span)
            continue
        around = int(TRUNCATE * _sigma(factor) + 0.5)  # as in ndimage.gaussian_filter1d
        first = min(math.floor((span.start + 0.5) * factor - 0.5), size - 1)
        last = math.floor((span.stop - 0.5) * factor - 0.5) + 1
        spans.append(slice(max(0, first - around), min(size, last + around + 1)))
    return tuple(spans)


def _resample(
    array: np.ndarray, have: Region, wanted: Region, factors: Sequence[float]
) -> np.ndarray:
    """Blur and interpolate axis after axis; ``array`` is (channels, *have), float32."""
    for axis, (old, new, factor) in enumerate(zip(have, wanted, factors, strict=True), 1):
        if factor == 1:
            continue
        if sigma := _sigma(factor):
            array = ndimage.gaussian_filter1d(
                array, sigma, axis, mode="nearest", truncate=TRUNCATE, output=np.float32
            )
        array = _interpolate(array, axis, old.start, new, factor)
    return array


def _interpolate(
    array: np.ndarray, axis: int, start: int, wanted: slice, factor: float
) -> np.ndarray:
    """Linear interpolation along an axis; ``start`` is the index of its first voxel."""
    places = (np.arange(wanted.start, wanted.stop) + 0.5) * factor - 0.5
    low = np.floor(places).astype(np.int64)
    share = (places - low).astype(np.float32).reshape(-1, *(1,) * (array.ndim - axis - 1))
    last = array.shape[axis] - 1
    below = array.take(np.clip(low - start, 0, last), axis)
    above = array.take(np.clip(low + 1 - start, 0, last), axis)
    above -= below
    above *= share
    above += below
    return np.asarray(above)


class _Resampled:
    """A lazily resampled image (channels, *grid)."""

    def __init__(self, stack: Stack, resampling: Resampling) -> None:
        self._stack, self._resampling = stack, resampling
        self._dims = len(resampling.factors)
        leading = stack.leading_shape(self._dims)
        self.shape = (stack.n_channels, *leading, *resampling.resampled)
        self.dtype = np.dtype(np.float32)
        self.voxels_read = math.prod(resampling.factors)
        """Voxels read for each resampled one."""
        self.coarser = stack if min(resampling.factors[-2:]) < 1 else None
        """The source image where pixels were interpolated in Y or X, between which there is no
        noise.
        """
        alike = map(_correlation, resampling.factors[-2:])
        self.noise_gain = math.prod(1 / math.sqrt(1 - share) for share in alike)
        """Factor by which blurring reduced the noise that neighbour differences measure."""

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        """Read as `Stack.read` does: a slice of channels, then integers and slices."""
        channels, *grid = key
        plane, asked = tuple(grid[: -self._dims]), grid[-self._dims :]
        spans = [range(self.shape[a - self._dims])[one] for a, one in enumerate(asked)]
        region = tuple(
            slice(one, one + 1) if isinstance(one, int) else slice(one.start, one[-1] + 1)
            for one in spans
        )
        found = self._resampling.read(partial(self._stack.read, plane), region)
        within = tuple(0 if isinstance(one, int) else slice(None, None, one.step) for one in spans)
        return np.asarray(found[(channels, *within)])
