"""Object layer of an image: predicted objects with their numbers, and finished ones on top.

Two arrays of the image's grid, uint32: ``data`` is what the layer shows, ``shown`` what was written
there. Where they differ the user has painted. Predicted numbers are in ``found``, finished objects
in the image's `ImageAnnotations`; the layer itself records nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.gui.layers.alignment import transform_over
from napari_unetseg.gui.layers.following import follow
from napari_unetseg.gui.layers.layer_axes import grid_shape, level0
from napari_unetseg.gui.layers.network_masks import full_region
from napari_unetseg.gui.layers.object_composition import composed
from napari_unetseg.gui.layers.paint_events import PaintListener
from napari_unetseg.gui.layers.visibility import insert_unselected

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.annotations.sparse_array import Region

MARGIN = 128
"""Voxels around a change in which objects are shown anew: an object that reaches farther is judged
by its part there."""


class ObjectLayer:
    """Owns the object layer of one image.

    Parameters
    ----------
    annotated
        Has the finished objects, and corrections, which hide predicted ones.

    Attributes
    ----------
    on_painted
        Called with a region that the user painted; whoever records it then calls `settle`.
    on_undo, on_redo
        Called for napari's keys of them in this layer, in the place of its own history of strokes.
    highest
        Highest number that was given to an object.
    """

    def __init__(self, viewer: ViewerModel, image: Image, annotated: ImageAnnotations) -> None:
        self._viewer, self.image, self.annotated = viewer, image, annotated
        self._shape = grid_shape(image)
        self.on_painted: Callable[[Region], None] = lambda _: None
        self._data, self._shown, self._found = (empty_grid(self._shape, np.uint32) for _ in "dsf")
        self.on_undo: Callable[[], None] = lambda: None
        self.on_redo: Callable[[], None] = lambda: None
        self._structures: tuple[int, ...] = ()
        self._dims = 2
        self._dirty = self._refreshing = False
        self._listener: PaintListener | None = None
        self.highest = 0
        self.layer: Labels | None = None

    @property
    def alive(self) -> bool:
        """Whether the layer is in the viewer."""
        return self.layer is not None and self.layer in self._viewer.layers

    def region_of(self, index: tuple[int | slice, ...]) -> Region:
        """An index of the image's grid as slices along every axis."""
        return full_region(index, self._shape)

    def show(self, below: Labels | None) -> Labels:
        """Add the layer, above another one if that is in the viewer."""
        if self.layer is not None and self.alive:
            return self.layer
        layers = self._viewer.layers
        self.layer = layer = self._new_layer()
        place = layers.index(below) + 1 if below is not None and below in layers else len(layers)
        insert_unselected(self._viewer, place, layer)
        return layer

    def _new_layer(self) -> Labels:
        self._data, self._shown = (empty_grid(self._shape, np.uint32) for _ in "ds")
        for region in self._known_regions():
            self.renew(region)
        layer = Labels(
            self._data,
            name=f"{self.image.name} · objects",
            opacity=0.6,
            metadata={"napari_unetseg": {"kind": "objects"}},
            **transform_over(self.image),
        )
        layer.bind_key("Control-Z", lambda _: self.on_undo(), overwrite=True)
        layer.bind_key("Control-Shift-Z", lambda _: self.on_redo(), overwrite=True)
        follow(self.image, layer)
        self._dirty = False
        self._listener = PaintListener(layer, self._on_painted, self._on_doubt, self._shape)
        return layer

    def _known_regions(self) -> list[Region]:
        """Planes with finished or predicted objects."""
        planes = self.annotated.grid(LabelSource.OBJECTS).planes()
        found = {p for p in np.ndindex(*self._shape[:-2]) if self.highest and self._found[p].any()}
        return [full_region(plane, self._shape) for plane in sorted(planes | found)]

    # -- what is shown -------------------------------------------------------------------------

    def predicted(self, region: Region) -> np.ndarray:
        """A copy of the predicted numbers of a region, uint32."""
        return np.array(self._found[region])

    def put(
        self,
        region: Region,
        ids: np.ndarray,
        structures: Sequence[int],
        dims: int,
        composed: np.ndarray | None = None,
    ) -> None:
        """Show predicted objects.

        Parameters
        ----------
        region, ids
            Where they are, and their numbers, which no other object of the image may have.
        structures
            Numbers of those that consist of objects.
        dims
            2 for objects of planes, 3 for objects of volumes.
        composed
            What `composed` makes of them, if that is known and the annotations are as they were.
        """
        self._structures, self._dims = tuple(structures), dims
        self._found[region] = ids.reshape([s.stop - s.start for s in region])
        self.highest = max(self.highest, int(ids.max(initial=0)))
        self._write(region, composed)

    def renew(self, region: Region) -> None:
        """Show a region anew after its annotations changed."""
        self._write(self._around(region))

    def settle(self, region: Region) -> None:
        """Show a region anew after what was painted there was recorded, or refused."""
        self._shown[region] = self._data[region]
        self.renew(region)
        self.flush()

    def whole_objects(self, region: Region) -> Region:
        """A larger region in which the objects of a region are whole, as on screen."""
        near = self._around(region)
        numbers = np.union1d(self._data[region], self._shown[region])
        rims = [
            self._data[(*near[:axis], slice(at, at + 1), *near[axis + 1 :])]
            for axis in range(self._leading, len(near))
            for at, end in ((near[axis].start, 0), (near[axis].stop - 1, self._shape[axis] - 1))
            if at != end
        ]
        if any(np.isin(numbers[numbers > 0], rim).any() for rim in rims):
            return self.region_of(tuple(span.start for span in region[: self._leading]))
        return near

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the image's grid."""
        return self._shape

    @property
    def _leading(self) -> int:
        """Axes of the grid before those of a plane or volume."""
        return len(self._shape) - self._dims

    @property
    def dims(self) -> int:
        """2 for objects of planes, 3 for objects of volumes."""
        return self._dims

    def _around(self, region: Region) -> Region:
        """A region with its surroundings, on its plane or volume."""
        near = (
            slice(max(0, s.start - MARGIN), min(n, s.stop + MARGIN))
            for s, n in zip(region[self._leading :], self._shape[self._leading :], strict=True)
        )
        return (*region[: self._leading], *near)

    def _write(self, region: Region, composed: np.ndarray | None = None) -> None:
        """Show a region; a stroke in progress stays on the canvas."""
        data, shown = self._data[region], self._shown[region]
        final = self._composed(region) if composed is None else composed
        painting = data != shown
        shown[...] = final
        if painting.any():
            final[painting] = data[painting]
        data[...] = final
        self._dirty = True

    def _composed(self, region: Region) -> np.ndarray:
        return composed(self.annotated, region, self._found[region], self._structures, self._dims)

    def flush(self) -> None:
        """Redraw the layer after writing."""
        if self._dirty and self.alive and self.layer is not None:
            self._refreshing = True
            self.layer.refresh(extent=False, highlight=False)
            self._refreshing = False
        self._dirty = False

    def read(self, region: Region) -> np.ndarray:
        """A copy of the numbers on screen, uint32."""
        return np.array(self._data[region])

    def before(self, region: Region) -> np.ndarray:
        """A copy of the numbers before the user painted, uint32."""
        return np.array(self._shown[region])

    # -- painting ------------------------------------------------------------------------------

    def _on_painted(self, region: Region) -> bool:
        changed = bool((self._data[region] != self._shown[region]).any())
        if changed:
            self.on_painted(region)
        return changed

    def _on_doubt(self) -> None:
        layer = self.layer
        if self._refreshing or layer is None:
            return
        if level0(layer) is not self._data and not self._adopt_data(layer):
            return
        for region in self._known_regions():
            self._on_painted(region)

    def _adopt_data(self, layer: Labels) -> bool:
        """Take over an array that was assigned to the layer; False if it does not fit."""
        data = level0(layer)
        if tuple(data.shape) != self._shape:
            self.release()
            return False
        self._data[...] = data
        self._refreshing = True
        layer.data = self._data
        self._refreshing = False
        return True

    def end(self) -> None:
        """Disconnect from the layer, for example after it was deleted."""
        if self._listener is not None:
            self._listener.end()
            self._listener = None

    def release(self) -> None:
        """Leave the layer as plain labels, as its image was removed or its data replaced."""
        self.end()
        if self.layer is not None:
            note = {"napari_unetseg": {"kind": "tidied"}}
            with suppress(AttributeError):
                self.layer.metadata = {**self.layer.metadata, **note}
        self.layer = None
