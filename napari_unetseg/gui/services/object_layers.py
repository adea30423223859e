"""Object layers and the objects that predictions find."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.object_matching import keep_ids
from napari_unetseg.gui import layers as napari_layers

if TYPE_CHECKING:
    import numpy as np
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_unetseg.annotations.annotation_store import AnnotationChange
    from napari_unetseg.gui.layers import ObjectLayer
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.undo_stack import UndoStack
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.jobs.plane_objects import ObjectsFound

log = logging.getLogger(__name__)


class ObjectLayers:
    """Owns the object layer of each image.

    Attributes
    ----------
    by_image
        The object layer of each image that had one.
    newest
        The newest objects of each image, with the maps that they were found from.
    """

    painted = Signal(object, object)
    """An object layer and the region that the user painted; whoever records it settles it."""
    shown = Signal(object)
    """An image whose layer shows other objects now."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        annotations: Annotations,
        undo: UndoStack,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session = viewer, session
        self._annotations, self._undo, self._runner = annotations, undo, runner
        self.by_image: dict[Any, ObjectLayer] = {}
        self.newest: dict[Any, ObjectsFound] = {}
        self._masks: dict[Any, Labels | None] = {}
        self._waiting: deque[tuple[Any, ObjectsFound]] = deque()
        self._matching = self._said_since = False
        viewer.layers.events.removed.connect(self._on_layer_removed)
        events.annotation_changed.connect(self._on_annotation_changed)
        events.image_removed.connect(self._on_image_removed)
        events.tick.connect(self._on_tick)
        events.closed.connect(self._on_closed)

    @property
    def current(self) -> ObjectLayer | None:
        """The object layer of the chosen image, if there is one."""
        return self.by_image.get(self._session.image)

    def of(self, image: Image) -> ObjectLayer:
        """The object layer of an image, which may not be in the viewer yet."""
        if image not in self.by_image:
            annotated = self._annotations.of(image)
            layer = napari_layers.ObjectLayer(self._viewer, image, annotated)
            layer.on_painted = partial(self.painted.emit, layer)
            layer.on_undo, layer.on_redo = self._undo.undo, self._undo.redo
            layer.highest = annotated.next_object - 1
            self.by_image[image] = layer
        return self.by_image[image]

    def next_id(self, image: Image, least: int) -> int:
        """A number of at least so much that no object on screen has; reserved for the caller."""
        layer = self.of(image)
        layer.highest = max(layer.highest + 1, least)
        return layer.highest

    def show(self, image: Image) -> Labels:
        """The layer of an image, which is added unless it is in the viewer."""
        return self.of(image).show(self._masks.get(image))

    def put(self, image: Image, found: ObjectsFound, mask: Labels | None, *, hide: bool) -> None:
        """Show objects that were found, with the numbers that they had before.

        Parameters
        ----------
        image, found
            The image and its objects.
        mask, hide
            The prediction layer, and whether it is hidden when the object layer is added.
        """
        layer = self.of(image)
        if layer.layer is None:
            self._masks[image] = mask
            layer.show(mask)
            if mask is not None and hide:
                mask.visible = False
        self.newest[image] = found
        self._waiting = deque(
            (i, f) for i, f in self._waiting if i is not image or f.index != found.index
        )
        self._waiting.append((image, found))
        self._match()

    def _match(self) -> None:
        """Number the objects that wait, beside the window."""
        if self._matching or not self._waiting:
            return
        image, found = self._waiting.popleft()
        layer = self.by_image.get(image)
        if layer is None:
            self._match()
            return
        self._number(image, layer, found)

    def _number(self, image: Any, layer: ObjectLayer, found: ObjectsFound) -> None:
        region, dims = layer.region_of(found.index), len(found.region)
        old, said, highest = layer.predicted(region), layer.annotated.snapshot(), layer.highest
        ids = found.ids.reshape(old.shape)
        self._matching, self._said_since = True, False

        def match() -> tuple[np.ndarray, np.ndarray]:
            kept = keep_ids(ids, old, highest)
            return kept, napari_layers.composed(said, region, kept, found.structures, dims)

        def settle(answer: tuple[np.ndarray, np.ndarray]) -> None:
            self._matching = False
            kept, final = answer
            if self.by_image.get(image) is layer:
                known = None if self._said_since else final
                layer.put(region, kept, found.structures, dims, known)
                self.shown.emit(image)
            self._match()

        def failed(error: BaseException) -> None:
            self._matching = False
            log.error("objects could not be numbered", exc_info=error)
            self._match()

        layer.highest += int(ids.max(initial=0))
        self._runner.query(match, settle, failed, about="objects")

    # -- events --------------------------------------------------------------------------------

    def _on_annotation_changed(self, image: Any, change: AnnotationChange) -> None:
        self._said_since = True
        layer = self.by_image.get(image)
        if layer is None:
            return
        finished = layer.annotated.grid(LabelSource.OBJECTS)
        if change.origin is not LabelSource.STROKES or finished.read(change.region).any():
            layer.renew(change.region)
            if change.origin is LabelSource.OBJECTS:
                layer.highest = max(layer.highest, int(change.values.max(initial=0)))
            self.shown.emit(image)

    def _on_layer_removed(self, event: Any) -> None:
        for image, layer in self.by_image.items():
            if layer.layer is event.value:
                layer.end()
                mask = self._masks.get(image)
                if mask is not None:
                    mask.visible = True

    def _on_image_removed(self, image: Any) -> None:
        if (layer := self.by_image.pop(image, None)) is not None:
            layer.release()
        self.newest.pop(image, None)
        self._masks.pop(image, None)

    def _on_tick(self, _: float) -> None:
        for layer in self.by_image.values():
            layer.flush()

    def _on_closed(self) -> None:
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)
        for layer in self.by_image.values():
            layer.end()
