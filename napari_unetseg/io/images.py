"""Open images and labels of any supported format, lazily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image import Stack
from napari_unetseg.io.lazy import LazyArray, reading
from napari_unetseg.io.pictures import PICTURE_SUFFIXES, PictureSource, picture_facts
from napari_unetseg.io.tiff import TiffSource, tiff_facts
from napari_unetseg.io.units import PIXEL

__all__ = ["SUFFIXES", "TIFF_SUFFIXES", "open_labels", "open_stack", "stem_of"]

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
SUFFIXES = (*TIFF_SUFFIXES, *PICTURE_SUFFIXES, ".npy")
"""Suffixes of the files that can be opened, in lower case."""

Sizes = Mapping[str, tuple[float, str]]


def stem_of(path: str | Path) -> str:
    """Name of a file without its suffix; ``.ome.tif`` counts as one suffix."""
    path = Path(path)
    stem = path.stem
    if path.suffix.lower() in TIFF_SUFFIXES and stem.lower().endswith(".ome"):
        return stem[:-4]
    return stem


def open_stack(
    path: str | Path, *, axes: str | None = None, spacing: Sequence[float] | None = None
) -> Stack:
    """Open an image: TIFF, OME-TIFF, ImageJ TIFF, BigTIFF, PNG, JPEG, BMP or NPY.

    Nothing but the header is read; planes are decoded when they are asked for, and those read
    last are kept in memory. Axes, pixel sizes, units and channel names come from the file.
    Pages of a plain TIFF are a z-stack unless ``axes`` says otherwise. Axes of length 1 other
    than Y and X are left out. Resolutions of 1270 dpi or less are meant for printers and ignored.

    Parameters
    ----------
    path
        The file.
    axes
        One letter for each axis of the file, such as ``TYX`` or ``CYX``, where the file says
        nothing or says it wrong. ``C`` are channels, ``S`` the samples of RGB.
    spacing
        Pixel size along the last two or three axes of Z, Y, X in micrometres.

    Returns
    -------
    Stack
        Named after the file's stem.

    Raises
    ------
    UserError
        The file is missing, of another format, damaged or cut short, or the axes do not fit.
    """
    path = _existing(path)
    data, found, sizes, channels = _open(path, axes, labels=False)
    if spacing is not None:
        sizes = {**sizes, **_given(spacing)}
    if "S" in found and data.shape[found.index("S")] > 2:
        channels = ("red", "green", "blue")
    return Stack(
        data,
        found,
        tuple(sizes.get(a, (1.0, PIXEL))[0] for a in found),
        tuple(sizes.get(a, (1.0, PIXEL))[1] for a in found),
        channels,
        stem_of(path),
    )


def open_labels(path: str | Path, shape: tuple[int, ...] | None = None) -> LazyArray | np.ndarray:
    """Open a file of labels: strokes, a mask or instances.

    Palette pictures give their numbers, not their colours; RGB masks are accepted when their
    channels are equal.

    Parameters
    ----------
    path
        The file.
    shape
        Grid shape of the image; where it differs only in axes of length 1 the labels take it.

    Returns
    -------
    array
        Lazy, or NumPy; integers of any width, or floats as they are in the file.

    Raises
    ------
    UserError
        As for `open_stack`; also a colour picture, or a JPEG whose numbers are blurred.
    """
    path = _existing(path)
    data: LazyArray | np.ndarray
    data, axes, _, _ = _open(path, None, labels=True)
    if "S" in axes:
        data = _grey(data, axes.index("S"), path)
    if path.suffix.lower() in (".jpg", ".jpeg") and not set(np.unique(data)) <= {0, 255}:
        raise UserError(
            f"{path} is a JPEG, which blurs the numbers of labels; save it as PNG or TIFF."
        )
    if shape is not None and data.shape != shape and _long(data.shape) == _long(shape):
        data = np.asarray(data).reshape(shape)
    return data


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an image; name a file in it.")
    if not path.exists():
        raise UserError(f"{path} does not exist; check the name.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path.name} is of a format that cannot be opened; save it as TIFF, PNG or JPEG."
        )
    return path


def _open(path: Path, axes: str | None, *, labels: bool) -> tuple[Any, str, Sizes, tuple[str, ...]]:
    """Array, axes, sizes and channel names, the axes in the order of a `Stack`."""
    with reading(path):
        status = path.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    sizes: Sizes = {}
    channels: tuple[str, ...] = ()
    if path.suffix.lower() == ".npy":
        with reading(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array, axes or Stack.from_array(array).axes, sizes, channels
    if path.suffix.lower() in PICTURE_SUFFIXES:
        picture, mode = picture_facts(path, labels=labels)
        if picture.spacing:
            sizes = {a: (s, "um") for a, s in zip("YX", picture.spacing, strict=True)}
        source = PictureSource(path, stamp, mode)
        return LazyArray(source, picture.shape, picture.dtype), axes or picture.axes, sizes, ()
    facts = tiff_facts(path)
    letters = _letters(axes, facts.axes, facts.shape, path)
    lead = letters.index("Y") if "Y" in letters else 0
    order = _order(letters[:lead], facts.shape)
    letters = "".join(letters[i] for i in order) + letters[lead:]
    shape = (*(facts.shape[i] for i in order), *facts.shape[lead:])
    data = LazyArray(TiffSource(path, stamp), shape, facts.dtype, order, lead)
    return data, letters, facts.sizes, facts.channels


def _letters(given: str | None, found: str, shape: tuple[int, ...], path: Path) -> str:
    """One letter an axis: the given ones, or the file's with unknown axes named."""
    if given is not None:
        letters = given.upper()
        if len(letters) != len(shape) or len(set(letters)) != len(letters):
            raise UserError(
                f"{path.name} has {len(shape)} axes of shape {shape}, which cannot be read as "
                f"{given!r}; name each axis with one letter."
            )
        return letters
    named = set(found) - set("QI")
    spare = iter("PQUVWRH" if named & set("ZT") else "ZTPQUVWRH")
    free = [a for a in found if a in "QI"]
    fresh = [next(spare) for _ in free][::-1]
    letters = "".join(fresh.pop(0) if a in "QI" else a for a in found)
    if {"C", "S"} <= set(letters):
        raise UserError(
            f"{path.name} has channels and colour samples; save it with channels alone."
        )
    return letters


def _order(lead: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leading axes longer than 1, Z after the others but channels, so that a volume is ZYX."""
    places = [i for i in range(len(lead)) if shape[i] > 1]
    grid = [i for i in places if lead[i] not in "CS"]
    z = lead.find("Z")
    if z in grid and grid[-1] != z:
        places.remove(z)
        places.append(z)
    return tuple(places)


def _given(spacing: Sequence[float]) -> Sizes:
    if len(spacing) not in (2, 3) or not all(0 < s < float("inf") for s in spacing):
        raise UserError("Give the spacing as two or three positive numbers: (Z,) Y, X in µm.")
    return {a: (float(s), "um") for a, s in zip("ZYX"[-len(spacing) :], spacing, strict=True)}


def _grey(data: Any, axis: int, path: Path) -> np.ndarray:
    """One channel of a mask that was saved as RGB; alpha is left out."""
    array = np.moveaxis(np.asarray(data), axis, -1)
    if array.shape[-1] > 2 and (array[..., :3] != array[..., :1]).any():
        raise UserError(f"{path} is a colour picture, not labels; save one grey number per pixel.")
    return np.ascontiguousarray(array[..., 0])
