"""File formats of outlines: ROIs of ImageJ, and GeoJSON that QuPath reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.labels import Structure, default_color

if TYPE_CHECKING:
    from roifile import ImagejRoi

    from napari_unetseg.io.pixel_outlines import Polygon

FARTHEST = 60535
"""Largest coordinate that ImageJ reads from a ROI of whole numbers."""


@dataclass(frozen=True, slots=True)
class Outline:
    """An object in one plane: its number, polygons, structure and plane."""

    number: int
    polygons: list[Polygon]
    structure: Structure | None
    place: Mapping[str, int]
    """Index along each leading axis."""


@dataclass(frozen=True, slots=True)
class OutlineFormat:
    """A file format of outlines.

    ``title`` is for the window, ``help`` a phrase on it, ``suffixes`` in lower case, the first is
    written. ``write`` writes them and returns how many there were.
    """

    title: str
    help: str
    suffixes: tuple[str, ...]
    write: Callable[[Path, Iterator[Outline], bool], int]


# -- GeoJSON ---------------------------------------------------------------------------------------


def _write_geojson(path: Path, outlines: Iterator[Outline], annotations: bool) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for outline in outlines:
            file.write(",\n" if count else "\n")
            json.dump(_feature(outline, annotations), file, ensure_ascii=False)
            count += 1
        file.write("\n]}\n")
    return count


def _feature(outline: Outline, annotations: bool) -> dict[str, Any]:
    rings = [[_closed(ring) for ring in polygon] for polygon in outline.polygons]
    single = len(rings) == 1
    place = {"c": -1, "z": outline.place.get("Z", 0), "t": outline.place.get("T", 0)}
    properties: dict[str, Any] = {
        "objectType": "annotation" if annotations else "detection",
        "name": str(outline.number),
        "label": outline.number,
    }
    if (structure := outline.structure) is not None:
        color = list(_rgb(structure))
        properties["classification"] = {"name": structure.name, "color": color}
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": rings[0] if single else rings,
            "plane": place,
        },
        "properties": properties,
    }


def _closed(ring: np.ndarray) -> list[list[int]]:
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]


def _rgb(structure: Structure) -> bytes:
    """A structure's colour; the default for invalid ones."""
    try:
        color = bytes.fromhex(structure.color.removeprefix("#"))
    except ValueError:
        color = b""
    return color if len(color) == 3 else bytes.fromhex(default_color(structure.number)[1:])


# -- ImageJ ----------------------------------------------------------------------------------------


def _write_rois(path: Path, outlines: Iterator[Outline], _: bool) -> int:
    import roifile

    count = 0

    def each() -> Iterator[ImagejRoi]:
        nonlocal count
        for outline in outlines:
            count += 1
            yield _roi(outline)

    roifile.roiwrite(path, each(), mode="w")
    return count


def _roi(outline: Outline) -> ImagejRoi:
    """A polygon, or a composite of several rings."""
    from roifile import ROI_TYPE, ImagejRoi

    rings = [ring for polygon in outline.polygons for ring in polygon]
    corners = np.concatenate(rings)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    roi = ImagejRoi(left=left, top=top, right=right, bottom=bottom)
    if len(rings) == 1 and max(right, bottom) <= FARTHEST:
        roi.roitype, roi.n_coordinates = ROI_TYPE.TRACED, len(corners)
        roi.integer_coordinates = (corners - (left, top)).astype(np.int32)
    else:
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates = _path(rings)
        roi.shape_roi_size = len(roi.multi_coordinates)
    _describe(roi, outline)
    return roi


def _path(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Rings as ImageJ stores a shape: 0 moves to a corner, 1 draws a line, 4 closes the ring."""
    parts = []
    for ring in rings:
        steps = np.ones((len(ring), 3), np.float32)
        steps[0, 0], steps[:, 1:] = 0, ring
        parts += [steps.ravel(), np.full(1, 4, np.float32)]
    return np.concatenate(parts)


def _describe(roi: ImagejRoi, outline: Outline) -> None:
    """Name, colour and position in a stack; positions of ImageJ count from 1."""
    place = {axis: index + 1 for axis, index in outline.place.items()}
    where = "".join(f"-{axis.lower()}{at}" for axis, at in place.items())
    roi.name, roi.properties = f"{outline.number}{where}", {"object": outline.number}
    if (structure := outline.structure) is not None:
        roi.properties = {"object": outline.number, "structure": structure.name}
        roi.stroke_color = b"\xff" + _rgb(structure)
    if len(place) == 1:
        roi.position = next(iter(place.values()))
    else:
        roi.c_position, roi.z_position = place.get("C", 0), place.get("Z", 0)
        roi.t_position = place.get("T", 0)


OUTLINE_FORMATS = (
    OutlineFormat(
        "ImageJ ROIs", "a ROI for each object, for the ROI Manager", (".zip",), _write_rois
    ),
    OutlineFormat("GeoJSON", "polygons that QuPath opens", (".geojson", ".json"), _write_geojson),
)
"""All formats of outlines."""
