"""The training loop: a generator of events that returns a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.job_control import Control
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.models import transfer
from napari_unetseg.models.model import Model
from napari_unetseg.models.training_record import (
    TrainingRecord,
    image_records,
    now,
    remembered,
    versions,
)
from napari_unetseg.models.voxel_sizes import model_spacing, why_other_sizes
from napari_unetseg.runtime.devices import device_name, pick_device, release_memory, use_threads
from napari_unetseg.runtime.distributed import ProcessGroup, world
from napari_unetseg.runtime.glibc_malloc import kept_memory
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.auto_settings import explain
from napari_unetseg.training.checkpoint import Checkpoints, identity
from napari_unetseg.training.model_selection import Answers, StoppedError
from napari_unetseg.training.trainer import Learner, NotFiniteError, Weights
from napari_unetseg.training.training_events import Improved, Outcome, Prepared, Renewed
from napari_unetseg.training.training_plan import Plan, make_plan
from napari_unetseg.training.training_state import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.training_record import Choice
    from napari_unetseg.training.checkpoint_file import CheckpointFile

__all__ = ["train", "train_events"]

STOPPED, NO_MEMORY = "stopped", "no memory"
ANSWERS = (None, STOPPED, NO_MEMORY)
"""Why there is no first answer; None: there is one."""
MOST_FAILURES = 2
"""Steps with a loss that is no number, after which a training ends."""
RESTS = 3.0
"""Between two times that newer annotations are taken and answered the training gets so many times
what the earlier one took."""


def train_events(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings | None = None,
    *,
    structures: Sequence[Structure] = (),
    init: Model | None = None,
    control: Control | None = None,
    checkpoint: CheckpointFile | None = None,
) -> Generator[Event, None, Model]:
    """Train a U-Net on annotated images.

    Under torchrun the processes train one model together, with the same arguments: a step is that
    of one process with all its samples. The first one yields the events, obeys the control and
    says when it is over; all return the same model. Newer annotations are not taken then.

    Parameters
    ----------
    pairs
        Images with labels; voxels without a label are never taken for background or a structure.
    settings
        What to train and for how long.
    structures
        Names and colours of the structures' numbers. If any are given, others that ``init`` knows
        and nothing is labelled of are not kept.
    init
        A model to go on from; other structures, channels or a third dimension are adapted. Of
        strokes, and of labels of a single class, it keeps what else it knows.
    control
        Stops the training after the step at hand, sets its threads, brings newer annotations.
    checkpoint
        Where the training is kept, so that it goes on after its process was stopped or killed: the
        same images, labels and settings go on from the state in the file. It is kept until the
        caller removes it, and no longer once newer annotations came.

    Yields
    ------
    Event
        `Notice`, one `Prepared`, `StepDone`, `EpochDone`, `Improved` whenever there is a better
        model to show, `Renewed` when newer annotations came, and last one `TrainingDone`.

    Returns
    -------
    Model
        The weights with the best smoothed score on the validation blocks; the newest without any.

    Raises
    ------
    TrainingError
        The labels or images cannot be trained on, or the checkpoint is damaged or of another
        training; the sentence says what to do.
    """
    settings, control = settings or TrainSettings(), control or Control()
    with kept_memory():
        events = _train(pairs, settings, structures, init, control, checkpoint)
        if world().rank:
            return _result(events, lambda _: None)
        return (yield from events)


def _train(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings,
    structures: Sequence[Structure],
    init: Model | None,
    control: Control,
    checkpoint: CheckpointFile | None,
) -> Generator[Event, None, Model]:
    run = _Run(pairs, settings, structures, init, control, checkpoint)
    with closing(run.learner):
        yield from run.begin()
        while run.goes_on():
            yield from run.step()
            if run.epoch_ends():
                yield from run.epoch()
            yield from run.renew()
            yield from run.checkpoints.keep()
        yield from run.checkpoints.keep(now=run.stopped)  # before a last, shorter epoch
        if run.progress.steps_since_epoch:
            yield from run.epoch()
        return (yield from run.end())


class _Run:
    """One training from its first look at the data to its model."""

    def __init__(
        self,
        pairs: Sequence[AnnotatedImage],
        settings: TrainSettings,
        structures: Sequence[Structure],
        init: Model | None,
        control: Control,
        checkpoint: CheckpointFile | None,
    ) -> None:
        self.settings, self.init, self.control = settings, init, control
        self.started, self.seconds, self.stopped = time.monotonic(), 0.0, False
        self.device = pick_device(settings.device)
        self.threads = use_threads(control.threads or settings.threads)
        self.data = _read(pairs, settings, structures, init)
        self.group = ProcessGroup(self.device)
        self.plan, weights, self.adapted = _begin_with(init, self.data, settings, self.group)
        self.goes_on_from = None if self.adapted and not self.data.unlabelled else init
        shares = init.history[-1].shares if init and init.history and not self.adapted else None
        self.learner = Learner(
            self.data, self.plan, settings, self.device, weights, shares, self.group
        )
        self._check_alike()
        clock = None if self.group.alone else lambda: self.seconds
        self.progress = Progress(self.plan, settings, self.learner.weights(), clock)
        if self.goes_on_from:
            self._hold_to(self.progress.initial, None)
        which = partial(identity, self.data, settings, self.plan, init)
        self.checkpoints = Checkpoints(checkpoint, self.learner, self.progress, which)
        self.resumed = self.checkpoints.resume()
        self.answers = Answers(self.learner, self.progress, self._look_up, self._answered)
        self.renewed_at, self.renewing = -math.inf, 0.0

    def _hold_to(self, weights: Weights, before: TrainingDataset | None) -> None:
        """Hold on to what these weights say of images whose mask was seen: those of earlier data.

        What nothing is labelled of is held everywhere: it is known from these weights alone.
        """
        earlier = self.init.history if self.init else ()
        seen = {image.fingerprint for record in earlier for image in record.images}
        for data in (before, self.data if self.data.unlabelled else None):
            seen |= set(() if data is None else data.fingerprints)
        teacher = self.learner.teacher_of(weights, seen)
        if self.data.unlabelled and not (teacher and teacher.planes):
            raise TrainingError(_nothing_to_hold(self.data))
        self.learner.hold_to(teacher)  # not before there is one: a failure leaves all as it was

    def _check_alike(self) -> None:
        """Refuse to train together on different images, labels or settings."""
        planes = [(p.index, p.counts.tolist(), len(p.blocks)) for p in self.data.planes]
        settings = self.settings.model_copy(update={"threads": None})
        parts = (settings, self.plan, planes, self.init and self.init.id)
        self.group.require_same([*map(repr, parts), *self.data.fingerprints])

    def look(self) -> None:
        """What time it is, and whether to stop: the first process says so to all."""
        elapsed = time.monotonic() - self.started
        self.seconds, stopped = self.group.broadcast_numbers(elapsed, self.control.stopped)
        self.stopped = bool(stopped)

    def goes_on(self) -> bool:
        """Whether there is a step to do."""
        self.look()
        return not (self.progress.over or self.stopped)

    def epoch_ends(self) -> bool:
        """Whether it is time for a score."""
        self.look()
        return self.progress.epoch_over and self.progress.steps_since_epoch > 0

    def begin(self) -> Generator[Event, None, None]:
        """Say what will be done; score the model that is gone on from, and answer newer strokes."""
        yield from map(Notice, (*self.data.notes, *self.adapted))
        if self.settings.freeze_encoder and not self.learner.frozen:
            yield Notice(
                "There is no initial model and there are no encoder weights, so the encoder is "
                "not frozen."
            )
        images = [pair.image for pair in self.data.pairs]
        if reason := why_other_sizes(images, self.data.dims, self.init):
            yield Notice(reason)
        if self.data.unlabelled:
            yield Notice(_kept(self.data))
        elif not self.data.validated:
            yield Notice(
                "There are too few labels to hold any out for validation, so there is no score. "
                "Label more, in several places or images, to get one."
            )
        yield self.prepared()
        if self.resumed:
            yield from self.resume()
            return
        if self.goes_on_from is None:
            yield from self.first_answer()
            return
        self.progress.begin(self.learner)
        if self.data.validated and not all(r.scores for r in self.goes_on_from.history):
            yield Notice(
                "An earlier training of this model held out no labels, so its score is too high "
                "compared with a new model."
            )
        yield from self.answers.to(self.data.newer_places())

    def resume(self) -> Generator[Event, None, None]:
        """Say what was taken up, and show its best model."""
        progress = self.progress
        minutes, seconds = divmod(round(progress.seconds_before), 60)
        yield Notice(
            f"Resuming from step {progress.steps}, reached after {minutes}:{seconds:02d} "
            "minutes of training; --no-resume starts anew."
        )
        if progress.best is not None:
            model, scores = self.model("training continues"), progress.best.scores
            yield Improved(model, scores, progress.seconds, progress.steps, progress.before)

    def prepared(self) -> Prepared:
        """What was read, what will be done, and what was chosen for it."""
        data, plan = self.data, self.plan
        return Prepared(
            steps=plan.steps,
            epoch_steps=plan.epoch_steps,
            samples=plan.epoch_steps * plan.batch,
            train_voxels=data.train_voxels,
            validation_voxels=data.validation_voxels,
            blocks=len(data.validation_blocks()),
            device=device_name(self.device),
            parameters=self.learner.network.parameter_count,
            patch=plan.patch,
            batch=plan.batch,
            choices=self.choices(),
        )

    def choices(self) -> tuple[Choice, ...]:
        """What was chosen for these data, and why."""
        device = device_name(self.device)
        return explain(self.plan, self.data, self.settings, self.learner, device)

    def first_answer(self) -> Generator[Event, None, None]:
        """A first model without a step, where the device's memory allows it."""
        self.look()
        if self.stopped or not (self.settings.pretrained or self.adapted):
            return
        found = self._find_answer() if self.group.is_main else None
        missing = self.group.broadcast_numbers(ANSWERS.index(found))[0]
        if missing:
            self.learner.forget_beginning()
            if ANSWERS[int(missing)] == NO_MEMORY:
                yield Notice(
                    "Not enough memory for an initial model; the first mask appears after "
                    "some steps."
                )
            return
        self.learner.began()
        best = self.progress.answer(self.learner)
        yield Improved(self.model("training began"), best.scores, self.progress.seconds)

    def _find_answer(self) -> str | None:
        """Find a first answer; say why there is none."""
        try:
            ends = (self.plan.net.dims, self.plan.net.in_channels)
            same = self.init is not None and (self.init.dims, self.init.net.in_channels) == ends
            self.learner.begin(measure=not same, between=self._look_up)
        except StoppedError:
            return STOPPED
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return NO_MEMORY
        return None

    def _look_up(self) -> None:
        """Take the threads that there are now; end the first answer where a stop was asked for."""
        use_threads(self.control.threads or self.settings.threads)
        if self.control.stopped:
            raise StoppedError

    def step(self) -> Generator[Event, None, None]:
        """One step; what fails is tried again with less memory or a smaller rate."""
        use_threads(self.control.threads or self.settings.threads)
        try:
            losses = self.learner.step(self.progress.rate)
        except NotFiniteError:
            self.progress.failures += 1
            if self.progress.failures > MOST_FAILURES:
                self.progress.outcome = Outcome.DIVERGED
                return
            self.learner.restore(self.progress.safe_weights)
            yield Notice(
                "The loss became NaN; going back to the last good weights with a "
                "smaller learning rate."
            )
        except (RuntimeError, MemoryError) as error:
            try:
                if not is_out_of_memory(error):
                    raise
                yield Notice(self.learner.shrink())
            except (RuntimeError, MemoryError, TrainingError) as final:
                alike = self.group.alone or isinstance(final, TrainingError)
                if self.empty_handed or not alike:
                    raise
                self.progress.fail(final)
        else:
            yield self.progress.step(losses)

    def epoch(self) -> Generator[Event, None, None]:
        """Score the weights; the best so far are a model to show."""
        done = self.progress.epoch(self.learner)
        if done.scores is None and self.data.validated:
            yield Notice("Not enough memory: this epoch has no score.")
        yield done
        if done.best:
            model, before = self.model("training continues"), self.progress.before
            yield Improved(model, done.scores, done.seconds, done.step, before)
        else:
            yield from self.answers.again()

    def renew(self) -> Generator[Event, None, None]:
        """Take newer annotations, if there are any, and answer them.

        Somebody who paints without a pause would else leave the training no time (`RESTS`).
        """
        over = self.progress.over or self.control.stopped or not self.group.alone
        rests = self.progress.seconds - self.renewed_at >= RESTS * self.renewing
        if over or not rests or not (newer := self.control.take_pairs()):
            return
        start = self.progress.seconds
        yield from self._renew(newer)
        self.renewed_at = self.progress.seconds
        self.renewing = self.renewed_at - start

    def _renew(self, newer: Sequence[AnnotatedImage]) -> Generator[Event, None, None]:
        before = self.data
        try:
            self._use(self.data.with_annotations(newer, self.control.fixed), before)
        except (UserError, OSError, RuntimeError, MemoryError) as error:
            text = str(error)
            if is_out_of_memory(error):
                text = "there is not enough memory for the newer ones."
            elif not isinstance(error, UserError | OSError):
                raise
            release_memory(self.device)
            self._use(before)
            yield Notice(f"Training continues with the earlier annotations: {text}", warning=True)
        else:
            self.checkpoints.end()
            self.progress.renew(self.learner)
            voxels = self.data.train_voxels + self.data.validation_voxels
            yield Renewed(voxels, self.progress.steps, self.progress.seconds)
            yield from self.answers.to(self.data.labels_added_since(before))

    def _answered(self, scores: Scores, before: Scores) -> Improved:
        """A model to show, since newer strokes came."""
        model, progress = self.model("newer strokes came"), self.progress
        return Improved(model, scores, progress.seconds, progress.steps, before)

    def _use(self, data: TrainingDataset, before: TrainingDataset | None = None) -> None:
        """Learn from these data; hold on to the best model, whose mask of the others was shown."""
        self.data = data
        self.learner.use(data)
        best = self.progress.best
        if before is not None and (best is not None or data.unlabelled):
            self._hold_to(best.weights if best is not None else self.progress.initial, before)

    def end(self) -> Generator[Event, None, Model]:
        """Say why it ended; return the best model."""
        self.look()
        if self.empty_handed:
            raise TrainingError(
                "Training was stopped before its first step; nothing was learned yet."
                if self.stopped
                else (
                    "Training failed in its first steps: the loss was NaN; check the image for "
                    "invalid values or choose a smaller learning rate."
                )
            )
        done = self.progress.done()
        yield done
        return self.model(done.reason)

    @property
    def empty_handed(self) -> bool:
        """Whether nothing has been learned yet."""
        progress = self.progress
        if progress.best is None:
            return True
        return (
            self.goes_on_from is not None
            and not progress.epochs
            and progress.best.weights is progress.initial
        )

    def model(self, reason: str) -> Model:
        """The best weights so far with all that is needed to use them."""
        progress, data = self.progress, self.data
        images = [pair.image for pair in data.pairs]
        spacing, units, spacing_range = model_spacing(images, data.dims)
        assert progress.best is not None
        record = TrainingRecord(
            date=now(),
            reason=reason,
            steps=progress.steps,
            seconds=round(progress.seconds, 2),
            settings=self.settings,
            scores=progress.best.scores,
            curve=tuple(progress.curve),
            images=image_records(data),
            shares=self.learner.shares,
            labelled_voxels=data.train_voxels + data.validation_voxels,
            choices=self.choices(),
            device=device_name(self.device),
            threads=self.threads,
            processes=self.group.world.size,
            versions=versions(),
            parent=self.init.id if self.init else None,
        )
        return Model(
            net=self.plan.net,
            weights=progress.best.weights,
            classes=data.classes,
            channels=_channels(self.init, images[0]),
            normalization=data.normalization,
            spacing=spacing,
            units=units,
            spacing_range=spacing_range,
            history=(*(remembered(self.init.history) if self.init else ()), record),
        )


def _read(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings,
    structures: Sequence[Structure],
    init: Model | None,
) -> TrainingDataset:
    """Read and check images and labels, against the model to go on from if there is one."""
    images = [pair.image for pair in pairs]
    same = bool(init and images and _channels(init, images[0]) == init.channels)
    known = (
        init.classes
        if init and same and init.dims == settings.dims and settings.distillation_weight
        else None
    )
    if known and structures:
        listed = {structure.number for structure in structures}
        left = tuple(s for s in known.structures if s.number in listed)
        known = replace(known, structures=left)
    normalization = init.normalization.going_on(images) if init and same else None
    return TrainingDataset(
        pairs,
        settings.dims,
        settings.validation_fraction,
        structures=[*(init.classes.structures if init else ()), *structures],
        seed=settings.seed,
        normalization=normalization,
        rule=settings.normalization,
        known=known,
    )


def _kept(data: TrainingDataset) -> str:
    """What is not labelled, in a sentence."""
    names = dict(zip(data.classes.numbers, data.classes.names, strict=True))
    left = [names[number] for number in data.unlabelled]
    what, end = "it" if len(left) == 1 else "them", "" if data.validated else " and has no score"
    names_left = " and ".join(left)
    return f"There are no labels of {names_left}: the model keeps what it knows of {what}{end}."


def _nothing_to_hold(data: TrainingDataset) -> str:
    names = zip(data.classes.numbers, data.classes.names, strict=True)
    (name,) = (name for number, name in names if number not in data.unlabelled)
    return (
        f"Only {name} is labelled, and every voxel of these images is labelled, so the model "
        "would forget the other classes; add images with the other classes, or leave part of "
        "these unlabelled."
    )


def _begin_with(
    init: Model | None, data: TrainingDataset, settings: TrainSettings, group: ProcessGroup
) -> tuple[Plan, Mapping[str, Tensor] | None, tuple[str, ...]]:
    """The plan, and with a model to go on from its weights and what was changed of them."""
    device = group.device.type
    if init is None:
        return make_plan(data, settings, device, None, group.world.size), None, ()
    settings = transfer.settings_after(init, settings)
    channels, classes = data.pairs[0].image.channels, data.classes
    net = transfer.net_after(init, data.dims, len(channels), classes.out_channels)
    plan = make_plan(data, settings, device, net, group.world.size)
    return plan, *transfer.adapt(init, plan.net, classes, channels)


def _channels(init: Model | None, image: Stack) -> tuple[str, ...]:
    return transfer.channels_after(init.channels, image.channels) if init else image.channels


def train(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings | None = None,
    *,
    structures: Sequence[Structure] = (),
    init: Model | None = None,
    control: Control | None = None,
    checkpoint: CheckpointFile | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Model:
    """Train to the end; ``on_event`` is called with every event. See `train_events`."""
    events = train_events(
        pairs,
        settings,
        structures=structures,
        init=init,
        control=control,
        checkpoint=checkpoint,
    )
    return _result(events, on_event or (lambda _: None))


def _result(events: Generator[Event, None, Model], on_event: Callable[[Event], object]) -> Model:
    """Run to the end, telling of each event."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return cast("Model", end.value)
        on_event(event)
