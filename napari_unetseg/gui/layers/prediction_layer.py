"""Prediction layer of an image, with corrections and accepted regions.

Two arrays of the image's grid, uint8: ``data`` is what the layer shows; ``shown`` is what was
written there. What the model said is in `NetworkMasks`. Where data and shown differ, somebody
changed the mask by hand since it was written; earlier corrections are in ``kept``, and all of them
in the image's `ImageAnnotations`. The layer stays the same object, so that a mask may arrive while
somebody paints; where it would leave older voxels in the undo history, the history is dropped, and
what is painted of a stroke by then is recorded, since napari reports no more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from napari_unetseg.gui.layers.alignment import place_over
from napari_unetseg.gui.layers.annotation_layer import paint_colors
from napari_unetseg.gui.layers.following import follow
from napari_unetseg.gui.layers.layer_axes import grid_shape, level0
from napari_unetseg.gui.layers.network_masks import (
    NO_NUMBERS,
    NetworkMasks,
    as_mask,
    full_region,
)
from napari_unetseg.gui.layers.paint_events import AT_ONCE, Watch, drop_history

if TYPE_CHECKING:
    from napari.components import LayerList, ViewerModel

Index = tuple[int | slice, ...]


def as_correction(values: np.ndarray) -> np.ndarray:
    """Numbers in a mask as numbers of strokes: erased voxels are background."""
    return np.where(values == 0, BACKGROUND_LABEL, values).astype(np.uint8)


class PredictionLayer:
    """Owns the prediction layer of one image.

    Parameters
    ----------
    annotated
        Takes down what people change; its strokes are none of this class's business.
    on_change
        Called with everything that was taken down.

    Attributes
    ----------
    on_doubt
        Called when something may have changed that only `search` can find.
    on_other
        Called when somebody gave the layer other data: with True if they are a mask of the image,
        whose voxels are corrections, otherwise with False and the layer, which is given up.
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
        self._watch: Watch | None = None
        self.layer: Labels | None = None

    @property
    def alive(self) -> bool:
        """Whether the layer is in the viewer."""
        return self.layer is not None and self.layer in self._viewer.layers

    @property
    def has_room(self) -> bool:
        """Whether there is room for another tile where the arrays are."""
        return has_room(self._data)

    # -- masks ---------------------------------------------------------------------------------

    def begin(
        self,
        model_id: str,
        structures: Sequence[Structure],
        numbers: Mapping[int, int] = NO_NUMBERS,
    ) -> Labels:
        """Make the layer ready for a prediction; all corrections stay.

        What another model wrote stays until its place is predicted anew, or until `finish`.

        Parameters
        ----------
        model_id, structures
            Whose masks come, and what there is in the image.
        numbers
            As `renumber` takes them.
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
        """Write a tile; what people corrected or accepted there stays."""
        region = full_region(index, self._shape)
        tile = mask.astype(np.uint8).reshape([s.stop - s.start for s in region])
        self.masks.put(region, tile)
        self._replace(region)

    def _replace(self, region: Region) -> None:
        """Show another mask in a region; a stroke that is under way there is taken down."""
        if self.catch(region):
            self._painted = True
        self._write(region)

    def _write(self, region: Region) -> None:
        """Show the network's mask, with all that people said on top.

        Where the history is dropped while somebody paints, here or elsewhere, napari tells no more
        of the stroke's beginning: it is looked for.
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
        """Show other numbers for some that the network says: 255 for background."""
        for region in self.masks.renumber(numbers):
            self._replace(region)
        self.flush()

    def _mask(self, region: Region) -> np.ndarray:
        """The network's mask, with all that people said on top, the newest last."""
        over = self.annotated.overrides(region)
        return np.where(over != 0, as_mask(over), self.masks.shown(region))

    def flush(self) -> None:
        """Show what was written."""
        if self._dirty and self.alive and self.layer is not None:
            self._refreshing = True
            self.layer.refresh(extent=False, highlight=False)
            self._refreshing = False
        self._dirty = False

    def finish(self) -> None:
        """Show the last tiles, and nothing of an earlier model beside them."""
        for region in self.masks.drop_stale():
            self._replace(region)
        self.flush()

    def bring_back(self, numbers: Mapping[int, int] = NO_NUMBERS) -> None:
        """Show the masks of the last `mark` again; what is there now is kept in their place.

        ``numbers`` are those of the model that made them, as `renumber` takes them.
        """
        for region in self.masks.bring_back(numbers):
            self._replace(region)
        self.flush()

    # -- what people say -----------------------------------------------------------------------

    def accept(self, region: Region, where: np.ndarray) -> list[AnnotationChange]:
        """Declare what is shown right; ``where`` is boolean, of the region's shape.

        What was accepted before is said again, where a newer stroke disagreed.
        """
        self.catch(region)
        accepted = self.annotated.read(LabelSource.ACCEPTED, region)
        accepted[where] = as_correction(self._data[region])[where]
        changes = self._note(LabelSource.ACCEPTED, region, accepted)
        accepted_at, painted_at = (
            self.annotated.times(o, region) for o in (LabelSource.ACCEPTED, LabelSource.STROKES)
        )
        disputed = where & (painted_at > accepted_at)
        return changes + self._tell(self.annotated.restamp(LabelSource.ACCEPTED, region, disputed))

    def read(self, region: Region) -> np.ndarray:
        """What is shown in a region, as numbers of corrections; a stroke there is taken down."""
        self.catch(region)
        return as_correction(as_mask(self._data[region]))

    def take_back(self, region: Region, where: np.ndarray) -> list[AnnotationChange]:
        """Declare nothing right any more there."""
        return self._empty(LabelSource.ACCEPTED, region, where)

    def forget(self, region: Region, where: np.ndarray) -> list[AnnotationChange]:
        """Give corrections back to the network: its own mask is shown there again."""
        return self._empty(LabelSource.CORRECTIONS, region, where)

    def _empty(
        self, origin: LabelSource, region: Region, where: np.ndarray
    ) -> list[AnnotationChange]:
        self.catch(region)
        values = self.annotated.read(origin, region)
        values[where] = 0
        changes = self._note(origin, region, values)
        self.show(origin, region)
        return changes

    def put_back(
        self, origin: LabelSource, region: Region, now: TimedValues, then: TimedValues
    ) -> None:
        """Say ``then`` where that differs from ``now`` and nothing else was said since.

        An acceptance is withdrawn altogether, also where it was corrected since.
        """
        self.catch(region)
        also = (then[0] == 0) if origin is LabelSource.ACCEPTED else False
        self._tell(self.annotated.put_back(origin, region, now, then, also=also))
        self.show(origin, region)

    def show(self, origin: LabelSource, region: Region) -> None:
        """Show what is true now after corrections or accepted regions were changed from outside.

        Undo then begins here, unless nothing that people painted is touched.
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

    def catch(self, region: Region) -> bool:
        """Take down what was changed by hand in a region; whether there was anything."""
        data, kept = self._data[region], self._kept.read(region)
        changed = data != self._shown[region]
        kept[changed] = as_correction(data[changed])
        differs = kept != self.annotated.read(LabelSource.CORRECTIONS, region)
        noted = self._note(LabelSource.CORRECTIONS, region, kept)
        if noted:
            self._correct_accepted(region, differs)
        return bool(noted)

    def _correct_accepted(self, region: Region, where: np.ndarray) -> None:
        """An accepted place that was corrected holds what is shown; accepted it was when it was."""
        accepted = self.annotated.read(LabelSource.ACCEPTED, region)
        inside = where & (accepted != 0)
        if inside.any():
            accepted[inside] = as_correction(self._data[region])[inside]
            times = self.annotated.times(LabelSource.ACCEPTED, region)
            self._tell(self.annotated.restore(LabelSource.ACCEPTED, region, accepted, times))

    def search(self) -> list[Region]:
        """Chunks that were changed and not taken down; only reads, so that any thread may ask."""
        corrections = self.annotated.grid(LabelSource.CORRECTIONS)
        grids = (self._data, self._shown, self._kept, corrections)
        planes = {plane for grid in grids for plane in planes_with(grid)}
        looked = cells_in(planes, self._shape)
        return [self._kept.region_of(c) for c in looked if self._unknown(c)]

    def settle(self, regions: Sequence[Region]) -> None:
        """Take down what `search` found: most likely an undo or a redo."""
        for region in merge_regions(regions):
            self.catch(region)

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
        return self._tell(self.annotated.record(origin, region, values))

    def _tell(self, change: AnnotationChange | None) -> list[AnnotationChange]:
        if change is None:
            return []
        self._on_change(change)
        return [change]

    # -- the layer -----------------------------------------------------------------------------

    def end(self) -> None:
        """Listen to the layer no more, as when it was deleted; what was corrected in it stays."""
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    def let_go(self) -> None:
        """Leave the layer as a mask to look at or export: its image is gone, or another one now."""
        self.end()
        if self.layer is not None:
            note = {"napari_unetseg": {"kind": "tidied"}}
            self.layer.metadata = {**self.layer.metadata, **note}
        self.layer = None

    def _new_layer(self, structures: Sequence[Structure], metadata: dict[str, Any]) -> Labels:
        """A layer over an empty mask with what people said in it."""
        self._data, self._shown = (empty_grid(self._shape) for _ in range(2))
        self.masks.clear()
        self._kept, self._painted = SparseArray(self._shape), False
        for plane in self.annotated.labelled_planes():
            region = full_region(plane, self._shape)
            self._kept.write(region, self.annotated.read(LabelSource.CORRECTIONS, region))
            self._write(region)
        self._dirty = False
        name = f"{self.image.name} · prediction"
        options: dict[str, Any] = {"opacity": 0.5, "metadata": metadata, **place_over(self.image)}
        new = Labels(self._data, name=name, **options)
        paint_colors(new, structures)
        follow(self.image, new)
        self._watch = Watch(new, self._on_painted, self._on_doubt, self._shape)
        return new

    def _drop_history(self) -> None:
        self._painted = False
        if self.layer is not None:
            drop_history(self.layer)

    def _on_painted(self, region: Region) -> bool:
        self._painted = True
        return self.catch(region)

    def _on_doubt(self) -> None:
        if self._refreshing:
            return
        layer = self.layer
        if layer is not None and level0(layer) is not self._data and not self._take_over(layer):
            return
        if self._data.size <= AT_ONCE:
            self.settle(self.search())
        else:
            self.settle(self._watch.undone() if self._watch is not None else ())
            self.on_doubt()

    def _take_over(self, layer: Labels) -> bool:
        """Somebody gave the layer another array; whether that is a mask, put into ours then."""
        data = level0(layer)
        fits = tuple(data.shape) == self._shape and all(
            0 <= np.min(data[plane]) and np.max(data[plane]) <= BACKGROUND_LABEL
            for plane in np.ndindex(*self._shape[:-2])
        )
        if fits:
            self._drop_history()  # an undo would put voxels of one array into the other
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
        """Above all images, so that strokes stay on top; what was selected stays selected."""
        layers = self._viewer.layers
        selected = set(layers.selection)
        images = [place for place, layer in enumerate(layers) if isinstance(layer, Image)]
        with _selecting(layers, not selected):
            layers.insert(max(images, default=-1) + 1, new)
        if selected and layers.selection != selected:
            layers.selection.update(selected)
            layers.selection.discard(new)


@contextmanager
def _selecting(layers: LayerList, wanted: bool) -> Iterator[None]:
    """Whether napari selects a layer that it is given, where it can be told.

    It would make the controls of the new layer and, when another one is selected again, those of
    that one too: half of the time that the first mask held the window up.
    """
    name = "_activate_on_insert"
    usual = getattr(layers, name, None)
    if usual is not None:
        setattr(layers, name, usual and wanted)
    try:
        yield
    finally:
        if usual is not None:
            setattr(layers, name, usual)
