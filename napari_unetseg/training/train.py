"""The training loop: a generator of events that returns a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from napari_unetseg.core.events import finish
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.runtime.distributed import world
from napari_unetseg.runtime.glibc_malloc import kept_memory
from napari_unetseg.training.training_run import TrainingRun

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model
    from napari_unetseg.training.checkpoint_file import CheckpointFile


def train_events(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings | None = None,
    *,
    structures: Sequence[Structure] = (),
    init: Model | None = None,
    control: JobControl | None = None,
    checkpoint: CheckpointFile | None = None,
) -> Generator[Event, None, Model]:
    """Train a U-Net on annotated images.

    Under torchrun the processes train one model together, with the same arguments; the main process
    yields the events and obeys the control, and all return the same model. Newer annotations are
    not taken then.

    Parameters
    ----------
    pairs
        Images with labels; voxels without a label are never taken for background or a structure.
    settings
        What to train and for how long.
    structures
        Names and colours of the structures' numbers. If any are given, unlabelled others of
        ``init`` are dropped.
    init
        Initial model; its weights are adapted to other structures, channels or a third dimension.
        With strokes, or labels of a single class, its other classes are kept.
    control
        Stops the training after a step, sets its threads, brings newer annotations.
    checkpoint
        File from which the same training (images, labels, settings) is resumed after a stop or a
        kill. The caller removes it; newer annotations end it.

    Yields
    ------
    Event
        `Notice`, one `TrainingPrepared`, `StepDone`, `EpochDone`, `ModelUpdated` whenever a newer
        model is to be shown, `ModelSetAside`, `AnnotationsUpdated`, and last one `TrainingDone`.

    Returns
    -------
    Model
        The newest averaged weights; the best ones after a significant fall on the held-out labels.

    Raises
    ------
    TrainingError
        The labels or images cannot be trained on, or the checkpoint is damaged or of another
        training; the sentence says what to do.
    """
    settings, control = settings or TrainSettings(), control or JobControl()
    with kept_memory():
        events = _train(TrainingRun(pairs, settings, structures, init, control, checkpoint))
        if world().rank:
            return finish(events, lambda _: None)
        return (yield from events)


def _train(run: TrainingRun) -> Generator[Event, None, Model]:
    with closing(run.trainer):
        yield from run.begin()
        while run.goes_on():
            yield from run.step()
            if run.epoch_ends():
                yield from run.epoch()
            else:
                yield from run.show_newest()
            yield from run.take_annotations()
            yield from run.take_back_fallen()
            yield from run.checkpoints.keep()
        yield from run.checkpoints.keep(now=run.stopped)  # before a last, shorter epoch
        if run.state.steps_since_epoch:
            yield from run.epoch()
        return (yield from run.end())


def train(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings | None = None,
    *,
    structures: Sequence[Structure] = (),
    init: Model | None = None,
    control: JobControl | None = None,
    checkpoint: CheckpointFile | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Model:
    """Train to the end; ``on_event`` is called with every event. See `train_events`."""
    events = train_events(
        pairs, settings, structures=structures, init=init, control=control, checkpoint=checkpoint
    )
    return finish(events, on_event or (lambda _: None))
