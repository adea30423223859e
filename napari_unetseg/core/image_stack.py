"""Image stacks: a lazy array with axes, voxel size, units and intensity range."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.exposure import (
    TOLERANCE,
    Channel,
    Source,
    Trained,
    fit_channels,
)
from napari_unetseg.core.exposure_notices import describe, describe_uneven
from napari_unetseg.core.intensities import Intensities, Profile, measure_channels, range_of
from napari_unetseg.core.pixel_access import as_float32, native, read_array, spread

if TYPE_CHECKING:
    from napari_unetseg.core.events import Notice

CHANNEL_AXES = "CS"
CLIP_LOW, CLIP_HIGH = -1.0, 3.0
"""Normalised values are clipped to these, so that a hot pixel does not dominate."""
LARGE_PLANE = 4096**2
"""Pixels of a plane above which blocks are sampled instead of every n-th pixel."""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A lazy array with the meaning of its axes.

    Attributes
    ----------
    data
        Anything with ``shape``, ``dtype`` and NumPy slicing: NumPy, dask, zarr.
    axes
        One letter for each axis of ``data``: at most one of ``C`` (channels) and ``S`` (RGB
        samples), anywhere; without it the letters end in ``YX`` or ``ZYX``. Other letters
        (``T`` and whatever else) are leading axes.
    spacing
        Size of a voxel along each axis of ``axes``; 1.0 where it has no meaning or is unknown.
    units
        Unit of each spacing, a Pint name such as ``um`` or ``s``; ``pixel`` where unknown.
    channels
        Name of each channel.
    name
        Display name, such as the file's stem.
    translate
        Position of the first voxel's centre along each axis, in its unit.
    colors
        Colour of each channel as ``#rrggbb``; empty where the file names none.
    notes
        Sentences about how the file was read.

    Raises
    ------
    UserError
        Axes and shape do not agree, or an axis is empty.
    """

    data: Any
    axes: str
    spacing: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    name: str = "image"
    translate: tuple[float, ...] = ()
    colors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.data.shape)
        if len(shape) != len(self.axes) or len(set(self.axes)) != len(self.axes):
            raise UserError(
                f"{self.name}: {len(shape)} axes of shape {shape} do not match {self.axes!r}; "
                "name each axis with one letter."
            )
        if not self.grid_axes.endswith("YX") or set(CHANNEL_AXES) <= set(self.axes):
            raise UserError(
                f"{self.name}: the axes {self.axes!r} must end in YX or ZYX, with at most one of "
                "C (channels) and S (RGB) anywhere."
            )
        if 0 in shape:
            raise UserError(f"{self.name}: an image of shape {shape} is empty; choose another.")
        n = len(self.axes)
        object.__setattr__(self, "spacing", tuple(self.spacing) or (1.0,) * n)
        object.__setattr__(self, "units", tuple(self.units) or ("pixel",) * n)
        object.__setattr__(self, "translate", tuple(self.translate) or (0.0,) * n)
        if not len(self.spacing) == len(self.units) == len(self.translate) == n:
            raise UserError(
                f"{self.name}: spacing, units and translation need {n} entries, "
                f"one for each of {self.axes}."
            )
        if len(self.channels) != self.n_channels:
            names = tuple(f"channel {i + 1}" for i in range(self.n_channels))
            object.__setattr__(self, "channels", names)
        if len(self.colors) != self.n_channels:
            object.__setattr__(self, "colors", ())

    @classmethod
    def from_array(cls, data: Any, axes: str | None = None, name: str = "image") -> Self:
        """A stack of an array; axes default to the last letters of ``TZYX``.

        A 3D array whose last axis has 3 or 4 entries and is the smallest by far is read as RGB
        (``YXS``).
        """
        return cls(data, axes or cls.default_axes(tuple(data.shape)), name=name)

    @staticmethod
    def default_axes(shape: tuple[int, ...]) -> str:
        """Default axes of an array; see `from_array`."""
        rgb = len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 8
        return "YXS" if rgb else "QPTZYX"[-len(shape) :]

    # -- shape ---------------------------------------------------------------------------------

    @property
    def channel_axis(self) -> int | None:
        """Position of the channel axis in ``axes``."""
        return next((i for i, a in enumerate(self.axes) if a in CHANNEL_AXES), None)

    @property
    def n_channels(self) -> int:
        """Channels that a network sees, without the alpha of RGBA."""
        axis = self.channel_axis
        if axis is None:
            return 1
        size = int(self.data.shape[axis])
        return {2: 1, 4: 3}.get(size, size) if self.axes[axis] == "S" else size

    def _of_grid(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(v for v, a in zip(values, self.axes, strict=True) if a not in CHANNEL_AXES)

    @property
    def grid_axes(self) -> str:
        """Axes of labels and masks: all but the channels."""
        return "".join(a for a in self.axes if a not in CHANNEL_AXES)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Shape of labels and masks."""
        return tuple(int(s) for s in self._of_grid(self.data.shape))

    @property
    def grid_spacing(self) -> tuple[float, ...]:
        """Spacing of labels and masks, one number for each grid axis."""
        return self._of_grid(self.spacing)

    @property
    def grid_units(self) -> tuple[str, ...]:
        """Units of labels and masks, one for each grid axis."""
        return self._of_grid(self.units)

    @property
    def grid_translate(self) -> tuple[float, ...]:
        """Position of the first voxel's centre along each grid axis."""
        return self._of_grid(self.translate)

    def check_dims(self, dims: int) -> None:
        """Raise `UserError` unless the stack has that many spatial axes."""
        if dims == 3 and not self.grid_axes.endswith("ZYX"):
            raise UserError(
                f"{self.name} has the axes {self.axes} and no Z axis; "
                "choose 2D planes instead of a 3D volume."
            )

    def leading_shape(self, dims: int) -> tuple[int, ...]:
        """Shape of the axes before the spatial ones (time, position; also Z for 2D)."""
        return self.grid_shape[:-dims]

    def spatial_shape(self, dims: int) -> tuple[int, ...]:
        """Shape of the last ``dims`` grid axes: YX or ZYX."""
        return self.grid_shape[-dims:]

    def spatial_spacing(self, dims: int) -> tuple[float, ...]:
        """Spacing of the last ``dims`` grid axes."""
        return self.grid_spacing[-dims:]

    def planes(self, dims: int) -> Iterator[tuple[int, ...]]:
        """Every index of the leading axes, in order; one empty tuple when there are none."""
        return iter(np.ndindex(*self.leading_shape(dims)))

    # -- reading -------------------------------------------------------------------------------

    def read(self, plane: tuple[int, ...], region: tuple[slice, ...]) -> np.ndarray:
        """Read a region of one plane or volume.

        Parameters
        ----------
        plane
            Index of each leading axis.
        region
            A slice for each spatial axis.

        Returns
        -------
        numpy.ndarray
            (channels, *region), in the machine's byte order.
        """
        grid: list[Any] = [*plane, *region]
        channel = self.channel_axis
        if channel is None:
            return native(read_array(self.data[tuple(grid)]))[np.newaxis]
        grid.insert(channel, slice(0, self.n_channels))
        array = read_array(self.data[tuple(grid)])
        return native(np.moveaxis(array, channel - min(channel, len(plane)), 0))

    def whole(self, dims: int) -> tuple[slice, ...]:
        """The region that covers a whole plane or volume."""
        return tuple(slice(0, s) for s in self.spatial_shape(dims))

    def renamed(self, name: str) -> Self:
        """The same stack under another name."""
        return replace(self, name=name)

    def probe(self, most: int = 8) -> Iterator[np.ndarray]:
        """A few evenly spaced planes (channels, Y, X), thinned to about 512² each.

        Of planes of more than 4096² pixels 16 evenly spaced blocks of 128² are read, joined to
        512², since thinning would read all of their chunks.
        """
        return map(self._thinned, self._probed(most))

    def probe_details(self, most: int = 8) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """As `probe`, with crops (channels, Y, X) of each plane in full resolution.

        Noise is measured in them. Of interpolated images they come from the source image, all with
        the first plane; blurred ones are scaled to the noise that was lost.
        """
        if (coarser := getattr(self.data, "coarser", None)) is not None:
            details = [one for _, some in coarser.probe_details(most) for one in some]
            for piece in self.probe(most):
                yield piece, details
                details = []
            return
        planes, gain = self._probed(most), getattr(self.data, "noise_gain", 1.0)
        for plane in planes:
            piece = self._thinned(plane)
            details = [piece]
            if self._thin > 1 and not self._is_large:
                rows = self._blocks(plane, 2 if len(planes) < 4 else 1)
                details = [block for row in rows for block in row]
            yield piece, details if gain == 1 else [gain * detail for detail in details]

    @property
    def _thin(self) -> int:
        return max(1, math.isqrt(math.prod(self.spatial_shape(2)) // 512**2))

    @property
    def _is_large(self) -> bool:
        read = getattr(self.data, "voxels_read", 1)  # of a resampled image
        return math.prod(self.spatial_shape(2)) * read > LARGE_PLANE

    def probed_places(self) -> list[str]:
        """Name, such as ``T 7``, of each plane of `probe`; empty for one volume."""
        axis = next((n for n, letter in enumerate(self.grid_axes[:-2]) if letter != "Z"), None)
        if axis is None:
            return []
        return [f"{self.grid_axes[axis]} {plane[axis]}" for plane in self._probed(8)]

    def _probed(self, most: int) -> list[tuple[int, ...]]:
        shape = self.leading_shape(2)
        count = math.prod(shape)
        numbers = range(0, count, max(1, math.ceil(count / most)))
        return [tuple(map(int, np.unravel_index(n, shape))) if shape else () for n in numbers]

    def _thinned(self, plane: tuple[int, ...]) -> np.ndarray:
        if not self._is_large:
            height, width = self.spatial_shape(2)
            return self.read(plane, (slice(0, height, self._thin), slice(0, width, self._thin)))
        rows = [np.concatenate(row, axis=2) for row in self._blocks(plane, 4)]
        return np.concatenate(rows, axis=1)

    def _blocks(self, plane: tuple[int, ...], count: int) -> list[list[np.ndarray]]:
        """Rows of evenly spaced blocks (channels, Y, X) of a plane."""
        rows, columns = (spread(size, count) for size in self.spatial_shape(2))
        return [[self.read(plane, (y, x)) for x in columns] for y in rows]

    def fingerprint(self) -> str:
        """Hash of sampled pixels, independent of name and path."""
        digest = hashlib.sha256(repr((self.grid_shape, self.n_channels)).encode())
        for piece in self.probe(2):
            digest.update(as_float32(piece).tobytes())
        return digest.hexdigest()[:16]


def _measure(stack: Stack) -> list[Intensities]:
    """Measure each channel of some planes."""
    return measure_channels(stack.name, list(stack.probe_details()))


@dataclass(frozen=True, slots=True)
class Normalization:
    """Linear scaling of each channel: ``low`` becomes 0 and ``high`` 1.

    Both are percentiles (1 and 99.8) of the training images, stored in the model. An image of
    another exposure, or with ``per_image`` every image, is scaled by its own percentiles: see
    `exposure`. All planes and tiles of an image are scaled alike.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    fill: tuple[float, ...]
    """The 1, 99.8 and 50 percentile of each channel."""
    per_image: bool = False
    """Every image is scaled by its own percentiles."""
    keep: bool = False
    """Images of another exposure are scaled by ``low`` and ``high`` too."""
    profiles: tuple[Profile, ...] = ()
    """Intensity distribution of each channel in the training images; empty in older files."""
    padding: tuple[float, ...] = ()
    """Of one image: value of padded pixels in each channel, which are replaced by background; NaN
    without any."""

    @classmethod
    def _pooled(cls, stacks: Sequence[Stack], each: Sequence[Sequence[Intensities]]) -> Self:
        profiles = tuple(
            Profile.typical([o.profile for o in own]) for own in zip(*each, strict=True)
        )
        rows = [(own.low, own.high, own.median) for own in each[0]]
        if len(stacks) > 1:
            pieces = [list(stack.probe()) for stack in stacks]
            rows = [range_of([[p[n] for p in own] for own in pieces]) for n in range(len(rows))]
        low, high, fill = (tuple(column) for column in zip(*rows, strict=True))
        return cls(low, high, fill, profiles=profiles)

    @classmethod
    def choose(cls, stacks: Sequence[Stack], rule: str = "auto") -> Self:
        """Estimate, and choose between a common range and one for each image.

        Parameters
        ----------
        stacks
            The training images.
        rule
            ``training``: the range of all, for images of another exposure too; ``image``: that of
            each; ``auto``: that of each where some image's range lies off the common one by more
            than a tenth of it.

        Raises
        ------
        UserError
            A channel has no finite value at all.
        """
        each = [_measure(stack) for stack in stacks]
        common = cls._pooled(stacks, each)
        differ = len(stacks) > 1 and any(map(common._differs, each))
        per_image = rule == "image" or (rule == "auto" and differ)
        return replace(common, per_image=per_image, keep=rule == "training")

    def _differs(self, own: Sequence[Intensities]) -> bool:
        return any(
            max(abs(one.low - low), abs(one.high - high)) > TOLERANCE * (high - low)
            for low, high, one in zip(self.low, self.high, own, strict=True)
        )

    def going_on(self, stacks: Sequence[Stack]) -> Self:
        """For continued training on other images: per-image ranges if one's range differs."""
        if self.per_image or self.keep:
            return self
        alike = [stack for stack in stacks if stack.n_channels == len(self.low)]
        others = (
            channel.how is Source.OWN
            for stack in alike
            for channel in self._fit(stack, _measure(stack))
        )
        return replace(self, per_image=True) if any(others) else self

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Scale an array (channels, *spatial) of any real dtype to float32.

        NaN and infinite values take the median of the training images. A constant channel
        becomes 0.
        """
        out = as_float32(array)
        for channel, (low, high, fill) in enumerate(
            zip(self.low, self.high, self.fill, strict=True)
        ):
            values = out[channel]
            if array.dtype.kind == "f":
                np.copyto(values, fill, where=~np.isfinite(values))
            if self.padding:
                ground = self.profiles[channel].background if self.profiles else 0.0
                padding = values == np.float32(self.padding[channel])
                np.copyto(values, low + ground * (high - low), where=padding)
            values -= low
            values /= (high - low) if high > low else 1.0
        return np.clip(out, CLIP_LOW, CLIP_HIGH, out=out)

    def for_stack(self, stack: Stack) -> tuple[Self, tuple[Notice, ...]]:
        """Scaling for a stack, with notices.

        There are none for an image that is scaled as the model's training images and could be one
        of them.
        """
        pieces = list(stack.probe_details())
        channels = self._fit(stack, measure_channels(stack.name, pieces))
        notices = describe(stack.name, channels, per_image=self.per_image, keep=self.keep)
        notices += describe_uneven(stack.name, channels, stack.probed_places(), pieces)
        padding = tuple(channel.own.padding for channel in channels)
        padding = () if all(map(math.isnan, padding)) else padding
        if all(channel.how is Source.FIXED for channel in channels):
            return replace(self, padding=padding) if padding else self, tuple(notices)
        fill = tuple(
            usual if channel.how is Source.FIXED else channel.own.median
            for channel, usual in zip(channels, self.fill, strict=True)
        )
        low, high = tuple(c.low for c in channels), tuple(c.high for c in channels)
        scaled = replace(self, low=low, high=high, fill=fill, padding=padding)
        return scaled, tuple(notices)

    def _fit(self, stack: Stack, measured: Sequence[Intensities]) -> list[Channel]:
        known = self.profiles or (None,) * len(self.low)
        trained = [Trained(*row) for row in zip(self.low, self.high, known, strict=True)]
        return fit_channels(
            list(zip(stack.channels, trained, measured, strict=True)),
            per_image=self.per_image,
            keep=self.keep,
            colors="S" in stack.axes,
        )
