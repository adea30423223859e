"""Intensity statistics of a channel: range, noise, distribution, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Self

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.pixel_access import as_float32, finite_values

LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.8
SHAPE_PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0, 99.0)
LARGEST_CONTRAST = 1e4
"""Contrast of an image without noise, such as a drawing."""
LEVELS_FROM = 2**16
"""Pixels in which grey levels are counted."""
LEAST_PADDING, MOST_PADDING = 0.002, 0.9
"""Fractions of padding below which it does not change the range, and above which little is left."""
PADDING_GAP = 0.01
"""Least gap between padding and all else, as a fraction of the range."""
ONE_PIECE = 0.9
"""Fraction of lines in which the image is contiguous: background that was set to 0 also lies
between
objects, padding does not.
"""


Piece = tuple[np.ndarray, Sequence[np.ndarray]]
"""A plane (channels, Y, X), maybe thinned, and crops of it in full resolution."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Intensity distribution of a channel, independent of gain and offset."""

    contrast: float
    """Range (1 to 99.8 percentile) in standard deviations of the noise."""
    shape: tuple[float, ...]
    """The percentiles of `SHAPE_PERCENTILES`, as fractions of the range."""
    bottom: float
    top: float
    """Fractions of the pixels with the smallest and the largest value."""
    levels: int
    """Grey levels in the range."""

    @classmethod
    def typical(cls, profiles: Sequence[Profile]) -> Self:
        """Mean of several profiles; of clipping and levels the worst."""
        return cls(
            median(p.contrast for p in profiles),
            tuple(map(fmean, zip(*(p.shape for p in profiles), strict=True))),
            max(p.bottom for p in profiles),
            max(p.top for p in profiles),
            min(p.levels for p in profiles),
        )

    @property
    def background(self) -> float:
        """Mode as a fraction of the range: the middle of the densest quarter."""
        ends = zip(self.shape[:4], self.shape[1:5], SHAPE_PERCENTILES, SHAPE_PERCENTILES[1:])  # noqa: B905 - the last of the percentiles is the tail
        return min(((b - a) / (q - p), (a + b) / 2) for a, b, p, q in ends)[1]

    def distances(self, other: Profile) -> tuple[float, float]:
        """Mean percentile difference from another profile, and from its negative."""
        ours, theirs = ([v / (p.shape[-1] or 1.0) for v in p.shape[:-1]] for p in (self, other))
        negative = [1 - v for v in reversed(theirs)]
        straight, flipped = (
            fmean(abs(a - b) for a, b in zip(ours, those, strict=True))
            for those in (theirs, negative)
        )
        return straight, flipped


@dataclass(frozen=True, slots=True)
class Intensities:
    """Measured intensities of a channel."""

    low: float
    high: float
    median: float
    """The 1, 99.8 and 50 percentile."""
    smallest: float
    largest: float
    """The extreme values."""
    noise: float
    """Standard deviation of the noise."""
    profile: Profile
    """Their distribution."""
    padding: float = math.nan
    """Fill value of registration or stitching, excluded from all others; NaN without one."""

    @property
    def width(self) -> float:
        """Width of the range."""
        return self.high - self.low

    @classmethod
    def measure(cls, values: np.ndarray, details: Sequence[np.ndarray]) -> Self:
        """Measure a channel.

        Parameters
        ----------
        values
            Its pixels, flat, finite, float32; at least one.
        details
            Crops (Y, X) in full resolution, float32, for the noise.
        """
        percentiles = [LOW_PERCENTILE, HIGH_PERCENTILE, 0.0, 50.0, 100.0, *SHAPE_PERCENTILES]
        found = [float(v) for v in np.percentile(values, percentiles)]
        low, high, smallest, middle, largest = found[:5]
        width = high - low
        noise = _noise(details, width)
        some = values[:: max(1, len(values) // LEVELS_FROM)]
        profile = Profile(
            contrast=width / max(noise, width / LARGEST_CONTRAST) if width else 0.0,
            shape=tuple((v - low) / width if width else 0.0 for v in found[5:]),
            bottom=float((values == np.float32(smallest)).mean()),
            top=float((values == np.float32(largest)).mean()),
            levels=len(np.unique(some[(some >= low) & (some <= high)])),
        )
        return cls(low, high, middle, smallest, largest, noise, profile)


def range_of(images: Sequence[Sequence[np.ndarray]]) -> tuple[float, float, float]:
    """The 1, 99.8 and 50 percentile of planes (Y, X) of some images, without padding."""
    shown = []
    for planes in images:
        values = finite_values(planes)
        shown.append(values[values != _padding(planes, values)])
    found = np.percentile(np.concatenate(shown), [LOW_PERCENTILE, HIGH_PERCENTILE, 50.0])
    low, high, middle = map(float, found)
    return low, high, middle


def measure_channels(name: str, pieces: Sequence[Piece]) -> list[Intensities]:
    """Measure each channel of an image.

    Parameters
    ----------
    name
        Of the image.
    pieces
        As `Stack.probe_details` yields them.

    Raises
    ------
    UserError
        A channel has no finite value at all.
    """
    found = []
    for channel in range(len(pieces[0][0])):
        planes = [piece[channel] for piece, _ in pieces]
        values = finite_values(planes)
        if not values.size:
            raise UserError(f"{name} has no finite pixel; choose another image.")
        details = [as_float32(detail[channel]) for _, details in pieces for detail in details]
        padding = _padding(planes, values)
        if not math.isnan(padding):
            values = values[values != padding]
            details = [np.where(detail == padding, np.nan, detail) for detail in details]
        found.append(replace(Intensities.measure(values, details), padding=padding))
    return found


def _noise(details: Sequence[np.ndarray], most: float) -> float:
    """Standard deviation of the noise, from diagonal second differences, in which slopes cancel.

    A mean, since in 8 bits most differences may be 0; each is clipped to the range because of hot
    pixels.
    """
    total, count = 0.0, 0
    for piece in details:
        with np.errstate(over="ignore", invalid="ignore"):  # next to pixels that are not finite
            found = np.abs(piece[:-1, :-1] - piece[:-1, 1:] - piece[1:, :-1] + piece[1:, 1:]) / 2
        found = found[np.isfinite(found)]
        total += float(np.minimum(found, most).sum(dtype=np.float64))
        count += found.size
    return total / count * math.sqrt(math.pi / 2) if count else 0.0


def _padding(planes: Sequence[np.ndarray], values: np.ndarray) -> float:
    """Fill value of padded pixels; NaN without any."""
    smallest = values.min(initial=np.inf)
    black = values == smallest
    if not LEAST_PADDING <= black.sum() / max(1, len(black)) <= MOST_PADDING:
        return math.nan
    rest = values[~black]
    low, high = np.percentile(rest, [0.1, HIGH_PERCENTILE])
    steps = np.diff(np.unique(rest[:: max(1, len(rest) // LEVELS_FROM)]))
    if len(steps) < 2 or low - smallest <= max(PADDING_GAP * (high - low), 3 * np.median(steps)):
        return math.nan
    shown = [as_float32(plane) != smallest for plane in planes]
    surrounds = all(_in_one_piece(shown, axis) >= ONE_PIECE for axis in (0, 1))
    return float(smallest) if surrounds else math.nan


def _in_one_piece(shown: Sequence[np.ndarray], axis: int) -> float:
    """Fraction of the lines along an axis in which the image has no gap."""
    changes = [np.diff(plane.astype(np.int8), axis=axis) != 0 for plane in shown]
    ends = np.concatenate([change.sum(axis=axis) for change in changes])
    edges = np.concatenate([np.take(p, 0, axis) | np.take(p, -1, axis) for p in shown])
    some = np.concatenate([plane.any(axis=axis) for plane in shown])
    whole = (ends <= 1) | ((ends == 2) & ~edges)
    return float(whole[some].mean()) if some.any() else 0.0
