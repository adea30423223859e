"""State of a training between two steps: captured and restored.

Random numbers need no state, since samples follow from seed, step and number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from napari_unetseg.core.metrics import Scores
from napari_unetseg.models.training_record import CurvePoint
from napari_unetseg.training.training_state import Checkpoint

if TYPE_CHECKING:
    from napari_unetseg.models.model_file import Expected
    from napari_unetseg.training.trainer import Trainer
    from napari_unetseg.training.training_state import TrainingState

Tensors = dict[str, Tensor]
MOMENTS = "exp_avg", "exp_avg_sq"
"""What AdamW remembers of each parameter, beside its number of steps."""


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
        changes = (
            f"{name}: {self.settings.get(name)}, now {value}"
            for name, value in sorted(other.settings.items())
            if self.settings.get(name) != value
        )
        parts = {
            "version": f"started by napari-unetseg {self.version}, but this is {other.version}",
            "settings": f"with other options ({', '.join(changes)})",
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
    class_priors: tuple[float, ...] | None


class Kept(_State):
    """A checkpoint without its weights."""

    step: int
    scores: Scores | None


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
    newest: Kept | None
    best: Kept | None


class SavedState(_State):
    """A training between two steps, without the tensors.

    Newer annotations are not part of it, since they end checkpointing. Neither are the initial
    weights, which a training begins with again and needs only until there are newer ones.
    """

    training: Identity
    seconds: float
    trainer: TrainerFields
    progress: TrainingStateFields
    scaler: dict[str, int | float]
    optimized: tuple[str, ...]
    """Parameters with optimiser state."""

    @property
    def kept(self) -> dict[str, Kept]:
        """The checkpoints that there are, by their name in the training state."""
        found = {"newest": self.progress.newest, "best": self.progress.best}
        return {name: kept for name, kept in found.items() if kept}


def capture(
    trainer: Trainer, progress: TrainingState, training: Identity
) -> tuple[SavedState, Tensors]:
    """The state of a training, and its tensors on the CPU."""
    moments = trainer.optimizer.state
    optimized = {n: moments[p] for n, p in trainer.network.named_parameters() if moments.get(p)}
    state = SavedState(
        training=training,
        seconds=progress.seconds,
        trainer=TrainerFields.model_validate(trainer),
        progress=TrainingStateFields.model_validate(progress),
        scaler=trainer.scaler.state_dict(),
        optimized=tuple(optimized),
    )
    groups = {"network": trainer.network.state_dict(), "ema": trainer.ema_network.state_dict()}
    groups |= {name: getattr(progress, name).weights for name in state.kept}
    for what in ("step", *MOMENTS):
        groups[what] = {name: values[what] for name, values in optimized.items()}
    return state, {
        f"{group}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
    }


def expected(state: SavedState, trainer: Trainer) -> Expected:
    """Shape and dtype of each tensor of a state, for a trainer of the same training."""
    network = {n: (tuple(t.shape), t.dtype) for n, t in trainer.network.state_dict().items()}
    optimized = {name: network[name] for name in state.optimized}
    groups = dict.fromkeys(("network", "ema", *state.kept), network)
    groups |= dict.fromkeys(MOMENTS, optimized)
    groups["step"] = dict.fromkeys(optimized, ((), torch.float32))
    return {f"{g}.{n}": about for g, tensors in groups.items() for n, about in tensors.items()}


def restore(
    state: SavedState, tensors: Mapping[str, Tensor], trainer: Trainer, progress: TrainingState
) -> None:
    """Restore a state into a new trainer and training state."""
    names = list(trainer.network.state_dict())

    def weights(group: str) -> Tensors:
        return {name: tensors[f"{group}.{name}"] for name in names}

    trainer.network.load_state_dict(weights("network"))
    trainer.ema_network.load_state_dict(weights("ema"))
    _restore_optimizer(state, tensors, trainer)
    _set(trainer, state.trainer)
    trainer.use(trainer.data)  # updates the class weights
    _set(progress, state.progress)
    progress.seconds_before = state.seconds
    for name, kept in state.kept.items():
        setattr(progress, name, Checkpoint(weights(name), kept.step, kept.scores))


def _restore_optimizer(state: SavedState, tensors: Mapping[str, Tensor], trainer: Trainer) -> None:
    """Fill the optimiser; its moments need the memory layout of their parameters."""
    parameters = dict(trainer.network.named_parameters())
    for name in state.optimized:
        parameter, step = parameters[name], tensors[f"step.{name}"].clone()
        trainer.optimizer.state[parameter] = {
            "step": step.to(parameter.device) if trainer.optimizer.defaults["fused"] else step,
            **{m: torch.zeros_like(parameter).copy_(tensors[f"{m}.{name}"]) for m in MOMENTS},
        }
    if state.scaler:
        trainer.scaler.load_state_dict(state.scaler)


def _set(target: Trainer | TrainingState, values: BaseModel) -> None:
    for name in type(values).model_fields:
        setattr(target, name, getattr(values, name))
