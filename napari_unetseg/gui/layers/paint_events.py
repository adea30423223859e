"""Paint events: user edits of a Labels layer.

napari tells of a finished stroke with what it has for its undo, in a form that is its own business
and has changed before; a stroke's bounding box is read from it where the form is known. Of a fill
or a polygon it tells before the voxels change, and shows them after. An undo, a redo and data that
were assigned only tell that something may have changed, perhaps on a plane that is not on screen.
Where napari keeps what can be undone is its own business too; a look there finds an undo at once,
before anything else is painted, and where it finds none a search of the layer does.
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

AT_ONCE = 2**22
"""Voxels that are searched for changes at once; of larger grids another thread does it."""


class Watch:
    """Listens to a Labels layer until it is told to `end`.

    Parameters
    ----------
    layer
        What people paint on.
    on_painted
        Called after a stroke, a fill or a polygon, with the region that it lies in; says whether
        anything had changed there.
    on_doubt
        Called when anything may have changed anywhere.
    grid
        Shape of what regions are told of; the layer may have other axes of length 1.
    """

    def __init__(
        self,
        layer: Labels,
        on_painted: Callable[[Region], bool],
        on_doubt: Callable[[], None],
        grid: Sequence[int],
    ) -> None:
        self.layer, self._grid = layer, tuple(grid)
        self._tell, self._doubt = on_painted, on_doubt
        self._announced: Region | None = None
        layer.events.paint.connect(self._on_paint)
        layer.events.labels_update.connect(self._on_shown)
        layer.events.set_data.connect(self._on_set_data)

    def end(self) -> None:
        """Listen no more."""
        self.layer.events.paint.disconnect(self._on_paint)
        self.layer.events.labels_update.disconnect(self._on_shown)
        self.layer.events.set_data.disconnect(self._on_set_data)

    def undone(self) -> list[Region]:
        """Where an undo or a redo most likely was just now; none where napari does not tell."""
        regions = []
        for name in ("_redo_history", "_undo_history"):
            history = getattr(self.layer, name, None)
            region = self._region(history[-1]) if history else whole(self._grid)
            if math.prod(s.stop - s.start for s in region) <= AT_ONCE:
                regions.append(region)
        return regions

    def _on_paint(self, event: Any) -> None:
        region = self._region(event.value)
        if not self._tell(region):
            self._announced = joined(self._announced, region)
            self._doubt()
        elif self._announced is not None:  # a brush that moves announces dab after dab
            self._announced = joined(self._announced, region)

    def _region(self, atoms: Any) -> Region:
        shape = self.layer.data.shape
        if not same_but_singletons(shape, self._grid):  # somebody gave the layer another array
            return whole(self._grid)
        return region_on_grid(region_of(atoms, shape), shape, self._grid)

    def _on_shown(self) -> None:
        region, self._announced = self._announced, None
        if region is not None:
            self._tell(region)

    def _on_set_data(self) -> None:
        self._doubt()


def drop_history(layer: Labels) -> None:
    """Let undo begin here: napari forgets a layer's history when it cannot be edited."""
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
    """The bounding box of a stroke; the whole grid where napari tells it in an unknown form."""
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
