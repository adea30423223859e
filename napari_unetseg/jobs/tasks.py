"""Serialisable tasks of a window: train and predict.

PyTorch is imported inside the functions, so that opening the dock needs none.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_unetseg.core.events import Event, with_each
from napari_unetseg.jobs.live_predictor import LivePredictor, ViewportState, ViewportTask
from napari_unetseg.jobs.plane_objects import with_objects

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.core.settings import PredictSettings, TrainSettings
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model
    from napari_unetseg.training.checkpoint_file import CheckpointFile


@dataclass(frozen=True, slots=True, eq=False)
class TrainTask:
    """Training with live prediction of the viewport."""

    pairs: Sequence[AnnotatedImage]
    settings: TrainSettings
    structures: Sequence[Structure]
    """As `napari_unetseg.training.train.train_events` takes them."""
    model: Model | None
    """The initial model; None for a new one."""
    screen: ViewportState
    """The current viewport; without one nothing is predicted."""
    checkpoint: CheckpointFile | None = None
    """As `train_events` takes it; for local training."""

    def __call__(self, control: JobControl) -> Generator[Event, None, Model]:
        """Yield the events of the training, and masks between them; return the model."""
        from napari_unetseg.training.train import train_events

        live = LivePredictor(self.screen, self.settings.device, control)

        def with_masks(event: Event) -> Iterator[Event]:
            yield event
            yield from live.after(event)

        training = train_events(
            self.pairs,
            self.settings,
            structures=self.structures,
            init=self.model,
            control=control,
            checkpoint=self.checkpoint,
        )
        return (yield from with_each(training, with_masks))


@dataclass(frozen=True, slots=True, eq=False)
class PredictTask:
    """Prediction of planes of a stack in the given order; None is all."""

    model: Model
    stack: Stack
    planes: Sequence[tuple[int, ...]] | None
    settings: PredictSettings

    def __call__(self, control: JobControl) -> Generator[Event, None, None]:
        """Yield notices, tiles and objects."""
        from napari_unetseg.inference.predict import predict_events

        maps = bool(self.model.classes.objects)
        settings = self.settings.model_copy(update={"object_maps": maps})
        tiles = predict_events(
            self.model, self.stack, settings, planes=self.planes, control=control
        )
        yield from with_objects(tiles, self.model, self.stack)


Task = TrainTask | PredictTask | ViewportTask


@dataclass(frozen=True, slots=True)
class RemoteDisconnected(Event):
    """The connection was lost during training, which ends with its newest model."""
