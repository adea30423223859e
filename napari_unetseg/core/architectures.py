"""Registry of network architectures.

It lies in core, without PyTorch, because settings are validated by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network architecture, by its name in `NetSettings.encoder`."""

    title: str
    """Display name, as in "U-Net, 4 levels"."""
    network: str
    """Class, ``module:name``, which `models.registry.build` imports; it takes the fields of
    `NetSettings`.

    It must subclass `UNet`, list its names in ``encoder_kinds`` and override ``_make_encoder``,
    which makes the layers and returns the features of each level. If the encoder is not a list of
    blocks with pools between them, it overrides ``_encode`` (the features of each level, the finest
    first, each ending in a norm or ReLU) and ``_windows`` (what these depend on) too. Prediction,
    training and transfer use its ``head``, ``encoder``, ``folded``, ``input_range`` and ``stride``.
    """
    default_depth: Mapping[int, int]
    """Levels for 2 or 3 spatial axes, as far as it has them."""
    first_layers: Callable[[int], tuple[str, ...]]
    """Names of the weights that see the image's channels, for each of ``depths``; at depth 1 there
    is only a bottleneck."""
    depths: range = range(1, 8)
    """Valid depths."""
    batch_norm_only: bool = False
    """Whether it has no other norm."""
    wide_receptive_field: bool = False
    """Whether the halo of exact tiles would cost too much."""
    pretrained: bool = False
    """Whether the shipped backbone weights are of this architecture."""
    encoder_weights: bool = False
    """Whether its encoder can start from torchvision's weights."""
    own_strides: bool = False
    """Whether its down-sampling is fixed."""


def _resnet(name: str) -> Architecture:
    return Architecture(
        title=f"U-Net on {name}",
        network="napari_unetseg.models.resnet_unet:ResNetUNet",
        default_depth={2: 6},
        first_layers=lambda _: ("encoder.conv1.weight", "fine.0.weight"),
        depths=range(2, 7),
        batch_norm_only=True,
        wide_receptive_field=True,
        encoder_weights=True,
        own_strides=True,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(
        title="U-Net",
        network="napari_unetseg.models.unet:UNet",
        default_depth={2: 4, 3: 3},  # deeper ones see too far for exact tiles
        first_layers=lambda depth: ("encoder.0.0.weight" if depth > 1 else "bottleneck.0.weight",),
        pretrained=True,
    ),
    **{name: _resnet(name) for name in ("resnet18", "resnet34", "resnet50")},
}


def with_encoder_weights() -> str:
    """List the architectures whose encoder can start from torchvision's weights."""
    *names, last = (name for name, kind in ARCHITECTURES.items() if kind.encoder_weights)
    return f"{', '.join(names)} or {last}" if names else last


def check_architecture(name: str, dims: int, norm: str, depth: int | None) -> None:
    """Raise `ValueError` for an invalid combination; ``depth`` None is the default."""
    kind = ARCHITECTURES[name]
    fits = dims in kind.default_depth and (depth or kind.default_depth[dims]) in kind.depths
    if not fits or (kind.batch_norm_only and norm != "batch"):
        axes = " or ".join(f"{n}D" for n in kind.default_depth)
        norms = ", batch norm" * kind.batch_norm_only
        raise ValueError(
            f"the encoder {name} needs {axes}{norms} and a depth of {kind.depths[0]} to "
            f"{kind.depths[-1]}"
        )
