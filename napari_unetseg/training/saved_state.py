"""State of a training between two steps: captured and restored.

Random numbers need no state, since samples follow from seed, step and number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor

from napari_unetseg.core.metrics import Scores
from napari_unetseg.models.training_record import CurvePoint
from napari_unetseg.training.training_state import Checkpoint

if TYPE_CHECKING:
    from napari_unetseg.models.model_file import Expected
    from napari_unetseg.training.trainer import Trainer
    from napari_unetseg.training.training_state import TrainingState

Tensors = dict[str, Tensor]


class _State(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", from_attributes=True, ser_json_inf_nan="strings"
    )


class Identity(_State):
    """Identity of the training that a state belongs to."""

    version: str
    settings: dict[str, Any]
    model: str
    """Id of the initial model, or empty."""
    images: str
    labels: str
    plan: str

    def differs_from(self, other: Identity) -> str:
        """The first difference, in words; empty if both are the same training."""
        if self.version != other.version:
            return f"started by napari-unetseg {self.version}, but this is {other.version}"
        if self.settings != other.settings:
            names = sorted(n for n in other.settings if self.settings.get(n) != other.settings[n])
            changes = (f"{n}: {self.settings.get(n)}, now {other.settings[n]}" for n in names)
            return f"with other options ({', '.join(changes)})"
        parts = {
            "model": "from another model",
            "images": "on other images",
            "labels": "with other labels",
            "plan": "on another kind of device or number of processes",
        }
        differ = (words for n, words in parts.items() if getattr(self, n) != getattr(other, n))
        return next(differ, "")


class TrainerFields(_State):
    """What of a trainer is saved beside its weights."""

    steps: int
    batch: int
    patch: tuple[int, ...]
    lr_backoff: float
    frozen_batchnorm: bool
    separable: float
    class_priors: tuple[float, ...] | None = Field(
        validation_alias=AliasChoices("class_priors", "shares")
    )


class TrainingStateFields(_State):
    """Where a training stands."""

    steps: int
    epochs: int
    steps_since_epoch: int
    epochs_without_improvement: int
    failures: int
    losses: dict[str, float]
    curve: list[CurvePoint]
    smoothed_score: float
    best_score: float
    falls: int
    fitted: bool


class Kept(_State):
    """Number of stored weights, with their scores."""

    weights: int
    step: int
    scores: Scores | None


class SavedState(_State):
    """A training between two steps, without the tensors.

    Newer annotations are not part of it, since they end checkpointing.
    """

    training: Identity
    seconds: float
    trainer: TrainerFields
    progress: TrainingStateFields
    newest: Kept | None
    best: Kept | None
    initial: int | None
    """Number of the initial weights; None where they are no longer needed."""
    scaler: dict[str, int | float]
    optimized: tuple[str, ...]
    """Parameters with optimiser state."""


def taken(
    trainer: Trainer, progress: TrainingState, training: Identity
) -> tuple[SavedState, Tensors]:
    """The state of a training, and its tensors on the CPU."""
    sets: list[Tensors] = []

    def number(weights: Tensors) -> int:
        if not any(weights is known for known in sets):
            sets.append(weights)
        return next(n for n, known in enumerate(sets) if weights is known)

    def kept(one: Checkpoint | None) -> Kept | None:
        return Kept(weights=number(one.weights), step=one.step, scores=one.scores) if one else None

    newest, best = kept(progress.newest), kept(progress.best)
    again = any(progress.initial is known for known in sets)
    remembered = _optimizer(trainer)
    state = SavedState(
        training=training,
        seconds=progress.seconds,
        trainer=TrainerFields.model_validate(trainer),
        progress=TrainingStateFields.model_validate(progress),
        newest=newest,
        best=best,
        initial=number(progress.initial) if again else None,
        scaler=trainer.scaler.state_dict(),
        optimized=tuple(remembered),
    )
    now = {"network": trainer.copied(trainer.network), "ema": trainer.weights()}
    named = now | {f"kept {n}": weights for n, weights in enumerate(sets)}
    tensors = {f"{group}.{n}": t for group, some in named.items() for n, t in some.items()}
    for name, values in remembered.items():
        for what, value in values.items():
            plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            tensors[f"optimizer {what}.{name}"] = plain
    return state, tensors


def _optimizer(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Optimiser state of each parameter: steps and moments of its gradient."""
    state = trainer.optimizer.state
    return {n: state[p] for n, p in trainer.network.named_parameters() if state.get(p)}


def expected(state: SavedState, trainer: Trainer) -> Expected:
    """Shape and dtype of each tensor of a state, for a trainer of the same training."""
    network = {n: (tuple(t.shape), t.dtype) for n, t in trainer.network.state_dict().items()}
    groups = ["network", "ema", *(f"kept {n}" for n in _numbers(state))]
    tensors = {f"{g}.{n}": about for g in groups for n, about in network.items()}
    for name in state.optimized:
        shape, dtype = network[name]
        tensors[f"optimizer step.{name}"] = ((), torch.float32)
        for what in ("exp_avg", "exp_avg_sq"):
            tensors[f"optimizer {what}.{name}"] = (shape, dtype)
    return tensors


def _numbers(state: SavedState) -> list[int]:
    return sorted({kept.weights for kept in (state.newest, state.best) if kept})


def give_back(
    state: SavedState, tensors: Mapping[str, Tensor], trainer: Trainer, progress: TrainingState
) -> None:
    """Restore a state into a new trainer and training state."""

    def group(name: str) -> Tensors:
        names = trainer.network.state_dict()
        return {n: tensors[f"{name}.{n}"] for n in names}

    trainer.network.load_state_dict(group("network"))
    trainer.ema_network.load_state_dict(group("ema"))
    _give_optimizer(state, tensors, trainer)
    _set(trainer, state.trainer)
    trainer.use(trainer.data)  # updates the class weights
    _set(progress, state.progress)
    progress.seconds_before = state.seconds
    sets = {n: group(f"kept {n}") for n in _numbers(state)}

    def given(kept: Kept | None) -> Checkpoint | None:
        return Checkpoint(sets[kept.weights], kept.step, kept.scores) if kept else None

    progress.newest, progress.best = given(state.newest), given(state.best)
    if state.initial is not None:
        progress.initial = sets[state.initial]


def _give_optimizer(state: SavedState, tensors: Mapping[str, Tensor], trainer: Trainer) -> None:
    """Fill the optimiser; its moments need the memory layout of their parameters."""
    parameters = dict(trainer.network.named_parameters())
    for name in state.optimized:
        parameter = parameters[name]
        means = ("exp_avg", "exp_avg_sq")
        saved = {what: tensors[f"optimizer {what}.{name}"] for what in means}
        values = {what: torch.zeros_like(parameter).copy_(one) for what, one in saved.items()}
        fused = trainer.optimizer.defaults["fused"]
        step = tensors[f"optimizer step.{name}"].clone()
        values["step"] = step.to(parameter.device) if fused else step
        trainer.optimizer.state[parameter] = values
    if state.scaler:
        trainer.scaler.load_state_dict(state.scaler)


def _set(target: Trainer | TrainingState, values: BaseModel) -> None:
    for name in type(values).model_fields:
        setattr(target, name, getattr(values, name))
