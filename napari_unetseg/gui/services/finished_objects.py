"""Finished objects of images: each edit recorded with its structures in one step of undo."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.annotations.object_edits import ObjectEdit
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.services.packed_labels import PackedLabels
from napari_unetseg.gui.services.undo_stack import UndoStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_unetseg.annotations.annotation_store import AnnotationChange
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.undo_stack import UndoStack
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

ORIGINS = (LabelSource.CORRECTIONS, LabelSource.OBJECTS)
"""In the order in which they are written: what is corrected later is newer than its object."""


class FinishedObjects:
    """Records finished objects, and the structure of their voxels as corrections."""

    def __init__(
        self,
        session: Session,
        annotations: Annotations,
        masks: MaskLayers,
        undo: UndoStack,
        events: AppEvents,
    ) -> None:
        self._session, self._annotations, self._masks = session, annotations, masks
        self._undo, self._events = undo, events

    def next_id(self, image: Any) -> int:
        """A number that no finished object of an image has or had."""
        return self._annotations.of(image).next_object

    def put_objects(
        self,
        image: Any,
        edits: Sequence[ObjectEdit],
        text: str,
        structure: int | None = None,
    ) -> None:
        """Record edits of objects, as one step of undo.

        Parameters
        ----------
        image
            The image.
        edits
            As `object_edits` makes them, on the image's grid (`ObjectEdit.on_grid`). Voxels
            without an object become background.
        text
            What was done; completes "Undo …".
        structure
            Number of the objects' structure; by default the one that most of an object's voxels
            have, else the first that consists of objects.
        """
        steps = []
        for edit in edits:
            self._take_in(image, edit.region)
            before = self._state(image, edit.region)
            self._record(image, edit, structure)
            steps.append((edit.region, before, self._state(image, edit.region)))

        def undo() -> None:
            for region, before, after in reversed(steps):
                self._put_back(image, region, after, before)

        def redo() -> None:
            for region, before, after in steps:
                self._put_back(image, region, before, after)

        self._undo.add(UndoStep(image, text, undo, redo))
        self._events.labels_touched.emit()

    def finish(
        self,
        image: Any,
        region: Region,
        mask: np.ndarray,
        structure: int | None = None,
        number: int | None = None,
    ) -> int:
        """Make a mask one object, all of it.

        Parameters
        ----------
        image, region
            The image, and a region of its grid.
        mask
            The object, bool, of the region's shape.
        structure
            As for `put_objects`.
        number
            That of a finished object that is drawn anew: its other voxels become background.

        Returns
        -------
        int
            The object's number.
        """
        new = self.next_id(image) if number is None else number
        text = "finishing an object" if number is None else "drawing an object anew"
        edits = [ObjectEdit(region, np.where(mask, new, 0).astype(np.uint32), mask)]
        if number is not None:
            edits = [*self._removals(image, number), *edits]
        self.put_objects(image, edits, text, structure)
        return new

    def delete(self, image: Any, number: int) -> None:
        """Remove a finished object: it becomes background."""
        self.put_objects(image, self._removals(image, number), "deleting an object")

    # -- parts ---------------------------------------------------------------------------------

    def _removals(self, image: Any, number: int) -> list[ObjectEdit]:
        """Edits that make background of an object, chunk by chunk."""
        grid, edits = self._annotations.of(image).grid(LabelSource.OBJECTS), []
        for cell in grid.cells():
            where = np.asarray(grid.chunk(cell)) == number
            if where.any():
                edits.append(
                    ObjectEdit(grid.region_of(cell), np.zeros_like(where, np.uint32), where)
                )
        return edits

    def _record(self, image: Any, edit: ObjectEdit, structure: int | None) -> None:
        annotated, region, where = self._annotations.of(image), edit.region, edit.changed
        structures = self._structures(image, edit, structure)
        for origin, values in zip(ORIGINS, (structures, edit.ids), strict=True):
            self._publish(image, annotated.restamp(origin, region, where, values))
        self._show(image, region)

    def _structures(self, image: Any, edit: ObjectEdit, structure: int | None) -> np.ndarray:
        """The structure of each voxel after an edit, uint8; background without an object."""
        said = np.full(edit.ids.shape, BACKGROUND_LABEL, np.uint8)
        shown = self._shown(image, edit.region)
        for number in np.unique(edit.ids[edit.changed & (edit.ids > 0)]):
            where = edit.changed & (edit.ids == number)
            said[where] = structure or self._most(shown[where])
        self._consist_of_objects(np.unique(said[edit.changed]).tolist())
        return said

    def _most(self, shown: np.ndarray) -> int:
        """The structure that most voxels have; without any the first that consists of objects."""
        counts = np.bincount(shown, minlength=BACKGROUND_LABEL)[1:BACKGROUND_LABEL]
        if counts.any():
            return int(counts.argmax()) + 1
        known = self._session.structures
        return next((s.number for s in known if s.objects), known[0].number)

    def _shown(self, image: Any, region: Region) -> np.ndarray:
        """The mask on screen, else what was said of it, in numbers of corrections."""
        prediction = self._masks.predictions[image]
        return (
            prediction.read(region) if prediction.alive else prediction.annotated.overrides(region)
        )

    def _consist_of_objects(self, numbers: Sequence[int]) -> None:
        """Structures with finished objects consist of objects."""
        known = self._session.structures
        if any(s.number in numbers and not s.objects for s in known):
            self._session.structures = tuple(
                replace(s, objects=s.objects or s.number in numbers) for s in known
            )

    def _state(self, image: Any, region: Region) -> list[PackedLabels]:
        """What was said of a region so far."""
        annotated = self._annotations.of(image)
        return [
            PackedLabels(annotated.read(o, region), annotated.times(o, region)) for o in ORIGINS
        ]

    def _take_in(self, image: Any, region: Region) -> None:
        """Record what is being painted on the mask; make one where there is none to show it."""
        if image not in self._masks.predictions:
            self._masks.open(image, "", self._session.structures).close()
        self._masks.predictions[image].record(region)

    def _put_back(
        self, image: Any, region: Region, now: list[PackedLabels], then: list[PackedLabels]
    ) -> None:
        annotated = self._annotations.of(image)
        self._take_in(image, region)
        for origin, one, other in zip(ORIGINS, now, then, strict=True):
            change = annotated.put_back(origin, region, one.unpack(), other.unpack())
            self._publish(image, change)
        self._show(image, region)

    def _publish(self, image: Any, change: AnnotationChange | None) -> None:
        if change is not None:
            self._annotations.changed(image, change)

    def _show(self, image: Any, region: Region) -> None:
        self._masks.predictions[image].show(LabelSource.CORRECTIONS, region)
