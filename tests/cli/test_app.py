"""The command line does its work on real files, and says in one line why it cannot."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cli_runner import Result, Run
from PIL import Image

from napari_unetseg import __version__
from napari_unetseg.cli import main
from napari_unetseg.core import versions
from napari_unetseg.core.score_text import score_text
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.models.model import Model

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--depth", "2", "--width", "4", "--patch", "32", "--batch", "2", "--threads", "1"]
SHORT = [*SMALL, "--steps", "24"]
ENOUGH = [*SMALL, "--steps", "100", "--lr", "0.02"]


def picture(seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares (structure 1) and half-bright ones (structure 2) on a dark, noisy ground."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    for number in (1, 2, 1, 2, 1, 2):
        y, x = rng.integers(0, size - 16, 2)
        mask[y : y + 14, x : x + 14] = number
    image = np.choose(mask, [40, 220, 130]) + rng.normal(0, 5, mask.shape)
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: images (three and one without labels), masks, binary, instances, strokes."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "masks", "binary", "instances", "strokes"):
        (folder / name).mkdir()
    for seed in range(4):
        image, mask = picture(seed)
        tifffile.imwrite(
            folder / "images" / f"cell {seed}.tif",
            image,
            imagej=True,
            resolution=(2, 2),
            metadata={"unit": "um"},
        )
        if seed == 3:
            continue
        Image.fromarray(mask).save(folder / "masks" / f"cell {seed}.png")
        Image.fromarray((mask > 0).astype(np.uint8) * 255).save(
            folder / "binary" / f"cell {seed}.png"
        )
        objects = (mask > 0) * (300 + np.arange(mask.size).reshape(mask.shape) // 320 * 7)
        tifffile.imwrite(folder / "instances" / f"cell {seed}.tif", objects.astype(np.uint16))
        strokes = np.where(mask == 0, 255, mask)
        strokes[::2] = 0
        Image.fromarray(strokes.astype(np.uint8)).save(folder / "strokes" / f"cell {seed}.png")
    return folder


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    """A model of two structures that has learned something."""
    path = data / "model.safetensors"
    arguments = ["train", data / "images", data / "masks", "-o", path, *ENOUGH]
    assert main([str(a) for a in arguments]) == 0
    return path


@pytest.fixture(scope="module")
def binary_model(data: Path) -> Path:
    path = data / "binary.safetensors"
    arguments = ["train", data / "images", data / "binary", "-o", path, *ENOUGH]
    assert main([str(a) for a in arguments]) == 0
    return path


# -- train -----------------------------------------------------------------------------------------


def test_train_says_what_it_does_and_writes_model_and_report(
    run: Run, data: Path, tmp_path: Path
) -> None:
    output, report = tmp_path / "new" / "m.safetensors", tmp_path / "report"
    result = run("train", data / "images", data / "masks", "-o", output, "--report", report, *SHORT)
    assert result.code == 0, result.err
    assert "3 images with labels (full)." in result.err
    assert "1 image without labels skipped." in result.err
    assert "2 structures: 1, 2, and background." in result.err
    assert "Device cpu; patches of 32 × 32 pixels, 2 a step" in result.err
    assert "24 steps at most" in result.err
    assert "Network: U-Net, 2 levels, 4 features at the first level (as in" in result.err
    assert "initial model, step 0: Dice 1.00 (" in result.err
    assert "Training ended after 24 steps: all 24 steps were done." in result.out
    assert "mean" in result.out
    assert "Dice on held-out blocks " in result.out
    assert f"saved as {output}" in result.out
    assert output.is_file()
    with (report / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    terms = ["cross_entropy", "dice"]  # full masks need no edges
    assert sum(float(rows[0][f"loss_{name}"]) for name in terms) == pytest.approx(
        float(rows[0]["train_loss"]), rel=1e-4
    )
    assert list(rows[0]) == [
        "epoch", "step", "seconds", "train_loss", *(f"loss_{name}" for name in terms),
        "dice_1", "dice_2", "iou_1", "iou_2", "mean_dice",
        "agreement", "agreement_low", "agreement_high",
    ]  # fmt: skip
    assert rows[-1]["step"] == "24"
    assert 0 <= float(rows[-1]["dice_1"]) <= 1
    pictures = [report / "curve.png", *sorted((report / "overlays").iterdir())]
    assert [p.name for p in pictures[1:]] == ["cell 0.png", "cell 1.png", "cell 2.png"]
    for path in pictures:
        assert len(np.unique(np.asarray(Image.open(path)))) > 20


def test_binary_masks_are_said_to_be_so(run: Run, data: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--steps", "1"]
    result = run("train", data / "images", data / "binary", "-o", tmp_path / "m", *options)
    assert "1 structure: 1 (255 in the files), and background." in result.err
    assert (tmp_path / "m.safetensors").is_file()


@pytest.mark.parametrize(("kind", "said"), [("strokes", "2 structures"), ("instances", "1 struct")])
def test_other_kinds_of_labels(run: Run, data: Path, tmp_path: Path, kind: str, said: str) -> None:
    options = ["--labels", kind, "--steps", "1", *SMALL]
    result = run("train", data / "images", data / kind, "-o", tmp_path / "m", *options)
    assert result.code == 0, result.err
    assert f"({kind})" in result.err
    assert said in result.err


def test_of_strokes_the_agreement_with_its_interval_is_said(
    run: Run, data: Path, tmp_path: Path
) -> None:
    output, report = tmp_path / "m.safetensors", tmp_path / "report"
    options = ["--labels", "strokes", "--report", report, *SHORT]
    result = run("train", data / "images", data / "strokes", "-o", output, *options)
    assert result.code == 0, result.err
    scores = Model.load(output).scores
    assert scores is not None
    assert scores.on_strokes
    sentence = f"greement with held-out strokes {score_text(scores)}."
    assert sentence in result.out
    assert "background" in result.out
    assert "Dice" not in result.out
    assert "initial model, step 0: agreement 0." in result.err
    assert f"agreement with held-out strokes {score_text(scores)}. " in run("info", output).out
    with (report / "history.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    low, value, high = (float(last[f"agreement{of}"]) for of in ("_low", "", "_high"))
    assert 0 <= low < value < high <= 1


def test_training_goes_on_from_a_model(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    options = ["--init", model, "--freeze-encoder", "--steps", "2", "--threads", "1"]
    result = run("train", data / "images", data / "masks", "-o", tmp_path / "m", *options)
    assert result.code == 0, result.err
    facts = json.loads(run("info", tmp_path / "m.safetensors", "--json").out)
    assert len(facts["history"]) == 2
    before = json.loads(run("info", model, "--json").out)
    assert facts["history"][1]["parent"] == before["id"]


def test_a_stack_trains_a_3d_network(run: Run, tmp_path: Path) -> None:
    image, mask = picture(0, 32)
    stack = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", np.stack([image] * 8), imagej=True, metadata=stack)
    tifffile.imwrite(tmp_path / "m.tif", np.stack([mask] * 8))
    options = ["--dims", "3", "--steps", "1", "--report", tmp_path / "r", *SMALL]
    result = run("train", tmp_path / "a.tif", tmp_path / "m.tif", "-o", tmp_path / "m3", *options)
    assert result.code == 0, result.err
    assert (tmp_path / "r" / "overlays" / "a.png").is_file()
    result = run("predict", tmp_path / "m3.safetensors", tmp_path / "a.tif", "-o", tmp_path / "o")
    assert result.code == 0, result.err
    assert open_stack(tmp_path / "o" / "a.tif").spacing == (2.0, 1.0, 1.0)


def test_a_report_that_fails_costs_no_model(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    options = ["-o", tmp_path / "m", "--report", tmp_path / "file", "--steps", "1", *SMALL]
    result = run("train", data / "images", data / "masks", *options)
    assert result.code == 1
    assert "The model is saved, but the report is not" in result.err
    assert (tmp_path / "m.safetensors").is_file()


def test_a_model_that_cannot_be_saved_is_kept_elsewhere(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    (tmp_path / "m.safetensors").mkdir()  # a folder has the name of the model
    options = ["-o", tmp_path / "m.safetensors", "--steps", "1", *SMALL]
    result = run("train", data / "images", data / "masks", *options)
    assert result.code == 1
    assert "could not be saved" in result.err
    (spare,) = (tmp_path / "spare").iterdir()
    assert str(spare) in result.err
    assert run("info", spare).code == 0


# -- predict ---------------------------------------------------------------------------------------


def test_predict_writes_a_mask_for_each_image(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    result = run("predict", model, data / "images", "-o", output, "--probabilities", "--threads", 1)
    assert result.code == 0, result.err
    assert result.out == f"4 masks written to {output}.\n"
    names = [f"cell {i}{end}" for i in range(4) for end in (".tif", "_probabilities.ome.tif")]
    assert sorted(p.name for p in output.iterdir()) == sorted(names)
    mask = open_stack(output / "cell 3.tif")
    assert mask.spacing == (0.5, 0.5)
    assert mask.units == ("um", "um")
    assert mask.data.dtype == np.uint8
    shares = open_stack(output / "cell 3_probabilities.ome.tif")
    assert shares.channels == ("background", "structure 1", "structure 2")
    total = np.asarray(shares.data).sum(axis=0)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    numbers = np.asarray(shares.data).argmax(axis=0)
    np.testing.assert_array_equal(np.asarray(mask.data), numbers)


def test_a_stack_gives_one_stack(run: Run, model: Path, tmp_path: Path) -> None:
    images = np.stack([picture(s)[0] for s in range(3)])
    tifffile.imwrite(tmp_path / "t.ome.tif", images, metadata={"axes": "TYX"}, photometric=1)
    result = run("predict", model, tmp_path / "t.ome.tif", "-o", tmp_path / "out", "--tile", 32)
    assert result.code == 0, result.err
    mask = open_stack(tmp_path / "out" / "t.tif")
    assert mask.axes == "TYX"
    assert mask.data.shape == (3, 64, 64)


def test_predict_never_writes_over_an_image(run: Run, data: Path, model: Path) -> None:
    before = (data / "images" / "cell 0.tif").read_bytes()
    result = run("predict", model, data / "images" / "cell 0.tif", "-o", data / "images")
    assert result.code == 1
    assert "would overwrite an image" in result.err
    assert (data / "images" / "cell 0.tif").read_bytes() == before


def test_predict_never_writes_over_a_file_beside_the_images(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    """The picture a.png gives a.tif, which may be quite another image."""
    other = (data / "images" / "cell 0.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(other)
    Image.fromarray(picture(0)[0]).save(tmp_path / "a.png")
    result = run("predict", model, tmp_path / "a.png", "-o", tmp_path)
    assert result.code == 1
    assert "is in the folder of the images and would be replaced" in result.err
    assert (tmp_path / "a.tif").read_bytes() == other


def test_scores_never_replace_a_file_of_another_kind(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    mask = tmp_path / "mask.tif"
    mask.write_bytes(b"a mask")
    result = run("evaluate", model, data / "images", data / "masks", "--json", mask)
    assert result.code == 1
    assert "exists and is not a .json file" in result.err
    assert mask.read_bytes() == b"a mask"


def test_images_of_one_stem_are_refused(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(0)[0]).save(tmp_path / "cell 0.png")
    both = (data / "images" / "cell 0.tif", tmp_path / "cell 0.png")
    result = run("predict", model, *both, "-o", tmp_path / "out")
    assert result.code == 1
    assert "the same stem" in result.err


def test_a_file_in_place_of_the_folder_is_refused(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    result = run("predict", model, data / "images", "-o", tmp_path / "out")
    assert result.code == 1
    assert "is a file; give a folder" in result.err
    assert (tmp_path / "out").read_text() == "mine"


# -- evaluate --------------------------------------------------------------------------------------


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    return float(2 * (truth & found).sum() / (truth.sum() + found.sum()))


def predicted(run: Run, model: Path, data: Path, folder: Path) -> np.ndarray:
    assert run("predict", model, data / "images", "-o", folder).code == 0
    return np.stack([open_stack(folder / f"cell {i}.tif").data[...] for i in range(3)])


def test_evaluate_pools_the_voxels_of_all_images(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    truth = np.stack([picture(s)[1] for s in range(3)])
    found = predicted(run, model, data, tmp_path / "out")
    file = tmp_path / "scores.json"
    result = run("evaluate", model, data / "images", data / "masks", "--json", file)
    assert result.code == 0, result.err
    facts = json.loads(file.read_text())
    assert facts["schema"] == "napari-unetseg/evaluation/1"
    assert facts["voxels"] == truth.size
    expected = [dice(truth == n, found == n) for n in (1, 2)]
    assert [s["dice"] for s in facts["structures"]] == pytest.approx(expected)
    assert facts["mean_dice"] == pytest.approx(np.mean(expected))
    assert facts["mean_dice"] > 0.5
    second = facts["images"][1]
    assert second["name"] == "cell 1"
    assert second["structures"][0]["dice"] == pytest.approx(dice(truth[1] == 1, found[1] == 1))
    assert f"{facts['mean_dice']:.3f}" in result.out
    assert list(facts) == sorted(facts)
    again = run("evaluate", model, data / "images", data / "masks", "--json", "-")
    assert again.out == file.read_text()


def test_instances_score_the_foreground(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    truth = np.stack([picture(s)[1] for s in range(3)]) > 0
    found = predicted(run, model, data, tmp_path / "out") > 0
    arguments = [data / "images", data / "instances", "--labels", "instances", "--json", "-"]
    facts = json.loads(run("evaluate", model, *arguments).out)
    assert [s["name"] for s in facts["structures"]] == ["foreground"]
    assert facts["mean_dice"] == pytest.approx(dice(truth, found))


@pytest.mark.parametrize("masks", ["binary", "instances"])
def test_binary_masks_are_scored_with_their_value(
    run: Run, data: Path, binary_model: Path, tmp_path: Path, masks: str
) -> None:
    truth = np.stack([picture(s)[1] for s in range(3)]) > 0
    found = predicted(run, binary_model, data, tmp_path / "out")
    assert set(np.unique(found)) <= {0, 1}
    kind = "instances" if masks == "instances" else "full"
    arguments = [data / "images", data / masks, "--labels", kind, "--json", "-"]
    facts = json.loads(run("evaluate", binary_model, *arguments).out)
    assert facts["mean_dice"] == pytest.approx(dice(truth, found > 0))


def test_voxels_to_ignore_are_not_scored(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    image, mask = picture(0)
    mask[:32] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    arguments = [tmp_path / "a.png", tmp_path / "m.png", "--json", "-"]
    result = run("evaluate", model, *arguments)
    assert result.code == 1
    assert "'--ignore 255'" in result.err
    facts = json.loads(run("evaluate", model, *arguments, "--ignore", 255).out)
    assert facts["voxels"] == 32 * 64


def test_structures_that_the_model_does_not_know_are_refused(
    run: Run, data: Path, binary_model: Path, model: Path
) -> None:
    result = run("evaluate", binary_model, data / "images", data / "masks")
    assert result.code == 1
    assert "hold the number 2, but the model knows only 1 (structure 1)" in result.err
    result = run("evaluate", model, data / "images", data / "binary")
    assert result.code == 1
    assert "hold the number 255, but the model knows only 1 (structure 1), 2" in result.err


# -- files of several images, and with planes missing ----------------------------------------------


def write_two(path: Path) -> Path:
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture(0)[0])
        writer.write(picture(1)[0][:48])
    return path


def test_of_several_images_in_a_file_people_choose(run: Run, model: Path, tmp_path: Path) -> None:
    path = write_two(tmp_path / "two.tif")
    result = run("predict", model, path, "-o", tmp_path / "o")
    assert result.code == 1
    assert (
        "two.tif holds 2 images: Series 1 (64 × 64 uint8), Series 2 (48 × 64 uint8)" in result.err
    )
    assert run("predict", model, path, "-o", tmp_path / "o", "--series", "2").code == 0
    assert run("predict", model, path / "Series 1", "-o", tmp_path / "o").code == 0
    found = {p.name: tifffile.imread(p).shape for p in (tmp_path / "o").iterdir()}
    assert found == {"two_2.tif": (48, 64), "two_Series 1.tif": (64, 64)}
    Image.fromarray(picture(1)[1][:48]).save(tmp_path / "mask.png")
    assert run("evaluate", model, path, tmp_path / "mask.png").code == 1
    assert run("evaluate", model, path, tmp_path / "mask.png", "--series", "2").code == 0
    table = ["-o", tmp_path / "t.csv"]
    assert run("measure", tmp_path / "mask.png", path, *table).code == 1
    assert run("measure", tmp_path / "mask.png", path, *table, "--series", "2").code == 0
    options = ["-o", tmp_path / "m", "--steps", "1", *SMALL]
    assert run("train", path, tmp_path / "mask.png", *options, "--series", "Series 2").code == 0


def test_info_names_all_that_is_in_a_file(run: Run, tmp_path: Path) -> None:
    path = write_two(tmp_path / "two.tif")
    result = run("info", path)
    assert result.code == 0
    assert "not opened" in result.out
    assert "image 2     Series 2, YX 48 × 64 uint8" in result.out
    facts = json.loads(run("info", path, "--json").out)
    assert [(i["number"], i["name"], i["shape"]) for i in facts["images"]] == [
        (1, "Series 1", [64, 64]),
        (2, "Series 2", [48, 64]),
    ]
    assert "choose one" in facts["not_opened"]
    one = json.loads(run("info", path, "--series", "2", "--json").out)
    assert (one["shape"], len(one["images"])) == ([48, 64], 2)
    assert run("info", path, "--series", "3").code == 1


def test_missing_planes_are_dropped_or_filled_as_asked(
    run: Run, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.ome.tif"
    images = np.stack([picture(s)[0] for s in range(3)])
    tifffile.imwrite(path, images, metadata={"axes": "TYX"}, photometric="minisblack")
    path.write_bytes(path.read_bytes().replace(b'SizeT="3"', b'SizeT="5"'))
    result = run("predict", model, path, "-o", tmp_path / "o")
    assert result.code == 1
    assert "lacks 2 of 5 planes (T 3–4, counted from 0)" in result.err
    info = run("info", path)
    assert (info.code, "image 1     Image0, TYX 5 × 64 × 64 uint8, lacks 2" in info.out) == (
        0,
        True,
    )
    for how, count in (("drop", 3), ("fill", 5)):
        result = run("predict", model, path, "-o", tmp_path / how, "--missing-planes", how)
        assert result.code == 0
        assert "lacks 2 of 5 planes" in result.err
        assert tifffile.imread(tmp_path / how / "a.tif").shape == (count, 64, 64)


# -- info ------------------------------------------------------------------------------------------


def test_info_of_a_model(run: Run, model: Path) -> None:
    result = run("info", model)
    assert result.code == 0
    assert "2D U-Net, depth 2, width 4, batch norm" in result.out
    assert "cell 0, cell 1, cell 2" in result.out
    facts = json.loads(run("info", model, "--json").out)
    assert facts["schema"] == "napari-unetseg/model/1"
    assert facts["net"]["depth"] == 2
    assert [s["number"] for s in facts["classes"]["structures"]] == [1, 2]


def test_info_of_an_image(run: Run, data: Path) -> None:
    facts = json.loads(run("info", data / "images" / "cell 0.tif", "--json").out)
    assert facts["schema"] == "napari-unetseg/image/1"
    assert (facts["axes"], facts["shape"], facts["units"]) == ("YX", [64, 64], ["um", "um"])
    assert "Y         64 × 0.5 um" in run("info", data / "images" / "cell 0.tif").out


# -- in another order ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("predict IMAGE MODEL -o OUT", "cell 0.tif is an image or a folder, not a model"),
        (
            "predict MODEL MODEL -o OUT",
            "binary.safetensors is a model, not an image; give the model",
        ),
        ("predict IMAGES MODEL -o OUT", "images is an image or a folder, not a model"),
        ("evaluate IMAGE MODEL MASK", "is a model, not an image; give the model before"),
        ("evaluate MODEL MASK IMAGE", "seem to be swapped"),
        ("train MASK IMAGE -o OUT", "seem to be swapped"),
        ("train IMAGE MASK -o OUT --init IMAGE", "is an image or a folder, not a model"),
        ("measure MODEL IMAGE -o OUT.csv", "is a model, not an image"),
    ],
)
def test_arguments_in_another_order_are_named(
    run: Run, data: Path, binary_model: Path, tmp_path: Path, command: str, sentence: str
) -> None:
    paths = {
        "IMAGE": data / "images" / "cell 0.tif",
        "IMAGES": data / "images",
        "MASK": data / "masks" / "cell 0.png",
        "MODEL": binary_model,
        "OUT": tmp_path / "out",
        "OUT.csv": tmp_path / "out.csv",
    }
    result = run(*(paths.get(word, word) for word in command.split()))
    assert result.code == 1
    assert sentence in result.err
    assert not list(tmp_path.iterdir())


# -- usage, errors, Ctrl-C -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "at_fault"),
    [
        ("train a b -o c --depth 99", "--depth 99"),
        ("train a b -o c --lr 0", "--lr 0"),
        ("train a b -o c --norm layer", "--norm layer"),
        ("train a b -o c --dims 4", "--dims 4 2 3"),
        ("train a b -o c --threads 0", "--threads 0"),
        ("train a b -o c --epochs 2 --steps 2", "--epochs --steps --minutes"),
        ("train a b -o c --freeze-encoder", "--freeze-encoder"),
        ("train a b -o c --init m --encoder resnet18", "--init encoder"),
        ("train a b -o c --encoder-weights imagenet", "resnet18"),
        ("train a b -o c --encoder resnet9", "--encoder resnet9"),
        ("train a b -o c --encoder resnet18 --dims 3", "resnet18 2D"),
        ("train a b -o c --init m --width 8", "--init width"),
        ("train a b -o c --labels strokes --threshold 1", "--threshold"),
        ("train a b", "-o"),
        ("train a b -o c --labels dots", "--labels dots"),
        ("train a b -o c --steps ten", "--steps whole number ten"),
        ("train a b -o c --minutes x", "--minutes number x"),
        ("train a b -o c --augment blur=x", "--augment blur number x"),
        ("evaluate m a b --labels strokes", "--labels strokes full instances"),
        ("predict m a -o c --tile 1", "--tile 1"),
        ("predict m a -o c --device tpu", "--device tpu"),
        ("paint", "paint"),
        ("train a b -o c --bogus", "--bogus"),
        ("train a b -o c --patience 0", "--patience 0"),
        ("train a b -o c --validation-fraction 0.9", "--validation-fraction 0.9"),
        ("train a b -o c --augment rotation=200", "--augment rotation 200"),
        ("train a b -o c --augment speed=2", "--augment speed"),
        ("train a b -o c --augment rotation", "--augment NAME=VALUE rotation"),
        ("predict m a -o mask.TIF", "-o folder mask.TIF --format"),
        ("predict m a -o c --format gif", "--format gif tiff zarr"),
        ("predict m a -o c --probabilities --precision uint8", "--precision uint8 --format"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_fault_and_code_2(
    run: Run, arguments: str, at_fault: str
) -> None:
    result = run(*arguments.split())
    assert result.code == 2
    assert [word for word in at_fault.split() if word not in result.err] == []
    assert result.err.count("\n") == 1
    assert result.out == ""


LIBRARIES = ("napari", "torch", "tifffile", "zarr")


def test_version_says_what_a_bug_report_needs(run: Run) -> None:
    said = run("--version")
    bindings = [name for name in ("PyQt6", "PySide6", "PyQt5") if find_spec(name)]
    lines = [f"{name} {version(name)}\n" for name in (*LIBRARIES, *bindings)]
    first = f"unetseg {__version__}\nPython {platform.python_version()}\n"
    assert said == Result(0, first + "".join(lines), "")


def test_version_leaves_out_what_is_not_installed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_some(name: str) -> str:
        if name.startswith("PyQt") or name == "PySide6":
            raise PackageNotFoundError(name)
        return f"of {name}"

    monkeypatch.setattr(versions, "version", only_some)
    assert run("--version").out.splitlines()[2:] == [
        "napari of napari",
        "torch of torch",
        "tifffile of tifffile",
        "zarr of zarr",
        "PySide6 of PySide6_Essentials",
    ]


def test_help(run: Run) -> None:
    for command in ("train", "predict", "evaluate", "info"):
        result = run(command, "--help")
        assert result.code == 0
        assert "Usage: unetseg" in result.out
    assert "unetseg [OPTIONS] COMMAND" in run().out


def test_an_unexpected_error_is_one_line_unless_debugging(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr("napari_unetseg.io.open_image.is_image", broken)
    result = run("info", "x")
    assert result.code == 1
    assert result.err.startswith("unetseg: Unexpected ZeroDivisionError: first second")
    assert result.err.count("\n") == 1
    assert "Traceback" in run("info", "x", "--debug").err
    monkeypatch.setenv("UNETSEG_DEBUG", "1")
    assert "Traceback" in run("info", "x").err


def test_a_gpu_without_memory_is_said_in_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("napari_unetseg.io.open_image.is_image", broken)
    result = run("info", "x")
    assert result.code == 1
    assert result.err.startswith("unetseg: There is not enough memory; close other programs")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "napari_unetseg", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_a_process_fails_in_one_line_with_code_1(tmp_path: Path) -> None:
    process = start("predict", tmp_path / "none.safetensors", tmp_path / "none.tif", "-o", tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err == f"unetseg: {tmp_path / 'none.tif'} does not exist; check the name.\n"
