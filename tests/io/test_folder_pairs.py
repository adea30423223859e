"""Images and labels are paired by stem; what does not fit is a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetseg import FolderDataset
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.io.folder_pairs import find_pairs, images_by_stem

GREY = np.arange(600, dtype=np.uint16).reshape(20, 30)
MASK = (GREY > 300).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    return images, labels


def save(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array, photometric="minisblack")
    return path


def test_pairs_share_their_stem_whatever_the_suffix(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    save(images / "b.ome.tif", GREY)
    save(images / "a.TIF", GREY)
    save(images / "lonely.tif", GREY)
    save(labels / "a.png", MASK)
    save(labels / "b.tif", MASK * 2)
    save(labels / "spare.png", MASK)
    (images / "notes.txt").write_text("x")
    (images / ".hidden.tif").write_text("x")
    (images / "folder.tif").mkdir()
    found = find_pairs(images, labels, "instances", ignore=7)
    assert [p.image.name for p in found.pairs] == ["a", "b"]
    assert [p.name for p in found.skipped] == ["lonely.tif"]
    assert [p.name for p in found.unused] == ["spare.png"]
    assert found.pairs[0].kind is LabelKind.INSTANCES
    assert found.pairs[0].ignore == 7
    np.testing.assert_array_equal(np.asarray(found.pairs[1].labels), MASK * 2)


def test_of_files_with_several_images_one_is_taken_and_its_labels(
    folders: tuple[Path, Path],
) -> None:
    for folder, dtype in zip(folders, (np.uint16, np.uint8), strict=True):
        with tifffile.TiffWriter(folder / "a.tif") as writer:
            for rows in (20, 18):
                writer.write(MASK[:rows].astype(dtype))
    save(folders[0] / "b.tif", GREY)
    save(folders[1] / "b.tif", MASK)
    with pytest.raises(UserError, match="holds 2 images"):
        find_pairs(*folders)
    found = find_pairs(folders[0] / "a.tif", folders[1] / "a.tif", series=2)
    assert found.pairs[0].image.grid_shape == found.pairs[0].labels.shape == (18, 30)
    save(folders[1] / "a.tif", MASK)
    first = find_pairs(folders[0] / "a.tif", folders[1] / "a.tif", series=1)
    assert first.pairs[0].labels.shape == (20, 30)
    assert find_pairs(*folders, series=1).notes == ()
    by_path = find_pairs(folders[0] / "a.tif" / "1", folders[1] / "a.tif")
    assert by_path.pairs[0].image.name == "a_1"


def test_what_was_noted_of_files_is_told_once(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        for page in (MASK, MASK):
            tifffile.imwrite(folder / "a.tif", page, append=True)
    (note,) = find_pairs(*folders).notes
    assert "holds 2 images that are alike" in note


def test_two_files_need_no_common_stem(folders: tuple[Path, Path]) -> None:
    image, mask = save(folders[0] / "a.tif", GREY), save(folders[1] / "mask.png", MASK)
    assert [p.image.name for p in find_pairs(image, mask).pairs] == ["a"]


def test_a_file_finds_its_partner_in_a_folder(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    image, mask = save(images / "a.tif", GREY), save(labels / "a.png", MASK)
    save(images / "b.tif", GREY)
    assert len(find_pairs(image, labels).pairs) == 1
    assert len(find_pairs(images, mask).pairs) == 1


def test_no_pair_names_both_folders_and_examples(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    for name in ("a", "b", "c"):
        save(images / f"{name}.tif", GREY)
    save(labels / "mask of a.png", MASK)
    with pytest.raises(UserError) as caught:
        find_pairs(images, labels)
    sentence = str(caught.value)
    assert str(images) in sentence
    assert str(labels) in sentence
    assert "'a', 'b', … and 'mask of a'" in sentence


@pytest.mark.parametrize("which", ["images", "labels"])
def test_an_empty_or_missing_folder_is_named(folders: tuple[Path, Path], which: str) -> None:
    images, labels = folders
    save((labels if which == "images" else images) / "a.png", MASK)
    with pytest.raises(UserError, match=f"{which} contains no image"):
        find_pairs(images, labels)
    with pytest.raises(UserError, match="does not exist"):
        find_pairs(images / "nowhere", labels / "nowhere")


def test_one_folder_for_both_is_refused(folders: tuple[Path, Path]) -> None:
    save(folders[0] / "a.tif", GREY)
    with pytest.raises(UserError, match="given as both images and labels"):
        find_pairs(folders[0], folders[0])


def test_two_files_of_one_stem_are_refused(folders: tuple[Path, Path]) -> None:
    first, second = save(folders[0] / "a.tif", GREY), save(folders[0] / "a.ome.tif", GREY)
    with pytest.raises(UserError, match="same stem"):
        images_by_stem([folders[0]])
    with pytest.raises(UserError, match="same stem"):
        images_by_stem([first, second])


def test_the_same_file_twice_is_refused(folders: tuple[Path, Path]) -> None:
    path = save(folders[0] / "a.tif", GREY)
    with pytest.raises(UserError, match="same stem"):
        images_by_stem([path, path])


def test_other_shapes_name_both(folders: tuple[Path, Path]) -> None:
    image, mask = save(folders[0] / "a.tif", GREY), save(folders[1] / "a.png", MASK[:-1])
    with pytest.raises(UserError, match=r"\(20, 30\).*\(19, 30\)"):
        find_pairs(image, mask)


def test_axes_of_length_one_do_not_matter(folders: tuple[Path, Path]) -> None:
    image = folders[0] / "a.tif"
    tifffile.imwrite(image, GREY[None, None], metadata={"axes": "TZYX"})
    np.save(folders[1] / "a.npy", MASK[None])
    assert find_pairs(image, folders[1] / "a.npy").pairs[0].labels.shape == (20, 30)


@pytest.mark.parametrize(
    ("size", "unit", "said"),
    [
        (0.5, "um", "has pixels of 0.5 × 0.5 µm, its image of 0.2 × 0.2 µm"),
        (200.0, "nm", ""),
        (0.2001, "um", ""),
        (None, "um", ""),
    ],
)
def test_labels_with_other_pixel_sizes_than_their_image_are_said(
    folders: tuple[Path, Path], size: float | None, unit: str, said: str
) -> None:
    for folder, pixel, name in ((folders[0], 0.2, "um"), (folders[1], size, unit)):
        sized = {"resolution": (1 / pixel, 1 / pixel), "metadata": {"unit": name}} if pixel else {}
        tifffile.imwrite(folder / "a.tif", GREY, imagej=True, **sized)
    for notes in (find_pairs(*folders).notes, FolderDataset(*folders).notes):
        assert said in "".join(notes)
        assert bool(notes) == bool(said)
    assert not find_pairs(*folders, spacing="0.4,0.4").notes, "the file is not believed"


def test_axes_of_the_images_can_be_given(folders: tuple[Path, Path]) -> None:
    save(folders[0] / "a.tif", np.stack([GREY] * 2))
    save(folders[1] / "a.png", MASK)
    pair = find_pairs(*folders, axes="CYX").pairs[0]
    assert pair.image.n_channels == 2


def test_the_dataset_is_a_sequence_of_pairs(folders: tuple[Path, Path]) -> None:
    for name in "abc":
        save(folders[0] / f"{name}.tif", GREY)
    for name in "ab":
        save(folders[1] / f"{name}.png", MASK)
    pairs = FolderDataset(*folders)
    assert len(pairs) == 2
    assert [p.image.name for p in pairs] == ["a", "b"]
    assert pairs[-1].image.name == "b"
    assert len(pairs[:1]) == 1
    assert pairs[0].kind is LabelKind.FULL
    assert repr(pairs) == "FolderDataset(2 pairs, 1 images without labels)"
