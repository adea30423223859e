"""Validated, immutable settings with JSON serialisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from napari_unetseg.core.architectures import (
    ARCHITECTURES,
    check_architecture,
    with_encoder_weights,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Device = Literal["auto", "cuda", "mps", "cpu"]
Norm = Literal["batch", "group", "instance", "none"]
if TYPE_CHECKING:
    Encoder = str
else:
    Encoder = Literal[tuple(ARCHITECTURES)]
MatchSpacing = bool | Literal["auto"]


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )


def description_of(field: FieldInfo) -> str:
    """The docstring of a settings field as one line of plain text."""
    return " ".join((field.description or "").replace("``", "").split())


class NetSettings(_Settings):
    """The architecture of a U-Net; bounded, so that a file cannot ask for an absurd one.

    ``depth`` counts the levels, the bottleneck included; ``width`` is the number of feature
    channels of the first level. Depth 5 and width 64 give the network of Ronneberger et al.
    (2015, https://arxiv.org/abs/1505.04597).
    """

    dims: Literal[2, 3] = 2
    in_channels: int = Field(1, ge=1, le=64)
    out_channels: int = Field(1, ge=1, le=255)
    depth: int = Field(4, ge=1, le=7)
    width: int = Field(16, ge=1, le=256)
    norm: Norm = "batch"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    strides: tuple[tuple[int, ...], ...] | None = None
    """Down-sampling of each level and spatial axis, 1 or 2; None means 2 everywhere."""
    encoder: Encoder = "unet"
    """Architecture, one of `ARCHITECTURES`."""
    image_features: bool = False
    """Whether the last layer also sees the image and a pyramid of its means; older ones do not."""
    object_maps: bool = False
    """Whether a second last layer predicts the object maps (`core.object_maps`)."""

    @model_validator(mode="after")
    def _check_strides(self) -> Self:
        check_architecture(self.encoder, self.dims, self.norm, self.depth)
        if ARCHITECTURES[self.encoder].own_strides and self.strides is not None:
            raise ValueError(f"the encoder {self.encoder} has strides of its own")
        if self.strides is not None:
            if len(self.strides) != self.depth - 1:
                raise ValueError(f"strides needs {self.depth - 1} entries for depth {self.depth}")
            if any(len(s) != self.dims or not set(s) <= {1, 2} for s in self.strides):
                raise ValueError(f"every stride needs {self.dims} numbers, each 1 or 2")
        return self


class AugmentSettings(_Settings):
    """Random changes of a sample, the same for image and labels. 0 or False switches one off.

    Brightness, contrast, gamma and shading change an image of three channels, which is taken for
    a stained section or smear in RGB, a third as much: there colours tell structures apart.
    """

    flips: bool = True
    """Mirror patches."""
    quarter_turns: bool = True
    """Turn patches by 90°."""
    rotation: float = Field(180.0, ge=0, le=180)
    """Largest rotation in the YX plane, degrees."""
    scale: float = Field(0.22, ge=0, lt=1)
    """Largest relative change of size in the YX plane."""
    elastic: float = Field(0.5, ge=0, le=1)
    """Probability of an elastic deformation in the YX plane."""
    brightness: float = Field(0.1, ge=0, le=1)
    """Largest shift of intensity, in units of the normalised range; a third in RGB."""
    contrast: float = Field(0.22, ge=0, lt=1)
    """Largest relative change of contrast; a third in RGB."""
    gamma: float = Field(0.26, ge=0, lt=1)
    """Largest relative change of gamma; a third in RGB."""
    shading: float = Field(0.1, ge=0, le=1)
    """Largest standard deviation of added uneven light, in units of the normalised range."""
    blur: float = Field(0.2, ge=0, le=1)
    """Probability of a Gaussian blur of 0.5 to 1.5 voxels in the plane."""
    noise: float = Field(0.03, ge=0, le=1)
    """Largest standard deviation of added Gaussian noise, in units of the normalised range."""


class TrainSettings(_Settings):
    """Everything a training takes besides images and labels. The defaults need no change.

    At most one of ``epochs``, ``steps`` and ``minutes`` ends the training; with none of them it
    ends by itself when nothing improves. The classic setting of the field is
    ``TrainSettings.classic()``: Adam at 1e-3 for 25 epochs, no Dice term, no EMA.

    A field's docstring is what the command line's help, ``docs/cli.md`` and the tooltips of the
    window say. Earlier names of fields are read too, so that older model and project files are.
    """

    dims: Literal[2, 3] = 2
    """2: planes; 3: volumes."""
    depth: int | None = Field(None, ge=1, le=7)
    """Levels of the U-Net, the bottleneck included; each halves the image. By default those of the
    architecture."""
    width: int = Field(16, ge=1, le=256)
    """Feature channels of the first level; doubled at each level."""
    norm: Norm = "batch"
    """Normalisation layers; only batch and none give exactly seamless tiles."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Fraction of features dropped in training (dropout)."""
    encoder: Encoder = "unet"
    """Architecture of the network, named after its encoder."""
    encoder_weights: str | None = None
    """Initial weights of a torchvision encoder: ``imagenet`` (downloaded once), or the path of a
    ``.safetensors`` or ``.pth`` state dict. By default random."""

    epochs: int | None = Field(None, ge=1)
    """Stop after this many epochs."""
    steps: int | None = Field(None, ge=1)
    """Stop after this many steps."""
    minutes: float | None = Field(None, gt=0)
    """Stop after this many minutes."""
    patience: int = Field(20, ge=1)
    """Epochs without a better score before training ends (early stopping)."""

    pretrained: bool = True
    """Start from the pretrained weights of the program, if they fit the architecture."""
    learning_rate: float = Field(3e-3, gt=0, le=1)
    """Highest learning rate of the optimiser (AdamW)."""
    weight_decay: float = Field(1e-2, ge=0, lt=1)
    """Weight decay of AdamW; 0 makes it Adam."""
    dice: bool = True
    """Add a soft Dice loss to the cross-entropy."""
    class_weighting: bool = Field(True, validation_alias=AliasChoices("class_weighting", "balance"))
    """Weight each class by the square root of its estimated prior, however many voxels were
    painted."""
    edge_loss_weight: float = Field(
        8.0, ge=0, le=100, validation_alias=AliasChoices("edge_loss_weight", "borders")
    )
    """Weight of the edge loss, which moves borders to edges of the image where nothing is painted;
    less with few strokes, 0 with full masks."""
    distillation_weight: float = Field(
        1.0, ge=0, le=100, validation_alias=AliasChoices("distillation_weight", "hold")
    )
    """Weight of distillation: how strongly continued training keeps the earlier mask where it was
    seen and nothing was painted."""
    ema: bool = Field(
        True, title="EMA of the weights", validation_alias=AliasChoices("ema", "average")
    )
    """Validate and save an exponential moving average (EMA) of the weights instead of the newest
    ones."""
    cosine_schedule: bool = Field(True, validation_alias=AliasChoices("cosine_schedule", "anneal"))
    """Raise the learning rate in the first steps, then lower it along a cosine."""
    patch: int | None = Field(None, ge=8, le=4096)
    """Edge of a training patch in Y and X, in voxels. By default automatic."""
    batch: int | None = Field(None, ge=1, le=1024)
    """Patches per step. By default automatic."""
    augment: AugmentSettings = AugmentSettings()
    """Random changes of patches; 0 or false switches one off."""

    normalization: Literal["auto", "training", "image"] = "auto"
    """Scale intensities by the range of all training images or by that of each image; ``auto``
    uses each image's range if they differ, and for images of another exposure, for which
    ``training`` keeps the training images' range."""
    validation_fraction: float = Field(
        0.15, ge=0, le=0.5, validation_alias=AliasChoices("validation_fraction", "validation")
    )
    """Fraction of the labelled blocks held out for validation."""
    freeze_encoder: bool = False
    """Train only the decoder; needs a model to continue from, or encoder weights."""
    device: Device = "auto"
    """Device for training and prediction; ``auto`` uses the GPU if there is one."""
    threads: int | None = Field(None, ge=1)
    """Number of CPU threads. By default one fewer than there are cores, on the command line all."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed; the same one with the same number of threads gives the same model on a CPU."""

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if sum(end is not None for end in (self.epochs, self.steps, self.minutes)) > 1:
            raise ValueError("give only one of epochs, steps and minutes")
        return self

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        check_architecture(self.encoder, self.dims, self.norm, self.depth)
        if self.encoder_weights is not None and not ARCHITECTURES[self.encoder].encoder_weights:
            raise ValueError(f"encoder weights need the encoder {with_encoder_weights()}")
        return self

    @classmethod
    def classic(cls, **changes: object) -> Self:
        """Adam at a constant 1e-3 for 25 epochs, plain cross-entropy, as most scripts have it."""
        values: dict[str, object] = {
            "epochs": 25,
            "pretrained": False,
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "dice": False,
            "class_weighting": False,
            "edge_loss_weight": 0.0,
            "distillation_weight": 0.0,
            "ema": False,
            "cosine_schedule": False,
        }
        changed = cls.model_validate(changes)
        return cls.model_validate(
            values | {n: getattr(changed, n) for n in changed.model_fields_set}
        )


class ObjectSettings(_Settings):
    """How objects are found in a mask and its object maps (`core.object_maps`)."""

    prominence: float = Field(0.1, ge=0, le=1)
    """How deep the valley between two objects must be, from 0 to 1; less splits more."""
    smoothing: float = Field(1.0, ge=0, le=16)
    """Standard deviation of the Gaussian that smooths the maps, in voxels of Y and X."""
    smallest: int = Field(0, ge=0)
    """Objects of fewer voxels are left out."""
    shape: float = Field(0.5, ge=0, le=1)
    """Weight of the shape of the mask, whose necks part objects, beside that of the object maps."""
    radius: float | None = Field(None, gt=0, le=256)
    """Where the shape of the mask counts: the depth of most objects, in voxels of Y and X. By
    default that of the mask."""


class PredictSettings(_Settings):
    """How a model is applied."""

    device: Device = "auto"
    """Device for training and prediction; ``auto`` uses the GPU if there is one."""
    threads: int | None = Field(None, ge=1)
    """Number of CPU threads. By default one fewer than there are cores, on the command line all."""
    tile: int | None = Field(None, ge=8, le=16384)
    """Edge of a tile, without its surroundings, in voxels. By default automatic."""
    probabilities: bool = False
    """Return the probabilities of the classes too."""
    object_maps: bool = False
    """Return the object maps too, of a model that has them."""
    match_spacing: MatchSpacing = False
    """Predict at the voxel size that the model was trained at: the image is resampled to it, and
    the probabilities back, so that the mask has the image's grid. An image is refused where a
    size is not known or the two are too far apart; ``auto``, in Python, predicts that as it is."""
