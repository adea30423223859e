"""TIFF, OME-TIFF and ImageJ TIFF: pixels plane by plane, axes and pixel sizes."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.lazy import LARGE_PLANE, Key, check_size, reading
from napari_unetseg.io.tiff_files import check_pages, open_tiff
from napari_unetseg.io.units import PIXEL, PRINT_PIXEL, unit_name

if TYPE_CHECKING:
    import tifffile

__all__ = ["TiffFacts", "TiffSource", "tiff_facts"]


@dataclass(frozen=True, slots=True)
class TiffFacts:
    """What a TIFF says about its first image series.

    ``sizes`` maps axes to spacing and unit; ``kind`` is tifffile's name of the flavour.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: str
    sizes: Mapping[str, tuple[float, str]]
    channels: tuple[str, ...]
    kind: str
    colors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TiffSource:
    """The pixels of the first series of a TIFF; ``stamp`` tells states of a file apart."""

    path: Path
    stamp: tuple[int, int]

    def read(self, index: tuple[int, ...], region: Key, /) -> np.ndarray:
        """Read a region of the plane at ``index`` (leading axes in the order of the file)."""
        return np.asarray(_opened(self).array[(*index, *region)])


class _Opened:
    """An open TIFF; closed when it is dropped by the cache and by its last reader."""

    def __init__(self, source: TiffSource) -> None:
        import zarr

        self._file = open_tiff(source.path)
        series = self._file.series[0]
        large = series.keyframe.is_tiled and series.keyframe.nbytes > LARGE_PLANE
        self._store = self._file.aszarr(series=0, level=0, chunkmode=0 if large else 2)
        self.array: Any = zarr.open_array(self._store, mode="r")

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:  # a broken file was never opened
            file.close()


@lru_cache(maxsize=16)
def _opened(source: TiffSource) -> _Opened:
    return _Opened(source)


def tiff_facts(path: Path) -> TiffFacts:
    """Read shape, axes and pixel sizes without decoding a pixel.

    Raises
    ------
    UserError
        Not a TIFF, damaged, cut short, or far more pixels declared than stored.
    """
    with reading(path), _complaints() as complaints, open_tiff(path) as file:
        if not file.series:
            raise ValueError("no image in the file")
        series = file.series[0]
        files = {id(p.parent): p.parent for p in series.pages if p is not None}
        stored = sum(f.filehandle.size for f in files.values())
        check_size(path, int(series.nbytes), stored)
        check_pages(path, series, stored)
        if complaints or (_reaches(series) > stored and len(files) == 1):
            raise UserError(f"{path} is cut short or damaged; copy or save it again.")
        sizes, channels = _metadata(file)
        colors = _colors(file.ome_metadata) if file.is_ome and file.ome_metadata else ()
        return TiffFacts(
            tuple(series.shape), series.dtype, series.axes, sizes, channels, series.kind, colors
        )


def _reaches(series: tifffile.TiffPageSeries) -> int:
    """Where in the file the last byte of the pixels lies."""
    if series.dataoffset is not None:
        return int(series.dataoffset + series.nbytes)
    ends = [
        int(offset + count)
        for page in series.pages
        if page is not None
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
    ]
    return max(ends, default=0)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile logs about broken page chains: it goes on with fewer pages."""
    found: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.thread == thread and ("offset" in text or "corrupted" in text):
                found.append(text)

    logger, listener = logging.getLogger("tifffile"), Listener(logging.ERROR)
    logger.addHandler(listener)
    try:
        yield found
    finally:
        logger.removeHandler(listener)


# -- metadata --------------------------------------------------------------------------------------

Sizes = dict[str, tuple[float, str]]


def _metadata(file: tifffile.TiffFile) -> tuple[Sizes, tuple[str, ...]]:
    if file.is_ome and file.ome_metadata:
        return _from_ome(file.ome_metadata)
    if file.is_imagej and file.imagej_metadata:
        return _from_imagej(file, file.imagej_metadata)
    return _from_tags(file), ()


def _pixels(text: str) -> ElementTree.Element | None:
    root = ElementTree.fromstring(text)
    return next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)


def _from_ome(text: str) -> tuple[Sizes, tuple[str, ...]]:
    pixels = _pixels(text)
    if pixels is None:
        return {}, ()
    sizes: Sizes = {}
    for axis, key, default in [
        ("X", "PhysicalSizeX", "µm"),
        ("Y", "PhysicalSizeY", "µm"),
        ("Z", "PhysicalSizeZ", "µm"),
        ("T", "TimeIncrement", "s"),
    ]:
        _add(sizes, axis, pixels.get(key), pixels.get(f"{key}Unit", default))
    found = [e for e in pixels if e.tag.endswith("}Channel")]
    names = tuple(e.get("Name") or f"channel {i + 1}" for i, e in enumerate(found))
    return sizes, names


def _colors(text: str) -> tuple[str, ...]:
    """Colours of the channels of the first image, which OME writes as one signed number, RGBA."""
    pixels = _pixels(text)
    found = (
        [e.get("Color") for e in pixels if e.tag.endswith("}Channel")] if pixels is not None else []
    )
    if not all(c and re.fullmatch(r"-?\d{1,10}", c) for c in found):
        return ()
    return tuple(f"#{(int(c or 0) >> 8) & 0xFFFFFF:06x}" for c in found)


def _from_imagej(file: tifffile.TiffFile, info: Mapping[str, Any]) -> tuple[Sizes, tuple[str, ...]]:
    unit = str(info.get("unit", ""))
    sizes: Sizes = {}
    if unit_name(unit) != PIXEL or _resolution_unit(file) == 1:
        for axis, tag in (("Y", "YResolution"), ("X", "XResolution")):
            _add(sizes, axis, _inverse(file, tag), str(info.get(f"{axis.lower()}unit", unit)))
    _add(sizes, "Z", info.get("spacing"), str(info.get("zunit", unit)))
    _add(sizes, "T", info.get("finterval"), str(info.get("tunit", "s")))
    labels = info.get("Labels") or ()
    names = tuple(str(n) for n in labels) if len(labels) == info.get("channels", 1) else ()
    return sizes, names


def _from_tags(file: tifffile.TiffFile) -> Sizes:
    shaped = (file.shaped_metadata or ({},))[0]
    sizes: Sizes = {}
    if {"axes", "spacings", "units"} <= set(shaped):  # written by this package
        for axis, size, unit in zip(
            shaped["axes"], shaped["spacings"], shaped["units"], strict=False
        ):
            _add(sizes, axis, size, unit)
        return sizes
    micrometres = {2: 25_400.0, 3: 10_000.0}.get(_resolution_unit(file))
    if micrometres is None:
        return sizes
    for axis, name in (("Y", "YResolution"), ("X", "XResolution")):
        size = (_inverse(file, name) or 0) * micrometres
        if size < PRINT_PIXEL:
            _add(sizes, axis, size, "um")
    return sizes


def _resolution_unit(file: tifffile.TiffFile) -> int:
    """1 none, 2 inch, 3 centimetre; 0 where the tag is missing."""
    tag = file.pages.first.tags.get("ResolutionUnit")
    return int(tag.value) if tag is not None else 0


def _inverse(file: tifffile.TiffFile, name: str) -> float | None:
    """Units per pixel from a resolution tag, which says pixels per unit."""
    tag = file.pages.first.tags.get(name)
    if tag is None:
        return None
    pixels, units = tag.value
    return float(units / pixels) if pixels and units else None


def _add(sizes: Sizes, axis: str, size: Any, unit: str) -> None:
    """Note the spacing of an axis if it is a positive number."""
    try:
        number = float(size)
    except (TypeError, ValueError):
        return
    if 0 < number < float("inf"):
        sizes[axis] = (number, unit_name(unit))
