"""Newer strokes are answered at once, and the mask stays as it is elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs, dice, of_kind, strokes, tiny
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from napari_unetseg.core.events import Notice
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.inference.predict import predict
from napari_unetseg.models.model import Model
from napari_unetseg.training import training_run
from napari_unetseg.training.head_refit import HeadRefit
from napari_unetseg.training.train import train, train_events
from napari_unetseg.training.trainer import Trainer
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelUpdated,
    Outcome,
    StepDone,
    TrainingPrepared,
)

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


def run(
    pair: AnnotatedImage,
    offers: dict[int, Offer],
    control: JobControl | None = None,
    **changes: Any,
) -> tuple[Model, list[Any]]:
    """Train; after so many steps offer what a function makes of the model shown."""
    control, events, shown = control or JobControl(threads=1), [], None
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


def training_places(pair: AnnotatedImage, *, held_out: bool = False) -> np.ndarray:
    """Where strokes train, or where they are held out."""
    full = replace(
        pair, labels=np.where(np.indices(SHAPE).sum(0) % 2, 1, BACKGROUND_LABEL).astype(np.uint8)
    )
    plane = TrainingDataset([full], 2, 0.15).planes[0]
    return np.asarray((plane.validate if held_out else plane.train) != IGNORE_INDEX)


def painted(pair: AnnotatedImage, second: np.ndarray) -> tuple[AnnotatedImage, np.ndarray]:
    """The pair with strokes that say structure in dim blobs, and where these strokes are."""
    spot = second & training_places(pair)
    spot[:, 100:] = False
    spot &= np.arange(SHAPE[0])[:, None] % 3 == 0
    return replace(pair, labels=np.where(spot, 1, pair.labels).astype(np.uint8)), spot


def after_renewal(events: list[Any]) -> list[Any]:
    """What comes from the renewal on."""
    return events[next(i for i, e in enumerate(events) if isinstance(e, AnnotationsUpdated)) :]


def stroke_at(pair: AnnotatedImage, place: np.ndarray, label: int) -> tuple[Any, np.ndarray]:
    """The pair with a stroke of 5 × 12 pixels in the middle of a place, and where the stroke is."""
    inside = place & training_places(pair) & (pair.labels == 0)
    y, x = np.unravel_index(distance_transform_edt(inside).argmax(), SHAPE)
    spot = np.zeros(SHAPE, bool)
    spot[max(0, y - 2) : y + 3, max(0, x - 6) : x + 6] = True
    spot &= inside
    return replace(pair, labels=np.where(spot, label, pair.labels).astype(np.uint8)), spot


def shown_before(events: list[Any], renewed: AnnotationsUpdated) -> Model:
    """The model that was on screen when strokes came."""
    earlier = events[: events.index(renewed)]
    return next(e.model for e in reversed(earlier) if isinstance(e, ModelUpdated))


def test_a_stroke_at_a_mistake_is_answered_before_the_next_step(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    pair, second = world
    newer, spot = stroke_at(pair, second, 1)
    _, events = run(pair, {22: lambda _: newer}, steps=24)
    renewed, answer = after_renewal(events)[:2]
    assert renewed.step == 22  # in the middle of an epoch
    assert isinstance(answer, ModelUpdated)
    assert answer.urgent
    assert answer.step == 22
    wrong = spot & (predict(shown_before(events, renewed), pair.image) == 0)
    assert wrong.sum() > 0.5 * spot.sum()
    assert (predict(answer.model, pair.image)[wrong] == 1).mean() >= 0.5


def test_an_answer_stays_in_the_steps_that_follow(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    """Samples are drawn to the newer strokes, so that the whole network learns them."""
    pair, second = world
    newer, spot = painted(pair, second)
    model, events = run(pair, {22: lambda _: newer}, steps=60)
    renewed, answer = after_renewal(events)[:2]
    before, mask = (predict(m, pair.image) for m in (shown_before(events, renewed), model))
    assert (before[spot] == 0).mean() > 0.5
    assert (predict(answer.model, pair.image)[spot] == 1).mean() > 0.5
    assert (mask[spot] == 1).mean() > 0.8
    assert ((mask > 0) == (pair.labels == 1))[pair.labels > 0].mean() > 0.9


def test_an_answer_that_is_the_last_model_has_a_score(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    """Where no step follows it."""
    pair, second = world
    newer, _ = painted(pair, second)
    control = JobControl(threads=1)

    def paint_and_stop(event: Any) -> None:
        if isinstance(event, EpochDone):
            control.push_annotations((newer,))
        if isinstance(event, ModelUpdated) and event.urgent and event.step:
            control.stop()

    settings = tiny(width=16, depth=3, steps=60)
    model = train([pair], settings, control=control, on_event=paint_and_stop)
    assert model.history[-1].steps == model.history[-1].curve[-1].step
    assert model.scores is not None


@pytest.mark.parametrize(("label", "least"), [(1, 0.9), (BACKGROUND_LABEL, 0.6)])
def test_a_poisoned_stroke_leaves_the_mask_elsewhere(
    world: tuple[AnnotatedImage, np.ndarray], label: int, least: float
) -> None:
    """It says structure where there is ground, or ground in a structure like all the others."""
    pair, _ = world
    smooth = gaussian_filter(np.asarray(pair.image.data), 2)
    newer, spot = stroke_at(pair, smooth > 0.6 if label > 1 else smooth < 0.25, label)
    assert spot.sum() >= 9
    model, events = run(pair, {30: lambda _: newer}, steps=60)
    renewed, answer = after_renewal(events)[:2]
    assert isinstance(answer, ModelUpdated)
    away = distance_transform_edt(~spot) > 16
    masks = [
        predict(m, pair.image)[away] > 0
        for m in (shown_before(events, renewed), answer.model, model)
    ]
    assert dice(masks[0], masks[1]) > least
    assert dice(masks[0], masks[2]) > 0.85


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


def test_it_is_said_when_all_that_is_new_is_held_out(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    pair, second = world
    for held_out in (True, False):
        spot = training_places(pair, held_out=held_out) & second & (pair.labels == 0)
        assert spot.any()
        newer = replace(pair, labels=np.where(spot, 1, pair.labels).astype(np.uint8))
        _, events = run(pair, {3: lambda _, newer=newer: newer}, steps=6)
        (renewed,) = of_kind(events, AnnotationsUpdated)
        assert renewed.held_out is held_out


def test_strokes_that_come_again_and_again_leave_the_training_its_time(
    world: tuple[AnnotatedImage, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are taken, not each of them, where reading them takes longer than steps."""
    pair, _ = world
    real = TrainingDataset.with_annotations

    def slow(self: TrainingDataset, *pairs: Any) -> TrainingDataset:
        time.sleep(0.3)
        return real(self, *pairs)

    monkeypatch.setattr(TrainingDataset, "with_annotations", slow)
    _, events = run(pair, dict.fromkeys(range(1, 40), lambda _: replace(pair)), steps=40)
    assert 1 <= len(of_kind(events, AnnotationsUpdated)) < 30
    assert len(of_kind(events, StepDone)) == 40


@pytest.mark.parametrize("how", ["no memory", "stopped"])
def test_a_refit_that_cannot_be_done_changes_nothing(
    world: tuple[AnnotatedImage, np.ndarray], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pair, second = world
    newer, _ = painted(pair, second)
    control, solve = JobControl(threads=1), HeadRefit.solve

    def hindered(self: HeadRefit) -> Any:
        if how == "no memory":
            raise MemoryError
        control.stop()
        return solve(self)

    monkeypatch.setattr(HeadRefit, "solve", hindered)
    _, events = run(pair, {22: lambda _: newer}, control, steps=24)
    following = after_renewal(events)[1]
    if how == "stopped":
        assert isinstance(following, EpochDone)
        assert events[-1].outcome is Outcome.STOPPED
    else:
        assert isinstance(following, StepDone)
        assert len(of_kind(events, StepDone)) == 24


def test_a_training_goes_on_where_there_is_no_memory_to_distil(
    world: tuple[AnnotatedImage, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier annotations stay, as whenever newer ones cannot be taken."""
    pair, second = world
    newer, _ = painted(pair, second)

    def no_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Trainer, "distillation_of", no_memory)
    model, events = run(pair, {22: lambda _: newer}, steps=24)
    assert model.history[-1].steps == 24
    (warning,) = (e for e in of_kind(events, Notice) if e.warning)
    assert "earlier annotations" in warning.text
    assert not of_kind(events, AnnotationsUpdated)


def test_copies_of_shown_weights_take_little_of_the_time(
    world: tuple[AnnotatedImage, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that takes long to copy is shown less often between two epochs."""
    seconds_of_a_copy = 0.05

    def slowly(trainer: Trainer) -> Any:
        time.sleep(seconds_of_a_copy)
        return trainer.copied(trainer.ema_network)

    monkeypatch.setattr(training_run, "SHOW_SECONDS", 0.0)
    monkeypatch.setattr(Trainer, "weights", slowly)
    _, events = run(world[0], {}, steps=60)
    between = [e for e in of_kind(events, ModelUpdated) if e.scores is None]
    allowed = events[-1].seconds * training_run.MAX_TIME_FRACTION / seconds_of_a_copy
    assert len(between) <= 1 + len(of_kind(events, EpochDone)) + allowed


def test_the_same_seed_gives_the_same_answer(world: tuple[AnnotatedImage, np.ndarray]) -> None:
    pair, second = world
    newer, _ = painted(pair, second)
    shown = []
    for _ in range(2):
        _, events = run(pair, {22: lambda _: newer}, steps=24)
        shown.append([e.model.weights for e in of_kind(events, ModelUpdated) if e.urgent])
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
    assert firsts[1].urgent
    mask, before = predict(firsts[1].model, pair.image), predict(model, pair.image)
    assert (mask[spot] == 0).mean() < 0.7 * (before[spot] == 0).mean()
    assert ((mask > 0) == (pair.labels == 1))[pair.labels > 0].mean() > 0.95


def test_newer_strokes_of_an_image_that_is_removed_draw_no_samples(
    world: tuple[AnnotatedImage, np.ndarray],
) -> None:
    """Neither do strokes that are erased: samples are of the present labels alone."""
    pair, second = world
    newer, _ = painted(pair, second)
    brighter = Stack(np.asarray(pair.image.data) + 1, "YX")
    other, painted_other = replace(pair, image=brighter), replace(newer, image=brighter)
    control, renewed = JobControl(threads=1), list[AnnotationsUpdated]()
    offers, after = [(pair, painted_other), (pair,)], list[int]()

    def offer(event: Any) -> None:
        if isinstance(event, AnnotationsUpdated):
            renewed.append(event)
        if isinstance(event, StepDone) and event.step >= 22 and len(renewed) < 2:
            control.push_annotations(offers[len(renewed)])
        elif isinstance(event, StepDone) and len(renewed) == 2:
            after.append(event.step)
            if len(after) == 10:
                control.stop()

    settings = tiny(width=16, depth=3, steps=2000)
    train([pair, other], settings, control=control, on_event=offer)
    assert len(renewed) == 2
