"""TIFF, OME-TIFF and ImageJ TIFF as lazy stacks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import ChoiceError, UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.io.axes import letters_of
from napari_unetseg.io.readers.lazy_array import (
    LARGE_PLANE,
    Key,
    LazyArray,
    check_numbers,
    check_size,
    reading,
)
from napari_unetseg.io.readers.missing_planes import MissingPlanes, describe_planes, whole_indices
from napari_unetseg.io.readers.tiff_files import open_tiff
from napari_unetseg.io.readers.tiff_images import PixelReader, TiffImage, choose_image, images_of
from napari_unetseg.io.readers.tiff_metadata import images_without_pixels, metadata_of
from napari_unetseg.io.readers.tiff_pages import check_pages, is_block, reaches
from napari_unetseg.io.scenes import listed
from napari_unetseg.io.units import PIXEL, Sizes

if TYPE_CHECKING:
    from tifffile import TiffFile


@dataclass(frozen=True, slots=True)
class TiffSource:
    """The pixels of an image in a TIFF; ``stamp`` identifies the version of the file.

    ``scene`` names the image, ``level`` is one of its resolutions.
    """

    path: Path
    stamp: tuple[int, int]
    scene: str = ""
    level: int = 0
    missing: MissingPlanes = MissingPlanes.REFUSE

    def read(self, index: tuple[int, ...], region: Key, /) -> np.ndarray:
        """Read a region of the plane at ``index`` (leading axes in the order of the file)."""
        return _opened(self).read(index, region)


class _Opened:
    """An open TIFF; closed when neither the cache nor a reader refers to it."""

    def __init__(self, source: TiffSource) -> None:
        self._file = open_tiff(source.path).file
        image, _ = choose_image(source.path, images_of(self._file), source.scene)
        keyframe = image.first.levels[source.level].keyframe
        large = keyframe.is_tiled and keyframe.nbytes > LARGE_PLANE
        self._pixels = PixelReader(image, source.level, large=large)
        self._kept = _kept(image, source.missing)
        self._absent = image.absent if source.missing is MissingPlanes.FILL else None
        self._black = np.broadcast_to(np.zeros((), image.dtype), image.levels[source.level])

    def read(self, index: tuple[int, ...], region: Key) -> np.ndarray:
        if self._kept is not None:
            axis, kept = self._kept
            index = (*index[:axis], kept[index[axis]], *index[axis + 1 :])
        if self._absent is not None and self._absent[index[: self._absent.ndim]]:
            return self._black[(*index, *region)]
        return self._pixels.read(index, region)

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:  # opening may have failed
            file.close()


@lru_cache(maxsize=16)
def _opened(source: TiffSource) -> _Opened:
    return _Opened(source)


def _kept(image: TiffImage, missing: MissingPlanes) -> tuple[int, list[int]] | None:
    """The axis along which planes are dropped and the remaining indices; None if nothing is."""
    absent = image.absent if missing is MissingPlanes.DROP else None
    return None if absent is None else whole_indices(absent)


def open_tiff_levels(
    path: Path,
    scene: str,
    axes: str | None,
    given: Sizes,
    name: str,
    missing: MissingPlanes = MissingPlanes.REFUSE,
) -> tuple[Stack, ...]:
    """Open an image of a TIFF at all its resolutions, the full one first; no pixel is decoded.

    Parameters
    ----------
    path
        The file.
    scene
        Name or number of the image; empty if the file holds one.
    axes, given
        Letters of axes, and spacing and unit of some, which override the file's.
    name
        The name of the stacks.
    missing
        How to treat planes that are missing in the file.

    Raises
    ------
    UserError
        Not a TIFF, damaged, truncated, planes are missing, or far more pixels are declared than
        stored.
    ChoiceError
        It holds several images, or planes are missing, and the caller did not choose.
    """
    with reading(path), _complaints() as complaints:
        status = path.stat()
        source = TiffSource(path, (status.st_mtime_ns, status.st_size), scene, 0, missing)
        found = open_tiff(path)
        with found.file as file:
            image, chosen = choose_image(path, images_of(file), scene)
            _check(path, image, complaints)
            letters = letters_of(axes, image.axes, image.shape, path)
            _check_files(path, image, found.missing, missing)
            kept, missed = _missing(path, image, letters, missing)
            metadata = metadata_of(file, image.first)
            notes = (*found.notes, *chosen, *image.remarks)
            notes += (*(image.guess if axes is None else ()), *missed)
            notes += (*_lacking(path, file, image, found.missing),)
    rgb = "S" in letters and image.shape[letters.index("S")] > 2
    channels = ("red", "green", "blue") if rgb else metadata.channels
    about = _StackMetadata({**metadata.sizes, **given}, channels, metadata.colors, notes)
    shapes = [_without(shape, kept) for shape in image.levels]
    return tuple(
        _stack(replace(source, level=level), shape, shapes[0], image.dtype, letters, about, name)
        for level, shape in enumerate(shapes)
    )


def _lacking(path: Path, file: TiffFile, image: TiffImage, missing: Sequence[str]) -> Iterator[str]:
    """Notes on files and planes that the metadata refer to and that are missing."""
    yield from (f"{name} is missing, which is a part of {path.name}." for name in missing[:1])
    if file.is_ome and image.first.kind in ("generic", "uniform"):
        yield (
            f"The OME metadata of {path.name} do not say which planes it has; its pages are "
            "opened in file order."
        )
    if unseen := images_without_pixels(file):
        yield f"The metadata of {path.name} list {listed(unseen)}, but it has no planes of these."


@dataclass(frozen=True, slots=True)
class _StackMetadata:
    """Metadata common to all resolutions of an image; see `Stack`."""

    sizes: Sizes
    channels: tuple[str, ...]
    colors: tuple[str, ...]
    notes: tuple[str, ...]


def _stack(
    source: TiffSource,
    shape: tuple[int, ...],
    full: tuple[int, ...],
    dtype: np.dtype[Any],
    letters: str,
    about: _StackMetadata,
    name: str,
) -> Stack:
    """A stack of one resolution, centred on the full resolution."""
    lead = letters.index("Y") if "Y" in letters else 0
    order = _order(letters[:lead], shape)
    places = (*order, *range(lead, len(letters)))
    axes = "".join(letters[i] for i in places)
    sizes = [about.sizes.get(a, (1.0, PIXEL)) for a in axes]
    factors = [full[i] / shape[i] for i in places]
    return Stack(
        LazyArray(source, tuple(shape[i] for i in places), dtype, order, lead),
        axes,
        tuple(size * f for (size, _), f in zip(sizes, factors, strict=True)),
        tuple(unit for _, unit in sizes),
        about.channels,
        name,
        tuple(size * (f - 1) / 2 for (size, _), f in zip(sizes, factors, strict=True)),
        about.colors,
        about.notes,
    )


def _order(lead: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leading axes longer than 1; Z comes after other grid axes, so that a volume is ZYX."""
    places = [i for i in range(len(lead)) if shape[i] > 1]
    grid = [i for i in places if lead[i] not in "CS"]
    z = lead.find("Z")
    if z in grid and grid[-1] != z:
        places.remove(z)
        places.append(z)
    return tuple(places)


def _without(shape: tuple[int, ...], kept: tuple[int, list[int]] | None) -> tuple[int, ...]:
    """A shape without the dropped planes."""
    if kept is None:
        return shape
    axis, stays = kept
    return (*shape[:axis], len(stays), *shape[axis + 1 :])


def _check(path: Path, image: TiffImage, complaints: Sequence[str]) -> None:
    """Refuse an image that is damaged, truncated or larger than its file can hold."""
    check_numbers(path, image.dtype)
    for series in image.series:
        for level in series.levels:
            pages = [level.keyframe] if is_block(level) else level
            files = {id(p.parent): p.parent for p in pages if p is not None}
            stored = sum(f.filehandle.size for f in files.values())
            check_size(path, int(level.nbytes), stored)
            check_pages(path, level, stored)
            if complaints or (reaches(level) > stored and len(files) == 1):
                raise UserError(f"{path} is truncated or damaged; copy or save it again.")


def _check_files(
    path: Path, image: TiffImage, names: Sequence[str], missing: MissingPlanes
) -> None:
    """Refuse an image with planes, or metadata, in missing files."""
    lost = image.absent is not None or image.first.kind != "ome"
    if names and lost and missing is MissingPlanes.REFUSE:
        raise ChoiceError(
            f"{path.parent / names[0]} is missing, which is a part of {path.name}; put it into "
            "the same folder, or open the rest with --missing-planes drop."
        )


def _missing(
    path: Path, image: TiffImage, letters: str, missing: MissingPlanes
) -> tuple[tuple[int, list[int]] | None, tuple[str, ...]]:
    """The dropped planes, and a note on them."""
    absent = image.absent
    if absent is None:
        return None, ()
    lacks = _lacks(absent, letters)
    kept = _kept(image, missing)
    if missing is MissingPlanes.REFUSE or absent.all() or (kept is not None and not kept[1]):
        raise ChoiceError(
            f"{path} lacks {lacks}, as after an interrupted acquisition; copy it again, or open "
            "the rest with --missing-planes drop (leaves out incomplete times, slices or "
            "channels) or fill (black planes)."
        )
    if kept is None:
        return None, (f"{path.name} lacks {lacks}, which are black.",)
    axis, stays = kept
    return kept, (
        f"{path.name} lacks {lacks}; only what is complete is opened, {len(stays)} of "
        f"{absent.shape[axis]} along {letters[axis]}.",
    )


def _lacks(absent: np.ndarray, letters: str) -> str:
    which = describe_planes(absent, letters)
    return f"{int(absent.sum()):,} of {absent.size:,} planes ({which}, counted from 0)"


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect tifffile's log messages on broken page chains, which it truncates silently."""
    found: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            broken = any(word in text for word in ("offset", "corrupted", "failed to reshape"))
            mixed = "invalid shaped series" in text  # appended pages lack its metadata
            if record.thread == thread and broken and not mixed:
                found.append(text)

    logger, listener = logging.getLogger("tifffile"), Listener(logging.ERROR)
    level = logger.level
    logger.addHandler(listener)
    if logger.getEffectiveLevel() > logging.ERROR:  # scripts may have silenced it
        logger.setLevel(logging.ERROR)
    try:
        yield found
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)


# -- all that is in a file -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TiffContent:
    """An image in a TIFF, for a list of choices."""

    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    """Axes as in the file."""
    levels: tuple[tuple[int, ...], ...]
    """Shape at each resolution."""
    associated: bool
    """Whether it is associated with another image: a thumbnail, the label of a slide."""
    missing: str
    """The missing planes, such as ``T 3–9``; empty for none."""


def tiff_contents(path: Path) -> tuple[TiffContent, ...]:
    """All images in a TIFF; errors are as for `open_tiff_levels`."""
    with reading(path), open_tiff(path).file as file:
        return tuple(_content(image, path) for image in images_of(file))


def _content(image: TiffImage, path: Path) -> TiffContent:
    absent, letters = image.absent, image.axes
    with suppress(UserError):  # channels and colour samples cannot be opened
        letters = letters_of(None, image.axes, image.shape, path)
    return TiffContent(
        image.name,
        letters,
        image.shape,
        str(image.dtype),
        image.levels,
        image.associated,
        "" if absent is None else _lacks(absent, letters),
    )
