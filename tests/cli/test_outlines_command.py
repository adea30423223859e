"""``unetseg outlines``: files that ImageJ and QuPath open, of masks as predict writes them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import roifile
from large_parts import ids_of, mask_of, object_model, smooth
from shapely.geometry import shape

from napari_unetseg.io.write_masks import write_mask

if TYPE_CHECKING:
    from cli_runner import Run


def objects() -> np.ndarray:
    ids = np.zeros((20, 30), np.uint32)
    ids[2:6, 3:9], ids[2:6, 9:12], ids[12:15, 27:30] = 5, 70_000, 9
    return ids


def features_of(path: Path) -> list[dict[str, Any]]:
    features: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["features"]
    return features


def test_numbers_become_outlines_for_both_programs(run: Run, tmp_path: Path) -> None:
    mask, rois, polygons = (tmp_path / name for name in ("m.tif", "o.zip", "o.geojson"))
    write_mask(mask, objects(), axes="YX")
    result = run("outlines", mask, "-o", rois)
    assert result.code == 0, result.err
    assert "3 outlines written to" in result.out
    assert {roi.name for roi in roifile.roiread(rois)} == {"5", "9", "70000"}
    assert run("outlines", mask, "-o", polygons, "--no-rim-objects").code == 0
    areas = {f["properties"]["name"]: shape(f["geometry"]).area for f in features_of(polygons)}
    assert areas == {"5": 24, "70000": 12}


def test_a_mask_of_structures_gives_their_parts(run: Run, tmp_path: Path) -> None:
    mask = np.minimum(objects(), 7).astype(np.uint8)
    mask[mask == 7] = 2
    mask[mask == 5] = 1
    names = {1: "nuclei", 2: "vesicles"}
    write_mask(tmp_path / "m.tif", mask, axes="YX", names=names)
    result = run("outlines", tmp_path / "m.tif", "-o", tmp_path / "o.geojson", "--labels", "full")
    assert result.code == 0, result.err
    found = Counter(
        f["properties"]["classification"]["name"] for f in features_of(tmp_path / "o.geojson")
    )
    assert found == {"nuclei": 1, "vesicles": 2}


def test_structures_of_objects_come_from_a_second_mask(run: Run, tmp_path: Path) -> None:
    ids = objects()
    write_mask(tmp_path / "ids.tif", ids, axes="YX")
    write_mask(tmp_path / "mask.tif", np.where(ids == 5, 3, ids > 0).astype(np.uint8), axes="YX")
    command = ["outlines", tmp_path / "ids.tif", "-o", tmp_path / "o.geojson", "--annotations"]
    assert run(*command, "--structures", tmp_path / "mask.tif").code == 0
    found = {f["properties"]["label"]: f["properties"] for f in features_of(tmp_path / "o.geojson")}
    assert [found[n]["classification"]["name"] for n in (5, 9)] == ["structure 3", "structure 1"]
    assert found[5]["objectType"] == "annotation"
    result = run(*command, "--structures", tmp_path / "mask.tif", "--labels", "full")
    assert result.code == 2
    assert "--labels instances" in result.err


def test_zarr_of_predict_has_objects_and_structures(run: Run, tmp_path: Path) -> None:
    model = object_model(numbers=(1, 2, 5), objects=(1, 5))
    model.save(tmp_path / "m.safetensors")
    np.save(tmp_path / "i.npy", smooth((60, 70)))
    images = [tmp_path / "m.safetensors", tmp_path / "i.npy", "-o", tmp_path, "--format", "zarr"]
    result = run("predict", *images, "--threads", "1", "--no-rim-objects")
    assert result.code == 0, result.err
    ids, mask = ids_of(tmp_path / "i.zarr"), mask_of(tmp_path / "i.zarr")[...]
    for path in (tmp_path / "i.zarr", tmp_path / "i.zarr" / "labels" / "objects"):
        result = run("outlines", path, "-o", tmp_path / "o.geojson")
        assert result.code == 0, result.err
        features = features_of(tmp_path / "o.geojson")
        assert len(features) == ids.max() > 3
        for feature in features:
            number = feature["properties"]["label"]
            assert shape(feature["geometry"]).area == (ids == number).sum()
            (structure,) = np.unique(mask[ids == number])
            assert feature["properties"]["classification"]["name"] == f"structure {structure}"


@pytest.mark.parametrize("name", ["o.roi", "o.csv"])
def test_other_files_are_refused(run: Run, tmp_path: Path, name: str) -> None:
    write_mask(tmp_path / "m.tif", objects(), axes="YX")
    result = run("outlines", tmp_path / "m.tif", "-o", tmp_path / name)
    assert result.code == 1
    assert ".geojson" in result.err
    assert not (tmp_path / name).exists()
