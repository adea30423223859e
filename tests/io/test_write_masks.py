"""Masks and probabilities come back as they were written, with their pixel sizes, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.write_masks import write_mask, write_probabilities

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
MASK = RNG.integers(0, 3, (2, 4, 32, 40), dtype=np.uint8)
SIZES: dict[str, Any] = {"spacing": (2.5, 1.5, 0.2, 0.25), "units": ("s", "um", "um", "um")}


def written(path: Path, mask: np.ndarray, **options: Any) -> Stack:
    (file,) = write_mask(path, mask, **options)
    assert file == path
    assert sorted(path.parent.iterdir()) == [path]
    return open_stack(path)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_stack_comes_back_with_axes_and_sizes(tmp_path: Path, name: str) -> None:
    stack = written(tmp_path / name, MASK, axes="TZYX", names={1: "cell", 2: "Kern µ"}, **SIZES)
    assert stack.axes == "TZYX"
    assert stack.spacing == pytest.approx(SIZES["spacing"])
    assert stack.units == SIZES["units"]
    np.testing.assert_array_equal(np.asarray(stack.data), MASK)
    with tifffile.TiffFile(tmp_path / name) as file:
        assert file.series[0].kind == ("ome" if "ome" in name else "imagej")
        assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        text = file.ome_metadata or file.imagej_metadata["Info"]
    assert "1 = cell" in text
    assert "2 = Kern µ" in text


def test_axes_that_imagej_does_not_know_are_kept_too(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"spacing": (1, 20.0, 25.0), "units": ("pixel", "nm", "nm")}
    stack = written(tmp_path / "a.tif", MASK[0], axes="PYX", **sizes)
    assert (stack.axes, stack.spacing, stack.units) == ("PYX", (1, 20, 25), ("pixel", "nm", "nm"))
    with pytest.raises(UserError, match=r"save as \.tif instead"):
        write_mask(tmp_path / "b.ome.tif", MASK[0], axes="PYX")


def test_units_that_differ_become_one_in_imagej(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"spacing": (1, 0.2, 0.0002), "units": ("um", "um", "mm")}
    stack = written(tmp_path / "a.tif", MASK[0], axes="ZYX", **sizes)
    assert stack.spacing == pytest.approx((0.001, 0.0002, 0.0002))
    assert set(stack.units) == {"mm"}


def test_unknown_sizes_stay_unknown_and_anisotropy_is_kept(tmp_path: Path) -> None:
    stack = written(tmp_path / "a.tif", MASK[0, 0], axes="YX")
    assert (stack.spacing, stack.units) == ((1, 1), ("pixel", "pixel"))
    for name in ("b.tif", "b.ome.tif"):
        write_mask(tmp_path / name, MASK[0], axes="ZYX", spacing=(3, 1, 1), units=("pixel",) * 3)
        assert open_stack(tmp_path / name).spacing == (3, 1, 1)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (MASK[0, 0] > 0, "uint8"),
        (MASK[0, 0].astype(np.int64) * 100, "uint8"),
        (MASK[0, 0].astype(np.int32) * 300, "uint16"),
        (MASK[0, 0].astype(np.uint16), "uint16"),
        (MASK[0, 0].astype(np.int64) * 100_000, "uint32"),
    ],
    ids=["bool", "small int64", "int32", "uint16", "large int64"],
)
def test_the_smallest_type_that_holds_the_numbers(
    tmp_path: Path, array: np.ndarray, dtype: str
) -> None:
    stack = written(tmp_path / "a.tif", array, axes="YX")
    assert stack.data.dtype == dtype
    np.testing.assert_array_equal(np.asarray(stack.data), array)


@pytest.mark.parametrize(
    ("array", "name", "sentence"),
    [
        (np.full((4, 4), 70_000), "a.png", "0 to 65535"),
        (np.full((4, 4), 2**32), "a.tif", "0 to 4294967295"),
        (np.full((4, 4), -1), "a.png", "0 to 65535"),
        (np.full((4, 4), 0.5), "a.tif", "needs whole numbers"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    tmp_path: Path, array: np.ndarray, name: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        write_mask(tmp_path / name, array, axes="YX")
    assert not list(tmp_path.iterdir())


def test_png_of_a_plane_and_of_a_stack(tmp_path: Path) -> None:
    plane = written(
        tmp_path / "a.png", MASK[0, 0], axes="YX", spacing=(0.2, 0.25), units=("um", "um")
    )
    assert plane.spacing == pytest.approx((0.2, 0.25), rel=1e-4)
    files = write_mask(tmp_path / "s.png", MASK, axes="TZYX", **SIZES)
    assert [f.name for f in files[:5]] == [
        "s_t000_z000.png", "s_t000_z001.png", "s_t000_z002.png", "s_t000_z003.png",
        "s_t001_z000.png",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(open_stack(files[-1]).data), MASK[-1, -1])


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown suffix"):
        write_mask(tmp_path / "a.xyz", MASK[0, 0], axes="YX")


@pytest.mark.parametrize("half", [False, True])
def test_probabilities_have_their_channels_first(tmp_path: Path, half: bool) -> None:
    shares = RNG.random((3, *MASK.shape), dtype=np.float32)
    path = tmp_path / "p.ome.tif"
    names = ("background", "cell", "wall")
    write_probabilities(path, shares, axes="TZYX", names=names, half=half, **SIZES)
    stack = open_stack(path)
    assert stack.axes == "CTZYX"
    assert stack.grid_spacing == pytest.approx(SIZES["spacing"])
    np.testing.assert_array_equal(np.asarray(stack.data), shares.astype("f2" if half else "f4"))
    if not half:
        assert stack.channels == names


def test_a_mask_is_read_a_plane_at_a_time(tmp_path: Path) -> None:
    class Planes:
        shape, dtype = (3, 8, 8), np.dtype("uint8")

        def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
            assert len(index) == 1
            return np.full((8, 8), index[0], np.uint8)

    (path,) = write_mask(tmp_path / "a.tif", Planes(), axes="ZYX")
    np.testing.assert_array_equal(np.asarray(open_stack(path).data)[:, 0, 0], [0, 1, 2])


def test_more_than_4_gb_would_be_a_bigtiff(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("napari_unetseg.io.write_tiff.IMAGEJ_BYTES", 1000)
    stack = written(tmp_path / "a.tif", MASK, axes="TZYX", **SIZES)
    assert stack.spacing == SIZES["spacing"]
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="could not be saved"):
        write_mask(tmp_path / "file" / "a.tif", MASK[0, 0], axes="YX")


FULL_DISK = """
import resource, sys
import numpy as np
from napari_unetseg.io.write_masks import write_mask
from napari_unetseg.core.errors import UserError
noise = np.random.default_rng(0).integers(0, 65536, (600, 600), dtype=np.uint16)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_mask(sys.argv[1], noise, axes="YX")
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.png"])
def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert "the old file is unchanged" in done.stdout
    assert done.stderr == ""
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"
