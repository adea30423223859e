"""The sample files and the functions by which napari opens them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from napari_unetseg import sample
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import Structure
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset

FOLDER = Path(__file__).parents[1] / "sample_data"
BRUSH = 255
CELL = 128
OPENERS = (
    "nuclei2d",
    "two_structures",
    "nuclei2d_objects",
    "two_kinds",
    "cell",
    "immunohistochemistry",
)


def read(name: str) -> np.ndarray:
    return tifffile.imread(FOLDER / name)


def strokes_and_truth(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "nuclei2d":
        return read("nuclei2d_strokes.tif"), (read("nuclei2d_mask.tif") > 0).astype(np.uint8)
    return read(f"{name}_strokes.ome.tif"), read(f"{name}_truth.ome.tif")


def test_nuclei_are_the_picture_of_the_data_science_bowl() -> None:
    image, mask = read("nuclei2d.tif"), read("nuclei2d_mask.tif")
    assert image.shape == mask.shape == (512, 512)
    assert image.dtype == mask.dtype == np.uint16
    assert len(np.unique(mask)) - 1 == 125
    assert image[mask > 0].mean() > 2.5 * image[mask == 0].mean()


@pytest.mark.parametrize("name", ["nuclei2d", "two_structures", "two_kinds"])
def test_every_stroke_is_right(name: str) -> None:
    strokes, truth = strokes_and_truth(name)
    assert strokes.dtype == np.uint8
    assert strokes.shape == truth.shape
    painted = strokes > 0
    assert set(np.unique(strokes[painted])) == {*np.unique(truth[truth > 0]), BRUSH}
    np.testing.assert_array_equal(np.where(strokes == BRUSH, 0, strokes)[painted], truth[painted])


def test_strokes_on_nuclei_are_what_a_person_paints_in_two_minutes() -> None:
    strokes, mask = read("nuclei2d_strokes.tif"), read("nuclei2d_mask.tif")
    assert 0.015 <= (strokes > 0).mean() <= 0.02
    counts = [ndimage.label(strokes == value, np.ones((3, 3)))[1] for value in (1, BRUSH)]
    assert counts == [16, 8]
    assert 1.5 <= ndimage.distance_transform_edt(strokes > 0).max() <= 3  # 3 to 5 pixels wide
    image = read("nuclei2d.tif")
    means = [image[mask == n].mean() for n in np.unique(mask[strokes == 1])]
    assert min(means) < 52, "no dim nucleus"
    assert max(means) > 110, "no bright nucleus"
    near = ndimage.distance_transform_edt(mask == 0)[strokes == BRUSH]
    assert (near < 3).mean() > 0.1, "too little background painted along nuclei"


def test_strokes_on_nuclei_are_spread() -> None:
    strokes = read("nuclei2d_strokes.tif")
    squares = strokes.reshape(4, CELL, 4, CELL).swapaxes(1, 2).reshape(16, CELL, CELL)
    has = {value: (squares == value).sum(axis=(1, 2)) >= 30 for value in (1, BRUSH)}
    assert has[1].all()
    assert has[BRUSH].sum() >= 12


def test_strokes_on_the_stack_are_on_a_few_planes() -> None:
    strokes, truth = strokes_and_truth("two_structures")
    painted = [plane for plane in np.ndindex(strokes.shape[:2]) if strokes[plane].any()]
    assert len(painted) == 4
    assert {t for t, _ in painted} == {0, 1, 2}
    for plane in painted:
        assert set(np.unique(strokes[plane])) == {0, 1, 2, BRUSH}
        assert 0.02 <= (strokes[plane] > 0).mean() <= 0.04
    assert 0.1 < (truth == 1).mean() < 0.3
    assert 0.01 < (truth == 2).mean() < 0.05


def test_finished_objects_of_two_kinds_are_whole_and_have_a_stroke_of_their_kind() -> None:
    ids, finished = read("two_kinds_ids.ome.tif"), read("two_kinds_objects.ome.tif")
    kinds, strokes = read("two_kinds_truth.ome.tif"), read("two_kinds_strokes.ome.tif")
    of_each = [0, 0]
    for number in np.unique(finished[finished > 0]):
        inside = finished == number
        (whole,) = np.unique(ids[inside])
        assert np.array_equal(inside, ids == whole)
        assert inside[1:-1, 1:-1].sum() == inside.sum(), "cut by the rim"
        (kind,) = np.unique(kinds[inside])
        assert set(np.unique(strokes[inside])) == {0, kind}
        of_each[kind - 1] += 1
    assert of_each == [6, 6]
    assert len(np.unique(ids)) - 1 == 90
    for number in np.unique(ids[ids > 0]):
        assert ndimage.label(ids == number)[1] == 1
    assert ndimage.label(ids > 0)[1] < 0.6 * 90, "too few nuclei touch"


def test_only_the_second_kind_has_the_marker() -> None:
    image, kinds = read("two_kinds.ome.tif"), read("two_kinds_truth.ome.tif")
    means = [[image[c][kinds == k].mean() - 100 for k in (0, 1, 2)] for c in (0, 1)]
    assert 0.7 < means[0][1] / means[0][2] < 1.4
    assert means[1][2] > 3 * means[1][1]


@pytest.mark.parametrize(
    ("name", "axes", "shape"),
    [
        ("two_structures.ome.tif", "TCZYX", (3, 2, 5, 160, 192)),
        ("two_structures_truth.ome.tif", "TZYX", (3, 5, 160, 192)),
        ("two_structures_strokes.ome.tif", "TZYX", (3, 5, 160, 192)),
    ],
)
def test_ome_metadata(name: str, axes: str, shape: tuple[int, ...]) -> None:
    with tifffile.TiffFile(FOLDER / name) as tiff:
        assert tiff.series[0].axes == axes
        assert tiff.series[0].shape == shape
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    for axis, size in zip("XYZ", (0.2, 0.2, 1.0), strict=True):
        assert pixels[f"PhysicalSize{axis}"] == size
        assert pixels[f"PhysicalSize{axis}Unit"] == "µm"
    assert (pixels["TimeIncrement"], pixels["TimeIncrementUnit"]) == (30, "s")
    if "C" in axes:
        assert [c["Name"] for c in pixels["Channel"]] == ["nuclei", "vesicles"]


def test_channels_show_their_structures() -> None:
    image, truth = read("two_structures.ome.tif"), read("two_structures_truth.ome.tif")
    assert image.dtype == np.uint16
    means = [[image[:, c][truth == k].mean() - 100 for k in (0, 1, 2)] for c in (0, 1)]
    assert means[0][1] > 4 * means[0][0]
    assert means[1][2] > 2 * max(means[1][:2])
    assert means[1][1] > means[1][0], "no bleed-through of the nuclei"


def test_made_again_they_are_the_same(tmp_path: Path) -> None:
    script = FOLDER / "make_samples.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, timeout=240)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in FOLDER.glob("*.tif"))
    for name in made:
        np.testing.assert_array_equal(tifffile.imread(tmp_path / name), read(name), err_msg=name)


def test_the_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.*")) < 3e6


@pytest.mark.parametrize("opener", OPENERS)
def test_napari_accepts_the_layers(opener: str) -> None:
    from napari.layers import Layer

    layers = [Layer.create(*data) for data in getattr(sample, opener)()]
    shapes = {layer.data.shape for layer in layers}
    assert len(shapes) == 1
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        assert np.array_equal(layer.scale, layers[0].scale)
        assert layer.units == layers[0].units
        assert layer.axis_labels == layers[0].axis_labels


def test_annotation_layers_are_marked_and_named() -> None:
    from napari.layers import Layer

    image, strokes = (Layer.create(*data) for data in sample.nuclei2d())
    assert (image.name, strokes.name) == ("nuclei", "nuclei · annotations")
    assert strokes.metadata == {"napari_unetseg": {"kind": "strokes"}}
    assert strokes.editable
    assert list(strokes.features["name"]) == ["not labelled", "nucleus", "background"]


def test_two_structures_have_units() -> None:
    from napari.layers import Layer

    nuclei, vesicles, strokes = (Layer.create(*data) for data in sample.two_structures())
    assert (nuclei.name, vesicles.name) == ("cells · nuclei", "cells · vesicles")
    for layer in (nuclei, vesicles, strokes):
        assert tuple(layer.scale) == (30, 1, 0.2, 0.2)
        assert [str(unit) for unit in layer.units] == ["second", *["micrometer"] * 3]
        assert layer.axis_labels == ("t", "z", "y", "x")
    np.testing.assert_array_equal(vesicles.data, read("two_structures.ome.tif")[:, 1])


def test_numbered_objects_say_what_0_means() -> None:
    from napari.layers import Layer

    _, objects = (Layer.create(*data) for data in sample.nuclei2d_objects())
    assert objects.metadata == {"napari_unetseg": {"kind": "instances"}}
    assert len(np.unique(objects.data)) - 1 == 125
    dapi, marker, strokes, finished = (Layer.create(*data) for data in sample.two_kinds())
    assert finished.metadata == {"napari_unetseg": {"kind": "finished"}}
    assert (dapi.name, marker.name) == ("two kinds · DAPI", "two kinds · marker")
    assert list(strokes.features["name"])[1:3] == ["nucleus", "marked nucleus"]
    assert tuple(finished.scale) == (0.5, 0.5)


def test_both_kinds_of_objects_are_learned_from_the_sample() -> None:
    dapi, marker, strokes, finished = (data for data, *_ in sample.two_kinds())
    pair = AnnotatedImage(
        Stack(np.stack([dapi, marker]), "CYX"), strokes, "strokes", objects=finished
    )
    data = TrainingDataset([pair], 2, 0.0, structures=[Structure(n, objects=True) for n in (1, 2)])
    assert data.classes.objects == (1, 2)
    assert data.has_objects
    (plane,) = data.planes
    truth = read("two_kinds_truth.ome.tif")
    assert np.array_equal(plane.train[finished > 0], truth[finished > 0])


def test_colour_picture_is_rgb() -> None:
    ((data, options, kind),) = sample.immunohistochemistry()
    assert (data.shape, data.dtype, options["rgb"], kind) == (
        (512, 512, 3),
        np.uint8,
        True,
        "image",
    )


def test_files_of_an_installed_package_come_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sample, "FOLDERS", (tmp_path, FOLDER))
    assert sample.sample_path("nuclei2d.tif") == FOLDER / "nuclei2d.tif"
    (tmp_path / "nuclei2d.tif").touch()
    assert sample.sample_path("nuclei2d.tif") == tmp_path / "nuclei2d.tif"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"nothing\.tif is missing; reinstall napari-unetseg"):
        sample.sample_path("nothing.tif")


def test_a_missing_picture_of_scikit_image_is_named(monkeypatch) -> None:
    from skimage import data

    def fail() -> None:
        raise OSError("no such file")

    monkeypatch.setattr(data, "cell", fail)
    with pytest.raises(UserError, match="install scikit-image with pip"):
        sample.cell()


def test_import_loads_neither_torch_nor_napari_nor_qt() -> None:
    code = "import json, sys, napari_unetseg.sample; print(json.dumps(list(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    roots = {name.split(".")[0] for name in json.loads(result.stdout)}
    assert not roots & {
        "torch",
        "napari",
        "qtpy",
        "PyQt5",
        "PyQt6",
        "PySide6",
        "skimage",
        "tifffile",
    }
