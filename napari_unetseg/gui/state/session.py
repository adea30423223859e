"""Evented state of a session: choices and running job; no Qt, no napari.

Layers appear here as opaque handles, compared by identity. Only the GUI thread sets anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from psygnal import SignalGroupDescriptor

from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.core.settings import MatchSpacing, TrainSettings

if TYPE_CHECKING:
    from napari_unetseg.core.events import Notice
    from napari_unetseg.gui.state.batch_rows import BatchRow
    from napari_unetseg.inference.quality_table import ModelQuality
    from napari_unetseg.io.project.locations import Recovery
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.training_record import AutoSetting


class Level(StrEnum):
    """How much a message matters."""

    INFO = "info"
    DONE = "done"
    WARNING = "warning"
    ERROR = "error"


class JobKind(StrEnum):
    """What a job does."""

    TRAIN = "train"
    PREDICT = "predict"
    TIDY = "tidy"
    EXPORT = "export"
    MODEL = "model"
    BATCH = "batch"
    LIVE = "live"
    """Work that gives way to any other; it is no job of the session."""


class Mode(StrEnum):
    """When the mask on screen changes."""

    LIVE = "live"
    """As the network learns, as strokes are painted, as the viewer moves."""
    ONCE = "once"
    """When a training is done, or when it is asked for."""
    FROZEN = "frozen"
    """When it is asked for."""


@dataclass(frozen=True, slots=True)
class Message:
    """One sentence for the status line."""

    text: str = ""
    level: Level = Level.INFO


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """An image, the layers that are its further channels, and its labels.

    ``image`` and ``labels`` are layers, or both are paths of files or folders. ``chosen``: the user
    chose these labels, or none; otherwise they were found, and their look is not touched.
    ``threshold``: what is above it in labels on disk is structure 1.
    """

    image: Any
    labels: Any = None
    kind: LabelKind = LabelKind.STROKES
    channels: tuple[Any, ...] = ()
    used: bool = True
    chosen: bool = False
    threshold: float | None = None

    @property
    def on_disk(self) -> bool:
        """Whether this is a folder or file instead of layers."""
        return isinstance(self.image, Path)

    @property
    def layers(self) -> tuple[Any, ...]:
        """Every layer that is needed."""
        if self.on_disk:
            return ()
        labels = () if self.labels is None else (self.labels,)
        return (self.image, *self.channels, *labels)


@dataclass(frozen=True, slots=True)
class JobState:
    """The job that runs.

    ``fraction`` is None while its length is unknown; ``remaining`` is in seconds; ``since`` is when
    it began, of `time.monotonic`.
    """

    id: int
    kind: JobKind
    text: str
    fraction: float | None = None
    remaining: float | None = None
    stopping: bool = False
    paused: bool = False
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Point:
    """One epoch of the training curve.

    ``loss`` is the mean training loss, ``validation_loss`` that of `Scores`; ``dice`` is the mean
    over structures and ``dices`` holds number and Dice of each. What has no score is None or
    missing. ``seconds`` is the time since the start of the training.
    """

    step: int
    loss: float
    dice: float | None
    seconds: float = 0.0
    validation_loss: float | None = None
    dices: tuple[tuple[int, float], ...] = ()


class MarkKind(StrEnum):
    """What is marked on the training curve."""

    STROKES = "strokes"
    SHOWN = "shown"


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a training: newer strokes came, or another model was shown, with its Dice."""

    kind: MarkKind
    step: int
    seconds: float
    dice: float | None = None


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a layer is not used with the chosen image, as a sentence.

    ``can_align``: it has as many pixels and need only be laid over the image. ``is_channel``: it is
    a further channel, not labels or a mask.
    """

    layer: Any
    text: str
    can_align: bool = False
    is_channel: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ModelEntry:
    """A model of this session; ``path`` is where it was saved or loaded."""

    model: Model = field(repr=False)
    name: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class SizesNote:
    """That an image has other voxel sizes than a model was trained on: a sentence.

    ``what`` is pixel or voxel; ``possible``: the image can be predicted at the model's.
    """

    text: str
    what: str
    possible: bool


@dataclass
class Session:
    """The state that panels show; each field has an event of its name in ``events``."""

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    image: Any = None
    sources: tuple[ImageSource, ...] = ()
    structures: tuple[Structure, ...] = (Structure(1),)
    misfit: Misfit | None = None
    """What does not lie on the grid of the chosen image, though it is, or may be meant, to."""
    brush: int = 1
    counts: Mapping[int, int] = field(default_factory=dict)
    dice: Mapping[int, float] = field(default_factory=dict)
    """Dice of each structure on the validation blocks, after the last training."""
    quality: tuple[ModelQuality, ...] = ()
    """What checked places say of each model, in the order of the history."""
    checking: tuple[int, int] | None = None
    """Number of the place that is being checked, and of how many; None while none is."""
    checked: int = 0
    unchecked: int = 0
    """Places that were checked and are not used for training, and those still to be checked."""
    corrected: int = 0
    accepted: int = 0
    undoable: str = ""
    """The plugin's own step that undo takes back; empty if there is none."""
    redoable: str = ""

    settings: TrainSettings = field(default_factory=TrainSettings)
    mode: Mode = Mode.LIVE
    computer: str = ""
    """Address of the computer that trains and predicts; empty for this one."""
    match_spacing: MatchSpacing = False
    """As in `PredictSettings`; ``auto`` or False."""
    sizes: SizesNote | None = None
    """How the voxel sizes of the chosen image and the model in use differ; None where they do not,
    or are not known."""
    uncertain: bool = False
    """Show how unsure the network is of what is on screen."""
    watched: bool = True
    """Whether there is anybody to look at live masks: False while the dock is closed."""
    opening: bool = False
    """Layers are being opened or restored, so that nothing else may begin."""
    retrain: bool = False
    """Strokes begin a training anew: the last one ended by itself, so more may help."""
    go_on: bool = True
    """Training goes on from the model in use where it fits."""

    job: JobState | None = None
    choices: tuple[AutoSetting, ...] = ()
    """What the newest training chose for its images, and why."""
    curve: tuple[Point, ...] = ()
    marks: tuple[Mark, ...] = ()
    """What happened along the curve."""
    result: str = ""
    message: Message = Message()

    project: Path | None = None
    """The project that was named, a folder; None while everything goes to one without a name."""
    recoveries: tuple[Recovery, ...] = ()
    """What windows that crashed, or were closed without a name, have left."""
    batch: tuple[BatchRow, ...] = ()
    """The images of the batch panel."""
    missing: tuple[str, ...] = ()
    """Names of the project's images that were not found."""

    entry: ModelEntry | None = None
    """The model in use."""
    improved: Model | None = None
    """The newest model of a training that goes on, which the mask on screen is by."""
    history: tuple[ModelEntry, ...] = ()

    @property
    def newest_model(self) -> Model | None:
        """The newest model that is shown: of the training that goes on, else the one in use."""
        if self.improved is not None:
            return self.improved
        return self.entry.model if self.entry is not None else None

    def source(self, image: Any = None) -> ImageSource | None:
        """The source of an image layer; of the chosen one by default."""
        image = self.image if image is None else image
        return next((s for s in self.sources if s.image is image and image is not None), None)

    def put_source(self, source: ImageSource) -> None:
        """Add a source, or replace the one of the same image layer."""
        old = None if source.on_disk else self.source(source.image)
        if old is None:
            self.sources = (*self.sources, source)
        else:
            self.sources = tuple(source if s is old else s for s in self.sources)

    def change_source(self, **changes: Any) -> None:
        """Change the source of the chosen image."""
        source = self.source() or ImageSource(self.image)
        self.put_source(replace(source, **changes))

    @property
    def training(self) -> tuple[ImageSource, ...]:
        """The sources with labels that a training uses; corrections come on top."""
        return tuple(s for s in self.sources if s.used and s.labels is not None)

    @property
    def on_strokes(self) -> bool:
        """Whether strokes are among the labels, so that scores are those on strokes."""
        return any(s.kind is LabelKind.STROKES for s in self.training)

    def know(self, numbers: Sequence[int], names: Mapping[int, str] | None = None) -> None:
        """Add the structures that were found in labels, or in a model, under their number."""
        names, known = names or {}, {s.number: s for s in self.structures}
        for number in numbers:
            if 1 <= number < BACKGROUND_LABEL and number not in known:
                known[number] = Structure(number, names.get(number, ""))
        for number, name in names.items():
            if number in known and known[number].name == f"structure {number}":
                known[number] = replace(known[number], name=name)
        structures = tuple(known[n] for n in sorted(known))
        if structures != self.structures:
            self.structures = structures

    def change_settings(self, **changes: Any) -> None:
        """Change training settings; raises pydantic's ``ValidationError`` for bad ones."""
        self.settings = TrainSettings.model_validate({**self.settings.model_dump(), **changes})

    def say(self, text: str, level: Level = Level.INFO) -> None:
        """Show a sentence in the status line."""
        self.message = Message(text, level)

    def say_notice(self, notice: Notice) -> None:
        """Show what a job says, as a warning where what it makes may be wrong."""
        self.say(notice.text, Level.WARNING if notice.warning else Level.INFO)
