"""Scores are those of the masks that are predicted, plane by plane, over all voxels."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random_model

from napari_unetseg import (
    AnnotatedImage,
    JobControl,
    LabelKind,
    Model,
    PredictSettings,
    Stack,
    Structure,
    TrainSettings,
    UserError,
    evaluate,
    predict,
    train,
)
from napari_unetseg.core.events import Notice

RNG = np.random.default_rng(0)
TRUTH = np.repeat(np.repeat(RNG.integers(0, 3, (4, 6, 6), dtype=np.uint8), 8, 1), 8, 2)
IMAGES = (TRUTH * 60 + RNG.integers(0, 30, TRUTH.shape)).astype(np.uint8)
SETTINGS = TrainSettings(depth=2, width=4, steps=60, patch=32, batch=2, threads=1)
STACK = Stack.from_array(IMAGES, "TYX", "cells")


def trained(labels: np.ndarray, kind: LabelKind) -> Model:
    names = (Structure(1, "cell"), Structure(2, "wall"))
    return train([AnnotatedImage(STACK, labels, kind)], SETTINGS, structures=names)


@pytest.fixture(scope="module")
def model() -> Model:
    return trained(TRUTH, LabelKind.FULL)


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    return float(2 * (truth & found).sum() / (truth.sum() + found.sum()))


def test_planes_and_tiles_are_pooled(model: Model) -> None:
    pairs = [AnnotatedImage(STACK, TRUTH, LabelKind.FULL)]
    found = predict(model, STACK)
    result = evaluate(model, pairs, PredictSettings(tile=16))
    assert result.scores.names == ("cell", "wall")
    assert result.scores.voxels == TRUTH.size
    assert result.scores.dice == pytest.approx([dice(TRUTH == n, found == n) for n in (1, 2)])
    assert result.images[0].name == "cells"
    assert repr(result.images[0].scores) == repr(result.scores)  # NaN is not equal to itself


def test_several_images_are_pooled_before_the_mean(model: Model) -> None:
    pairs = [
        AnnotatedImage(Stack.from_array(i), t, LabelKind.FULL)
        for i, t in zip(IMAGES, TRUTH, strict=True)
    ]
    found = np.stack([predict(model, p.image) for p in pairs])
    result = evaluate(model, pairs)
    assert result.scores.dice[0] == pytest.approx(dice(TRUTH == 1, found == 1))
    assert len(result.images) == 4


def test_strokes_score_what_is_painted(model: Model) -> None:
    strokes = np.where(TRUTH == 0, 255, TRUTH).astype(np.uint8)
    strokes[:, ::2] = 0
    result = evaluate(model, [AnnotatedImage(STACK, strokes, LabelKind.STROKES)])
    assert result.scores.voxels == TRUTH.size // 2


def test_a_model_without_background_is_not_scored_on_it() -> None:
    model = trained(TRUTH, LabelKind.STROKES)  # 0 is not labelled, 255 was never painted
    assert not model.classes.background
    result = evaluate(model, [AnnotatedImage(STACK, TRUTH, LabelKind.FULL)])
    assert result.scores.voxels == (TRUTH > 0).sum()
    with pytest.raises(UserError, match="no voxel that can be scored"):
        evaluate(model, [AnnotatedImage(STACK, np.zeros_like(TRUTH), LabelKind.FULL)])


def test_what_cannot_be_compared_is_refused(model: Model) -> None:
    full, objects = (
        AnnotatedImage(STACK, TRUTH, LabelKind.FULL),
        AnnotatedImage(STACK, TRUTH, LabelKind.INSTANCES),
    )
    with pytest.raises(UserError, match="together with other kinds"):
        evaluate(model, [full, objects])
    with pytest.raises(UserError, match="no image with a mask"):
        evaluate(model, [])
    with pytest.raises(UserError, match=r"hold the number 3.*only 1 \(cell\), 2 \(wall\)"):
        evaluate(model, [AnnotatedImage(STACK, TRUTH + 1, LabelKind.FULL)])


def test_a_stop_leaves_out_what_was_not_reached(model: Model) -> None:
    control = JobControl()
    pairs = [AnnotatedImage(STACK, TRUTH, LabelKind.FULL)] * 3
    events = []

    def stop_in_the_second(event: object) -> None:
        events.append(event)
        if len(events) == len(TRUTH) + 2:
            control.stop()

    result = evaluate(model, pairs, control=control, on_event=stop_in_the_second)
    assert len(result.images) == 2
    assert result.images[0].scores.voxels == TRUTH.size
    assert result.images[1].scores.voxels < TRUTH.size


@pytest.mark.parametrize("value", [1, 2, 200, 255, 300, 65535])
@pytest.mark.parametrize("number", [1, 3])
def test_a_mask_of_one_value_is_the_only_structure_of_a_model(value: int, number: int) -> None:
    model = random_model(numbers=(number,), depth=2, width=4)
    foreground = TRUTH[0] > 0
    stack = Stack.from_array(IMAGES[0].astype(np.float32) / 255, "YX", "cells")
    events: list[object] = []
    mask = foreground.astype(np.uint16) * np.uint16(value)
    result = evaluate(model, [AnnotatedImage(stack, mask, LabelKind.FULL)], on_event=events.append)
    found = predict(model, stack) > 0
    assert result.scores.dice == pytest.approx((dice(foreground, found),))
    said = [event.text for event in events if isinstance(event, Notice)]
    assert said == [] if value in (number, 255, 300, 65535) else f"only 0 and {value}" in said[0]
    mask[:8] = value
    ignored = evaluate(model, [AnnotatedImage(stack, mask, LabelKind.FULL, ignore=value)])
    assert ignored.scores.voxels == (mask != value).sum()
