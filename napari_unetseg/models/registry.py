"""Networks by their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from napari_unetseg.core.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from napari_unetseg.core.settings import NetSettings
    from napari_unetseg.models.unet import UNet

__all__ = ["build"]


def build(net: NetSettings) -> UNet:
    """The network of an architecture, with random weights.

    Parameters
    ----------
    net
        `NetSettings.encoder` names one of `ARCHITECTURES`.
    """
    return cast("UNet", ARCHITECTURES[net.encoder].build(net))
