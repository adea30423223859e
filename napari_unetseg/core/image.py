"""Stacks: an image as it is on disk or in a layer, its axes, spacing and intensity range."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from napari_unetseg.core.errors import UserError

__all__ = ["Normalization", "Stack", "native"]

CHANNEL_AXES = "CS"
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.8
CLIP_LOW, CLIP_HIGH = -1.0, 3.0
"""Normalised values beyond these are cut, so that a hot pixel cannot drown its surroundings."""
DIFFERENT = 0.1
"""Training images whose ranges differ by more than this share are scaled each on its own."""
RESCALE_FACTOR = 6.0
"""An image whose range differs by more than this from the training images' is another bit depth."""
LARGE_PLANE = 4096**2
"""Of planes of more pixels, blocks are looked at instead of every n-th pixel."""


def _spread(size: int, blocks: int = 4, edge: int = 128) -> list[slice]:
    """Evenly spread pieces of an axis; all of it where it is short."""
    if size <= blocks * edge:
        return [slice(0, size)]
    starts = [(size - edge) * (2 * i + 1) // (2 * blocks) for i in range(blocks)]
    return [slice(start, start + edge) for start in starts]


def native(array: Any) -> np.ndarray:
    """A C-contiguous array in the machine's byte order, ready for torch.

    Booleans become uint8; complex and object arrays are refused with a `UserError`.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise UserError(
            f"This image holds values of type {array.dtype}; convert it to integers or floats."
        )
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _float32(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy as float32; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(array, np.float32, order="C")


def _array(piece: Any) -> Any:
    """What was cut from an array; dask arrays are read here.

    Dask's callbacks, which napari's cache is one of, are for one thread: in another, while the
    window reads planes, they fail now and then.
    """
    if type(piece).__module__.startswith("dask."):
        return piece.compute(scheduler="threads", callbacks=())
    return np.asarray(piece)


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
        What the user knows the image by, such as the file's stem.
    translate
        Where the centre of the first voxel lies along each axis, in its unit.
    colors
        Colour of each channel as ``#rrggbb``; empty where the file names none.
    notes
        What people should know of how the file was read, a sentence each.

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
                f"{self.name}: {len(shape)} axes of shape {shape} cannot be read as {self.axes!r}; "
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
        """Make a stack of an array; axes default to the last letters of ``TZYX``.

        A 3D array whose last axis has 3 or 4 entries and is the smallest by far is read as RGB
        (``YXS``).
        """
        return cls(data, axes or cls.default_axes(tuple(data.shape)), name=name)

    @staticmethod
    def default_axes(shape: tuple[int, ...]) -> str:
        """The letters of an array of which nothing is known; see `from_array`."""
        rgb = len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 8
        return "YXS" if rgb else "QPTZYX"[-len(shape) :]

    # -- shape ---------------------------------------------------------------------------------

    @property
    def channel_axis(self) -> int | None:
        """Position of the channel axis in ``axes``."""
        return next((i for i, a in enumerate(self.axes) if a in CHANNEL_AXES), None)

    @property
    def n_channels(self) -> int:
        """Channels that a network sees; the alpha of RGBA is not one."""
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
        """Where labels and masks begin, one number for each grid axis."""
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
            return native(_array(self.data[tuple(grid)]))[np.newaxis]
        grid.insert(channel, slice(0, self.n_channels))
        array = _array(self.data[tuple(grid)])
        return native(np.moveaxis(array, channel - min(channel, len(plane)), 0))

    def whole(self, dims: int) -> tuple[slice, ...]:
        """The region that covers a whole plane or volume."""
        return tuple(slice(0, s) for s in self.spatial_shape(dims))

    def renamed(self, name: str) -> Self:
        """The same stack under another name."""
        return replace(self, name=name)

    def probe(self, most: int = 8) -> Iterator[np.ndarray]:
        """A few planes (channels, Y, X), evenly spread and thinned to about 512² each.

        Of planes of more than 4096² pixels 16 evenly spread blocks of 128² are read, joined to
        512², since thinning would read all of their chunks.
        """
        shape = self.leading_shape(2)
        count = math.prod(shape)
        height, width = self.spatial_shape(2)
        thin = max(1, math.isqrt(height * width // 512**2))
        region = (slice(0, height, thin), slice(0, width, thin))
        read = height * width * getattr(self.data, "voxels_read", 1)  # of a resampled image
        for number in range(0, count, max(1, math.ceil(count / most))):
            plane = tuple(int(i) for i in np.unravel_index(number, shape)) if shape else ()
            yield self._blocks(plane) if read > LARGE_PLANE else self.read(plane, region)

    def _blocks(self, plane: tuple[int, ...]) -> np.ndarray:
        """Evenly spread blocks of a large plane beside one another: (channels, Y, X)."""
        rows, columns = (_spread(size) for size in self.spatial_shape(2))
        return np.concatenate(
            [np.concatenate([self.read(plane, (y, x)) for x in columns], axis=2) for y in rows],
            axis=1,
        )

    def fingerprint(self) -> str:
        """A name for the pixels: stays the same when the image is renamed or moved."""
        digest = hashlib.sha256(repr((self.grid_shape, self.n_channels)).encode())
        for piece in self.probe(2):
            digest.update(_float32(piece).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Normalization:
    """Linear scaling of each channel: ``low`` becomes 0 and ``high`` 1.

    Both are percentiles (1 and 99.8) of the training images, stored in the model. With
    ``per_image`` the percentiles of each whole image take their place, which are the better choice
    where brightness differs from image to image. Either way all planes and tiles of an image are
    scaled alike.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    fill: tuple[float, ...]
    per_image: bool = False

    @classmethod
    def estimate(cls, stacks: Sequence[Stack]) -> Self:
        """Percentiles of the pooled pixels of some planes of each stack.

        Raises
        ------
        UserError
            A channel has no finite value at all.
        """
        pieces = [piece for stack in stacks for piece in stack.probe()]
        rows = []
        for channel in range(stacks[0].n_channels):
            values = np.concatenate([_float32(p[channel]).ravel() for p in pieces])
            values = values[np.isfinite(values)]
            if not values.size:
                raise UserError(f"{stacks[0].name} has no finite pixel; choose another image.")
            rows.append(np.percentile(values, [LOW_PERCENTILE, HIGH_PERCENTILE, 50.0]))
        low, high, fill = (tuple(float(r[i]) for r in rows) for i in range(3))
        return cls(low, high, fill)

    @classmethod
    def choose(cls, stacks: Sequence[Stack], rule: str = "auto") -> Self:
        """Estimate, and choose between the range of all images and that of each.

        Parameters
        ----------
        stacks
            The training images.
        rule
            ``training``: the range of all; ``image``: that of each; ``auto``: that of each where
            some image's range lies off the common one by more than a tenth of it.
        """
        common = cls.estimate(stacks)
        if rule == "training" or (rule == "auto" and not common._differs(stacks)):
            return common
        return replace(common, per_image=True)

    def _differs(self, stacks: Sequence[Stack]) -> bool:
        for stack in stacks if len(stacks) > 1 else ():
            own = self.estimate([stack])
            for low, high, own_low, own_high in zip(
                self.low, self.high, own.low, own.high, strict=True
            ):
                if max(abs(own_low - low), abs(own_high - high)) > DIFFERENT * (high - low):
                    return True
        return False

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Scale an array (channels, *spatial) of any real dtype to float32.

        NaN and infinite values take the median of the training images. A constant channel
        becomes 0.
        """
        out = _float32(array)
        for channel, (low, high, fill) in enumerate(
            zip(self.low, self.high, self.fill, strict=True)
        ):
            values = out[channel]
            if array.dtype.kind == "f":
                np.copyto(values, fill, where=~np.isfinite(values))
            values -= low
            values /= (high - low) if high > low else 1.0
        return np.clip(out, CLIP_LOW, CLIP_HIGH, out=out)

    def for_stack(self, stack: Stack) -> tuple[Self, bool]:
        """This normalisation, or the stack's own one when its range is clearly another bit depth.

        The same picture saved with 8 bits, with 16 bits or as floats from 0 to 1 is recognised in
        this way. Returns the normalisation, and whether it is the stack's own against the rule.
        """
        own = type(self).estimate([stack])
        if self.per_image:
            return own, False
        ratios = [
            (o_high - o_low) / (high - low)
            for low, high, o_low, o_high in zip(self.low, self.high, own.low, own.high, strict=True)
            if high > low and o_high > o_low
        ]
        if ratios and all(r > RESCALE_FACTOR or r < 1 / RESCALE_FACTOR for r in ratios):
            return own, True
        return self, False
