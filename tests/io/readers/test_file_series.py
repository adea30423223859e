"""Stacks in several files: OME-TIFF sets, folders and patterns of pictures."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.open_image import open_labels, open_stack
from napari_unetseg.io.readers import lazy_array

RNG = np.random.default_rng(0)
TZYX = RNG.integers(0, 256, (12, 3, 20, 30), dtype=np.uint8)


def refusal(path: Path) -> str:
    """Open and read all of a stack; return the sentence of the refusal."""
    lazy_array.clear_cache()
    with pytest.raises(UserError) as caught:
        np.asarray(open_stack(path).data)
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


# -- OME-TIFF of several files ---------------------------------------------------------------------

TIFF_DATA = (
    '<TiffData FirstT="{t}" IFD="0" PlaneCount="3"><UUID FileName="{name}">{id}</UUID></TiffData>'
)
PIXELS = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{id}">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="30" '
    'SizeY="20" SizeZ="3" SizeC="1" SizeT="2" PhysicalSizeX="0.5" PhysicalSizeY="0.5" '
    'PhysicalSizeZ="2"><Channel ID="Channel:0:0" Color="-16776961" Name="red"/>{data}'
    "</Pixels></Image></OME>"
)


def uuid(number: int) -> str:
    return f"urn:uuid:00000000-0000-0000-0000-00000000000{number}"


def write_set(folder: Path, names: list[str] | None = None) -> list[Path]:
    """Two times of three planes in a file each, which name each other."""
    names = names or ["t0.ome.tif", "t1.ome.tif"]
    data = "".join(TIFF_DATA.format(t=t, name=name, id=uuid(t)) for t, name in enumerate(names))
    paths = [folder / f"t{t}.ome.tif" for t in range(2)]
    for t, path in enumerate(paths):
        text = PIXELS.format(id=uuid(t), data=data)
        tifffile.imwrite(path, TZYX[t], description=text, metadata=None, photometric="minisblack")
    return paths


def test_an_ome_tiff_of_several_files_is_one_stack(tmp_path: Path) -> None:
    for path in write_set(tmp_path):
        stack = open_stack(path)
        assert (stack.axes, stack.spacing) == ("TZYX", (1.0, 2.0, 0.5, 0.5))
        assert (stack.channels, stack.colors) == (("red",), ("#ff0000",))
        np.testing.assert_array_equal(stack.data[...], TZYX[:2])
        np.testing.assert_array_equal(stack.data[1, 2], TZYX[1, 2])


def test_a_file_of_the_set_that_is_missing_is_named(tmp_path: Path) -> None:
    first, second = write_set(tmp_path)
    second.unlink()
    assert f"{second} is missing, which is a part of t0.ome.tif" in refusal(first)


@pytest.mark.parametrize("name", ["../x/t1.ome.tif", "/etc/passwd", "..", "C:\\t1.tif"])
def test_a_set_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    write_set(tmp_path / "x")
    first, _ = write_set(tmp_path / "y", ["t0.ome.tif", name])
    assert "is not in its folder" in refusal(first)


def test_a_link_out_of_the_folder_of_a_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    first, second = write_set(tmp_path)
    second.rename(tmp_path / "x" / "t1.ome.tif")
    second.symlink_to(tmp_path / "x" / "t1.ome.tif")
    assert open_stack(first).data.shape == (2, 3, 20, 30)  # below the folder of the set
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "t0.ome.tif").write_bytes(first.read_bytes())
    (tmp_path / "y" / "t1.ome.tif").symlink_to(tmp_path / "x" / "t1.ome.tif")
    assert "is not in its folder" in refusal(tmp_path / "y" / "t0.ome.tif")


def test_metadata_in_a_companion_file(tmp_path: Path) -> None:
    paths = write_set(tmp_path)
    data = "".join(TIFF_DATA.format(t=t, name=p.name, id=uuid(t)) for t, p in enumerate(paths))
    (tmp_path / "a.companion.ome").write_text(PIXELS.format(id=uuid(9), data=data))
    for t, path in enumerate(paths):
        only = f'<BinaryOnly MetadataFile="a.companion.ome" UUID="{uuid(9)}"/>'
        space = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        text = f'<OME {space} UUID="{uuid(t)}">{only}</OME>'
        tifffile.imwrite(path, TZYX[t], description=text, metadata=None, photometric="minisblack")
    stack = open_stack(paths[1])
    assert (stack.axes, stack.spacing) == ("TZYX", (1.0, 2.0, 0.5, 0.5))
    np.testing.assert_array_equal(stack.data[...], TZYX[:2])


@pytest.mark.parametrize("count", ['SizeT="99999999"', 'SizeT="2" SizeQ="1" IFD="-3"'])
def test_a_set_of_more_planes_than_any_is_refused(tmp_path: Path, count: str) -> None:
    first, _ = write_set(tmp_path)
    data = TIFF_DATA.format(t=0, name="t0.ome.tif", id=uuid(0))
    text = PIXELS.format(id=uuid(0), data=data).replace('SizeT="2"', count)
    tifffile.imwrite(first, TZYX[0], description=text, metadata=None, photometric="minisblack")
    assert "damaged" in refusal(first)


def test_planes_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    first, _ = write_set(tmp_path)
    data = TIFF_DATA.format(t=0, name="t0.ome.tif", id=uuid(0)).replace('"3"', '"4000000000"')
    text = PIXELS.format(id=uuid(0), data=data)
    tifffile.imwrite(first, TZYX[0], description=text, metadata=None, photometric="minisblack")
    assert "damaged" in refusal(first)


# -- folders and patterns --------------------------------------------------------------------------


def write_pictures(folder: Path, suffix: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    for number, plane in enumerate(TZYX[:, 0]):
        Image.fromarray(plane).save(folder / f"cell_t{number + 1}{suffix}")
    return folder


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_folder_is_a_stack_in_natural_order(tmp_path: Path, suffix: str) -> None:
    stack = open_stack(write_pictures(tmp_path / "cells", suffix))
    assert (stack.name, stack.axes, stack.data.shape) == ("cells", "ZYX", (12, 20, 30))
    np.testing.assert_array_equal(stack.data[...], TZYX[:, 0])
    for key in [1, -1, (slice(2, 9, 3), 4), (..., slice(None, None, -2)), (3, 4, 5)]:
        np.testing.assert_array_equal(stack.data[key], TZYX[:, 0][key], str(key))
    assert open_stack(tmp_path / "cells", axes="TYX", spacing="65,65nm").axes == "TYX"


def test_a_pattern_names_its_axes(tmp_path: Path) -> None:
    for t, volume in enumerate(TZYX):
        for z, plane in enumerate(volume):
            tifffile.imwrite(tmp_path / f"a_t{t}_z{z:03}.tif", plane)
    tifffile.imwrite(tmp_path / "other.tif", TZYX, photometric="minisblack")
    stack = open_stack(tmp_path / "a_t*_z*.tif", spacing=(2, 1, 1))
    assert (stack.name, stack.axes, stack.spacing) == ("a", "TZYX", (1.0, 2.0, 1.0, 1.0))
    np.testing.assert_array_equal(stack.data[...], TZYX)
    assert open_stack(tmp_path / "a_t*_z000.tif").axes == "TYX"
    (tmp_path / "a_t7_z001.tif").unlink()
    assert "a_t7_z001.tif is missing from the series" in refusal(tmp_path / "a_t*_z*.tif")
    assert "No file matches" in refusal(tmp_path / "b*.tif")


@pytest.mark.parametrize("numbers", [(0, 1, 3, 4), (0, 10, 30), (7, 8, 11)])
def test_a_number_that_is_left_out_is_said(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    for n, number in enumerate(numbers):
        for channel in (1, 2):
            tifffile.imwrite(tmp_path / f"a_c{channel}_t{number:03}.tif", TZYX[n, channel])
    steps = np.diff(numbers)
    lost = f"t{numbers[int(np.argmax(steps > steps.min()))] + steps.min():03}.tif is missing"
    for path in (tmp_path / "a_c*_t*.tif", tmp_path / "a_c2_t*.tif"):
        (said,) = open_stack(path).notes
        assert lost in said
    for file in tmp_path.glob("a_c1*"):
        file.unlink()
    (said,) = open_stack(tmp_path).notes
    assert lost in said


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 10, 20), (5,), (100, 161, 221), (1, 1.5)])
def test_evenly_spaced_numbers_and_times_of_the_clock_are_no_gaps(
    tmp_path: Path, numbers: tuple[float, ...]
) -> None:
    for n, number in enumerate(numbers):
        tifffile.imwrite(tmp_path / f"a_t{number}.tif", TZYX[n, 0])
    assert not open_stack(tmp_path).notes


def test_volumes_and_colours_in_a_series(tmp_path: Path) -> None:
    for t, volume in enumerate(TZYX):
        tifffile.imwrite(tmp_path / f"a{t}.tif", volume, photometric="minisblack")
    stack = open_stack(tmp_path)
    assert stack.axes == "TZYX"
    np.testing.assert_array_equal(stack.data[...], TZYX)
    (tmp_path / "rgb").mkdir()
    for z, plane in enumerate(TZYX[0]):
        Image.fromarray(np.dstack([plane] * 3)).save(tmp_path / "rgb" / f"{z}.png")
    colours = open_stack(tmp_path / "rgb")
    assert (colours.axes, colours.n_channels) == ("ZYXS", 3)
    np.testing.assert_array_equal(
        colours.read((1,), (slice(2, 9), slice(3, 5)))[2], TZYX[0, 1, 2:9, 3:5]
    )


def test_labels_in_a_series(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "labels")
    np.testing.assert_array_equal(open_labels(folder)[...], TZYX[:, 0])


def test_files_that_are_not_alike_are_named(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "cells")
    Image.fromarray(TZYX[0, 0, :5]).save(folder / "cell_t7.png")
    assert "cell_t7.png holds (5, 30)" in refusal(folder)
    Image.fromarray(TZYX[0, 0].astype(np.uint16)).save(folder / "cell_t7.png")
    assert "of type uint16" in refusal(folder)
    (folder / "cell_t7.png").write_bytes(b"none")
    assert "cell_t7.png cannot be read" in refusal(folder)
    tifffile.imwrite(folder / "a.tif", TZYX[0, 0])
    assert "contains .png and .tif files; give a pattern" in refusal(folder)


def test_a_file_that_changes_after_opening_is_said(tmp_path: Path) -> None:
    data = open_stack(write_pictures(tmp_path / "cells")).data
    Image.fromarray(TZYX[0, 0, :5]).save(tmp_path / "cells" / "cell_t3.png")
    with pytest.raises(UserError, match="must have the same shape and type"):
        data[2]
    (tmp_path / "cells" / "cell_t3.png").unlink()
    with pytest.raises(UserError, match="does not exist"):
        data[2]


def total(data: Any) -> int:
    return int(data[...].astype(int).sum())


def test_a_series_travels_to_other_processes(tmp_path: Path) -> None:
    data = open_stack(write_pictures(tmp_path / "cells")).data
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(total, (data,)) == TZYX[:, 0].sum()
