"""Validation of TIFF page headers against their series."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tifffile

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.readers.lazy_array import check_size
from napari_unetseg.io.readers.zarr_nodes import MOST_CHUNK

Page = tifffile.TiffPage | tifffile.TiffFrame
"""A page, or tifffile's reduced page with only the position of its pixels."""

LAYOUT = frozenset({256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 338, 339})
"""Tags that describe how the pixels of a page are stored."""


def check_chain(file: tifffile.TiffFile) -> None:
    """Refuse a circular chain of pages, which tifffile would read for ever.

    Raises
    ------
    ValueError
        A page is followed by itself or an earlier one.
    """
    handle, tiff = file.filehandle, file.tiff
    offset, seen = int(file.pages.first.offset), set[int]()
    while 0 < offset <= handle.size - tiff.tagnosize:
        if offset in seen:
            raise ValueError("pages that follow each other in a circle")
        seen.add(offset)
        handle.seek(offset)
        (count,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
        handle.seek(offset + tiff.tagnosize + count * tiff.tagsize)
        following = handle.read(tiff.offsetsize)
        if len(following) < tiff.offsetsize:
            break
        (offset,) = struct.unpack(tiff.offsetformat, following)


def check_pages(path: Path, series: tifffile.TiffPageSeries, stored: int) -> None:
    """Refuse pages that differ in size from the first one, and tiles too large for the file.

    Each page, in any file of the set, has its own header, which determines the memory allocated.

    Raises
    ------
    UserError
        A tile or a strip of more than 2 GB, or of 10,000 bytes for each of the ``stored`` ones; a
        page of another size or dtype than the first.
    ValueError
        Pages differ.
    """
    first = series.keyframe
    pages = () if is_block(series) else series
    kinds = {id(first): first} | {id(p.keyframe): p.keyframe for p in pages if p is not None}
    for page in filter(None, kinds.values()):
        if page.nbytes != first.nbytes:
            raise ValueError("pages of several sizes in one series")
        piece = math.prod(page.chunks) * page.dtype.itemsize if page.dtype else 0
        check_size(path, piece, stored)
        if piece > MOST_CHUNK:
            raise UserError(
                f"{path} would have to be read in pieces of {piece / 2**30:,.0f} GB; save it with "
                f"tiles of at most {MOST_CHUNK >> 30} GB."
            )
    if (number := differing_page(series)) is not None:
        raise UserError(
            f"{path} has pages that its metadata call one image, but page {number + 1} has "
            "another size or type than the first; save images of different kinds in separate "
            "files."
        )


def is_block(series: tifffile.TiffPageSeries) -> bool:
    """Whether its pixels are one block described by the first page, whatever pages follow."""
    described = series.kind in ("shaped", "imagej", "stk")
    return series.is_truncated or (described and series.dataoffset is not None)


def reaches(series: tifffile.TiffPageSeries) -> int:
    """The position in the file of the last byte of the pixels."""
    if series.dataoffset is not None:
        return int(series.dataoffset + series.nbytes)
    ends = [
        int(offset + count)
        for page in series
        if page is not None
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
    ]
    return max(ends, default=0)


def differing_page(series: tifffile.TiffPageSeries) -> int | None:
    """The first page whose layout differs from what tifffile assumes; None if there is none.

    tifffile reads the whole header of the first page only, and of the others the pixel positions.
    """
    known: dict[int, dict[int, bytes]] = {}
    for number, page in enumerate(() if is_block(series) else series):
        if not isinstance(page, tifffile.TiffFrame) or page.is_virtual or page.keyframe is None:
            continue
        first = page.keyframe
        with opened(page.parent):
            if id(first) not in known:
                with opened(first.parent):
                    known[id(first)] = _layout(first)
            if _layout(page) != known[id(first)] and page.aspage().hash != first.hash:
                return number
    return None


@contextmanager
def opened(file: tifffile.TiffFile) -> Iterator[None]:
    """Open a file of a set temporarily, if it is closed."""
    handle = file.filehandle
    closed = handle.closed
    if closed:
        handle.open()
    try:
        yield
    finally:
        if closed:
            handle.close()


def _layout(page: Page) -> dict[int, bytes]:
    """The storage layout in a page's header; for multi-valued tags the number of values."""
    tiff: Any = page.parent.tiff
    handle = page.parent.filehandle
    handle.seek(page.offset)
    (count,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
    raw = handle.read(tiff.tagsize * count)
    entries = [raw[n : n + tiff.tagsize] for n in range(0, len(raw), tiff.tagsize)]
    found = {struct.unpack(tiff.tagformat1[:2], e[:2])[0]: e for e in entries}
    values = tiff.tagsize - tiff.offsetsize
    return {
        code: e if struct.unpack(tiff.offsetformat, e[4:values])[0] == 1 else e[:values]
        for code, e in found.items()
        if code in LAYOUT
    }
