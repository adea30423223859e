"""TIFF metadata: pixel sizes, units, names and colours of channels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_unetseg.io.units import PIXEL, PRINT_PIXEL, unit_name

if TYPE_CHECKING:
    import tifffile

Sizes = dict[str, tuple[float, str]]


@dataclass(frozen=True, slots=True)
class TiffMetadata:
    """Metadata of an image; ``sizes`` maps axes to spacing and unit."""

    sizes: Mapping[str, tuple[float, str]]
    channels: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()


def metadata_of(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> TiffMetadata:
    """The metadata of one of a file's series, in any flavour of TIFF."""
    page = series.keyframe
    if file.is_ome and file.ome_metadata:
        return _from_ome(file, file.ome_metadata, series)
    if file.is_imagej and file.imagej_metadata:
        return _from_imagej(page, file.imagej_metadata)
    if file.is_lsm and file.lsm_metadata:
        return TiffMetadata(_from_lsm(file.lsm_metadata))
    if file.is_stk and file.stk_metadata:
        return TiffMetadata(_from_stk(file.stk_metadata))
    return TiffMetadata(_from_tags(page))


def images_without_pixels(file: tifffile.TiffFile) -> tuple[str, ...]:
    """Names of the images in OME-XML that have no plane in its files."""
    if not file.is_ome or not file.ome_metadata or any(s.kind != "ome" for s in file.series):
        return ()
    images = _images(file.ome_metadata)
    seen = [_pixels(images, file.series, s) for s in file.series]
    return tuple(n or f"image {i}" for i, (n, p) in enumerate(images, 1) if p not in seen)


def _from_ome(file: tifffile.TiffFile, text: str, series: tifffile.TiffPageSeries) -> TiffMetadata:
    pixels = _pixels(_images(text), file.series, series)
    if pixels is None:
        return TiffMetadata({})
    sizes: Sizes = {}
    for axis, key, default in [
        ("X", "PhysicalSizeX", "µm"),
        ("Y", "PhysicalSizeY", "µm"),
        ("Z", "PhysicalSizeZ", "µm"),
        ("T", "TimeIncrement", "s"),
    ]:
        _add(sizes, axis, pixels.get(key), pixels.get(f"{key}Unit", default))
    found = pixels.findall("{*}Channel")
    names = tuple(e.get("Name") or f"channel {i + 1}" for i, e in enumerate(found))
    return TiffMetadata(sizes, names, _colors([e.get("Color") for e in found]))


def _pixels(
    images: Sequence[tuple[str, ElementTree.Element]],
    every: Sequence[tifffile.TiffPageSeries],
    series: tifffile.TiffPageSeries,
) -> ElementTree.Element | None:
    """OME-XML's description of a series; images without pixels in the file have no series."""
    if len(images) < 2 or series.kind != "ome":
        return images[0][1] if len(images) == 1 else None
    left = iter(images)
    for one in every:
        pixels = next((p for name, p in left if _is_of(one, name, p)), None)
        if one is series:
            return pixels
    return None


def _is_of(series: tifffile.TiffPageSeries, name: str, pixels: ElementTree.Element) -> bool:
    sizes = zip(series.axes, series.shape, strict=True)
    same = all(str(n) == pixels.get(f"Size{a}") for a, n in sizes if a in "YX")
    return same and (name == series.name or (not name and series.name in ("", "Baseline")))


@lru_cache(maxsize=2)
def _images(text: str) -> tuple[tuple[str, ElementTree.Element], ...]:
    """Name and pixels of each image in OME-XML."""
    return tuple(
        (image.get("Name", ""), pixels)
        for image in ElementTree.fromstring(text).iterfind(".//{*}Image")
        for pixels in image.iterfind("{*}Pixels")
    )


def _colors(found: list[str | None]) -> tuple[str, ...]:
    """Colours of channels, which OME stores as a signed number, RGBA."""
    if not all(c and re.fullmatch(r"-?\d{1,10}", c) for c in found):
        return ()
    return tuple(f"#{(int(c or 0) >> 8) & 0xFFFFFF:06x}" for c in found)


def _from_imagej(page: tifffile.TiffPage, info: Mapping[str, Any]) -> TiffMetadata:
    unit = str(info.get("unit", ""))
    sizes: Sizes = {}
    if unit_name(unit) != PIXEL or _resolution_unit(page) == 1:
        for axis, tag in (("Y", "YResolution"), ("X", "XResolution")):
            _add(sizes, axis, _inverse(page, tag), str(info.get(f"{axis.lower()}unit", unit)))
    _add(sizes, "Z", info.get("spacing"), str(info.get("zunit", unit)))
    _add(sizes, "T", info.get("finterval"), str(info.get("tunit", "s")))
    labels = info.get("Labels") or ()
    names = tuple(str(n) for n in labels) if len(labels) == info.get("channels", 1) else ()
    return TiffMetadata(sizes, names)


def _from_lsm(info: Mapping[str, Any]) -> Sizes:
    """Zeiss uses metres and seconds."""
    sizes: Sizes = {}
    for axis in "ZYX":
        _add(sizes, axis, float(info.get(f"VoxelSize{axis}", 0)) * 1e6, "um")
    _add(sizes, "T", info.get("TimeIntervall"), "s")
    return sizes


def _from_stk(info: Mapping[str, Any]) -> Sizes:
    """MetaMorph's calibration, if any."""
    sizes: Sizes = {}
    if info.get("SpatialCalibration"):
        unit = str(info.get("CalibrationUnits", ""))
        for axis in "YX":
            _add(sizes, axis, info.get(f"{axis}Calibration"), unit)
    return sizes


def _from_tags(page: tifffile.TiffPage) -> Sizes:
    sizes: Sizes = {}
    if page.is_svs and (found := re.search(r"\bMPP *= *([\d.]+)", page.description)):
        for axis in "YX":
            _add(sizes, axis, found[1], "um")
        return sizes
    shaped = _shaped(page)
    if {"axes", "spacings", "units"} <= set(shaped):  # written by this package
        for axis, size, unit in zip(
            shaped["axes"], shaped["spacings"], shaped["units"], strict=False
        ):
            _add(sizes, axis, size, unit)
        return sizes
    micrometres = {2: 25_400.0, 3: 10_000.0}.get(_resolution_unit(page))
    if micrometres is None:
        return sizes
    for axis, name in (("Y", "YResolution"), ("X", "XResolution")):
        size = (_inverse(page, name) or 0) * micrometres
        if size < PRINT_PIXEL:
            _add(sizes, axis, size, "um")
    return sizes


def _shaped(page: tifffile.TiffPage) -> Mapping[str, Any]:
    """Metadata that tifffile writes into its own files."""
    text = page.shaped_description or ""
    found = json.loads(text) if text.startswith("{") else {}
    return found if isinstance(found, dict) else {}


def _resolution_unit(page: tifffile.TiffPage) -> int:
    """1 none, 2 inch, 3 centimetre; 0 if the tag is missing."""
    tag = page.tags.get("ResolutionUnit")
    return int(tag.value) if tag is not None else 0


def _inverse(page: tifffile.TiffPage, name: str) -> float | None:
    """Units per pixel from a resolution tag, which stores pixels per unit."""
    tag = page.tags.get(name)
    if tag is None:
        return None
    pixels, units = tag.value
    return float(units / pixels) if pixels and units else None


def _add(sizes: Sizes, axis: str, size: Any, unit: str) -> None:
    """Add the spacing of an axis if it is a positive number."""
    try:
        number = float(size)
    except (TypeError, ValueError):
        return
    if 0 < number < float("inf"):
        sizes[axis] = (number, unit_name(unit))
