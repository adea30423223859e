"""``--match-spacing``, and what commands say of pixel sizes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import random_model, trained_at
from large_parts import noise

from napari_unetseg.cli import main
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.predict import predict
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.models.model import Model

Run = Callable[..., tuple[int, str, str]]
SAID = (
    "fine has pixels of 0.05 µm, but the model was trained on pixels of 0.2 µm: structures are 4 "
    "times larger in pixels than in training, so the mask may be wrong. --match-spacing (in "
    "Python PredictSettings(match_spacing=True)) predicts at the model's pixel size."
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return call


def write(file: Path, image: np.ndarray, size: float | None) -> None:
    if size is None:
        tifffile.imwrite(file, image)
    else:
        resolution = (1 / size, 1 / size)
        tifffile.imwrite(file, image, imagej=True, metadata={"unit": "um"}, resolution=resolution)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model trained at 0.2 µm, one that knows no size, and images with their masks."""
    model = trained_at(random_model(1, (1,), depth=2, width=4), 0.2)
    model.save(tmp_path / "m.safetensors")
    trained_at(model, 1.0, unit="pixel").save(tmp_path / "unknown.safetensors")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for seed, (name, size) in enumerate({"fine": 0.05, "finer": 0.05, "same": 0.2}.items()):
        image = noise((80, 90), seed)
        write(tmp_path / "images" / f"{name}.tif", image, size)
        write(tmp_path / "masks" / f"{name}.tif", (image > 0.5).astype(np.uint8), size)
    write(tmp_path / "bare.tif", noise((40, 50)), None)
    write(tmp_path / "masks" / "bare.tif", (noise((40, 50)) > 0.5).astype(np.uint8), None)
    return tmp_path


def wanted(place: Path, name: str, match: bool) -> np.ndarray:
    stack = open_stack(place / "images" / f"{name}.tif")
    settings = PredictSettings(match_spacing=match, threads=1)
    return predict(Model.load(place / "m.safetensors"), stack, settings)


def test_predict_says_it_once_and_matches_when_it_is_told(run: Run, place: Path) -> None:
    out = place / "out"
    command = ["predict", place / "m.safetensors", place / "images", "-o", out, "--threads", 1]
    code, _, err = run(*command, "--report")
    assert code == 0
    assert SAID in err.splitlines()
    assert err.count("but the model was trained") == 1
    assert "The same holds for 1 more (sizes: 0.05 µm, 0.2 µm)." in err
    with (out / "report.csv").open(newline="", encoding="utf-8") as file:
        rows = {Path(row["image"]).stem: row["notices"] for row in csv.DictReader(file)}
    assert rows["fine"] == SAID.split(" --match")[0]
    assert rows["finer"].startswith("finer has pixels of 0.05 µm, but")
    assert rows["same"] == ""
    for name in rows:
        np.testing.assert_array_equal(
            tifffile.imread(out / f"{name}.tif"), wanted(place, name, match=False)
        )
    code, _, err = run(*command, "--match-spacing")
    assert code == 0
    assert "fine is predicted at the model's pixel size, 0.2 µm instead of 0.05 µm." in err
    assert "the mask may be wrong" not in err
    for name in rows:
        mask = wanted(place, name, match=True)
        np.testing.assert_array_equal(tifffile.imread(out / f"{name}.tif"), mask)
        stack = open_stack(out / f"{name}.tif")
        size = 0.2 if name == "same" else 0.05
        assert (stack.spacing, stack.units) == (pytest.approx((size, size)), ("um", "um"))
    assert (wanted(place, "fine", match=True) != wanted(place, "fine", match=False)).any()


def test_what_is_not_known_is_refused_with_the_way_to_say_it(run: Run, place: Path) -> None:
    m, bare, out = place / "m.safetensors", place / "bare.tif", place / "out"
    code, _, err = run("predict", m, bare, "-o", out)
    assert code == 0
    assert "pixel size" not in err
    code, _, err = run("predict", m, bare, "-o", out, "--match-spacing")
    assert code == 1
    assert err.splitlines()[-1] == (
        "unetseg: The pixel size of bare is not known, so it cannot be predicted at the model's "
        "pixel size; give it with --spacing, or remove --match-spacing."
    )
    code, _, err = run("predict", m, bare, "-o", out, "--match-spacing", "--spacing", "50,50nm")
    assert code == 0
    assert "bare is predicted at the model's pixel size" in err
    images = place / "images"
    code, _, err = run("predict", place / "unknown.safetensors", images, "-o", out)
    assert code == 0
    assert "pixels of" not in err
    code, _, err = run(
        "predict", place / "unknown.safetensors", images / "fine.tif", "-o", out, "--match-spacing"
    )
    assert code == 1
    assert "of the model's training images is not known" in err
    assert "train with --spacing" in err
    code, _, err = run("predict", m, bare, images, "-o", out, "--match-spacing")
    assert code == 3, "the others are predicted"


def test_evaluate_says_it_and_matches(run: Run, place: Path) -> None:
    m = place / "m.safetensors"
    command = ["evaluate", m, place / "images", place / "masks", "--json", "-", "--threads", 1]
    found = []
    for more in ([], ["--match-spacing"]):
        code, out, err = run(*command, *more)
        assert code == 0
        found.append(json.loads(out)["mean_dice"])
        assert (SAID in err) == (not more)
        assert ("fine is predicted at the model's" in err) == bool(more)
    assert found[0] != found[1]
    code, _, err = run(
        "evaluate", m, place / "bare.tif", place / "masks" / "bare.tif", "--match-spacing"
    )
    assert code == 1
    assert "The pixel size of bare is not known" in err


def test_a_batch_says_it_and_matches(run: Run, place: Path) -> None:
    text = "report: report.csv\njobs:\n  - {model: m.safetensors, images: images, output: out}\n"
    matched = text.replace("output: out", "output: out, match_spacing: true, overwrite: true")
    for one, match in ((text, False), (matched, True)):
        (place / "batch.yaml").write_text(one, encoding="utf-8")
        code, _, err = run("batch", place / "batch.yaml")
        assert code == 0
        assert (SAID in err) == (not match)
        with (place / "report.csv").open(newline="", encoding="utf-8") as file:
            notices = [row["notices"] for row in csv.DictReader(file)]
        assert ("is predicted at the model's" if match else "may be wrong") in notices[0]
        for name in ("fine", "same"):
            found = tifffile.imread(place / "out" / f"{name}.tif")
            np.testing.assert_array_equal(found, wanted(place, name, match=match))


def test_training_on_several_sizes_is_said_and_kept(run: Run, place: Path) -> None:
    new, how = place / "new.safetensors", ["--steps", 1, "--patch", 32, "--batch", 2]
    code, _, err = run(
        "train", place / "images", place / "masks", "-o", new, *how, "--depth", 2, "--width", 4
    )
    assert code == 0
    assert err.count("The training images have pixels of 0.05 to 0.2 µm and are not resampled") == 1
    code, out, _ = run("info", new)
    assert "voxel            Y 0.05 to 0.2 um, X 0.05 to 0.2 um" in out
    code, out, _ = run("info", new, "--json")
    low, high = json.loads(out)["spacing_range"]
    assert (low, high) == (pytest.approx([0.05, 0.05]), pytest.approx([0.2, 0.2]))
    one = ["train", place / "images" / "fine.tif", place / "masks" / "fine.tif"]
    code, _, err = run(*one, "-o", new, *how, "--init", place / "m.safetensors")
    assert code == 0
    assert err.count("The initial model was trained on pixels of 0.2 µm, but these") == 1
