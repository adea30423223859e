"""Open images and labels of any supported format, lazily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image import Stack
from napari_unetseg.io.axes import letters_of
from napari_unetseg.io.lazy import LazyArray, reading
from napari_unetseg.io.names import as_stored
from napari_unetseg.io.ome_zarr import open_zarr
from napari_unetseg.io.pictures import PICTURE_SUFFIXES, PictureSource, picture_facts
from napari_unetseg.io.series import SeriesArray, is_pattern, open_series, series_name
from napari_unetseg.io.thresholded import Thresholded, thresholded
from napari_unetseg.io.tiff import TiffSource, tiff_facts
from napari_unetseg.io.units import PIXEL, Sizes, parse_spacing
from napari_unetseg.io.vendors import VENDOR_SUFFIXES, open_vendor, split_scene
from napari_unetseg.io.zarr_array import ZarrArray
from napari_unetseg.io.zarr_nodes import is_zarr

__all__ = [
    "SUFFIXES",
    "TIFF_SUFFIXES",
    "is_image",
    "open_labels",
    "open_labels_levels",
    "open_levels",
    "open_stack",
    "stem_of",
]

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
SUFFIXES = (*TIFF_SUFFIXES, *PICTURE_SUFFIXES, ".npy")
"""Suffixes of the files that can be opened, in lower case."""

Labels = LazyArray | SeriesArray | ZarrArray | Thresholded | np.ndarray


def stem_of(path: str | Path) -> str:
    """Name of a file without its suffix; ``.ome.tif`` and ``.ome.zarr`` count as one suffix.

    What lies in a Zarr store is named after all of its path there: ``plate.zarr/A/1/0`` is
    ``plate_A_1_0``.
    """
    path = Path(path)
    for place, part in enumerate(path.parts):
        if part.lower().endswith(".zarr"):
            stem = part[:-5].removesuffix(".ome") or part
            return "_".join([stem, *path.parts[place + 1 :]])
    if is_series(path):
        return series_name(path)
    if is_zarr(path):
        return path.name
    file, scene = split_scene(path)
    if scene:
        return f"{file.stem}_{scene}".replace("/", "_")
    stem = path.stem
    if path.suffix.lower() in TIFF_SUFFIXES and stem.lower().endswith(".ome"):
        return stem[:-4]
    return stem


def is_image(path: str | Path) -> bool:
    """Tell by its name whether a path may be an image; a folder may be a Zarr store or a series."""
    path = Path(path).expanduser()
    known = (*SUFFIXES, *VENDOR_SUFFIXES)
    return split_scene(path)[0].suffix.lower() in known or path.is_dir()


def open_stack(
    path: str | Path, *, axes: str | None = None, spacing: str | Sequence[float] | None = None
) -> Stack:
    """Open an image: TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, Zarr, PNG, JPEG, BMP or NPY.

    Nothing but the header is read; pixels are decoded when they are asked for, and those read
    last are kept in memory. Axes, pixel sizes, units and channel names come from the file.
    Pages of a plain TIFF are a z-stack unless ``axes`` says otherwise. Axes of length 1 other
    than Y and X are left out. Resolutions of 1270 dpi or less are meant for printers and ignored.

    Parameters
    ----------
    path
        The file; of a Zarr store the folder, or one in it such as ``plate.zarr/A/1/0``; of files
        that make a stack together their folder, or a pattern such as ``img_t*_z*.tif``. ND2, LIF,
        CZI and others are read where bioio's reader is installed; of several images in such a
        file one is named as ``slide.lif/Series 2``.
    axes
        One letter for each axis of the file, such as ``TYX`` or ``CYX``, where the file says
        nothing or says it wrong. ``C`` are channels, ``S`` the samples of RGB.
    spacing
        Pixel size along the last two or three axes of Z, Y, X: numbers in micrometres, or
        text with a unit such as ``0.5,0.2,0.2um``.

    Returns
    -------
    Stack
        Named after the file's stem; of several resolutions the full one.

    Raises
    ------
    UserError
        The file is missing, of another format, damaged or cut short, declares more than it can
        hold, leads out of its folder, or the axes do not fit.
    """
    return open_levels(path, axes=axes, spacing=spacing)[0]


def open_levels(
    path: str | Path, *, axes: str | None = None, spacing: str | Sequence[float] | None = None
) -> tuple[Stack, ...]:
    """Open an image at all the resolutions that it is stored in, the full one first.

    Parameters and errors are those of `open_stack`. All have the same axes and channels; spacing
    and translation are each level's own. Of other formats than OME-Zarr there is one level.
    """
    path = as_stored(Path(path).expanduser())
    given = parse_spacing(spacing) if spacing is not None else {}
    if is_series(path):
        stack = open_series(path, SUFFIXES, open_stack, axes)
        return (_resized(stack, given),)
    file, scene = split_scene(path)
    if file.suffix.lower() in VENDOR_SUFFIXES and file.is_file():
        return (open_vendor(file, scene, axes, given, stem_of(path)),)
    path = _existing(path)
    if path.is_dir():
        return open_zarr(path, axes, sizes=given, name=stem_of(path))
    data, found, sizes, channels, colors = _open(path, axes, labels=False)
    sizes = {**sizes, **given}
    if "S" in found and data.shape[found.index("S")] > 2:
        channels = ("red", "green", "blue")
    stack = Stack(
        data,
        found,
        tuple(sizes.get(a, (1.0, PIXEL))[0] for a in found),
        tuple(sizes.get(a, (1.0, PIXEL))[1] for a in found),
        channels,
        stem_of(path),
        colors=colors,
    )
    return (stack,)


def is_series(path: Path) -> bool:
    """Tell whether a path stands for several files that make a stack: a folder or a pattern."""
    return is_pattern(path) or (path.is_dir() and not is_zarr(path))


def _resized(stack: Stack, given: Sizes) -> Stack:
    """A stack with other spacings."""
    known = zip(stack.axes, stack.spacing, stack.units, strict=True)
    sizes = {a: (s, u) for a, s, u in known} | dict(given)
    spacing = tuple(sizes[a][0] for a in stack.axes)
    return replace(stack, spacing=spacing, units=tuple(sizes[a][1] for a in stack.axes))


def open_labels(
    path: str | Path,
    shape: tuple[int, ...] | None = None,
    *,
    threshold: float | None = None,
    ignore: int | None = None,
) -> Labels:
    """Open a file of labels: strokes, a mask or instances.

    Of an OME-Zarr image its only group of labels is opened, or the one that the path names, such
    as ``image.zarr/labels/cells``.

    Palette pictures give their numbers, not their colours; RGB masks are accepted when their
    channels are equal.

    Parameters
    ----------
    path
        The file.
    shape
        Grid shape of the image; where it differs only in axes of length 1 the labels take it.
    threshold, ignore
        Make a full mask of 0, 1 and, where nothing is labelled, 255; see `thresholded`.

    Returns
    -------
    array
        Lazy, or NumPy; integers of any width, or floats as they are in the file.

    Raises
    ------
    UserError
        As for `open_stack`; also a colour picture, or a JPEG whose numbers are blurred.
    """
    path = as_stored(Path(path).expanduser())
    path = path if is_series(path) else _existing(path)
    data: Labels
    if is_series(path):
        stack = open_series(path, SUFFIXES, _labels_stack, None)
        data, axes = stack.data, stack.axes
    elif path.is_dir():
        stack = open_zarr(path, labels=True, name=stem_of(path))[0]
        data, axes = stack.data, stack.axes
    else:
        stack = _labels_stack(path)
        data, axes = stack.data, stack.axes
    if "S" in axes:
        data = _grey(data, axes.index("S"), path)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg") and threshold is None
    if jpeg and not set(np.unique(data)) <= {0, 255}:
        raise UserError(
            f"{path} is a JPEG, which blurs the numbers of labels; save it as PNG or TIFF, or take "
            "what is above 127 as structure 1 with '--threshold 127'."
        )
    if shape is not None and data.shape != shape and _long(data.shape) == _long(shape):
        data = np.asarray(data).reshape(shape)
    if threshold is not None:
        thin = isinstance(data, np.ndarray)
        data = (thresholded if thin else Thresholded)(data, threshold, ignore)
    return data


def open_labels_levels(path: str | Path) -> tuple[Stack, ...]:
    """Labels of an OME-Zarr at all the resolutions that they are stored in; see `open_labels`."""
    path = Path(path).expanduser()
    return open_zarr(path, labels=True, name=stem_of(path))


def _labels_stack(path: Path) -> Stack:
    data, axes, _, _, _ = _open(_existing(path), None, labels=True)
    return Stack(data, axes, name=stem_of(path))


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if is_zarr(path):
        return path
    if not path.exists():
        raise UserError(f"{path} does not exist; check the name.")
    if not path.is_file():
        raise UserError(f"{path} is no file but a device or a pipe; name an image.")
    if path.suffix.lower() == ".safetensors":
        raise UserError(f"{path.name} is a model and no image; give the model before the images.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path.name} is of a format that cannot be opened; save it as TIFF, PNG or JPEG."
        )
    return path


def _open(
    path: Path, axes: str | None, *, labels: bool
) -> tuple[Any, str, Sizes, tuple[str, ...], tuple[str, ...]]:
    """Array, axes, sizes, channel names and colours, the axes in the order of a `Stack`."""
    with reading(path):
        status = path.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    sizes: Sizes = {}
    channels: tuple[str, ...] = ()
    if path.suffix.lower() == ".npy":
        with reading(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        _check_numbers(path, array.dtype)
        return array, axes or Stack.from_array(array).axes, sizes, channels, ()
    if path.suffix.lower() in PICTURE_SUFFIXES:
        picture, mode = picture_facts(path, labels=labels)
        if picture.spacing:
            sizes = {a: (s, "um") for a, s in zip("YX", picture.spacing, strict=True)}
        source = PictureSource(path, stamp, mode)
        return LazyArray(source, picture.shape, picture.dtype), axes or picture.axes, sizes, (), ()
    facts = tiff_facts(path)
    _check_numbers(path, facts.dtype)
    letters = letters_of(axes, facts.axes, facts.shape, path)
    lead = letters.index("Y") if "Y" in letters else 0
    order = _order(letters[:lead], facts.shape)
    letters = "".join(letters[i] for i in order) + letters[lead:]
    shape = (*(facts.shape[i] for i in order), *facts.shape[lead:])
    data = LazyArray(TiffSource(path, stamp), shape, facts.dtype, order, lead)
    return data, letters, facts.sizes, facts.channels, facts.colors


def _check_numbers(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf":
        raise UserError(
            f"{path} holds values of type {dtype.name[:40]}; images and labels are integers or "
            "floats, so convert it."
        )


def _order(lead: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leading axes longer than 1, Z after the others but channels, so that a volume is ZYX."""
    places = [i for i in range(len(lead)) if shape[i] > 1]
    grid = [i for i in places if lead[i] not in "CS"]
    z = lead.find("Z")
    if z in grid and grid[-1] != z:
        places.remove(z)
        places.append(z)
    return tuple(places)


def _grey(data: Any, axis: int, path: Path) -> np.ndarray:
    """One channel of a mask that was saved as RGB; alpha is left out."""
    array = np.moveaxis(np.asarray(data), axis, -1)
    if array.shape[-1] > 2 and (array[..., :3] != array[..., :1]).any():
        raise UserError(
            f"{path} is a colour picture, not labels; save the mask itself, one grey number per "
            "pixel, instead of a picture of it."
        )
    return np.ascontiguousarray(array[..., 0])
