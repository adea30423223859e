"""unetseg train with structures that consist of objects, and with finished ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from cli_runner import Run, runner

from napari_unetseg.models.model import Model, load_model

QUICK = ("--depth", "2", "--width", "4", "--patch", "32", "--batch", "2", "--steps", "2")


@pytest.fixture(name="run")
def _run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of disks of two structures with strokes; finished disks of the first."""
    folder = tmp_path_factory.mktemp("objects")
    y, x = np.indices((64, 64))
    for number in range(2):
        ids = np.zeros((64, 64), np.uint16)
        for place in range(4):
            cy, cx = 16 + 32 * (place // 2), 16 + 32 * (place % 2)
            ids[(y - cy) ** 2 + (x - cx) ** 2 < 100] = 300 + place
        kinds = np.where(ids > 301, 2, np.where(ids > 0, 1, 255)).astype(np.uint8)
        kinds[::3] = 0
        rng = np.random.default_rng(number)
        image = (100.0 * (ids > 0) + rng.normal(0, 5, ids.shape)).astype(np.float32)
        arrays = {"images": image, "strokes": kinds, "instances": ids}
        if number == 0:
            arrays["finished"] = np.where(ids == 301, 0, ids)
        for kind, array in arrays.items():
            (folder / kind).mkdir(exist_ok=True)
            tifffile.imwrite(folder / kind / f"disks {number}.tif", array)
    return folder


def trained(run: Run, data: Path, path: Path, kind: str, *more: object) -> tuple[Model, str]:
    arguments = (data / "images", data / kind, "-o", path, "--labels", kind, *QUICK, *more)
    result = run("train", *arguments)
    assert result.code == 0, result.err
    return load_model(path), result.err


def test_numbers_say_which_structures_consist_of_objects(
    run: Run, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    model, said = trained(
        run, data, path, "strokes", "--objects", "2", "--finished", data / "finished"
    )
    assert [s.objects for s in model.classes.structures] == [False, True]
    assert model.object_settings is not None, "finished objects were known"
    assert "Finished objects for 1 image of 2." in said
    assert "Consists of objects: structure 2." in said


def test_whole_objects_are_learned(run: Run, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model, _ = trained(run, data, path, "instances", "--objects", "1")
    assert [s.objects for s in model.classes.structures] == [True]
    assert model.object_settings is not None


def test_without_whole_objects_masks_are_split_at_necks(
    run: Run, data: Path, tmp_path: Path
) -> None:
    model, _ = trained(run, data, tmp_path / "m.safetensors", "strokes", "--objects", "1,2")
    assert all(s.objects for s in model.classes.structures)
    assert model.object_settings is None


@pytest.mark.parametrize(
    ("numbers", "said"), [("3", "--objects names 3, but"), ("one", "such as 1 or 1,3")]
)
def test_what_is_no_structure_is_refused(
    run: Run, data: Path, tmp_path: Path, numbers: str, said: str
) -> None:
    arguments = (data / "images", data / "strokes", "-o", tmp_path / "m", "--labels", "strokes")
    result = run("train", *arguments, "--objects", numbers, *QUICK)
    assert result.code != 0
    assert said in result.err
    assert not list(tmp_path.iterdir())
