"""How an image of another exposure is scaled for a model: the one place of this rule.

An image whose range lies within a tenth of that of the training images is scaled as they were,
another by its own percentiles, channel by channel. What shows hardly more than noise is not
stretched, and the hues of a colour picture are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_unetseg.core.intensities import Intensities, Profile

DIFFERENT = 0.1
"""Ranges whose ends differ by more than this share of the training images' are another exposure."""
OTHER_DEPTH = 6.0
"""Ranges that are wider or narrower by more than this factor are of another bit depth."""
FAINT = 0.25
"""A contrast of less than this share of the training images' shows little."""
USUAL_CONTRAST = 100.0
"""Training images of more contrast do not say how much noise a network can take."""
NOISE_ONLY, MOST_NOISE = 5.8, 10.0
"""The range of Gaussian noise is 5.2 standard deviations wide, and up to 9 with uneven light."""
SPECKS = 3.0
"""Debris and the like is brighter than all of the training images by more than this factor."""
SAME_GAIN = 2.5
"""Noise that differs by less than this factor may be of the same gain."""
DARK, BRIGHT = 0.25, 0.75
"""A background darker or brighter than these shares of the range may be cut off there."""
Known = tuple[str, "Trained", "Intensities"]
"""A channel's name, what is known of it in the training images, and what was measured."""


class How(Enum):
    """What the range of a channel is taken from."""

    FIXED = auto()
    """The training images."""
    OWN = auto()
    """The percentiles of the image."""
    NOISE = auto()
    """The noise of the image, which is to look as in the training images."""
    COLORS = auto()
    """The training images, times one factor for all colours."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a model knows of a channel of its training images; ``profile`` None: only the range."""

    low: float
    high: float
    profile: Profile | None

    @property
    def width(self) -> float:
        """Width of the range."""
        return self.high - self.low

    def share(self, value: float) -> float:
        """Where a value lies: 0 is ``low`` and 1 is ``high``."""
        return (value - self.low) / self.width if self.width > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of an image: ``low`` becomes 0 and ``high`` 1, and why."""

    name: str
    trained: Trained
    own: Intensities
    low: float
    high: float
    how: How


def fit_channels(
    channels: Sequence[Known], *, per_image: bool = False, keep: bool = False, colors: bool = False
) -> list[Channel]:
    """Choose the range of each channel of an image.

    Parameters
    ----------
    channels
        Name, what is known of the training images, and what was measured of the image.
    per_image
        The training images were scaled each by its own percentiles.
    keep
        The training images' range is to be kept, as far as the bit depth is the same.
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


def _fixed(channel: Known) -> Channel:
    return Channel(*channel, channel[1].low, channel[1].high, How.FIXED)


def _own(channel: Known) -> Channel:
    return Channel(*channel, channel[2].low, channel[2].high, How.OWN)


def _noise(channel: Known, width: float) -> Channel:
    """Noise and background are to look as in training; ``width`` is taken where no noise is."""
    _, trained, own = channel
    assert trained.profile is not None
    width = own.noise * min(trained.profile.contrast, USUAL_CONTRAST) or width or 1.0
    low = own.median - trained.profile.background * width
    return Channel(*channel, low, low + width, How.NOISE)


def _has_specks(trained: Trained, own: Intensities) -> bool:
    """Whether a few pixels that are far brighter than all else set the range, as debris does.

    The rest is as in the training images: the dark end, the noise, and the 99 or the 95 percentile
    where it shows structures there. Of another gain or a sparser image at once, debris cannot be
    told from structures.
    """
    if trained.profile is None or trained.share(own.high) < SPECKS:
        return False
    if abs(trained.share(own.low)) > DIFFERENT or _gain(trained, own) > SAME_GAIN:
        return False
    shapes = zip(trained.profile.shape[-2:], own.profile.shape[-2:], strict=True)
    found = [(usual, trained.share(own.low + share * own.width)) for usual, share in shapes]
    return any(usual >= FAINT and usual / 2 <= v <= usual + DIFFERENT for usual, v in found)


def _fit_channel(channel: Known) -> Channel:
    _, trained, own = channel
    if trained.width <= 0 or _is_alike(trained, own) or _has_specks(trained, own):
        return _fixed(channel)
    low, high = trained.share(own.low), trained.share(own.high)
    within = low >= -DIFFERENT and high <= 1 + DIFFERENT
    if trained.profile is None:  # what is dim may be without any signal
        usual = own.width == 0 or high - low > 1 / OTHER_DEPTH
        return _fixed(channel) if within and usual else _own(channel)
    alike = 1 / SAME_GAIN < _gain(trained, own) < SAME_GAIN or own.noise == 0
    if is_faint(trained, own) and within and alike:
        return _fixed(channel)
    return _noise(channel, trained.width) if is_noise(trained, own) else _own(channel)


def _gain(trained: Trained, own: Intensities) -> float:
    """How much more noise there is than in the training images."""
    assert trained.profile is not None
    return own.noise * trained.profile.contrast / trained.width


def _is_alike(trained: Trained, own: Intensities) -> bool:
    return max(abs(trained.share(own.low)), abs(trained.share(own.high) - 1)) <= DIFFERENT


def _fit_colors(channels: Sequence[Known]) -> list[Channel]:
    """A colour picture: light changes all colours alike, and dye only where there is some.

    Where one factor for all, that of white, makes the distribution of intensities at least as much
    like that of the training images as its own percentiles do, hues are kept.
    """
    if any(trained.profile is None for _, trained, _ in channels):
        return list(map(_own if _is_other_depth(channels) else _fixed, channels))
    fixed = list(map(_fixed, channels))
    if all(_is_alike(trained, own) for _, trained, own in channels):
        return fixed
    factor = median([own.high / t.high for _, t, own in channels if t.high > 0] or [1.0])
    if all(is_noise(trained, own) for _, trained, own in channels):
        blank = abs(factor - 1) <= DIFFERENT
        return fixed if blank else [_noise(channel, channel[1].width) for channel in channels]
    scaled = [Channel(*c, c[1].low * factor, c[1].high * factor, How.COLORS) for c in channels]
    ways = [fixed, scaled] if factor > 0 else [fixed]
    return min([*ways, list(map(_own, channels))], key=_misfit)


def _misfit(channels: Sequence[Channel]) -> float:
    """How far the percentiles are off those of the training images; 0 is best."""
    errors = []
    for channel in channels:
        own, profile = channel.own, channel.trained.profile
        assert profile is not None
        width = channel.high - channel.low or 1.0
        found = [(own.low + v * own.width - channel.low) / width for v in own.profile.shape]
        errors += [abs(a - b) for a, b in zip(found, profile.shape, strict=True)]
    return fmean(errors)


def is_faint(trained: Trained, own: Intensities) -> bool:
    """Whether there is so little contrast that nothing may be there but the background."""
    return _has_less_contrast(trained, own, USUAL_CONTRAST * FAINT)


def is_noise(trained: Trained, own: Intensities) -> bool:
    """Whether its own percentiles would stretch noise to what objects look like."""
    return _has_less_contrast(trained, own, MOST_NOISE)


def _has_less_contrast(trained: Trained, own: Intensities, most: float) -> bool:
    if trained.profile is None or is_saturated(trained.profile, own.profile):
        return False
    usual = trained.profile.contrast
    return own.profile.contrast < max(min(FAINT * usual, most), min(NOISE_ONLY, 0.7 * usual))


def is_saturated(trained: Profile, own: Profile) -> bool:
    """Whether more is cut off at the bright end than in the training images."""
    bright = trained.background > BRIGHT
    return own.top > (max(BRIGHT, (2 + trained.top) / 3) if bright else 0.01 + 2 * trained.top)


def is_cut_off(trained: Profile, own: Profile) -> bool:
    """Whether more is cut off at the dark end than in the training images."""
    dark = trained.background < DARK
    most = max(1 - DARK, (2 + trained.bottom) / 3) if dark else 0.05 + 2 * trained.bottom
    return own.bottom > most


def _is_other_depth(channels: Sequence[Known]) -> bool:
    ratios = [o.width / t.width for _, t, o in channels if t.width > 0 and o.width > 0]
    return bool(ratios) and all(r > OTHER_DEPTH or r < 1 / OTHER_DEPTH for r in ratios)
