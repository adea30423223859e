"""The prediction of an image in a Labels layer of its own, and what people correct in it.

Three arrays of the image's grid, uint8: ``data`` is what the layer shows; ``pristine`` is what was
written there; ``_kept`` holds the corrections of earlier predictions. What differs between data
and pristine is corrected. The layer stays the same object, so that a prediction may arrive while
somebody paints; where a tile would leave older voxels in the undo history, the history is dropped.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_unetseg.core.labels import BRUSH, Structure
from napari_unetseg.gui.grids import empty_grid, planes_of
from napari_unetseg.gui.layers.annotation import paint_colors
from napari_unetseg.gui.layers.grid import geometry, grid_shape

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["Prediction"]

Index = tuple[int | slice, ...]
Plane = tuple[int, ...]


def as_correction(values: np.ndarray) -> np.ndarray:
    """Numbers in a mask as numbers of strokes: erased voxels are background."""
    return np.where(values == 0, BRUSH, values).astype(np.uint8)


def as_mask(values: np.ndarray) -> np.ndarray:
    """Numbers of strokes as numbers in a mask."""
    return np.where(values == BRUSH, 0, values).astype(np.uint8)


class Prediction:
    """Owns the prediction layer of one image.

    Parameters
    ----------
    viewer, image
        Where the layer goes, and what it lies over.
    on_changed
        Called when the layer was painted on, or may have been.
    """

    def __init__(
        self, viewer: ViewerModel, image: Image, on_changed: Callable[[], None] = lambda: None
    ) -> None:
        self._on_changed = on_changed
        self._lock = threading.Lock()  # masks are written by the GUI thread, others may read
        self._viewer, self.image = viewer, image
        self._shape = grid_shape(image)
        self._kept = empty_grid(self._shape)
        self._data = self._pristine = empty_grid(self._shape)
        self._dirty = self._painted = self._refreshing = False
        self._written: set[Plane] = set()
        self._stale: set[Plane] = set()
        self._structures: Sequence[Structure] = ()
        self.layer: Labels | None = None
        self.model_id: str | None = None

    @property
    def alive(self) -> bool:
        """Whether the layer is in the viewer."""
        return self.layer is not None and self.layer in self._viewer.layers

    def begin(self, model_id: str, structures: Sequence[Structure]) -> Labels:
        """Make the layer ready for a prediction and keep all corrections.

        What another model wrote stays until its place is predicted anew, or until `finish`.
        """
        if model_id != self.model_id:
            self._stale = set(self._written)
        metadata = {"napari_unetseg": {"kind": "prediction", "model": model_id}}
        if self.layer is None or not self.alive:
            self.layer = self._new_layer(structures, metadata)
            self._insert_below_annotations(self.layer)
        else:
            self.layer.metadata = {**self.layer.metadata, **metadata}
            if structures != self._structures:
                paint_colors(self.layer, structures)
        self.model_id, self._structures = model_id, structures
        return self.layer

    def write(self, index: Index, mask: np.ndarray) -> None:
        """Write a tile; what people changed there stays."""
        data, pristine, kept = self._data[index], self._pristine[index], self._kept[index]
        changed = data != pristine
        if self._painted or changed.any():
            self._drop_history()
        final = mask.astype(np.uint8)
        with self._lock:
            kept[changed] = as_correction(data[changed])
            corrected = kept != 0
            final[corrected] = as_mask(kept[corrected])
            data[...] = final
            pristine[...] = final
        planes = _planes_in(index, self._shape)
        self._written.update(planes)
        self._stale.difference_update(planes)
        self._dirty = True

    def flush(self) -> None:
        """Show what was written."""
        if self._dirty and self.alive and self.layer is not None:
            self._refreshing = True
            self.layer.refresh(extent=False, highlight=False)
            self._refreshing = False
        self._dirty = False

    def finish(self) -> None:
        """Show the last tiles, and no plane of an earlier model beside them."""
        for plane in sorted(self._stale):
            self.write(plane, np.zeros(self._shape[-2:], np.uint8))
            self._written.discard(plane)
        self.flush()

    def corrections(self) -> np.ndarray | None:
        """A copy of all corrections in the numbers of strokes, in any thread; None without any."""
        out = np.zeros(self._shape, np.uint8)
        found = False
        for plane in planes_of(out):
            with self._lock:  # no mask may be written between a look at one array and the other
                data, kept = self._data[plane], self._kept[plane]
                changed = data != self._pristine[plane]
                if kept.any():
                    out[plane], found = kept, True
                if changed.any():
                    out[plane][changed], found = as_correction(data[changed]), True
        return out if found else None

    def count_corrections(self) -> int:
        """Number of corrected voxels; only reads, so that any thread may ask."""
        count = 0
        for plane in planes_of(self._kept):
            with self._lock:
                changed = self._data[plane] != self._pristine[plane]
                count += int(np.count_nonzero((self._kept[plane] != 0) | changed))
        return count

    def forget(self) -> None:
        """Take what is shown as the prediction, with no corrections."""
        self._kept = empty_grid(self._shape)
        for plane in planes_of(self._data):
            if not np.array_equal(self._pristine[plane], self._data[plane]):
                self._pristine[plane] = self._data[plane]

    def keep_deleted(self) -> None:
        """Remember the corrections of a layer that was deleted."""
        self._keep_corrections()

    def _keep_corrections(self) -> None:
        for plane in planes_of(self._data):
            data, pristine = self._data[plane], self._pristine[plane]
            changed = data != pristine
            if changed.any():
                self._kept[plane][changed] = as_correction(data[changed])
                pristine[changed] = data[changed]

    def _new_layer(self, structures: Sequence[Structure], metadata: dict[str, Any]) -> Labels:
        """A layer over an empty mask with the corrections in it."""
        self._keep_corrections()
        mask, pristine = empty_grid(self._shape), empty_grid(self._shape)
        for plane in planes_of(self._kept):
            if self._kept[plane].any():
                mask[plane] = pristine[plane] = as_mask(self._kept[plane])
        with self._lock:
            self._data, self._pristine = mask, pristine
        self._written, self._stale = set(), set()
        self._dirty = self._painted = False
        name = f"{self.image.name} · prediction"
        options: dict[str, Any] = {"opacity": 0.5, "metadata": metadata, **geometry(self.image)}
        new = Labels(self._data, name=name, **options)
        paint_colors(new, structures)
        new.events.paint.connect(self._on_paint)
        new.events.set_data.connect(self._on_layer_changed)
        return new

    def _drop_history(self) -> None:
        """Let undo begin here: napari forgets a layer's history when it cannot be edited."""
        layer, self._painted = self.layer, False
        if layer is not None and layer.editable:
            mode = layer.mode
            layer.editable = False
            layer.editable = True
            with suppress(ValueError):
                layer.mode = mode

    def _on_paint(self) -> None:
        self._painted = True
        self._on_changed()

    def _on_layer_changed(self) -> None:
        if not self._refreshing:
            self._on_changed()

    def _insert_below_annotations(self, new: Labels) -> None:
        """Above all images, so that strokes stay on top; what was selected stays selected."""
        layers = self._viewer.layers
        selected = set(layers.selection)
        images = [place for place, layer in enumerate(layers) if isinstance(layer, Image)]
        layers.insert(max(images, default=-1) + 1, new)
        if selected:
            layers.selection.update(selected)
            layers.selection.discard(new)


def _planes_in(index: Index, shape: tuple[int, ...]) -> set[Plane]:
    """The YX planes that a tile lies in."""
    spans = [
        range(*i.indices(n)) if isinstance(i, slice) else (i,)
        for i, n in zip(index[: len(shape) - 2], shape, strict=False)
    ]
    return set(itertools.product(*spans))
