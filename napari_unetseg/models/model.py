"""Trained model: network weights with the metadata for prediction."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_unetseg.core.errors import ModelFileError
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.intensities import SHAPE_PERCENTILES, Profile
from napari_unetseg.core.labels import Classes
from napari_unetseg.core.settings import NetSettings, ObjectSettings
from napari_unetseg.models import model_file
from napari_unetseg.models.registry import build
from napari_unetseg.models.training_record import TrainingRecord

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.models.unet import UNet


class ModelDescription(BaseModel):
    """Metadata of a model file."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    net: NetSettings
    classes: Classes
    channels: tuple[str, ...]
    normalization: Normalization
    spacing: tuple[float, ...]
    units: tuple[str, ...]
    spacing_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    object_settings: ObjectSettings | None = None
    history: tuple[TrainingRecord, ...] = Field(default=())

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        """Check that the parts of a handmade file agree."""
        n, scale = self.net.in_channels, self.normalization
        numbers = self.classes.numbers
        low, high = self.spacing_range or (self.spacing, self.spacing)
        profiles = _numbers(scale.profiles)
        values = (*scale.low, *scale.high, *scale.fill, *self.spacing, *low, *high, *profiles)
        if not (
            len(self.channels) == len(scale.low) == len(scale.high) == len(scale.fill) == n
            and len(scale.profiles) in (0, n)
            and all(len(profile.shape) == len(SHAPE_PERCENTILES) for profile in scale.profiles)
            and len(self.spacing) == len(self.units) == len(low) == len(high) == self.net.dims
            and self.classes.out_channels == self.net.out_channels
            and (self.net.object_maps or self.object_settings is None)
            and len(set(numbers)) == len(numbers) >= 2
            and all(math.isfinite(v) for v in values)
        ):
            raise ValueError("channels, classes, spacing and network do not match")
        return self


def _numbers(profiles: Sequence[Profile]) -> Iterator[float]:
    for profile in profiles:
        yield from (profile.contrast, profile.bottom, profile.top, *profile.shape)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with its classes, normalisation, spacing and history.

    Attributes
    ----------
    net
        Architecture.
    weights
        Tensors of the network's state, on the CPU.
    classes
        Structures and whether there is a background.
    channels
        Names of the image channels it was trained on.
    normalization
        Intensity scaling of each channel.
    spacing, units
        Voxel size of the first training image along ZYX or YX.
    spacing_range
        Smallest and largest voxel size of the training images, in ``units``; None where all are
        alike, and in files of earlier versions.
    object_settings
        How objects are found in its object maps; None where it has none, or was trained without
        whole objects. Then objects are split at necks of the mask.
    history
        One record for each training, the newest last.
    """

    net: NetSettings
    weights: Mapping[str, Tensor]
    classes: Classes
    channels: tuple[str, ...]
    normalization: Normalization
    spacing: tuple[float, ...]
    units: tuple[str, ...]
    history: tuple[TrainingRecord, ...] = ()
    spacing_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    object_settings: ObjectSettings | None = None

    @property
    def dims(self) -> int:
        """2 for planes, 3 for volumes."""
        return self.net.dims

    @property
    def scores(self) -> Scores | None:
        """Scores on the validation blocks of the last training, None when it had none."""
        return self.history[-1].scores if self.history else None

    @property
    def validated(self) -> bool:
        """Whether the last training had enough annotation for a score."""
        return self.scores is not None

    @cached_property
    def id(self) -> str:
        """Hash of the weights, twelve hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return digest.hexdigest()[:12]

    def finding_objects(self, settings: ObjectSettings) -> Model:
        """The same weights, and so the same id, with other settings of how objects are found."""
        other = replace(self, object_settings=settings)
        other.__dict__["id"] = self.id  # hashing all weights takes long
        return other

    def network(self) -> UNet:
        """The network with its weights, in evaluation mode, on the CPU."""
        with torch.device("meta"):  # skip random initialisation
            network = build(self.net)
        network.load_state_dict({n: t.clone() for n, t in self.weights.items()}, assign=True)
        return network.eval()

    def check_image(self, stack: Stack) -> None:
        """Raise `ModelFileError` for an image with other channels or dimensions."""
        if stack.n_channels != self.net.in_channels:
            raise ModelFileError(
                f"This model needs {self.net.in_channels} channel(s) "
                f"({', '.join(self.channels)}), but {stack.name} has {stack.n_channels}; "
                "choose the same channels as in training, or train a model for these."
            )
        if self.dims == 3 and not stack.grid_axes.endswith("ZYX"):
            raise ModelFileError(
                f"This model needs volumes (ZYX), but {stack.name} has the axes {stack.axes}; "
                "choose a stack with a Z axis, or a 2D model."
            )

    def description(self) -> dict[str, Any]:
        """Everything but the weights, ready for JSON."""
        record = ModelDescription(**{n: getattr(self, n) for n in ModelDescription.model_fields})
        return cast("dict[str, Any]", json.loads(record.model_dump_json()))

    def summary(self) -> dict[str, Any]:
        """The description, with the model's id, size and receptive field."""
        with torch.device("meta"):
            network = build(self.net)
        return {
            "id": self.id,
            "validated": self.validated,
            "parameters": network.parameter_count,
            "receptive_field": list(network.receptive_field),
            "stride": list(network.stride),
            **self.description(),
        }

    def save(self, path: str | Path) -> Path:
        """Write the model as one ``.safetensors`` file, whole or not at all.

        Raises
        ------
        UserError
            The disk is full or the folder cannot be written; an old file stays as it was.
        """
        path = with_suffix(path)
        model_file.write(path, self.weights, self.description())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model file; nothing in it is ever run.

        Raises
        ------
        ModelFileError
            The file is missing, of another kind, damaged, altered, or newer than this program.
        """
        path = Path(path)
        description, read_weights = model_file.read(path)
        record = model_file.validated(path, ModelDescription, description)
        weights = read_weights(_expected(record.net))
        if not all(bool(torch.isfinite(t).all()) for t in weights.values()):
            raise ModelFileError(f"{path.name} holds weights that are NaN; train it again.")
        values = {name: getattr(record, name) for name in ModelDescription.model_fields}
        return cls(weights=weights, **values)


def _expected(net: NetSettings) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor of a network."""
    with torch.device("meta"):
        state = build(net).state_dict()
    return {name: (tuple(t.shape), t.dtype) for name, t in state.items()}


def with_suffix(path: str | Path) -> Path:
    """The path with ``.safetensors`` appended unless it has it."""
    path = Path(path)
    return (
        path if path.suffix == model_file.SUFFIX else path.with_name(path.name + model_file.SUFFIX)
    )


def load_model(path: str | Path) -> Model:
    """Read a model file; see `Model.load`."""
    return Model.load(path)
