"""Trainings of one process, alone or under torchrun; saves what came of them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TURNS_ONLY, blobs, broken_loss, full_pair, of_kind, painted_pair, run_training
from helpers import tiny as tiny_with_dice

from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import AugmentSettings
from napari_unetseg.models.model import Model
from napari_unetseg.runtime.distributed import world
from napari_unetseg.training import trainer
from napari_unetseg.training.checkpoint_file import CheckpointFile
from napari_unetseg.training.train import train_events
from napari_unetseg.training.trainer import Trainer
from napari_unetseg.training.training_events import ModelSetAside, ModelUpdated, StepDone

PAIRS = [painted_pair((64, 64)), painted_pair((48, 64), seed=1)]
SCORED = [painted_pair((160, 160), 40)]
"""Large enough for validation blocks."""
LAST = world().size - 1
Result = tuple[Model, list[Event]]


def tiny(**changes: Any) -> Any:
    """Without the Dice term: that is of each process's own samples, all else of the joint batch."""
    return tiny_with_dice(**{"dice": False, **changes})


@contextmanager
def third_step_of_the_last(fault: Callable[[], object], part: str) -> Iterator[None]:
    """Have a fault in the last process: in the ``forward`` or ``backward`` pass of its third step,
    or in the first one, the rehearsal."""
    step, reached = Trainer.step, [0]

    def counted(self: Trainer, rate: float) -> float:
        reached[0] = self.steps + 1
        return step(self, rate)

    def faulty(right: Callable[..., Any], when: int) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if reached[0] == when and world().rank == LAST:
                reached[0] = 0
                fault()
            return right(*args, **more)

        return call

    owner, name, when = {
        "forward": (trainer.LossInputs, "__init__", 3),
        "backward": (torch.Tensor, "backward", 3),
        "rehearsal": (torch.Tensor, "backward", 1),
    }[part]
    right = getattr(owner, name)
    Trainer.step = counted  # type: ignore[method-assign]
    setattr(owner, name, faulty(right, when))
    try:
        yield
    finally:
        Trainer.step = step  # type: ignore[method-assign]
        setattr(owner, name, right)


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def strokes() -> Result:
    """Pretrained, with all augmentations; one process has a sample more than the other."""
    more = {"width": 16, "depth": 3, "augment": AugmentSettings()}
    return run_training(PAIRS, tiny(epochs=1, batch=5, **more))


def measured_norms() -> Result:
    """Random weights: on a CPU each process measures the norms on its own samples."""
    return run_training(SCORED, tiny_with_dice(epochs=3, batch=8, pretrained=False))


def with_dice() -> Result:
    return run_training(SCORED, tiny_with_dice(epochs=2, width=16, batch=8))


def volumes() -> Result:
    image, truth = blobs((16, 48, 48), 12, 3, structures=2)
    settings = tiny(steps=4, dims=3, batch=2, patch=16, width=16, augment=TURNS_ONLY)
    return run_training([full_pair(image, truth, "ZYX")], settings)


def went_on() -> Result:
    """From a model whose mask of one image was seen: what it said of that is kept."""
    first, _ = run_training(PAIRS[:1], tiny(steps=6, width=16))
    return run_training(PAIRS, tiny(steps=6, width=16, batch=3), init=first)


def out_of_memory() -> Result:
    """The last process has no memory for its third step."""
    with third_step_of_the_last(no_memory, "forward"):
        return run_training(PAIRS, tiny(steps=6, width=16))


def no_number() -> Result:
    """The last process's part of a loss is NaN."""
    with pytest.MonkeyPatch.context() as patch:
        broken_loss(patch, lambda call: call == 3 + (LAST > 0) and world().rank == LAST)
        return run_training(PAIRS, tiny(steps=6, width=16))


def stopped() -> Result:
    """The first process is told to stop after its fifth step."""
    control, events = JobControl(threads=1), []
    generator = train_events(PAIRS, tiny(epochs=30, width=16), control=control)
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return end.value, events
        if len(of_kind(events, StepDone)) == 5:
            control.stop()


def gone_on() -> Result:
    """Stopped after its third step, and once more with the same command."""
    with tempfile.TemporaryDirectory(prefix=f"unetseg-{world().rank}-") as folder:
        kept = CheckpointFile(Path(folder) / "a.checkpoint")  # the first process has one
        control = JobControl(threads=1)
        for event in train_events(PAIRS, tiny(steps=8, width=16), control=control, checkpoint=kept):
            if isinstance(event, StepDone) and event.step == 3:
                control.stop()
        model, events = run_training(PAIRS, tiny(steps=8, width=16), checkpoint=kept)
    said = [e.text for e in of_kind(events, Notice)]
    assert bool(world().rank) or any("Resuming from step 3" in text for text in said)
    return model, [e for e in events if not isinstance(e, Notice)]  # one tells the time


def by_the_clock() -> Result:
    return run_training(PAIRS, tiny(minutes=0.01))


def killed() -> Result:
    """The last process is killed in its third step."""
    step = Trainer.step

    def last_step(self: Trainer, rate: float) -> float:
        if self.steps == 2 and world().rank == LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, rate)

    Trainer.step = last_step  # type: ignore[method-assign]
    return run_training(PAIRS, tiny(epochs=1000))


def other_labels() -> Result:
    return run_training(PAIRS[: 2 - world().rank], tiny(epochs=1000))


def no_memory_at_first() -> Result:
    """The last process has no memory for the gradients of a whole batch."""
    with third_step_of_the_last(no_memory, "rehearsal"):
        return run_training(PAIRS, tiny(steps=6))


def no_memory_for_gradients() -> Result:
    """The same in its third step, when the other process waits for these gradients."""
    with third_step_of_the_last(no_memory, "backward"):
        return run_training(PAIRS, tiny(epochs=1000))


ALIKE: list[Callable[[], Result]] = [
    strokes,
    volumes,
    went_on,
    out_of_memory,
    no_number,
    stopped,
    gone_on,
]
"""What must be the same for one process and for several."""


def said(event: Event) -> list[Any]:
    """The name of an event and what it says, but for times and reasons."""
    if isinstance(event, ModelUpdated | ModelSetAside):
        return [type(event).__name__, event.step]
    left_out = ("seconds", "remaining", "choices")
    facts = dataclasses.asdict(event)
    return [type(event).__name__, {k: v for k, v in facts.items() if k not in left_out}]


def between_epochs(event: Event) -> bool:
    """Whether it shows weights that come when two seconds are over, sooner or later."""
    return isinstance(event, ModelUpdated) and event.scores is None and not event.urgent


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        model, events = globals()[name]()
        events = [event for event in events if not between_epochs(event)]
        model.save(folder / f"{name}-{world().rank}.safetensors")
        told = json.dumps([said(event) for event in events])
        (folder / f"{name}-{world().rank}.json").write_text(told)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
