"""Events of a training, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from napari_unetseg.core.events import Event
from napari_unetseg.core.metrics import Scores  # noqa: TC001 - looked up where events are checked
from napari_unetseg.models.training_record import AutoSetting  # noqa: TC001 - looked up as well

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model


@dataclass(frozen=True, slots=True)
class TrainingPrepared(Event):
    """The data were read and the network was built."""

    steps: int
    """Steps planned in all; 0 when only time ends the training."""
    epoch_steps: int
    """Steps of an epoch, a fixed number that grows with the amount of annotation."""
    samples: int
    """Samples (patches) of an epoch."""
    train_voxels: int
    validation_voxels: int
    """Labelled voxels in the training and in the validation blocks."""
    blocks: int
    """Validation blocks; 0 when there is too little annotation for a score."""
    device: str
    """Name of the device, such as ``cpu`` or ``cuda:0 (NVIDIA T4)``."""
    parameters: int
    """Number of trainable parameters."""
    patch: tuple[int, ...]
    """Patch size in voxels, one number for each spatial axis (ZYX or YX)."""
    batch: int
    """Patches of a step."""
    choices: tuple[AutoSetting, ...] = ()
    """What was chosen for these images, with the reasons, in the order to show."""


@dataclass(frozen=True, slots=True)
class StepDone(Event):
    """One optimiser step: ``step`` counts from 1, ``loss`` is the mean over the batch."""

    step: int
    steps: int
    loss: float
    seconds: float
    remaining: float | None


@dataclass(frozen=True, slots=True)
class EpochDone(Event):
    """One epoch: mean training loss, and scores on the validation blocks if there are any.

    ``best``: these weights have the best score so far; ``seconds``: time since the start;
    ``losses``: the terms that ``train_loss`` is the sum of, by name.
    """

    epoch: int
    step: int
    train_loss: float
    scores: Scores | None
    best: bool
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)


class SetAside(StrEnum):
    """Why a model is set aside."""

    FELL = "fell"
    """Its agreement fell, so that the training went back to an earlier one."""
    BEST = "best"
    """Its score was the best of the training, but the newest model is kept."""
    LEFT = "left"
    """The user chose to go on from the model that was set aside instead."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelUpdated(Event):
    """The newest model, to be shown from now on."""

    model: Model
    """A whole model, ready to predict; its history ends with the current training."""
    scores: Scores | None
    """Its scores on the validation blocks; None without any, and between two epochs."""
    seconds: float
    """Time since the start of the training."""
    step: int = 0
    """Steps done."""
    urgent: bool = False
    """Whether the user waits for its mask: the first model, the answer to a stroke, or an earlier
    model to which the training went back."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelSetAside(Event):
    """A model that the training does not keep, for the user to choose."""

    model: Model
    """A whole model, ready to predict."""
    reason: SetAside
    """Why there is such a model."""
    step: int
    """Steps that it had."""


@dataclass(frozen=True, slots=True)
class AnnotationsUpdated(Event):
    """Training continues with newer annotations.

    ``voxels`` are labelled now in all; ``step`` and ``seconds`` say when, since the start;
    ``held_out``: all that is new lies in validation blocks and is not trained on.
    """

    voxels: int
    step: int
    seconds: float
    held_out: bool = False


class Outcome(StrEnum):
    """Why a training ended."""

    COMPLETED = "completed"
    """All its steps were done."""
    TIME_OVER = "time over"
    """The time limit was reached."""
    LABELS_LEARNED = "labels learned"
    """The labels are fitted, and there is no score that more steps could improve."""
    EARLY_STOPPED = "early stopped"
    """The score stopped improving."""
    STOPPED = "stopped"
    """The user stopped it."""
    DIVERGED = "diverged"
    """The loss was NaN repeatedly."""
    FAILED = "failed"
    """A step failed."""
    DISCONNECTED = "disconnected"
    """The remote computer cannot be reached any more."""

    @property
    def went_wrong(self) -> bool:
        """Whether it ended by a failure; the last model before it is kept."""
        return self in (Outcome.DIVERGED, Outcome.FAILED, Outcome.DISCONNECTED)


@dataclass(frozen=True, slots=True)
class TrainingDone(Event):
    """The last event of a training."""

    outcome: Outcome
    """Why it ended."""
    reason: str
    """The same as a sentence for people."""
    scores: Scores | None
    """Scores of the returned model, None without validation blocks."""
    epochs: int
    steps: int
    """How many were done."""
    seconds: float
    """Time since its start."""
