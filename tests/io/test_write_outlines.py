"""Outlines that ImageJ's and GeoJSON's own readers give back as the same objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import roifile
import shapely
import shapely.geometry
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import Structure
from napari_unetseg.io.outlines import outlines
from napari_unetseg.io.write_outlines import write_outlines
from napari_unetseg.sample import nuclei2d_objects


def pixels(polygon: shapely.Geometry, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose middle is in a polygon."""
    y, x = np.indices(shape)
    return np.asarray(shapely.contains_xy(polygon, x + 0.5, y + 0.5))


def signed_area(ring: np.ndarray) -> float:
    """The area in a ring; holes go the other way round."""
    x, y = np.asarray(ring, float).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def ring_shaped() -> np.ndarray:
    """A ring around an object, parts at the rim, pixels that meet in corners, high numbers."""
    ids = np.zeros((12, 14), np.uint32)
    ids[1:7, 1:7] = 70_000
    ids[2:6, 2:6] = 0
    ids[3, 3] = 5
    ids[0, 12:] = 7
    ids[11, 0] = 7
    ids[8, 8] = ids[9, 9] = 9
    ids[7, 2:5] = 11  # touches the ring
    return ids


def features_of(path: Path) -> list[dict]:
    whole = json.loads(path.read_text())
    assert whole["type"] == "FeatureCollection"
    return list(whole["features"])


def test_geojson_gives_every_pixel_back(tmp_path: Path) -> None:
    ids = ring_shaped()
    assert write_outlines(tmp_path / "a.geojson", ids, axes="YX") == 5
    found = np.zeros_like(ids)
    for feature in features_of(tmp_path / "a.geojson"):
        polygon = shapely.geometry.shape(feature["geometry"])
        number = int(feature["properties"]["name"])
        assert polygon.is_valid
        assert polygon.area == (ids == number).sum()
        found[pixels(polygon, ids.shape)] = number
    np.testing.assert_array_equal(found, ids)


def test_imagej_rois_give_every_pixel_back(tmp_path: Path) -> None:
    ids = ring_shaped()
    write_outlines(tmp_path / "a.zip", ids, axes="YX")
    found = np.zeros_like(ids)
    for roi in roifile.roiread(tmp_path / "a.zip"):
        inside = np.zeros(ids.shape, bool)
        for ring in roi.coordinates(multi=True):
            inside ^= pixels(shapely.Polygon(ring), ids.shape)  # even-odd, as ImageJ fills
        found[inside] = int(roi.name)
    np.testing.assert_array_equal(found, ids)


@settings(max_examples=60)
@given(arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 2), elements=st.integers(0, 2)))
def test_outlines_of_anything_are_valid_and_exact(ids: np.ndarray) -> None:
    for outline in outlines(ids):
        polygons = [shapely.Polygon(part[0], part[1:]) for part in outline.parts]
        assert all(polygon.is_valid for polygon in polygons)
        where = np.any([pixels(polygon, ids.shape) for polygon in polygons], axis=0)
        np.testing.assert_array_equal(where, ids == outline.number)


def test_real_nuclei_keep_their_areas(tmp_path: Path) -> None:
    ids = np.asarray(nuclei2d_objects()[1][0])
    numbers, areas = np.unique(ids[ids > 0], return_counts=True)
    assert write_outlines(tmp_path / "a.geojson", ids, axes="YX") == len(numbers)
    assert write_outlines(tmp_path / "a.zip", ids, axes="YX") == len(numbers)
    features = features_of(tmp_path / "a.geojson")
    found = [shapely.geometry.shape(f["geometry"]).area for f in features]
    np.testing.assert_array_equal(found, areas)
    rois = {int(r.name): r.coordinates(multi=True) for r in roifile.roiread(tmp_path / "a.zip")}
    found = [abs(sum(map(signed_area, rois[n]))) for n in numbers]
    np.testing.assert_array_equal(found, areas)


def test_planes_and_structures_are_said(tmp_path: Path) -> None:
    ids = np.zeros((2, 3, 8, 8), np.uint16)
    ids[1, 2, 2:5, 3:7] = 4
    mask = np.where(ids > 0, 2, 0).astype(np.uint8)
    kinds = [Structure(1, "a"), Structure(2, "b", "#FF8000")]
    for name in ("a.zip", "a.geojson"):
        write_outlines(tmp_path / name, ids, axes="TZYX", mask=mask, structures=kinds)
    (feature,) = features_of(tmp_path / "a.geojson")
    assert feature["geometry"]["plane"] == {"c": -1, "z": 2, "t": 1}
    assert feature["properties"]["classification"] == {"name": "b", "color": [255, 128, 0]}
    (roi,) = roifile.roiread(tmp_path / "a.zip")
    assert (roi.t_position, roi.z_position) == (2, 3)
    assert roi.name == "00004-b-t2-z3"


@pytest.mark.parametrize(("name", "said"), [("a.txt", "suffix"), ("a.zip", "no object")])
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str, said: str) -> None:
    ids = np.zeros((4, 4), int) if name == "a.zip" else np.ones((4, 4), int)
    with pytest.raises(UserError, match=said):
        write_outlines(tmp_path / name, ids, axes="YX")
    assert not list(tmp_path.iterdir())
