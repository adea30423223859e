"""Objects on screen: numbered ones of each mask, and corrections by one stroke each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations import object_edits
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, ObjectsFound
from napari_unetseg.core.settings import ObjectSettings
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level, ObjectTool
from napari_unetseg.jobs.live_predictor import MaskStarted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.annotations.object_edits import ObjectEdit
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.layers import ObjectsLayer
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.finished_objects import FinishedObjects
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

NO_OBJECTS = (
    "There are no objects yet: tick 'consists of objects' for a structure, then Train or Predict."
)
NOTHING_HIT = {
    ObjectTool.MERGE: "The line touches fewer than two objects; drag it across all to be merged.",
    ObjectTool.SPLIT: "The line cuts no object through; drag it right across one.",
    ObjectTool.DELETE: "There is no object there; click on one.",
    ObjectTool.ACCEPT: "There is no object there; click on one.",
}
DONE = {
    ObjectTool.MERGE: "merging objects",
    ObjectTool.SPLIT: "splitting an object",
    ObjectTool.DELETE: "deleting an object",
    ObjectTool.ACCEPT: "accepting an object",
}
PAINTING = "painting an object"


class Objects:
    """Shows the objects of each mask and records those that the user finishes."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        annotations: Annotations,
        masks: MaskLayers,
        models: SessionModels,
        finished: FinishedObjects,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self._annotations = viewer, session, annotations
        self._masks, self._models, self._finished = masks, models, finished
        self._layers: dict[Any, ObjectsLayer] = {}
        self._gestures: dict[Any, napari_layers.Gestures] = {}
        self._image: Any = None
        session.events.object_tool.connect(self._on_tool)
        session.events.image.connect(self._count)
        events.job_started.connect(self._on_job_started)
        events.job_event.connect(self._on_event)
        events.image_removed.connect(self._on_image_removed)
        viewer.dims.events.current_step.connect(self._count)
        events.closed.connect(self._on_closed)

    def layer_of(self, image: Image) -> ObjectsLayer:
        """The layer of an image's objects, made where there is none."""
        layer = self._layers.get(image)
        if layer is None or not layer.alive:
            self._drop(image)
            painted = partial(self._on_painted, image)
            annotated = self._annotations.of(image)
            layer = napari_layers.ObjectsLayer(self._viewer, image, annotated, painted)
            self._layers[image] = layer
            self._gestures[image] = napari_layers.Gestures(layer.layer, self._on_line)
            self._on_tool()
        return layer

    # -- what the user does --------------------------------------------------------------------

    def paint_new(self) -> None:
        """Paint a whole object with the next free number."""
        with refusing(self._session):
            image = self._session.image
            if image is None:
                raise UserError("Choose an image first.")
            self._structure()
            layer = self.layer_of(image)
            self._session.object_tool = ObjectTool.NONE
            napari_layers.activate_brush(self._viewer, layer.layer, layer.next_id)
            self._session.say("Paint the whole object, then press the key again for the next one.")

    def change_settings(self, **changes: Any) -> None:
        """Change how the model in use finds objects, and show it."""
        entry = self._session.entry
        if entry is None or entry.model.object_settings is None:
            return
        chosen = ObjectSettings.model_validate(
            {**entry.model.object_settings.model_dump(), **changes}
        )
        model = replace(entry.model, object_settings=chosen)
        changed = replace(entry, model=model)
        self._session.history = tuple(changed if e is entry else e for e in self._session.history)
        self._session.entry = changed
        self._masks.invalidate()

    def _structure(self) -> int:
        """The structure that a new object is of: the chosen one, or the first of objects."""
        able = [s.number for s in self._session.structures if s.objects]
        if not able:
            raise UserError(NO_OBJECTS)
        return self._session.brush if self._session.brush in able else able[0]

    def _on_line(self, line: np.ndarray) -> None:
        """Apply the chosen tool along a line of the mouse."""
        with refusing(self._session):
            tool, image = self._session.object_tool, self._session.image
            layer = self._layers.get(image)
            if layer is None or tool is ObjectTool.NONE:
                return
            plane, line = self._plane(line)
            ids = layer.ids(plane)
            edit = _edit(tool, ids, line, layer.next_id)
            if edit is None:
                self._session.say(NOTHING_HIT[tool], Level.WARNING)
                return
            self._finish(image, plane, edit, DONE[tool], ids[edit.region])
            self._session.say(f"Done: {DONE[tool]}. It is used for training as it is.")

    def _plane(self, line: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
        """The plane or volume of a line, and its ends in it."""
        dims = self._dims
        leading = line.shape[1] - dims
        return tuple(np.rint(line[0, :leading]).astype(int).tolist()), line[:, leading:]

    def _on_painted(
        self, image: Image, region: Region, before: np.ndarray, after: np.ndarray
    ) -> None:
        """Finish the objects that were painted on, each as a whole."""
        layer, dims = self._layers[image], self._dims
        plane = tuple(s.start for s in region[:-dims])
        now = layer.ids(plane)
        then = now.copy()
        then[region[-dims:]] = before.reshape(then[region[-dims:]].shape)
        edit = object_edits.redraw(then, now)
        del after
        if edit is not None:
            with refusing(self._session):
                self._finish(image, plane, edit, PAINTING, then[edit.region])

    def _finish(
        self,
        image: Image,
        plane: tuple[int, ...],
        edit: ObjectEdit,
        text: str,
        before: np.ndarray,
    ) -> None:
        show = self._layers[image].write
        self._finished.apply(image, plane, edit, self._structure(), text, show, before.copy())
        self._count()

    @property
    def _dims(self) -> int:
        """2 for planes, 3 for volumes, as the model or the settings have it."""
        model = self._session.newest_model
        return self._session.settings.dims if model is None else model.dims

    # -- events --------------------------------------------------------------------------------

    def _on_tool(self) -> None:
        wanted = self._session.object_tool is not ObjectTool.NONE
        for image, gestures in self._gestures.items():
            gestures.active = wanted and image is self._session.image
            if gestures.active:
                self._viewer.layers.selection.active = gestures.layer

    def _on_job_started(self, _: JobKind) -> None:
        self._image = self._session.image

    def _on_event(self, kind: JobKind, event: Event) -> None:
        if isinstance(event, MaskStarted):
            self._image = event.view.image
        elif isinstance(event, ObjectsFound) and self._image in self._viewer.layers:
            if kind in (JobKind.TRAIN, JobKind.LIVE) and not self._session.mask_follows:
                return
            fresh = self._image not in self._layers
            self.layer_of(self._image).show(event.plane, event.ids)
            if fresh:
                self._hide_mask(self._image)
            self._count()

    def _hide_mask(self, image: Image) -> None:
        """Hide the mask below the objects, which would change their colours."""
        prediction = self._masks.predictions.get(image)
        if prediction is not None and prediction.layer is not None:
            prediction.layer.visible = False

    def _count(self) -> None:
        layer = self._layers.get(self._session.image)
        counts = None
        if layer is not None and layer.alive:
            plane = napari_layers.plane_on_screen(self._viewer, layer.image, self._dims)
            counts = layer.count(plane)
        self._session.objects = counts

    def _drop(self, image: Any) -> None:
        if (layer := self._layers.pop(image, None)) is not None:
            layer.end()
            self._gestures.pop(image).end()

    def _on_image_removed(self, image: Any) -> None:
        self._drop(image)
        self._count()

    def _on_closed(self) -> None:
        self._viewer.dims.events.current_step.disconnect(self._count)
        for image in list(self._layers):
            self._drop(image)


def _edit(tool: ObjectTool, ids: np.ndarray, line: np.ndarray, free: int) -> ObjectEdit | None:
    """What a tool does along a line."""
    if tool is ObjectTool.MERGE:
        return object_edits.merge(ids, line)
    if tool is ObjectTool.SPLIT:
        return object_edits.split(ids, line, free)
    at: Callable[[np.ndarray, np.ndarray], ObjectEdit | None]
    at = object_edits.delete if tool is ObjectTool.DELETE else object_edits.accept
    return at(ids, line[-1])
