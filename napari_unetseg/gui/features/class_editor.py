"""Editing of structures: recolour, areas or objects, merge, delete, each one undo step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource, TimedValues
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import BACKGROUND_LABEL, OBJECT_KINDS, LabelKind
from napari_unetseg.core.text import count
from napari_unetseg.gui.services.undo_stack import UndoStep
from napari_unetseg.gui.state.refusal import refusing

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.checked_places import CheckedPlaces
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.undo_stack import UndoStack
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

UNBALANCED = 20
"""Ratio of labelled pixels of two structures above which an imbalance is reported."""


class EditableLabels(Protocol):
    """Labels of one image that can be edited."""

    annotated: ImageAnnotations

    def put_back(
        self, origin: LabelSource, region: Region, now: TimedValues, then: TimedValues
    ) -> None:
        """Write ``then`` where it differs from ``now`` and the voxels still hold ``now``."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelEdit:
    """Values of a region of one origin before and after an edit."""

    labels: EditableLabels
    origin: LabelSource
    region: Region
    before: np.ndarray
    after: np.ndarray
    times: np.ndarray
    """Time of the labels; an edit that only renumbers keeps it."""

    def redo(self) -> None:
        """Apply the edit."""
        self._replace(self.before, self.after)

    def undo(self) -> None:
        """Restore the values from before the edit."""
        self._replace(self.after, self.before)

    def _replace(self, now: np.ndarray, then: np.ndarray) -> None:
        self.labels.put_back(self.origin, self.region, (now, self.times), (then, self.times))


class ClassEditor:
    """Edits structures in the list, in labels and in masks."""

    def __init__(
        self,
        session: Session,
        annotations: Annotations,
        masks: MaskLayers,
        checked: CheckedPlaces,
        undo: UndoStack,
        events: AppEvents,
    ) -> None:
        self._session, self._annotations, self._masks = session, annotations, masks
        self._checked = checked
        self._undo, self._events = undo, events

    def recolor(self, number: int, color: str) -> None:
        """Set a structure's colour, ``#RRGGBB``, in all layers in use."""
        known = {s.number: s.color for s in self._session.structures}
        if known.get(number, color) != color:
            redo = partial(self._paint, number, color)
            undo = partial(self._paint, number, known[number])
            self._do(f"recolouring {self._name(number)}", undo, redo)

    def merge(self, number: int, into: int) -> None:
        """Merge a structure into another one in labels, corrections and masks.

        ``into`` may be 255, the background.
        """
        with refusing(self._session):
            text = f"merging {self._name(number)} into {self._name(into)}"
            self._end(text, number, into)
            self._session.say(f"Done: {text}. Train again so that the network learns it.")

    def delete(self, number: int) -> None:
        """Delete a structure and all of its labels."""
        with refusing(self._session):
            text = f"deleting {self._name(number)}"
            self._end(text, number, 0)
            self._session.say(f"Done: {text}. Undo under Correct restores it with its labels.")

    def consist_of_objects(self, number: int, objects: bool) -> None:
        """Set whether a structure consists of objects rather than of areas."""
        known = {s.number: s.objects for s in self._session.structures}
        if known.get(number, objects) == objects:
            return
        with refusing(self._session):
            if not objects and (found := self._finished(number)):
                raise UserError(
                    f"{self._name(number)} has {count(found, 'finished object')}, which would not "
                    "be learned as areas; delete them first."
                )
            redo = partial(self._set_objects, number, objects)
            undo = partial(self._set_objects, number, not objects)
            self._do(f"changing {self._name(number)}", undo, redo)

    # -- parts ---------------------------------------------------------------------------------

    def _set_objects(self, number: int, objects: bool) -> None:
        self._session.structures = tuple(
            replace(s, objects=objects) if s.number == number else s
            for s in self._session.structures
        )

    def _check_labels(self) -> None:
        if self._session.job is not None:
            raise UserError(
                "A job is running; wait until it ends or press Stop, then change the structures."
            )
        for strokes in self._annotations.strokes.values():
            if not isinstance(strokes.data, np.ndarray):
                raise UserError(
                    f"{strokes.layer.name} is read from disk lazily and cannot be changed; "
                    "duplicate the layer and use the copy as labels."
                )

    def _name(self, number: int) -> str:
        names = {s.number: s.name for s in self._session.structures} | {
            BACKGROUND_LABEL: "background"
        }
        return names.get(number, f"structure {number}")

    def _edits(self, number: int, into: int) -> list[LabelEdit]:
        edits = []
        for strokes in self._annotations.strokes.values():
            if strokes.annotated.kind in OBJECT_KINDS:
                continue
            full = strokes.annotated.kind is LabelKind.FULL
            value = 0 if full and into == BACKGROUND_LABEL else into
            edits += _replacing(strokes, LabelSource.STROKES, number, value)
        for prediction in self._masks.predictions.values():
            if into in (0, BACKGROUND_LABEL):
                edits += _without_objects(prediction, number)
            for origin in (LabelSource.CORRECTIONS, LabelSource.ACCEPTED):
                edits += _replacing(prediction, origin, number, into)
        return edits

    def _finished(self, number: int) -> int:
        """How many finished objects a structure has, in all images."""
        found = 0
        for truth in self._annotations.by_image.values():
            parts = [truth.effective_objects(r)[where] for r, where in _objects_of(truth, number)]
            found += int(np.count_nonzero(np.unique(np.concatenate(parts)))) if parts else 0
        return found

    def _do(self, text: str, undo: Callable[[], None], redo: Callable[[], None]) -> None:
        redo()
        self._undo.add(UndoStep(None, text, undo, redo))

    def _paint(self, number: int, color: str) -> None:
        self._session.structures = tuple(
            replace(s, color=color) if s.number == number else s for s in self._session.structures
        )

    def _end(self, text: str, number: int, into: int) -> None:
        """Remove a structure: all of its voxels become ``into``, 0 for none."""
        self._check_labels()
        structure = next((s for s in self._session.structures if s.number == number), None)
        if structure is None or len(self._session.structures) == 1:
            raise UserError("At least one structure is needed; add another one first.")
        edits = self._edits(number, into)
        before = self._masks.renumbering()
        after = {model: _followed(known, number, into) for model, known in before.items()}
        places = self._checked.places
        heir = next((s for s in self._session.structures if s.number == into), structure)

        def redo() -> None:
            for edit in edits:
                edit.redo()
            self._masks.renumber(after)
            self._checked.renumber(number, into)
            self._list(
                replace(s, objects=s.objects or (structure.objects and s.number == into))
                for s in self._session.structures
                if s.number != number
            )

        def undo() -> None:
            for edit in reversed(edits):
                edit.undo()
            self._masks.renumber(before)
            self._checked.restore(places)
            known = {number: structure} | {s.number: s for s in self._session.structures}
            known[heir.number] = replace(known[heir.number], objects=heir.objects)
            self._list(known[n] for n in sorted(known))

        self._do(text, undo, redo)

    def _list(self, structures: Iterable[Structure]) -> None:
        session = self._session
        session.structures = tuple(structures)
        if session.brush not in {BACKGROUND_LABEL, *(s.number for s in session.structures)}:
            session.brush = session.structures[0].number
        self._events.labels_touched.emit()


def _followed(known: Mapping[int, int], number: int, into: int) -> dict[int, int]:
    """Compose a model's renumbering with one more change of number; 0 removes it."""
    shown = into or BACKGROUND_LABEL
    return {n: shown if o == number else o for n, o in known.items()} | {number: shown}


def _replacing(labels: Any, origin: LabelSource, number: int, into: int) -> list[LabelEdit]:
    """Edits that replace one number in all labels of one origin."""
    grid, edits = labels.annotated.grid(origin), []
    for cell in grid.cells():
        chunk = grid.chunk(cell)
        if (chunk == number).any():
            after = np.where(chunk == number, into, chunk).astype(chunk.dtype)
            region = grid.region_of(cell)
            times = labels.annotated.times(origin, region)
            edits.append(LabelEdit(labels, origin, region, chunk.copy(), after, times))
    return edits


def _objects_of(annotated: ImageAnnotations, number: int) -> Iterator[tuple[Region, np.ndarray]]:
    """Chunks with finished objects of a structure, and their voxels."""
    grid = annotated.grid(LabelSource.OBJECTS)
    for cell in grid.cells():
        region = grid.region_of(cell)
        where = grid.read(region) != 0
        where &= annotated.read(LabelSource.CORRECTIONS, region) == number
        if where.any():
            yield region, where


def _without_objects(labels: EditableLabels, number: int) -> list[LabelEdit]:
    """Edits that remove the finished objects of a structure."""
    edits = []
    for region, where in _objects_of(labels.annotated, number):
        before, times = (
            read(LabelSource.OBJECTS, region)
            for read in (labels.annotated.read, labels.annotated.times)
        )
        after = np.where(where, 0, before).astype(before.dtype)
        edits.append(LabelEdit(labels, LabelSource.OBJECTS, region, before, after, times))
    return edits


def balance(counts: Mapping[int, int], structures: Sequence[Structure]) -> str:
    """Suggest in one sentence which structure to paint more of; empty if strokes are balanced.

    Parameters
    ----------
    counts
        Labelled pixels of each number, 255 for background.
    """
    names = {s.number: s.name for s in structures} | {BACKGROUND_LABEL: "background"}
    painted = {number: counts.get(number, 0) for number in names}
    if not any(painted.values()):
        return ""
    missing = [names[n] for n, count in painted.items() if not count]
    if missing:
        return f"Nothing is painted of {' and '.join(missing[:3])} yet."
    least, most = min(painted, key=painted.__getitem__), max(painted, key=painted.__getitem__)
    times = painted[most] / painted[least]
    if times < UNBALANCED:
        return ""
    return f"{names[most]} has {times:.0f} times the pixels of {names[least]}: paint more of it."
