"""Automatically chosen settings of a training, with reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.models.training_record import AutoSetting

if TYPE_CHECKING:
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.training.trainer import Trainer
    from napari_unetseg.training.training_plan import TrainingPlan


def describe_auto_settings(
    plan: TrainingPlan,
    data: TrainingDataset,
    settings: TrainSettings,
    trainer: Trainer,
    device: str,
) -> tuple[AutoSetting, ...]:
    """List automatically chosen settings with value, reason and overriding setting."""
    found = [_network(plan, settings), _start(trainer, settings)]
    found.append(_patch(plan, settings, device, trainer.group.world.size))
    if plan.net.strides and len({n for level in plan.net.strides for n in level}) > 1:
        found.append(
            AutoSetting(
                "Down-sampling in Z",
                " ".join(str(s[0]) for s in plan.net.strides),
                "Z is coarser or thinner than Y and X, so it is not down-sampled there",
                "depth",
            )
        )
    found += [_edges(trainer, settings), _range(data, settings, trainer), _held_out(data)]
    return (*found, _length(plan, settings))


def _network(plan: TrainingPlan, settings: TrainSettings) -> AutoSetting:
    net = plan.net
    reason = "as in the settings" if settings.depth else f"default for {net.dims}D"
    kind = ARCHITECTURES[net.encoder].title
    value = f"{kind}, {net.depth} levels, {net.width} features at the first level"
    return AutoSetting("Network", value, reason, "depth, width, encoder")


def _start(trainer: Trainer, settings: TrainSettings) -> AutoSetting:
    if trainer.from_init:
        distils = bool(trainer.distillation and trainer.distillation.planes)
        kept = ", and its mask is kept where nothing is painted (distillation)" if distils else ""
        return AutoSetting(
            "Start",
            "your model",
            f"training continues from it{kept}",
            "distillation_weight" * distils,
        )
    if trainer.pretrained:
        return AutoSetting(
            "Start",
            f"pretrained, {trainer.lr_scale:.0%} of the full learning rate",
            f"{trainer.data.train_voxels:,} labelled pixels; more labels raise the rate",
            "pretrained, learning_rate",
        )
    reason = (
        "there are no pretrained weights for this network"
        if settings.pretrained
        else "as in the settings"
    )
    return AutoSetting("Start", "random weights", reason, "pretrained")


def _patch(plan: TrainingPlan, settings: TrainSettings, device: str, processes: int) -> AutoSetting:
    size = " × ".join(str(p) for p in plan.patch)
    reason = "as in the settings" if settings.patch or settings.batch else f"default on {device}"
    shared = f", shared by {processes} processes" if processes > 1 else ""
    return AutoSetting("Patches", f"{plan.batch} of {size}{shared}", reason, "patch, batch")


def _edges(trainer: Trainer, settings: TrainSettings) -> AutoSetting:
    if weight := trainer.loss_weights()["edges"]:
        reason = "strokes do not show where structures end"
        return AutoSetting("Edge loss", f"weight {weight:.2g}", reason, "edge_loss_weight")
    reason = (
        "full masks show where structures end"
        if settings.edge_loss_weight
        else "as in the settings"
    )
    return AutoSetting("Edge loss", "none", reason, "edge_loss_weight")


def _range(data: TrainingDataset, settings: TrainSettings, trainer: Trainer) -> AutoSetting:
    by_image = data.normalization.per_image
    reason = "their ranges differ" if by_image else "all images have about the same range"
    if trainer.from_init and by_image:
        reason = "the ranges of these images or of your model's differ"
    elif settings.normalization != "auto" and not trainer.from_init:
        reason = "as in the settings"
    return AutoSetting(
        "Intensities",
        "range of each image" if by_image else "range of the training images",
        reason,
        "normalization",
    )


def _held_out(data: TrainingDataset) -> AutoSetting:
    blocks = len(data.validation_blocks())
    return AutoSetting(
        "Held out",
        f"{blocks} blocks" if data.validated else "nothing",
        "for the score" if data.validated else "too little is labelled for a score",
        "validation",
    )


def _length(plan: TrainingPlan, settings: TrainSettings) -> AutoSetting:
    limited = settings.epochs or settings.steps or settings.minutes
    return AutoSetting(
        "Length",
        f"up to {plan.steps} steps" if plan.steps else f"{settings.minutes:g} minutes",
        "as in the settings" if limited else "training ends earlier when nothing improves",
        "steps, epochs, minutes",
    )
