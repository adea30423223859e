"""The U-Net of Ronneberger et al. 2015, in 2D and 3D.

input ─ conv conv ───────────── concatenate ─ conv conv ─ 1 × 1 ─ logits
           │ pool                    ↑ up-convolution
         conv conv ─ concatenate ─ conv conv
           │ pool         ↑ up-convolution
         conv ─────────── conv            (the bottleneck)

With ``image_features`` the last layer also sees the image and a pyramid of its means. With
``object_maps`` a second last layer predicts the object maps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
RESIZE = {2: "bilinear", 3: "trilinear"}
BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}
CONVS, NORMS = (nn.Conv2d, nn.Conv3d), (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
MAPS = 2
"""Object maps of a network that has them."""
BLOCK_RADIUS = 2
"""Radius of two 3 × 3 convolutions."""
Window = tuple[int, int, int]
"""First, last, stride: output voxel i depends on input voxels i·stride + first … + last."""


def _norm(kind: str, dims: int, features: int) -> nn.Module:
    if kind == "batch":
        return BATCH[dims](features)
    if kind == "instance":
        return INSTANCE[dims](features, affine=True)
    if kind == "group":
        groups = next(g for g in (8, 4, 2, 1) if features % g == 0)
        return nn.GroupNorm(groups, features)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm must be batch, group, instance or none, not {kind!r}")


class _Block(nn.Sequential):
    """A sequence that fuses batch norms in evaluation mode into their convolutions.

    Output and gradients are the same up to rounding; it saves one write of the features.
    """

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, CONVS) and isinstance(layers[0], NORMS) and not layers[0].training:
                x = _joint(layer, layers.pop(0), x)
            else:
                x = layer(x)
        return x


def _joint(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """A fused convolution and batch norm."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.view(-1, *(1,) * (conv.weight.ndim - 1))
    convolve = functional.conv2d if conv.weight.ndim == 4 else functional.conv3d
    return convolve(x, weight, norm.bias - norm.running_mean * scale, conv.stride, conv.padding)


def _block(dims: int, inputs: int, features: int, norm: str, dropout: float) -> nn.Sequential:
    """Two 3 × 3 convolutions, each with norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, features):
        layers += [
            CONV[dims](channels, features, 3, padding=1, bias=norm == "none"),
            _norm(norm, dims, features),
            nn.ReLU(inplace=True),
        ]
    if dropout:
        layers.append(DROPOUT[dims](dropout))
    return _Block(*layers)


class ImageFeatures(nn.Module):
    """The image, and its means over what a voxel of each down-sampling level covers.

    The means are interpolated to the full size, as in an image pyramid. Where brightness or colour
    alone tell structures apart, a fit of the last layer to these finds them at once. There is
    nothing to learn, and nothing of it is in the network's state.

    Parameters
    ----------
    strides
        Down-sampling of each level and axis, 1 or 2.
    """

    def __init__(self, strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.strides = strides

    def channels(self, in_channels: int) -> int:
        """Channels for an image of so many."""
        return in_channels * (1 + len(self.strides))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The image and its means at each level, each (N, C, *spatial).

        Parameters
        ----------
        x
            Images (N, C, *spatial), every axis a multiple of its total down-sampling.
        """
        size, mean, features = x.shape[2:], x, [x]
        for stride in self.strides:
            mean = MEAN[len(size)](mean, tuple(stride))
            features.append(functional.interpolate(mean, size=size, mode=RESIZE[len(size)]))
        return features


class UNet(nn.Module):
    """U-Net: an encoder, a bottleneck, and a decoder that sees the encoder's features.

    Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597; in 3D Çiçek et al. 2016,
    https://arxiv.org/abs/1606.06650. Convolutions are padded, so that the output has the size of
    the input. An image of any size goes in: it is padded at its far end with its last voxels to
    what the down-sampling needs, and the output is cropped.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the logits.
    dims
        2 for images (N, C, Y, X), 3 for volumes (N, C, Z, Y, X).
    depth
        Levels, the bottleneck included; 5 in the paper.
    width
        Features of the first level, doubled at each level below; 64 in the paper.
    norm
        ``batch``, ``group``, ``instance`` or ``none`` (as in the paper). Only batch and none give
        the same output for a tile as for the whole image.
    dropout
        Probability of dropping a feature in the two deepest blocks of the encoder.
    strides
        Down-sampling, one tuple for each of the ``depth - 1`` levels with 1 or 2 for each axis.
        Default 2 everywhere. (1, 2, 2) keeps the resolution in Z.
    encoder
        ``unet``; so that a whole `NetSettings` can be given.
    image_features
        Whether the last layer also sees the image and a pyramid of its means (`ImageFeatures`).
    object_maps
        Whether a second last layer predicts distances to the centre and the border of an object.

    Raises
    ------
    ValueError
        Unknown norm, another encoder, or strides that do not fit depth and dims.
    """

    encoder_kinds: ClassVar[tuple[str, ...]] = ("unet",)

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        dims: int = 2,
        depth: int = 4,
        width: int = 16,
        norm: str = "batch",
        dropout: float = 0.0,
        strides: Sequence[Sequence[int]] | None = None,
        encoder: str = "unet",
        image_features: bool = False,
        object_maps: bool = False,
    ) -> None:
        super().__init__()
        if encoder not in self.encoder_kinds:
            raise ValueError(f"encoder must be one of {self.encoder_kinds}, not {encoder!r}")
        if dims not in (2, 3) or depth < 1 or width < 1:
            raise ValueError("dims must be 2 or 3, depth and width at least 1")
        self.strides = tuple(tuple(s) for s in strides or [(2,) * dims] * (depth - 1))
        if len(self.strides) != depth - 1 or any(len(s) != dims for s in self.strides):
            raise ValueError(f"strides needs {depth - 1} tuples of {dims} numbers")
        self.dims, self.depth, self.norm = dims, depth, norm
        features = [width * 2**level for level in range(depth)]
        skips = self._make_encoder(encoder, in_channels, features, dropout)
        below = [*features[1:-1], skips[-1]]
        self.ups = nn.ModuleList(
            UP[dims](b, f, kernel_size=s, stride=s)
            for b, f, s in zip(below, features[:-1], self.strides, strict=False)
        )
        self.decoder = nn.ModuleList(
            _block(dims, skip + f, f, norm, 0.0)
            for skip, f in zip(skips[:-1], features[:-1], strict=True)
        )
        self.image_features = ImageFeatures(self.strides) if image_features else None
        inputs = width if depth > 1 else skips[-1]
        if self.image_features is not None:
            inputs += self.image_features.channels(in_channels)
        self.head = CONV[dims](inputs, out_channels, 1)
        self.maps_head = CONV[dims](inputs, MAPS, 1) if object_maps else None
        self._initialise()

    def _make_encoder(
        self, kind: str, in_channels: int, features: Sequence[int], dropout: float
    ) -> Sequence[int]:
        """Make the layers of `_encode`; the features of each level, the bottleneck last."""
        del kind
        dims, depth, inputs = self.dims, self.depth, [in_channels, *features]
        blocks = [
            _block(
                dims,
                inputs[level],
                features[level],
                self.norm,
                dropout if level >= depth - 2 else 0.0,
            )
            for level in range(depth)
        ]
        self.encoder: nn.Module = nn.ModuleList(blocks[:-1])
        self.pools = nn.ModuleList(POOL[dims](s) for s in self.strides)
        self.bottleneck: nn.Module = blocks[-1]
        return features

    def _initialise(self) -> None:
        if self.head.weight.is_meta:  # shapes alone are needed; this would import torch._dynamo
            return
        for module in self.modules():
            if isinstance(module, CONVS):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        if self.maps_head is not None:
            nn.init.normal_(self.maps_head.weight, std=0.01)

    # -- what it says of itself ------------------------------------------------------------------

    @property
    def stride(self) -> tuple[int, ...]:
        """Total down-sampling along each spatial axis."""
        totals = [1] * self.dims
        for level in self.strides:
            totals = [t * s for t, s in zip(totals, level, strict=True)]
        return tuple(totals)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Voxels along each spatial axis that one output voxel can depend on, at most."""
        widest = []
        for axis, stride in enumerate(self.stride):
            spans = [self.input_range(x, x + 1, axis) for x in range(stride)]
            widest.append(max(stop - start for start, stop in spans))
        return tuple(widest)

    @property
    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())

    def input_range(self, start: int, stop: int, axis: int) -> tuple[int, int]:
        """The input voxels that the output voxels ``start:stop`` depend on along an axis.

        Exact for norms independent of the image (batch norm in evaluation, none). The
        range may reach beyond the image.
        """
        low, high = start, stop - 1
        seen: list[tuple[int, int]] = []
        for level in range(self.depth):
            if level < self.depth - 1:  # the decoder's block
                low, high = low - BLOCK_RADIUS, high + BLOCK_RADIUS
            first, last = low, high
            for begin, end, stride in reversed(self._windows(level, axis)):
                first, last = first * stride + begin, last * stride + end
            seen.append((first, last))
            if level < self.depth - 1:
                stride = self.strides[level][axis]
                low, high = low // stride, high // stride
        return min(first for first, _ in seen), max(last for _, last in seen) + 1

    def _windows(self, level: int, axis: int) -> list[Window]:
        """Windows between the image and the encoder's features of a level, image first."""
        windows = [(-BLOCK_RADIUS, BLOCK_RADIUS, 1)]
        for strides in self.strides[:level]:
            pool = (0, strides[axis] - 1, strides[axis])
            windows += [pool, (-BLOCK_RADIUS, BLOCK_RADIUS, 1)]
        return windows

    # -- computing ---------------------------------------------------------------------------------

    def forward(self, x: Tensor, *, maps: bool = False) -> Tensor:
        """Logits (N, out_channels, *spatial) of images (N, in_channels, *spatial), any size.

        With ``maps`` those of the object maps follow, two channels more.
        """
        size, (first, *more) = x.shape[2:], self._features(x)
        used, (weight, bias) = first.shape[1], self._last_layer(maps=maps)
        convolve = functional.conv2d if self.dims == 2 else functional.conv3d
        logits = convolve(first, weight[:, :used], bias)
        if more:  # faster than the layer on joined features
            logits = logits + convolve(torch.cat(more, 1), weight[:, used:])
        return self._cropped(logits, size)

    def _last_layer(self, *, maps: bool) -> tuple[Tensor, Tensor]:
        """Weights and biases of the last layer, with that of the object maps if wanted."""
        layers = [self.head, self.maps_head] if maps and self.maps_head is not None else [self.head]
        weights, biases = [x.weight for x in layers], [cast("Tensor", x.bias) for x in layers]
        return (
            (weights[0], biases[0]) if len(layers) == 1 else (torch.cat(weights), torch.cat(biases))
        )

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees: (N, features, *spatial) of images (N, C, *spatial)."""
        return self._cropped(torch.cat(self._features(x), 1), x.shape[2:])

    def _features(self, x: Tensor) -> list[Tensor]:
        """The decoder's features and those of the image, of the padded size."""
        image = self._pad(x)
        skips = self._encode(image)
        x = skips.pop()
        for up, block in zip(reversed(self.ups), reversed(self.decoder), strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        return [x, *(self.image_features(image) if self.image_features is not None else ())]

    @staticmethod
    def _cropped(x: Tensor, size: Sequence[int]) -> Tensor:
        crop: list[Any] = [slice(0, s) for s in size]
        return x[(..., *crop)]

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Features of each level, the finest first and the bottleneck last."""
        levels = []
        for block, pool in zip(self.encoder.children(), self.pools, strict=True):
            levels.append(block(x))
            x = pool(levels[-1])
        return [*levels, self.bottleneck(x)]

    def _pad(self, x: Tensor) -> Tensor:
        """Pad the far end of each axis to a multiple of the stride, at least twice the stride.

        Image-dependent norms need more than one voxel even in the bottleneck.
        """
        pads: list[int] = []
        for size, stride in zip(x.shape[2:], self.stride, strict=True):
            least = 2 if stride > 1 or self.norm == "instance" else 1
            wanted = max(-(-size // stride), least) * stride
            pads = [0, wanted - size, *pads]
        return functional.pad(x, pads, mode="replicate") if any(pads) else x

    def folded(self) -> UNet:
        """A copy for prediction: batch norms folded into their convolutions, channels last in 2D.

        Gives the same logits up to rounding, in about half the time on a CPU.
        """
        network = copy.deepcopy(self).eval()
        for module in network.modules():
            for (first, conv), (second, norm) in pairwise(list(module.named_children())):
                if isinstance(norm, NORMS):
                    setattr(module, first, fuse_conv_bn_eval(cast("nn.Conv2d", conv), norm))
                    setattr(module, second, nn.Identity())
        return network.to(memory_format=torch.channels_last) if self.dims == 2 else network


def probabilities(logits: Tensor) -> Tensor:
    """Probability of each class from the logits of one image.

    Parameters
    ----------
    logits
        (out_channels, *spatial); one channel means background and one structure.

    Returns
    -------
    Tensor
        (classes, *spatial), summing to 1; two classes for one channel.
    """
    if len(logits) == 1:
        probability = torch.sigmoid(logits)
        return torch.cat([1 - probability, probability])
    return torch.softmax(logits, dim=0)
