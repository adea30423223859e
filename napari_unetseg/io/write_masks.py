"""Mask formats, and atomic writing of masks and probabilities with pixel sizes.

A new format is an entry of `FORMATS`: command line, batches and the window offer it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.units import PIXEL, per_centimetre
from napari_unetseg.io.write_tiff import AxisSizes, planes, write_tiff

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

PNG_TEXT_BYTES = 4096
"""The text chunks of a PNG come before its pixels."""


@dataclass(frozen=True, slots=True)
class MaskNotes:
    """Metadata of a mask file; ``sizes`` are pixel size and unit by axis."""

    axes: str
    sizes: AxisSizes
    names: Mapping[int, str]
    provenance: str
    scratch: Path | None


@dataclass(frozen=True, slots=True)
class MaskFormat:
    """A file format of masks.

    ``name`` is for the command line and batch files, ``title`` for the window, ``help`` a phrase on
    it. The first of the ``suffixes`` (in lower case) is written. ``write`` writes an array of
    uint8, uint16 or uint32, read a plane at a time, and returns the files; None where prediction
    fills the format chunk by chunk. ``highest`` is the highest number that it can hold.
    ``read_text`` gives the text in a file that holds its provenance. With ``per_plane`` each plane
    has a file of its own. ``precisions`` are those that probabilities can be stored in, the default
    first. ``read`` opens a mask again; None where `open_stack` can.
    """

    name: str
    title: str
    help: str
    suffixes: tuple[str, ...]
    write: Callable[[Path, Any, np.dtype, MaskNotes], list[Path]] | None
    read_text: Callable[[Path], str] | None = None
    per_plane: bool = False
    precisions: tuple[str, ...] = ("float32", "float16")
    read: Callable[[Path], Stack] | None = None
    highest: int = 2**32 - 1

    @property
    def suffix(self) -> str:
        """The suffix of written files."""
        return self.suffixes[0]

    @property
    def by_chunks(self) -> bool:
        """Whether prediction writes it chunk by chunk."""
        return self.write is None

    def open(self, path: Path) -> Stack:
        """Open a written mask; raises `UserError` if it cannot be read."""
        from napari_unetseg.io.open_image import open_stack

        return (self.read or open_stack)(path)

    def files(self, path: Path, shape: Sequence[int], axes: str) -> list[Path]:
        """The files of a mask of that shape, in order."""
        if not self.per_plane:
            return [path]
        lead = tuple(shape[:-2])
        return [
            path.with_name("".join([path.stem, *map(_place, axes, index, lead), path.suffix]))
            for index in np.ndindex(*lead)
        ]


def _place(axis: str, index: int, count: int) -> str:
    return f"_{axis.lower()}{index:0{max(3, len(str(count - 1)))}d}"


def format_names() -> str:
    """All names, for messages: ``tiff, ome-tiff, zarr or png``."""
    return _either(FORMATS)


def format_of(path: Path) -> MaskFormat:
    """The format for a file name, by suffix; `UserError` if there is none."""
    writable = [f for f in FORMATS.values() if not f.by_chunks]
    fitting = [
        (len(suffix), f)
        for f in writable
        for suffix in f.suffixes
        if path.name.lower().endswith(suffix)
    ]
    if not fitting:
        known = _either([f.suffix for f in writable])
        raise UserError(f"{path.name} has an unknown suffix; use {known}.")
    return max(fitting, key=lambda found: found[0])[1]


def _either(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def write_mask(
    path: str | Path,
    mask: Any,
    *,
    axes: str,
    spacing: Sequence[float] = (),
    units: Sequence[str] = (),
    names: Mapping[int, str] | None = None,
    as_format: MaskFormat | None = None,
    provenance: str = "",
    scratch: Path | None = None,
) -> list[Path]:
    """Write a mask in one of `FORMATS`, chosen by the suffix of ``path``.

    A TIFF opens in ImageJ with its axes and pixel sizes, a ``.ome.tif`` in any OME reader. A PNG
    holds one plane: file names of a stack contain its index, as in ``cells_t003_z012.png``. All
    formats are lossless.

    Parameters
    ----------
    path
        The file; it is replaced only after everything was written.
    mask
        Array-like of non-negative integers, read a plane at a time; stored as uint8, uint16 or,
        but for PNG, uint32 (which ImageJ does not open).
    axes
        One letter for each axis, ending in YX.
    spacing, units
        Pixel size along each axis and its Pint unit; ``pixel`` where unknown.
    names
        Name of each number, noted in TIFFs.
    as_format
        The format, overriding the suffix.
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
        The suffix is unknown, numbers do not fit the format, the disk is full or the folder cannot
        be written; an existing file is unchanged.
    """
    path = Path(path)
    chosen = as_format or format_of(path)
    if chosen.write is None:
        raise UserError(f"{chosen.title} is written by a prediction alone; choose another format.")
    notes = MaskNotes(axes, _sizes(axes, spacing, units), names or {}, provenance, scratch)
    return chosen.write(path, mask, _mask_dtype(mask, path, chosen.highest), notes)


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
        The file; it is replaced only after everything was written.
    probabilities
        Array-like (classes, *grid), read a plane at a time.
    axes, spacing, units
        Axes of the grid, as for `write_mask`.
    names
        Name of each class.
    half
        Store float16.
    scratch
        A folder for temporary files, as for `atomic_path`.

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written; an existing file is unchanged.
    """
    path = Path(path)
    sizes = {"C": (1.0, PIXEL), **_sizes(axes, spacing, units)}
    dtype = np.dtype("float16" if half else "float32")
    ome = not half and set(axes) <= set("TZYX")
    notes: dict[str, Any] = {"Channel": {"Name": list(names)}} if ome and names else {}
    write_tiff(
        path, probabilities, dtype, "C" + axes, sizes, notes, ome=ome, imagej=False, scratch=scratch
    )
    return path


def _sizes(axes: str, spacing: Sequence[float], units: Sequence[str]) -> AxisSizes:
    spacing = tuple(spacing) or (1.0,) * len(axes)
    units = tuple(units) or (PIXEL,) * len(axes)
    return {a: (float(s), u) for a, s, u in zip(axes, spacing, units, strict=True)}


def _mask_dtype(mask: Any, path: Path, most: int) -> np.dtype:
    """The smallest of uint8, uint16 and uint32 that holds every number."""
    dtype = np.dtype(mask.dtype)
    if dtype in (np.dtype(bool), np.dtype("uint8"), np.dtype("uint16")):
        return np.dtype("uint8") if dtype.kind == "b" else dtype
    if dtype.kind not in "ui":
        raise UserError(f"{path.name} needs whole numbers to be a mask, not {dtype}.")
    highest, lowest = 0, 0
    for plane in planes(mask, dtype):
        highest, lowest = max(highest, int(plane.max())), min(lowest, int(plane.min()))
    if lowest < 0 or highest > most:
        raise UserError(
            f"{path.name} can hold the numbers 0 to {most}; relabel the objects or save as TIFF."
        )
    return next(
        d for d in map(np.dtype, ("uint8", "uint16", "uint32")) if highest <= np.iinfo(d).max
    )


# -- PNG -------------------------------------------------------------------------------------------


def _write_pngs(path: Path, mask: Any, dtype: np.dtype, notes: MaskNotes) -> list[Path]:
    from PIL import Image, PngImagePlugin

    found = [per_centimetre(*notes.sizes[a]) for a in "XY"]
    more: dict[str, Any] = {"dpi": tuple(2.54 * f for f in found if f)} if all(found) else {}
    if notes.provenance:
        more["pnginfo"] = PngImagePlugin.PngInfo()
        more["pnginfo"].add_text("Comment", notes.provenance)
    files = FORMATS["png"].files(path, mask.shape, notes.axes)
    with ExitStack() as written:  # no file is replaced before all are written
        for file, plane in zip(files, planes(mask, dtype), strict=True):
            temporary = written.enter_context(atomic_path(file, notes.scratch))
            Image.fromarray(plane).save(temporary, format="PNG", **more)
    return files


def _png_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(PNG_TEXT_BYTES).decode("latin-1")


# -- TIFF ------------------------------------------------------------------------------------------


def _write_tiff_mask(
    path: Path, mask: Any, dtype: np.dtype, notes: MaskNotes, *, ome: bool = False
) -> list[Path]:
    metadata: dict[str, Any] = {}
    lines = [f"{number} = {name}" for number, name in notes.names.items()]
    if lines or notes.provenance:
        metadata["Info"] = "\n".join(line for line in (*lines, notes.provenance) if line)
    if notes.names:
        metadata |= {"min": 0.0, "max": float(max(notes.names))}
    write_tiff(path, mask, dtype, notes.axes, notes.sizes, metadata, ome=ome, scratch=notes.scratch)
    return [path]


def _tiff_text(path: Path) -> str:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            imagej = tiff.imagej_metadata or {}
            return str(imagej.get("Info") or tiff.pages.first.description)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


FORMATS: Mapping[str, MaskFormat] = {
    f.name: f
    for f in (
        MaskFormat(
            "tiff",
            "TIFF",
            "opens in ImageJ",
            (".tif", ".tiff", ".btf", ".tf8"),
            _write_tiff_mask,
            _tiff_text,
        ),
        MaskFormat(
            "ome-tiff",
            "OME-TIFF",
            "opens in any OME reader",
            (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.tf8"),
            partial(_write_tiff_mask, ome=True),
            _tiff_text,
        ),
        MaskFormat(
            "zarr",
            "OME-Zarr",
            "labels with smaller levels, read a chunk at a time",
            (".zarr",),
            None,
            precisions=("float16", "float32", "uint8"),
        ),
        MaskFormat(
            "png",
            "PNG",
            "one file per plane",
            (".png",),
            _write_pngs,
            _png_text,
            per_plane=True,
            highest=65535,
        ),
    )
}
"""All mask formats by name; the first is the default."""
