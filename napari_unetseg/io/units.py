"""Units of length and time: spellings in files, and Pint names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.lengths import micrometres

Sizes = Mapping[str, tuple[float, str]]
"""Spacing and unit of axes, by axis letter."""
PIXEL = "pixel"
"""The unit of an axis with unknown spacing."""
PRINT_PIXEL = 20.0
"""Pixels of this size in micrometres or more, from dots per inch or centimetre, come from a print
resolution (72, 300, 600 dpi), which is ignored."""

_NAMES = {
    "µm": "um", "μm": "um", "um": "um", "micron": "um", "microns": "um", "micrometer": "um",
    "micrometre": "um", "micrometers": "um", "\\u00b5m": "um", "nm": "nm", "nanometer": "nm",
    "mm": "mm", "millimeter": "mm", "cm": "cm", "centimeter": "cm", "m": "m", "meter": "m",
    "pm": "pm", "å": "angstrom", "angstrom": "angstrom", "in": "inch", "inch": "inch",
    "s": "s", "sec": "s", "second": "s", "seconds": "s", "ms": "ms", "msec": "ms",
    "millisecond": "ms", "us": "us", "microsecond": "us", "ns": "ns", "nanosecond": "ns",
    "nanometre": "nm", "millimetre": "mm", "centimetre": "cm", "metre": "m", "picometer": "pm",
    "min": "min", "minute": "min", "h": "h", "hour": "h", "d": "day", "day": "day",
}  # fmt: skip
_OME = {"um": "µm", "angstrom": "Å", "inch": "in", "day": "d"}


def unit_name(text: str | None) -> str:
    """Pint name of a unit as written by OME, ImageJ or a user; ``pixel`` for any other."""
    return _NAMES.get((text or "").strip().strip("\0").lower(), PIXEL)


def ome_unit(name: str) -> str:
    """OME's symbol of a unit, by Pint name."""
    return _OME.get(name, name)


def per_centimetre(spacing: float, unit: str) -> float | None:
    """Pixels per centimetre; None if the unit is no length."""
    size = micrometres(spacing, unit)
    return None if size is None else 1e4 / size


_NUMBER = re.compile(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*([a-zµμå]*)", re.IGNORECASE)


def parse_spacing(given: str | Sequence[float]) -> Sizes:
    """Parse pixel sizes as given by a user: ``"0.5,0.2,0.2um"``, or two or three numbers in µm.

    They belong to the last axes of Z, Y, X. A unit after the last number applies to all numbers
    without their own.

    Raises
    ------
    UserError
        They are not two or three positive numbers, or the unit is not known.
    """
    unit, parts = "um", [(str(n), "") for n in given] if not isinstance(given, str) else []
    if isinstance(given, str):
        found = [_NUMBER.fullmatch(part.strip()) for part in re.split(r"[,;x×]", given)]
        parts = [(m[1], m[2]) if m else ("", "") for m in found]
        unit = parts[-1][1] or unit
    try:
        numbers = [float(number) for number, _ in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(0 < n < float("inf") for n in numbers):
        raise UserError(
            "Give the spacing as two or three positive numbers: (Z,) Y, X in µm, "
            "or with a unit as in 0.5,0.2,0.2um."
        )
    units = [unit_name(own or unit) for _, own in parts]
    if PIXEL in units:
        raise UserError(f"The unit of the spacing {given!r} is not known; use nm, um or mm.")
    axes = "ZYX"[-len(numbers) :]
    return {a: (n, u) for a, n, u in zip(axes, numbers, units, strict=True)}
