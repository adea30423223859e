"""Starting point of a training: dataset, plan and initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.models import transfer
from napari_unetseg.models.voxel_sizes import why_other_sizes
from napari_unetseg.training.training_events import TrainingPrepared
from napari_unetseg.training.training_plan import TrainingPlan, make_plan

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.training_record import AutoSetting
    from napari_unetseg.runtime.distributed import ProcessGroup
    from napari_unetseg.training.trainer import Trainer
    from napari_unetseg.training.training_state import Checkpoint

STOPPED_AT_ONCE = "Training was stopped before its first step; nothing was learned yet."
FAILED_AT_ONCE = (
    "Training failed in its first steps: the loss was NaN; check the image for invalid values or "
    "choose a smaller learning rate."
)
NOTHING_TO_FREEZE = (
    "There is no initial model and there are no encoder weights, so the encoder is not frozen."
)
SCORE_TOO_HIGH = (
    "An earlier training of this model held out no labels, so its score is too high compared with "
    "a new model."
)
INSEPARABLE = (
    "The labelled classes look alike to the new model, as when all strokes lie at an earlier "
    "mask's mistakes: paint some at typical places too, or go on from the earlier model."
)


def read_dataset(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings,
    structures: Sequence[Structure],
    init: Model | None,
) -> TrainingDataset:
    """Read and check images and labels, against an initial model if there is one."""
    images = [pair.image for pair in pairs]
    same = bool(init and images and channels_of(init, images[0]) == init.channels)
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


def describe_dataset(data: TrainingDataset, init: Model | None) -> Iterator[str]:
    """Say how images differ from those of the initial model, and what there are no labels for."""
    if reason := why_other_sizes([pair.image for pair in data.pairs], data.dims, init):
        yield reason
    if data.unlabelled:
        names = dict(zip(data.classes.numbers, data.classes.names, strict=True))
        left = " and ".join(names[number] for number in data.unlabelled)
        what = "it" if len(data.unlabelled) == 1 else "them"
        end = "" if data.validated else " and has no score"
        yield f"There are no labels of {left}: the model keeps what it knows of {what}{end}."
    elif not data.validated:
        yield (
            "There are too few labels to hold any out for validation, so there is no score. "
            "Label more, in several places or images, to get one."
        )


def describe_nothing_to_distill(data: TrainingDataset) -> str:
    """Say why labels of a single class cannot be trained on."""
    names = zip(data.classes.numbers, data.classes.names, strict=True)
    (name,) = (name for number, name in names if number not in data.unlabelled)
    return (
        f"Only {name} is labelled, and every voxel of these images is labelled, so the model "
        "would forget the other classes; add images with the other classes, or leave part of "
        "these unlabelled."
    )


def plan_and_weights(
    init: Model | None, data: TrainingDataset, settings: TrainSettings, group: ProcessGroup
) -> tuple[TrainingPlan, Mapping[str, Tensor] | None, tuple[str, ...]]:
    """The plan, and with an initial model its weights and what was adapted."""
    device = group.device.type
    if init is None:
        return make_plan(data, settings, device, None, group.world.size), None, ()
    settings = transfer.settings_after(init, settings)
    channels, classes = data.pairs[0].image.channels, data.classes
    maps = bool(classes.objects)
    net = transfer.net_after(init, data.dims, len(channels), classes.out_channels, object_maps=maps)
    plan = make_plan(data, settings, device, net, group.world.size)
    return plan, *transfer.adapt(init, plan.net, classes, channels)


def prepared_event(
    trainer: Trainer, plan: TrainingPlan, device: str, choices: tuple[AutoSetting, ...]
) -> TrainingPrepared:
    """The event before the first step, on the device of that name."""
    data = trainer.data
    return TrainingPrepared(
        steps=plan.steps,
        epoch_steps=plan.epoch_steps,
        samples=plan.epoch_steps * plan.batch,
        train_voxels=data.train_voxels,
        validation_voxels=data.validation_voxels,
        blocks=len(data.validation_blocks()),
        device=device,
        parameters=trainer.network.parameter_count,
        patch=plan.patch,
        batch=plan.batch,
        choices=choices,
    )


def channels_of(init: Model | None, image: Stack) -> tuple[str, ...]:
    """Channel names that a model of this training expects."""
    return transfer.channels_after(init.channels, image.channels) if init else image.channels


def describe_fall(fallen: Checkpoint, best: Checkpoint) -> str:
    """Say that a training goes back to an earlier model, and that the newer one is not lost."""
    return (
        f"The score fell after step {best.step}, so training went back to the model of that step; "
        f"the one of step {fallen.step} is set aside."
    )
