"""Training: it learns, stops, repeats itself, goes on from a model, and survives failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from helpers import (
    NO_AUGMENT,
    blobs,
    broken_loss,
    dice,
    full_pair,
    of_kind,
    painted_pair,
    run_training,
    stopped_control,
    strokes,
    tiny,
)

from napari_unetseg.core.agreement import Observations
from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.events import Notice
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind, Structure
from napari_unetseg.core.metrics import Scores
from napari_unetseg.core.settings import AugmentSettings, TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.inference.predict import predict
from napari_unetseg.models.unet import UNet
from napari_unetseg.training.losses import LOSSES, LossInputs, LossTerm, Mean, cross_entropy
from napari_unetseg.training.train import train, train_events
from napari_unetseg.training.trainer import Trainer, Weights
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelSetAside,
    ModelUpdated,
    Outcome,
    SetAside,
    StepDone,
    TrainingDone,
    TrainingPrepared,
)
from napari_unetseg.training.training_plan import level_strides, make_plan
from napari_unetseg.training.validation import Validation

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

FAST = {"learning_rate": 2e-2}


@pytest.fixture(scope="module")
def pair() -> AnnotatedImage:
    return painted_pair()


@pytest.fixture(scope="module")
def trained(pair: AnnotatedImage) -> Model:
    """A model of some steps, to go on from."""
    return train([pair], tiny(steps=40, **FAST))


# -- it learns -----------------------------------------------------------------------------------


def one_structure() -> tuple[AnnotatedImage, Stack, np.ndarray]:
    (image, truth), (fresh, wanted) = blobs((96, 96), 12, 0), blobs((96, 96), 12, 5)
    return AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes"), Stack(fresh, "YX"), wanted


def two_structures(background: bool = True) -> tuple[AnnotatedImage, Stack, np.ndarray]:
    made = [blobs((96, 96), 14, seed, structures=2) for seed in (0, 5)]
    (image, truth), (fresh, wanted) = [(i, t * np.uint8(3)) for i, t in made]
    if not background:  # the ground is a structure that was painted with a number of its own
        truth, wanted = truth + np.uint8(1), wanted + np.uint8(1)
    painted = strokes(truth, 8, brush=background)
    return AnnotatedImage(Stack(image, "YX"), painted, "strokes"), Stack(fresh, "YX"), wanted


def colours() -> tuple[AnnotatedImage, Stack, np.ndarray]:
    """RGB; the structure has the brightness of the ground and differs in hue."""

    def make(seed: int) -> tuple[np.ndarray, np.ndarray]:
        noise, truth = blobs((96, 96), 12, seed)
        noise = noise - 0.8 * truth
        rgb = np.stack([0.5 + 0.3 * truth + noise, 0.5 - 0.3 * truth + noise, 0.5 + noise], -1)
        return (rgb.clip(0, 1) * 255).astype(np.uint8), truth

    (image, truth), (fresh, wanted) = make(0), make(5)
    return (
        AnnotatedImage(Stack(image, "YXS"), strokes(truth), "strokes"),
        Stack(fresh, "YXS"),
        wanted,
    )


def volume() -> tuple[AnnotatedImage, Stack, np.ndarray]:
    (image, truth), (fresh, wanted) = blobs((8, 40, 40), 8, 0), blobs((8, 40, 40), 8, 5)
    thick = (3.0, 1.0, 1.0)
    return (
        AnnotatedImage(Stack(image, "ZYX", thick), strokes(truth, 2), "strokes"),
        Stack(fresh, "ZYX", thick),
        wanted,
    )


def time_series() -> tuple[AnnotatedImage, Stack, np.ndarray]:
    """Strokes on two of four time points."""
    image, truth = blobs((4, 80, 80), 20, 2)
    painted = np.zeros_like(truth)
    painted[0], painted[2] = strokes(truth[0], 8), strokes(truth[2], 8)
    stack = Stack(image, "TYX")
    return AnnotatedImage(stack, painted, "strokes"), stack, truth


IN_3D = {
    "steps": 80,
    "dims": 3,
    "batch": 1,
    "width": 6,
    "learning_rate": 5e-2,
    "validation": 0.0,
}
KINDS: dict[
    str, tuple[Callable[[], tuple[AnnotatedImage, Stack, np.ndarray]], dict[str, Any], int]
] = {
    "one structure": (one_structure, {"steps": 80}, 1),
    "two structures": (two_structures, {"steps": 90, "width": 8}, 3),
    "no background": (lambda: two_structures(False), {"steps": 90, "width": 8}, 3),
    "RGB": (colours, {"steps": 80}, 1),
    "3D": (volume, IN_3D, 1),
    "time series": (time_series, {"steps": 80}, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_from_strokes(kind: str) -> None:
    make, settings, outputs = KINDS[kind]
    painted, fresh, wanted = make()
    model, events = run_training([painted], tiny(**{**FAST, **settings}))
    assert model.net.out_channels == outputs
    assert model.dims == settings.get("dims", 2)
    if kind == "3D":
        assert model.net.strides is not None
        assert model.net.strides[0] == (1, 2, 2)
        assert model.spacing == (3.0, 1.0, 1.0)
    mask = predict(model, fresh)
    assert set(np.unique(mask)) == set(np.unique(wanted))
    scores = [dice(wanted == n, mask == n) for n in model.classes.numbers if n]
    assert np.mean(scores) >= 0.9, scores
    losses = [e.loss for e in of_kind(events, StepDone)]
    # colours are told apart by the first fit already
    assert np.mean(losses[-8:]) < max(0.65 * np.mean(losses[:8]), 0.01)


def test_labels_of_all_kinds_and_corrections_train() -> None:
    image, truth = blobs((64, 64), 8, 1)
    for labels, kind in [
        (truth * np.uint8(255), LabelKind.FULL),
        (truth * np.arange(1, 65, dtype=np.uint16)[:, None], LabelKind.INSTANCES),
    ]:
        model = train([AnnotatedImage(Stack(image, "YX"), labels, kind)], tiny(steps=70, **FAST))
        assert model.classes.numbers == (0, 1)
        assert dice(truth > 0, predict(model, image) > 0) > 0.85
    fixed = AnnotatedImage(
        Stack(image, "YX"), np.zeros_like(truth), "strokes", corrections=strokes(truth, 8)
    )
    assert dice(truth > 0, predict(train([fixed], tiny(steps=70, **FAST)), image) > 0) > 0.85


def test_what_is_not_labelled_does_not_matter(pair: AnnotatedImage) -> None:
    """With patches inside one half, the unlabelled other half of the image changes nothing."""
    image, truth = blobs((48, 400), 30, 3)
    labels = strokes(truth, 8)
    labels[:, 100:] = 0
    other = image.copy()
    other[:, 300:] = other[:, 300:][:, ::-1]  # the same intensities, elsewhere
    settings = tiny(steps=6, augment=NO_AUGMENT, validation_fraction=0.0, pretrained=False)
    ids = [
        train([AnnotatedImage(Stack(i, "YX"), labels, "strokes")], settings).id
        for i in (image, other)
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("shape", [(1, 200), (12, 12), (5, 7), (200, 3), (8, 100)])
@pytest.mark.parametrize("depth", [1, 3])
def test_small_and_thin_images_train(shape: tuple[int, int], depth: int) -> None:
    labels = np.full(shape, 255, np.uint8)
    labels.flat[::3] = 1
    image = np.where(labels == 1, 200, 20).astype(np.uint8)
    settings = tiny(steps=2, depth=depth, patch=None, augment=AugmentSettings())
    model = train([AnnotatedImage(Stack(image, "YX"), labels, "strokes")], settings)
    assert predict(model, image).shape == shape


def test_images_of_one_voxel_train_together() -> None:
    pairs = [
        AnnotatedImage(
            Stack(np.array([values], np.uint8), "YX"), np.array([labels], np.uint8), "strokes"
        )
        for values, labels in [([10], [255]), ([200, 90], [1, 0])]
    ]
    model = train(pairs, tiny(steps=2, depth=4, patch=None, augment=AugmentSettings()))
    assert predict(model, pairs[0].image).shape == (1, 1)
    with pytest.raises(UserError, match="Only structure 1 is labelled"):
        train(pairs[1:], tiny(steps=2))


def flat_pair(name: str, value: int = 100) -> AnnotatedImage:
    pair = painted_pair()
    flat = np.full(pair.image.grid_shape, value, np.uint8)
    return AnnotatedImage(Stack(flat, "YX", name=name), pair.labels, "strokes")


def test_an_image_that_is_the_same_everywhere_is_warned_of() -> None:
    _, events = run_training([flat_pair("flat"), painted_pair()], tiny(steps=2))
    (text,) = [n.text for n in of_kind(events, Notice) if n.warning and "everywhere" in n.text]
    assert text.startswith("flat has the same value everywhere (100)")


@pytest.mark.parametrize(("count", "advice"), [(1, "; choose another."), (2, "; choose others.")])
def test_images_that_are_all_the_same_everywhere_are_refused(count: int, advice: str) -> None:
    pairs = [flat_pair(f"flat {n}", 50 * n + 100) for n in range(count)]
    with pytest.raises(UserError, match=r"flat 0 has the same value everywhere \(100\)") as error:
        train(pairs, tiny(steps=2))
    assert str(error.value).endswith(advice)


def test_a_signal_between_the_voxels_measured_is_trained_on() -> None:
    image, labels = np.zeros((1100, 1100), np.uint8), np.zeros((1100, 1100), np.uint8)
    image[1:30:2, 1:30:2] = 200  # of such planes every second voxel is measured
    labels[0:30, 0:30] = np.where(image[0:30, 0:30], 1, 255)
    _, events = run_training([AnnotatedImage(Stack(image, "YX"), labels, "strokes")], tiny(steps=2))
    assert not [n for n in of_kind(events, Notice) if n.warning]


def test_broken_pixels_do_no_harm() -> None:
    image, truth = blobs((64, 64), 8, 1)
    image[::9, ::7] = np.nan
    image[3, 3] = np.inf
    model, events = run_training(
        [AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes")], tiny(steps=12, **FAST)
    )
    assert all(math.isfinite(e.loss) for e in of_kind(events, StepDone))
    assert all(torch.isfinite(t).all() for t in model.weights.values())


# -- events and ends -----------------------------------------------------------------------------


def test_events_come_in_order_and_say_what_happens(pair: AnnotatedImage) -> None:
    model, events = run_training([pair], tiny(epochs=2, **FAST))
    kinds = [type(e) for e in events]
    assert kinds[:2] == [TrainingPrepared, ModelUpdated]  # an answer before the first step
    assert kinds[-1] is TrainingDone
    prepared, done = events[0], events[-1]
    steps, epochs = of_kind(events, StepDone), of_kind(events, EpochDone)
    assert [e.step for e in steps] == list(range(1, prepared.steps + 1))
    assert prepared.steps == 2 * prepared.epoch_steps
    assert [e.epoch for e in epochs] == [1, 2]
    assert epochs[0].step == prepared.epoch_steps
    assert kinds.index(EpochDone) == 2 + prepared.epoch_steps
    assert prepared.samples == prepared.epoch_steps * prepared.batch
    assert (prepared.batch, prepared.patch, prepared.device) == (4, (32, 32), "cpu")
    assert prepared.blocks > 0
    assert prepared.parameters == model.network().parameter_count
    assert prepared.train_voxels + prepared.validation_voxels <= np.count_nonzero(pair.labels)
    assert epochs[0].best
    assert epochs[0].train_loss == pytest.approx(
        np.mean([e.loss for e in steps[: prepared.epoch_steps]])
    )
    assert (done.steps, done.epochs) == (prepared.steps, 2)
    assert done.outcome is Outcome.COMPLETED
    record = model.history[-1]
    assert [p.epoch for p in record.curve] == [1, 2]
    assert record.labelled_voxels == prepared.train_voxels + prepared.validation_voxels
    assert record.scores == model.scores == done.scores
    assert model.validated


def test_a_number_of_steps(pair: AnnotatedImage) -> None:
    model, events = run_training([pair], tiny(steps=5))
    assert len(of_kind(events, StepDone)) == model.history[-1].steps == 5
    assert len(of_kind(events, EpochDone)) == 1


def test_a_number_of_minutes(pair: AnnotatedImage) -> None:
    # patience 1 would end a training that nobody limits; this one has its time
    _, events = run_training([pair], tiny(minutes=0.02, patience=1, learning_rate=1e-30))
    done = events[-1]
    assert done.seconds >= 1.2
    assert done.outcome is Outcome.TIME_OVER
    assert events[0].steps == 0
    assert all(e.remaining is None or e.remaining <= 1.2 for e in of_kind(events, StepDone))


def test_it_ends_by_itself_when_nothing_improves(pair: AnnotatedImage) -> None:
    settings = tiny(patience=2, learning_rate=1e-30, norm="none")
    _, events = run_training([pair], settings)
    assert events[-1].outcome is Outcome.EARLY_STOPPED
    assert len(of_kind(events, EpochDone)) == 2


def test_classic_settings_are_adam_at_1e_3_for_25_epochs(pair: AnnotatedImage) -> None:
    settings = TrainSettings.classic(depth=2, width=4, patch=32, threads=1, device="cpu")
    assert (settings.epochs, settings.learning_rate) == (25, 1e-3)
    assert not settings.dice
    control = JobControl(threads=1)
    for event in train_events([pair], settings, control=control):
        if isinstance(event, TrainingPrepared):
            assert event.steps == 25 * event.epoch_steps
            break


def scored(
    monkeypatch: pytest.MonkeyPatch, marks: list[float], again: float = 0.0
) -> list[Weights]:
    """Let validations find these marks, one after another; the weights that were validated.

    Weights that are validated again, on newer labels, find ``again``.
    """
    seen: list[Weights] = []

    def validate(self: Trainer, weights: Weights | None = None) -> Validation:
        new = weights is None or not any(weights is one for one in seen)
        mark = marks[len(seen)] if new else again
        if new:
            seen.append(self.weights() if weights is None else weights)
        classes, right = np.repeat([0, 1], 10), np.full(20, mark)
        found = Scores(("structure 1",), (1,), (mark,), (mark,), 99, 9, mark)
        return Validation(found, Observations(classes, np.full(20, 9), right, right))

    monkeypatch.setattr(Trainer, "validate", validate)
    return seen


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_newest_weights_are_returned_and_the_best_are_set_aside(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that is a little lower is no reason to go back."""
    seen = scored(monkeypatch, [0.88, 0.9, 0.9, 0.9, 0.885])
    model, events = run_training([pair], tiny(epochs=4))
    assert [e.best for e in of_kind(events, EpochDone)] == [True, True, True, False]
    assert model.scores is not None
    assert model.scores.dice == (0.885,)
    assert same(model.weights, seen[4])
    (aside,) = of_kind(events, ModelSetAside)
    assert (aside.reason, aside.step) == (SetAside.BEST, 3 * events[0].epoch_steps)
    assert same(aside.model.weights, seen[3])
    assert not same(seen[3], seen[4])
    assert aside.model.scores is not None
    assert aside.model.scores.dice == (0.9,)
    (done,) = of_kind(events, TrainingDone)
    assert done.scores == model.scores


def test_every_epoch_shows_its_weights_whatever_they_score(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored(monkeypatch, [0.9, 0.1, 0.9, 0.1, 0.9])
    _, events = run_training([pair], tiny(epochs=4))
    shown = [e for e in of_kind(events, ModelUpdated) if e.scores is not None]
    assert all(same(e.model.weights, one) for e, one in zip(shown, seen, strict=True))
    assert [e.urgent for e in shown] == [True, False, False, False, False]


def test_a_fall_twice_in_a_row_goes_back_and_says_so(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored(monkeypatch, [0.2, 0.9, 0.5, 0.6, 0.9])
    rates: list[float] = []
    step = Trainer.step

    def watched(self: Trainer, rate: float) -> dict[str, float]:
        rates.append(self.lr_backoff)
        return step(self, rate)

    monkeypatch.setattr(Trainer, "step", watched)
    _, events = run_training([pair], tiny(epochs=4))
    length = events[0].epoch_steps
    kinds = [type(e) for e in events]
    at = kinds.index(ModelSetAside)
    assert kinds[at - 1 : at + 3] == [EpochDone, ModelSetAside, Notice, ModelUpdated]
    aside, notice, shown = events[at : at + 3]
    assert (aside.reason, aside.step) == (SetAside.FELL, 3 * length)
    assert same(aside.model.weights, seen[3])
    assert f"fell after step {length}, so training went back" in notice.text
    assert notice.text.count(". ") == 0
    assert notice.warning
    assert shown.urgent
    assert same(shown.model.weights, seen[1])
    assert rates == [1.0] * (3 * length) + [0.5] * length
    assert events[-1].scores.dice == (0.9,)


def test_a_fall_at_the_very_end_goes_back_at_once(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored(monkeypatch, [0.2, 0.9, 0.5])
    model, events = run_training([pair], tiny(epochs=2))
    (aside,) = of_kind(events, ModelSetAside)
    assert aside.reason is SetAside.FELL
    assert same(aside.model.weights, seen[2])
    assert same(model.weights, seen[1])
    assert f"The model of step {events[0].epoch_steps} is kept." in events[-1].reason


def test_newer_annotations_are_learned_at_the_full_rate_after_a_fall(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a long session would learn ever more slowly."""
    scored(monkeypatch, [0.2, 0.9, 0.5, 0.6, 0.9, 0.9], 0.9)
    monkeypatch.setattr(TrainingDataset, "labels_added_since", lambda *_: [])
    newer = AnnotatedImage(pair.image, strokes(blobs((96, 96), 12, 0)[1], 4), "strokes")
    rates, control, step = list[float](), JobControl(threads=1), Trainer.step

    def watched(self: Trainer, rate: float) -> dict[str, float]:
        rates.append(self.lr_backoff)
        return step(self, rate)

    def offer(event: Any) -> None:
        if isinstance(event, EpochDone) and event.epoch == 4:
            control.push_annotations((newer,))

    monkeypatch.setattr(Trainer, "step", watched)
    train([pair], tiny(epochs=5), control=control, on_event=offer)
    assert rates[0] == rates[-1] == 1.0
    assert min(rates) == 0.5


def test_a_stop_keeps_the_model_on_screen_after_a_single_fall(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The better one is a click away."""
    seen = scored(monkeypatch, [0.2, 0.9, 0.5])
    control, asides, epochs = JobControl(threads=1), list[ModelSetAside](), list[bool]()

    def watch(event: Any) -> None:
        epochs.append(isinstance(event, EpochDone))
        if sum(epochs) and isinstance(event, StepDone):
            control.stop()
        if isinstance(event, ModelSetAside):
            asides.append(event)

    model = train([pair], tiny(epochs=3), control=control, on_event=watch)
    assert same(model.weights, seen[2])
    (aside,) = asides
    assert aside.reason is SetAside.BEST
    assert same(aside.model.weights, seen[1])


def test_the_initial_model_is_gone_back_to_as_well(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.9, 0.1, 0.2])
    model, events = run_training([pair], tiny(epochs=2))
    assert [e.best for e in of_kind(events, EpochDone)] == [False, False]
    assert same(model.weights, of_kind(events, ModelUpdated)[0].model.weights)
    assert "The model of step 0 is kept." in events[-1].reason


def test_the_model_that_was_set_aside_is_one_request_away(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on from it, and coming epochs are compared with it."""
    seen = scored(monkeypatch, [0.2, 0.9, 0.5, 0.6, 0.6, 0.6])
    control = JobControl(threads=1)
    events: list[Any] = []

    def watch(event: Any) -> None:
        events.append(event)
        if isinstance(event, ModelSetAside):
            control.ask_for_set_aside()

    model = train([pair], tiny(epochs=5, ema=False), control=control, on_event=watch)
    at = [type(e) for e in events].index(ModelSetAside)
    back, again = [e for e in events[at:] if isinstance(e, ModelUpdated) and e.urgent]
    assert same(back.model.weights, seen[1])
    assert same(again.model.weights, seen[3])
    assert isinstance(events[events.index(again) + 1], StepDone)
    assert same(model.weights, seen[5])
    fell = [e for e in of_kind(events, ModelSetAside) if e.reason is SetAside.FELL]
    assert len(fell) == 1


def test_what_was_learned_since_a_fall_is_set_aside_for_the_model_that_fell(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.2, 0.9, 0.5, 0.6, 0.9, 0.9])
    control, asides, learned = JobControl(threads=1), list[ModelSetAside](), list[Any]()

    def watch(event: Any) -> None:
        if isinstance(event, ModelSetAside):
            asides.append(event)
        if isinstance(event, ModelUpdated) and event.step > 0 and not event.urgent:
            learned.append(event.model.weights)
        if isinstance(event, EpochDone) and event.epoch == 4:
            control.ask_for_set_aside()

    train([pair], tiny(epochs=5), control=control, on_event=watch)
    fell, left = asides[:2]
    assert (fell.reason, left.reason) == (SetAside.FELL, SetAside.LEFT)
    assert left.step > fell.step
    assert any(same(left.model.weights, one) for one in learned)


def test_a_request_without_a_model_set_aside_changes_nothing(pair: AnnotatedImage) -> None:
    control = JobControl(threads=1)
    control.ask_for_set_aside()
    asked = train([pair], tiny(steps=3), control=control)
    assert asked.id == train([pair], tiny(steps=3)).id


def test_training_that_breaks_the_weights_goes_back_by_its_real_scores(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def breaking(self: Trainer, rate: float) -> dict[str, float]:
        losses = step(self, rate)
        if self.steps > 30 and self.lr_backoff == 1:
            with torch.no_grad():
                for weights in (self.network.head.weight, self.ema_network.head.weight):
                    weights.mul_(-1 if self.steps == 31 else 1)
        return losses

    monkeypatch.setattr(Trainer, "step", breaking)
    model, events = run_training([pair], tiny(steps=100, learning_rate=1e-4))
    (fell,) = [e for e in of_kind(events, ModelSetAside) if e.reason is SetAside.FELL]
    (notice,) = [e for e in of_kind(events, Notice) if e.warning]
    assert "training went back" in notice.text
    truth, masks = blobs((96, 96), 12, 0)[1], [predict(m, pair.image) for m in (model, fell.model)]
    good, bad = (dice(truth > 0, mask > 0) for mask in masks)
    assert good > bad + 0.3


def test_without_a_score_the_newest_weights_are_returned_and_it_is_said() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[10, 10:20], labels[40, 10:20] = 1, 255
    image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    model, events = run_training(
        [AnnotatedImage(Stack(image, "YX"), labels, "strokes")], tiny(epochs=2)
    )
    assert "too few labels" in events[0].text
    assert isinstance(events[1], TrainingPrepared)
    assert events[1].blocks == events[1].validation_voxels == 0
    assert not model.validated
    assert model.scores is None
    assert [e.scores for e in of_kind(events, EpochDone)] == [None, None]


def test_structures_keep_the_users_names(pair: AnnotatedImage) -> None:
    names = [Structure(1, "nucleus", "#ff0000"), Structure(2, "not painted")]
    model = train([pair], tiny(steps=1), structures=names)
    assert model.classes.structures == (names[0],)


# -- what the settings leave open ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spacing", "strides"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), ((2, 2, 2), (2, 2, 2), (2, 2, 2))),
        ((64, 64, 64), (4.0, 1.0, 1.0), ((1, 2, 2), (1, 2, 2), (2, 2, 2))),
        ((64, 64, 64), (1.0, 2.0, 2.0), ((2, 1, 1), (2, 2, 2), (2, 2, 2))),
        ((6, 64, 64), (1.0, 1.0, 1.0), ((2, 2, 2), (1, 2, 2), (1, 2, 2))),
        ((1, 64, 64), (0.0, 1.0, 1.0), ((1, 2, 2), (1, 2, 2), (1, 2, 2))),
    ],
)
def test_coarse_and_thin_axes_keep_their_voxels(
    shape: tuple[int, ...], spacing: tuple[float, ...], strides: tuple[tuple[int, ...], ...]
) -> None:
    assert level_strides(shape, spacing, 4) == strides


def test_more_annotation_makes_longer_epochs() -> None:
    steps = []
    for every in (48, 4):
        image, truth = blobs((192, 192), 40)
        pairs = [AnnotatedImage(Stack(image, "YX"), strokes(truth, every), "strokes")]
        for event in train_events(pairs, tiny(patch=32, batch=2)):
            if isinstance(event, TrainingPrepared):
                steps.append(event.epoch_steps)
                break
    assert steps[0] < steps[1]


# -- stop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 3, 30])
def test_stop_returns_what_was_learned(pair: AnnotatedImage, after: int) -> None:
    control = JobControl(threads=1)
    events = train_events([pair], tiny(epochs=50), control=control)
    seen: list[Any] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            model = end.value
            break
        if len(of_kind(seen, StepDone)) == after:
            control.stop()
    assert model.history[-1].steps == after
    assert seen[-1].outcome is Outcome.STOPPED
    assert "it was stopped" in seen[-1].reason
    assert isinstance(seen[-1], TrainingDone)
    assert predict(model, pair.image).shape == (96, 96)


def test_stop_before_the_first_step_is_a_sentence(pair: AnnotatedImage) -> None:
    with pytest.raises(TrainingError, match="nothing was learned yet"):
        train([pair], tiny(), control=stopped_control())


def test_stop_is_seen_between_the_images_of_the_first_answer() -> None:
    """It need not be finished first: with large images that takes longer than a person waits."""
    image, truth = blobs((6, 48, 48), 30, 3)
    painted = np.stack([strokes(plane, 8) for plane in truth])

    class Impatient(JobControl):
        """Asked to stop while the first answer looks at its third image."""

        looks = 0

        @property
        def stopped(self) -> bool:
            self.looks += 1
            return self.looks > 3

    control = Impatient(threads=1)
    events: list[Any] = []
    with pytest.raises(TrainingError, match="nothing was learned yet"):
        train(
            [AnnotatedImage(Stack(image, "TYX"), painted, "strokes")],
            tiny(),
            control=control,
            on_event=events.append,
        )
    assert not of_kind(events, ModelUpdated)
    assert not of_kind(events, StepDone)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("strokes", {}, "weight 1.6"),
        ("strokes", {"edge_loss_weight": 4.0}, "weight 0.8"),
        ("strokes", {"edge_loss_weight": 0.0}, "none"),
        ("full", {}, "none"),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_borders_are_drawn_for_strokes_and_less_for_few(
    kind: str, settings: dict[str, Any], said: str, pretrained: bool
) -> None:
    """What is said is what is done: the same weights without it where it is not drawn."""
    image, truth = blobs((40, 40), 12, 3)
    labels = (truth > 0).astype(np.uint8) if kind == "full" else strokes(truth, 14)
    pair = AnnotatedImage(Stack(image, "YX"), labels, LabelKind(kind))
    known = {"pretrained": pretrained, "steps": 3, "width": 16, **settings}
    model, events = run_training([pair], tiny(**known))
    prepared = of_kind(events, TrainingPrepared)[0]
    assert said in next(c.value for c in prepared.choices if c.name == "Edge loss")
    without = train([pair], tiny(**{**known, "edge_loss_weight": 0.0}))
    assert (model.id == without.id) == (said == "none")


def test_leaving_the_generator_ends_it(pair: AnnotatedImage) -> None:
    events = train_events([pair], tiny(epochs=50))
    assert isinstance(next(events), TrainingPrepared)
    events.close()
    with pytest.raises(StopIteration):
        next(events)


def test_threads_may_change_while_it_runs(pair: AnnotatedImage) -> None:
    control, before = JobControl(threads=1), torch.get_num_threads()
    try:
        seen = []
        for event in train_events(
            [pair], tiny(steps=3, patch=8, batch=1, width=1), control=control
        ):
            if isinstance(event, StepDone):
                seen.append(torch.get_num_threads())
                control.threads = 2
        assert seen == [1, 2, 2]
    finally:
        torch.set_num_threads(before)


# -- the same again ------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_a_seed_makes_two_runs_identical(dims: int) -> None:
    shape = (96, 96) if dims == 2 else (8, 40, 40)
    settings = tiny(
        steps=14, dims=dims, batch=2, augment=AugmentSettings(elastic=1.0, blur=0.5), dropout=0.2
    )
    ids = []
    for number, seed in [(1, 0), (2, 0), (3, 7)]:
        torch.manual_seed(number)  # of no importance
        np.random.default_rng(number)
        chosen = settings.model_copy(update={"seed": seed})
        ids.append(train([painted_pair(shape)], chosen).id)
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_training_leaves_the_random_numbers_of_others_alone(pair: AnnotatedImage) -> None:
    state = torch.get_rng_state()
    train([pair], tiny(steps=2))
    assert torch.equal(state, torch.get_rng_state())


# -- going on from a model -----------------------------------------------------------------------


def test_going_on_starts_where_the_model_was(pair: AnnotatedImage, trained: Model) -> None:
    before = {name: tensor.clone() for name, tensor in trained.weights.items()}
    name = trained.id
    settings = tiny(steps=3, learning_rate=1e-4)
    model = train([pair], settings, init=trained)
    for key in ("encoder.0.0.weight", "decoder.0.0.weight", "head.weight"):
        torch.testing.assert_close(model.weights[key], before[key], atol=1e-3, rtol=1e-2)
        assert not torch.equal(model.weights[key], before[key])
    assert len(model.history) == 2
    assert model.history[:1] == trained.history
    assert model.history[1].parent == name
    assert model.net == trained.net
    assert model.classes == trained.classes
    assert model.normalization == trained.normalization
    # the earlier model is as it was
    assert all(torch.equal(before[n], t) for n, t in trained.weights.items())
    assert trained.id == name
    assert len(trained.history) == 1


def test_a_model_that_a_training_breaks_keeps_its_weights(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = train([pair], tiny(steps=60, **FAST))

    def ascent(batch: LossInputs) -> Mean:
        mean = cross_entropy(batch)
        return mean._replace(value=-5 * mean.value)

    terms = (LossTerm("cross_entropy", lambda _: 1.0, ascent), *LOSSES[1:])
    monkeypatch.setattr("napari_unetseg.training.trainer.LOSSES", terms)
    settings = tiny(steps=12, learning_rate=0.1, ema=False, cosine_schedule=False)
    model, events = run_training([pair], settings, init=good)
    assert model.id == good.id
    assert len(model.history) == 1 + len(good.history)
    (done,) = of_kind(events, TrainingDone)
    assert "The model of step 0 is kept." in done.reason
    assert done.scores is not None
    assert done.scores == model.scores
    assert [e.reason for e in of_kind(events, ModelSetAside)] == [SetAside.FELL]


def test_an_error_after_an_epoch_keeps_what_was_learned(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def failing(self: Trainer, rate: float) -> float:
        if self.steps == 20:
            raise RuntimeError("the device was lost")
        return step(self, rate)

    monkeypatch.setattr(Trainer, "step", failing)
    model, events = run_training([pair], tiny(steps=60))
    (done,) = of_kind(events, TrainingDone)
    assert done.outcome is Outcome.FAILED
    assert "the device was lost" in done.reason
    assert model.history[-1].curve


def test_the_models_architecture_wins_over_the_settings(
    pair: AnnotatedImage, trained: Model
) -> None:
    model = train([pair], tiny(steps=1, depth=4, width=32, norm="none"), init=trained)
    assert model.net == trained.net


def test_the_frozen_encoder_stays_bit_for_bit(pair: AnnotatedImage, trained: Model) -> None:
    model = train(
        [pair], tiny(steps=8, freeze_encoder=True, validation_fraction=0.0, **FAST), init=trained
    )
    same = {n: torch.equal(t, trained.weights[n]) for n, t in model.weights.items()}
    assert all(same[n] for n in same if n.startswith("encoder."))
    assert not any(same[n] for n in same if n.startswith("head."))
    assert not all(same[n] for n in same if n.startswith("decoder."))


# -- newer annotations ---------------------------------------------------------------------------


def with_newer(
    pair: AnnotatedImage, newer: AnnotatedImage, **settings: Any
) -> tuple[Model, list[Any]]:
    """Train for two epochs; the newer annotations are offered after the first."""
    control = JobControl(threads=1)
    events = train_events([pair], tiny(epochs=2, **settings), control=control)
    seen: list[Any] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return end.value, seen
        if isinstance(seen[-1], EpochDone) and seen[-1].epoch == 1:
            control.push_annotations((newer,))


def test_newer_annotations_are_used_from_the_next_step_on(pair: AnnotatedImage) -> None:
    newer = AnnotatedImage(pair.image, strokes(blobs((96, 96), 12, 0)[1], 4), "strokes")
    model, events = with_newer(pair, newer)
    voxels = model.history[-1].labelled_voxels
    assert voxels > 2 * events[0].train_voxels
    (renewed,) = of_kind(events, AnnotationsUpdated)
    assert renewed.voxels == voxels
    assert renewed.step in (events[0].epoch_steps, events[0].epoch_steps + 1)


def test_what_is_offered_goes_with_what_stays(pair: AnnotatedImage) -> None:
    control, other = JobControl(), AnnotatedImage(pair.image, pair.labels, "strokes")
    control.set_fixed_annotations((other,))
    assert control.pop_annotations() is None
    control.push_annotations((pair,))
    assert control.pop_annotations() == (pair, other)
    assert control.pop_annotations() is None


@pytest.mark.parametrize(
    ("offered", "again", "falls"), [(True, 0.4, False), (True, 0.9, True), (False, 0.0, True)]
)
def test_scores_on_older_annotations_are_not_compared(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch, offered: bool, again: float, falls: bool
) -> None:
    """The best weights are scored again on the newer ones: 0.8 becomes ``again``."""
    scored(monkeypatch, [0.1, 0.8, 0.5], again)
    monkeypatch.setattr(TrainingDataset, "labels_added_since", lambda *_: [])
    newer = AnnotatedImage(pair.image, strokes(blobs((96, 96), 12, 0)[1], 4), "strokes")
    if offered:
        model, events = with_newer(pair, newer)
    else:
        model, events = run_training([pair], tiny(epochs=2))
    assert [e.best for e in of_kind(events, EpochDone)] == [True, not falls]
    assert bool(of_kind(events, ModelSetAside)) is falls
    assert model.scores is not None
    assert model.scores.mean_dice == (0.5 if not falls else again if offered else 0.8)


def test_the_score_that_decides_goes_by_what_classes_cover(pair: AnnotatedImage) -> None:
    """As many strokes of both classes; one of them is thought to be rare."""
    settings = tiny()
    data = TrainingDataset([pair], 2, settings.validation_fraction)
    plan = make_plan(data, settings, "cpu", None)

    def score(shares: tuple[float, ...] | None) -> Scores:
        learner = Trainer(data, plan, settings, torch.device("cpu"), class_priors=shares)
        found = learner.validate()
        assert found is not None
        return found.scores

    plain, rare = score(None), score((0.99, 0.01))
    assert plain.dice == rare.dice
    assert rare.soft_dice < plain.soft_dice - 0.05
    assert score((0.99, 0.01)) == rare


def test_an_epoch_whose_score_is_no_number_is_not_the_best(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.1, 0.5, math.nan, 0.9])
    model, events = run_training([pair], tiny(epochs=3))
    assert [e.best for e in of_kind(events, EpochDone)] == [True, False, True]
    assert model.scores is not None
    assert model.scores.dice == (0.9,)


def test_weights_are_scored_as_they_are(pair: AnnotatedImage) -> None:
    """Those of a model beside the newest ones, which stay."""
    settings = tiny()
    data = TrainingDataset([pair], 2, settings.validation_fraction)
    plan = make_plan(data, settings, "cpu", None)
    learner = Trainer(data, plan, settings, torch.device("cpu"))
    before, first = learner.weights(), learner.validate()
    for _ in range(20):
        learner.step(1.0)
    newest = learner.weights()
    again, now = learner.validate(before), learner.validate()
    assert first is not None
    assert again is not None
    assert now is not None
    assert again.scores == first.scores
    assert np.array_equal(again.observations.soft, first.observations.soft)
    assert now.scores != first.scores
    assert all(torch.equal(newest[n], t) for n, t in learner.weights().items())


def unfit_labels(pair: AnnotatedImage, how: str) -> AnnotatedImage:
    labels = pair.labels.copy()
    if how == "one class":
        labels[labels == 1] = 0
    elif how == "other structure":
        labels[:5] = 3
    else:
        labels = labels * np.uint16(300)
    return AnnotatedImage(pair.image, labels, "strokes")


@pytest.mark.parametrize("how", ["one class", "other structure", "nonsense"])
def test_newer_annotations_that_do_not_fit_cost_nothing(pair: AnnotatedImage, how: str) -> None:
    model, events = with_newer(pair, unfit_labels(pair, how))
    (notice,) = of_kind(events, Notice)
    assert "continues with the earlier annotations" in notice.text
    assert model.history[-1].steps == events[0].steps
    assert model.history[-1].labelled_voxels == (
        events[0].train_voxels + events[0].validation_voxels
    )


# -- when something goes wrong -------------------------------------------------------------------


def memory_for(voxels: int) -> Callable[[UNet, torch.Tensor], torch.Tensor]:
    """A forward pass that has room for so many voxels of image."""
    forward = UNet.forward

    def limited(network: UNet, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > voxels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(network, x)

    return limited


def test_out_of_memory_takes_smaller_batches_then_smaller_patches(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(UNet, "forward", memory_for(32 * 32))
        model, events = run_training([pair], tiny(steps=14, patch=64, batch=4))
    notices = [e.text for e in of_kind(events, Notice)]
    assert [t for t in notices if "continuing with" in t] == [
        "Not enough memory: continuing with 2 patch(es) per step.",
        "Not enough memory: continuing with 1 patch(es) per step.",
        "Not enough memory: continuing with patches of 32 × 32.",
    ]
    assert len(of_kind(events, StepDone)) == 14
    assert model.validated  # blocks are scored with less around them
    assert train([pair], tiny(steps=2, patch=64)).history[-1].steps == 2  # and all is well again


def test_one_failed_allocation_is_not_the_end(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [0], UNet.forward

    def once(network: UNet, x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 9:  # in a step
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return forward(network, x)

    monkeypatch.setattr(UNet, "forward", once)
    model, events = run_training([pair], tiny(steps=9))
    assert "2 patch(es)" in of_kind(events, Notice)[0].text
    assert model.history[-1].steps == 9


def test_no_memory_at_all_is_one_sentence(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UNet, "forward", memory_for(0))
    with pytest.raises(TrainingError, match="not enough memory for even the smallest patch"):
        train([pair], tiny(steps=9))


@pytest.mark.parametrize(("voxels", "scored"), [(20 * 20, True), (0, False)])
def test_little_memory_for_a_score_still_gives_a_model(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch, voxels: int, scored: bool
) -> None:
    """Blocks of 12 × 12 are scored with less around them, or not at all."""
    forward = UNet.forward

    def limited(network: UNet, x: torch.Tensor) -> torch.Tensor:
        if not network.training and x.numel() > voxels:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, x)

    monkeypatch.setattr(UNet, "forward", limited)
    model, events = run_training([pair], tiny(epochs=2))
    notices = [e.text for e in of_kind(events, Notice) if "no score" in e.text]
    assert len(notices) == (0 if scored else 2)
    assert model.validated == scored
    assert model.history[-1].steps == events[0].steps


@pytest.mark.parametrize("gradient", [False, True])
def test_a_loss_that_is_no_number_goes_back_and_on(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch, gradient: bool
) -> None:
    broken_loss(monkeypatch, lambda n: n == 12, gradient)  # the last step of the first epoch
    model, events = run_training([pair], tiny(steps=20))
    (notice,) = of_kind(events, Notice)
    assert "became NaN" in notice.text
    assert model.history[-1].steps == 20
    assert all(math.isfinite(e.loss) for e in of_kind(events, StepDone))
    assert all(torch.isfinite(t).all() for t in model.weights.values())


def test_weights_that_became_no_numbers_are_replaced(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [0], UNet.forward

    def poisoned(network: UNet, x: torch.Tensor) -> torch.Tensor:
        calls[0] += network.training
        if network.training and calls[0] == 15:
            with torch.no_grad():
                for tensor in network.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.fill_(math.nan)
        return forward(network, x)

    monkeypatch.setattr(UNet, "forward", poisoned)
    model, events = run_training([pair], tiny(steps=20))
    assert len(of_kind(events, Notice)) == 1
    assert model.history[-1].steps == 20
    assert all(math.isfinite(e.loss) for e in of_kind(events, StepDone))
    assert all(torch.isfinite(t).all() for t in model.weights.values())


@pytest.mark.parametrize("gradient", [False, True])
def test_a_loss_that_stays_no_number_ends_it_with_what_was_learned(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch, gradient: bool
) -> None:
    broken_loss(monkeypatch, lambda n: n > 20, gradient)
    model, events = run_training([pair], tiny(steps=100))
    assert events[-1].outcome is Outcome.DIVERGED
    assert "NaN" in events[-1].reason
    assert model.history[-1].steps == 20
    assert all(torch.isfinite(t).all() for t in model.weights.values())
    assert predict(model, pair.image).shape == (96, 96)


def test_a_loss_that_never_was_a_number_is_one_sentence(
    pair: AnnotatedImage, trained: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_loss(monkeypatch, lambda n: True)
    name = trained.id
    with pytest.raises(TrainingError, match="failed in its first steps"):
        train([pair], tiny(steps=9), init=trained)
    assert trained.id == name
    assert all(torch.isfinite(t).all() for t in trained.weights.values())


def test_other_errors_are_shown_as_they_are(
    pair: AnnotatedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: UNet, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(UNet, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train([pair], tiny(steps=9))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: [], "no image with labels"),
        (lambda: [full_pair(np.zeros((9, 9)), np.zeros((9, 9), int), "YX")], "Only background"),
        (lambda: [full_pair(np.zeros((9, 8)), np.zeros((9, 9), int), "YX")], "has the shape"),
        (lambda: [painted_pair(), painted_pair((2, 96, 96), axes="CYX")], r"channel\(s\)|shape"),
    ],
)
def test_bad_input_is_one_sentence(make: Callable[[], list[AnnotatedImage]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        train(make(), tiny(steps=1))
    assert "\n" not in str(error.value)
