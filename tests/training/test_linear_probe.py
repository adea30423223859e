"""The answer before the first step: for any network and image, and for every class."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs, of_kind, run_training, strokes, tiny

from napari_unetseg import AnnotatedImage, Stack, predict
from napari_unetseg.core.events import Notice
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import NetSettings
from napari_unetseg.models.registry import build
from napari_unetseg.training.linear_probe import LinearProbe, load_backbone, recalibrate_batchnorm
from napari_unetseg.training.trainer import Trainer
from napari_unetseg.training.training_events import ModelUpdated, StepDone
from napari_unetseg.training.training_run import TrainingRun
from napari_unetseg.training.training_setup import INSEPARABLE


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_body_fits_every_network_of_its_width(depth: int, channels: int, dims: int) -> None:
    strides = None if dims == 2 else ((1, 2, 2),) * (depth - 1)
    net = NetSettings(dims=dims, in_channels=channels, depth=depth, width=16, strides=strides)
    body = load_backbone(net)
    assert body is not None
    network = build(net)
    missing = network.load_state_dict(body, strict=False)
    assert not missing.unexpected_keys
    assert {n for n in missing.missing_keys if "num_batches" not in n} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("changes", [{"width": 8}, {"norm": "group"}, {"depth": 5}])
def test_other_networks_begin_at_random(changes: dict[str, Any]) -> None:
    assert load_backbone(NetSettings(**{"width": 16, **changes})) is None


@pytest.mark.parametrize("spacing", [(1.0, 4.0, 4.0), (1.0, 2.0, 1.0), (5.0, 1.0, 1.0)])
def test_any_spacing_of_a_volume_begins(spacing: tuple[float, ...]) -> None:
    image, truth = blobs((9, 33, 37), 8)
    pair = AnnotatedImage(Stack(image, "ZYX", spacing=spacing), strokes(truth), "strokes")
    _, events = run_training([pair], tiny(dims=3, depth=3, width=16, steps=1))
    assert of_kind(events, ModelUpdated)


def test_the_first_mask_comes_before_a_step_and_is_already_good() -> None:
    image, truth = blobs((96, 96), 12)
    pair = AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes")
    _, events = run_training([pair], tiny(width=16, depth=4, steps=1))
    kinds = [type(e) for e in events]
    assert kinds.index(ModelUpdated) < kinds.index(StepDone)
    mask = predict(of_kind(events, ModelUpdated)[0].model, pair.image) > 0
    hit = (mask & (truth > 0)).sum()
    assert 2 * hit / (mask.sum() + (truth > 0).sum()) > 0.85


def test_a_class_in_one_corner_of_a_large_image_is_not_missed() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0.2, 0.05, (1500, 1500)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[::50, ::7] = 255
    image[600:700, 600:700] += 0.4
    labels[620:680:4, 620:680] = 1
    image[20:60, 1440:1480] += 0.8
    labels[30:50:3, 1450:1470] = 2
    pair = AnnotatedImage(Stack(image, "YX"), labels, "strokes")
    _, events = run_training([pair], tiny(width=16, depth=3, steps=1, validation_fraction=0.0))
    first = of_kind(events, ModelUpdated)[0].model
    mask = predict(first, pair.image)
    assert (mask[30:50, 1450:1470] == 2).mean() > 0.9
    assert (mask[630:670, 630:670] == 1).mean() > 0.9
    assert first.history[-1].class_priors is not None
    assert first.history[-1].class_priors[0] > 0.9


def test_shares_are_found_although_strokes_are_as_many_of_each_class() -> None:
    image, truth = blobs((128, 128), 6)
    network = build(NetSettings(width=16))
    body = load_backbone(NetSettings(width=16))
    assert body is not None
    network.load_state_dict(body, strict=False)
    target = np.full(truth.shape, 255, np.uint8)
    rng = np.random.default_rng(0)
    for number in (0, 1):
        places = np.flatnonzero(truth == number)
        target.ravel()[rng.choice(places, 200, replace=False)] = number
    sample = (torch.from_numpy(image)[None], torch.from_numpy(target))
    recalibrate_batchnorm(network, [sample[0]])
    head = LinearProbe(network, [sample])
    head.fit(None)
    share = (truth > 0).mean()
    assert head.estimate_class_priors()[1] == pytest.approx(share, abs=0.05)
    assert abs(share - 0.5) > 0.2


def test_too_little_memory_for_a_first_answer_still_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(LinearProbe, "fit", fail)
    image, truth = blobs((96, 96), 12)
    model, events = run_training(
        [AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes")], tiny(steps=4)
    )
    assert "initial model" in of_kind(events, Notice)[0].text
    assert model.history[-1].steps == 4


def test_no_memory_for_steps_keeps_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Trainer, "step", fail)
    image, truth = blobs((96, 96), 12)
    model, events = run_training(
        [AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes")], tiny(steps=4)
    )
    assert model.id == of_kind(events, ModelUpdated)[0].model.id
    assert "kept" in events[-1].reason


def test_labels_that_the_features_do_not_tell_apart_are_learned_slowly_and_said() -> None:
    """As when all strokes lie at an earlier mask's mistakes."""
    image, truth = blobs((96, 96), 12)
    labels = strokes(truth)
    mixed = labels.copy()
    mixed[labels > 0] = np.random.default_rng(0).permutation(labels[labels > 0])
    rates, notices = [], []
    for painted in (labels, mixed):
        pair = AnnotatedImage(Stack(image, "YX"), painted, "strokes")
        run = TrainingRun([pair], tiny(width=16, depth=4), (), None, JobControl(1), None)
        with closing(run.trainer):
            notices.append([e.text for e in run.begin() if isinstance(e, Notice)])
            rates.append(run.trainer.lr_scale / run.trainer.label_amount)
    assert rates == [1.0, pytest.approx(0.2, abs=0.2)]
    assert [INSEPARABLE in said for said in notices] == [False, True]
