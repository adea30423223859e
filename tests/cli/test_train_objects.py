"""``unetseg train`` for structures that consist of objects, on real files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from napari_unetseg.models.model import load_model

if TYPE_CHECKING:
    from cli_runner import Run

SMALL = ["--depth", "2", "--width", "4", "--patch", "32", "--batch", "2", "--threads", "1"]
SHORT = [*SMALL, "--steps", "4"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An image of touching squares with their numbers, structures, strokes and finished ones."""
    rng = np.random.default_rng(0)
    ids, mask = np.zeros((96, 96), np.uint16), np.zeros((96, 96), np.uint8)
    image = rng.normal(40, 5, ids.shape)
    for y in range(4, 80, 24):
        for x in range(4, 80, 24):
            for part in range(2):
                at = slice(y, y + 14), slice(x + 8 * part, x + 8 * (part + 1))
                ids[at] = ids.max() + 1
                mask[at] = 1 if y < 40 else 3
    image += np.choose(mask // 2 + (mask > 0), [0, 80, 160])
    strokes = np.where(mask == 0, 255, mask).astype(np.uint8)
    strokes[::3] = 0
    files = {
        "image": image.clip(0, 255).astype(np.uint8),
        "ids": ids,
        "mask": mask,
        "strokes": strokes,
        "finished": np.where(ids > 24, ids, 0).astype(np.uint16),  # of structure 3
    }
    for name, array in files.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", array)
    return tmp_path


def test_objects_of_a_mask_of_objects_are_learned(run: Run, data: Path) -> None:
    model = data / "m.safetensors"
    options = ["--labels", "instances", "--objects", "1", *SHORT]
    result = run("train", data / "image.tif", data / "ids.tif", "-o", model, *options)
    assert result.code == 0, result.err
    trained = load_model(model)
    assert trained.classes.objects == (1,)
    assert trained.object_settings is not None
    out = data / "masks"
    assert run("predict", model, data / "image.tif", "-o", out, "--threads", "1").code == 0
    found = tifffile.imread(out / "image.tif")
    assert found.max() > 1
    info = run("info", model)
    assert "objects" in info.out


def test_some_of_the_structures_consist_of_objects(run: Run, data: Path) -> None:
    files = [data / "image.tif", data / "mask.tif", "-o", data / "m"]
    result = run("train", *files, "--objects", "3,1", *SHORT)
    assert result.code == 0, result.err
    assert load_model(data / "m.safetensors").classes.objects == (1, 3)
    result = run("train", *files, "--objects", "3", "--no-resume", *SHORT)
    assert load_model(data / "m.safetensors").classes.objects == (3,)


def test_finished_objects_beside_strokes(run: Run, data: Path) -> None:
    files = [data / "image.tif", data / "strokes.tif", "--labels", "strokes", "-o", data / "m"]
    finished = ["--finished", data / "finished.tif"]
    result = run("train", *files, *finished, "--objects", "3", *SHORT)
    assert result.code == 0, result.err
    trained = load_model(data / "m.safetensors")
    assert trained.classes.objects == (3,)
    assert trained.object_settings is not None  # searched for on the finished ones


def test_finished_objects_alone_continue_a_model(run: Run, data: Path) -> None:
    first, second = data / "first.safetensors", data / "second.safetensors"
    files = [data / "image.tif", data / "ids.tif", "--labels", "instances"]
    assert run("train", *files, "-o", first, *SHORT).code == 0
    assert load_model(first).classes.objects == ()
    files = [data / "image.tif", data / "finished.tif", "--labels", "finished"]
    more = ["--init", first, "--steps", "4", "--batch", "2", "--patch", "32", "--threads", "1"]
    result = run("train", *files, "-o", second, *more)
    assert result.code == 0, result.err
    assert load_model(second).classes.objects == (1,)
    result = run("train", *files, "-o", data / "third", *SHORT)  # without a model
    assert result.code == 1
    assert "--finished" in result.err
    assert not (data / "third.safetensors").exists()


@pytest.mark.parametrize(
    ("labels", "objects", "code", "said"),
    [
        ("mask", "2", 1, "There is no structure 2 in the labels, but 1, 3;"),
        ("mask", "0", 1, "There is no structure 0 in the labels, but 1, 3;"),
        ("ids", "3", 1, "but only 1 (in these labels every number is an object of structure 1)"),
        ("mask", "nuclei", 2, "--objects needs numbers of structures, such as 1 or 1,3, not nucle"),
        ("mask", "1,", 2, "--objects needs numbers"),
    ],
)
def test_a_number_of_no_structure_is_refused(
    run: Run, data: Path, labels: str, objects: str, code: int, said: str
) -> None:
    kind = ["--labels", "instances"] if labels == "ids" else []
    files = [data / "image.tif", data / f"{labels}.tif", "-o", data / "m"]
    result = run("train", *files, *kind, "--objects", objects, *SHORT)
    assert result.code == code
    assert said in result.err
    assert not (data / "m.safetensors").exists()


def test_finished_objects_of_other_images_are_refused(run: Run, data: Path) -> None:
    for name in ("images", "labels", "finished"):
        (data / name).mkdir()
    for stem in "ab":
        (data / "images" / f"{stem}.tif").write_bytes((data / "image.tif").read_bytes())
    (data / "labels" / "a.tif").write_bytes((data / "strokes.tif").read_bytes())
    (data / "finished" / "b.tif").write_bytes((data / "finished.tif").read_bytes())
    folders = [data / "images", data / "labels", "--labels", "strokes", "-o", data / "m"]
    result = run("train", *folders, "--finished", data / "finished", *SHORT)
    assert result.code == 1
    assert "No image with labels has finished objects" in result.err
