"""Conversion of length units, by their Pint names."""

from __future__ import annotations

import math

MICROMETRES = {
    "pm": 1e-6, "angstrom": 1e-4, "nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "inch": 25_400.0,
}  # fmt: skip


def micrometres(size: float, unit: str) -> float | None:
    """A length in µm; None if not positive or in an unknown unit."""
    found = size * MICROMETRES.get(unit, 0.0)
    return found if 0 < found < math.inf else None
