"""Choice of the intensity range by which an image of another exposure is scaled.

An image whose range lies within a tenth of that of the training images is scaled by theirs,
another by its own percentiles, channel by channel. Images of little more than noise are not
stretched, and the hues of colour images are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_unetseg.core.intensities import Intensities, Profile

TOLERANCE = 0.1
"""Relative difference of the range's ends from which on the exposure differs."""
OTHER_DEPTH = 6.0
"""Ratio of the ranges from which on the bit depth differs."""
MIN_CONTRAST = 0.25
"""Contrast, relative to the training images, below which an image is faint."""
MAX_TRAINED_CONTRAST = 100.0
"""Contrast of training images above which it does not bound the noise that a network tolerates."""
NOISE_ONLY, MOST_NOISE = 5.8, 10.0
"""Width of the range in noise standard deviations: 5.2 for Gaussian noise, up to 9 with uneven
light.
"""
DEBRIS_FACTOR = 3.0
"""Factor over the training images' range from which on bright pixels are debris."""
SAME_GAIN = 2.5
"""Noise ratio below which the gain may be the same."""
DARK, BRIGHT = 0.25, 0.75
"""Fractions of the range beyond which the background may be cut off."""
Measured = tuple[str, "Trained", "Intensities"]
"""A channel's name, its profile in the training images, and its measured intensities."""


class Source(Enum):
    """Source of a channel's range."""

    FIXED = auto()
    """The training images."""
    OWN = auto()
    """The image's own percentiles."""
    NOISE = auto()
    """The image's noise, scaled to that of the training images."""
    COLORS = auto()
    """The training images, times one factor for all colours."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Intensities of a channel in the training images; ``profile`` None: only the range."""

    low: float
    high: float
    profile: Profile | None

    @property
    def width(self) -> float:
        """Width of the range."""
        return self.high - self.low

    def relative(self, value: float) -> float:
        """Relative position of a value: 0 at ``low``, 1 at ``high``."""
        return (value - self.low) / self.width if self.width > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel's chosen range and its source."""

    name: str
    trained: Trained
    own: Intensities
    low: float
    high: float
    how: Source


def fit_channels(
    channels: Sequence[Measured],
    *,
    per_image: bool = False,
    keep: bool = False,
    colors: bool = False,
) -> list[Channel]:
    """Choose the range of each channel of an image.

    Parameters
    ----------
    channels
        Name, training profile and measured intensities of each.
    per_image
        The training images were scaled each by its own percentiles.
    keep
        Keep the training images' range if the bit depth is the same.
    colors
        The channels are red, green and blue of one picture.
    """
    if per_image:
        return [_noise(c, 1.0) if is_noise(*c[1:]) else _own(c) for c in channels]
    if keep:
        return list(map(_own if _is_other_depth(channels) else _fixed, channels))
    if colors:
        return _fit_colors(channels)
    return [_fit_channel(channel) for channel in channels]


def _fixed(channel: Measured) -> Channel:
    return Channel(*channel, channel[1].low, channel[1].high, Source.FIXED)


def _own(channel: Measured) -> Channel:
    return Channel(*channel, channel[2].low, channel[2].high, Source.OWN)


def _noise(channel: Measured, width: float) -> Channel:
    """Scale noise and background as in training; ``width`` is the fallback without noise."""
    _, trained, own = channel
    assert trained.profile is not None
    width = own.noise * min(trained.profile.contrast, MAX_TRAINED_CONTRAST) or width or 1.0
    low = own.median - trained.profile.background * width
    return Channel(*channel, low, low + width, Source.NOISE)


def _has_debris(trained: Trained, own: Intensities) -> bool:
    """Whether a few very bright pixels, such as debris, set the range.

    The dark end, the noise and a high percentile must match the training images: with another gain
    or a sparser image, debris cannot be told from structures.
    """
    if trained.profile is None or trained.relative(own.high) < DEBRIS_FACTOR:
        return False
    if abs(trained.relative(own.low)) > TOLERANCE or _gain(trained, own) > SAME_GAIN:
        return False
    shapes = zip(trained.profile.shape[-2:], own.profile.shape[-2:], strict=True)
    found = [
        (usual, trained.relative(own.low + relative * own.width)) for usual, relative in shapes
    ]
    return any(usual >= MIN_CONTRAST and usual / 2 <= v <= usual + TOLERANCE for usual, v in found)


def _fit_channel(channel: Measured) -> Channel:
    _, trained, own = channel
    if trained.width <= 0 or _is_alike(trained, own) or _has_debris(trained, own):
        return _fixed(channel)
    low, high = trained.relative(own.low), trained.relative(own.high)
    within = low >= -TOLERANCE and high <= 1 + TOLERANCE
    if trained.profile is None:  # a faint image may have no signal
        usual = own.width == 0 or high - low > 1 / OTHER_DEPTH
        return _fixed(channel) if within and usual else _own(channel)
    alike = 1 / SAME_GAIN < _gain(trained, own) < SAME_GAIN or own.noise == 0
    if is_faint(trained, own) and within and alike:
        return _fixed(channel)
    return _noise(channel, trained.width) if is_noise(trained, own) else _own(channel)


def _gain(trained: Trained, own: Intensities) -> float:
    """Noise relative to the training images."""
    assert trained.profile is not None
    return own.noise * trained.profile.contrast / trained.width


def _is_alike(trained: Trained, own: Intensities) -> bool:
    return max(abs(trained.relative(own.low)), abs(trained.relative(own.high) - 1)) <= TOLERANCE


def _fit_colors(channels: Sequence[Measured]) -> list[Channel]:
    """Ranges of a colour image: one factor for all colours, that of white, keeps the hues.

    It is used where it fits the training images' distribution as well as the image's own
    percentiles.
    """
    if any(trained.profile is None for _, trained, _ in channels):
        return list(map(_own if _is_other_depth(channels) else _fixed, channels))
    fixed = list(map(_fixed, channels))
    if all(_is_alike(trained, own) for _, trained, own in channels):
        return fixed
    factor = median([own.high / t.high for _, t, own in channels if t.high > 0] or [1.0])
    if all(is_noise(trained, own) for _, trained, own in channels):
        blank = abs(factor - 1) <= TOLERANCE
        return fixed if blank else [_noise(channel, channel[1].width) for channel in channels]
    scaled = [Channel(*c, c[1].low * factor, c[1].high * factor, Source.COLORS) for c in channels]
    ways = [fixed, scaled] if factor > 0 else [fixed]
    return min([*ways, list(map(_own, channels))], key=_misfit)


def _misfit(channels: Sequence[Channel]) -> float:
    """Largest deviation of the percentiles from those of the training images."""
    errors = []
    for channel in channels:
        own, profile = channel.own, channel.trained.profile
        assert profile is not None
        width = channel.high - channel.low or 1.0
        found = [(own.low + v * own.width - channel.low) / width for v in own.profile.shape]
        errors += [abs(a - b) for a, b in zip(found, profile.shape, strict=True)]
    return fmean(errors)


def is_faint(trained: Trained, own: Intensities) -> bool:
    """Whether the contrast is so low that only background may be visible."""
    return _has_less_contrast(trained, own, MAX_TRAINED_CONTRAST * MIN_CONTRAST)


def is_noise(trained: Trained, own: Intensities) -> bool:
    """Whether its own percentiles would stretch noise to the contrast of objects."""
    return _has_less_contrast(trained, own, MOST_NOISE)


def _has_less_contrast(trained: Trained, own: Intensities, most: float) -> bool:
    if trained.profile is None or is_saturated(trained.profile, own.profile):
        return False
    usual = trained.profile.contrast
    return own.profile.contrast < max(min(MIN_CONTRAST * usual, most), min(NOISE_ONLY, 0.7 * usual))


def is_saturated(trained: Profile, own: Profile) -> bool:
    """Whether more is cut off at the bright end than in the training images."""
    bright = trained.background > BRIGHT
    return own.top > (max(BRIGHT, (2 + trained.top) / 3) if bright else 0.01 + 2 * trained.top)


def is_cut_off(trained: Profile, own: Profile) -> bool:
    """Whether more is cut off at the dark end than in the training images."""
    dark = trained.background < DARK
    most = max(1 - DARK, (2 + trained.bottom) / 3) if dark else 0.05 + 2 * trained.bottom
    return own.bottom > most


def _is_other_depth(channels: Sequence[Measured]) -> bool:
    ratios = [o.width / t.width for _, t, o in channels if t.width > 0 and o.width > 0]
    return bool(ratios) and all(r > OTHER_DEPTH or r < 1 / OTHER_DEPTH for r in ratios)
