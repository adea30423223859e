"""Recording of strokes in an annotation layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
    TimedValues,
)
from napari_unetseg.annotations.sparse_array import Region, merge_regions
from napari_unetseg.core.singleton_axes import on_grid, same_but_singletons
from napari_unetseg.gui.layers.layer_axes import level0
from napari_unetseg.gui.layers.paint_events import SYNC_SEARCH_VOXELS, PaintListener, drop_history

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_unetseg.core.labels import LabelKind


class Strokes:
    """Records the strokes of an annotation layer in the image's `ImageAnnotations`.

    Parameters
    ----------
    layer
        The annotation layer, on the image's grid; axes of length 1 are ignored.
    annotated, kind
        The image's annotations, whose strokes are replaced by the layer's, of that kind.
    on_change
        Called with every recorded change, including the initial content of the layer.
    known
        The annotations already contain the layer's strokes, except unrecorded recent ones.

    Attributes
    ----------
    on_doubt
        Called when there may be changes that only `search` can find.
    on_other
        Called when the layer was assigned data of another dtype; with False if their shape differs
        from the image's, so that nothing painted on them can be recorded.
    """

    def __init__(
        self,
        layer: Labels,
        annotated: ImageAnnotations,
        kind: LabelKind,
        on_change: Callable[[AnnotationChange], None] = lambda _: None,
        *,
        known: bool = False,
    ) -> None:
        self.layer, self.annotated = layer, annotated
        self.on_doubt: Callable[[], None] = lambda: None
        self.on_other: Callable[[bool], None] = lambda _: None
        self._source = level0(layer)
        self._data = on_grid(self._source, annotated.shape)
        self._on_change = on_change
        self._ended = False
        if known:
            annotated.enable_strokes()
        elif isinstance(self._data, np.ndarray):  # reading a whole lazy array would take long
            for change in annotated.adopt(self._data, kind):
                on_change(change)
        self._grid = annotated.grid(LabelSource.STROKES)
        self._listener = PaintListener(layer, self._on_painted, self._on_doubt, annotated.shape)

    @property
    def data(self) -> Any:
        """The layer's data, at full resolution, on the image's grid."""
        return self._data

    def end(self) -> None:
        """Disconnect from the layer; recorded strokes are kept."""
        self._listener.end()
        self._ended = True

    @property
    def lasts(self) -> bool:
        """Whether the annotations still hold the strokes of this layer, not of another one."""
        return self.annotated.grid(LabelSource.STROKES) is self._grid

    def look_again(self) -> None:
        """Record what was painted while the layer was not listened to."""
        self._on_doubt()

    def record(self, region: Region) -> bool:
        """Record the current labels of a region; return whether they changed."""
        change = self.annotated.record(LabelSource.STROKES, region, np.asarray(self._data[region]))
        if change is not None:
            self._on_change(change)
        return change is not None

    def search(self) -> list[Region]:
        """Chunks with unrecorded changes; read-only, for any thread."""
        if self._ended or not isinstance(self._data, np.ndarray):
            return []
        return list(self.annotated.grid(LabelSource.STROKES).differing(self._data))

    def settle(self, regions: Sequence[Region]) -> None:
        """Record the changes that `search` found, most likely of an undo or a redo."""
        for region in merge_regions(regions) if not self._ended else ():
            self.record(region)

    def put_back(
        self, origin: LabelSource, region: Region, now: TimedValues, then: TimedValues
    ) -> None:
        """Write ``then`` into the layer where it differs from ``now`` and is unchanged since.

        napari's undo history is dropped. Nothing happens if other labels replaced this layer.
        """
        assert origin is LabelSource.STROKES
        if not self.lasts or level0(self.layer) is not self._source:
            return
        self.record(region)
        change = self.annotated.put_back(origin, region, now, then)
        if change is None:
            return
        drop_history(self.layer)
        self._data[region] = change.values
        self._on_change(change)
        self.layer.refresh()

    def _on_painted(self, region: Region) -> bool:
        return level0(self.layer) is self._source and self.record(region)

    def _on_doubt(self) -> None:
        if level0(self.layer) is not self._source and not self._adopt_data():
            return
        if self._data.size <= SYNC_SEARCH_VOXELS:
            self.settle(self.search())
        else:
            self.settle(self._listener.undo_regions())
            self.on_doubt()

    def _adopt_data(self) -> bool:
        """Handle an array assigned to the layer; return whether its strokes can be recorded."""
        data = level0(self.layer)
        if not same_but_singletons(data.shape, self.annotated.shape):
            self.on_other(False)
            return False
        self._source, self._data = data, on_grid(data, self.annotated.shape)
        drop_history(self.layer)  # undo would write voxels of the old array into the new one
        if np.dtype(data.dtype).newbyteorder("=") != self._grid.dtype:
            self.annotated.retype(data.dtype)
            self._grid = self.annotated.grid(LabelSource.STROKES)
            self.on_other(True)
        return True
