"""Construction of networks from their settings."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from napari_unetseg.core.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from napari_unetseg.core.settings import NetSettings
    from napari_unetseg.models.unet import UNet


def build(net: NetSettings) -> UNet:
    """The network of an architecture, with random weights.

    Parameters
    ----------
    net
        `NetSettings.encoder` names one of `ARCHITECTURES`.
    """
    module, _, name = ARCHITECTURES[net.encoder].network.partition(":")
    return cast("UNet", getattr(import_module(module), name)(**net.model_dump()))
