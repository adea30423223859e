"""Painting disabled on a full disk, which would end napari."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from napari.layers import Labels

from napari_unetseg.data.image_grids import has_room, is_in_file

if TYPE_CHECKING:
    from napari.components import ViewerModel


class DiskSpaceGuard:
    """Disables painting on Labels layers of memory-mapped files while their disk is full.

    napari writes into such a file by itself, and the system ends a program that writes without
    room. Earlier strokes are kept; the undo history is lost, as napari drops it for layers that are
    not editable.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._disabled: WeakSet[Labels] = WeakSet()

    def update(self) -> tuple[list[Labels], list[Labels]]:
        """Check the disk; return the layers disabled now, and those enabled again."""
        stopped, again = [], []
        for layer in self._viewer.layers:
            if not isinstance(layer, Labels) or not is_in_file(layer.data):
                continue
            room = has_room(layer.data)
            if not room and layer.editable:
                layer.editable = False
                self._disabled.add(layer)
                stopped.append(layer)
            elif room and layer in self._disabled:
                layer.editable = True
                self._disabled.discard(layer)
                again.append(layer)
        return stopped, again
