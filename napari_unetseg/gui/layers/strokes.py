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
from napari_unetseg.gui.layers.paint_events import AT_ONCE, Watch, drop_history

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_unetseg.core.labels import LabelKind


class Strokes:
    """Keeps an image's `ImageAnnotations` in step with the layer that its strokes are painted in.

    Parameters
    ----------
    layer
        The annotation layer, on the image's grid; axes of length 1 make no difference.
    annotated, kind
        What is said about the image; its strokes begin anew with the layer's, of that kind.
    on_change
        Called with everything that was taken down, from the layer's beginning on.
    known
        The truth has what was painted in the layer, until somebody stopped listening to it.

    Attributes
    ----------
    on_doubt
        Called when something may have changed that only `search` can find.
    on_other
        Called when the layer was given data of another type of numbers; with False if they are of
        another shape than the image, so that nothing that is painted on them can be taken down.
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
        elif isinstance(self._data, np.ndarray):  # lazy arrays would take long to read
            for change in annotated.adopt(self._data, kind):
                on_change(change)
        self._grid = annotated.grid(LabelSource.STROKES)
        self._watch = Watch(layer, self._on_painted, self._on_doubt, annotated.shape)

    @property
    def data(self) -> Any:
        """The layer's data, at full resolution, on the image's grid."""
        return self._data

    def end(self) -> None:
        """Listen no more; what was taken down stays."""
        self._watch.end()
        self._ended = True

    @property
    def lasts(self) -> bool:
        """Whether the truth has the strokes of this layer, and not those of another one."""
        return self.annotated.grid(LabelSource.STROKES) is self._grid

    def look_again(self) -> None:
        """Take down what was painted while nobody listened."""
        self._on_doubt()

    def catch(self, region: Region) -> bool:
        """Take down what a region of the layer holds now; whether it had changed."""
        change = self.annotated.record(LabelSource.STROKES, region, np.asarray(self._data[region]))
        if change is not None:
            self._on_change(change)
        return change is not None

    def search(self) -> list[Region]:
        """Chunks that hold what was not taken down; only reads, so that any thread may ask."""
        if self._ended or not isinstance(self._data, np.ndarray):
            return []
        return list(self.annotated.grid(LabelSource.STROKES).differing(self._data))

    def settle(self, regions: Sequence[Region]) -> None:
        """Take down what `search` found: most likely an undo or a redo."""
        for region in merge_regions(regions) if not self._ended else ():
            self.catch(region)

    def put_back(
        self, origin: LabelSource, region: Region, now: TimedValues, then: TimedValues
    ) -> None:
        """Put ``then`` into the layer where that differs from ``now``, which is still there.

        Undo begins after that. Where other labels took this layer's place, nothing is done.
        """
        assert origin is LabelSource.STROKES
        if not self.lasts or level0(self.layer) is not self._source:
            return
        self.catch(region)
        change = self.annotated.put_back(origin, region, now, then)
        if change is None:
            return
        drop_history(self.layer)
        self._data[region] = change.values
        self._on_change(change)
        self.layer.refresh()

    def _on_painted(self, region: Region) -> bool:
        return level0(self.layer) is self._source and self.catch(region)

    def _on_doubt(self) -> None:
        if level0(self.layer) is not self._source and not self._take_over():
            return
        if self._data.size <= AT_ONCE:
            self.settle(self.search())
        else:
            self.settle(self._watch.undone())
            self.on_doubt()

    def _take_over(self) -> bool:
        """Somebody gave the layer another array; whether it can be followed."""
        data = level0(self.layer)
        if not same_but_singletons(data.shape, self.annotated.shape):
            self.on_other(False)
            return False
        self._source, self._data = data, on_grid(data, self.annotated.shape)
        drop_history(self.layer)  # an undo would put voxels of the old array into the new one
        if np.dtype(data.dtype).newbyteorder("=") != self._grid.dtype:
            self.annotated.retype(data.dtype)
            self._grid = self.annotated.grid(LabelSource.STROKES)
            self.on_other(True)
        return True
