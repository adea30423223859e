"""Writing and resuming of a training's checkpoint."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import ValidationError

from napari_unetseg.core.errors import ModelFileError, TrainingError, UserError
from napari_unetseg.core.events import Notice
from napari_unetseg.models.training_record import versions
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.saved_state import (
    Identity,
    SavedState,
    Tensors,
    capture,
    expected,
    restore,
)

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model
    from napari_unetseg.training.checkpoint_file import CheckpointFile
    from napari_unetseg.training.trainer import Trainer
    from napari_unetseg.training.training_plan import TrainingPlan
    from napari_unetseg.training.training_state import TrainingState

EVERY_S = 30.0
"""Least seconds between two checkpoints."""
MAX_TIME_FRACTION = 0.01
"""Largest fraction of the training time that writing may take."""
OF_A_RUN = {"threads", "device"}
"""Settings that may differ when a training is resumed."""


def identity(trainer: Trainer, plan: TrainingPlan, init: Model | None) -> Identity:
    """Identity of a training, from its data, settings, plan and initial model."""
    data = trainer.data
    classes = (data.classes.numbers, data.validated, *data.classes.objects)
    labels = hashlib.blake2b(repr(classes).encode())
    for plane in data.planes:
        labels.update(repr((data.place_of(plane), plane.train.shape)).encode())
        labels.update(np.ascontiguousarray(plane.train).data)
        labels.update(np.ascontiguousarray(plane.validate).data)
        if plane.objects is not None:
            labels.update(np.ascontiguousarray(plane.objects).data)
    images = repr((data.fingerprints, data.normalization))
    return Identity(
        version=versions()["napari-unetseg"],
        settings=trainer.settings.model_dump(mode="json", exclude=OF_A_RUN),
        model=init.id if init else "",
        images=hashlib.blake2b(images.encode(), digest_size=16).hexdigest(),
        labels=labels.hexdigest()[:32],
        plan=repr(plan),
    )


class Checkpoints:
    """Writes and resumes a training's checkpoint; without a file it does nothing.

    Parameters
    ----------
    file
        The checkpoint file.
    trainer, progress
        Of the training, before its first step.
    init
        The model that it continues from.
    """

    def __init__(
        self,
        file: CheckpointFile | None,
        trainer: Trainer,
        progress: TrainingState,
        init: Model | None,
    ) -> None:
        self._file, self._trainer, self._progress, self._init = file, trainer, progress, init
        self._said = False
        self._next = time.monotonic() + EVERY_S

    def resume(self) -> bool:
        """Restore the state in the file, in all processes; return whether there was one.

        Raises
        ------
        TrainingError
            The file is damaged, or of another training.
        """
        if self._file is None:
            return False
        group = self._trainer.group
        found = self._read(self._file) if group.is_main else None
        text = group.broadcast_text(found[0].model_dump_json() if found else "null")
        if text == "null":
            return False
        state = SavedState.model_validate_json(text)
        about = expected(state, self._trainer)
        tensors = found[1] if found else {n: torch.zeros(s, dtype=d) for n, (s, d) in about.items()}
        group.broadcast(tensors[name] for name in sorted(tensors))
        restore(state, tensors, self._trainer, self._progress)
        self._file.steps = state.progress.steps
        return True

    def _read(self, file: CheckpointFile) -> tuple[SavedState, Tensors] | None:
        try:
            if (found := file.read()) is None:
                return None
            words, read_tensors = found
            state = SavedState.model_validate(words)
            if differs := state.training.differs_from(self._training):
                raise TrainingError(
                    f"{file.path} holds step {state.progress.steps} of another training, "
                    f"{differs}; repeat the command that started it, or add --no-resume to start "
                    "anew and replace it."
                )
            return state, read_tensors(expected(state, self._trainer))
        except (ValidationError, ModelFileError, KeyError) as error:
            raise file.damaged() from error

    @cached_property
    def _training(self) -> Identity:
        return identity(self._trainer, self._progress.plan, self._init)

    def keep(self, *, now: bool = False) -> Generator[Notice, None, None]:
        """Write the state when it is due, or ``now``; report the first failure."""
        file, began = self._file, time.monotonic()
        due = now or began >= self._next
        if file is None or not self._trainer.group.is_main or not self._progress.steps or not due:
            return
        trouble = self._write(file)
        ended = time.monotonic()
        self._next = ended + max(EVERY_S, (ended - began) / MAX_TIME_FRACTION)
        if trouble and not self._said:
            self._said = True
            yield Notice(
                f"A checkpoint could not be written; training continues without one: {trouble}",
                warning=True,
            )

    def _write(self, file: CheckpointFile) -> str:
        """Write the state; return a failure's reason."""
        try:
            state, tensors = capture(self._trainer, self._progress, self._training)
            file.write(tensors, json.loads(state.model_dump_json()), state.progress.steps)
        except (UserError, RuntimeError, MemoryError) as error:
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            return str(error) if isinstance(error, UserError) else "there is not enough memory."
        return ""

    def end(self) -> None:
        """Stop writing: newer annotations are not part of the identity."""
        self._file = None
