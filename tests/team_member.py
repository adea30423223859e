"""Trainings of one process, alone or under torchrun; saves what came of them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers import TURNS_ONLY, blobs, full_pair, of_kind, painted_pair, run_training, tiny

from napari_unetseg.core.events import Event, Improved, Notice, StepDone
from napari_unetseg.core.job_control import Control
from napari_unetseg.core.settings import AugmentSettings
from napari_unetseg.models.model import Model
from napari_unetseg.models.unet import UNet
from napari_unetseg.runtime.distributed import place
from napari_unetseg.training import trainer
from napari_unetseg.training.checkpoint_file import CheckpointFile
from napari_unetseg.training.train import train_events
from napari_unetseg.training.trainer import Learner

PAIRS = [painted_pair((64, 64)), painted_pair((48, 64), seed=1)]
LAST = place().size - 1
Result = tuple[Model, list[Event]]


def strokes() -> Result:
    """Pretrained, with all augmentations; one process has a sample more than the other."""
    more = {"width": 16, "depth": 3, "augment": AugmentSettings()}
    return run_training(PAIRS, tiny(epochs=1, batch=5, **more))


def measured_norms() -> Result:
    """Random weights, so that norms are measured over the samples of both."""
    return run_training(PAIRS, tiny(steps=8, pretrained=False, learning_rate=1e-2))


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
    forward, calls = UNet.forward, [0]

    def limited(network: UNet, x: torch.Tensor) -> torch.Tensor:
        calls[0] += network.training
        if network.training and calls[0] == 3 and place().rank == LAST:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, x)

    UNet.forward = limited  # type: ignore[method-assign]
    try:
        return run_training(PAIRS, tiny(steps=6, width=16))
    finally:
        UNet.forward = forward  # type: ignore[method-assign]


def no_number() -> Result:
    """The part of the third step's loss that the last process has is NaN."""
    right, calls = trainer.segmentation_sums, [0]

    def broken(*args: Any) -> torch.Tensor:
        calls[0] += 1
        bad = calls[0] == 3 and place().rank == LAST
        return right(*args) * (math.nan if bad else 1.0)

    trainer.segmentation_sums = broken
    try:
        return run_training(PAIRS, tiny(steps=6, width=16))
    finally:
        trainer.segmentation_sums = right


def stopped() -> Result:
    """The first process is told to stop after its fifth step."""
    control, events = Control(threads=1), []
    generator = train_events(PAIRS, tiny(epochs=30), control=control)
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return end.value, events
        if len(of_kind(events, StepDone)) == 5:
            control.stop()


def gone_on() -> Result:
    """Stopped after its third step, and once more with the same command."""
    with tempfile.TemporaryDirectory(prefix=f"unetseg-{place().rank}-") as folder:
        kept = CheckpointFile(Path(folder) / "a.checkpoint")  # the first process has one
        control = Control(threads=1)
        for event in train_events(PAIRS, tiny(steps=8, width=16), control=control, checkpoint=kept):
            if isinstance(event, StepDone) and event.step == 3:
                control.stop()
        model, events = run_training(PAIRS, tiny(steps=8, width=16), checkpoint=kept)
    said = [e.text for e in of_kind(events, Notice)]
    assert bool(place().rank) or any("Going on from step 3" in text for text in said)
    return model, [e for e in events if not isinstance(e, Notice)]  # one tells the time


def by_the_clock() -> Result:
    return run_training(PAIRS, tiny(minutes=0.01))


def killed() -> Result:
    """The last process is killed in its third step."""
    step = Learner.step

    def last_step(self: Learner, rate: float) -> float:
        if self.steps == 2 and place().rank == LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, rate)

    Learner.step = last_step  # type: ignore[method-assign]
    return run_training(PAIRS, tiny(epochs=1000))


def other_labels() -> Result:
    return run_training(PAIRS[: 2 - place().rank], tiny(epochs=1000))


def no_memory_for_norms() -> Result:
    """The last process runs out of memory between two sums of the forward pass."""
    encode = UNet._encode

    def limited(network: UNet, x: torch.Tensor) -> list[torch.Tensor]:
        found = encode(network, x)
        if network.training and place().rank == LAST:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    UNet._encode = limited  # type: ignore[method-assign]
    return measured_norms()


ALIKE: list[Callable[[], Result]] = [
    strokes,
    measured_norms,
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
    if isinstance(event, Improved):
        return ["Improved", event.step]
    left_out = ("seconds", "remaining", "choices")
    facts = dataclasses.asdict(event)
    return [type(event).__name__, {k: v for k, v in facts.items() if k not in left_out}]


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        model, events = globals()[name]()
        model.save(folder / f"{name}-{place().rank}.safetensors")
        told = json.dumps([said(event) for event in events])
        (folder / f"{name}-{place().rank}.json").write_text(told)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
