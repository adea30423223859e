"""File names that look alike are the same: accents from a Mac, capitals, usual endings."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import random_model

from napari_unetseg.cli import main
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.file_names import as_stored, partners
from napari_unetseg.io.folder_pairs import find_pairs
from napari_unetseg.io.open_image import open_labels, open_stack
from napari_unetseg.io.project.locations import image_candidates

NAME = "Zürich é Å 한글"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))
IMAGE = np.random.default_rng(0).integers(0, 255, (24, 32)).astype(np.uint8)
MASK = np.zeros((24, 32), np.uint8)
MASK[5:15, 5:20] = 1

# a file system that takes both spellings for one file has nothing to tell apart
pytestmark = pytest.mark.skipif(os.name == "darwin", reason="APFS takes both for one name")


def save(path: Path, array: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)
    return path


@pytest.mark.parametrize(("one", "other"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_images_and_labels_are_paired_whatever_their_accents(
    tmp_path: Path, one: str, other: str
) -> None:
    save(tmp_path / one / f"{one}.tif")
    save(tmp_path / "labels" / f"{other}.tif", MASK)
    (pair,) = find_pairs(tmp_path / other, tmp_path / "labels").pairs
    np.testing.assert_array_equal(np.asarray(pair.labels), MASK)
    assert not find_pairs(tmp_path / one, tmp_path / "labels").notes
    save(tmp_path / one / f"{other}.tif")
    with pytest.raises(UserError, match=r"same stem \(with differently encoded accents\)"):
        find_pairs(tmp_path / one, tmp_path / "labels")


@pytest.mark.parametrize(("stored", "typed"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_files_are_found_however_they_are_typed(tmp_path: Path, stored: str, typed: str) -> None:
    save(tmp_path / stored / f"{stored}.tif", MASK)
    for number in range(2):
        save(tmp_path / "series" / f"{stored} z{number}.tif")
    path = tmp_path / typed / f"{typed}.tif"
    assert as_stored(path) == tmp_path / stored / f"{stored}.tif"
    assert as_stored(tmp_path / typed / "new.tif") == tmp_path / stored / "new.tif"
    np.testing.assert_array_equal(np.asarray(open_stack(path).data), MASK)
    np.testing.assert_array_equal(np.asarray(open_labels(path)), MASK)
    assert open_stack(tmp_path / "series" / f"{typed} z*.tif").data.shape == (2, 24, 32)


@pytest.mark.parametrize("form", ["tiff", "png", "zarr"])
def test_masks_that_are_there_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    model = str(random_model(depth=2, width=2).save(tmp_path / f"{COMPOSED}.safetensors"))
    typed = str(tmp_path / f"{DECOMPOSED}.safetensors")
    save(tmp_path / "a" / f"{DECOMPOSED}.tif", np.stack([IMAGE] * 2))
    save(tmp_path / "b" / f"{COMPOSED}.tif", np.stack([IMAGE] * 2))
    options = ["-o", str(tmp_path / "out"), "--format", form, "--threads", "1"]
    assert main(["predict", typed, str(tmp_path / "a"), *options]) == 0
    written = sorted(os.listdir(tmp_path / "out"))
    assert all(name.startswith(DECOMPOSED) for name in written)  # as the image is spelt
    again = ["predict", model, str(tmp_path / "b" / f"{DECOMPOSED}*"), *options, "--skip-existing"]
    assert main(again) == 0
    assert "1 image skipped" in capsys.readouterr().err
    if form != "png":  # a mask is replaced, not written beside
        assert main([*again[:-1], "--overwrite"]) == 0
        assert sorted(os.listdir(tmp_path / "out")) == written


def test_a_batch_finds_what_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_model(depth=2, width=2).save(tmp_path / f"{DECOMPOSED}.safetensors")
    save(tmp_path / DECOMPOSED / "a.tif")
    (tmp_path / "batch.yaml").write_text(
        f"jobs:\n  - model: {COMPOSED}.safetensors\n    images: {COMPOSED}/*.tif\n"
        "    output: out\n",
        encoding="utf-8",
    )
    assert main(["batch", str(tmp_path / "batch.yaml")]) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "a.tif").is_file()


def test_parts_of_an_ome_tiff_are_found(tmp_path: Path) -> None:
    """The metadata name the parts in one spelling, the folder in the other."""
    names = [f"{COMPOSED} {number}.ome.tif" for number in range(2)]
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:0000000{z}-0000-0000-0000-000000000000</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="32" '
        'SizeY="24" SizeZ="2" SizeC="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
    )
    for z, name in enumerate(names):
        path = tmp_path / unicodedata.normalize("NFD", name)
        tifffile.imwrite(path, IMAGE + np.uint8(z), description=xml.encode(), metadata=None)
    stack = open_stack(tmp_path / names[0])
    assert stack.axes == "ZYX"
    assert stack.spacing[1:] == (0.5, 0.5)
    np.testing.assert_array_equal(np.asarray(stack.data), np.stack([IMAGE, IMAGE + 1]))


@pytest.mark.parametrize(
    ("images", "labels", "pairs"),
    [
        ("a b", "a b", "a:a b:b"),
        ("Cell_A", "cell_a", "Cell_A:cell_a"),
        ("A a", "a", "a:a"),
        ("a b", "a_mask b_Masks", "a:a_mask b:b_Masks"),
        ("a", "a_cp_masks", "a:a_cp_masks"),
        ("a", "a-labels", "a:a-labels"),
        ("a", "a_Simple_Segmentation", "a:a_Simple_Segmentation"),
        ("a_simple", "a_Simple_Segmentation", "a_simple:a_Simple_Segmentation"),
        ("a_0000 b_0000", "a b", "a_0000:a b_0000:b"),
        ("a_0000 a_0001", "a", ""),
        ("t_0000 t_0001", "t_0000_mask t_0001_mask", "t_0000:t_0000_mask t_0001:t_0001_mask"),
        ("a_img", "a_mask", "a_img:a_mask"),
        ("a", "a_mask a_seg", ""),
        ("a A", "a_mask", ""),
        ("a a_mask", "a", "a:a"),
        ("a", "ab mask_a amask", ""),
        ("a a_raw", "a_labels", ""),
        ("a b", "a b_mask", "a:a b:b_mask"),
    ],
)
def test_partners_are_those_that_nothing_else_fits(images: str, labels: str, pairs: str) -> None:
    found = partners(images.split(), labels.split())
    assert found == dict(pair.split(":") for pair in pairs.split())


def test_what_was_paired_by_nearly_the_same_name_is_said(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / "images" / f"{name}.tif")
        save(tmp_path / "labels" / f"{name}_mask.tif", MASK)
    found = find_pairs(tmp_path / "images", tmp_path / "labels")
    assert len(found.pairs) == 2
    assert not found.skipped
    assert not found.unused
    assert found.notes == ("Paired by nearly the same name: a.tif with a_mask.tif and 1 more.",)


def test_a_folder_of_folders_names_one(tmp_path: Path) -> None:
    save(tmp_path / "images" / "s1" / "a.tif")
    with pytest.raises(UserError, match=r"folders but no image; choose one of them, such as .*s1"):
        find_pairs(tmp_path / "images", tmp_path / "images" / "s1")


def test_images_of_a_project_are_looked_for_by_either_name(tmp_path: Path) -> None:
    image = save(tmp_path / f"{DECOMPOSED}.tif")
    described = {"path": str(tmp_path / f"{COMPOSED}.tif"), "relative": f"../{COMPOSED}.tif"}
    (tmp_path / "project").mkdir()
    places = image_candidates(tmp_path / "project", described)
    assert [place.resolve() for place in places] == [image, image]
