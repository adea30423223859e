"""Outlines of objects for other programs: ROIs for ImageJ and Fiji, GeoJSON for QuPath."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.outlines import Outline, outlines

if TYPE_CHECKING:
    from roifile import ImagejRoi

    from napari_unetseg.core.labels import Structure

OUTLINE_SUFFIXES = (".zip", ".geojson")
MOVE, LINE, CLOSE = 0.0, 1.0, 4.0
"""Steps of a path in an ImageJ ROI of several rings."""


@dataclass(frozen=True, slots=True, eq=False)
class PlaneOutline:
    """An outline, the index of its plane by axis (``{"T": 0, "Z": 3}``), its structure or None."""

    outline: Outline
    plane: Mapping[str, int]
    structure: Structure | None


def write_outlines(
    path: str | Path,
    ids: Any,
    *,
    axes: str,
    mask: Any = None,
    structures: Sequence[Structure] = (),
) -> int:
    """Write the outlines of objects as ImageJ ROIs (``.zip``) or GeoJSON (``.geojson``).

    Outlines follow the edges of the pixels, so that they enclose exactly the object; holes and
    several parts are kept. Coordinates are in pixels, from the upper left corner of the image on.
    An object of a volume has an outline in each plane. ImageJ's ROI Manager and QuPath (by dropping
    the file onto the image) open them.

    Parameters
    ----------
    path
        The file; it is replaced only after everything was written.
    ids
        Array-like of the objects' numbers, read a plane at a time; non-negative integers.
    axes
        One letter for each axis, of ``TZYX``, ending in YX.
    mask, structures
        Array-like of the structures' numbers of the same shape, and the structures; the structure
        of most of its pixels is the class of an object in GeoJSON and part of its name in ImageJ.

    Returns
    -------
    int
        Number of outlines.

    Raises
    ------
    UserError
        The suffix is neither, there is no object, or the file cannot be written.
    """
    path = Path(path)
    check_outlines(path)
    found = list(_outlines(ids, axes, mask, {s.number: s for s in structures}))
    if not found:
        raise UserError("There is no object whose outline could be written.")
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".zip":
            _write_rois(temporary, found)
        else:
            features = [_feature(each) for each in found]
            whole = {"type": "FeatureCollection", "features": features}
            temporary.write_text(json.dumps(whole), encoding="utf-8")
    return len(found)


def check_outlines(path: Path) -> None:
    """Refuse a file that is neither ``.zip`` nor ``.geojson``."""
    if path.suffix.lower() not in OUTLINE_SUFFIXES:
        raise UserError(f"{path.name} has an unknown suffix; use .zip (ImageJ ROIs) or .geojson.")


def _outlines(
    ids: Any, axes: str, mask: Any, structures: Mapping[int, Structure]
) -> Iterator[PlaneOutline]:
    for index in np.ndindex(*ids.shape[:-2]):
        plane = np.asarray(ids[index])
        kinds = {} if mask is None else _structures_of(plane, np.asarray(mask[index]))
        where = dict(zip(axes, index, strict=False))
        for outline in outlines(plane):
            yield PlaneOutline(outline, where, structures.get(kinds.get(outline.number, 0)))


def _structures_of(ids: np.ndarray, mask: np.ndarray) -> dict[int, int]:
    """The structure of most pixels of each object."""
    inside = ids > 0
    pairs = ids[inside].astype(np.int64) * 256 + mask[inside].astype(np.uint8)
    found, counts = np.unique(pairs, return_counts=True)
    found = found[np.argsort(counts, kind="stable")]
    return dict(zip((found // 256).tolist(), (found % 256).tolist(), strict=True))  # the last wins


# -- ImageJ ----------------------------------------------------------------------------------------


def _write_rois(path: Path, found: Sequence[PlaneOutline]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in found:
            roi = _roi(each)
            archive.writestr(f"{roi.name}.roi", roi.tobytes())


def _roi(each: PlaneOutline) -> ImagejRoi:
    """A polygon, or a path of all rings; names are unique in the file."""
    from roifile import ROI_TYPE, ImagejRoi

    number, parts = each.outline.number, each.outline.parts
    places = "".join(f"-{axis.lower()}{index + 1}" for axis, index in each.plane.items())
    kind = f"-{each.structure.name}" if each.structure is not None else ""
    name = f"{number:05d}{kind}{places}".replace("/", "_")
    where = {axis.lower(): index for axis, index in each.plane.items() if axis in "TZC"}
    rings = [ring for part in parts for ring in part]
    roi = ImagejRoi.frompoints(rings[0].astype(np.int32), name=name, **where)
    if len(rings) > 1:
        corners = np.concatenate(rings)
        (roi.left, roi.top), (roi.right, roi.bottom) = corners.min(0), corners.max(0)
        path = [value for ring in rings for value in _path(ring)]
        roi.roitype, roi.integer_coordinates, roi.n_coordinates = ROI_TYPE.RECT, None, 0
        roi.multi_coordinates = np.array(path, np.float32)
        roi.shape_roi_size = len(path)
    return roi


def _path(ring: np.ndarray) -> Iterator[float]:
    for step, (x, y) in enumerate(ring.tolist()):
        yield from (LINE if step else MOVE, x, y)
    yield CLOSE


# -- GeoJSON ---------------------------------------------------------------------------------------


def _feature(each: PlaneOutline) -> dict[str, Any]:
    """A detection as QuPath reads it."""
    parts = [[_closed(ring) for ring in part] for part in each.outline.parts]
    single = len(parts) == 1
    plane = {"c": -1, "z": each.plane.get("Z", 0), "t": each.plane.get("T", 0)}
    properties: dict[str, Any] = {"objectType": "detection", "name": str(each.outline.number)}
    if (structure := each.structure) is not None:
        color = [int(structure.color[at : at + 2], 16) for at in (1, 3, 5)]
        properties["classification"] = {"name": structure.name, "color": color}
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": parts[0] if single else parts,
            "plane": plane,
        },
        "properties": properties,
    }


def _closed(ring: np.ndarray) -> list[list[int]]:
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]
