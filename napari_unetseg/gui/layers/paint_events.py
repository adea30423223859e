"""Paint events: user edits of a Labels layer.

napari's paint event of a finished stroke carries its undo data, whose format is private and has
changed before; the stroke's bounding box is taken from it where the format is known. The event of a
fill or a polygon comes before the voxels change; the layer's update follows. Undo, redo and
assigned data only emit an event without a region, possibly for a plane that is not visible.
napari's undo history is private too: where it can be read, the region of an undo is known at once;
otherwise the layer is searched for changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.sparse_array import Region, whole
from napari_unetseg.core.singleton_axes import region_on_grid, same_but_singletons

if TYPE_CHECKING:
    from napari.layers import Labels

SYNC_SEARCH_VOXELS = 2**22
"""Layers with more voxels are searched for changes in the background."""


class PaintListener:
    """Listens to the paint events of a Labels layer until `end`.

    Parameters
    ----------
    layer
        The layer that is painted on.
    on_painted
        Called after a stroke, a fill or a polygon, with its bounding region; returns whether any
        voxel changed there.
    on_doubt
        Called when voxels may have changed in an unknown region.
    grid
        Grid shape that regions refer to; the layer may differ in axes of length 1.
    """

    def __init__(
        self,
        layer: Labels,
        on_painted: Callable[[Region], bool],
        on_doubt: Callable[[], None],
        grid: Sequence[int],
    ) -> None:
        self.layer, self._grid = layer, tuple(grid)
        self._on_painted, self._on_doubt = on_painted, on_doubt
        self._pending: Region | None = None
        layer.events.paint.connect(self._on_paint)
        layer.events.labels_update.connect(self._on_shown)
        layer.events.set_data.connect(self._on_set_data)

    def end(self) -> None:
        """Disconnect from the layer's events."""
        self.layer.events.paint.disconnect(self._on_paint)
        self.layer.events.labels_update.disconnect(self._on_shown)
        self.layer.events.set_data.disconnect(self._on_set_data)

    def undo_regions(self) -> list[Region]:
        """Likely regions of the latest undo or redo; none where napari's history is unknown."""
        regions = []
        for name in ("_redo_history", "_undo_history"):
            history = getattr(self.layer, name, None)
            region = self._region(history[-1]) if history else whole(self._grid)
            if math.prod(s.stop - s.start for s in region) <= SYNC_SEARCH_VOXELS:
                regions.append(region)
        return regions

    def _on_paint(self, event: Any) -> None:
        region = self._region(event.value)
        if not self._on_painted(region):
            self._pending = joined(self._pending, region)
            self._on_doubt()
        elif self._pending is not None:  # a moving brush emits an event for every dab
            self._pending = joined(self._pending, region)

    def _region(self, atoms: Any) -> Region:
        shape = self.layer.data.shape
        if not same_but_singletons(shape, self._grid):  # the layer was given another array
            return whole(self._grid)
        return region_on_grid(region_of(atoms, shape), shape, self._grid)

    def _on_shown(self) -> None:
        region, self._pending = self._pending, None
        if region is not None:
            self._on_painted(region)

    def _on_set_data(self) -> None:
        self._on_doubt()


def drop_history(layer: Labels) -> None:
    """Clear napari's undo history of a layer, which happens when it becomes non-editable."""
    if layer.editable:
        mode = layer.mode
        layer.editable = False
        layer.editable = True
        with suppress(ValueError):
            layer.mode = mode


def joined(one: Region | None, other: Region) -> Region:
    """The bounding box of two regions."""
    if one is None:
        return other
    both = zip(one, other, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in both)


def region_of(atoms: Any, shape: Sequence[int]) -> Region:
    """The bounding box of a stroke; the whole grid if napari's format is unknown."""
    try:
        boxes = [_box(getattr(atom, "slice_key", None) or atom[0], shape) for atom in atoms]
    except (TypeError, IndexError, ValueError, AttributeError):
        return whole(shape)
    if not boxes or any(len(box) != len(shape) for box in boxes):
        return whole(shape)
    spans = list(zip(*boxes, strict=True))
    return tuple(slice(min(s.start for s in on), max(s.stop for s in on)) for on in spans)


def _box(key: Any, shape: Sequence[int]) -> Region:
    """Bounds of an index: slices, whole numbers or arrays of them along each axis."""
    return tuple(_span(k, size) for k, size in zip(key, shape, strict=True))


def _span(key: Any, size: int) -> slice:
    if isinstance(key, slice):
        start, stop, _ = key.indices(size)
        return slice(start, stop)
    numbers = np.asarray(key)
    if numbers.size == 0 or numbers.dtype.kind not in "iu":
        raise ValueError("no bounds")
    return slice(int(numbers.min()), int(numbers.max()) + 1)
