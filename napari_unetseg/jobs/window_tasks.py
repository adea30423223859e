"""Jobs of a window as generators of events, which touch no layer.

PyTorch is imported inside the functions, so that opening the dock needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.data.mask_cleanup import TidySettings, tidy
from napari_unetseg.io.project.project import Project
from napari_unetseg.jobs.remote.run_on import RunOn
from napari_unetseg.jobs.tasks import TrainTask

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.core.labels import LabelKind, Structure
    from napari_unetseg.core.settings import MatchSpacing, TrainSettings
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.inference.large.output_format import Saving
    from napari_unetseg.jobs.live_predictor import ViewportState
    from napari_unetseg.models.model import Model

Events = Generator[Event, None, Any]


@dataclass(frozen=True, slots=True)
class JobProgress(Event):
    """Part of a job that is done, 0 to 1."""

    fraction: float


class AnnotatedSource(Protocol):
    """A snapshot of an annotated image."""

    def pair(self) -> AnnotatedImage:
        """The annotated image; for any thread."""


class LabelledFolder(Protocol):
    """A folder of images and one of labels, which pair by their stem."""

    @property
    def image(self) -> Path:
        """Folder or file of the images."""

    @property
    def labels(self) -> Path:
        """Folder or file of the labels."""

    @property
    def kind(self) -> LabelKind:
        """What the numbers in the labels mean."""

    @property
    def threshold(self) -> float | None:
        """Threshold of structure 1 in the labels."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainWork:
    """Training on snapshots of layers and on folders, with live prediction."""

    snapshots: Sequence[AnnotatedSource]
    """Annotated layers; newer ones may come through the control."""
    folders: Sequence[LabelledFolder]
    """Sources on disk, opened in the worker."""
    settings: TrainSettings
    structures: Sequence[Structure]
    """As `napari_unetseg.training.train.train_events` takes them."""
    model: Model | None
    """The initial model, unless the settings need another network; None for a new one."""
    screen: ViewportState
    """The current viewport."""
    computer: str = ""
    """Address of a remote worker; empty for local training."""

    def __call__(self, control: JobControl) -> Generator[Event, None, Model]:
        """Yield the events of the training, and masks between them; return the model."""
        others: list[AnnotatedImage] = []
        for source in self.folders:
            others += yield from _open_folder(source)
        control.set_fixed_annotations(tuple(others))
        pairs = [*(one.pair() for one in self.snapshots), *others]
        init = self.model
        if init is not None and (reason := _misfit(init, self.settings)):
            yield Notice(f"A new model is trained: {reason}.")
            init = None
        task = TrainTask(pairs, self.settings, self.structures, init, self.screen)
        return cast("Model", (yield from RunOn(task, self.computer)(control)))


def _open_folder(source: LabelledFolder) -> Generator[Event, None, list[AnnotatedImage]]:
    from napari_unetseg.io.folder_pairs import find_pairs

    found = find_pairs(source.image, source.labels, source.kind, threshold=source.threshold)
    if found.skipped:
        yield Notice(f"{len(found.skipped)} images of {source.image.name} have no labels.")
    yield from map(Notice, found.notes)
    return list(found.pairs)


def _misfit(model: Model, settings: TrainSettings) -> str:
    """Why a model cannot be the initial one; empty when it can."""
    net = model.net
    if net.dims > settings.dims:
        return "a 3D model cannot be continued in 2D"
    if (net.depth, net.width, net.norm, net.encoder) != (
        settings.depth or net.depth,
        settings.width,
        settings.norm,
        settings.encoder,
    ):
        return "the settings ask for another network"
    return ""


def nearest_first(stack: Stack, dims: int, here: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All planes of a stack, the visible one first and its neighbours next."""
    return sorted(
        stack.planes(dims),
        key=lambda plane: sum((a - b) ** 2 for a, b in zip(plane, here, strict=True)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class TidyWork:
    """Post-processing of a mask, plane by plane or volume by volume.

    ``mask`` is a snapshot of the grid; ``spacing`` has one number for each spatial axis.
    """

    mask: np.ndarray
    settings: TidySettings
    spacing: Sequence[float]

    def __call__(self, control: JobControl) -> Events:
        """Yield progress and return the array; objects are numbered through all planes."""
        dims = len(self.spacing)
        leading = self.mask.shape[: self.mask.ndim - dims]
        objects = self.settings.split or self.settings.objects
        shape = self.mask.shape
        out = np.zeros(shape, np.int32) if objects else empty_grid(shape)
        count = 0
        for done, plane in enumerate(np.ndindex(*leading), 1):
            if control.stopped:
                return None
            tidied = tidy(self.mask[plane], self.settings, self.spacing)
            if objects:
                tidied[tidied > 0] += count
                count = max(count, int(tidied.max(initial=0)))
            out[plane] = tidied
            yield JobProgress(done / math.prod(leading))
        return out


def at_once(call: Callable[[], Any]) -> Callable[[JobControl], Events]:
    """A job of one call, which tells no progress; it returns what the call returns."""

    def work(_: JobControl) -> Events:
        yield JobProgress(0.0)
        return call()

    return work


def read_model(path: Path) -> Model:
    """Read a model file, in the worker: it imports PyTorch."""
    from napari_unetseg.models.model import load_model

    return load_model(path)


@dataclass(frozen=True, slots=True, eq=False)
class OpenWork:
    """Opens a project and reads its models."""

    folder: Path

    def __call__(self, control: JobControl) -> Events:  # noqa: ARG002 - as every job has it
        """Return the project, its models by name, and what could not be read, in sentences."""
        yield JobProgress(0.0)
        project = Project.open(self.folder)
        models, lost = [], []
        listed = project.values.get("models", [])
        for each in listed if isinstance(listed, list) else []:
            name = str(each.get("id", "")) if isinstance(each, dict) else ""
            path = self.folder / "models" / f"{name}.safetensors"
            try:
                if not name.isalnum():
                    raise UserError("A model of the project has no name.")
                models.append((str(each["name"]), read_model(path)))
            except (UserError, KeyError) as error:
                lost.append(str(error))
            yield JobProgress(len(models) / len(listed))
        return project, models, lost


@dataclass(frozen=True, slots=True, eq=False)
class BatchWork:
    """Prediction of many images into files."""

    model: Model
    """The model."""
    images: Mapping[str, Path]
    stacks: Mapping[Path, Stack]
    """Images by output name; open ones by their paths."""
    how: Saving
    measure: bool
    """Output format and place; whether to write object tables."""
    device: str
    """As in `PredictSettings`."""
    keep: bool = False
    """Skip images with existing masks."""
    match_spacing: MatchSpacing = False
    """As in `PredictSettings`."""

    def __call__(self, control: JobControl) -> Events:
        """Return the result of each processed image."""
        from napari_unetseg.core.settings import PredictSettings
        from napari_unetseg.inference.large.predict_files import OptionalOutputs, predict_files
        from napari_unetseg.io.open_image import open_stack

        how = {"device": self.device, "match_spacing": self.match_spacing}
        settings = PredictSettings.model_validate(how)
        table = ".csv" if self.measure else None
        optional = OptionalOutputs(skip_existing=self.keep, count=True, measure=table, unsure=True)

        def opened(path: Path) -> Stack:
            return self.stacks[path] if path in self.stacks else open_stack(path)

        return (
            yield from predict_files(
                self.model,
                self.images,
                self.how,
                settings,
                open_image=opened,
                optional=optional,
                control=control,
            )
        )
