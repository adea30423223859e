"""Colour contrast (WCAG 2.1)."""

from __future__ import annotations

TEXT, LINES = 4.5, 3.0
"""Minimum contrast of text, and of lines and other marks (WCAG 2.1, 1.4.3 and 1.4.11)."""

Color = tuple[int, int, int]


def ratio(one: str, other: str) -> float:
    """Contrast of two colours ``#rrggbb``: 1 for equal colours, 21 for black on white."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    """Mix two colours; ``share`` is the fraction of the first."""
    pairs = zip(_numbers(one), _numbers(other), strict=True)
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def readable(color: str, *behind: str, least: float = TEXT) -> str:
    """Make a colour darker or lighter until it has enough contrast to all backgrounds.

    Parameters
    ----------
    color, behind
        The colour and its possible backgrounds, ``#rrggbb``.
    least
        The minimum contrast.
    """
    ends = ("#000000", "#ffffff")
    best = max(ends, key=lambda end: min(ratio(end, b) for b in behind))
    for tenth in range(10, -1, -1):
        found = mixed(color, best, tenth / 10)
        if all(ratio(found, b) >= least for b in behind):
            return found
    return best


def _numbers(color: str) -> Color:
    plain = color.lstrip("#")
    if len(plain) == 3:
        plain = "".join(2 * c for c in plain)
    return int(plain[:2], 16), int(plain[2:4], 16), int(plain[4:6], 16)


def _luminance(color: str) -> float:
    red, green, blue = (_linear(v / 255) for v in _numbers(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)
