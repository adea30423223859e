"""Training history of a model."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from napari_unetseg.core.agreement import Agreement
from napari_unetseg.core.metrics import Scores
from napari_unetseg.core.settings import TrainSettings

if TYPE_CHECKING:
    from napari_unetseg.data.dataset import TrainingDataset


@dataclass(frozen=True, slots=True)
class AutoSetting:
    """An automatically chosen setting."""

    name: str
    value: str
    """As displayed, such as ``Patch`` and ``128 × 128``."""
    reason: str
    """Why, in a few words."""
    setting: str
    """The field of `TrainSettings` that overrides it; empty without one."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class CurvePoint(_Record):
    """One epoch of a training; ``dice`` and ``iou`` per structure are None without validation.

    ``validation_loss`` and ``agreement`` are those of `Scores`; None also in records of earlier
    versions, which have no ``losses`` either: the weighted terms of the training loss, by name.
    """

    epoch: int
    step: int
    seconds: float
    train_loss: float
    dice: tuple[float, ...] | None = None
    iou: tuple[float, ...] | None = None
    mean_dice: float | None = None
    agreement: Agreement | None = None
    validation_loss: float | None = None
    losses: dict[str, float] = {}


class ImageRecord(_Record):
    """A training image: its name without a path; its pixels are known by a fingerprint."""

    name: str
    shape: tuple[int, ...]
    axes: str
    dtype: str
    fingerprint: str


class TrainingRecord(_Record):
    """One training in a model's history."""

    date: str
    reason: str
    steps: int
    seconds: float
    settings: TrainSettings
    scores: Scores | None
    curve: tuple[CurvePoint, ...]
    images: tuple[ImageRecord, ...]
    class_priors: tuple[float, ...] | None = Field(
        None, validation_alias=AliasChoices("class_priors", "shares")
    )
    """Estimated fraction of the training images that each class covers."""
    labelled_voxels: int
    choices: tuple[AutoSetting, ...] = ()
    """What was chosen for these images, and why; empty in records of earlier versions."""
    device: str
    threads: int
    processes: int = 1
    """How many trained together under torchrun, each with so many threads."""
    versions: dict[str, str]
    parent: str | None = None
    """The id of the model that this training went on from."""


WITH_CURVES, MOST_RECORDS = 10, 100
"""Newest trainings of which a model keeps curve and choices, and that it remembers at all."""


def remembered(history: tuple[TrainingRecord, ...]) -> tuple[TrainingRecord, ...]:
    """What a model that goes on keeps of its past: a day of training has hundreds."""
    newest = history[-MOST_RECORDS:]
    short = {"curve": (), "choices": ()}
    old = tuple(record.model_copy(update=short) for record in newest[:-WITH_CURVES])
    return (*old, *newest[-WITH_CURVES:])


def image_records(data: TrainingDataset) -> tuple[ImageRecord, ...]:
    """Records of the images of a training."""
    return tuple(
        ImageRecord(
            name=image.name,
            shape=tuple(int(s) for s in image.data.shape),
            axes=image.axes,
            dtype=str(image.data.dtype),
            fingerprint=read.fingerprint,
        )
        for read in data.read_pairs
        for image in (read.pair.image,)
    )


def versions() -> dict[str, str]:
    """Versions that a result can depend on."""
    import torch  # here, so that a window that shows records does not need it

    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("napari-unetseg", "numpy", "torchvision"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def now() -> str:
    """Date and time, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
