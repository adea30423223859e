"""Settings: validated, immutable, to and from JSON."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["AugmentSettings", "MatchSpacing", "NetSettings", "PredictSettings", "TrainSettings"]

Device = Literal["auto", "cuda", "mps", "cpu"]
Norm = Literal["batch", "group", "instance", "none"]
Encoder = Literal["unet", "resnet18", "resnet34", "resnet50"]
MatchSpacing = bool | Literal["auto"]


def _check_encoder(encoder: Encoder, dims: int, norm: Norm, depth: int) -> None:
    if encoder != "unet" and (dims != 2 or norm != "batch" or not 2 <= depth <= 6):
        raise ValueError(f"the encoder {encoder} needs 2D, batch norm and a depth of 2 to 6")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


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
    """The U-Net's own, or a residual network of He et al. (2016) in 2D, of which ``depth`` levels
    are used; 6 are all of it."""

    @model_validator(mode="after")
    def _check_strides(self) -> Self:
        _check_encoder(self.encoder, self.dims, self.norm, self.depth)
        if self.encoder != "unet" and self.strides is not None:
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
    quarter_turns: bool = True
    rotation: float = Field(180.0, ge=0, le=180)
    """Largest rotation in the YX plane, degrees."""
    scale: float = Field(0.22, ge=0, lt=1)
    """Largest relative change of size in the YX plane."""
    elastic: float = Field(0.5, ge=0, le=1)
    """Probability of an elastic deformation in the YX plane."""
    brightness: float = Field(0.1, ge=0, le=1)
    """Largest shift of intensity, in units of the normalised range."""
    contrast: float = Field(0.22, ge=0, lt=1)
    """Largest relative change of contrast."""
    gamma: float = Field(0.26, ge=0, lt=1)
    """Largest relative change of gamma."""
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
    ``TrainSettings.classic()``: Adam at 1e-3 for 25 epochs, no Dice term, no averaging.
    """

    dims: Literal[2, 3] = 2
    depth: int | None = Field(None, ge=1, le=7)
    """Levels of the U-Net; None: 4 in 2D, 3 in 3D, 6 with a residual encoder."""
    width: int = Field(16, ge=1, le=256)
    norm: Norm = "batch"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    encoder: Encoder = "unet"
    """The U-Net's own encoder, or torchvision's ``resnet18``, ``resnet34`` or ``resnet50`` (2D)."""
    encoder_weights: str | None = None
    """What a residual encoder starts with. None: random weights; ``imagenet``: torchvision's, which
    are downloaded once; else the path of a ``.safetensors`` or ``.pth`` state dict."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    patience: int = Field(20, ge=1)
    """Epochs without a better score after which training ends by itself."""

    pretrained: bool = True
    """Begin with the body that comes with the program, where the architecture is its own."""
    learning_rate: float = Field(3e-3, gt=0, le=1)
    weight_decay: float = Field(1e-2, ge=0, lt=1)
    """Of AdamW; 0 makes it Adam."""
    dice: bool = True
    """Add a soft Dice loss to the cross-entropy."""
    balance: bool = True
    """Weigh the classes by the root of what they cover, however many voxels were painted."""
    borders: float = Field(8.0, ge=0, le=100)
    """Weight of the loss that draws borders to edges of the image where nothing was painted; with
    few strokes less of it is taken. Full masks do without."""
    hold: float = Field(1.0, ge=0, le=100)
    """Weight of the loss that holds a model that training goes on from to what it said, where its
    mask was seen and nothing was painted."""
    average: bool = True
    """Score and keep an exponential average of the weights instead of the newest ones."""
    anneal: bool = True
    """Raise the learning rate in the first steps and lower it along a cosine."""
    patch: int | None = Field(None, ge=8, le=4096)
    """Patch size in voxels in Y and X; None: chosen."""
    batch: int | None = Field(None, ge=1, le=1024)
    """Patches of a step; None: chosen."""
    augment: AugmentSettings = AugmentSettings()

    normalization: Literal["auto", "training", "image"] = "auto"
    """Scale intensities by the range of all training images or by that of each image. ``auto``: by
    that of each if they differ, and images of another exposure by theirs; ``training`` keeps the
    training images' range for them too."""
    validation: float = Field(0.15, ge=0, le=0.5)
    """Share of the blocks that is kept out of training and used for the score."""
    freeze_encoder: bool = False
    device: Device = "auto"
    threads: int | None = Field(None, ge=1)
    """CPU threads; None: one less than there are cores."""
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if sum(end is not None for end in (self.epochs, self.steps, self.minutes)) > 1:
            raise ValueError("give only one of epochs, steps and minutes")
        return self

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        _check_encoder(self.encoder, self.dims, self.norm, self.depth or 6)
        if self.encoder_weights is not None and self.encoder == "unet":
            raise ValueError("encoder weights need the encoder resnet18, resnet34 or resnet50")
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
            "balance": False,
            "borders": 0.0,
            "hold": 0.0,
            "average": False,
            "anneal": False,
            **changes,
        }
        return cls.model_validate(values)


class PredictSettings(_Settings):
    """How a model is applied."""

    device: Device = "auto"
    threads: int | None = Field(None, ge=1)
    tile: int | None = Field(None, ge=8, le=16384)
    """Edge of a tile's core in voxels; None: chosen."""
    probabilities: bool = False
    match_spacing: MatchSpacing = False
    """Predict at the voxel size that the model was trained at: the image is resampled to it, and
    the probabilities back, so that the mask has the image's grid. True refuses an image where a
    size is not known or the two are too far apart; ``auto`` predicts that as it is."""
