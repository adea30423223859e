"""Prediction layer of an image, with corrections and accepted regions.

Two arrays of the image's grid, uint8: ``data`` is what the layer shows; ``shown`` is what was
written there. The model's masks are in `NetworkMasks`. Where data and shown differ, the user has
changed the mask since it was written; earlier corrections are in ``kept``, and all of them in the
image's `ImageAnnotations`. The layer stays the same object, so that a mask may arrive while the
user paints; if the undo history would restore outdated voxels, it is dropped, and the part of a
stroke painted by then is recorded, since napari emits no event for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
    TimedValues,
)
from napari_unetseg.annotations.sparse_array import (
    Cell,
    Region,
    SparseArray,
    cells_in,
    merge_regions,
    planes_with,
)
from napari_unetseg.core.labels import BACKGROUND_LABEL, Structure
from napari_unetseg.data.image_grids import empty_grid, has_room
from napari_unetseg.gui.layers.alignment import transform_over
from napari_unetseg.gui.layers.annotation_layer import paint_colors
from napari_unetseg.gui.layers.following import follow
from napari_unetseg.gui.layers.layer_axes import grid_shape, level0
from napari_unetseg.gui.layers.network_masks import (
    NO_NUMBERS,
    NetworkMasks,
    as_mask,
    full_region,
)
from napari_unetseg.gui.layers.paint_events import SYNC_SEARCH_VOXELS, PaintListener, drop_history
from napari_unetseg.gui.layers.visibility import insert_unselected

if TYPE_CHECKING:
    from napari.components import ViewerModel

Index = tuple[int | slice, ...]


def as_correction(values: np.ndarray) -> np.ndarray:
    """Values of a mask as label values of strokes: erased voxels are background."""
    return np.where(values == 0, BACKGROUND_LABEL, values).astype(np.uint8)


class PredictionLayer:
    """Owns the prediction layer of one image.

    Parameters
    ----------
    annotated
        Records the user's corrections; its strokes are not used here.
    on_change
        Called with every recorded change.

    Attributes
    ----------
    on_doubt
        Called when there may be changes that only `search` can find.
    on_other
        Called when the layer's data were replaced: with True if they are a mask of the image, which
        is recorded as corrections, otherwise with False and the layer, which is released.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        annotated: ImageAnnotations | None = None,
        on_change: Callable[[AnnotationChange], None] = lambda _: None,
    ) -> None:
        self._viewer, self.image = viewer, image
        self._shape = grid_shape(image)
        self.annotated = annotated or ImageAnnotations(self._shape)
        self._on_change = on_change
        self.on_doubt: Callable[[], None] = lambda: None
        self.on_other: Callable[[bool, Labels], None] = lambda *_: None
        self._data, self._shown = (empty_grid(self._shape) for _ in range(2))
        self.masks = NetworkMasks(self._shape)
        self._kept = SparseArray(self._shape)
        self._painted = self._refreshing = self._dirty = False
        self._structures: Sequence[Structure] = ()
        self._listener: PaintListener | None = None
        self.layer: Labels | None = None

    @property
    def alive(self) -> bool:
        """Whether the layer is in the viewer."""
        return self.layer is not None and self.layer in self._viewer.layers

    @property
    def has_room(self) -> bool:
        """Whether the disk of the arrays has room for another tile."""
        return has_room(self._data)

    # -- masks ---------------------------------------------------------------------------------

    def begin(
        self,
        model_id: str,
        structures: Sequence[Structure],
        numbers: Mapping[int, int] = NO_NUMBERS,
    ) -> Labels:
        """Prepare the layer for a prediction; all corrections are kept.

        Another model's mask stays until it is overwritten, or until `finish`.

        Parameters
        ----------
        model_id, structures
            The model of the next tiles, and its structures.
        numbers
            As for `renumber`.
        """
        self.masks.begin(model_id, numbers)
        metadata = {"napari_unetseg": {"kind": "prediction", "model": model_id}}
        if self.layer is None or not self.alive:
            self.layer = self._new_layer(structures, metadata)
            self._insert_below_annotations(self.layer)
        else:
            self.layer.metadata = {**self.layer.metadata, **metadata}
            if structures != self._structures:
                paint_colors(self.layer, structures)
        self._structures = structures
        return self.layer

    def write(self, index: Index, mask: np.ndarray) -> None:
        """Write a tile, except where voxels were corrected or accepted."""
        region = full_region(index, self._shape)
        tile = mask.astype(np.uint8).reshape([s.stop - s.start for s in region])
        self.masks.put(region, tile)
        self._replace(region)

    def _replace(self, region: Region) -> None:
        """Show another mask in a region; a stroke being painted there is recorded first."""
        if self.record(region):
            self._painted = True
        self._write(region)

    def _write(self, region: Region) -> None:
        """Show the network's mask with corrections and accepted voxels on top.

        If the history is dropped during a stroke, here or elsewhere, napari emits no event for the
        part painted so far: it is searched for.
        """
        data, shown, final = self._data[region], self._shown[region], self._mask(region)
        dropped = (data != shown).any() or (self._painted and (final != shown).any())
        if dropped:
            self._drop_history()
        self._kept.write(region, self.annotated.read(LabelSource.CORRECTIONS, region))
        data[...] = final
        shown[...] = final
        self._dirty = True
        if dropped:
            self._on_doubt()

    def renumber(self, numbers: Mapping[int, int]) -> None:
        """Map some of the network's numbers to others, 255 for background."""
        for region in self.masks.renumber(numbers):
            self._replace(region)
        self.flush()

    def _mask(self, region: Region) -> np.ndarray:
        """The network's mask with corrections and accepted voxels on top, the newest last."""
        over = self.annotated.overrides(region)
        return np.where(over != 0, as_mask(over), self.masks.shown(region))

    def flush(self) -> None:
        """Redraw the layer after writing."""
        if self._dirty and self.alive and self.layer is not None:
            self._refreshing = True
            self.layer.refresh(extent=False, highlight=False)
            self._refreshing = False
        self._dirty = False

    def finish(self) -> None:
        """Redraw the last tiles, and remove an earlier model's mask beside them."""
        for region in self.masks.drop_stale():
            self._replace(region)
        self.flush()

    def bring_back(self, numbers: Mapping[int, int] = NO_NUMBERS) -> None:
        """Show the masks of the last `mark` again, and keep the current ones in their place.

        ``numbers`` is the renumbering of the earlier model, as for `renumber`.
        """
        for region in self.masks.bring_back(numbers):
            self._replace(region)
        self.flush()

    # -- what people say -----------------------------------------------------------------------

    def accept(self, region: Region, where: np.ndarray) -> list[AnnotationChange]:
        """Accept the shown mask; ``where`` is boolean, of the region's shape.

        Voxels that were accepted before get a new time where a newer stroke disagrees.
        """
        self.record(region)
        accepted = self.annotated.read(LabelSource.ACCEPTED, region)
        accepted[where] = as_correction(self._data[region])[where]
        changes = self._note(LabelSource.ACCEPTED, region, accepted)
        accepted_at, painted_at = (
            self.annotated.times(o, region) for o in (LabelSource.ACCEPTED, LabelSource.STROKES)
        )
        disputed = where & (painted_at > accepted_at)
        return changes + self._publish(
            self.annotated.restamp(LabelSource.ACCEPTED, region, disputed)
        )

    def read(self, region: Region) -> np.ndarray:
        """The mask as shown in a region, in numbers of corrections; records a stroke there."""
        self.record(region)
        return as_correction(as_mask(self._data[region]))

    def withdraw(self, region: Region, where: np.ndarray) -> list[AnnotationChange]:
        """Withdraw the acceptance of voxels."""
        return self._empty(LabelSource.ACCEPTED, region, where)

    def drop_corrections(self, region: Region, where: np.ndarray) -> list[AnnotationChange]:
        """Drop corrections of voxels: the network's mask is shown there again."""
        return self._empty(LabelSource.CORRECTIONS, region, where)

    def _empty(
        self, origin: LabelSource, region: Region, where: np.ndarray
    ) -> list[AnnotationChange]:
        self.record(region)
        values = self.annotated.read(origin, region)
        values[where] = 0
        changes = self._note(origin, region, values)
        self.show(origin, region)
        return changes

    def put_back(
        self, origin: LabelSource, region: Region, now: TimedValues, then: TimedValues
    ) -> None:
        """Write ``then`` where it differs from ``now`` and the voxels were not changed since.

        Undoing an acceptance withdraws it, also where voxels were corrected since.
        """
        self.record(region)
        also = (then[0] == 0) if origin is LabelSource.ACCEPTED else False
        self._publish(self.annotated.put_back(origin, region, now, then, also=also))
        self.show(origin, region)

    def show(self, origin: LabelSource, region: Region) -> None:
        """Redraw a region after its corrections or acceptance were changed from outside.

        The undo history is dropped, unless no painted voxel changes.
        """
        if origin is LabelSource.ACCEPTED and np.array_equal(
            as_mask(self._data[region]), self._mask(region)
        ):
            return
        if self._painted:
            self._drop_history()
        self._shown[region] = self._data[region]
        self._write(region)
        self.flush()

    def record(self, region: Region) -> bool:
        """Record the user's changes in a region; return whether there were any."""
        data, kept = self._data[region], self._kept.read(region)
        changed = data != self._shown[region]
        kept[changed] = as_correction(data[changed])
        differs = kept != self.annotated.read(LabelSource.CORRECTIONS, region)
        noted = self._note(LabelSource.CORRECTIONS, region, kept)
        if noted:
            self._correct_accepted(region, differs)
        return bool(noted)

    def _correct_accepted(self, region: Region, where: np.ndarray) -> None:
        """Set accepted voxels that were corrected to the shown value; keep their times."""
        accepted = self.annotated.read(LabelSource.ACCEPTED, region)
        inside = where & (accepted != 0)
        if inside.any():
            accepted[inside] = as_correction(self._data[region])[inside]
            times = self.annotated.times(LabelSource.ACCEPTED, region)
            self._publish(self.annotated.restore(LabelSource.ACCEPTED, region, accepted, times))

    def search(self) -> list[Region]:
        """Chunks with unrecorded changes; read-only, for any thread."""
        corrections = self.annotated.grid(LabelSource.CORRECTIONS)
        grids = (self._data, self._shown, self._kept, corrections)
        planes = {plane for grid in grids for plane in planes_with(grid)}
        looked = cells_in(planes, self._shape)
        return [self._kept.region_of(c) for c in looked if self._unknown(c)]

    def settle(self, regions: Sequence[Region]) -> None:
        """Record the changes that `search` found, most likely of an undo or a redo."""
        for region in merge_regions(regions):
            self.record(region)

    def _unknown(self, cell: Cell) -> bool:
        region = self._kept.region_of(cell)
        data, shown, kept = self._data[region], self._shown[region], self._kept.chunk(cell)
        if np.array_equal(data, shown) and kept is None:
            return self.annotated.grid(LabelSource.CORRECTIONS).chunk(cell) is not None
        now = np.where(data != shown, as_correction(data), 0 if kept is None else kept)
        return not np.array_equal(now, self.annotated.read(LabelSource.CORRECTIONS, region))

    def _note(
        self, origin: LabelSource, region: Region, values: np.ndarray
    ) -> list[AnnotationChange]:
        return self._publish(self.annotated.record(origin, region, values))

    def _publish(self, change: AnnotationChange | None) -> list[AnnotationChange]:
        if change is None:
            return []
        self._on_change(change)
        return [change]

    # -- the layer -----------------------------------------------------------------------------

    def end(self) -> None:
        """Disconnect from the layer, for example after it was deleted; corrections are kept."""
        if self._listener is not None:
            self._listener.end()
            self._listener = None

    def release_layer(self) -> None:
        """Leave the layer as a plain mask, as its image was removed or replaced."""
        self.end()
        if self.layer is not None:
            note = {"napari_unetseg": {"kind": "tidied"}}
            self.layer.metadata = {**self.layer.metadata, **note}
        self.layer = None

    def _new_layer(self, structures: Sequence[Structure], metadata: dict[str, Any]) -> Labels:
        """A layer over an empty mask with the image's corrections and accepted voxels."""
        self._data, self._shown = (empty_grid(self._shape) for _ in range(2))
        self.masks.clear()
        self._kept, self._painted = SparseArray(self._shape), False
        for plane in self.annotated.labelled_planes():
            region = full_region(plane, self._shape)
            self._kept.write(region, self.annotated.read(LabelSource.CORRECTIONS, region))
            self._write(region)
        self._dirty = False
        name = f"{self.image.name} · prediction"
        options: dict[str, Any] = {
            "opacity": 0.5,
            "metadata": metadata,
            **transform_over(self.image),
        }
        new = Labels(self._data, name=name, **options)
        paint_colors(new, structures)
        follow(self.image, new)
        self._listener = PaintListener(new, self._on_painted, self._on_doubt, self._shape)
        return new

    def _drop_history(self) -> None:
        self._painted = False
        if self.layer is not None:
            drop_history(self.layer)

    def _on_painted(self, region: Region) -> bool:
        self._painted = True
        return self.record(region)

    def _on_doubt(self) -> None:
        if self._refreshing:
            return
        layer = self.layer
        if layer is not None and level0(layer) is not self._data and not self._adopt_data(layer):
            return
        if self._data.size <= SYNC_SEARCH_VOXELS:
            self.settle(self.search())
        else:
            self.settle(self._listener.undo_regions() if self._listener is not None else ())
            self.on_doubt()

    def _adopt_data(self, layer: Labels) -> bool:
        """Handle an array assigned to the layer; return whether it is a valid mask."""
        data = level0(layer)
        fits = tuple(data.shape) == self._shape and all(
            0 <= np.min(data[plane]) and np.max(data[plane]) <= BACKGROUND_LABEL
            for plane in np.ndindex(*self._shape[:-2])
        )
        if fits:
            self._drop_history()  # undo would write voxels of one array into the other
            for plane in np.ndindex(*self._shape[:-2]):
                self._data[plane] = data[plane]
            self._refreshing = True
            layer.data = self._data
            self._refreshing = False
        else:
            self.end()
            layer.metadata = {k: v for k, v in layer.metadata.items() if k != "napari_unetseg"}
            self.layer = None
        self.on_other(fits, layer)
        return fits

    def _insert_below_annotations(self, new: Labels) -> None:
        """Insert above all images, so that strokes stay on top; keep the selection."""
        layers = self._viewer.layers
        images = [place for place, layer in enumerate(layers) if isinstance(layer, Image)]
        insert_unselected(self._viewer, max(images, default=-1) + 1, new)
