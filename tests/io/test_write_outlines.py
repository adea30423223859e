"""Outlines of objects as other programs read them: areas, holes, parts, planes and positions."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import shapely
from shapely.geometry import MultiPolygon, shape

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import Structure
from napari_unetseg.core.object_structures import without_rim_objects
from napari_unetseg.io.pixel_outlines import outlines_of
from napari_unetseg.io.write_outlines import write_outlines

NUCLEI = Structure(1, "nuclei", "#56B4E9")
CELLS = Structure(4, "cells", "#E69F00")


def plane() -> np.ndarray:
    """Touching objects, holes, an object in a hole, parts, corners, single pixels, the rim."""
    ids = np.zeros((60, 80), np.uint32)
    ids[5:15, 5:15], ids[5:15, 15:22] = 3, 70_000  # touch
    ids[20:34, 20:34] = 9
    ids[22:26, 22:26] = ids[28:31, 24:30] = 0  # holes
    ids[23:25, 23:25] = 2**32 - 1  # in a hole
    ids[40, 40], ids[41, 41] = 12, 12  # touch at a corner
    ids[50:54, 5:9], ids[50:54, 12:16] = 13, 13  # parts
    ids[45, 60] = 20
    ids[0:4, 30:40], ids[55:, 70:], ids[0, 0], ids[30:35, 79] = 30, 31, 32, 33  # at the rim
    ids[36, 5:9] = ids[39, 5:9] = ids[36:40, 5] = ids[36:40, 8] = 40  # a ring, closed
    ids[39, 8] = 0  # but for a corner
    return ids


def of_geojson(path: Path) -> dict[tuple[int, int, int], Any]:
    """Shapes by number, Z and T."""
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection"
    shapes = {}
    for feature in found["features"]:
        assert feature["type"] == "Feature"
        place = feature["geometry"]["plane"]
        key = (int(feature["properties"]["name"]), place["z"], place["t"])
        assert key not in shapes
        shapes[key] = shape(feature["geometry"])
    return shapes


def of_rois(path: Path) -> dict[tuple[int, int, int, int], Any]:
    """Shapes by number, position, Z and T: what an even-odd rule fills, as in ImageJ."""
    shapes = {}
    for roi in roifile.roiread(path):
        key = (roi.properties["object"], roi.position, roi.z_position, roi.t_position)
        assert key not in shapes
        rings = [shapely.Polygon(ring) for ring in roi.coordinates(multi=True)]
        shapes[key] = reduce(shapely.symmetric_difference, rings)
    return shapes


def filled(found: Any, like: np.ndarray) -> np.ndarray:
    """Pixels whose centre a shape contains."""
    y, x = np.indices(like.shape)
    inside: np.ndarray = shapely.contains_xy(found, x.ravel() + 0.5, y.ravel() + 0.5)
    return inside.reshape(like.shape)


def test_outlines_enclose_exactly_the_pixels_of_an_object(tmp_path: Path) -> None:
    ids = plane()
    numbers = [int(n) for n in np.unique(ids) if n]
    assert write_outlines(tmp_path / "o.geojson", ids, axes="YX") == len(numbers)
    assert write_outlines(tmp_path / "o.zip", ids, axes="YX") == len(numbers)
    polygons = of_geojson(tmp_path / "o.geojson")
    rois = of_rois(tmp_path / "o.zip")
    assert [key[0] for key in polygons] == numbers
    assert sorted(key[0] for key in rois) == numbers
    for number in numbers:
        for found in (polygons[number, 0, 0], rois[number, 0, 0, 0]):
            assert found.is_valid
            assert found.area == (ids == number).sum()
            assert (filled(found, ids) == (ids == number)).all()


@pytest.mark.parametrize("seed", range(40))
def test_shapes_of_noise_are_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, rng.integers(2, 5), rng.integers(1, 14, 2)) * 100_000
    for number, polygons in outlines_of(ids).items():
        found = MultiPolygon([(outer, holes) for outer, *holes in polygons])
        assert found.is_valid
        assert (filled(found, ids) == (ids == number)).all()


def test_planes_are_where_both_programs_look_for_them(tmp_path: Path) -> None:
    ids = np.zeros((2, 3, 8, 9), np.uint16)
    ids[0, 1:, 2:5, 2:5], ids[1, 2, 0:2, 4:9] = 5, 6
    areas = {(5, 1, 0): 9, (5, 2, 0): 9, (6, 2, 1): 10}
    assert write_outlines(tmp_path / "o.geojson", ids, axes="TZYX") == 3
    found = of_geojson(tmp_path / "o.geojson")
    assert {key: polygon.area for key, polygon in found.items()} == areas
    write_outlines(tmp_path / "o.zip", ids, axes="TZYX")
    rois = {key: roi.area for key, roi in of_rois(tmp_path / "o.zip").items()}
    assert rois == {(n, 0, z + 1, t + 1): area for (n, z, t), area in areas.items()}
    write_outlines(tmp_path / "z.zip", ids[1], axes="ZYX")  # a stack that is no hyperstack
    assert {key: roi.area for key, roi in of_rois(tmp_path / "z.zip").items()} == {(6, 3, 0, 0): 10}


def test_objects_have_names_structures_and_colours(tmp_path: Path) -> None:
    ids = np.zeros((9, 9), np.int64)
    ids[1:4, 1:4], ids[5:8, 1:8] = 1, 2
    mask = (ids > 0).astype(np.uint8)
    mask[5:8, 2:] = 4  # most of object 2
    mask[mask == 0] = 7  # where there is none
    for kind in ("detection", "annotation"):
        options = {"mask": mask, "structures": (NUCLEI, CELLS)}
        options["annotations"] = kind == "annotation"
        write_outlines(tmp_path / "o.geojson", ids, axes="YX", **options)
        features = json.loads((tmp_path / "o.geojson").read_text(encoding="utf-8"))["features"]
        first, second = (feature["properties"] for feature in features)
        assert first["objectType"] == kind
        assert first["classification"] == {"name": "nuclei", "color": [0x56, 0xB4, 0xE9]}
        assert second["classification"]["name"] == "cells"
    write_outlines(tmp_path / "o.zip", ids, axes="YX", mask=mask, structures=(NUCLEI, CELLS))
    one, two = roifile.roiread(tmp_path / "o.zip")
    assert (one.name, two.name) == ("1", "2")
    assert (one.properties["structure"], two.properties["structure"]) == ("nuclei", "cells")
    assert one.hexcolor(one.stroke_color) == "#56b4e9"
    write_outlines(tmp_path / "o.geojson", ids, axes="YX")  # without structures
    (feature, _) = json.loads((tmp_path / "o.geojson").read_text(encoding="utf-8"))["features"]
    assert "classification" not in feature["properties"]


def test_objects_at_the_rim_can_be_left_out(tmp_path: Path) -> None:
    ids = plane()
    inside = {int(n) for n in np.unique(ids)} - {0, 30, 31, 32, 33}
    write_outlines(tmp_path / "o.geojson", ids, axes="YX", rim_objects=False)
    assert {key[0] for key in of_geojson(tmp_path / "o.geojson")} == inside
    assert set(np.unique(without_rim_objects(ids)).tolist()) - {0} == inside


def test_an_object_of_a_volume_is_left_out_if_any_slice_is_at_the_rim(tmp_path: Path) -> None:
    ids = np.zeros((3, 9, 9), np.uint8)
    ids[:, 3:6, 3:6] = 1  # through first and last slice, which are no rim
    ids[0, 7:8, 1:3], ids[1, 7:9, 1:3] = 2, 2
    write_outlines(tmp_path / "o.geojson", ids, axes="ZYX", rim_objects=False)
    assert set(of_geojson(tmp_path / "o.geojson")) == {(1, z, 0) for z in range(3)}
    write_outlines(tmp_path / "o.geojson", ids, axes="ZYX", rim_objects=False, dims=2)
    assert (2, 0, 0) in of_geojson(tmp_path / "o.geojson")
    assert set(np.unique(without_rim_objects(ids))) == {0, 1}


def test_far_objects_of_large_images_keep_their_place(tmp_path: Path) -> None:
    ids = np.zeros((4, 70_000), np.uint8)
    ids[1:3, 40_000:40_010], ids[1:3, 69_980:69_990] = 1, 2
    write_outlines(tmp_path / "o.zip", ids, axes="YX")
    bounds = {key[0]: roi.bounds for key, roi in of_rois(tmp_path / "o.zip").items()}
    assert bounds == {1: (40_000, 1, 40_010, 3), 2: (69_980, 1, 69_990, 3)}


def test_nothing_is_an_empty_file(tmp_path: Path) -> None:
    empty = np.zeros((5, 5), np.uint8)
    assert write_outlines(tmp_path / "o.geojson", empty, axes="YX") == 0
    assert write_outlines(tmp_path / "o.zip", empty, axes="YX") == 0
    assert of_geojson(tmp_path / "o.geojson") == {}
    assert of_rois(tmp_path / "o.zip") == {}


@pytest.mark.parametrize(
    ("name", "axes", "dtype"),
    [("o.txt", "YX", int), ("o.zip", "ZYX", int), ("o.zip", "YX", float), ("o.zip", "PYX", int)],
)
def test_what_cannot_be_written_is_a_sentence(
    tmp_path: Path, name: str, axes: str, dtype: type
) -> None:
    shape_of = (2, 5, 5) if axes == "PYX" else (5, 5)
    with pytest.raises(UserError):
        write_outlines(tmp_path / name, np.ones(shape_of, dtype), axes=axes)
    with pytest.raises(UserError):
        write_outlines(
            tmp_path / "o.zip", np.ones((5, 5), int), axes="YX", mask=np.ones((4, 5), int)
        )
    assert list(tmp_path.iterdir()) == []
