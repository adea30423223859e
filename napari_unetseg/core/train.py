"""The training loop: a generator of events that returns a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, cast

from napari_unetseg.core.config import TrainSettings
from napari_unetseg.core.control import Control
from napari_unetseg.core.devices import device_name, is_out_of_memory, pick_device, use_threads
from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.events import Event, Notice, Prepared
from napari_unetseg.core.learner import Learner, NotFiniteError
from napari_unetseg.core.model import Model
from napari_unetseg.core.plan import Plan, make_plan
from napari_unetseg.core.progress import Progress
from napari_unetseg.core.records import TrainingRecord, image_records, now, versions
from napari_unetseg.core.samples import Pair, TrainingData

if TYPE_CHECKING:
    from napari_unetseg.core.labels import Structure

__all__ = ["train", "train_events"]

MOST_FAILURES = 2
"""Steps with a loss that is no number, after which a training ends."""


def train_events(
    pairs: Sequence[Pair],
    settings: TrainSettings | None = None,
    *,
    structures: Sequence[Structure] = (),
    init: Model | None = None,
    control: Control | None = None,
) -> Generator[Event, None, Model]:
    """Train a U-Net on annotated images.

    Parameters
    ----------
    pairs
        Images with labels; voxels without a label never enter the loss.
    settings
        What to train and for how long.
    structures
        Names and colours of the structures' numbers.
    init
        A model of the same structures and channels to go on from.
    control
        Stops the training after the step at hand, sets its threads, brings newer annotations.

    Yields
    ------
    Event
        `Notice`, one `Prepared`, `StepDone`, `EpochDone`, and last one `TrainingDone`.

    Returns
    -------
    Model
        The weights with the best score on the validation blocks, or the newest without any.

    Raises
    ------
    TrainingError
        The labels or images cannot be trained on; the sentence says what to do.
    """
    settings = settings or TrainSettings()
    control = control or Control(settings.threads)
    device = pick_device(settings.device)
    threads = use_threads(control.threads or settings.threads)
    data = _read(pairs, settings, structures, init)
    plan = make_plan(data, settings, device.type, init.net if init else None)
    learner = Learner(data, plan, settings, device, init.weights if init else None)
    if settings.freeze_encoder and init is None:
        yield Notice("There is no model to go on from, so the encoder is not frozen.")
    if not data.validated:
        yield Notice(
            "There is too little annotation to hold any back for a score; the result is shown "
            "without one. Paint more, in several places, to get a score."
        )
    yield _prepared(data, plan, learner, device_name(device))

    progress = Progress(plan, settings, learner.weights())
    if init is not None:
        progress.begin(learner)
        if data.validated and not all(record.scores for record in init.history):
            yield Notice(
                "An earlier training of this model held nothing back, so its score is kinder "
                "than that of a new model."
            )
    failures = 0
    while not progress.over and not control.stopped:
        use_threads(control.threads or settings.threads)
        try:
            loss = learner.step(progress.rate)
        except NotFiniteError:
            failures += 1
            if failures > MOST_FAILURES:
                progress.reason = "the loss was no number (NaN) again and again"
                break
            learner.restore(progress.safe_weights)
            yield Notice("A step's loss was no number; going back and on with a smaller rate.")
            continue
        except (RuntimeError, MemoryError) as error:
            try:
                if not is_out_of_memory(error):
                    raise
                yield Notice(learner.shrink())
                continue
            except (RuntimeError, MemoryError, TrainingError) as final:
                if not progress.epochs:
                    raise
                progress.fail(final)
                break
        yield progress.step(loss)
        if progress.epoch_over or control.stopped:
            yield from _epoch(progress, learner)
            failures = 0
            if newer := control.take_pairs():
                try:
                    data = data.renewed(newer)
                except UserError as error:
                    yield Notice(f"Training goes on with the earlier annotations: {error}")
                else:
                    learner.use(data)
                    progress.forget_scores()
    if progress.steps_since_epoch:
        yield from _epoch(progress, learner)
    if progress.best is None or not progress.epochs:
        raise TrainingError(
            "Training was stopped before its first step; nothing was learned yet."
            if control.stopped
            else "Training failed at its first steps: the loss was no number (NaN); check the "
            "image for broken values or choose a smaller learning rate."
        )
    done = progress.done(stopped=control.stopped)
    yield done
    record = TrainingRecord(
        date=now(),
        reason=done.reason,
        steps=done.steps,
        seconds=round(done.seconds, 2),
        settings=settings,
        scores=done.scores,
        curve=tuple(progress.curve),
        images=image_records(data),
        labelled_voxels=data.train_voxels + data.validation_voxels,
        device=device_name(device),
        threads=threads,
        versions=versions(),
        parent=init.id if init else None,
    )
    image = data.pairs[0].image
    return Model(
        net=plan.net,
        weights=progress.best.weights,
        classes=data.classes,
        channels=init.channels if init else image.channels,
        normalization=data.normalization,
        spacing=image.spatial_spacing(data.dims),
        units=image.grid_units[-data.dims :],
        history=(*(init.history if init else ()), record),
    )


def _epoch(progress: Progress, learner: Learner) -> Generator[Event, None, None]:
    done = progress.epoch(learner)
    if done.scores is None and learner.data.validated:
        yield Notice("Not enough memory: this epoch has no score.")
    yield done


def _read(
    pairs: Sequence[Pair],
    settings: TrainSettings,
    structures: Sequence[Structure],
    init: Model | None,
) -> TrainingData:
    """Read and check images and labels, against the model to go on from if there is one."""
    if init is not None:
        if init.dims != settings.dims:
            raise TrainingError(
                f"The model to go on from is {init.dims}D, but {settings.dims}D was chosen; "
                "choose the same, or train a new model."
            )
        for pair in pairs:
            init.check_image(pair.image)
    return TrainingData(
        pairs,
        settings.dims,
        settings.validation,
        structures=structures,
        seed=settings.seed,
        classes=init.classes if init else None,
        normalization=init.normalization if init else None,
        rule=settings.normalization,
    )


def _prepared(data: TrainingData, plan: Plan, learner: Learner, device: str) -> Prepared:
    return Prepared(
        steps=plan.steps,
        epoch_steps=plan.epoch_steps,
        samples=plan.epoch_steps * plan.batch,
        train_voxels=data.train_voxels,
        validation_voxels=data.validation_voxels,
        blocks=len(data.validation_blocks()),
        device=device,
        parameters=learner.network.parameter_count,
        patch=plan.patch,
        batch=plan.batch,
    )


def train(
    pairs: Sequence[Pair],
    settings: TrainSettings | None = None,
    *,
    structures: Sequence[Structure] = (),
    init: Model | None = None,
    control: Control | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Model:
    """Train to the end; ``on_event`` is called with every event. See `train_events`."""
    events = train_events(pairs, settings, structures=structures, init=init, control=control)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return cast("Model", end.value)
        if on_event is not None:
            on_event(event)
