"""Objects of the chosen image: painting, merging, splitting, deleting and accepting them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations import object_edits
from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.annotations.object_strokes import redrawn
from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import ObjectCount, ObjectTool

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.annotations.object_edits import ObjectEdit
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.layers import Gesture, ObjectLayer
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.finished_objects import FinishedObjects
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.object_layers import ObjectLayers
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

NO_STRUCTURE = (
    "No structure consists of objects; choose one that does under Annotate and check the box there."
)
DONE = {
    ObjectTool.PAINT: "painting an object",
    ObjectTool.MERGE: "merging objects",
    ObjectTool.SPLIT: "splitting an object",
    ObjectTool.DELETE: "deleting an object",
    ObjectTool.ACCEPT: "accepting an object",
}
"""What a tool does; completes "Undo …"."""
COUNT_SECONDS = 0.3
"""Least seconds between two counts of the objects."""


class Objects:
    """Edits the objects of the chosen image with the mouse, each edit one step of undo."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        annotations: Annotations,
        layers: ObjectLayers,
        finished: FinishedObjects,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self._annotations = viewer, session, annotations
        self._layers, self._finished, self._runner = layers, finished, runner
        self._mouse = napari_layers.GestureTool(viewer)
        self._mouse.on_gesture = self._on_gesture
        self._mouse.on_left = self._on_left
        self._counted: tuple[Any, ...] = ()
        self._stale, self._counted_at = True, 0.0
        layers.painted.connect(self._on_painted)
        layers.shown.connect(self._on_shown)
        session.events.image.connect(self._on_image, max_args=0)
        events.tick.connect(self._on_tick)
        events.closed.connect(self._mouse.drop)

    # -- tools ---------------------------------------------------------------------------------

    def choose(self, tool: ObjectTool) -> None:
        """Take a tool in the object layer; painting begins a new object each time."""
        with refusing(self._session):
            image = self._session.image
            if image is None:
                raise UserError("Open an image first.")
            if not any(s.objects for s in self._session.structures):
                raise UserError(NO_STRUCTURE)
            layer = self._layers.show(image)
            if tool is ObjectTool.PAINT:
                self._mouse.drop()
                number = self._new_number(image)
                layer.visible = True
                napari_layers.activate_brush(self._viewer, layer, number)
            elif tool is not ObjectTool.NONE:
                self._mouse.take(layer)
            self._session.object_tool = tool

    def toggle(self, tool: ObjectTool) -> None:
        """Take a tool, or put it down if it is in use."""
        if tool is self._session.object_tool and tool is not ObjectTool.PAINT:
            self._mouse.drop()
            self._session.object_tool = ObjectTool.NONE
        else:
            self.choose(tool)

    def _new_number(self, image: Any) -> int:
        """A number that no object of an image has or had."""
        return self._layers.next_id(image, self._finished.next_id(image))

    def _on_left(self) -> None:
        self._session.object_tool = ObjectTool.NONE

    def _on_image(self) -> None:
        self._mouse.drop()
        self._session.object_tool = ObjectTool.NONE
        self._stale = True

    # -- edits ---------------------------------------------------------------------------------

    def _on_gesture(self, gesture: Gesture) -> None:
        layer, tool = self._layers.current, self._session.object_tool
        if layer is None or tool not in DONE:
            return
        with refusing(self._session):
            region = layer.whole_objects(_along(layer, gesture))
            path = np.array([(*gesture.plane, *point) for point in gesture.path])
            leading = len(region) - layer.dims
            start = np.array([span.start for span in region])
            edit = self._edit(tool, layer, region, (path - start)[:, leading:])
            self._record(layer, region, edit, DONE[tool])

    def _edit(
        self, tool: ObjectTool, layer: ObjectLayer, region: Region, path: np.ndarray
    ) -> ObjectEdit:
        """The edit of a region that a tool makes."""
        ids = _flat(layer, layer.read(region))
        if tool is ObjectTool.MERGE:
            return object_edits.merge(ids, path)
        if tool is ObjectTool.SPLIT:
            return object_edits.split(ids, path, self._new_number(layer.image))
        if tool is ObjectTool.DELETE:
            return object_edits.delete(ids, path[-1])
        return object_edits.accept(ids, path[-1])

    def _on_painted(self, layer: ObjectLayer, painted: Region) -> None:
        """Record a finished stroke of napari's brush, fill or eraser."""
        leading = len(painted) - layer.dims
        for index in np.ndindex(*(span.stop - span.start for span in painted[:leading])):
            spans = (
                slice(s.start + i, s.start + i + 1)
                for s, i in zip(painted[:leading], index, strict=True)
            )
            part = (*spans, *painted[leading:])
            region = layer.whole_objects(part)
            before, now = (_flat(layer, f(region)) for f in (layer.before, layer.read))
            if (edit := redrawn(before, now)) is None:
                continue
            with refusing(self._session):
                text = "erasing" if not edit.ids.any() else DONE[ObjectTool.PAINT]
                self._record(layer, region, edit, text, self._structure(layer, edit))
            layer.settle(part)

    def _record(
        self,
        layer: ObjectLayer,
        region: Region,
        edit: ObjectEdit,
        text: str,
        structure: int | None = None,
    ) -> None:
        """Record an edit of a region, and show it."""
        leading = len(region) - layer.dims
        moved = tuple(
            slice(own.start + span.start, own.stop + span.start)
            for own, span in zip(edit.region, region[leading:], strict=True)
        )
        index = [span.start for span in region[:leading]]
        on_grid = replace(edit, region=moved).on_grid(index)
        self._finished.put_objects(layer.image, [on_grid], text, structure)
        layer.flush()
        self._session.say(f"Done: {text}. Ctrl+Z in this layer undoes it.")

    def _structure(self, layer: ObjectLayer, edit: ObjectEdit) -> int | None:
        """The structure of a new object: that of the brush; None for objects that had one."""
        brush = self._session.brush
        new = layer.layer is not None and (edit.ids == layer.layer.selected_label).any()
        able = {s.number for s in self._session.structures if s.objects}
        painting = self._session.object_tool is ObjectTool.PAINT
        return brush if new and painting and brush in able else None

    # -- counts --------------------------------------------------------------------------------

    def _on_shown(self, image: Any) -> None:
        self._stale = self._stale or image is self._session.image

    def _on_tick(self, now: float) -> None:
        painting = self._session.object_tool is ObjectTool.PAINT
        layer = self._layers.current
        if painting and (layer is None or layer.layer is None or layer.layer.mode != "paint"):
            self._session.object_tool = ObjectTool.NONE
        if now - self._counted_at > COUNT_SECONDS:
            self._count(now)

    def _count(self, now: float) -> None:
        """Count the objects of the plane on screen beside the window, if anything changed."""
        image, layer = self._session.image, self._layers.current
        if image is None or layer is None:
            self._session.objects = ObjectCount()
            return
        try:
            plane = napari_layers.plane_on_screen(self._viewer, image, layer.dims)
        except UserError:
            return
        if not self._stale and self._counted == (image, plane):
            return
        self._stale, self._counted, self._counted_at = False, (image, plane), now
        ids, said = layer.read(layer.region_of(plane)), self._annotations.of(image).snapshot()

        def count() -> ObjectCount:
            numbers = np.unique(ids)
            return ObjectCount(int((numbers > 0).sum()), len(_finished(said)))

        def settle(found: ObjectCount) -> None:
            if self._session.image is image:
                self._session.objects = found

        self._runner.query(count, settle, about="object count")


def _finished(said: ImageAnnotations) -> set[int]:
    """Numbers of the finished objects of which nothing newer says otherwise."""
    grid = said.grid(LabelSource.OBJECTS)
    parts = (np.unique(said.effective_objects(grid.region_of(cell))) for cell in grid.cells())
    return set[int]().union(*(part.tolist() for part in parts)) - {0}


def _along(layer: ObjectLayer, gesture: Gesture) -> Region:
    """Bounding box of a gesture in a layer's grid."""
    shape = layer.shape
    low, high = np.floor(gesture.path.min(0)).astype(int), np.ceil(gesture.path.max(0)).astype(int)
    spans = (
        slice(min(max(0, int(a)), n - 1), max(1, min(n, int(b) + 1)))
        for a, b, n in zip(low, high, shape[-2:], strict=True)
    )
    return (*(slice(i, i + 1) for i in gesture.plane), *spans)


def _flat(layer: ObjectLayer, ids: np.ndarray) -> np.ndarray:
    """Numbers of a region of one plane or volume, without the axes before."""
    return ids.reshape(ids.shape[ids.ndim - layer.dims :])
