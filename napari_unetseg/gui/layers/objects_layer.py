"""Layer of numbered objects of an image: predicted ones, with finished ones on top.

``data`` is what the layer shows and ``shown`` what was written there; where they differ, the user
has painted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.core.object_matching import keep_ids
from napari_unetseg.data.image_grids import empty_grid, has_room
from napari_unetseg.gui.layers.alignment import transform_over
from napari_unetseg.gui.layers.following import follow
from napari_unetseg.gui.layers.layer_axes import grid_shape
from napari_unetseg.gui.layers.network_masks import full_region
from napari_unetseg.gui.layers.paint_events import PaintListener, drop_history

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.annotations.sparse_array import Region

HIDDEN = 0.5
"""Fraction of a predicted object that finished ones may cover before it vanishes."""


class ObjectsLayer:
    """Owns the layer of objects of one image.

    Parameters
    ----------
    annotated
        Its finished objects and corrections.
    on_painted
        Called with a region in which the user painted, the numbers before, and those after.

    Attributes
    ----------
    layer
        The Labels layer, int32; in the viewer while `alive`.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        annotated: ImageAnnotations,
        on_painted: Callable[[Region, np.ndarray, np.ndarray], None] = lambda *_: None,
    ) -> None:
        self._viewer, self.image, self.annotated = viewer, image, annotated
        self._shape = grid_shape(image)
        self._on_painted = on_painted
        self._data, self._shown = (empty_grid(self._shape, np.int32) for _ in range(2))
        self._largest = 0
        self._writing = False
        self.layer = Labels(
            self._data,
            name=f"{image.name} · objects",
            opacity=0.5,
            metadata={"napari_unetseg": {"kind": "objects"}},
            **transform_over(image),
        )
        follow(image, self.layer)
        self._listener = PaintListener(self.layer, self._painted, self._doubt, self._shape)
        self._show_finished()
        images = [n for n, each in enumerate(viewer.layers) if isinstance(each, Image)]
        chosen = set(viewer.layers.selection)
        viewer.layers.insert(max(images, default=-1) + 1, self.layer)
        if chosen:
            viewer.layers.selection = chosen

    @property
    def alive(self) -> bool:
        """Whether the layer is in the viewer."""
        return self.layer in self._viewer.layers

    @property
    def next_id(self) -> int:
        """The next free number."""
        return self._largest + 1

    def ids(self, plane: tuple[int, ...]) -> np.ndarray:
        """The numbers of a plane or volume, int32, as shown; not to be written."""
        ids: np.ndarray = self._data[plane]
        return ids

    def count(self, plane: tuple[int, ...]) -> tuple[int, int]:
        """Objects in a plane or volume, and how many of them are finished."""
        region = full_region(plane, self._shape)
        shown = np.unique(self._data[region])
        finished = np.unique(self.annotated.read(LabelSource.OBJECTS, region))
        return int((shown > 0).sum()), int((finished > 0).sum())

    # -- what is shown -------------------------------------------------------------------------

    def show(self, plane: tuple[int, ...], ids: np.ndarray) -> None:
        """Show the predicted objects of a plane or volume; those that were there keep their number.

        Finished objects stay, and nothing is shown where the user said that there is none.
        """
        if not has_room(self._data):
            return
        region = full_region(plane, self._shape)
        shape = [s.stop - s.start for s in region]
        before, finished = self._data[region], self.annotated.read(LabelSource.OBJECTS, region)
        found = _beside(ids.reshape(shape), finished)
        found[self.annotated.overrides(region) == BACKGROUND_LABEL] = 0
        known = np.where(np.isin(before, np.unique(finished)), 0, before)
        found = keep_ids(found, known, self.next_id)
        self.write(region, np.where(finished > 0, finished.astype(np.int32), found))

    def write(self, region: Region, ids: np.ndarray) -> None:
        """Show these numbers in a region."""
        if (self._data[region] != ids).any():
            drop_history(self.layer)  # it would bring back numbers of an earlier mask
        self._data[region] = ids
        self._shown[region] = ids
        self._largest = max(self._largest, int(ids.max(initial=0)))
        self._writing = True
        self.layer.refresh(extent=False, highlight=False)
        self._writing = False

    def _show_finished(self) -> None:
        for plane in sorted(self.annotated.grid(LabelSource.OBJECTS).planes()):
            region = full_region(plane, self._shape)
            self._data[region] = self._shown[region] = self.annotated.read(
                LabelSource.OBJECTS, region
            )
            self._largest = max(self._largest, int(self._data[region].max(initial=0)))

    # -- what is painted -----------------------------------------------------------------------

    def _painted(self, region: Region) -> bool:
        now, before = self._data[region], self._shown[region]
        if (changed := now != before).any():
            self._largest = max(self._largest, int(now.max(initial=0)))
            before = before.copy()
            self._shown[region] = now
            self._on_painted(region, before, now.copy())
        return bool(changed.any())

    def _doubt(self) -> None:
        """After napari's own undo or redo."""
        if not self._writing:
            for region in self._listener.undo_regions():
                self._painted(region)

    def end(self) -> None:
        """Listen no more."""
        self._listener.end()


def _beside(ids: np.ndarray, finished: np.ndarray) -> np.ndarray:
    """Predicted objects without what finished ones cover; those that are mostly covered vanish."""
    found, index, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    index = index.reshape(ids.shape)
    covered = np.bincount(index.ravel(), (finished > 0).ravel(), len(found))
    kept = np.where((covered <= HIDDEN * sizes) & (found > 0), found, 0)[index]
    return np.where(finished > 0, 0, kept).astype(np.int32)
