"""Lazy opening of images and labels of any supported format."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.errors import ChoiceError, UserError
from napari_unetseg.core.image_stack import CHANNEL_AXES, Stack
from napari_unetseg.core.singleton_axes import on_grid, same_but_singletons
from napari_unetseg.io.file_names import as_stored
from napari_unetseg.io.readers.bioio_files import VENDOR_SUFFIXES, open_vendor
from napari_unetseg.io.readers.file_series import (
    Open,
    SeriesArray,
    is_pattern,
    open_series,
    series_name,
)
from napari_unetseg.io.readers.lazy_array import LazyArray, check_numbers, reading
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.io.readers.npy import open_npy
from napari_unetseg.io.readers.ome_files import TIFF_SUFFIXES
from napari_unetseg.io.readers.ome_zarr import open_zarr
from napari_unetseg.io.readers.pictures import PICTURE_SUFFIXES, open_picture
from napari_unetseg.io.readers.tiff import TiffContent, open_tiff_levels, tiff_contents
from napari_unetseg.io.readers.zarr_array import ZarrArray
from napari_unetseg.io.readers.zarr_nodes import is_zarr
from napari_unetseg.io.scenes import choose_scene, scene_stem, split_scene
from napari_unetseg.io.thresholded import Thresholded, thresholded
from napari_unetseg.io.units import Sizes, parse_spacing

READ_AS_TIFF = (*TIFF_SUFFIXES, ".lsm", ".ndpi", ".qptiff", ".scn", ".stk", ".svs")
"""Suffixes of TIFFs, including those of microscope vendors."""
SUFFIXES = (*READ_AS_TIFF, *PICTURE_SUFFIXES, ".npy")
"""Suffixes of the files that can be opened, in lower case."""

Labels = LazyArray | SeriesArray | ZarrArray | Thresholded | np.ndarray


def _split(path: str | Path) -> tuple[Path, str]:
    """Split a path such as ``slide.lif/Series 2`` into the file and the name of the image."""
    return split_scene(Path(path), (*SUFFIXES, *VENDOR_SUFFIXES))


def file_of(path: str | Path) -> Path:
    """The file or folder of a path: ``slide.lif`` for ``slide.lif/Series 2``."""
    return _split(path)[0]


def image_path(path: str | Path, series: str | int | None) -> Path:
    """The path of one image in a multi-image file; a path that names one is unchanged."""
    file, scene = _split(path)
    return Path(path) if series is None or scene else Path(f"{file}/{series}")


def stem_of(path: str | Path) -> str:
    """Name of a file without its suffix; ``.ome.tif`` and ``.ome.zarr`` count as one suffix.

    An image in a Zarr store is named after its whole path in the store: ``plate.zarr/A/1/0`` is
    ``plate_A_1_0``; ``slide.lif/Series 2`` is ``slide_Series 2``.
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
    file, scene = _split(path)
    stem = file.stem
    if file.suffix.lower() in TIFF_SUFFIXES and stem.lower().endswith(".ome"):
        stem = stem[:-4]
    return scene_stem(stem, scene)


def is_image(path: str | Path) -> bool:
    """Whether a path may be an image by its name; a folder may be a Zarr store or a series."""
    path = Path(path).expanduser()
    return file_of(path).suffix.lower() in (*SUFFIXES, *VENDOR_SUFFIXES) or path.is_dir()


def contents_of(path: str | Path) -> tuple[TiffContent, ...]:
    """All images in a TIFF; empty for other formats.

    Raises
    ------
    UserError
        As for `open_stack`, except for several images or missing planes.
    """
    file = file_of(Path(path).expanduser())
    return tiff_contents(file) if file.suffix.lower() in READ_AS_TIFF and file.is_file() else ()


def open_stack(
    path: str | Path,
    *,
    axes: str | None = None,
    spacing: str | Sequence[float] | None = None,
    series: str | int | None = None,
    missing_planes: MissingPlanes | str = MissingPlanes.REFUSE,
) -> Stack:
    """Open an image: TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, Zarr, PNG, JPEG, BMP or NPY.

    Only the header is read; pixels are decoded on access, and the most recent ones are cached.
    Axes, pixel sizes, units and channel names come from the file. Pages of a plain TIFF are a
    z-stack unless ``axes`` says otherwise. Axes of length 1 other than Y and X are dropped.
    Resolutions of 1270 dpi or less are print resolutions and ignored.

    Parameters
    ----------
    path
        The file; of a Zarr store the folder, or one in it such as ``plate.zarr/A/1/0``; of a file
        series the folder, or a pattern such as ``img_t*_z*.tif``. ND2, LIF, CZI and others need
        bioio's reader. One of several images in a file is named as ``slide.lif/Series 2``.
    axes
        One letter for each axis of the file, such as ``TYX`` or ``CYX``, if its metadata are
        missing or wrong. ``C`` are channels, ``S`` the samples of RGB.
    spacing
        Pixel size along the last two or three axes of Z, Y, X: numbers in micrometres, or
        text with a unit such as ``0.5,0.2,0.2um``.
    series
        Which image of a multi-image file, by name or by number from 1; the same as in the path.
    missing_planes
        How to treat planes that a TIFF declares but lacks, as after an aborted acquisition:
        ``refuse``; ``drop`` omits incomplete times, slices or channels; ``fill`` makes the planes
        black.

    Returns
    -------
    Stack
        Named after the file's stem, at full resolution. Its ``notes`` tell the user how it was
        read.

    Raises
    ------
    UserError
        The file is missing, of another format, damaged or truncated, declares more than it can
        hold, refers to files outside its folder, or the axes do not fit.
    ChoiceError
        A `UserError`: it holds several different images and none is named, or planes are missing.
    """
    return open_levels(
        path, axes=axes, spacing=spacing, series=series, missing_planes=missing_planes
    )[0]


def open_levels(
    path: str | Path,
    *,
    axes: str | None = None,
    spacing: str | Sequence[float] | None = None,
    series: str | int | None = None,
    missing_planes: MissingPlanes | str = MissingPlanes.REFUSE,
) -> tuple[Stack, ...]:
    """Open an image at all stored resolutions, the full one first.

    Parameters and errors are those of `open_stack`. All have the same axes and channels; each level
    has its own spacing and translation. Formats other than TIFF and OME-Zarr have one level.
    """
    path, missing = as_stored(Path(path).expanduser()), MissingPlanes(missing_planes)
    given = parse_spacing(spacing) if spacing is not None else {}
    if is_series(path):
        each: Open = open_stack  # the same object, so that files stay open between calls
        if series is not None or missing is not MissingPlanes.REFUSE:
            each = partial(open_stack, series=series, missing_planes=missing)
        return (_resized(open_series(path, SUFFIXES, each, axes), given),)
    path = image_path(path, series)
    name = stem_of(path)
    file, scene = _split(path)
    if file.suffix.lower() in VENDOR_SUFFIXES and file.is_file():
        return (open_vendor(file, scene, axes, given, name),)
    file = _existing(file)
    if file.is_dir():
        return open_zarr(file, axes, sizes=given, name=name)
    if file.suffix.lower() in READ_AS_TIFF:
        return open_tiff_levels(file, scene, axes, given, name, missing)
    return (_resized(_plain(file, scene, axes, name), given),)


def open_all(
    path: str | Path, *, missing_planes: MissingPlanes | str = MissingPlanes.REFUSE
) -> list[tuple[Stack, ...]]:
    """Open all images in a file, each at all its resolutions; most files hold one.

    Main images, which `open_stack` opens or lets the user choose from, come first, then associated
    ones, such as the label of a slide. Errors are those of `open_stack`, except the one for a
    missing choice.
    """
    path = as_stored(Path(path).expanduser())
    contents = contents_of(path) if path.is_file() else ()
    try:
        found = [open_levels(path, missing_planes=missing_planes)]
        left = [n for n, content in enumerate(contents, 1) if content.associated]
    except ChoiceError:
        if len(contents) < 2:
            raise
        found, left = [], list(range(1, len(contents) + 1))
    for number in left:
        levels = open_levels(path, series=number, missing_planes=missing_planes)
        name = f"{stem_of(path)} · {contents[number - 1].name}"
        found.append(tuple(level.renamed(name) for level in levels))
    return found


def is_series(path: Path) -> bool:
    """Whether a path stands for a file series: a folder or a pattern."""
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
    axes: str | None = None,
    series: str | int | None = None,
    missing_planes: MissingPlanes | str = MissingPlanes.REFUSE,
) -> Labels:
    """Open a file of labels: strokes, a mask or instances.

    For an OME-Zarr image the only label group is opened, or the one in the path, such as
    ``image.zarr/labels/cells``.

    Palette pictures return their indices, not their colours; RGB masks are accepted if their
    channels are equal. Planes that were saved as colour samples are planes if the image has as
    many.

    Parameters
    ----------
    path
        The file.
    shape
        Grid shape of the image; labels that differ only in axes of length 1 are reshaped to it.
    threshold, ignore
        Make a full mask of 0, 1 and 255 (not labelled); see `thresholded`.
    axes
        Axes of the image, as for `open_stack`; labels have the same axes except channels.
    series, missing_planes
        As for `open_stack`.

    Returns
    -------
    array
        Lazy or NumPy; integers of any width or floats, as in the file.

    Raises
    ------
    UserError
        As for `open_stack`; also for a colour picture, a mask in an alpha channel, or a JPEG with
        blurred values.
    """
    how: dict[str, Any] = {"axes": axes, "series": series, "missing_planes": missing_planes}
    return read_labels(path, shape, threshold=threshold, ignore=ignore, **how)[0]


def read_labels(
    path: str | Path,
    shape: tuple[int, ...] | None = None,
    *,
    threshold: float | None = None,
    ignore: int | None = None,
    axes: str | None = None,
    spacing: str | Sequence[float] | None = None,
    series: str | int | None = None,
    missing_planes: MissingPlanes | str = MissingPlanes.REFUSE,
) -> tuple[Labels, Stack]:
    """Labels, and the stack of their file; see `open_labels` and `open_stack`."""
    path, missing = as_stored(Path(path).expanduser()), MissingPlanes(missing_planes)
    stack = _labels_stack(path, axes, shape, series, missing)
    if spacing is not None:
        stack = _resized(stack, parse_spacing(spacing))
    data = stack.data
    if "S" in stack.axes and not _fits(stack, shape):
        data = _grey(data, stack.axes.index("S"), path)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg") and threshold is None
    if jpeg and not set(np.unique(data)) <= {0, 255}:
        raise UserError(
            f"{path} is a JPEG, which blurs the numbers of labels; save it as PNG or TIFF, or "
            "make values above 127 structure 1 with '--threshold 127'."
        )
    if shape is not None and same_but_singletons(data.shape, shape):
        data = on_grid(data, shape)
    if threshold is not None:
        thin = isinstance(data, np.ndarray)
        data = (thresholded if thin else Thresholded)(data, threshold, ignore)
    return data, stack


def open_labels_levels(path: str | Path) -> tuple[Stack, ...]:
    """Labels of an OME-Zarr at all stored resolutions; see `open_labels`."""
    path = Path(path).expanduser()
    return open_zarr(path, labels=True, name=stem_of(path))


def _labels_stack(
    path: Path,
    axes: str | None,
    shape: tuple[int, ...] | None,
    series: str | int | None,
    missing: MissingPlanes,
) -> Stack:
    """Labels with the image's axes without channels, if these fit; else with their own."""
    grid = "".join(a for a in axes or "" if a.upper() not in CHANNEL_AXES)
    if grid:
        with suppress(UserError):
            stack = _raw_labels(path, grid, series, missing)
            if shape is None or _fits(stack, shape):
                return stack
    return _raw_labels(path, None, series, missing)


def _fits(stack: Stack, shape: tuple[int, ...] | None) -> bool:
    """Whether labels have the shape of an image, ignoring axes of length 1."""
    return shape is not None and same_but_singletons(stack.data.shape, shape)


def _raw_labels(
    path: Path, axes: str | None, series: str | int | None, missing: MissingPlanes
) -> Stack:
    if is_series(path):
        each = partial(_raw_labels, axes=None, series=series, missing=missing)
        return open_series(path, SUFFIXES, each, axes)
    path = image_path(path, series)
    file, scene = _split(path)
    file = _existing(file)
    if file.is_dir():
        return open_zarr(file, axes, labels=True, name=stem_of(path))[0]
    if file.suffix.lower() in READ_AS_TIFF:
        return open_tiff_levels(file, scene, axes, {}, stem_of(path), missing)[0]
    return _plain(file, scene, axes, stem_of(path), labels=True)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if is_zarr(path):
        return path
    if not path.exists():
        raise UserError(f"{path} does not exist; check the name.")
    if not path.is_file():
        raise UserError(f"{path} is a device or a pipe, not a file; choose an image.")
    if path.suffix.lower() == ".safetensors":
        raise UserError(f"{path.name} is a model, not an image; give the model before the images.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"The format of {path.name} is not supported; save it as TIFF, PNG or JPEG."
        )
    return path


def _plain(path: Path, scene: str, axes: str | None, name: str, *, labels: bool = False) -> Stack:
    """A picture, or an array in ``.npy``: files of a single image."""
    choose_scene(path, [path.stem], scene)
    if path.suffix.lower() != ".npy":
        return open_picture(path, axes, name, labels=labels)
    with reading(path):
        array = open_npy(path)
    check_numbers(path, array.dtype)
    return Stack.from_array(array, axes, name)


def _grey(data: Any, axis: int, path: Path) -> np.ndarray:
    """One channel of a mask that was saved as RGB, without alpha."""
    array = np.moveaxis(np.asarray(data), axis, -1)
    samples = array.shape[-1]
    colour = samples > 2 and bool((array[..., :3] != array[..., :1]).any())
    alike = colour or bool((array[..., 0] == array[..., 0].flat[0]).all())
    if samples in (2, 4) and alike and (array[..., -1] != array[..., -1].flat[0]).any():
        raise UserError(
            f"{path} seems to have its mask in the alpha channel: its "
            f"{'colours are a picture' if colour else 'grey is the same everywhere'}; save the "
            "alpha channel as a grey picture."
        )
    if colour:
        raise UserError(
            f"{path} is a colour picture, not labels; save the mask itself, one grey number per "
            "pixel, instead of a picture of it."
        )
    return np.ascontiguousarray(array[..., 0])
