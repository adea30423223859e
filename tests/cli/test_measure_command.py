"""unetseg measure: objects whose sizes are known, in the units of the file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetseg.cli import main
from napari_unetseg.io.write_masks import write_mask

UM = ("um", "um")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def two_squares() -> np.ndarray:
    """Structure 1: 4 × 6 and, touching it at a corner, 2 × 2; structure 2: 3 × 3."""
    mask = np.zeros((20, 30), np.uint8)
    mask[2:6, 3:9] = 1
    mask[6:8, 9:11] = 1
    mask[12:15, 20:23] = 2
    return mask


def test_areas_and_places_are_in_the_unit_of_the_file(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.tif", two_squares(), axes="YX", spacing=(0.5, 0.25), units=UM)
    assert main(["measure", str(tmp_path / "m.tif"), "-o", str(tmp_path / "t.csv")]) == 0
    first, second = rows_of(tmp_path / "t.csv")
    assert (first["structure"], first["object"]) == ("1", "1")
    assert float(first["area (um²)"]) == pytest.approx((24 + 4) * 0.125)
    assert (second["structure"], second["object"]) == ("2", "1")
    assert float(second["area (um²)"]) == pytest.approx(9 * 0.125)
    assert float(second["y (um)"]) == pytest.approx(13 * 0.5)
    assert float(second["x (um)"]) == pytest.approx(21 * 0.25)
    diameter = float(second["equivalent diameter (um)"])
    assert diameter == pytest.approx(2 * np.sqrt(9 * 0.125 / np.pi), rel=1e-4)


def test_intensities_of_each_channel(tmp_path: Path) -> None:
    mask = two_squares()
    image = np.stack([mask * 10, 7 + mask]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "i.ome.tif", image, metadata={"axes": "CYX"})
    write_mask(tmp_path / "m.tif", mask, axes="YX")
    files = [str(tmp_path / "m.tif"), str(tmp_path / "i.ome.tif")]
    assert main(["measure", *files, "-o", str(tmp_path / "t.csv")]) == 0
    found = rows_of(tmp_path / "t.csv")
    assert [float(r["mean of channel 1"]) for r in found] == [10, 20]
    assert [float(r["mean of channel 2"]) for r in found] == [8, 9]
    assert [float(r["area (pixel²)"]) for r in found] == [28, 9]


def test_volumes_time_points_and_planes(tmp_path: Path) -> None:
    mask = np.zeros((2, 4, 10, 10), np.uint8)
    mask[1, 1:3, 2:5, 2:5] = 1
    sizes = {"spacing": (1, 2, 0.5, 0.5), "units": ("s", "um", "um", "um")}
    write_mask(tmp_path / "m.ome.tif", mask, axes="TZYX", **sizes)
    command = ["measure", str(tmp_path / "m.ome.tif"), "-o", str(tmp_path / "t.csv")]
    assert main(command) == 0
    (row,) = rows_of(tmp_path / "t.csv")
    assert row["t"] == "1"
    assert float(row["volume (um³)"]) == pytest.approx(18 * 0.5)
    assert main([*command, "--dims", "2"]) == 0
    planes = rows_of(tmp_path / "t.csv")
    assert [(r["t"], r["z"]) for r in planes] == [("1", "1"), ("1", "2")]
    assert [float(r["area (um²)"]) for r in planes] == [2.25, 2.25]


def test_every_number_of_instances_is_an_object(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint16)
    mask[0, :3], mask[5:7, 5], mask[7, 0] = 300, 7, 7
    write_mask(tmp_path / "m.tif", mask, axes="YX")
    command = ["measure", str(tmp_path / "m.tif"), "-o", str(tmp_path / "t.csv")]
    assert main([*command, "--labels", "instances"]) == 0
    found = [(r["structure"], r["object"], r["area (pixel²)"]) for r in rows_of(tmp_path / "t.csv")]
    assert found == [("1", "7", "3"), ("1", "300", "3")]


def test_an_empty_mask_is_a_table_without_rows(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.tif", np.zeros((8, 8), np.uint8), axes="YX")
    assert main(["measure", str(tmp_path / "m.tif"), "-o", str(tmp_path / "t.csv")]) == 0
    text = (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert text.startswith("structure,object,area (pixel²)")
    assert len(text.splitlines()) == 1


def measured(
    capsys: pytest.CaptureFixture[str], folder: Path, mask: np.ndarray, *options: object
) -> tuple[list[dict[str, str]], str]:
    """Rows of the table of a mask, and what was said."""
    tifffile.imwrite(folder / "m.tif", mask)
    arguments = ["measure", folder / "m.tif", "-o", folder / "t.csv", *options]
    assert main([str(a) for a in arguments]) == 0
    return rows_of(folder / "t.csv"), capsys.readouterr().err


def test_what_is_not_above_0_is_no_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.where(two_squares() == 0, -1, two_squares().astype(np.int16))
    for options in ((), ("--labels", "instances")):
        found, said = measured(capsys, tmp_path, mask, *options)
        assert {(row["structure"], row["object"]) for row in found} <= {
            ("1", "1"),
            ("2", "1"),
            ("1", "2"),
        }
        assert len(found) == 2
        assert "hold -1, which is not an object and is left out." in said
    mask = two_squares()
    mask[15:] = 255
    found, said = measured(capsys, tmp_path, mask, "--ignore", 255)
    assert [row["structure"] for row in found] == ["1", "2"]
    assert said == ""


def test_whole_floats_are_numbers_and_nan_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = two_squares().astype(np.float32)
    mask[0] = np.nan
    found, said = measured(capsys, tmp_path, mask)
    assert [row["area (pixel²)"] for row in found] == ["28", "9"]
    assert "hold NaN, which counts as not labelled" in said


def test_a_probability_map_is_measured_with_a_threshold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = np.where(two_squares() == 2, 0.9, two_squares() * np.float32(0.4)).astype(np.float32)
    found, _ = measured(capsys, tmp_path, shares, "--threshold", 0.5)
    assert [(row["structure"], row["area (pixel²)"]) for row in found] == [("1", "9")]


def test_the_mean_is_that_of_the_finite_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = two_squares() * np.float32(10)
    image[2, 3:5] = np.nan, np.inf
    image[12:15] = np.nan
    tifffile.imwrite(tmp_path / "i.tif", image)
    found, _ = measured(capsys, tmp_path, two_squares(), tmp_path / "i.tif")
    assert [row["mean of channel 1"] for row in found] == ["10", ""]


def test_images_and_masks_that_were_mixed_up_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:40], mask[40:50, 40:60] = 1, 2
    tifffile.imwrite(tmp_path / "i.tif", image)
    tifffile.imwrite(tmp_path / "m.tif", mask)
    table = str(tmp_path / "t.csv")
    assert main(["measure", str(tmp_path / "i.tif"), str(tmp_path / "m.tif"), "-o", table]) == 1
    assert "they seem to be swapped" in capsys.readouterr().err
    assert main(["measure", str(tmp_path / "i.tif"), "-o", table]) == 1
    assert "look like an image" in capsys.readouterr().err
    assert not Path(table).exists()


def test_objects_measured_as_structures_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((40, 40), np.uint16)
    for number in range(6):
        mask[2 + 6 * number : 6 + 6 * number, 5:9] = 300 + number
    found, said = measured(capsys, tmp_path, mask)
    assert len(found) == 6
    assert "'--labels instances'" in said
    assert measured(capsys, tmp_path, mask, "--labels", "instances")[1] == ""


@pytest.mark.parametrize(
    ("image", "output", "sentence"),
    [
        ("float.tif", "t.csv", "whole number"),
        ("m.tif", "t.xlsx", ".csv or .parquet"),
        ("m.tif small.tif", "t.csv", "that the mask belongs to"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], image: str, output: str, sentence: str
) -> None:
    tifffile.imwrite(tmp_path / "float.tif", np.full((8, 8), 0.5, np.float32))
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((4, 4), np.uint8))
    write_mask(tmp_path / "m.tif", np.ones((8, 8), np.uint8), axes="YX")
    files = [str(tmp_path / name) for name in image.split()]
    assert main(["measure", *files, "-o", str(tmp_path / output)]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / output).exists()


def test_parquet_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mask(tmp_path / "m.tif", two_squares(), axes="YX")
    code = main(["measure", str(tmp_path / "m.tif"), "-o", str(tmp_path / "t.parquet")])
    try:
        from pyarrow import parquet
    except ImportError:
        assert code == 1
        assert "pyarrow" in capsys.readouterr().err
        return
    table = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert table["area (pixel²)"] == [28, 9]


def test_masks_that_were_saved_with_colours_are_measured(tmp_path: Path) -> None:
    mask = two_squares()
    coloured = Image.fromarray(mask).convert("P")
    coloured.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    coloured.save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([mask] * 3)).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([mask] * 3 + [mask * 0 + 255])).save(tmp_path / "rgba.png")
    tifffile.imwrite(tmp_path / "rgb.tif", np.dstack([mask] * 3), photometric="rgb")
    for name in ("palette.png", "rgb.png", "rgba.png", "rgb.tif"):
        table = tmp_path / "t.csv"
        assert main(["measure", str(tmp_path / name), "-o", str(table), "--spacing", "2,2"]) == 0
        assert [float(row["area (um²)"]) for row in rows_of(table)] == [4 * 28, 4 * 9]


def test_a_mask_in_the_alpha_channel_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = two_squares()
    Image.fromarray(np.dstack([mask * 0] * 3 + [mask])).save(tmp_path / "alpha.png")
    assert main(["measure", str(tmp_path / "alpha.png"), "-o", str(tmp_path / "t.csv")]) == 1
    assert "in the alpha channel" in capsys.readouterr().err


def test_objects_have_their_structures_and_those_at_the_rim_can_be_left_out(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint32)
    ids[2:6, 3:9], ids[2:6, 9:12], ids[12:15, 27:30] = 5, 70_000, 9
    mask = np.where(ids == 5, 3, ids > 0).astype(np.uint8)
    mask[2, 3] = 1  # most of object 5 is of structure 3
    write_mask(tmp_path / "ids.tif", ids, axes="YX")
    write_mask(tmp_path / "mask.tif", mask, axes="YX")
    command = ["measure", str(tmp_path / "ids.tif"), "-o", str(tmp_path / "t.csv")]
    command += ["--labels", "instances"]
    assert main([*command, "--structures", str(tmp_path / "mask.tif")]) == 0
    found = {row["object"]: row["structure"] for row in rows_of(tmp_path / "t.csv")}
    assert found == {"5": "3", "9": "1", "70000": "1"}
    assert main([*command, "--no-rim-objects"]) == 0
    assert [row["object"] for row in rows_of(tmp_path / "t.csv")] == ["5", "70000"]
    table = ["measure", str(tmp_path / "mask.tif"), "-o", str(tmp_path / "t.csv")]
    assert main([*table, "--no-rim-objects"]) == 0
    assert {row["area (pixel²)"] for row in rows_of(tmp_path / "t.csv")} == {"23", "12", "1"}
    assert main([*table, "--structures", str(tmp_path / "mask.tif")]) == 2


def test_structures_of_another_image_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mask(tmp_path / "ids.tif", np.full((8, 8), 5, np.uint16), axes="YX")
    write_mask(tmp_path / "mask.tif", np.ones((8, 9), np.uint8), axes="YX")
    command = ["measure", str(tmp_path / "ids.tif"), "-o", str(tmp_path / "t.csv")]
    command += ["--labels", "instances", "--structures", str(tmp_path / "mask.tif")]
    assert main(command) == 1
    assert "two masks of the same image" in capsys.readouterr().err
