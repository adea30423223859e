"""Progress of a training: length, learning rate, curve, newest and best checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_unetseg.models.training_record import CurvePoint
from napari_unetseg.runtime.devices import unless_out_of_memory
from napari_unetseg.training.head_refit import TOLERATED_ERROR
from napari_unetseg.training.score_guard import fell
from napari_unetseg.training.training_events import (
    EpochDone,
    Outcome,
    StepDone,
    TrainingDone,
)

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetseg.core.agreement import Observations
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.training.trainer import Trainer
    from napari_unetseg.training.training_plan import TrainingPlan

WARMUP_STEPS = 10
"""Steps of the linear learning rate warm-up."""
MIN_DELTA = 0.002
"""Gain in soft Dice that counts as an improvement (early stopping)."""
FALLS = 2
"""Epochs in a row below the best after which a training goes back to it."""
SCORE_EMA = 0.5
"""EMA decay of the validation score, since few held-out strokes make an epoch's score noisy."""
FINAL_LR_SCALE = 0.02
"""Learning rate at the end of the cosine (Loshchilov and Hutter 2017), relative to its start."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights after so many steps, with their scores; None without validation."""

    weights: dict[str, Tensor]
    step: int = 0
    scores: Scores | None = None
    observations: Observations | None = None


class TrainingState:
    """Progress of a training between its steps.

    ``clock`` gives the seconds since the start; None: they are measured here.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        settings: TrainSettings,
        initial: dict[str, Tensor],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.plan, self.settings = plan, settings
        self.seconds_allowed = settings.minutes * 60 if settings.minutes else math.inf
        self.automatic = (settings.epochs, settings.steps, settings.minutes) == (None, None, None)
        started = time.monotonic()
        self._clock = clock or (lambda: time.monotonic() - started)
        self.seconds_before = 0.0
        """Training time before this process resumed it."""
        self.steps = self.epochs = self.steps_since_epoch = self.epochs_without_improvement = (
            self.failures
        ) = 0
        self.losses: dict[str, float] = {}
        """Sum of each loss term over the epoch's steps."""
        self.curve: list[CurvePoint] = []
        self.newest: Checkpoint | None = None
        """What the training would return now; None before there is anything learned."""
        self.best: Checkpoint | None = None
        """The best smoothed score, which the newest is compared with."""
        self.smoothed_score = self.best_score = math.nan
        self.falls = 0
        """Epochs in a row that were significantly worse than the best."""
        self.fitted = False
        self.initial = initial
        self.outcome: Outcome | None = None
        self._failure = ""

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return self.seconds_before + self._clock()

    @property
    def fraction(self) -> float:
        """How much of the planned training is done, 0 to 1."""
        by_steps = self.steps / self.plan.steps if self.plan.steps else 0.0
        return min(1.0, max(by_steps, self.seconds / self.seconds_allowed))

    @property
    def rate(self) -> float:
        """Learning rate relative to its setting: warm-up, then a cosine; or constant."""
        if not self.settings.cosine_schedule:
            return 1.0
        falling = FINAL_LR_SCALE + (1 - FINAL_LR_SCALE) * 0.5 * (
            1 + math.cos(math.pi * self.fraction)
        )
        return min(1.0, (self.steps + 1) / WARMUP_STEPS) * falling

    @property
    def over(self) -> bool:
        """Whether the training has ended by itself; `outcome` says why."""
        if self.outcome is None:
            if self.plan.steps and self.steps >= self.plan.steps:
                self.outcome = Outcome.COMPLETED
            elif self.seconds >= self.seconds_allowed:
                self.outcome = Outcome.TIME_OVER
            elif self.automatic and self.fitted:
                self.outcome = Outcome.LABELS_LEARNED
            elif self.automatic and self.epochs_without_improvement >= self.settings.patience:
                self.outcome = Outcome.EARLY_STOPPED
        return self.outcome is not None

    @property
    def safe_weights(self) -> dict[str, Tensor]:
        """The weights to go back to when a step fails."""
        return self.newest.weights if self.newest is not None else self.initial

    def begin(self, trainer: Trainer) -> None:
        """Score the initial model, which coming epochs are compared with."""
        self._compare_with(self.validated(trainer, self.initial))

    def keep_initial_model(self, trainer: Trainer) -> Checkpoint:
        """Score and keep the fitted initial model."""
        self.initial = trainer.weights()
        self.newest = self.validated(trainer, self.initial)
        self._compare_with(self.newest)
        return self.newest

    def validated(self, trainer: Trainer, weights: dict[str, Tensor]) -> Checkpoint:
        """A checkpoint of these weights with their scores."""
        found = trainer.validate(weights)
        if found is None:
            return Checkpoint(weights, self.steps)
        return Checkpoint(weights, self.steps, found.scores, found.observations)

    def _compare_with(self, best: Checkpoint) -> None:
        """Compare coming epochs with this checkpoint."""
        self.best, self.falls = best, 0
        self.smoothed_score = self.best_score = best.scores.soft_dice if best.scores else math.nan

    def step(self, losses: Mapping[str, float]) -> StepDone:
        """Count a step with these terms of the loss."""
        self.steps += 1
        self.steps_since_epoch += 1
        self.losses = {name: self.losses.get(name, 0.0) + x for name, x in losses.items()}
        done = self.fraction
        remaining = self.seconds * (1 - done) / done if done > 0 else None
        loss = sum(losses.values())
        return StepDone(self.steps, self.plan.steps, loss, self.seconds, remaining)

    @property
    def epoch_over(self) -> bool:
        """Whether the epoch or the training has had all its steps."""
        return self.steps_since_epoch >= self.plan.epoch_steps or self.over

    def epoch(self, trainer: Trainer) -> EpochDone:
        """Score the EMA weights, which are kept; notice a fall below the best."""
        self._score_best_again(trainer)
        newest = self.validated(trainer, trainer.weights())
        scores = newest.scores
        losses = {name: x / self.steps_since_epoch for name, x in self.losses.items()}
        self.epochs += 1
        self.losses, self.steps_since_epoch, self.failures = {}, 0, 0
        self.falls = self.falls + 1 if self._fell(newest) else 0
        gain = -math.inf if self.fitted or self.falls else self._gain(scores)
        if scores is None:
            self._check_fitted(trainer)
        self.epochs_without_improvement = (
            0 if gain >= MIN_DELTA else self.epochs_without_improvement + 1
        )
        if gain > 0:
            self.best = newest
        self.newest = newest
        self.curve.append(_point(self, losses, scores))
        loss = sum(losses.values())
        return EpochDone(self.epochs, self.steps, loss, scores, gain > 0, self.seconds, losses)

    def _fell(self, newest: Checkpoint) -> bool:
        best, now = self.best, newest.observations
        return bool(best and best.observations and now and fell(now, best.observations))

    @property
    def fallen(self) -> bool:
        """Whether to go back to the best checkpoint."""
        return self.falls >= FALLS

    def go_back(self) -> None:
        """Make the best checkpoint the newest again."""
        self.newest, self.falls = self.best, 0
        self.smoothed_score = self.best_score

    def take_back(self, fallen: Checkpoint) -> None:
        """Make a fallen checkpoint the newest after all; coming epochs are compared with it."""
        self.newest = fallen
        self._compare_with(fallen)

    def _score_best_again(self, trainer: Trainer) -> None:
        """Score the best checkpoint on the present labels, where it is not yet."""
        best = self.best
        if best is None or best.observations is not None or not trainer.data.validated:
            return
        again = replace(self.validated(trainer, best.weights), step=best.step)
        if best.scores is None:  # the labels are newer
            self._compare_with(again)
        self.best = again

    def _check_fitted(self, trainer: Trainer) -> None:
        """End a training without validation once its labels are fitted.

        More steps would only change the mask elsewhere.
        """
        if self.fitted or not trainer.data.unlabelled:
            return
        wrong = unless_out_of_memory(
            trainer.device, lambda: trainer.validator.labelled_error(trainer.ema_network)
        )
        fitted = wrong is not None and wrong <= TOLERATED_ERROR
        self.fitted = bool(trainer.group.broadcast_numbers(fitted)[0])

    def _gain(self, scores: Scores | None) -> float:
        """Gain of the smoothed score over the best so far, which is updated.

        Only an epoch whose own score is above the best can raise it, and an unscored one never
        replaces a scored one.
        """
        scored = not math.isnan(self.best_score)
        if scores is None or math.isnan(scores.soft_dice):
            return -math.inf if scored else math.inf
        if not scored:
            self.smoothed_score = self.best_score = scores.soft_dice
            return math.inf
        self.smoothed_score = SCORE_EMA * self.smoothed_score + (1 - SCORE_EMA) * scores.soft_dice
        gain = self.smoothed_score - self.best_score
        self.best_score = max(self.best_score, self.smoothed_score)
        return gain

    def fail(self, error: BaseException) -> None:
        """End with an error; the last checkpoint is kept."""
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        self.outcome, self._failure = Outcome.FAILED, line.rstrip(".")
        self.steps_since_epoch = 0

    def update_annotations(self) -> None:
        """Compare coming epochs on newer annotations, which the best is not scored on yet."""
        if self.best is not None:
            self.best = Checkpoint(self.best.weights, self.best.step)
        self.epochs_without_improvement, self.falls, self.fitted = 0, 0, False

    def done(self) -> TrainingDone:
        """The last event."""
        outcome = self.outcome or Outcome.STOPPED
        text = f"Training ended after {self.steps} steps: {self._why(outcome)}."
        if self.newest is not None and self.epochs and self.newest.step < self.steps:
            text += f" The model of step {self.newest.step} is kept."
        scores = self.newest.scores if self.newest else None
        return TrainingDone(outcome, text, scores, self.epochs, self.steps, self.seconds)

    def _why(self, outcome: Outcome) -> str:
        return {
            Outcome.COMPLETED: f"all {self.plan.steps} steps were done",
            Outcome.TIME_OVER: f"the time of {self.settings.minutes or 0:g} minutes was over",
            Outcome.LABELS_LEARNED: "the labels are learned",
            Outcome.EARLY_STOPPED: f"nothing improved for {self.epochs_without_improvement} epochs",
            Outcome.STOPPED: "it was stopped",
            Outcome.DIVERGED: "the loss was NaN repeatedly",
            Outcome.FAILED: f"a step failed ({self._failure}); the last model before it is kept",
            Outcome.DISCONNECTED: "the other computer cannot be reached any more",
        }[outcome]


def _point(progress: TrainingState, losses: dict[str, float], scores: Scores | None) -> CurvePoint:
    return CurvePoint(
        epoch=progress.epochs,
        step=progress.steps,
        seconds=round(progress.seconds, 2),
        train_loss=sum(losses.values()),
        losses=losses,
        dice=scores.dice if scores else None,
        iou=scores.iou if scores else None,
        mean_dice=scores.mean_dice if scores else None,
        agreement=scores.agreement if scores else None,
        validation_loss=scores.loss if scores else None,
    )
