"""Notices about the scaling of images of another exposure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from napari_unetseg.core.events import FlatImage, Notice
from napari_unetseg.core.exposure import (
    TOLERANCE,
    Channel,
    Source,
    is_cut_off,
    is_faint,
    is_noise,
    is_saturated,
)
from napari_unetseg.core.intensities import Piece, Profile, measure_channels

FEWEST_LEVELS = 16
SAME_WHITE = 0.05
"""Relative difference of white that is not mentioned."""
INVERTED = 0.25
"""Mean percentile difference above which an image may be inverted; its negative has less than half.
"""
DARK_PLANE = 0.25
"""Fraction of the range below which a plane is too dark to be segmented."""
MOST_CHANNELS = 3
"""Most channels whose ranges are named."""
Measured = tuple[Channel, Profile]
"""A channel, and the profile of the training images."""


def describe(
    name: str, channels: Sequence[Channel], *, per_image: bool, keep: bool
) -> list[Notice]:
    """Describe a scaling that differs from the model's, and warn of what no scaling can fix.

    Parameters
    ----------
    name, channels
        The image's name, and its channels.
    per_image, keep
        As of `fit_channels`.
    """
    blank = [c for c in channels if c.trained.profile and c.own.smallest == c.own.largest]
    if len(blank) == len(channels):
        value = _number(channels[0].own.largest)
        return [
            FlatImage(
                f"{name} has the same value everywhere ({value}), so there is nothing to segment.",
                warning=True,
            )
        ]
    if blank:
        names = ", ".join(channel.name for channel in blank)
        return [
            _warning(
                f"{name} has the same value everywhere in {names}, so the mask may be wrong; check "
                "that all channels were saved."
            ),
            *describe(
                name, [c for c in channels if c not in blank], per_image=per_image, keep=keep
            ),
        ]
    scaling = _scaling(name, channels, per_image=per_image, keep=keep)
    return [*scaling, *_lost(name, channels)]


def describe_uneven(
    name: str, channels: Sequence[Channel], places: Sequence[str], pieces: Sequence[Piece]
) -> list[Notice]:
    """Warn of planes much darker than the common range.

    Parameters
    ----------
    name, channels
        The image's name, and its channels.
    places, pieces
        Names of planes, such as ``T 7``, and their pixels as for `measure_channels`.
    """
    found = []
    for place, piece in zip(places, pieces, strict=bool(places)):
        if not np.isfinite(piece[0]).any(axis=(1, 2)).all():
            continue
        for channel, own in zip(channels, measure_channels(name, [piece]), strict=True):
            relative = own.width / (channel.high - channel.low or 1.0)
            noise = channel.how is Source.NOISE or is_noise(channel.trained, own)
            if 0 < relative < DARK_PLANE and not noise:
                found.append((relative, place, own, channel))
    if not found:
        return []
    _, place, own, channel = min(found, key=lambda each: each[0])
    return [
        _warning(
            f"{name} has planes that are much darker than others, such as {place} "
            f"({_range(own.low, own.high)}), and all are scaled by the same range "
            f"({_range(channel.low, channel.high)}), so the mask may be wrong there; correct "
            "the bleaching first, or predict the dark planes as separate images."
        )
    ]


def _warning(text: str) -> Notice:
    return Notice(text, warning=True)


# -- how it is scaled ------------------------------------------------------------------------------


def _scaling(
    name: str, channels: Sequence[Channel], *, per_image: bool, keep: bool
) -> list[Notice]:
    found = []
    of = {how: [channel for channel in channels if channel.how is how] for how in Source}
    if (own := of[Source.OWN]) and not per_image:
        than = _compared(name, own, len(channels))
        found.append(Notice(f"{than}: scaled by its own percentiles."))
    colors = of[Source.COLORS]
    factor = colors[0].trained.high / colors[0].high if colors else 1.0
    if abs(factor - 1) > SAME_WHITE:
        than = _compared(name, colors, len(channels))
        found.append(Notice(f"{than}: its colours are multiplied by {factor:.2g}."))
    if noise := of[Source.NOISE]:
        names = ", ".join(channel.name for channel in noise)
        where = f" in {names}" if len(noise) < len(channels) else ""
        found.append(
            Notice(
                f"{name} shows hardly more than noise{where}: scaled so that the noise is as in "
                "the training images."
            )
        )
    if keep and (other := [channel for channel in of[Source.FIXED] if _is_other(channel)]):
        found.append(
            _warning(
                f"{_compared(name, other, len(channels))}, but this model keeps their range, so "
                "the mask may be wrong; train with the normalization 'auto' for such images."
            )
        )
    return found


def _is_other(channel: Channel) -> bool:
    ends = _ends(channel)
    return max(map(abs, ends)) > TOLERANCE and not is_faint(channel.trained, channel.own)


def _ends(channel: Channel) -> tuple[float, float]:
    """Relative deviation of the range's ends from those of the training images."""
    trained, own = channel.trained, channel.own
    return trained.relative(own.low), trained.relative(own.high) - 1


def _compared(name: str, channels: Sequence[Channel], count: int) -> str:
    """Such as ``cells is brighter than the training images (5 to 90 instead of 1 to 20)``."""
    low, high = (fmean(column) for column in zip(*map(_ends, channels), strict=True))
    if low * high < 0 and min(abs(low), abs(high)) > TOLERANCE:
        how = "has less contrast than" if low > 0 else "has more contrast than"
    else:
        how = "is brighter than" if low + high > 0 else "is darker than"
    ranges = [
        f"{channel.name + ' ' if count > 1 else ''}{_range(channel.own.low, channel.own.high)} "
        f"instead of {_range(channel.trained.low, channel.trained.high)}"
        for channel in channels
    ]
    ranges_text = f" ({', '.join(ranges)})" if len(channels) <= MOST_CHANNELS else ""
    return f"{name} {how} the training images{ranges_text}"


def _range(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


# -- what no scaling can mend ----------------------------------------------------------------------


def _lost(name: str, channels: Sequence[Channel]) -> list[Notice]:
    """The first reason why the mask may be wrong whatever the scaling."""
    known = [
        (channel, trained)
        for channel in channels
        if (trained := channel.trained.profile) and not is_faint(channel.trained, channel.own)
    ]
    found = (look(known) for look in (_saturated, _cut_off, _coarse, _inverted))
    return [_warning(f"{name} {text}") for text in found if text][:1]


def _saturated(channels: Sequence[Measured]) -> str:
    shares = [(c.own.profile.top, t.top) for c, t in channels if is_saturated(t, c.own.profile)]
    if not shares:
        return ""
    relative, usual = map(_percent, max(shares))
    return (
        f"is saturated: {relative} of its pixels have the largest value ({usual} in the training "
        "images), so the mask may be wrong; acquire it with a shorter exposure, or train on "
        "such images."
    )


def _cut_off(channels: Sequence[Measured]) -> str:
    shares = [(c.own.profile.bottom, t.bottom) for c, t in channels if is_cut_off(t, c.own.profile)]
    if not shares:
        return ""
    relative, usual = map(_percent, max(shares))
    return (
        f"is clipped at the dark end: {relative} of its pixels have the smallest value ({usual} in "
        "the training images), so the mask may be wrong; acquire it with a longer exposure or a "
        "higher offset, or train on such images."
    )


def _coarse(channels: Sequence[Measured]) -> str:
    scaled = [(c.own.profile.levels, t.levels) for c, t in channels if c.how is not Source.FIXED]
    levels = [own for own, usual in scaled if own < min(FEWEST_LEVELS, usual / 2)]
    if not levels:
        return ""
    return (
        f"has only {min(levels)} grey levels, so the mask may be wrong; acquire it with a "
        "longer exposure, or save it with more bits."
    )


def _inverted(channels: Sequence[Measured]) -> str:
    if not channels:
        return ""
    distances = [channel.own.profile.distances(trained) for channel, trained in channels]
    straight, flipped = (fmean(column) for column in zip(*distances, strict=True))
    if straight <= INVERTED or flipped >= straight / 2:
        return ""
    return (
        "looks inverted: what is bright in the training images is dark in it, so the mask may be "
        "wrong; invert it, or train on such images."
    )


def _percent(relative: float) -> str:
    return f"{100 * relative:.2g} %" if relative < 0.995 else "100 %"
