"""OME-Zarr 0.5 metadata of masks and probabilities."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import default_color
from napari_unetseg.io.units import PIXEL

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.labels import Classes, Structure

VERSION = "0.5"
KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
UNITS = {
    "um": "micrometer", "nm": "nanometer", "mm": "millimeter", "cm": "centimeter", "m": "meter",
    "pm": "picometer", "angstrom": "angstrom", "inch": "inch", "s": "second", "ms": "millisecond",
    "min": "minute", "h": "hour", "day": "day",
}  # fmt: skip


def axis_names(stack: Stack) -> list[str]:
    """Names of a mask's axes; `UserError` for axes that OME-Zarr lacks."""
    names = list(stack.grid_axes.lower())
    rest = [n for n in names if n not in "tzyx"]
    order = ["t", *rest, "z", "y", "x"]
    if len(rest) > 1 or names != [n for n in order if n in names]:
        raise UserError(
            f"{stack.name} has the axes {stack.axes}, but OME-Zarr allows only T, one other "
            "axis, Z, Y, X in this order; save masks as TIFF."
        )
    return names


def multiscales(stack: Stack, levels: int, *, channels: bool = False) -> list[dict[str, Any]]:
    """Axes, and for each level its scale and translation.

    Levels have every second voxel along Y and X of the one before, so that the first voxel of each
    has the same centre. ``channels``: an axis of classes stands before the spatial ones.
    """
    names = axis_names(stack)
    rows = list(zip(names, stack.grid_units, stack.grid_spacing, translation(stack), strict=True))
    if channels:
        if any(n not in "tzyx" for n in names):
            raise UserError(
                f"{stack.name} has the axes {stack.axes}: OME-Zarr allows no further axis for "
                "the classes; save probabilities as TIFF."
            )
        rows.insert(sum(n not in "zyx" for n in names), ("c", PIXEL, 1.0, 0.0))
    names = [row[0] for row in rows]
    scale, shift = [float(row[2]) for row in rows], [float(row[3]) for row in rows]
    axes = [_axis(row[0], row[1]) for row in rows]
    datasets = [_dataset(level, names, scale, shift) for level in range(levels)]
    return [{"name": stack.name, "axes": axes, "datasets": datasets, "type": "nearest"}]


def translation(stack: Stack) -> tuple[float, ...]:
    """Place of the centre of the first voxel along each grid axis."""
    values = getattr(stack, "translate", ()) or (0.0,) * len(stack.axes)
    return tuple(float(v) for v, a in zip(values, stack.axes, strict=True) if a in stack.grid_axes)


def _axis(name: str, unit: str) -> dict[str, str]:
    axis = {"name": name}
    if name in KINDS:
        axis["type"] = KINDS[name]
    if unit in UNITS:
        axis["unit"] = UNITS[unit]
    return axis


def _dataset(
    level: int, names: Sequence[str], scale: Sequence[float], shift: Sequence[float]
) -> dict[str, Any]:
    size = [s * 2**level if n in ("y", "x") else s for n, s in zip(names, scale, strict=True)]
    return {
        "path": str(level),
        "coordinateTransformations": [
            {"type": "scale", "scale": size},
            {"type": "translation", "translation": list(shift)},
        ],
    }


def image_label(classes: Classes, *, source: bool) -> dict[str, Any]:
    """Colours and names of structures; ``source``: the image is what the labels lie in."""
    found: dict[str, Any] = {
        "colors": [{"label-value": s.number, "rgba": _rgba(_hex(s))} for s in classes.structures],
        "properties": [{"label-value": s.number, "name": s.name} for s in classes.structures],
    }
    return found | ({"source": {"image": "../../"}} if source else {})


def omero(classes: Classes, highest: float) -> dict[str, Any]:
    """Names of the classes of a probabilities' image, and how to show them."""
    window = {"min": 0.0, "max": highest, "start": 0.0, "end": highest}
    colors = {s.number: _hex(s) for s in classes.structures}
    return {
        "channels": [
            {"label": name, "color": colors.get(number, "FFFFFF"), "active": True, "window": window}
            for number, name in zip(classes.numbers, classes.names, strict=True)
        ]
    }


def _hex(structure: Structure) -> str:
    """A structure's colour as six hexadecimal digits; the default for invalid ones."""
    found = re.fullmatch(r"#([0-9A-Fa-f]{6})", structure.color)
    return found[1] if found else default_color(structure.number)[1:]


def _rgba(color: str) -> list[int]:
    return [*bytes.fromhex(color), 255]
