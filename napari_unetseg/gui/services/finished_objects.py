"""Finished objects of an image: recorded with their structure, in one step of undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.services.packed_labels import PackedLabels
from napari_unetseg.gui.services.undo_stack import UndoStep

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.annotations.object_edits import ObjectEdit
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.undo_stack import UndoStack
    from napari_unetseg.gui.state.app_events import AppEvents

ORIGINS = (LabelSource.OBJECTS, LabelSource.CORRECTIONS)


class FinishedObjects:
    """Records finished objects, and the structure of their voxels as corrections.

    Parameters
    ----------
    on_recorded
        Called with an image and a region of it after corrections changed there.
    """

    def __init__(
        self,
        annotations: Annotations,
        undo: UndoStack,
        events: AppEvents,
        on_recorded: Callable[[Image, Region], None] = lambda *_: None,
    ) -> None:
        self._annotations, self._undo, self._events = annotations, undo, events
        self._on_recorded = on_recorded

    def apply(
        self,
        image: Image,
        plane: tuple[int, ...],
        edit: ObjectEdit,
        structure: int,
        text: str,
        show: Callable[[Region, np.ndarray], None],
        before: np.ndarray,
    ) -> None:
        """Finish the objects of an edit.

        Parameters
        ----------
        image, plane
            The image, and the index of the plane or volume that the edit is of.
        structure
            Number of the structure of its objects.
        text
            What was done, for *Undo …*.
        show
            Shows numbers in a region of the image's grid.
        before
            Numbers that were shown in the edit's region before.
        """
        annotated = self._annotations.of(image)
        region = (*(slice(i, i + 1) for i in plane), *edit.region)
        shape = [s.stop - s.start for s in region]
        ids, changed = edit.ids.reshape(shape), edit.changed.reshape(shape)
        then = _packed(annotated, region)
        finished = annotated.read(LabelSource.OBJECTS, region)
        finished[changed] = ids[changed]
        corrections = annotated.read(LabelSource.CORRECTIONS, region)
        corrections[changed] = np.where(ids[changed] > 0, structure, BACKGROUND_LABEL)
        for origin, values in zip(ORIGINS, (finished, corrections), strict=True):
            if (change := annotated.record(origin, region, values)) is not None:
                self._annotations.changed(image, change)
        now = _packed(annotated, region)
        after, earlier = ids.copy(), before.reshape(shape).copy()
        show(region, after)
        self._on_recorded(image, region)

        def go(one: list[PackedLabels], other: list[PackedLabels], shown: np.ndarray) -> None:
            for origin, held, wanted in zip(ORIGINS, one, other, strict=True):
                values, stamps = wanted.unpack()
                back = annotated.put_back(origin, region, held.unpack(), (values, stamps))
                if back is not None:
                    self._annotations.changed(image, back)
            show(region, shown)
            self._on_recorded(image, region)

        self._undo.add(
            UndoStep(
                image,
                text,
                undo=lambda: go(now, then, earlier),
                redo=lambda: go(then, now, after),
            )
        )
        self._events.labels_touched.emit()


def _packed(annotated: ImageAnnotations, region: Region) -> list[PackedLabels]:
    return [PackedLabels(annotated.read(o, region), annotated.times(o, region)) for o in ORIGINS]
