"""Images of a TIFF: series, pyramids, slide images; selection of one."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_unetseg.io.axes import letters_of
from napari_unetseg.io.readers.missing_planes import absent_planes
from napari_unetseg.io.readers.tiff_metadata import metadata_of
from napari_unetseg.io.readers.tiff_pages import Page, differing_page, is_block, opened
from napari_unetseg.io.scenes import choose_scene, listed, several

if TYPE_CHECKING:
    from napari_unetseg.io.readers.lazy_array import Key

ASSOCIATED = re.compile(r"(thumbnail|macro|label|overview|map)( image)?", re.IGNORECASE)
"""Names of pictures associated with the image of a slide."""
OWN_INDEX = ("mmstack", "ndtiff", "eer")
"""Formats whose pages tifffile reads from their own index instead of the chain of headers."""


@dataclass(frozen=True, eq=False, slots=True)
class TiffImage:
    """An image in a TIFF."""

    first: tifffile.TiffPageSeries
    """The series that the metadata describe."""
    shape: tuple[int, ...]
    axes: str
    """Axes as in the file; ``I`` and ``Q`` are unnamed axes."""
    name: str = ""
    """Name in the file; ``Series 2`` if the file has none."""
    pages: tuple[tifffile.TiffPageSeries, ...] = ()
    where: tuple[tuple[int, int], ...] = ()
    """For an image made of several series: its pages, grouped by storage layout, and for each page
    the index of its group and its index in the group."""
    associated: bool = False
    """Whether it is associated with another image: a thumbnail, the label of a slide."""
    described: bool = True
    """Whether the metadata of the file describe it."""
    within: bool = True
    """Whether it has planes in the opened file, and not only in others of its set."""
    remarks: tuple[str, ...] = ()
    """Notes for the user on how it is read, a sentence each."""
    guess: tuple[str, ...] = ()
    """Notes on guessed axes, used unless the user gives the axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the pixels."""
        return self.first.dtype

    @property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Shape at each resolution, the full one first."""
        if self.where:
            return (self.shape,)
        return tuple(tuple(int(n) for n in level.shape) for level in self.first.levels)

    @property
    def series(self) -> tuple[tifffile.TiffPageSeries, ...]:
        """The series of its pages."""
        return self.pages or (self.first,)

    @property
    def absent(self) -> np.ndarray | None:
        """The missing planes; see `absent_planes`."""
        return None if self.where else absent_planes(self.first)

    @property
    def size(self) -> str:
        """Shape and dtype, for messages."""
        more = "" if self.described else ", not in its metadata"
        return f"{' × '.join(map(str, self.shape))} {self.dtype}{more}"


class PixelReader:
    """Reads the pixels of an image at one resolution, by tiles if ``large``."""

    def __init__(self, image: TiffImage, level: int = 0, *, large: bool = False) -> None:
        import zarr

        mode = 0 if large else 2
        stores = (s.aszarr(level=level, chunkmode=mode) for s in image.series)
        self._image = image
        self._arrays: list[Any] = [zarr.open_array(store, mode="r") for store in stores]

    def read(self, index: tuple[int, ...], region: Key) -> np.ndarray:
        """Read a region at an index of the leading axes."""
        image = self._image
        if not image.where:
            return np.asarray(self._arrays[0][(*index, *region)])
        grid = image.shape[: len(image.shape) - len(image.first.keyframe.shape)]
        page = int(np.ravel_multi_index(index[: len(grid)], grid))
        series, number = image.where[page]
        pages = (number,) if len(image.pages[series]) > 1 else ()
        return np.asarray(self._arrays[series][(*pages, *index[len(grid) :], *region)])


def images_of(file: tifffile.TiffFile) -> tuple[TiffImage, ...]:
    """All images in an open TIFF, associated ones last.

    Pages that the metadata do not describe are images of their own.
    """
    series = _series(file)
    images = [_image(file, s) for s in series]
    if not any(s.kind in OWN_INDEX for s in series):
        pages = _undescribed(file, series)
        images += [replace(_image(file, s), described=False) for s in _alike(pages)]
        if empty := sum(not _has_pixels(page) for page in pages):
            name = Path(file.filehandle.name).name
            left = f"{name} has {empty} page{'s' * (empty > 1)} without pixels, left out."
            images = [replace(i, remarks=(*i.remarks, left)) for i in images]
    if all(i.associated for i in images):
        images = [replace(i, associated=False) for i in images]
    images.sort(key=lambda i: i.associated)
    twice = {n for n, count in Counter(i.name for i in images).items() if count > 1}
    return tuple(
        replace(i, name=i.name if i.name and i.name not in twice else f"Series {n}")
        for n, i in enumerate(images, 1)
    )


def choose_image(
    path: Path, images: Sequence[TiffImage], wanted: str
) -> tuple[TiffImage, tuple[str, ...]]:
    """Choose an image; return it with notes for the user, a sentence each.

    If none is named, it is the only one besides associated images, or the only one with planes in
    this file of a set; or all are joined to one stack, if their pages are alike.

    Raises
    ------
    ChoiceError
        Several images differ, or none has the wanted name.
    """
    names, shown = [i.name for i in images], [f"{i.name} ({i.size})" for i in images]
    if wanted:
        return images[choose_scene(path, names, wanted, shown)], ()
    own, notes = [i for i in images if not i.associated], []
    if others := [i.name for i in images if i.associated and i.first.kind != "lsm"]:
        notes.append(
            f"{path.name} also holds {listed(others)}; to open one of these, give its name, "
            f"such as '{path.name}/{others[0]}'."
        )
    here = [i for i in own if i.within]
    if here and len(here) < len(own):
        notes.append(
            f"{path.name} is one file of a set of {len(own)} images; only the images in "
            "this file are opened."
        )
        own = here
    if len(own) == 1:
        return own[0], tuple(notes)
    joined = _joined(own)
    if joined is None:
        raise several(path, names, shown)
    planes = len(joined.where)
    if more := sum(len(i.first) for i in own if not i.described):
        notes.append(
            f"{path.name} has {more} plane{'s' * (more > 1)} more than its metadata say; all "
            f"{planes} are opened."
        )
    elif own[0].first.kind != "generic":
        notes.append(
            f"{path.name} holds {len(own)} images that are alike; they are opened as one stack of "
            f"{planes} planes ('{path.name}/{own[0].name}' opens the first alone)."
        )
    return joined, tuple(notes)


# -- which images there are ------------------------------------------------------------------------


def _series(file: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    """The series of a file; pages that differ within a uniform chain are separated.

    tifffile compares only a few pages. Pages without pixels are skipped.
    """
    try:
        series = list(file.series)
    except RuntimeError:  # tifffile has noticed such a page
        file.is_uniform = False
        series = list(file.series)
    if series and series[0].kind == "uniform" and differing_page(series[0]) is not None:
        series = _alike(file.pages.get(n) for n in range(len(file.pages)))
    return [s for s in series if s.size]


def _undescribed(file: tifffile.TiffFile, series: Sequence[tifffile.TiffPageSeries]) -> list[Page]:
    """The pages that metadata do not describe."""
    files = {id(f): f for f in (file, *file._files.values())}
    if len(series) == 1 and is_block(series[0]) and len(file.pages) == _planes(series[0]):
        return []
    known = {
        (id(page.parent), page.treeindex)
        for one in series
        for level in one.levels
        for page in _pages(level)
    }
    more: list[Page] = []
    for parent in files.values():
        for number in (n for n in range(len(parent.pages)) if (id(parent), (n,)) not in known):
            with opened(parent):
                more.append(parent.pages.get(number))
    return more


def _has_pixels(page: Page) -> bool:
    return min(page.shape, default=0) > 0


def _alike(pages: Iterable[Page]) -> list[tifffile.TiffPageSeries]:
    """Series of pages with the same layout; pages without pixels are skipped."""
    groups: dict[int, list[Page]] = {}
    for page in filter(_has_pixels, pages):
        groups.setdefault(page.hash, []).append(page)
    return [_of_pages(group) for group in groups.values()]


def _pages(series: tifffile.TiffPageSeries) -> Iterator[Page]:
    """The existing pages of a series, up to the number in its shape.

    For pixels in one block all page headers but the first may be missing, or belong to other pages.
    """
    first, planes = series.keyframe, _planes(series)
    if not is_block(series):
        yield from (page for page in itertools.islice(series, planes) if page is not None)
        return
    for number in range(planes):
        try:
            page = first.parent.pages[first.index + number]
        except IndexError:
            return
        if page.dataoffsets[:1] == (first.dataoffsets[0] + number * first.nbytes,):
            yield page


def _planes(series: tifffile.TiffPageSeries) -> int:
    """The number of pages in the shape of a series."""
    return math.prod(series.shape) // max(math.prod(series.keyframe.shape), 1)


def _of_pages(pages: Sequence[Page]) -> tifffile.TiffPageSeries:
    """A series of pages with the same layout; a single page has no page axis.

    Axes of length 1 are removed, as versions of tifffile differ in that.
    """
    first = pages[0]
    lead = (len(pages),) if len(pages) > 1 else ()
    shape, axes = (*lead, *first.shape), "I" * len(lead) + first.axes
    return tifffile.TiffPageSeries(pages, shape, first.dtype, axes, kind="generic")


def _image(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> TiffImage:
    first, axes = series.keyframe, series.axes
    name, planar = Path(file.filehandle.name).name, _only_tagged_as_colour(series)
    if planar:
        axes = axes.replace("S", "I")
    elif "C" not in axes and _are_channels(first):
        axes = axes.replace("S", "C")
    pages = [first] if is_block(series) else [p for p in series if isinstance(p, tifffile.TiffPage)]
    return TiffImage(
        series,
        tuple(int(n) for n in series.shape),
        axes,
        series.name,
        associated=all(p.is_reduced or p.is_mask or p.is_subifd for p in pages)
        or ASSOCIATED.fullmatch(series.name) is not None,
        within=any(p is not None and p.parent is file for p in series),
        remarks=tuple(_remarks(name, series)),
        guess=(_guess(name, series),) if planar else (),
    )


def _remarks(name: str, series: tifffile.TiffPageSeries) -> Iterator[str]:
    """Notes for the user on how a series is read."""
    if series.kind == "generic" and any(not s.keyframe.is_reduced for s in series.levels[1:]):
        sizes = listed([" × ".join(map(str, level.shape)) for level in series.levels])
        yield f"{name} has pages of several sizes, read as resolutions of an image: {sizes}."
    if series.kind == "mmstack" and (planned := _planned(series)):
        yield f"{name} was planned with {planned}, but fewer planes were acquired or found."
    if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE and series.kind != "shaped":
        yield f"{name} stores white as 0; its values are used as they are."


def _planned(series: tifffile.TiffPageSeries) -> str:
    """The axes that Micro-Manager planned to be longer, with their lengths: ``T 10``."""
    metadata = series.keyframe.parent.micromanager_metadata or {}
    summary = metadata.get("Summary", {})
    keys = {"T": "Frames", "R": "Positions", "Z": "Slices", "C": "Channels"}
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return ", ".join(
        f"{axis} {summary[key]}"
        for axis, key in keys.items()
        if int(summary.get(key, 1)) > sizes.get(axis, 1)
    )


def _are_channels(page: tifffile.TiffPage) -> bool:
    """Whether the samples of a pixel are channels: neither colours nor grey with alpha."""
    kinds = tifffile.PHOTOMETRIC
    grey = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.SEPARATED)
    alpha = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
    return grey and not alpha & set(page.extrasamples)


def _guess(name: str, series: tifffile.TiffPageSeries) -> str:
    colours = letters_of(None, series.axes, series.shape, Path(name))
    return (
        f"{name} is tagged as colour in {series.keyframe.shape[0]} planes, as tifffile and napari "
        f"save any stack of 3 or 4; it is read as a stack (--axes {colours} reads colours)."
    )


def _only_tagged_as_colour(series: tifffile.TiffPageSeries) -> bool:
    """Whether tifffile wrote planes as colour samples because there were 3 or 4 of them."""
    text = series.keyframe.shaped_description or ""
    planar = "S" in series.axes and not series.axes.endswith("S")
    return planar and series.kind == "shaped" and '"axes"' not in text


# -- images that are one stack ---------------------------------------------------------------------


def _joined(images: Sequence[TiffImage]) -> TiffImage | None:
    """Join images with the same layout to one; None if they differ.

    Images of one shape become planes along a new axis. Pages of images of several shapes, and
    undescribed pages, become one axis, if there is no other.
    """
    first = images[0]
    page = first.first.keyframe
    if len({_likeness(i) for i in images}) > 1 or any(i.absent is not None for i in images):
        return None
    if len({_pixel_sizes(i) for i in images if i.described}) > 1:
        return None
    pages = [p for i in images for p in _pages(i.first)]
    if len(pages) != sum(_planes(i.first) for i in images):
        return None
    leading = {i.axes[: -len(page.shape)] for i in images}
    if len({i.shape for i in images}) == len(leading) == 1 and first.first.kind != "generic":
        axis = "P" if first.first.kind == "ome" and "P" not in first.axes else "I"
        shape, axes = (len(images), *first.shape), axis + first.axes
    else:
        named = {a for a in leading if a.strip("IQ")}
        if max(map(len, leading)) > 1 or len(named) > 1 or "C" in named:
            return None
        shape = (len(pages), *page.shape)
        axes = (*named, "I")[0] + first.axes[-len(page.shape) :]
        if len({id(p.parent) for p in pages}) == 1:
            pages.sort(key=lambda p: p.treeindex)
    groups: dict[int, list[Page]] = {}
    where = []
    for one in pages:
        group = groups.setdefault(one.hash, [])
        where.append((list(groups).index(one.hash), len(group)))
        group.append(one)
    series = tuple(_of_pages(group) for group in groups.values())
    return replace(first, shape=shape, axes=axes, pages=series, where=tuple(where))


def _pixel_sizes(image: TiffImage) -> tuple[tuple[str, tuple[float, str]], ...]:
    metadata = metadata_of(image.first.keyframe.parent, image.first).sizes
    return tuple(sorted(metadata.items()))


def _likeness(image: TiffImage) -> tuple[Any, ...]:
    """Properties that images joined to a stack must share; names may differ in numbers."""
    page = image.first.keyframe
    name = re.sub(r"\d+", "#", image.first.name)
    inner = image.shape[-len(page.shape) :] == page.shape
    return (*page.shape, image.dtype, page.photometric, page.axes, page.extrasamples, name, inner)
