"""Files of an OME-TIFF are found by their UUIDs and names, whatever they are called now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_unetseg.core.errors import ChoiceError, UserError
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.readers import lazy_array

NAMESPACE = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
SET = ["a.tif", "b.tif"]


def uuid(number: int) -> str:
    return f"urn:uuid:00000000-0000-0000-0000-00000000000{number}"


IDS = [uuid(1), uuid(2)]


def pixels(names: Sequence[str], ids: Sequence[str], depth: int, number: int = 0) -> str:
    """An image of a time for each file, of so many planes."""
    data = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="{depth}">'
        f'<UUID FileName="{name}">{one}</UUID></TiffData>'
        for t, (name, one) in enumerate(zip(names, ids, strict=True))
    )
    return (
        f'<Image ID="Image:{number}" Name="position {number}"><Pixels ID="Pixels:{number}" '
        f'DimensionOrder="XYZTC" Type="uint16" SizeX="9" SizeY="8" SizeZ="{depth}" SizeC="1" '
        f'SizeT="{len(names)}" PhysicalSizeX="0.{number + 1}"><Channel ID="Channel:{number}"/>'
        f"{data}</Pixels></Image>"
    )


def ome(content: str, root: str | None) -> str:
    own = f' UUID="{root}"' if root else ""
    return f'<?xml version="1.0" encoding="UTF-8"?><OME {NAMESPACE}{own}>{content}</OME>'


def write(path: Path, text: str, numbers: Sequence[int]) -> Path:
    """Pages that are filled with their numbers."""
    with tifffile.TiffWriter(path) as writer:
        for i, number in enumerate(numbers):
            page = np.full((8, 9), number, np.uint16)
            more: dict[str, Any] = {"metadata": None, "contiguous": False}
            writer.write(page, description=text.encode() if i == 0 else None, **more)
    return path


def write_set(
    folder: Path,
    names: Sequence[str] = SET,
    ids: Sequence[str] = IDS,
    roots: Sequence[str | None] = IDS,
    called: Sequence[str] = SET,
) -> list[Path]:
    """Two files of a plane, 1 and 2, that name each other, under the names that they have now."""
    return [
        write(folder / name, ome(pixels(names, ids, 1), root), [number])
        for number, (name, root) in enumerate(zip(called, roots, strict=True), 1)
    ]


def numbers(path: Path, **how: Any) -> list[int]:
    lazy_array.clear_cache()
    data = np.asarray(open_stack(path, **how).data[...])
    return [int(n) for n in data[..., 0, 0].ravel()]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"called": ["x.tif", "y.tif"]},
        {"called": ["a.tif", "y.tif"]},
        {"called": ["b.tif", "a.tif"]},
        {"roots": [None, None]},
        {"roots": [None, None], "ids": ["", ""]},
        {"ids": [uuid(1)] * 2, "roots": [uuid(1)] * 2},
        {"roots": [uuid(1)] * 2},
        {"names": ["A.TIF", "B.TIF"], "roots": [None, None]},
        {"names": ["ä.tif", "ö.tif"], "called": ["a\u0308.tif", "o\u0308.tif"], "ids": ["", ""]},
    ],
    ids=[
        "as it was",
        "renamed",
        "partly renamed",
        "names swapped",
        "names alone",
        "no UUIDs",
        "one UUID for all",
        "one UUID in all files",
        "from a system without case",
        "from a Mac",
    ],
)
def test_a_set_is_whole_whatever_its_files_are_called(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    for path in write_set(tmp_path, **changed):
        assert numbers(path) == [1, 2]


def test_another_file_that_took_a_name_is_not_read_as_a_part(tmp_path: Path) -> None:
    first, second = write_set(tmp_path, called=["a.tif", "b_old.tif"])
    write(tmp_path / "b.tif", ome(pixels(["b.tif"], [uuid(9)], 1), uuid(9)), [77])
    assert numbers(first) == numbers(second) == [1, 2]


def test_a_part_without_the_uuid_that_names_it_is_said_to_be_taken_by_its_name(
    tmp_path: Path,
) -> None:
    first, _ = write_set(tmp_path, roots=[uuid(7), uuid(8)])
    assert numbers(first) == [1, 2]
    assert "b.tif does not have the UUID" in open_stack(first).notes[0]


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("old.ome.tif", uuid(1)),
        ("old.ome.tif", None),
        ("old.ome.tif", uuid(5)),
        ("C:\\data\\old.ome.tif", uuid(1)),
        ("C:\\data\\old.ome.tif", None),
    ],
)
def test_a_single_file_under_another_name_is_itself(
    tmp_path: Path, name: str, root: str | None
) -> None:
    text = ome(pixels([name], [uuid(1)], 3), root)
    path = write(tmp_path / "new.tif", text, [1, 2, 3])
    assert numbers(path) == [1, 2, 3]
    assert open_stack(path).notes == ()


@pytest.mark.parametrize("root", [uuid(1), None])
def test_a_copy_under_the_old_name_is_not_read_in_its_place(
    tmp_path: Path, root: str | None
) -> None:
    text = ome(pixels(["old.tif"], [uuid(1)], 2), root)
    new = write(tmp_path / "new.tif", text, [1, 2])
    old = write(tmp_path / "old.tif", text, [3, 4])
    assert (numbers(new), numbers(old)) == ([1, 2], [3, 4])


def test_a_renamed_file_that_lacks_planes_says_so(tmp_path: Path) -> None:
    for root in (uuid(1), None):
        text = ome(pixels(["old.tif"], [uuid(1)], 5), root)
        path = write(tmp_path / "new.tif", text, [1, 2])
        with pytest.raises(ChoiceError, match=r"lacks 3 of 5 planes \(Z 2–4"):
            open_stack(path)
        assert numbers(path, missing_planes="drop") == [1, 2]


def test_without_a_file_of_the_set_its_planes_are_missing(tmp_path: Path) -> None:
    first, second = write_set(tmp_path)
    second.unlink()
    with pytest.raises(UserError, match=r"b\.tif is missing, which is a part of a\.tif"):
        open_stack(first)
    assert numbers(first, missing_planes="drop") == [1]
    assert numbers(first, missing_planes="fill") == [1, 0]
    notes = open_stack(first, missing_planes="fill").notes
    assert "b.tif is missing, which is a part of a.tif." in notes


def test_of_images_in_a_file_each_that_in_the_named_file_is_opened(tmp_path: Path) -> None:
    every = "".join(pixels([name], [IDS[n]], 2, n) for n, name in enumerate(SET))
    for n, name in enumerate(SET):
        write(tmp_path / name, ome(every, IDS[n]), [10 * n + 1, 10 * n + 2])
    for n, name in enumerate(SET):
        stack = open_stack(tmp_path / name)
        assert numbers(tmp_path / name) == [10 * n + 1, 10 * n + 2]
        assert stack.spacing[-1] == pytest.approx(0.1 * (n + 1))
        assert "is one file of a set of 2 images" in stack.notes[0]
    assert numbers(tmp_path / "a.tif", series="position 1") == [11, 12]
    (tmp_path / "b.tif").unlink()
    assert numbers(tmp_path / "a.tif") == [1, 2]
    assert "list position 1, but it has no planes" in open_stack(tmp_path / "a.tif").notes[-1]


def test_metadata_in_a_file_of_their_own_are_found_under_any_name(tmp_path: Path) -> None:
    only = f'<BinaryOnly MetadataFile="c.companion.ome" UUID="{uuid(9)}"/>'
    paths = [
        write(tmp_path / n, ome(only, i), [k]) for n, i, k in zip("xy", IDS, (1, 2), strict=True)
    ]
    paths = [path.rename(path.with_suffix(".tif")) for path in paths]
    companion = tmp_path / "c.companion.ome"
    companion.write_text(ome(pixels(SET, IDS, 1), uuid(9)), encoding="utf-8")
    assert [numbers(path) for path in paths] == [[1, 2], [1, 2]]
    companion = companion.rename(tmp_path / "other.companion.ome")
    assert [numbers(path) for path in paths] == [[1, 2], [1, 2]]
    companion.unlink()
    with pytest.raises(UserError, match=r"c\.companion\.ome is missing"):
        open_stack(paths[0])
    assert numbers(paths[0], missing_planes="drop") == [1]


def test_metadata_that_place_no_plane_are_said(tmp_path: Path) -> None:
    text = re.sub("<TiffData.*?</TiffData>", "", ome(pixels(["a.tif"], IDS[:1], 5), None))
    stack = open_stack(write(tmp_path / "a.tif", text, [1, 2, 3]))
    assert stack.grid_shape == (3, 8, 9)
    assert any("do not say which planes it has" in note for note in stack.notes)
