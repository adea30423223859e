"""Between the voxels of an image and the same image in voxels of another size.

Positions are those of voxel centres and both grids begin at the same edge, so that nothing moves.
Every value depends on its place in the whole image alone, not on the region that is asked for:
pieces that are resampled one by one are the whole, bit by bit.
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
"""The Gaussian before down-sampling reaches so many standard deviations."""
MOST_VOXELS = 2**24
"""No more voxels of a channel are read at once to make fewer of them."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """A plane or volume of an image, and the same in voxels of another size.

    Down-sampling blurs with a Gaussian first, as scikit-image does; then it is linear.

    Attributes
    ----------
    shape
        Spatial shape of the image, ZYX or YX.
    factors
        Size of the other voxels along each axis, in voxels of the image; 1 leaves an axis alone.
    """

    shape: tuple[int, ...]
    factors: tuple[float, ...]

    @property
    def resampled(self) -> tuple[int, ...]:
        """Spatial shape in the other voxels; the last ones may reach beyond the image."""
        sizes = zip(self.shape, self.factors, strict=True)
        return tuple(max(1, math.ceil(n / f - 1e-6)) for n, f in sizes)

    def image_region(self, region: Region) -> Region:
        """The image's voxels that a region of the other voxels depends on."""
        return _support(region, self.factors, self.shape)

    def resampled_region(self, region: Region) -> Region:
        """The other voxels that a region of the image depends on, when it comes back."""
        return _support(region, [1 / f for f in self.factors], self.resampled)

    def read(self, image: Callable[[Region], np.ndarray], region: Region) -> np.ndarray:
        """A region of the other voxels (channels, *region) float32.

        ``image`` reads a region of the image; a few times a part of it where all would be too much.
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
        """A region of the image, from values (channels, *have) of `resampled_region`."""
        return _resample(values, have, wanted, [1 / f for f in self.factors])

    def image_edges(self, edges: Sequence[int], most: int) -> tuple[int, ...]:
        """Edges of a piece of the image for those of one in the other voxels.

        Halved where the piece would have more than ``most`` voxels.
        """
        sizes = zip(edges, self.factors, self.shape, strict=True)
        found = [max(1, min(round(e * f), n)) for e, f, n in sizes]
        while math.prod(found) > most and max(found) > 1:
            longest = found.index(max(found))
            found[longest] = -(-found[longest] // 2)
        return tuple(found)

    def view(self, stack: Stack) -> Stack:
        """The whole image in the other voxels, made as it is read; 3D ones along Z, too."""
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
    """Scaled intensities (channels, *region) float32 of a plane or volume, as a network sees them.

    ``region`` counts the voxels of ``resampling`` if there is one. Intensities are scaled first, so
    that a hot pixel is cut and NaN replaced before they spread.
    """

    def scaled(wanted: Region) -> np.ndarray:
        return normalization.apply(stack.read(plane, wanted))

    return scaled(region) if resampling is None else resampling.read(scaled, region)


def _sigma(factor: float) -> float:
    """Of the Gaussian before an axis gets so many times fewer voxels."""
    return max(0.0, (factor - 1) / 2)


def _correlation(factor: float) -> float:
    """Of the noise of neighbours along an axis that got so many times fewer pixels.

    0.2 pixels² is what interpolation adds to the Gaussian's variance.
    """
    return math.exp(-(factor**2) / (4 * (_sigma(factor) ** 2 + 0.2))) if factor > 1 else 0.0


def _support(region: Region, factors: Sequence[float], sizes: Sequence[int]) -> Region:
    spans = []
    for span, factor, size in zip(region, factors, sizes, strict=True):
        if factor == 1:
            spans.append(span)
            continue
        around = int(TRUNCATE * _sigma(factor) + 0.5)  # as ndimage.gaussian_filter1d has it
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
    """Linear interpolation along an axis whose first voxel has the number ``start``."""
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
    """An image in other voxels as an array (channels, *grid), read a region at a time."""

    def __init__(self, stack: Stack, resampling: Resampling) -> None:
        self._stack, self._resampling = stack, resampling
        self._dims = len(resampling.factors)
        leading = stack.leading_shape(self._dims)
        self.shape = (stack.n_channels, *leading, *resampling.resampled)
        self.dtype = np.dtype(np.float32)
        self.voxels_read = math.prod(resampling.factors)
        """So many voxels are read for each one."""
        self.coarser = stack if min(resampling.factors[-2:]) < 1 else None
        """The image where pixels were interpolated in Y or X: there is no noise between these."""
        alike = map(_correlation, resampling.factors[-2:])
        self.noise_gain = math.prod(1 / math.sqrt(1 - share) for share in alike)
        """Neighbours of blurred pixels differ by so many times less than their noise would tell."""

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        """What `Stack.read` asks for: a slice of channels, then integers and slices."""
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
