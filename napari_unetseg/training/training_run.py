"""One training, from reading its dataset to its model."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.events import Event, Notice
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
from napari_unetseg.runtime.distributed import ProcessGroup
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.auto_settings import explain
from napari_unetseg.training.checkpoint import Checkpoints, identity
from napari_unetseg.training.model_selection import ModelSelection, StoppedError
from napari_unetseg.training.trainer import NotFiniteError, Trainer, Weights
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    ModelImproved,
    Outcome,
    TrainingPrepared,
)
from napari_unetseg.training.training_setup import (
    channels_of,
    describe_kept_classes,
    describe_nothing_to_distill,
    plan_and_weights,
    read_dataset,
)
from napari_unetseg.training.training_state import TrainingState

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.models.training_record import AutoSetting
    from napari_unetseg.training.checkpoint_file import CheckpointFile

STOPPED, NO_MEMORY = "stopped", "no memory"
ANSWERS = (None, STOPPED, NO_MEMORY)
"""Why there is no first answer; None: there is one."""
MOST_FAILURES = 2
"""Steps with a loss that is no number, after which a training ends."""
RESTS = 3.0
"""Between two times that newer annotations are taken and answered the training gets so many times
what the earlier one took."""


class TrainingRun:
    """One training from its first look at the data to its model."""

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
        self.threads = use_threads(control.threads or settings.threads)
        self.data = read_dataset(pairs, settings, structures, init)
        self.group = ProcessGroup(self.device)
        self.plan, weights, self.adapted = plan_and_weights(init, self.data, settings, self.group)
        self.goes_on_from = None if self.adapted and not self.data.unlabelled else init
        shares = init.history[-1].shares if init and init.history and not self.adapted else None
        self.trainer = Trainer(
            self.data, self.plan, settings, self.device, weights, shares, self.group
        )
        self._check_alike()
        clock = None if self.group.alone else lambda: self.seconds
        self.state = TrainingState(self.plan, settings, self.trainer.weights(), clock)
        if self.goes_on_from:
            self._hold_to(self.state.initial, None)
        which = partial(identity, self.data, settings, self.plan, init)
        self.checkpoints = Checkpoints(checkpoint, self.trainer, self.state, which)
        self.resumed = self.checkpoints.resume()
        self.answers = ModelSelection(self.trainer, self.state, self._look_up, self._answered)
        self.renewed_at, self.renewing = -math.inf, 0.0

    def _hold_to(self, weights: Weights, before: TrainingDataset | None) -> None:
        """Hold on to what these weights say of images whose mask was seen: those of earlier data.

        What nothing is labelled of is held everywhere: it is known from these weights alone.
        """
        earlier = self.init.history if self.init else ()
        seen = {image.fingerprint for record in earlier for image in record.images}
        for data in (before, self.data if self.data.unlabelled else None):
            seen |= set(() if data is None else data.fingerprints)
        teacher = self.trainer.teacher_of(weights, seen)
        if self.data.unlabelled and not (teacher and teacher.planes):
            raise TrainingError(describe_nothing_to_distill(self.data))
        self.trainer.distill_from(
            teacher
        )  # not before there is one: a failure leaves all as it was

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
        return not (self.state.over or self.stopped)

    def epoch_ends(self) -> bool:
        """Whether it is time for a score."""
        self.look()
        return self.state.epoch_over and self.state.steps_since_epoch > 0

    def begin(self) -> Generator[Event, None, None]:
        """Say what will be done; score the model that is gone on from, and answer newer strokes."""
        yield from map(Notice, (*self.data.notes, *self.adapted))
        if self.settings.freeze_encoder and not self.trainer.frozen:
            yield Notice(
                "There is no initial model and there are no encoder weights, so the encoder is "
                "not frozen."
            )
        images = [pair.image for pair in self.data.pairs]
        if reason := why_other_sizes(images, self.data.dims, self.init):
            yield Notice(reason)
        if self.data.unlabelled:
            yield Notice(describe_kept_classes(self.data))
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
        self.state.begin(self.trainer)
        if self.data.validated and not all(r.scores for r in self.goes_on_from.history):
            yield Notice(
                "An earlier training of this model held out no labels, so its score is too high "
                "compared with a new model."
            )
        yield from self.answers.to(self.data.newer_places())

    def resume(self) -> Generator[Event, None, None]:
        """Say what was taken up, and show its best model."""
        state = self.state
        minutes, seconds = divmod(round(state.seconds_before), 60)
        yield Notice(
            f"Resuming from step {state.steps}, reached after {minutes}:{seconds:02d} "
            "minutes of training; --no-resume starts anew."
        )
        if state.best is not None:
            model, scores = self.model("training continues"), state.best.scores
            yield ModelImproved(model, scores, state.seconds, state.steps, state.before)

    def prepared(self) -> TrainingPrepared:
        """What was read, what will be done, and what was chosen for it."""
        data, plan = self.data, self.plan
        return TrainingPrepared(
            steps=plan.steps,
            epoch_steps=plan.epoch_steps,
            samples=plan.epoch_steps * plan.batch,
            train_voxels=data.train_voxels,
            validation_voxels=data.validation_voxels,
            blocks=len(data.validation_blocks()),
            device=device_name(self.device),
            parameters=self.trainer.network.parameter_count,
            patch=plan.patch,
            batch=plan.batch,
            choices=self.choices(),
        )

    def choices(self) -> tuple[AutoSetting, ...]:
        """What was chosen for these data, and why."""
        device = device_name(self.device)
        return explain(self.plan, self.data, self.settings, self.trainer, device)

    def first_answer(self) -> Generator[Event, None, None]:
        """A first model without a step, where the device's memory allows it."""
        self.look()
        if self.stopped or not (self.settings.pretrained or self.adapted):
            return
        found = self._find_answer() if self.group.is_main else None
        missing = self.group.broadcast_numbers(ANSWERS.index(found))[0]
        if missing:
            self.trainer.undo_fit()
            if ANSWERS[int(missing)] == NO_MEMORY:
                yield Notice(
                    "Not enough memory for an initial model; the first mask appears after "
                    "some steps."
                )
            return
        self.trainer.broadcast_fitted_head()
        best = self.state.answer(self.trainer)
        yield ModelImproved(self.model("training began"), best.scores, self.state.seconds)

    def _find_answer(self) -> str | None:
        """Find a first answer; say why there is none."""
        try:
            ends = (self.plan.net.dims, self.plan.net.in_channels)
            same = self.init is not None and (self.init.dims, self.init.net.in_channels) == ends
            self.trainer.fit_head(recalibrate=not same, between=self._look_up)
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
                if self.empty_handed or not alike:
                    raise
                self.state.fail(final)
        else:
            yield self.state.step(losses)

    def epoch(self) -> Generator[Event, None, None]:
        """Score the weights; the best so far are a model to show."""
        done = self.state.epoch(self.trainer)
        if done.scores is None and self.data.validated:
            yield Notice("Not enough memory: this epoch has no score.")
        yield done
        if done.best:
            model, before = self.model("training continues"), self.state.before
            yield ModelImproved(model, done.scores, done.seconds, done.step, before)
        else:
            yield from self.answers.again()

    def renew(self) -> Generator[Event, None, None]:
        """Take newer annotations, if there are any, and answer them.

        Somebody who paints without a pause would else leave the training no time (`RESTS`).
        """
        over = self.state.over or self.control.stopped or not self.group.alone
        rests = self.state.seconds - self.renewed_at >= RESTS * self.renewing
        if over or not rests or not (newer := self.control.pop_annotations()):
            return
        start = self.state.seconds
        yield from self._renew(newer)
        self.renewed_at = self.state.seconds
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
            self.state.renew(self.trainer)
            voxels = self.data.train_voxels + self.data.validation_voxels
            yield AnnotationsUpdated(voxels, self.state.steps, self.state.seconds)
            yield from self.answers.to(self.data.labels_added_since(before))

    def _answered(self, scores: Scores, before: Scores) -> ModelImproved:
        """A model to show, since newer strokes came."""
        model, state = self.model("newer strokes came"), self.state
        return ModelImproved(model, scores, state.seconds, state.steps, before)

    def _use(self, data: TrainingDataset, before: TrainingDataset | None = None) -> None:
        """Learn from these data; hold on to the best model, whose mask of the others was shown."""
        self.data = data
        self.trainer.use(data)
        best = self.state.best
        if before is not None and (best is not None or data.unlabelled):
            self._hold_to(best.weights if best is not None else self.state.initial, before)

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
        done = self.state.done()
        yield done
        return self.model(done.reason)

    @property
    def empty_handed(self) -> bool:
        """Whether nothing has been learned yet."""
        state = self.state
        if state.best is None:
            return True
        return (
            self.goes_on_from is not None
            and not state.epochs
            and state.best.weights is state.initial
        )

    def model(self, reason: str) -> Model:
        """The best weights so far with all that is needed to use them."""
        state, data = self.state, self.data
        images = [pair.image for pair in data.pairs]
        spacing, units, spacing_range = model_spacing(images, data.dims)
        assert state.best is not None
        record = TrainingRecord(
            date=now(),
            reason=reason,
            steps=state.steps,
            seconds=round(state.seconds, 2),
            settings=self.settings,
            scores=state.best.scores,
            curve=tuple(state.curve),
            images=image_records(data),
            shares=self.trainer.shares,
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
            weights=state.best.weights,
            classes=data.classes,
            channels=channels_of(self.init, images[0]),
            normalization=data.normalization,
            spacing=spacing,
            units=units,
            spacing_range=spacing_range,
            history=(*(remembered(self.init.history) if self.init else ()), record),
        )
