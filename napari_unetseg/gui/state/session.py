"""Evented state of a session: choices and running job; no Qt, no napari.

Layers appear here as opaque handles, compared by identity. Only the GUI thread may change it.
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
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.gui.state.batch_rows import BatchRow
    from napari_unetseg.inference.quality_table import ModelQuality
    from napari_unetseg.io.project.locations import Recovery
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.training_record import AutoSetting


class Level(StrEnum):
    """Severity of a message."""

    INFO = "info"
    DONE = "done"
    WARNING = "warning"
    ERROR = "error"


class JobKind(StrEnum):
    """The kind of a job."""

    TRAIN = "train"
    PREDICT = "predict"
    TIDY = "tidy"
    EXPORT = "export"
    MODEL = "model"
    BATCH = "batch"
    LIVE = "live"
    """Idle work that yields to any job; it is no job of the session."""


class Mode(StrEnum):
    """When the visible mask is updated."""

    LIVE = "live"
    """During training, after strokes and when the viewport changes."""
    ONCE = "once"
    """After a training, and on request."""
    FROZEN = "frozen"
    """On request."""


@dataclass(frozen=True, slots=True)
class Message:
    """One sentence for the status line."""

    text: str = ""
    level: Level = Level.INFO


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """An image, the layers that are its further channels, and its labels.

    ``image`` and ``labels`` are layers, or both are paths of files or folders. ``chosen``: the user
    chose these labels, or none; otherwise the plugin did, and their colours are unchanged.
    ``threshold``: values above it in labels on disk are structure 1.
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
        """Whether images and labels are files or folders."""
        return isinstance(self.image, Path)

    @property
    def layers(self) -> tuple[Any, ...]:
        """The image, its further channels and its labels."""
        if self.on_disk:
            return ()
        labels = () if self.labels is None else (self.labels,)
        return (self.image, *self.channels, *labels)


@dataclass(frozen=True, slots=True)
class JobState:
    """The running job.

    ``fraction`` is None while its length is unknown; ``remaining`` is in seconds; ``since`` is its
    start time, of `time.monotonic`.
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

    ``loss`` is the mean training loss, ``validation_loss`` that of `Scores`. What has no score is
    None. ``seconds`` is the time since the start of the training.
    """

    step: int
    loss: float
    scores: Scores | None
    seconds: float = 0.0
    validation_loss: float | None = None


class MarkKind(StrEnum):
    """Kind of a mark on the training curve."""

    STROKES = "strokes"
    SHOWN = "shown"


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a training: newer strokes came, or another model was shown, with its score."""

    kind: MarkKind
    step: int
    seconds: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Misalignment:
    """Why a layer is not used with the chosen image, as a sentence.

    ``can_align``: it has as many pixels and only its transform differs. ``is_channel``: it is a
    further channel, not labels or a mask.
    """

    layer: Any
    text: str
    can_align: bool = False
    is_channel: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ModelEntry:
    """A model of this session; ``path`` is the file it was saved to or loaded from."""

    model: Model = field(repr=False)
    name: str
    path: Path | None = None


class ObjectTool(StrEnum):
    """What the mouse does in the object layer."""

    NONE = ""
    """What napari's own mode says."""
    PAINT = "paint"
    """Paint an object with a new number."""
    MERGE = "merge"
    """A drag across objects makes one of them."""
    SPLIT = "split"
    """A drag through an object cuts it."""
    DELETE = "delete"
    """A click removes an object."""
    ACCEPT = "accept"
    """A click finishes an object as it is."""


@dataclass(frozen=True, slots=True)
class ObjectCount:
    """Objects of the chosen image: on the plane on screen, and finished ones on any plane."""

    on_plane: int = 0
    finished: int = 0


@dataclass(frozen=True, slots=True)
class VoxelSizeMismatch:
    """A sentence about an image with other voxel sizes than a model was trained on.

    ``what`` is pixel or voxel; ``possible``: the image can be predicted at the model's.
    """

    text: str
    what: str
    possible: bool


@dataclass
class Session:
    """The state that panels show; ``events`` has an event for each field, of the same name."""

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    image: Any = None
    sources: tuple[ImageSource, ...] = ()
    structures: tuple[Structure, ...] = (Structure(1),)
    misalignment: Misalignment | None = None
    """A layer that should lie on the grid of the chosen image but does not."""
    brush: int = 1
    counts: Mapping[int, int] = field(default_factory=dict)
    scores: Scores | None = None
    """On the validation blocks, after the last training."""
    quality: tuple[ModelQuality, ...] = ()
    """What checked places say of each model, in the order of the history."""
    measuring: bool = False
    """Masks of models are being compared with checked places."""
    checking: tuple[int, int] | None = None
    """Number of the place that is being checked, and of how many; None while none is."""
    checked: int = 0
    unchecked: int = 0
    """Places that were checked and are not used for training, and those still to be checked."""
    object_tool: ObjectTool = ObjectTool.NONE
    objects: ObjectCount = ObjectCount()
    corrected: int = 0
    accepted: int = 0
    undoable: str = ""
    """Text of the plugin's newest action that can be undone; empty if there is none."""
    redoable: str = ""

    settings: TrainSettings = field(default_factory=TrainSettings)
    mode: Mode = Mode.LIVE
    computer: str = ""
    """Address of the remote computer that trains and predicts; empty for this one."""
    match_spacing: MatchSpacing = False
    """The setting of `PredictSettings`: ``auto`` or False."""
    sizes: VoxelSizeMismatch | None = None
    """The difference in voxel size of the chosen image and the model in use; None if they are equal
    or unknown.
    """
    uncertain: bool = False
    """Show the uncertainty of the viewport."""
    watched: bool = True
    """Whether live masks are visible: False while the dock is closed."""
    opening: bool = False
    """Layers are being opened or restored, so that no job may start."""
    retrain: bool = False
    """Strokes restart a training: the last one ended by itself, so more may help."""
    go_on: bool = True
    """Training continues the model in use if it fits."""

    job: JobState | None = None
    choices: tuple[AutoSetting, ...] = ()
    """Automatic settings of the newest training, with reasons."""
    curve: tuple[Point, ...] = ()
    marks: tuple[Mark, ...] = ()
    """Events along the curve."""
    result: str = ""
    message: Message = Message()

    project: Path | None = None
    """The folder of the named project; None while the project is unnamed."""
    recoveries: tuple[Recovery, ...] = ()
    """Unnamed projects left by windows that crashed or were closed."""
    batch: tuple[BatchRow, ...] = ()
    """The images of the batch panel."""
    missing: tuple[str, ...] = ()
    """Names of the project's images that were not found."""

    entry: ModelEntry | None = None
    """The model in use."""
    improved: Model | None = None
    """The newest model of the running training, which made the visible mask."""
    history: tuple[ModelEntry, ...] = ()
    set_aside: ModelEntry | None = None
    """The model from which the last training went back; None if it did not."""
    mask_changed: float | None = None
    """Fraction of the visible mask that its newest update changed; None if unknown."""

    @property
    def newest_model(self) -> Model | None:
        """The newest model that is shown: that of the running training, else the one in use."""
        if self.improved is not None:
            return self.improved
        return self.entry.model if self.entry is not None else None

    @property
    def mask_follows(self) -> bool:
        """Whether newer models change the mask on screen: in live mode, unless it is checked."""
        return self.mode is Mode.LIVE and self.checking is None

    def source(self, image: Any = None) -> ImageSource | None:
        """The source of an image layer, by default of the chosen one."""
        image = self.image if image is None else image
        return next((s for s in self.sources if s.image is image and image is not None), None)

    def put_source(self, source: ImageSource) -> None:
        """Add a source, or replace the one with the same image layer."""
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
        """Sources with labels that a training uses; corrections are used in addition."""
        return tuple(s for s in self.sources if s.used and s.labels is not None)

    def know(self, numbers: Sequence[int], names: Mapping[int, str] | None = None) -> None:
        """Add structures that were found in labels, or in a model, by number."""
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
        """Show a notice of a job, as a warning if its result may be wrong."""
        self.say(notice.text, Level.WARNING if notice.warning else Level.INFO)
