"""A model that training goes on from is held to what it said where nothing was painted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers import blobs, dice, of_kind, run_training, strokes, tiny
from torch import Tensor

from napari_unetseg.core.events import Notice
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX, LabelKind
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.inference.predict import predict
from napari_unetseg.training import distillation, trainer
from napari_unetseg.training.distillation import DISTRUST_RADIUS, HELD_OUT
from napari_unetseg.training.train import train
from napari_unetseg.training.training_events import EpochDone, TrainingPrepared

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.training_record import AutoSetting

# -- the loss --------------------------------------------------------------------------------------


def distillation_loss(
    logits: torch.Tensor, said: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """The mean over the voxels that count."""
    return distillation.distillation_loss(logits, said, target)[0]


def unlabelled(*shape: int) -> Tensor:
    return torch.full((1, *shape), IGNORE_INDEX, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(20, 24), (3, 20, 24)])
def test_the_loss_is_least_where_both_say_the_same(shape: tuple[int, ...]) -> None:
    said = torch.randn(1, 3, *shape)
    same = distillation_loss(said, said, unlabelled(*shape))
    entropy = torch.distributions.Categorical(logits=said.movedim(1, -1)).entropy().mean()
    torch.testing.assert_close(same, entropy)
    assert distillation_loss(torch.randn_like(said), said, unlabelled(*shape)) > same


def test_one_logit_is_the_difference_of_two() -> None:
    logits, said = torch.randn(2, 1, 2, 16, 16)
    one = [(x[:, 1:] - x[:, :1]) for x in (logits, said)]
    target = unlabelled(16, 16)
    torch.testing.assert_close(
        distillation_loss(*one, target), distillation_loss(logits, said, target)
    )


@pytest.mark.parametrize("shape", [(64, 64), (2, 64, 64)])
def test_labels_and_what_is_near_a_wrong_one_do_not_count(shape: tuple[int, ...]) -> None:
    logits = torch.zeros(1, 1, *shape, requires_grad=True)
    said = torch.full_like(logits, -3.0)  # background everywhere
    target = unlabelled(*shape)
    target[..., 30, 30] = 1  # the teacher is wrong here
    target[..., 5, 50] = 0  # and right here
    target[..., 50:54, 8:12] = HELD_OUT
    distillation_loss(logits, said, target).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    counts = (logits.grad[0, 0] != 0).reshape(-1, *shape[-2:])
    expected = torch.ones(64, 64, dtype=torch.bool)
    expected[
        30 - DISTRUST_RADIUS : 31 + DISTRUST_RADIUS, 30 - DISTRUST_RADIUS : 31 + DISTRUST_RADIUS
    ] = False
    expected[5, 50] = expected[50:54, 8:12] = False
    assert all(torch.equal(plane, expected) for plane in counts)


def test_where_nothing_counts_it_is_0() -> None:
    logits = torch.randn(1, 1, 8, 8, requires_grad=True)
    loss = distillation_loss(logits, torch.randn(1, 1, 8, 8), torch.zeros_like(unlabelled(8, 8)))
    assert float(loss.detach()) == 0
    loss.backward()  # type: ignore[no-untyped-call]


# -- training --------------------------------------------------------------------------------------


CORNER, FAR = np.s_[:40, :40], np.s_[56:, 56:]


@pytest.fixture(scope="module")
def pair() -> AnnotatedImage:
    """Blobs with strokes; the ground of one corner is brighter."""
    image, truth = blobs((96, 96), 14)
    image[CORNER] += 0.3
    return AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes")


@pytest.fixture(scope="module")
def before(pair: AnnotatedImage) -> Model:
    return train([pair], tiny(steps=80, width=16, depth=3))


def on(before: Model, pair: AnnotatedImage, hold: float, steps: int = 150) -> Model:
    return train(
        [pair],
        tiny(steps=steps, distillation_weight=hold, validation_fraction=0.0, batch=8),
        init=before,
    )


def same_weights(one: Model, other: Model) -> bool:
    return all(torch.equal(t, other.weights[name]) for name, t in one.weights.items())


def test_strokes_where_a_mask_is_wrong_do_not_spoil_the_rest(
    pair: AnnotatedImage, before: Model
) -> None:
    """In the bright corner all is the other way round, and only there is something painted."""
    known = predict(before, pair.image)
    labels = np.zeros_like(pair.labels)
    labels[CORNER] = np.where(known[CORNER] > 0, BACKGROUND_LABEL, 1)
    corner = replace(pair, labels=labels)
    found = [predict(on(before, corner, hold), pair.image) for hold in (0.0, 1.0)]
    free, held = (dice(known[FAR] > 0, mask[FAR] > 0) for mask in found)
    assert held > 0.8
    assert held > free + 0.3
    assert (found[1][CORNER] != known[CORNER]).mean() > 0.8  # what was painted is learned


def begun(pair: AnnotatedImage, init: Model, **changes: float) -> AutoSetting:
    """What a training says that it begins with."""
    _, events = run_training([pair], tiny(steps=1, **changes), init=init)
    (prepared,) = of_kind(events, TrainingPrepared)
    (choice,) = [c for c in prepared.choices if c.name == "Start"]
    assert choice.value == "your model"
    return choice


def test_the_user_reads_that_it_is_held(pair: AnnotatedImage, before: Model) -> None:
    assert "its mask is kept" in begun(pair, before).reason
    assert begun(pair, before).setting == "distillation_weight"
    assert "keeps" not in begun(pair, before, distillation_weight=0.0).reason
    other = AnnotatedImage(Stack(np.asarray(pair.image.data)[::-1], "YX"), pair.labels, "strokes")
    assert "keeps" not in begun(other, before).reason


def test_a_mask_that_nobody_saw_holds_nothing_back(before: Model) -> None:
    image, truth = blobs((96, 96), 14, seed=5)
    unseen = AnnotatedImage(Stack(image, "YX"), strokes(truth), "strokes")
    assert same_weights(on(before, unseen, 0.0, 3), on(before, unseen, 2.0, 3))
    corrections = np.zeros_like(unseen.labels)
    corrections[:4, :4] = BACKGROUND_LABEL
    corrected = replace(unseen, corrections=corrections)
    assert not same_weights(on(before, corrected, 0.0, 3), on(before, corrected, 2.0, 3))


@pytest.mark.parametrize("offers", [True, False], ids=["newer strokes", "none"])
def test_what_is_shown_is_held_when_newer_strokes_come(pair: AnnotatedImage, offers: bool) -> None:
    """Images that come with newer annotations are looked up anew."""
    newer = replace(pair, image=replace(pair.image), labels=pair.labels.copy())
    found = []
    for hold in (0.0, 2.0):
        control = JobControl()

        def offer(event: object, control: JobControl = control) -> None:
            if offers and isinstance(event, EpochDone) and event.epoch == 1:
                control.push_annotations([newer])

        settings = tiny(steps=40, distillation_weight=hold)
        found.append(train([pair], settings, control=control, on_event=offer))
    assert same_weights(*found) is not offers


@pytest.mark.parametrize("what", ["no memory for the copy", "nothing left to hold"])
def test_newer_strokes_that_are_refused_leave_what_is_held_as_it_was(
    pair: AnnotatedImage, before: Model, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training goes on, bit by bit, as if they had not come."""
    labels = np.zeros_like(pair.labels)
    labels[CORNER] = predict(before, pair.image)[CORNER] == 0  # which takes long to be learned
    one_class = replace(pair, labels=labels)
    newer = replace(pair, image=replace(pair.image), labels=np.ones_like(pair.labels))
    found, notices = [], []

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for offers in (False, True):
        control = JobControl()

        def look(event: object, control: JobControl = control, offers: bool = offers) -> None:
            if offers and isinstance(event, EpochDone) and event.epoch == 1:
                if what == "no memory for the copy":
                    monkeypatch.setattr(trainer, "Distillation", fail)
                control.push_annotations((newer,))
            if isinstance(event, Notice):
                notices.append(event.text)

        given = pair if what == "no memory for the copy" else one_class
        settings = tiny(steps=30, distillation_weight=2.0)
        found.append(train([given], settings, init=before, control=control, on_event=look))
    assert "continues with the earlier annotations" in notices[-1]
    assert same_weights(*found)


@pytest.fixture(scope="module")
def two_kinds() -> tuple[AnnotatedImage, np.ndarray]:
    """Blobs of two kinds with strokes that take them for one, and the truth of the second kind."""
    image, truth = blobs((192, 192), 30, structures=2)
    return AnnotatedImage(
        Stack(image, "YX"), strokes((truth > 0).astype(np.uint8)), "strokes"
    ), truth == 2


@pytest.fixture(scope="module")
def one_kind(two_kinds: tuple[AnnotatedImage, np.ndarray]) -> Model:
    return train([two_kinds[0]], tiny(steps=100, width=16, depth=3))


def both_sides(model: Model, two_kinds: tuple[AnnotatedImage, np.ndarray]) -> list[float]:
    pair, second = two_kinds
    mask = predict(model, pair.image) > 0
    return [dice(second[side], mask[side]) for side in (np.s_[:, :64], np.s_[:, 96:])]


def test_validation_blocks_are_not_held(
    two_kinds: tuple[AnnotatedImage, np.ndarray], one_kind: Model
) -> None:
    """Their labels, which are not trained on, do not tell the teacher where it is wrong."""
    pair, second = two_kinds
    full = replace(pair, labels=second.astype(np.uint8), kind=LabelKind.FULL)
    model = train([full], tiny(steps=90, batch=8, distillation_weight=3.0), init=one_kind)
    assert min(both_sides(model, two_kinds)) > 0.98


def test_what_is_wrong_everywhere_is_unlearned_everywhere(
    two_kinds: tuple[AnnotatedImage, np.ndarray], one_kind: Model
) -> None:
    """Also far from the strokes that say so, which are in the left third alone."""
    pair, second = two_kinds
    labels = strokes(second.astype(np.uint8))
    labels[:, 64:] = 0
    model = train([replace(pair, labels=labels)], tiny(steps=150, batch=8), init=one_kind)
    assert min(both_sides(model, two_kinds)) > 0.9


@pytest.mark.parametrize("error", [MemoryError(), OSError("the folder is gone")])
def test_newer_strokes_that_cannot_be_read_end_nothing(
    pair: AnnotatedImage, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, notices = JobControl(), []

    def fail(*_: object) -> None:
        raise error

    def look(event: object) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            monkeypatch.setattr(TrainingDataset, "with_annotations", fail)
            control.push_annotations([pair])
        if isinstance(event, Notice):
            notices.append(event.text)

    model = train([pair], tiny(steps=40), control=control, on_event=look)
    assert model.history[-1].steps == 40
    assert "continues with the earlier annotations" in notices[-1]
    assert ("memory" if isinstance(error, MemoryError) else "gone") in notices[-1]
