"""Axes of layers, and the shape of labels of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError

if TYPE_CHECKING:
    from napari.layers import Image, Labels

LETTERS = {
    **{letter: letter.upper() for letter in "tzyxc"},
    "time": "T",
    "channel": "C",
    "channels": "C",
}
BY_POSITION = "QPTZYX"


def level0(layer: Image | Labels) -> Any:
    """The data of a layer; for a multiscale layer the full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def layer_axes(layer: Image) -> str:
    """One letter for each axis of a layer, without the samples of RGB.

    The layer's axis labels are taken where they are time, channel, z, y and x; otherwise the
    axes go by position and are the last letters of TZYX.

    Raises
    ------
    UserError
        Too many axes, or a channel axis that is not the first.
    """
    n = layer.ndim
    if n > len(BY_POSITION):
        raise UserError(f"{layer.name} has {n} axes, more than are supported; use a part of it.")
    named = "".join(LETTERS.get(str(label).lower(), " ") for label in layer.axis_labels)
    if " " in named or len(set(named)) < n or not named.replace("C", "").endswith("YX"):
        return BY_POSITION[-n:]
    if "C" in named[1:]:
        raise UserError(
            f"{layer.name} has its channels in the middle of its axes; right-click the layer, "
            "choose 'Split Stack' along the channels, and choose the first as image."
        )
    return named


def grid_shape(image: Image) -> tuple[int, ...]:
    """Shape that labels of an image have: without channels and samples.

    Raises
    ------
    UserError
        As for `layer_axes`.
    """
    axes = layer_axes(image)
    shape = tuple(int(n) for n in level0(image).shape[: len(axes)])
    return shape[1:] if axes.startswith("C") else shape
