"""Write masks and probabilities: whole or not at all, with pixel sizes and units."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.open_image import TIFF_SUFFIXES, stem_of
from napari_unetseg.io.units import PIXEL, ome_unit, per_centimetre

__all__ = ["png_files", "write_mask", "write_probabilities"]

IMAGEJ_BYTES = 2**32 - 2**25
"""ImageJ files end at 4 GB; larger stacks become plain BigTIFF."""


def write_mask(
    path: str | Path,
    mask: Any,
    *,
    axes: str,
    spacing: Sequence[float] = (),
    units: Sequence[str] = (),
    names: Mapping[int, str] | None = None,
    ome: bool | None = None,
    provenance: str = "",
    scratch: Path | None = None,
) -> list[Path]:
    """Write a mask as TIFF, OME-TIFF or PNG, chosen by the suffix of ``path``.

    A TIFF opens in ImageJ with its axes and pixel sizes, a ``.ome.tif`` in any OME reader. PNGs
    hold one plane: of a stack each gets its place in the name, as in ``cells_t003_z012.png``.
    All are compressed without loss.

    Parameters
    ----------
    path
        The file; it is replaced only when all was written.
    mask
        Array-like of non-negative integers, read a plane at a time; stored as uint8 or uint16.
    axes
        One letter for each axis, ending in YX.
    spacing, units
        Pixel size along each axis and its Pint unit; ``pixel`` where unknown.
    names
        Name of each number, noted in TIFFs.
    ome
        Write OME-TIFF whatever the suffix.
    provenance
        A line on how the mask was made, noted in every file.
    scratch
        A folder for temporary files, as for `atomic_path`.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    UserError
        The suffix is unknown, numbers do not fit 16 bits, the disk is full or the folder cannot
        be written; an old file stays as it was.
    """
    path = Path(path)
    dtype = _mask_dtype(mask, path)
    sizes = _sizes(axes, spacing, units)
    if path.suffix.lower() == ".png":
        return _write_pngs(path, mask, dtype, axes, sizes, provenance, scratch)
    if path.suffix.lower() not in TIFF_SUFFIXES:
        raise UserError(f"{path.name} has an unknown suffix; use .tif, .ome.tif or .png.")
    if ome is None:
        ome = stem_of(path) != path.stem
    notes: dict[str, Any] = {}
    lines = [f"{number} = {name}" for number, name in (names or {}).items()]
    if lines or provenance:
        notes["Info"] = "\n".join(line for line in (*lines, provenance) if line)
    if names:
        notes |= {"min": 0.0, "max": float(max(names))}
    _write_tiff(path, mask, dtype, axes, sizes, notes, ome=ome, scratch=scratch)
    return [path]


def write_probabilities(
    path: str | Path,
    probabilities: Any,
    *,
    axes: str,
    spacing: Sequence[float] = (),
    units: Sequence[str] = (),
    names: Sequence[str] = (),
    half: bool = False,
    scratch: Path | None = None,
) -> Path:
    """Write probabilities as TIFF: OME-TIFF with float32, or plain TIFF with float16.

    Parameters
    ----------
    path
        The file; it is replaced only when all was written.
    probabilities
        Array-like (classes, *grid), read a plane at a time.
    axes, spacing, units
        Of the grid, as for `write_mask`.
    names
        Name of each class.
    half
        Store float16.
    scratch
        A folder for temporary files, as for `atomic_path`.

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written; an old file stays as it was.
    """
    path = Path(path)
    sizes = {"C": (1.0, PIXEL), **_sizes(axes, spacing, units)}
    dtype = np.dtype("float16" if half else "float32")
    ome = not half and set(axes) <= set("TZYX")
    notes: dict[str, Any] = {"Channel": {"Name": list(names)}} if ome and names else {}
    _write_tiff(
        path, probabilities, dtype, "C" + axes, sizes, notes, ome=ome, imagej=False, scratch=scratch
    )
    return path


Sizes = Mapping[str, tuple[float, str]]


def _sizes(axes: str, spacing: Sequence[float], units: Sequence[str]) -> Sizes:
    spacing = tuple(spacing) or (1.0,) * len(axes)
    units = tuple(units) or (PIXEL,) * len(axes)
    return {a: (float(s), u) for a, s, u in zip(axes, spacing, units, strict=True)}


def _planes(array: Any, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield the YX planes of an array in order, one in memory at a time."""
    for index in np.ndindex(*array.shape[:-2]):
        yield np.ascontiguousarray(array[index], dtype)


def _mask_dtype(mask: Any, path: Path) -> np.dtype:
    """Return uint8 or uint16, whichever holds every number."""
    dtype = np.dtype(mask.dtype)
    if dtype in (np.dtype(bool), np.dtype("uint8"), np.dtype("uint16")):
        return np.dtype("uint8") if dtype.kind == "b" else dtype
    if dtype.kind not in "ui":
        raise UserError(f"{path.name} needs whole numbers to be a mask, not {dtype}.")
    planes = list(itertools.chain([0], (int(p.max()) for p in _planes(mask, dtype))))
    lowest = min(int(p.min()) for p in _planes(mask, dtype))
    if lowest < 0 or max(planes) > 65535:
        raise UserError(f"{path.name} can hold the numbers 0 to 65535; relabel the objects.")
    return np.dtype("uint8" if max(planes) < 256 else "uint16")


# -- PNG -------------------------------------------------------------------------------------------


def png_files(path: Path, shape: Sequence[int], axes: str) -> list[Path]:
    """The files of a mask as PNG, one for each plane, in order."""
    lead = tuple(shape[:-2])
    return [
        path.with_name("".join([path.stem, *map(_png_place, axes, index, lead), path.suffix]))
        for index in np.ndindex(*lead)
    ]


def _png_place(axis: str, index: int, count: int) -> str:
    return f"_{axis.lower()}{index:0{max(3, len(str(count - 1)))}d}"


def _write_pngs(
    path: Path,
    mask: Any,
    dtype: np.dtype,
    axes: str,
    sizes: Sizes,
    provenance: str,
    scratch: Path | None,
) -> list[Path]:
    found = [per_centimetre(*sizes[a]) for a in "XY"]
    more: dict[str, Any] = {"dpi": tuple(2.54 * f for f in found if f)} if all(found) else {}
    if provenance:
        more["pnginfo"] = PngImagePlugin.PngInfo()
        more["pnginfo"].add_text("Comment", provenance)
    files = png_files(path, mask.shape, axes)
    with ExitStack() as written:  # none is replaced before all are there
        for file, plane in zip(files, _planes(mask, dtype), strict=True):
            temporary = written.enter_context(atomic_path(file, scratch))
            Image.fromarray(plane).save(temporary, format="PNG", **more)
    return files


# -- TIFF ------------------------------------------------------------------------------------------


def _write_tiff(
    path: Path,
    array: Any,
    dtype: np.dtype,
    axes: str,
    sizes: Sizes,
    notes: dict[str, Any],
    *,
    ome: bool,
    imagej: bool = True,
    scratch: Path | None = None,
) -> None:
    shape = tuple(int(n) for n in array.shape)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    if ome and not set(axes) <= set("TZCYX"):
        raise UserError(
            f"OME-TIFF allows only the axes T, Z, C, Y, X, not {axes}; save as .tif instead."
        )
    fits = axes == "".join(a for a in "TZCYX" if a in axes) and nbytes < IMAGEJ_BYTES
    imagej = imagej and fits and not ome
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
            _planes(array, dtype),
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
    """Express a spacing in another unit; as it is where either unit is no length."""
    here, there = per_centimetre(*size), per_centimetre(1.0, unit)
    if size[1] == unit or here is None or there is None:
        return size[0]
    return there / here


def _resolution(sizes: Sizes, unit: str) -> tuple[float, float] | None:
    """Pixels per unit along X and Y."""
    if sizes["X"] == sizes["Y"] == (1.0, PIXEL) or (unit == "cm" and sizes["X"][1] == PIXEL):
        return None
    return 1.0 / _convert(sizes["X"], unit), 1.0 / _convert(sizes["Y"], unit)


def _imagej_metadata(axes: str, sizes: Sizes, notes: dict[str, Any]) -> dict[str, Any]:
    unit = sizes["X"][1]
    metadata = {"axes": axes, "unit": unit, **notes}
    if "Z" in axes:
        metadata["spacing"] = _convert(sizes["Z"], unit)
    if "T" in axes and sizes["T"][1] != PIXEL:
        metadata |= {"finterval": sizes["T"][0], "tunit": sizes["T"][1]}
    return metadata


def _ome_metadata(axes: str, sizes: Sizes, notes: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes}
    keys = {a: f"PhysicalSize{a}" for a in "ZYX"} | {"T": "TimeIncrement"}
    for axis, (size, unit) in sizes.items():
        if axis in keys and (unit != PIXEL or (axis != "T" and size != 1.0)):
            metadata |= {keys[axis]: size, f"{keys[axis]}Unit": ome_unit(unit)}
    if "Info" in notes:
        metadata["Description"] = notes["Info"]
    return metadata | {k: v for k, v in notes.items() if k == "Channel"}


def _plain_metadata(axes: str, sizes: Sizes, notes: dict[str, Any]) -> dict[str, Any]:
    spacings = [sizes[a][0] for a in axes]
    units = [sizes[a][1] for a in axes]
    return {"axes": axes, "spacings": spacings, "units": units, **notes}
