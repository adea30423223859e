"""TIFF writing with axes, pixel sizes and units: ImageJ, OME or plain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.units import PIXEL, ome_unit, per_centimetre

IMAGEJ_BYTES = 2**32 - 2**25
"""Maximum size of ImageJ files, 4 GB; larger stacks become plain BigTIFF."""

AxisSizes = Mapping[str, tuple[float, str]]
"""Pixel size and unit along each axis."""


def planes(array: Any, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield the YX planes of an array in order, one in memory at a time."""
    for index in np.ndindex(*array.shape[:-2]):
        yield np.ascontiguousarray(array[index], dtype)


def write_tiff(
    path: Path,
    array: Any,
    dtype: np.dtype,
    axes: str,
    sizes: AxisSizes,
    notes: dict[str, Any],
    *,
    ome: bool,
    imagej: bool = True,
    scratch: Path | None = None,
) -> None:
    """Write an array as OME-TIFF, as ImageJ TIFF where that can hold it, or as plain TIFF.

    ``notes`` is further metadata; other parameters are as for `write_mask`.
    """
    import tifffile  # slow, and the command line's help only needs names of formats

    shape = tuple(int(n) for n in array.shape)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    if ome and not set(axes) <= set("TZCYX"):
        raise UserError(
            f"OME-TIFF allows only the axes T, Z, C, Y, X, not {axes}; save as .tif instead."
        )
    fits = axes == "".join(a for a in "TZCYX" if a in axes) and nbytes < IMAGEJ_BYTES
    imagej = imagej and fits and not ome and dtype != np.dtype("uint32")
    if ome:
        metadata = _ome_metadata(axes, sizes, notes)
    elif imagej:
        metadata = _imagej_metadata(axes, sizes, notes)
    else:
        metadata = _plain_metadata(axes, sizes, notes)
    unit = sizes["X"][1] if imagej else "cm"
    with atomic_path(path, scratch) as temporary:
        tifffile.imwrite(
            temporary,
            planes(array, dtype),
            shape=shape,
            dtype=dtype,
            imagej=imagej,
            ome=ome,
            bigtiff=nbytes >= IMAGEJ_BYTES,
            compression="zlib",
            photometric="minisblack",
            resolution=_resolution(sizes, unit),
            resolutionunit="NONE" if imagej else "CENTIMETER",
            metadata=metadata,
        )


def _convert(size: tuple[float, str], unit: str) -> float:
    """Convert a spacing to another unit; unchanged if either unit is no length."""
    here, there = per_centimetre(*size), per_centimetre(1.0, unit)
    if size[1] == unit or here is None or there is None:
        return size[0]
    return there / here


def _resolution(sizes: AxisSizes, unit: str) -> tuple[float, float] | None:
    """Pixels per unit along X and Y."""
    if sizes["X"] == sizes["Y"] == (1.0, PIXEL) or (unit == "cm" and sizes["X"][1] == PIXEL):
        return None
    return 1.0 / _convert(sizes["X"], unit), 1.0 / _convert(sizes["Y"], unit)


def _imagej_metadata(axes: str, sizes: AxisSizes, notes: dict[str, Any]) -> dict[str, Any]:
    unit = sizes["X"][1]
    metadata = {"axes": axes, "unit": unit, **notes}
    if "Z" in axes:
        metadata["spacing"] = _convert(sizes["Z"], unit)
    if "T" in axes and sizes["T"][1] != PIXEL:
        metadata |= {"finterval": sizes["T"][0], "tunit": sizes["T"][1]}
    return metadata


def _ome_metadata(axes: str, sizes: AxisSizes, notes: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes}
    keys = {a: f"PhysicalSize{a}" for a in "ZYX"} | {"T": "TimeIncrement"}
    for axis, (size, unit) in sizes.items():
        if axis in keys and (unit != PIXEL or (axis != "T" and size != 1.0)):
            metadata |= {keys[axis]: size, f"{keys[axis]}Unit": ome_unit(unit)}
    if "Info" in notes:
        metadata["Description"] = notes["Info"]
    return metadata | {k: v for k, v in notes.items() if k == "Channel"}


def _plain_metadata(axes: str, sizes: AxisSizes, notes: dict[str, Any]) -> dict[str, Any]:
    spacings = [sizes[a][0] for a in axes]
    units = [sizes[a][1] for a in axes]
    return {"axes": axes, "spacings": spacings, "units": units, **notes}
