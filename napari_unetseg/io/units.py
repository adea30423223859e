"""Units of length and time as files write them, and their Pint names."""

from __future__ import annotations

__all__ = ["PIXEL", "PRINT_PIXEL", "ome_unit", "per_centimetre", "unit_name"]

PIXEL = "pixel"
"""The unit of an axis whose spacing is unknown."""
PRINT_PIXEL = 20.0
"""A resolution in dots per inch or centimetre that gives pixels of so many micrometres or more
is meant for printers (72, 300, 600 dpi) and not believed."""

_NAMES = {
    "µm": "um", "μm": "um", "um": "um", "micron": "um", "microns": "um", "micrometer": "um",
    "micrometre": "um", "micrometers": "um", "\\u00b5m": "um", "nm": "nm", "nanometer": "nm",
    "mm": "mm", "millimeter": "mm", "cm": "cm", "centimeter": "cm", "m": "m", "meter": "m",
    "pm": "pm", "å": "angstrom", "angstrom": "angstrom", "in": "inch", "inch": "inch",
    "s": "s", "sec": "s", "second": "s", "seconds": "s", "ms": "ms", "msec": "ms",
    "min": "min", "minute": "min", "h": "h", "hour": "h", "d": "day", "day": "day",
}  # fmt: skip
_OME = {"um": "µm", "angstrom": "Å", "inch": "in", "day": "d"}
_CENTIMETRES = {
    "pm": 1e-10, "angstrom": 1e-8, "nm": 1e-7, "um": 1e-4, "mm": 0.1, "cm": 1.0, "m": 100.0,
    "inch": 2.54,
}  # fmt: skip


def unit_name(text: str | None) -> str:
    """Pint name of a unit as OME, ImageJ or a person writes it; ``pixel`` for any other."""
    return _NAMES.get((text or "").strip().strip("\0").lower(), PIXEL)


def ome_unit(name: str) -> str:
    """How OME writes the unit of that Pint name."""
    return _OME.get(name, name)


def per_centimetre(spacing: float, unit: str) -> float | None:
    """Pixels per centimetre; None when the unit is no length."""
    size = _CENTIMETRES.get(unit)
    return None if size is None or spacing <= 0 else 1.0 / (spacing * size)
