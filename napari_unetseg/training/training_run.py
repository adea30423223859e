"""One training, from its dataset to its model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.models.model import Model
from napari_unetseg.models.training_record import (
    AutoSetting,
    TrainingRecord,
    image_records,
    now,
    remembered,
    versions,
)
from napari_unetseg.models.voxel_sizes import model_spacing
from napari_unetseg.runtime.devices import (
    device_name,
    pick_device,
    release_memory,
    unless_out_of_memory,
    use_threads,
)
from napari_unetseg.runtime.distributed import ProcessGroup
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.auto_settings import describe_auto_settings
from napari_unetseg.training.checkpoint import Checkpoints, identity
from napari_unetseg.training.head_refit import HeadRefit
from napari_unetseg.training.initial_fit import fit_head
from napari_unetseg.training.object_search import ObjectSearch, search_object_settings, settings_of
from napari_unetseg.training.trainer import NotFiniteError, Trainer, Weights
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    ModelSetAside,
    ModelUpdated,
    Outcome,
    SetAside,
)
from napari_unetseg.training.training_setup import (
    FAILED_AT_ONCE,
    INSEPARABLE,
    NOTHING_TO_FREEZE,
    SCORE_TOO_HIGH,
    STOPPED_AT_ONCE,
    channels_of,
    describe_dataset,
    describe_fall,
    describe_nothing_to_distill,
    plan_and_weights,
    prepared_event,
    read_dataset,
)
from napari_unetseg.training.training_state import Checkpoint, TrainingState

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.data.validation_split import VoxelIndices
    from napari_unetseg.training.checkpoint_file import CheckpointFile

SHOW_SECONDS, MAX_TIME_FRACTION = 2.0, 0.02
"""Least seconds between two models that are shown, but for answers to strokes, and the largest
fraction of the training's time for copies of their weights.
"""
BACKOFF_AFTER_FALL = 2.0
"""What the learning rate is divided by when a training goes back to its best model."""
HARDLY_SEPARABLE = 0.25
"""Separability of the labelled classes below which the user is told."""
MOST_FAILURES = 2
"""Steps with a NaN loss after which a training ends."""
MIN_TRAINING_RATIO = 1.0
"""Least training time between two updates of annotations, in multiples of an update's time."""


class StoppedError(Exception):
    """The job was stopped during a refit or the fit of the initial model."""


class TrainingRun:
    """One training, from reading the dataset to the model."""

    def __init__(
        self,
        pairs: Sequence[AnnotatedImage],
        settings: TrainSettings,
        structures: Sequence[Structure],
        init: Model | None,
        control: JobControl,
        checkpoint: CheckpointFile | None,
    ) -> None:
        self.settings, self.init, self.control = settings, init, control
        self.started, self.seconds, self.stopped = time.monotonic(), 0.0, False
        self.device = pick_device(settings.device)
        self.device_name = device_name(self.device)
        self.threads = use_threads(control.threads or settings.threads)
        self.data = read_dataset(pairs, settings, structures, init)
        self.flat = self.data.flat_images()
        self.group = ProcessGroup(self.device)
        self.plan, weights, self.adapted = plan_and_weights(init, self.data, settings, self.group)
        self.start_model = None if self.adapted and not self.data.unlabelled else init
        class_priors = (
            init.history[-1].class_priors if init and init.history and not self.adapted else None
        )
        self.trainer = Trainer(
            self.data, self.plan, settings, self.device, weights, class_priors, self.group
        )
        if not self.group.alone:
            self.group.require_same([identity(self.trainer, self.plan, init).model_dump_json()])
        clock = None if self.group.alone else lambda: self.seconds
        self.state = TrainingState(self.plan, settings, self.trainer.weights(), clock)
        if self.start_model:
            self._distill(self.state.initial, None)
        self.checkpoints = Checkpoints(checkpoint, self.trainer, self.state, init)
        self.resumed = self.checkpoints.resume()
        self.refits, self.show_at = 0, 0.0
        self.updated_at, self.update_seconds = -math.inf, 0.0
        self._fallen: Checkpoint | None = None
        self.object_search: ObjectSearch | None = None

    def _distill(self, weights: Weights, before: TrainingDataset | None) -> None:
        """Distil these weights in images whose mask was seen: those of earlier data.

        Classes without labels are known from these weights alone, so that then every image counts.
        """
        earlier = self.init.history if self.init else ()
        seen = {image.fingerprint for record in earlier for image in record.images}
        for data in (before, self.data if self.data.unlabelled else None):
            seen |= set(() if data is None else data.fingerprints)
        distillation = self.trainer.distillation_of(weights, seen)
        if self.data.unlabelled and not (distillation and distillation.planes):
            raise TrainingError(describe_nothing_to_distill(self.data))
        self.trainer.distill_from(distillation)

    def look(self) -> None:
        """Read clock and stop flag; the main process decides for all."""
        elapsed = time.monotonic() - self.started
        self.seconds, stopped = self.group.broadcast_numbers(elapsed, self.control.stopped)
        self.stopped = bool(stopped)

    def goes_on(self) -> bool:
        """Whether to do another step."""
        self.look()
        return not (self.state.over or self.stopped)

    def epoch_ends(self) -> bool:
        """Whether to validate now."""
        self.look()
        return self.state.epoch_over and self.state.steps_since_epoch > 0

    def begin(self) -> Generator[Event, None, None]:
        """Report the start; score an initial model and adapt it to newer strokes, or fit one."""
        yield from map(Notice, (*self.data.notes, *self.adapted))
        yield from self.flat
        if self.settings.freeze_encoder and not self.trainer.frozen:
            yield Notice(NOTHING_TO_FREEZE)
        yield from map(Notice, describe_dataset(self.data, self.init))
        yield prepared_event(self.trainer, self.plan, self.device_name, self.choices())
        if self.resumed:
            yield from self.resume()
            return
        if self.start_model is None:
            yield from self.initial_model()
            return
        self.state.begin(self.trainer)
        if self.data.validated and not all(r.scores for r in self.start_model.history):
            yield Notice(SCORE_TOO_HIGH)
        if (answer := self._answer(self.data.newer_voxels())) is not None:
            yield self._updated(answer, urgent=True)

    def resume(self) -> Generator[Event, None, None]:
        """Report the resumed state and show its newest weights."""
        state = self.state
        minutes, seconds = divmod(round(state.seconds_before), 60)
        yield Notice(
            f"Resuming from step {state.steps}, reached after {minutes}:{seconds:02d} "
            "minutes of training; --no-resume starts anew."
        )
        if state.newest is not None:
            yield self._updated(Checkpoint(self.trainer.weights(), state.steps), urgent=True)

    def choices(self) -> tuple[AutoSetting, ...]:
        """Automatically chosen settings, with reasons."""
        chosen = describe_auto_settings(
            self.plan, self.data, self.settings, self.trainer, self.device_name
        )
        if self.object_search is None:
            return chosen
        return (*chosen, AutoSetting("Objects", *self.object_search.describe(), ""))

    def initial_model(self) -> Generator[Event, None, None]:
        """Fit an initial model without a step, where the device's memory allows it."""
        self.look()
        if self.stopped or not (self.settings.pretrained or self.adapted):
            return
        fitted = self.group.is_main and self._attempt(self._fit_initial_model)
        if not self.group.broadcast_numbers(fitted)[0]:
            self.trainer.undo_fit()
            if not self.control.stopped:
                yield Notice(
                    "Not enough memory for an initial model; the first mask appears after "
                    "some steps."
                )
            return
        self.trainer.broadcast_fitted_head()
        if self.trainer.separable < HARDLY_SEPARABLE:
            yield Notice(INSEPARABLE, warning=True)
        yield self._updated(self.state.keep_initial_model(self.trainer), urgent=True)

    def _fit_initial_model(self) -> bool:
        ends = (self.plan.net.dims, self.plan.net.in_channels)
        same = self.init is not None and (self.init.dims, self.init.net.in_channels) == ends
        fit_head(self.trainer, recalibrate=not same, between=self._interrupt)
        return True

    def _attempt(self, work: Callable[[], bool]) -> bool:
        """What ``work`` returns; False after a stop, or where it ran out of memory."""
        try:
            return bool(unless_out_of_memory(self.device, work))
        except StoppedError:
            return False

    def _interrupt(self) -> None:
        """Update the number of threads; raise `StoppedError` after a stop."""
        use_threads(self.control.threads or self.settings.threads)
        if self.control.stopped:
            raise StoppedError

    def step(self) -> Generator[Event, None, None]:
        """One step; after a failure, continue with less memory or a smaller learning rate."""
        use_threads(self.control.threads or self.settings.threads)
        try:
            losses = self.trainer.step(self.state.rate)
        except NotFiniteError:
            self.state.failures += 1
            if self.state.failures > MOST_FAILURES:
                self.state.outcome = Outcome.DIVERGED
                return
            self.trainer.restore(self.state.safe_weights)
            yield Notice(
                "The loss became NaN; going back to the last good weights with a "
                "smaller learning rate."
            )
        except (RuntimeError, MemoryError) as error:
            try:
                if not is_out_of_memory(error):
                    raise
                yield Notice(self.trainer.shrink())
            except (RuntimeError, MemoryError, TrainingError) as final:
                alike = self.group.alone or isinstance(final, TrainingError)
                if self.state.newest is None or not alike:
                    raise
                self.state.fail(final)
        else:
            yield self.state.step(losses)

    def epoch(self) -> Generator[Event, None, None]:
        """Validate the EMA weights and show them, or go back to the best after a fall."""
        done = self.state.epoch(self.trainer)
        if done.scores is None and self.data.validated:
            yield Notice("Not enough memory: this epoch has no score.")
        yield done
        if self.state.fallen:
            yield from self._go_back()
        elif self.state.newest is not None:
            yield self._updated(self.state.newest)

    def _go_back(self) -> Generator[Event, None, None]:
        """Train on from the best model; the fallen one is set aside."""
        state, fallen, best = self.state, self.state.newest, self.state.best
        if fallen is None or best is None:
            return
        self._fallen = fallen
        yield ModelSetAside(self.model("agreement fell", fallen), SetAside.FELL, fallen.step)
        state.go_back()
        yield Notice(describe_fall(fallen, best), warning=True)
        yield self._return_to(best, BACKOFF_AFTER_FALL)

    def _return_to(self, checkpoint: Checkpoint, backoff: float) -> ModelUpdated:
        """Restore a checkpoint, answer the newest strokes on it, and show it."""
        self.trainer.restore(checkpoint.weights, backoff)
        focus = self.trainer.focus
        answer = self._answer(focus.voxels) if focus else None
        return self._updated(answer or checkpoint, urgent=True)

    def take_back_fallen(self) -> Generator[Event, None, None]:
        """Train on from the fallen model after all, if the user asked for it."""
        wanted = self.group.alone and self.control.pop_set_aside_request()
        if not wanted or self._fallen is None:
            return
        if self.state.steps > self._fallen.step:  # what was learned since is not lost
            left = Checkpoint(self.trainer.weights(), self.state.steps)
            yield ModelSetAside(self.model("another was chosen", left), SetAside.LEFT, left.step)
        self.state.take_back(self._fallen)
        yield self._return_to(self._fallen, 1.0)
        self._fallen = None

    def show_newest(self) -> Generator[Event, None, None]:
        """Show the newest EMA weights, when it is time and there is something learned."""
        if self._started and self.state.seconds >= self.show_at:
            began = time.perf_counter()
            shown = self._updated(Checkpoint(self.trainer.weights(), self.state.steps))
            wait = max(SHOW_SECONDS, (time.perf_counter() - began) / MAX_TIME_FRACTION)
            self.show_at = self.state.seconds + wait
            yield shown

    def _updated(self, shown: Checkpoint, *, urgent: bool = False) -> ModelUpdated:
        """The event that shows these weights."""
        model, seconds = self.model("training continues", shown), self.state.seconds
        self.show_at = seconds + SHOW_SECONDS
        return ModelUpdated(model, shown.scores, seconds, shown.step, urgent)

    def take_annotations(self) -> Generator[Event, None, None]:
        """Train with newer annotations, if any, and adapt the shown model.

        `MIN_TRAINING_RATIO` keeps continuous painting from using up the training time.
        """
        over = self.state.over or self.control.stopped or not self.group.alone
        rests = self.state.seconds - self.updated_at >= MIN_TRAINING_RATIO * self.update_seconds
        if over or not rests or not (newer := self.control.pop_annotations()):
            return
        start = self.state.seconds
        yield from self._renew(newer)
        self.updated_at = self.state.seconds
        self.update_seconds = self.updated_at - start

    def _renew(self, annotated: Sequence[AnnotatedImage]) -> Generator[Event, None, None]:
        before = self.data
        try:
            self._use(self.data.with_annotations(annotated, self.control.fixed))
            newer = self.data.labels_added_since(before)
            if self._started or self.data.unlabelled:  # distil the mask that is shown
                weights = self.trainer.weights() if self._started else self.state.initial
                self._distill(weights, before)
        except (UserError, OSError, RuntimeError, MemoryError) as error:
            memory = is_out_of_memory(error)
            if not memory and not isinstance(error, UserError | OSError):
                raise
            text = "there is not enough memory for the newer ones." if memory else str(error)
            release_memory(self.device)
            self._use(before)
            yield Notice(f"Training continues with the earlier annotations: {text}", warning=True)
            return
        self.checkpoints.end()
        self.state.update_annotations()
        self.trainer.lr_backoff = 1.0  # falls before were of other labels
        if self._fallen is not None:  # its scores are of earlier labels
            self._fallen = Checkpoint(self._fallen.weights, self._fallen.step)
        validated, state = self.data.validation_voxels, self.state
        held_out = not newer and validated > before.validation_voxels
        voxels = self.data.train_voxels + validated
        yield AnnotationsUpdated(voxels, state.steps, state.seconds, held_out)
        if (answer := self._answer(newer)) is not None:
            yield self._updated(answer, urgent=True)

    @property
    def _started(self) -> bool:
        """Whether there is a model to show."""
        return self.state.newest is not None or self.start_model is not None

    def _answer(self, newer: VoxelIndices) -> Checkpoint | None:
        """Answer newer strokes at once; None where the mask has them right.

        Without memory for it, or after a stop, nothing changes.
        """
        if not (self._started and newer):
            return None
        self.refits += 1
        self.trainer.focus_on(newer)
        if not self._attempt(
            lambda: HeadRefit(self.trainer, newer, self.refits, self._interrupt).solve()
        ):
            return None
        self.state.newest = Checkpoint(self.trainer.weights(), self.state.steps)
        return self.state.newest

    def _use(self, data: TrainingDataset) -> None:
        """Train on a dataset."""
        self.data = data
        self.trainer.use(data)

    def end(self) -> Generator[Event, None, Model]:
        """Yield the outcome; return the newest model."""
        self.look()
        if self.state.newest is None:
            raise TrainingError(STOPPED_AT_ONCE if self.stopped else FAILED_AT_ONCE)
        if self.state.falls and not self.stopped:  # there is no second epoch to be sure
            yield from self._go_back()
        newest, best = self.state.newest, self.state.best
        if newest.scores is None and newest.step == self.state.steps:  # an answer since the epoch
            newest = self.state.newest = self.state.validated(self.trainer, newest.weights)
        if best is not None and 0 < best.step < newest.step and self.data.validated:
            yield ModelSetAside(self.model("best score", best), SetAside.BEST, best.step)
        self.object_search = unless_out_of_memory(
            self.device, lambda: search_object_settings(self.trainer, newest.weights)
        )
        done = self.state.done()
        yield done
        return self.model(done.reason, newest)

    def model(self, reason: str, checkpoint: Checkpoint) -> Model:
        """The weights of a checkpoint as a model, with the training's record."""
        state, data, first = self.state, self.data, self.data.pairs[0].image
        spacing, units, spacing_range = model_spacing([p.image for p in data.pairs], data.dims)
        record = TrainingRecord(
            date=now(),
            reason=reason,
            steps=checkpoint.step,
            seconds=round(state.seconds, 2),
            settings=self.settings,
            scores=checkpoint.scores,
            curve=tuple(state.curve),
            images=image_records(data),
            class_priors=self.trainer.class_priors,
            labelled_voxels=data.train_voxels + data.validation_voxels,
            choices=self.choices(),
            device=self.device_name,
            threads=self.threads,
            processes=self.group.world.size,
            versions=versions(),
            parent=self.init.id if self.init else None,
        )
        return Model(
            net=self.plan.net,
            weights=checkpoint.weights,
            classes=data.classes,
            channels=channels_of(self.init, first),
            normalization=data.normalization,
            spacing=spacing,
            units=units,
            spacing_range=spacing_range,
            object_settings=settings_of(self.trainer, self.object_search, self.init),
            history=(*(remembered(self.init.history) if self.init else ()), record),
        )
