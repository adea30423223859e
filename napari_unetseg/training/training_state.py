"""Progress of a training: length, learning rate, curve and best checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_unetseg.models.training_record import CurvePoint
from napari_unetseg.training.stroke_adaptation import TOLERATED_ERROR
from napari_unetseg.training.training_events import (
    EpochDone,
    Outcome,
    StartedFrom,
    StepDone,
    TrainingDone,
)
from napari_unetseg.training.validation import labelled_error

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.training.trainer import Trainer
    from napari_unetseg.training.training_plan import TrainingPlan

WARMUP_STEPS = 10
"""Steps of the linear learning rate warm-up."""
MIN_DELTA = 0.002
"""Gain in soft Dice that counts as an improvement (early stopping)."""
BEGINNINGS = {
    StartedFrom.MODEL: "model it started from",
    StartedFrom.INITIAL_MODEL: "initial model, from before the first step",
}
SCORE_EMA = 0.5
"""EMA decay of the validation score, since few held-out strokes make an epoch's score noisy."""
FINAL_LR_SCALE = 0.02
"""Learning rate at the end of the cosine (Loshchilov and Hutter 2017), relative to its start."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights with their scores, None without validation."""

    weights: dict[str, Tensor]
    scores: Scores | None


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
        self.best: Checkpoint | None = None
        self.best_checkpoint: Checkpoint | None = None
        self.before: Scores | None = None
        self.smoothed_score = self.best_score = math.nan
        self.fitted = False
        self.initial = self.safe_weights = initial
        self.started_from = StartedFrom.MODEL
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

    def begin(self, trainer: Trainer) -> None:
        """Score the initial model's weights, the first checkpoint."""
        if (scores := trainer.score()) is not None:
            self._begin_from(Checkpoint(self.initial, scores))

    def keep_initial_model(self, trainer: Trainer) -> Checkpoint:
        """Score and keep the fitted initial model."""
        self.initial = self.safe_weights = trainer.weights()
        self.started_from = StartedFrom.INITIAL_MODEL
        return self._begin_from(Checkpoint(self.safe_weights, trainer.score()))

    def _begin_from(self, best: Checkpoint) -> Checkpoint:
        """Compare coming epochs with this checkpoint."""
        self.best, self.best_checkpoint, self.before = best, best, best.scores
        self.smoothed_score = self.best_score = best.scores.soft_dice if best.scores else math.nan
        return best

    def show(self, adapted: Checkpoint) -> None:
        """Show adapted weights; the score to beat stays as it is."""
        assert self.best is not None
        self.before, self.best = self.best.scores, adapted
        if adapted.scores and adapted.scores.soft_dice >= self.best_score:
            self.best_checkpoint, self.smoothed_score = (
                adapted,
                adapted.scores.soft_dice,
            )
            self.best_score = self.smoothed_score

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
        """Score the EMA weights, and keep them if they are the best so far."""
        scores = trainer.score()
        losses = {name: x / self.steps_since_epoch for name, x in self.losses.items()}
        self.epochs += 1
        self.losses, self.steps_since_epoch, self.failures = {}, 0, 0
        weights = trainer.weights()
        gain = -math.inf if self.fitted else self._gain(scores)
        if scores is None:
            self._check_fitted(trainer)
        self.epochs_without_improvement = (
            0 if gain >= MIN_DELTA else self.epochs_without_improvement + 1
        )
        if gain > 0:
            self.best = self.best_checkpoint = Checkpoint(weights, scores)
        self.safe_weights = weights
        self.curve.append(_point(self, losses, scores))
        loss = sum(losses.values())
        return EpochDone(self.epochs, self.steps, loss, scores, gain > 0, self.seconds, losses)

    def _check_fitted(self, trainer: Trainer) -> None:
        """End a training without validation once its labels are fitted.

        The first weights that fit them are kept, since they have changed least elsewhere.
        """
        if self.fitted or not trainer.data.unlabelled:
            return
        (wrong,) = trainer.group.broadcast_numbers(
            labelled_error(trainer.ema_network, trainer.data, trainer.device)
        )
        self.fitted = wrong <= TOLERATED_ERROR

    def _gain(self, scores: Scores | None) -> float:
        """Gain of the smoothed score over the best so far, which is updated.

        Only an epoch whose own score is above the best can raise it, and an unscored one never
        replaces
        a scored one.
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

    def update_annotations(self, trainer: Trainer) -> None:
        """Score the best weights on newer annotations, as coming ones will be."""
        if self.best is not None:
            best, smoothed = self.best.weights, (self.best_checkpoint or self.best).weights
            self._begin_from(Checkpoint(best, trainer.score(best)))
            if smoothed is not best:
                self.best_checkpoint = Checkpoint(smoothed, trainer.score(smoothed))
                if (
                    self.best_checkpoint.scores
                    and self.best_checkpoint.scores.soft_dice > self.best_score
                ):
                    self.smoothed_score = self.best_score = self.best_checkpoint.scores.soft_dice
        self.epochs_without_improvement, self.fitted = 0, False

    def done(self) -> TrainingDone:
        """The last event."""
        outcome = self.outcome or Outcome.STOPPED
        text = f"Training ended after {self.steps} steps: {self._why(outcome)}."
        kept = None
        if self.epochs and self.best is not None and self.best.weights is self.initial:
            kept = self.started_from
            text += (
                " No later model had a better smoothed score than the "
                f"{BEGINNINGS[kept]}, which is kept."
            )
        return TrainingDone(
            outcome,
            text,
            self.best.scores if self.best else None,
            self.epochs,
            self.steps,
            self.seconds,
            self.before,
            kept,
        )

    def _why(self, outcome: Outcome) -> str:
        return {
            Outcome.COMPLETED: f"all {self.plan.steps} steps were done",
            Outcome.TIME_OVER: f"the time of {self.settings.minutes or 0:g} minutes was over",
            Outcome.LABELS_LEARNED: "the labels are learned",
            Outcome.EARLY_STOPPED: f"nothing improved for {self.epochs_without_improvement} epochs",
            Outcome.STOPPED: "it was stopped",
            Outcome.DIVERGED: "the loss was NaN repeatedly",
            Outcome.FAILED: f"a step failed ({self._failure}); the best model before it is kept",
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
