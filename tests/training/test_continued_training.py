"""Training goes on from other classes, channels and dimensions, and on residual encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs, dice, of_kind, painted_pair, run_training, strokes, tiny
from safetensors.torch import save_file

from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.events import Notice
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX, LabelKind
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.inference.predict import predict
from napari_unetseg.models.model import Model, load_model
from napari_unetseg.models.registry import build
from napari_unetseg.models.training_record import MOST_RECORDS, WITH_CURVES
from napari_unetseg.training.train import train
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelSetAside,
    Outcome,
    SetAside,
    StepDone,
    TrainingDone,
)

FAST: dict[str, Any] = {"learning_rate": 1e-2}


@pytest.fixture(scope="module")
def trained() -> Model:
    model, _ = run_training([painted_pair()], tiny(steps=100, width=16, depth=3))
    assert isinstance(model, Model)
    return model


def texts(events: list[Any]) -> str:
    return " ".join(event.text for event in of_kind(events, Notice))


def test_another_structure_is_learned_on_top(trained: Model) -> None:
    image, truth = blobs((96, 96), 14, structures=2)
    pair = AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes")
    known = predict(trained, pair.image) > 0
    assert dice(truth > 0, known) > 0.9
    model, events = run_training([pair], tiny(steps=1, learning_rate=1e-5), init=trained)
    assert "2 structures instead of 1" in texts(events)
    assert trained.id in texts(events)
    assert model.classes.numbers == (0, 1, 2)
    assert model.net.out_channels == 3
    assert [record.parent for record in model.history] == [None, trained.id]
    assert dice(known, predict(model, pair.image) > 0) > 0.9

    learned, _ = run_training([pair], tiny(steps=120), init=trained)
    mask = predict(learned, pair.image)
    assert all(dice(truth == number, mask == number) > 0.7 for number in (0, 1, 2))


@pytest.fixture(scope="module")
def both() -> AnnotatedImage:
    """Two structures that are told apart by their brightness, with strokes."""
    image, truth = blobs((96, 96), 14, structures=2)
    return AnnotatedImage(Stack(image, "YX", name="both"), strokes(truth), "strokes")


@pytest.fixture(scope="module")
def of_both(both: AnnotatedImage) -> Model:
    model, _ = run_training([both], tiny(steps=100, width=16, depth=3))
    assert isinstance(model, Model)
    return model


def with_labels(
    pair: AnnotatedImage, labels: np.ndarray, kind: LabelKind = LabelKind.STROKES
) -> AnnotatedImage:
    return replace(pair, labels=labels.astype(np.uint8), kind=kind)


def test_a_structure_that_full_masks_do_not_hold_is_left_out(
    both: AnnotatedImage, of_both: Model
) -> None:
    before = predict(of_both, both.image)
    one = with_labels(both, before == 1, LabelKind.FULL)
    fewer, events = run_training([one], tiny(steps=1, learning_rate=1e-5), init=of_both)
    assert "1 structure instead of 2" in texts(events)
    assert fewer.net.out_channels == 1
    mask, where = predict(fewer, both.image), before != 2
    assert dice(before[where] > 0, mask[where] > 0) > 0.9


# -- labels of some of the classes -----------------------------------------------------------------


@pytest.mark.parametrize("labelled", [(BACKGROUND_LABEL,), (1,), (2, BACKGROUND_LABEL), (1, 2)])
def test_what_strokes_do_not_say_the_model_still_knows(
    both: AnnotatedImage, of_both: Model, labelled: tuple[int, ...]
) -> None:
    """Also on an image that it never saw."""
    image, truth = blobs((96, 96), 14, seed=3, structures=2)
    some = np.where(np.isin(strokes(truth), labelled), strokes(truth), 0)
    pair = AnnotatedImage(Stack(image, "YX", name="new"), some.astype(np.uint8), "strokes")
    model, events = run_training([pair], tiny(steps=30), init=of_both)
    assert model.classes.numbers == (0, 1, 2)
    names = {0: "background", 1: "structure 1", 2: "structure 2"}
    left = [names[n] for n in (0, 1, 2) if (n or BACKGROUND_LABEL) not in labelled]
    assert f"There are no labels of {' and '.join(left)}: the model keeps" in texts(events)
    assert model.net == of_both.net
    assert len(labelled) > 1 or not model.validated
    assert ("has no score" in texts(events)) is not model.validated
    for each, least in ((pair.image, 0.9), (both.image, 0.85)):
        before, after = predict(of_both, each), predict(model, each)
        assert all(dice(before == n, after == n) > least for n in (0, 1, 2))


def test_false_positives_painted_as_background_go_and_the_rest_stays(both: AnnotatedImage) -> None:
    """A model that takes both kinds for one is told where it is wrong, and nothing else."""
    _, truth = blobs((96, 96), 14, structures=2)
    one_kind = with_labels(both, strokes((truth > 0).astype(np.uint8)))
    begun = train([one_kind], tiny(steps=80, width=16, depth=3))
    before = predict(begun, both.image)
    assert all(before[truth == number].mean() > 0.9 for number in (1, 2))
    labels = np.where((strokes(truth) == 1) & (before > 0), BACKGROUND_LABEL, 0)
    model, _ = run_training([with_labels(both, labels)], tiny(steps=100, batch=8), init=begun)
    after = predict(model, both.image)
    assert after[truth == 1].mean() < 0.1
    assert after[truth == 2].mean() > 0.9
    assert after[truth == 0].mean() < 0.02


def test_a_training_without_a_score_ends_when_its_labels_are_right(
    both: AnnotatedImage, of_both: Model
) -> None:
    """More steps would change the rest more, and nothing would tell."""
    before = predict(of_both, both.image)
    wrong = with_labels(both, np.where((both.labels == 1) & (before == 1), 2, 0))
    model, events = run_training([wrong], tiny(), init=of_both)
    (done,) = of_kind(events, TrainingDone)
    assert done.outcome is Outcome.LABELS_LEARNED
    epochs = of_kind(events, EpochDone)
    assert [epoch.best for epoch in epochs] == [True] * len(epochs)
    assert (predict(model, both.image) == 2)[wrong.labels == 2].mean() >= 0.9
    _, events = run_training([wrong], tiny(steps=done.steps + 60), init=of_both)
    best = [epoch.best for epoch in of_kind(events, EpochDone)]
    assert best[0]
    assert not best[-1]
    assert best == sorted(best, reverse=True)  # what came first has changed the rest least


def test_corrections_that_come_during_such_a_training_are_taken(
    both: AnnotatedImage, of_both: Model
) -> None:
    first = with_labels(both, np.where(both.labels == BACKGROUND_LABEL, BACKGROUND_LABEL, 0))
    newer = with_labels(both, np.where(both.labels == 1, 1, first.labels))
    control, renewed = JobControl(), []

    def offer(event: object) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            control.push_annotations([newer])
        if isinstance(event, AnnotationsUpdated):
            renewed.append(event.voxels)

    model = train([first], tiny(steps=40), init=of_both, control=control, on_event=offer)
    assert renewed == [np.count_nonzero(newer.labels)]
    before, after = predict(of_both, both.image), predict(model, both.image)
    assert all(dice(before == n, after == n) > 0.85 for n in (0, 1, 2))


def test_a_deleted_structure_does_not_come_back(both: AnnotatedImage, of_both: Model) -> None:
    labels = np.where(both.labels == 2, 0, both.labels)
    left = [structure for structure in of_both.classes.structures if structure.number == 1]
    settings = tiny(steps=1, learning_rate=1e-5)
    model, _ = run_training([with_labels(both, labels)], settings, init=of_both, structures=left)
    assert model.classes.numbers == (0, 1)
    alone = with_labels(both, np.where(labels == BACKGROUND_LABEL, BACKGROUND_LABEL, 0))
    model, _ = run_training([alone], settings, init=of_both, structures=left)
    assert model.classes.numbers == (0, 1)
    before, after = predict(of_both, both.image), predict(model, both.image)
    assert dice(before[before != 2] == 1, after[before != 2] == 1) > 0.9


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"distillation_weight": 0.0}, "Only background is labelled; paint"),
        ({"init": None}, "Only background is labelled; paint"),
        ({"structure": 3}, "Only structure 3 is labelled; paint"),
        ({"full": True}, "Only background is labelled, and every voxel of these images"),
        ({"channels": True}, "Only background is labelled; paint"),
    ],
)
def test_labels_of_one_class_need_a_model_that_is_held_to_the_rest(
    both: AnnotatedImage, of_both: Model, change: dict[str, Any], sentence: str
) -> None:
    labels = np.where(both.labels == BACKGROUND_LABEL, change.get("structure", BACKGROUND_LABEL), 0)
    kind = LabelKind.STROKES
    if "full" in change:
        labels, kind = np.zeros_like(labels), LabelKind.FULL
    pair = with_labels(both, labels, kind)
    if "channels" in change:
        pair = replace(pair, image=Stack(np.stack([both.image.data] * 2), "CYX"))
    settings = tiny(steps=1, distillation_weight=change.get("distillation_weight", 1.0))
    with pytest.raises(TrainingError, match=sentence):
        run_training([pair], settings, init=change.get("init", of_both))


def test_images_without_a_structure_correct_a_model_beside_others(
    both: AnnotatedImage, of_both: Model
) -> None:
    """Masks that are all background are corrections, too, where other strokes leave room."""
    empty, _ = blobs((96, 96), 0, seed=7)
    nothing = AnnotatedImage(
        Stack(empty, "YX", name="empty"), np.zeros((96, 96), np.uint8), LabelKind.FULL
    )
    some = with_labels(both, np.where(both.labels == BACKGROUND_LABEL, BACKGROUND_LABEL, 0))
    model, _ = run_training([nothing, some], tiny(steps=40), init=of_both)
    before, after = predict(of_both, both.image), predict(model, both.image)
    assert all(dice(before == n, after == n) > 0.85 for n in (0, 1, 2))


# -- channels, dimensions --------------------------------------------------------------------------


def test_three_channels_go_on_from_one(trained: Model, tmp_path: Path) -> None:
    pair = painted_pair()
    grey = np.asarray(pair.image.data)
    rgb = AnnotatedImage(Stack(np.stack([grey] * 3, -1), "YXS"), pair.labels, "strokes")
    model, events = run_training([rgb], tiny(steps=3, learning_rate=1e-5), init=trained)
    assert "first layer" in texts(events)
    assert model.net.in_channels == len(model.channels) == 3
    assert len(model.normalization.low) == 3
    loaded = load_model(model.save(tmp_path / "rgb"))
    one, three = predict(trained, pair.image), predict(loaded, rgb.image)
    assert dice(one > 0, three > 0) > 0.95


def test_a_volume_goes_on_from_planes(trained: Model) -> None:
    image, truth = blobs((6, 64, 64), 9)
    pair = AnnotatedImage(Stack(image, "ZYX", spacing=(4.0, 1.0, 1.0)), strokes(truth), "strokes")
    settings = tiny(dims=3, steps=3, learning_rate=1e-5)
    model, events = run_training([pair], settings, init=trained)
    assert "plane by plane" in texts(events)
    assert model.net.dims == 3
    planes = predict(trained, pair.image)
    assert dice(planes > 0, predict(model, pair.image) > 0) > 0.9


def test_planes_do_not_go_on_from_a_volume() -> None:
    volume, _ = run_training([painted_pair((6, 48, 48))], tiny(dims=3, steps=2))
    with pytest.raises(TrainingError, match="is 3D, but 2D was chosen"):
        run_training([painted_pair()], tiny(steps=2), init=volume)


# -- residual encoders -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        state = resnet18().state_dict()
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(state, path)
    return path


def test_a_residual_encoder_is_trained(weights: Path, tmp_path: Path) -> None:
    settings = tiny(depth=4, steps=3, encoder="resnet18", encoder_weights=str(weights))
    pair = painted_pair()
    model, events = run_training([pair], settings)
    assert len(of_kind(events, StepDone)) == 3
    assert of_kind(events, EpochDone)
    assert model.net.encoder == "resnet18"
    loaded = load_model(model.save(tmp_path / "model"))
    assert np.array_equal(predict(loaded, pair.image), predict(model, pair.image))
    on, _ = run_training([pair], tiny(steps=2), init=loaded)
    assert on.net == model.net


def test_a_learned_encoder_can_be_frozen(weights: Path) -> None:
    from napari_unetseg.models.encoder_weights import load_encoder

    settings = tiny(
        depth=3,
        steps=3,
        encoder="resnet18",
        encoder_weights=str(weights),
        freeze_encoder=True,
        **FAST,
    )
    model, events = run_training([painted_pair()], settings)
    assert "not frozen" not in texts(events)
    fresh = build(model.net)
    load_encoder(fresh, str(weights))
    for name, tensor in fresh.encoder.state_dict().items():
        assert torch.equal(tensor, model.weights[f"encoder.{name}"]), name


def test_all_of_it_is_used_by_default(weights: Path) -> None:
    settings = tiny(depth=None, steps=1, encoder="resnet18", encoder_weights=str(weights))
    model, _ = run_training([painted_pair()], settings)
    assert model.net.depth == 6


def test_missing_weights_stop_the_training_with_a_sentence() -> None:
    settings = tiny(encoder="resnet18", encoder_weights="nowhere.safetensors")
    with pytest.raises(UserError, match=r"nowhere\.safetensors do not exist"):
        run_training([painted_pair()], settings)


def test_hundreds_of_trainings_do_not_make_a_model_ever_larger() -> None:
    pair = painted_pair((48, 48), count=3)
    model, _ = run_training([pair], tiny(steps=2))
    many = replace(model, history=model.history * 300)
    after, _ = run_training([pair], tiny(steps=2), init=many)
    assert len(after.history) == MOST_RECORDS + 1
    assert [bool(record.curve) for record in after.history[-WITH_CURVES - 2 :]] == [
        False,
        *[True] * (WITH_CURVES + 1),
    ]
    assert after.history[-1].parent == many.id


def test_training_on_swapped_labels_goes_back_by_held_out_strokes(trained: Model) -> None:
    """Structure and background are swapped wherever labels train, not where they are held out."""
    pair = painted_pair()
    clean = TrainingDataset([pair], 2, 0.15, normalization=trained.normalization)
    assert clean.validated
    swapped = np.select(
        [pair.labels == 1, pair.labels == BACKGROUND_LABEL], [BACKGROUND_LABEL, 1], 0
    )
    trains = clean.planes[0].validate == IGNORE_INDEX
    poisoned = replace(pair, labels=np.where(trains, swapped, pair.labels).astype(np.uint8))
    model, events = run_training([poisoned], tiny(steps=60, learning_rate=3e-2), init=trained)
    fell = [e for e in of_kind(events, ModelSetAside) if e.reason is SetAside.FELL]
    assert fell
    (*_, notice) = [e for e in of_kind(events, Notice) if e.warning]
    assert "went back" in notice.text
    before, after, aside = (predict(m, pair.image) > 0 for m in (trained, model, fell[0].model))
    assert dice(before, after) > 0.9
    assert dice(before, aside) < 0.7
