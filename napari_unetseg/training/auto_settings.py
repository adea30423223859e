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


SET, LIMITS = "as in the settings", "steps, epochs, minutes"


def describe_auto_settings(
    plan: TrainingPlan,
    data: TrainingDataset,
    settings: TrainSettings,
    trainer: Trainer,
    device: str,
) -> tuple[AutoSetting, ...]:
    """List automatically chosen settings with value, reason and overriding setting."""
    found = _of_plan(plan, settings, device, trainer.group.world.size)
    found.insert(1, _start(trainer, settings))
    blocks, limited = len(data.validation_blocks()), settings.epochs or settings.minutes
    held_out = f"{blocks} blocks", "for the score"
    if not data.validated:
        held_out = "nothing", "too little is labelled for a score"
    length = f"up to {plan.steps} steps" if plan.steps else f"{settings.minutes:g} minutes"
    ends = "training ends earlier when nothing improves"
    return (
        *found,
        _edges(trainer, settings),
        _range(data, settings, trainer),
        AutoSetting("Held out", *held_out, "validation"),
        AutoSetting("Length", length, SET if limited or settings.steps else ends, LIMITS),
    )


def _of_plan(
    plan: TrainingPlan, settings: TrainSettings, device: str, processes: int
) -> list[AutoSetting]:
    net, size = plan.net, " × ".join(str(p) for p in plan.patch)
    title = ARCHITECTURES[net.encoder].title
    network = f"{title}, {net.depth} levels, {net.width} features at the first level"
    default = SET if settings.depth else f"default for {net.dims}D"
    shared = f", shared by {processes} processes" if processes > 1 else ""
    usual = SET if settings.patch or settings.batch else f"default on {device}"
    found = [
        AutoSetting("Network", network, default, "depth, width, encoder"),
        AutoSetting("Patches", f"{plan.batch} of {size}{shared}", usual, "patch, batch"),
    ]
    if net.strides and len({n for level in net.strides for n in level}) > 1:
        in_z = " ".join(str(s[0]) for s in net.strides)
        reason = "Z is coarser or thinner than Y and X, so it is not down-sampled there"
        found.append(AutoSetting("Down-sampling in Z", in_z, reason, "depth"))
    return found


def _start(trainer: Trainer, settings: TrainSettings) -> AutoSetting:
    if trainer.from_init:
        distils = bool(trainer.distillation and trainer.distillation.planes)
        kept = ", and its mask is kept where nothing is painted (distillation)" if distils else ""
        reason = f"training continues from it{kept}"
        return AutoSetting("Start", "your model", reason, "distillation_weight" * distils)
    if trainer.pretrained:
        value = f"pretrained, {trainer.lr_scale:.0%} of the full learning rate"
        reason = f"{trainer.data.train_voxels:,} labelled pixels; more labels raise the rate"
        return AutoSetting("Start", value, reason, "pretrained, learning_rate")
    missing = "there are no pretrained weights for this network"
    return AutoSetting(
        "Start", "random weights", missing if settings.pretrained else SET, "pretrained"
    )


def _edges(trainer: Trainer, settings: TrainSettings) -> AutoSetting:
    value, reason = "none", "full masks show where structures end"
    if weight := trainer.loss_weights()["edges"]:
        value, reason = f"weight {weight:.2g}", "strokes do not show where structures end"
    elif not settings.edge_loss_weight:
        reason = SET
    return AutoSetting("Edge loss", value, reason, "edge_loss_weight")


def _range(data: TrainingDataset, settings: TrainSettings, trainer: Trainer) -> AutoSetting:
    by_image = data.normalization.per_image
    value = "range of each image" if by_image else "range of the training images"
    reason = "their ranges differ" if by_image else "all images have about the same range"
    if trainer.from_init and by_image:
        reason = "the ranges of these images or of your model's differ"
    elif settings.normalization != "auto" and not trainer.from_init:
        reason = SET
    return AutoSetting("Intensities", value, reason, "normalization")
