"""Layers that follow their image's scale, position, rotation and units."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from napari_unetseg.gui.layers.alignment import TRANSFORM_ATTRIBUTES, Alignment, align_to, alignment

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer

_followers: WeakKeyDictionary[Layer, _Follower] = WeakKeyDictionary()


class _Follower:
    """Keeps a layer aligned when its image's transform changes; holds weak references."""

    def __init__(self, image: Image, layer: Image | Labels) -> None:
        self._image, self._layer = ref(image), ref(layer)
        for name in TRANSFORM_ATTRIBUTES:
            getattr(image.events, name).connect(self._on_moved)

    @property
    def image(self) -> Image | None:
        return self._image()

    def end(self) -> None:
        if (image := self._image()) is not None:
            for name in TRANSFORM_ATTRIBUTES:
                getattr(image.events, name).disconnect(self._on_moved)

    def _on_moved(self) -> None:
        image, layer = self._image(), self._layer()
        if image is None or layer is None:
            return
        if alignment(image, layer) is not Alignment.OTHER_SHAPE:  # its data may have been replaced
            align_to(image, layer)


def follow(image: Image, layer: Image | Labels) -> None:
    """Keep an aligned layer aligned with its image."""
    unfollow(layer)
    _followers[layer] = _Follower(image, layer)


def unfollow(layer: Image | Labels) -> None:
    """Stop following."""
    if (follower := _followers.pop(layer, None)) is not None:
        follower.end()


def image_of(layer: Layer) -> Image | None:
    """The image that a layer follows; None if there is none."""
    follower = _followers.get(layer)
    return None if follower is None else follower.image


def follow_as_its_original(layer: Image | Labels) -> None:
    """Let a duplicate follow the image of the layer it was copied from."""
    original = layer.source.parent() if layer.source.parent is not None else None
    image = image_of(original) if original is not None else None
    if image is not None and layer not in _followers:
        follow(image, layer)
