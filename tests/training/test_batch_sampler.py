"""Batches drawn beside the step: the same training, and no thread that outlives it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from helpers import of_kind, painted_pair, run_training, tiny

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Notice
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import AugmentSettings
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.training.augmentation import Augmenter
from napari_unetseg.training.batch_sampler import Prefetcher, Sampler
from napari_unetseg.training.checkpoint_file import CheckpointFile
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import AnnotationsUpdated, StepDone

if TYPE_CHECKING:
    from napari_unetseg.data.annotated_image import AnnotatedImage

SETTINGS = tiny(steps=9, epochs=None, augment=AugmentSettings(), pretrained=False)


def drawing() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("unetseg-samples")]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Samples are drawn beside the step, as with a GPU."""
    monkeypatch.setattr("napari_unetseg.training.trainer.PREFETCHING", ("cpu",))
    yield
    assert not drawing()


def trained(
    pair: AnnotatedImage, offers: dict[int, AnnotatedImage], stop: int | None = None, **more: Any
) -> Any:
    """A training that gets other annotations after some steps; whether threads drew."""
    control, events, seen = JobControl(threads=1), [], False
    generator = train_events([pair], SETTINGS, control=control, **more)
    while True:
        try:
            event = next(generator)
        except StopIteration as end:
            return end.value, events, seen
        events.append(event)
        if isinstance(event, StepDone):
            seen = seen or bool(drawing())
            if event.step in offers:
                control.push_annotations((offers[event.step],))
            if event.step == stop:
                control.stop()


def test_newer_annotations_are_in_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, other = painted_pair((64, 64)), painted_pair((64, 64), count=4)
    offers = {4: replace(pair, labels=other.labels)}
    alone, first, threads = trained(pair, offers)
    assert of_kind(first, AnnotationsUpdated)
    assert not threads
    assert alone.id != trained(pair, {})[0].id
    monkeypatch.setattr("napari_unetseg.training.trainer.PREFETCHING", ("cpu",))
    ahead, second, threads = trained(pair, offers)
    assert threads
    assert not drawing()
    losses = [[e.loss for e in of_kind(events, StepDone)] for events in (first, second)]
    assert losses[0] == losses[1]
    assert ahead.id == alone.id


@pytest.mark.usefixtures("beside")
def test_a_training_taken_up_again_is_the_same(tmp_path: Path) -> None:
    pair, path = painted_pair((64, 64)), tmp_path / "state"
    whole = trained(pair, {})[0]
    with CheckpointFile(path) as file:
        trained(pair, {}, stop=4, checkpoint=file)
    assert not drawing()
    with CheckpointFile(path) as file:
        resumed, events, threads = trained(pair, {}, checkpoint=file)
    assert threads
    assert of_kind(events, StepDone)[0].step == 5
    assert resumed.id == whole.id


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("how", ["closed", "dropped", "failed"])
def test_no_thread_outlives_a_training_that_is_given_up(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = train_events([painted_pair((64, 64))], SETTINGS)
    while not isinstance(next(events), StepDone):
        pass
    assert drawing()
    if how == "closed":
        events.close()
    elif how == "failed":
        monkeypatch.setattr(TrainingDataset, "crop_patch", failing(UserError("The disk is gone.")))
        with pytest.raises(UserError, match="The disk is gone"):
            list(events)
    del events
    gc.collect()
    assert not drawing()


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.usefixtures("beside")
def test_a_thread_without_memory_makes_the_batch_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, large = Sampler.sample, 3

    def scarce(self: Sampler, key: Any, number: int) -> Any:
        if key == (2,) and number == large:
            raise MemoryError
        return sample(self, key, number)

    monkeypatch.setattr(Sampler, "sample", scarce)
    _, events = run_training([painted_pair((64, 64))], tiny(steps=5))
    texts = [e.text for e in of_kind(events, Notice)]
    assert any("continuing with 2 patch(es) per step" in text for text in texts)
    assert of_kind(events, StepDone)[-1].step == 5


def test_a_batch_of_other_annotations_is_dropped() -> None:
    settings = tiny(augment=AugmentSettings())
    augment = Augmenter(settings.augment, 2)
    old, new = (
        Sampler(
            TrainingDataset([painted_pair((64, 64), n)], 2, 0.0), None, augment, settings, (32, 32)
        )
        for n in (9, 12)
    )
    prefetcher = Prefetcher(2)
    try:
        for step, sampler, numbers in ((1, old, (0, 1)), (2, new, (0, 1)), (3, new, (0,))):
            drawn = prefetcher.batch(sampler, step, numbers)
            for got, wanted in zip(drawn, sampler.batch((step,), numbers), strict=True):
                assert torch.equal(got, wanted)
        smaller = replace(new, patch=(16, 16))
        assert prefetcher.batch(smaller, 4, (0,))[0].shape[2:] == (16, 16)
    finally:
        prefetcher.close()
    assert not drawing()


def test_samples_do_not_depend_on_the_number_of_threads() -> None:
    settings = tiny(augment=AugmentSettings())
    data = TrainingDataset([painted_pair((300, 300))], 2, 0.0)
    sampler = Sampler(data, None, Augmenter(settings.augment, 2), settings, (256, 256))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(sampler.batch((7,), range(6))[0].numpy())
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
