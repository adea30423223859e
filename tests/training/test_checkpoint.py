"""A training that was stopped or killed goes on from its checkpoint as if nothing had happened."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from helpers import blobs, broken_loss, full_pair, of_kind, painted_pair, run_training, tiny
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from safetensors.torch import save_file

from napari_unetseg.core import file_locks
from napari_unetseg.core.errors import ModelFileError, TrainingError
from napari_unetseg.core.events import Notice
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import AugmentSettings, TrainSettings
from napari_unetseg.models import model_file
from napari_unetseg.models.model import Model, load_model
from napari_unetseg.models.unet import UNet
from napari_unetseg.training import checkpoint as checkpoint_module
from napari_unetseg.training import checkpoint_file
from napari_unetseg.training.checkpoint_file import CheckpointFile
from napari_unetseg.training.train import train, train_events
from napari_unetseg.training.training_events import ModelUpdated, StepDone

if TYPE_CHECKING:
    from napari_unetseg.data.annotated_image import AnnotatedImage

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [painted_pair((64, 64))]
SMALLEST: dict[str, Any] = {"patch": 8, "batch": 1, "width": 1}
SMALL = tiny(steps=6, **SMALLEST)


def stopped_after(
    steps: int, pairs: list[AnnotatedImage], settings: TrainSettings, **more: Any
) -> Model:
    """Train until so many steps are done in this run."""
    control, seen = JobControl(threads=1), []
    events = train_events(pairs, settings, control=control, **more)
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            model: Model = end.value
            return model
        if len(of_kind(seen, StepDone)) == steps:
            control.stop()


def facts(model: Model) -> list[Any]:
    """All that a model says of its training but times; NaN equals NaN."""
    record = model.history[-1]
    curve = [point.model_dump(exclude={"seconds"}) for point in record.curve]
    said = [record.reason, record.steps, record.scores, curve, record.class_priors, record.parent]
    return [repr(said), repr(record.choices), len(model.history)]


def assert_same(found: Model, wanted: Model) -> None:
    assert facts(found) == facts(wanted)
    assert found.weights.keys() == wanted.weights.keys()
    for name, tensor in wanted.weights.items():
        assert torch.equal(found.weights[name], tensor), name


@dataclass
class Case:
    """A training, with what goes wrong in it at which of its steps."""

    settings: TrainSettings
    stops: tuple[int, ...]
    pairs: list[AnnotatedImage] = field(default_factory=lambda: [painted_pair()])
    init: Callable[[], Model] | None = None
    fails: Callable[[pytest.MonkeyPatch], None] | None = None
    weights: bool = False
    """With encoder weights, frozen, and norms that are measured once."""


def sure() -> Model:
    return train([painted_pair()], tiny(steps=8))


def one_class() -> AnnotatedImage:
    """An image with strokes of structure 1 alone."""
    pair = painted_pair()
    return replace(pair, labels=np.where(pair.labels == 1, 1, 0))


def no_memory(*calls: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Memory runs out in these forward passes of a training."""

    def fail(patch: pytest.MonkeyPatch) -> None:
        forward, count = UNet.forward, [0]

        def limited(network: UNet, x: torch.Tensor) -> torch.Tensor:
            count[0] += network.training
            if network.training and count[0] in calls:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(network, x)

        patch.setattr(UNet, "forward", limited)

    return fail


def no_number(*calls: int) -> Callable[[pytest.MonkeyPatch], None]:
    """The loss of these steps is no number."""
    return lambda patch: broken_loss(patch, calls.__contains__)


VOLUME = [full_pair(*blobs((8, 40, 40), 8, 3, structures=2), "ZYX")]
CASES = {
    "strokes": Case(tiny(steps=22, width=16, batch=2, augment=AugmentSettings()), (1, 17, 1)),
    "norms measured": Case(
        tiny(steps=20, pretrained=False, dropout=0.2, learning_rate=1e-2), (7, 10)
    ),
    "no score": Case(tiny(steps=20), (5, 12), pairs=PAIRS),
    "from a model": Case(tiny(steps=20), (7,), init=sure),
    "labels of one class": Case(tiny(steps=40), (20,), pairs=[one_class()], init=sure),
    "labels of one class are right": Case(tiny(), (18,), pairs=[one_class()], init=sure),
    "ends by itself": Case(tiny(patience=2, learning_rate=1e-6, width=1, batch=1), (45, 5)),
    "plain": Case(
        tiny(steps=20, pretrained=False, weight_decay=0.0, ema=False, cosine_schedule=False), (19,)
    ),
    "volumes": Case(tiny(steps=4, dims=3, batch=2, patch=16), (2,), pairs=VOLUME),
    "residual": Case(tiny(steps=4, depth=3, encoder="resnet18"), (2,), weights=True),
    "no memory": Case(tiny(steps=8, patch=64, batch=2), (5,), fails=no_memory(3, 4)),
    "no number": Case(tiny(steps=20), (5,), fails=no_number(3, 8)),
    "no number again and again": Case(tiny(steps=20), (5,), fails=no_number(3, 8, 9)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_on_equals_what_was_never_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights bit by bit, scores and curve: stopped within, at and right after an epoch."""
    case = CASES[name]
    init, settings = case.init() if case.init else None, case.settings
    if case.weights:
        from torchvision.models import resnet18

        path = tmp_path / "resnet18.safetensors"
        save_file(resnet18().state_dict(), path)
        more = {"encoder_weights": str(path), "freeze_encoder": True}
        settings = settings.model_copy(update=more)
    ends = []
    for stops in ((), case.stops):
        path = tmp_path / f"{len(stops)}.checkpoint"
        with monkeypatch.context() as patch:
            if case.fails:
                case.fails(patch)
            for steps in stops:
                kept = CheckpointFile(path)
                stopped_after(steps, case.pairs, settings, init=init, checkpoint=kept)
            kept = CheckpointFile(path)
            ends.append(run_training(case.pairs, settings, init=init, checkpoint=kept))
    (wanted, said), (found, said_too) = ends
    assert_same(found, wanted)
    assert repr(replace(said_too[-1], seconds=0)) == repr(replace(said[-1], seconds=0))


def test_the_time_before_counts_and_the_newest_weights_are_shown(tmp_path: Path) -> None:
    pairs, settings = [painted_pair()], tiny(steps=24, **SMALLEST)
    with CheckpointFile(tmp_path / "a.checkpoint") as kept:
        before = stopped_after(20, pairs, settings, checkpoint=kept).history[-1].seconds
    assert kept.steps == 20
    with CheckpointFile(tmp_path / "a.checkpoint") as kept:
        _, events = run_training(pairs, settings, checkpoint=kept)
    assert of_kind(events, StepDone)[0].step == 21
    assert of_kind(events, StepDone)[0].seconds > 0.9 * before
    shown = of_kind(events, ModelUpdated)[0]
    assert (shown.step, shown.urgent) == (20, True)
    assert "Resuming from step 20" in of_kind(events, Notice)[0].text


def test_other_threads_go_on_and_a_training_that_ended_has_nothing_left(tmp_path: Path) -> None:
    """What runs on another computer has another number of cores."""
    path = tmp_path / "a.checkpoint"
    stopped_after(5, PAIRS, SMALL, checkpoint=CheckpointFile(path))
    more = SMALL.model_copy(update={"threads": 2})
    with CheckpointFile(path) as kept:
        assert train(PAIRS, more, checkpoint=kept).history[-1].steps == 6
        kept.remove()
    assert not list(tmp_path.iterdir())


# -- refused ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of `SMALL` after three steps; small, so that much of it can be tried."""
    path = tmp_path_factory.mktemp("kept") / "a.checkpoint"
    stopped_after(3, PAIRS, SMALL, checkpoint=CheckpointFile(path))
    return path.read_bytes()


def refused(path: Path, pairs: list[AnnotatedImage], settings: TrainSettings, **more: Any) -> str:
    """Begin a training; the sentence with which its checkpoint is refused."""
    before = path.read_bytes()
    with pytest.raises(TrainingError) as error:
        train(pairs, settings, checkpoint=CheckpointFile(path), **more)
    sentence = str(error.value)
    assert path.read_bytes() == before
    assert str(path) in sentence
    assert "--no-resume" in sentence
    return sentence


def other(name: str) -> tuple[list[AnnotatedImage], TrainSettings, str]:
    """A training that differs in one thing from that of ``kept``, and how it is called."""
    pair = painted_pair((64, 64))
    labels = pair.labels.copy()
    labels[6, 3] = 0
    image = np.asarray(pair.image.data) + np.float32(0.001)
    return {
        "options": ([pair], tiny(steps=7, **SMALLEST), "with other options (steps: 6, now 7)"),
        "labels": ([replace(pair, labels=labels)], SMALL, "with other labels"),
        "images": ([replace(pair, image=Stack(image, "YX"))], SMALL, "on other images"),
        "order": ([painted_pair((64, 64), seed=1), pair], SMALL, "on other images"),
    }[name]


@pytest.mark.parametrize("name", ["options", "labels", "images", "order"])
def test_another_training_is_refused_and_nothing_of_the_first_is_lost(
    name: str, kept: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.checkpoint"
    path.write_bytes(kept)
    pairs, settings, words = other(name)
    assert f"holds step 3 of another training, {words}; " in refused(path, pairs, settings)
    anew = CheckpointFile(path, resume=False)
    assert train(pairs, settings, checkpoint=anew).history[-1].steps == settings.steps


def test_another_model_to_go_on_from_is_refused(kept: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.checkpoint"
    path.write_bytes(kept)
    pairs = PAIRS
    assert "from another model" in refused(path, pairs, SMALL, init=train(pairs, SMALL))


def test_another_version_or_device_is_refused(
    kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pairs = tmp_path / "a.checkpoint", PAIRS
    path.write_bytes(kept)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "versions", lambda: {"napari-unetseg": "9.9"})
        assert "started by napari-unetseg 0.1.0, but this is 9.9" in refused(path, pairs, SMALL)
    monkeypatch.setattr("napari_unetseg.training.training_plan.MOST_STEPS", 59)
    assert "on another kind of device or number of processes" in refused(path, pairs, SMALL)


@given(data=st.data())
@settings_of_hypothesis(max_examples=15)
def test_a_damaged_checkpoint_is_refused_and_left_as_it_is(kept: bytes, data: Any) -> None:
    """Cut, with bytes changed, or with anything in its place."""
    path = Path(os.environ["HOME"]) / "damaged.checkpoint"
    place = data.draw(st.integers(0, len(kept) - 1))
    other_byte = bytes([kept[place] ^ data.draw(st.integers(1, 255))])
    damage = {
        "cut": kept[:place],
        "changed": kept[:place] + other_byte + kept[place + 1 :],
        "longer": kept + b"\0",
        "random": data.draw(st.binary(max_size=64)),
    }
    path.write_bytes(damage[data.draw(st.sampled_from(sorted(damage)))])
    assert "damaged" in refused(path, PAIRS, SMALL)


def test_a_checkpoint_is_no_model_and_a_model_no_checkpoint(kept: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(kept)
    with pytest.raises(ModelFileError, match="checkpoint of an unfinished training"):
        load_model(path)
    train(PAIRS, SMALL).save(path)
    assert "not a checkpoint" in refused(path, PAIRS, SMALL)


# -- the file --------------------------------------------------------------------------------------


def test_a_full_disk_is_said_once_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint_module, "MAX_TIME_FRACTION", math.inf)
    wanted = train(PAIRS, SMALL)
    monkeypatch.setattr(Path, "write_bytes", full)
    with CheckpointFile(tmp_path / "a.checkpoint") as kept:
        found, events = run_training(PAIRS, SMALL, checkpoint=kept)
    (said,) = [e.text for e in of_kind(events, Notice) if "checkpoint" in e.text]
    assert "A checkpoint could not be written; training continues without one: " in said
    assert "the disk is full" in said
    assert kept.steps is None
    assert_same(found, wanted)
    assert not list(tmp_path.iterdir())


def test_a_slow_disk_takes_a_hundredth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[float] = []

    def slow(*_: Any) -> None:
        writes.append(time.monotonic())
        time.sleep(0.1)

    monkeypatch.setattr(checkpoint_module, "EVERY_S", 0.0)
    monkeypatch.setattr(model_file, "write", slow)
    train(PAIRS, tiny(steps=20, **SMALLEST), checkpoint=CheckpointFile(tmp_path / "a"))
    assert writes
    assert all(later - earlier > 10 for earlier, later in pairwise(writes))


def test_only_one_process_trains_with_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.checkpoint"
    left = tmp_path / ".a-abcd_123.checkpoint"  # of a kill while a state was written
    others = [tmp_path / name for name in (".a-b-abcd_123.checkpoint", "a-abcd_123.checkpoint")]
    for file in (left, *others):
        file.touch()
    with CheckpointFile(path):
        assert not left.exists()
        with (
            pytest.raises(TrainingError, match="Another process is training with"),
            CheckpointFile(path),
        ):
            raise AssertionError("both train")
    with CheckpointFile(path):
        pass
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("alive", [False, True])
def test_a_training_that_another_computer_left_is_gone_on_with_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    """A job that was killed on one node of a cluster is begun again on another."""
    note = tmp_path / ".a.checkpoint.lock" / "owner.json"
    note.parent.mkdir()
    said = {"process": 7, "host": "node07", "machine": "other", "since": 1e9, "token": "abc"}
    note.write_text(json.dumps(said))

    def no_locks(handle: int, *, blocking: bool) -> bool:
        if alive:  # the other computer touches its note
            os.utime(note, ns=(time.time_ns(), time.time_ns()))
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(file_locks, "lock_descriptor", no_locks)
    monkeypatch.setattr(file_locks, "STALE_SECONDS", 0.2)
    monkeypatch.setattr(file_locks, "TOUCH_SECONDS", 0.2)
    monkeypatch.setattr(checkpoint_file, "POLL_SECONDS", 0.05)
    kept = CheckpointFile(tmp_path / "a.checkpoint")
    if alive:
        with pytest.raises(TrainingError, match=r"\(process 7 on node07, since 2001-"), kept:
            raise AssertionError("both train")
        return
    with kept, pytest.raises(TrainingError, match="on this computer"):
        CheckpointFile(kept.path).__enter__()
    assert not list(tmp_path.iterdir())


def test_newer_annotations_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state would be that of annotations that the same call does not have."""
    monkeypatch.setattr(checkpoint_module, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint_module, "MAX_TIME_FRACTION", math.inf)
    control = JobControl(threads=1)
    file = CheckpointFile(tmp_path / "a.checkpoint")
    for event in train_events(PAIRS, tiny(steps=6), control=control, checkpoint=file):
        if isinstance(event, StepDone) and event.step == 3:
            control.push_annotations((painted_pair((64, 64), count=12),))
    assert file.steps == 2


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_a_training_that_is_killed_goes_on(tmp_path: Path) -> None:
    """At any moment, also while its state is written."""
    path = tmp_path / "a.checkpoint"
    endless = tiny(epochs=1000, **SMALLEST)
    command = [sys.executable, "-c", ENDLESS, str(path), endless.model_dump_json()]
    there = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen(command, env=there)
    seen: set[int] = set()
    end = time.monotonic() + 60
    while len(seen) < 3:  # states
        with suppress(FileNotFoundError):
            seen.add(path.stat().st_mtime_ns)
        assert time.monotonic() < end
        assert process.poll() is None
    process.kill()
    process.wait()
    with CheckpointFile(path) as kept:
        found = stopped_after(1, PAIRS, endless, checkpoint=kept)
    assert found.history[-1].steps > 1
    wanted = stopped_after(found.history[-1].steps, PAIRS, endless)
    assert_same(found, wanted)


ENDLESS = """
import math, sys
from helpers import painted_pair, tiny
from napari_unetseg import CheckpointFile, TrainSettings, train
from napari_unetseg.training import checkpoint
checkpoint.EVERY_S, checkpoint.MAX_TIME_FRACTION = 0.0, math.inf
with CheckpointFile(sys.argv[1]) as kept:
    train([painted_pair((64, 64))], TrainSettings.model_validate_json(sys.argv[2]), checkpoint=kept)
"""
