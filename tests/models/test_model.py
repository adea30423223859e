"""A model and its file: what is saved comes back bit for bit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import painted_pair, random_model, run_training, strokes, tiny
from safetensors import safe_open

from napari_unetseg.core.errors import ModelFileError, UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import Classes, Structure
from napari_unetseg.core.metrics import Scores
from napari_unetseg.core.settings import NetSettings, TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.inference.predict import predict_probabilities
from napari_unetseg.models.model import Model, load_model
from napari_unetseg.models.model_file import write
from napari_unetseg.models.training_record import TrainingRecord

NETS: list[dict[str, Any]] = [
    {"depth": 1, "width": 1},
    {"depth": 3, "width": 3, "norm": "none"},
    {"depth": 3, "width": 4, "norm": "group", "in_channels": 3},
    {"depth": 2, "width": 2, "norm": "instance", "dropout": 0.5},
    {"depth": 3, "width": 2, "dims": 3, "strides": ((1, 2, 2), (2, 2, 2))},
]


@pytest.fixture(scope="module")
def trained() -> Model:
    pair = painted_pair()
    stack = replace(pair.image, spacing=(0.25, 0.5), units=("um", "um"), channels=("DAPI µ",))
    structures = [Structure(1, "Zellkern – é", "#112233")]
    first, _ = run_training(
        [AnnotatedImage(stack, pair.labels, "strokes")], tiny(epochs=2), structures=structures
    )
    model, _ = run_training(
        [AnnotatedImage(stack, pair.labels, "strokes")], tiny(steps=3), init=first
    )
    assert isinstance(model, Model)
    return model


def assert_equal(one: Model, two: Model) -> None:
    assert set(one.weights) == set(two.weights)
    for name, tensor in one.weights.items():
        assert tensor.dtype == two.weights[name].dtype
        assert torch.equal(tensor, two.weights[name])
    assert one.description() == two.description()
    assert one.id == two.id


def test_a_trained_model_comes_back_with_everything(trained: Model, tmp_path: Path) -> None:
    path = trained.save(tmp_path / "nuclei.safetensors")
    loaded = load_model(path)
    assert_equal(trained, loaded)
    for field in ("net", "classes", "channels", "normalization", "spacing", "units", "history"):
        assert getattr(loaded, field) == getattr(trained, field), field
    assert loaded.classes.structures[0].name == "Zellkern – é"
    assert loaded.history[1].parent is not None
    assert loaded.history[0].settings == tiny(epochs=2)
    assert loaded.scores == trained.scores
    image = np.random.default_rng(0).random((50, 40)).astype(np.float32)
    np.testing.assert_array_equal(
        predict_probabilities(loaded, image), predict_probabilities(trained, image)
    )


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("numbers", [(1,), (3, 200)])
def test_every_architecture_comes_back(
    net: dict[str, Any], numbers: tuple[int, ...], tmp_path: Path
) -> None:
    model = random_model(3, numbers, **net)
    assert_equal(model, load_model(model.save(tmp_path / "a.safetensors")))


def test_what_a_model_remembers(trained: Model) -> None:
    record = trained.history[0]
    assert record.images[0].name == "blobs 0"
    assert record.images[0].shape == (96, 96)
    assert record.images[0].fingerprint == painted_pair().image.fingerprint()
    assert {"python", "torch", "numpy", "napari-unetseg", "torchvision"} <= set(record.versions)
    assert record.settings.seed == 0
    assert record.threads == 1
    assert record.device == "cpu"
    assert record.curve[-1].mean_dice is not None
    chosen = {choice.name: choice for choice in record.choices}
    assert {"Network", "Start", "Patches", "Held out", "Length"} <= set(chosen)
    assert chosen["Length"].reason == "as in the settings"
    assert trained.validated
    assert trained.spacing == (0.25, 0.5)
    assert trained.channels == ("DAPI µ",)


def test_agreement_is_kept_and_models_without_one_load(tmp_path: Path, trained: Model) -> None:
    record = trained.history[0]
    assert record.scores is not None
    assert record.scores.agreement is not None
    assert record.curve[-1].agreement is not None
    loaded = load_model(trained.save(tmp_path / "a.safetensors")).history[0]
    assert loaded.scores == record.scores
    assert loaded.curve == record.curve
    old = json.loads(record.model_dump_json())
    del old["scores"]["agreement"]
    for point in old["curve"]:
        del point["agreement"]
    earlier = TrainingRecord.model_validate(old)
    assert earlier.scores is not None
    assert earlier.scores.agreement is None
    assert earlier.scores.value == pytest.approx(record.scores.mean_dice)


def test_scores_that_are_no_number_come_back(tmp_path: Path, trained: Model) -> None:
    nan, inf = math.nan, math.inf
    scores = Scores(("structure 1",), (1,), (nan,), (nan,), 0, 0)
    curve = tuple(
        p.model_copy(update={"train_loss": inf, "dice": (nan,)}) for p in trained.history[0].curve
    )
    record = trained.history[0].model_copy(update={"scores": scores, "curve": curve})
    loaded = load_model(replace(trained, history=(record,)).save(tmp_path / "a.safetensors"))
    again = loaded.history[0]
    assert again.scores is not None
    assert math.isnan(again.scores.dice[0])
    assert math.isnan(again.scores.soft_dice)
    assert math.isinf(again.curve[0].train_loss)
    json.dumps(loaded.description(), allow_nan=False)


OLDER_NAMES = {
    "class_priors": "shares",
    "edge_loss_weight": "borders",
    "distillation_weight": "hold",
    "class_weighting": "balance",
    "ema": "average",
    "cosine_schedule": "anneal",
    "validation_fraction": "validation",
}


def test_a_file_with_the_names_of_earlier_versions_is_read(trained: Model, tmp_path: Path) -> None:
    path = trained.save(tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        text = file.metadata()["description"]
    for name, older in OLDER_NAMES.items():
        assert f'"{name}":' in text
        text = text.replace(f'"{name}":', f'"{older}":')
    write(path, trained.weights, json.loads(text))
    model = load_model(path)
    assert model.id == trained.id
    assert model.history == trained.history


def test_a_path_keeps_its_name_and_gets_the_suffix(tmp_path: Path) -> None:
    model = random_model(depth=1, width=1)
    assert model.save(tmp_path / "a.safetensors").name == "a.safetensors"
    assert model.save(tmp_path / "v1.2").name == "v1.2.safetensors"
    assert model.save(str(tmp_path / "new folder" / "b")).is_file()
    assert load_model(str(tmp_path / "new folder" / "b.safetensors")).dims == 2


def test_loading_and_applying_a_model_imports_no_compiler(trained: Model, tmp_path: Path) -> None:
    """torch._dynamo imports Triton, whose LLVM does not go together with that of OpenGL."""
    path = trained.save(tmp_path / "a.safetensors")
    script = (
        "import sys, numpy, napari_unetseg as u\n"
        f"model = u.load_model({str(path)!r})\n"
        "model.summary()\n"
        "u.predict(model, numpy.zeros((20, 20), 'uint8'))\n"
        "assert 'torch._dynamo' not in sys.modules and 'triton' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_file_can_be_read_by_safetensors_alone(trained: Model, tmp_path: Path) -> None:
    path = trained.save(tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["description"])
        assert set(file.keys()) == set(trained.weights)
    assert description["architecture"] == "unet"
    assert description["channels"] == ["DAPI µ"]


@pytest.mark.parametrize("size", range(590, 720, 32))
def test_headers_of_any_length_are_read(size: int, tmp_path: Path) -> None:
    """A header's length is the file's first bytes; 0x280 begins as a pickle does."""
    model = random_model(depth=1, width=1)
    path = tmp_path / "a.safetensors"
    lengths = set()
    for more in range(0, 300, 8):
        padded = replace(model, channels=("x" * (size + more),))
        padded.save(path)
        lengths.add(path.read_bytes()[0])
        assert load_model(path).channels == padded.channels
    assert len(lengths) > 25


def test_the_id_follows_the_weights() -> None:
    one, two = random_model(1, depth=2, width=2), random_model(2, depth=2, width=2)
    assert one.id == random_model(1, depth=2, width=2).id
    assert one.id != two.id
    assert len(one.id) == 12
    assert one.id == replace(one, spacing=(2.0, 2.0)).id


def test_the_network_is_a_copy_in_evaluation_mode() -> None:
    model = random_model(1, depth=2, width=2)
    network = model.network()
    assert not network.training
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.requires_grad
            parameter.zero_()
        for buffer in network.buffers():
            buffer.zero_()
    assert model.id == random_model(1, depth=2, width=2).id


def test_summary_is_ready_for_json(trained: Model) -> None:
    summary = json.loads(json.dumps(trained.summary(), allow_nan=False))
    assert summary["id"] == trained.id
    assert summary["parameters"] == trained.network().parameter_count
    assert summary["stride"] == [2, 2]
    assert summary["receptive_field"] == list(trained.network().receptive_field)
    assert summary["validated"] is True
    assert "weights" not in summary


def test_images_that_do_not_fit_are_refused() -> None:
    grey, rgb = random_model(depth=1, width=1), random_model(depth=1, width=1, in_channels=3)
    volume = random_model(depth=1, width=1, dims=3)
    picture = Stack(np.zeros((9, 9, 3), np.uint8), "YXS", name="slide")
    with pytest.raises(ModelFileError, match=r"needs 1 channel\(s\).*slide has 3"):
        grey.check_image(picture)
    rgb.check_image(picture)
    with pytest.raises(ModelFileError, match=r"needs 3 channel\(s\)"):
        rgb.check_image(Stack(np.zeros((9, 9)), "YX"))
    with pytest.raises(ModelFileError, match=r"needs volumes \(ZYX\)"):
        volume.check_image(Stack(np.zeros((4, 9, 9)), "TYX"))
    grey.check_image(Stack(np.zeros((4, 9, 9)), "ZYX"))  # plane by plane


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"depth": 100},
        {"depth": 0},
        {"width": 10**9},
        {"in_channels": 0},
        {"dims": 4},
        {"norm": "layer"},
        {"dropout": 1.0},
        {"depth": 3, "strides": ((2, 2),)},
        {"depth": 2, "strides": ((3, 2),)},
        {"depth": 2, "strides": ((2, 2, 2),)},
        {"unknown": 1},
    ],
)
def test_absurd_networks_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        NetSettings(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"steps": -1},
        {"minutes": 0},
        {"epochs": 1, "steps": 1},
        {"learning_rate": 0},
        {"learning_rate": math.nan},
        {"patch": 4},
        {"validation": 0.9},
        {"device": "tpu"},
        {"threads": 0},
        {"seed": -1},
    ],
)
def test_absurd_trainings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        TrainSettings(**values)


def test_settings_come_back_from_json_and_stay_as_they_are() -> None:
    settings = tiny(minutes=1.5, seed=2**40)
    assert TrainSettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3  # type: ignore[misc]


def test_parts_that_do_not_belong_together_are_not_saved(tmp_path: Path) -> None:
    model = random_model(depth=1, width=1)
    for wrong in (
        replace(model, channels=("a", "b")),
        replace(model, spacing=(1.0, 1.0, 1.0)),
        replace(model, classes=Classes((Structure(1), Structure(2)))),
    ):
        with pytest.raises(ValueError, match="network do not match"):
            wrong.save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(UserError, match="could not be saved"):
        random_model(depth=1, width=1).save(tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model(tmp_path / "a.safetensors")


def test_strokes_helper_paints_both_sides() -> None:
    truth = np.zeros((24, 24), np.uint8)
    truth[:, 12:] = 3
    assert set(np.unique(strokes(truth))) == {0, 3, 255}
