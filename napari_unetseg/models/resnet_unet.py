"""U-Net with a residual encoder (ResNet).

image ─ conv conv ─────────────────────── concatenate ─ conv conv ─ 1 × 1 ─ logits
  └ 7 × 7 / 2 ─────────────────────── concatenate ─ conv conv ↑
        └ max-pool / 2 ─ layer 1 ── concatenate ─ conv conv ↑
                            └ layer 2 / 2 … layer 4 / 2 ↑

torchvision is needed for downloading weights only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from torch import Tensor, nn

from napari_unetseg.models.unet import BLOCK_RADIUS, UNet, Window, _block

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
"""Residual blocks of each layer."""
FEATURES = (64, 128, 256, 512)
"""Features inside the blocks of each layer."""
STEM = 64


class _Residual(nn.Module):
    """Two 3 × 3 convolutions (``narrow`` 1), or a 3 × 3 one between two 1 × 1, and a shortcut."""

    def __init__(self, inputs: int, features: int, stride: int, narrow: int) -> None:
        super().__init__()
        outputs = features * narrow
        sizes = (3, 3) if narrow == 1 else (1, 3, 1)
        self.strided = sizes.index(3)  # the first 3 × 3 convolution
        channels = (inputs, *[features] * (len(sizes) - 1), outputs)
        for i, size in enumerate(sizes):
            step = stride if i == self.strided else 1
            conv = nn.Conv2d(channels[i], channels[i + 1], size, step, size // 2, bias=False)
            # names as in torchvision's files; a norm follows its convolution
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.count = len(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, Y / stride, X / stride) of features (N, inputs, Y, X)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if i < self.count:
                x = self.relu(x)
        return cast("Tensor", self.relu(x + shortcut))


class ResNet(nn.Module):
    """The levels of a residual network that halve the image, without its classifier.

    He et al. 2016, https://arxiv.org/abs/1512.03385, with the stride of a level in its first 3 × 3
    convolution; weights are named as in torchvision.

    Parameters
    ----------
    kind
        ``resnet18``, ``resnet34`` or ``resnet50``.
    in_channels
        Channels of the image.
    halvings
        How many levels are used, 1 to 5.
    """

    def __init__(self, kind: str, in_channels: int, halvings: int) -> None:
        super().__init__()
        self.kind = kind
        narrow = 4 if kind == "resnet50" else 1
        self.conv1 = nn.Conv2d(in_channels, STEM, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.features = [STEM]
        for number, features in enumerate(FEATURES[: halvings - 1]):
            layer = nn.Sequential()
            for i in range(BLOCKS[kind][number]):
                stride = 2 if i == 0 and number else 1
                inputs = self.features[-1] if i == 0 else features * narrow
                layer.append(_Residual(inputs, features, stride, narrow))
            self.add_module(f"layer{number + 1}", layer)
            self.features.append(features * narrow)
        self.halvings = halvings

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of each level, at 1/2, 1/4, … of the size of images (N, in_channels, Y, X)."""
        levels = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(levels[0]) if self.halvings > 1 else x
        for number in range(1, self.halvings):
            x = self.get_submodule(f"layer{number}")(x)
            levels.append(x)
        return levels

    def windows(self, halvings: int) -> list[Window]:
        """What lies between the image and the features of a level, image first."""
        windows = [(-3, 3, 2)]
        if halvings > 1:
            windows.append((-1, 1, 2))
        for number in range(1, halvings):
            for block in self.get_submodule(f"layer{number}").children():
                convs = [m for m in block.children() if isinstance(m, nn.Conv2d)]
                windows += [(-1, 1, c.stride[0]) for c in convs if c.kernel_size[0] == 3]
        return windows


class ResNetUNet(UNet):
    """A U-Net whose encoder is a `ResNet`; in 2D, with batch norm.

    The skip at full resolution comes from two convolutions of its own (``fine``), since a residual
    network begins at half the resolution. ``encoder`` is the residual network alone.

    Parameters
    ----------
    **settings
        Those of `UNet`; ``encoder`` is ``resnet18``, ``resnet34`` or ``resnet50``, ``depth`` 2 to 6
        (6: all of the residual network), ``width`` that of the decoder's finest level.
    """

    encoder_kinds: ClassVar[tuple[str, ...]] = tuple(BLOCKS)

    def _make_encoder(
        self, kind: str, in_channels: int, features: Sequence[int], dropout: float
    ) -> Sequence[int]:
        if self.dims != 2 or self.norm != "batch" or not 2 <= self.depth <= 6:
            raise ValueError(f"{kind} must be 2D, with batch norm and a depth of 2 to 6")
        self.encoder = encoder = ResNet(kind, in_channels, self.depth - 1)
        self.fine = _block(2, in_channels, features[0], "batch", 0.0)
        self.drop = nn.Dropout2d(dropout)
        return [features[0], *encoder.features]

    def _encode(self, x: Tensor) -> list[Tensor]:
        levels = [self.fine(x), *self.encoder(x)]
        levels[-1] = self.drop(levels[-1])
        return levels

    def _windows(self, level: int, axis: int) -> list[Window]:
        del axis
        assert isinstance(self.encoder, ResNet)
        return self.encoder.windows(level) if level else [(-BLOCK_RADIUS, BLOCK_RADIUS, 1)]
