"""Newer strokes are answered at once, by a model that is as good on the validation blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs, of_kind, strokes, tiny
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX
from napari_unetseg.core.metrics import Scores
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.inference.predict import predict
from napari_unetseg.models.model import Model
from napari_unetseg.training.stroke_adaptation import SLACK, no_worse
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelUpdated,
    StepDone,
    TrainingPrepared,
)
from napari_unetseg.training.validation import Validator

SHAPE, DIM = (192, 192), 0.3
Offer = Callable[[Model], AnnotatedImage]


@pytest.fixture(scope="module")
def world() -> tuple[AnnotatedImage, np.ndarray]:
    """Bright blobs that are labelled and dim ones of which nothing is said, and where these are."""
    _, truth = blobs(SHAPE, 30, structures=2)
    noise = np.random.default_rng(1).normal(0.2, 0.1, SHAPE)
    labels = strokes(truth)
    labels[truth == 2] = 0
    image = noise + 0.6 * (truth == 1) + DIM * (truth == 2)
    return AnnotatedImage(Stack(image.astype(np.float32), "YX"), labels, "strokes"), truth == 2


def run(pair: AnnotatedImage, offers: dict[int, Offer], **changes: Any) -> tuple[Model, list[Any]]:
    """Train; after so many steps offer what a function makes of the model shown."""
    control, events, shown = JobControl(threads=1), [], None
    training = train_events([pair], tiny(width=16, depth=3, **changes), control=control)
    while True:
        try:
            events.append(next(training))
        except StopIteration as end:
            return end.value, events
        event = events[-1]
        if isinstance(event, ModelUpdated):
            shown = event.model
        if isinstance(event, StepDone) and event.step in offers and shown is not None:
            control.push_annotations((offers[event.step](shown),))


def training_places(pair: AnnotatedImage) -> np.ndarray:
    """Where strokes train, and are not held out."""
    full = replace(
        pair, labels=np.where(np.indices(SHAPE).sum(0) % 2, 1, BACKGROUND_LABEL).astype(np.uint8)
    )
    return np.asarray(TrainingDataset([full], 2, 0.15).planes[0].train != IGNORE_INDEX)


def painted(pair: AnnotatedImage, second: np.ndarray) -> tuple[AnnotatedImage, np.ndarray]:
    """The pair with strokes that say structure in dim blobs, and where these strokes are."""
    spot = second & training_places(pair)
    spot[:, 100:] = False
    spot &= np.arange(SHAPE[0])[:, None] % 3 == 0
    return replace(pair, labels=np.where(spot, 1, pair.labels).astype(np.uint8)), spot


def after_renewal(events: list[Any]) -> list[Any]:
    """What comes from the renewal on."""
    return events[next(i for i, e in enumerate(events) if isinstance(e, AnnotationsUpdated)) :]


def test_a_stroke_at_a_mistake_is_answered_before_the_next_step(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    pair, second = world
    newer, spot = painted(pair, second)
    _, events = run(pair, {22: lambda _: newer}, steps=24)
    renewed, answer = after_renewal(events)[:2]
    assert renewed.step == 22  # in the middle of an epoch
    assert isinstance(answer, ModelUpdated)
    before = next(
        e for e in reversed(events[: events.index(renewed)]) if isinstance(e, ModelUpdated)
    )
    assert (predict(before.model, pair.image)[spot] == 0).mean() > 0.5
    assert (predict(answer.model, pair.image)[spot] == 0).mean() < 0.5
    assert answer.model.history[-1].scores == answer.scores
    assert answer.before is not None
    assert answer.scores is not None
    assert answer.scores.dice >= answer.before.dice


def test_a_stroke_that_confirms_the_mask_brings_no_newer_one(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    pair, _ = world

    def confirm(shown: Model) -> AnnotatedImage:
        mask = predict(shown, pair.image)
        spot = (pair.labels == 0) & (np.arange(SHAPE[0])[:, None] % 4 == 0)
        spot &= binary_erosion(mask > 0, iterations=2) | binary_erosion(mask == 0, iterations=2)
        said = np.where(mask > 0, mask, BACKGROUND_LABEL)
        return replace(pair, labels=np.where(spot, said, pair.labels).astype(np.uint8))

    _, events = run(pair, {22: confirm}, steps=24)
    assert isinstance(after_renewal(events)[1], StepDone)


def test_strokes_that_come_again_and_again_leave_the_training_its_time(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    """The newest of them are taken, not each of them."""
    pair, _ = world
    _, events = run(pair, dict.fromkeys(range(1, 40), lambda _: replace(pair)), steps=40)
    assert 1 <= len(of_kind(events, AnnotationsUpdated)) < 30
    assert len(of_kind(events, StepDone)) == 40


def test_the_training_goes_its_own_way_beside_an_answer(
    world: tuple[AnnotatedImage, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, second = world
    newer, _ = painted(pair, second)
    losses = []
    for answers in (True, False):
        if not answers:
            monkeypatch.setattr(TrainingDataset, "labels_added_since", lambda *_: [])
        _, events = run(pair, {22: lambda _: newer}, steps=30, distillation_weight=0.0)
        losses.append([e.loss for e in of_kind(events, StepDone)])
    assert losses[0] == losses[1]


def test_the_same_seed_gives_the_same_answer(world: tuple[AnnotatedImage, np.ndarray]) -> None:
    pair, second = world
    newer, _ = painted(pair, second)
    shown = []
    for _ in range(2):
        _, events = run(pair, {22: lambda _: newer}, steps=24)
        shown.append([e.model.weights for e in of_kind(events, ModelUpdated)])
    assert len(shown[0]) == len(shown[1])
    assert len(shown[0]) > 1
    for one, other in zip(*shown, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_goes_on_answers_what_is_newer_before_its_first_step(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    pair, second = world
    model, _ = run(pair, {}, steps=24)
    newer, spot = painted(pair, second)
    marked = replace(newer, newer=((slice(0, 192), slice(0, 100)),))
    firsts = []
    for one in (newer, marked):
        training = train_events([one], tiny(steps=1), init=model)
        events = [event for event in training if not isinstance(event, EpochDone)]
        firsts.append(events[events.index(of_kind(events, TrainingPrepared)[0]) + 1])
    assert isinstance(firsts[0], StepDone)
    assert isinstance(firsts[1], ModelUpdated)
    mask, before = predict(firsts[1].model, pair.image), predict(model, pair.image)
    assert (mask[spot] == 0).mean() < 0.7 * (before[spot] == 0).mean()
    assert ((mask > 0) == (pair.labels == 1))[pair.labels > 0].mean() > 0.95


def scores(*dice: float, soft_dice: float) -> Scores:
    names, numbers = tuple("ab"[: len(dice)]), tuple(range(1, len(dice) + 1))
    return Scores(names, numbers, dice, dice, 99, 9, soft_dice)


@pytest.mark.parametrize(
    ("new", "good"),
    [
        (scores(0.9, 0.8, soft_dice=0.9), True),
        (scores(0.95, 0.8, soft_dice=0.9 - SLACK / 2), True),
        (scores(0.99, 0.79, soft_dice=0.99), False),
        (scores(0.95, 0.9, soft_dice=0.9 - 2 * SLACK), False),
        (scores(float("nan"), 0.9, soft_dice=0.99), False),
    ],
)
def test_no_structure_may_score_lower(new: Scores, good: bool) -> None:
    assert no_worse(new, scores(0.9, 0.8, soft_dice=0.9), 0.9) is good


@given(poison=st.floats(0.2, 1.0), seed=st.integers(0, 2**16), rate=st.sampled_from([3e-3, 3e-2]))
@settings(
    max_examples=3,
    phases=[Phase.generate],  # each example trains: a smaller one is not worth the search
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
def test_poisoned_strokes_again_and_again_never_make_a_mask_worse_on_the_validation_blocks(
    world: tuple[AnnotatedImage, np.ndarray], poison: float, seed: int, rate: float
) -> None:
    """What is shown after any of them is as good as what was shown before, on the same blocks."""
    pair, _ = world
    rng = np.random.default_rng(seed)
    swapped = np.select(
        [pair.labels == 1, pair.labels == BACKGROUND_LABEL], [BACKGROUND_LABEL, 1], 0
    )
    given_pairs = []

    def offer(_: Model) -> AnnotatedImage:
        last = given_pairs[-1].labels if given_pairs else pair.labels
        where = rng.random((SHAPE[0], 1)) < poison / 3
        given_pairs.append(replace(pair, labels=np.where(where, swapped, last).astype(np.uint8)))
        return given_pairs[-1]

    _, events = run(
        pair, {12: offer, 20: offer, 28: offer}, steps=36, learning_rate=rate, seed=seed
    )
    data, shown, best = TrainingDataset([pair], 2, 0.15), None, False
    renewed = 0
    for event in events:
        if isinstance(event, AnnotationsUpdated):
            data = data.with_annotations([given_pairs[renewed]])
            renewed += 1
        elif isinstance(event, EpochDone):
            best = event.best
        elif isinstance(event, ModelUpdated):
            if shown is not None and not best and data.validated:
                now, before = (judge(one, data) for one in (event.model, shown))
                assert now.dice >= before.dice
                assert now.soft_dice >= before.soft_dice - SLACK - 1e-6
            shown, best = event.model, False
    assert renewed


def judge(model: Model, data: TrainingDataset) -> Scores:
    network = model.network()
    validator = Validator(data, network, torch.device("cpu"))
    found = validator.score(network, model.history[-1].class_priors)
    assert found is not None
    return found
