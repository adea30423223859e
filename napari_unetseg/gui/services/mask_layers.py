"""Prediction layers and their incoming masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.core.events import TilePredicted
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.gui.layers import PredictionLayer
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.object_layers import ObjectLayers
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.jobs.plane_objects import ObjectsFound

FLUSH_SECONDS = 0.1
"""Minimum interval in seconds between redraws."""


class MaskTarget:
    """Destination of one job's tiles: a prediction layer, from `MaskLayers.open` to `close`."""

    def __init__(
        self, masks: MaskLayers, prediction: PredictionLayer, *, objects_only: bool
    ) -> None:
        self._masks, self._prediction = masks, prediction
        self._objects_only = objects_only
        self._flushed = 0.0

    @property
    def image(self) -> Image:
        """The image that the mask is of."""
        return self._prediction.image

    @property
    def alive(self) -> bool:
        """Whether the layer is in the viewer."""
        return self._prediction.alive

    def write(self, tile: TilePredicted) -> bool:
        """Write a tile; False if its layer was removed or the disk is full."""
        if not self.alive:
            return False
        if not self._prediction.has_room:
            self.detach()
            self._masks.report_full_disk()
            return False
        self._prediction.write(tile.index, tile.mask)
        return True

    def show_objects(self, found: ObjectsFound) -> None:
        """Show objects of the mask; it is hidden the first time, unless it has areas too."""
        prediction = self._prediction
        if self.alive:
            self._masks.objects.put(
                prediction.image, found, prediction.layer, hide=self._objects_only
            )

    def flush(self, now: float) -> None:
        """Redraw the layer, if the interval has passed."""
        if now - self._flushed > FLUSH_SECONDS:
            self._prediction.flush()
            self._flushed = now

    def drop(self) -> None:
        """Stop writing, without a final redraw."""
        self._masks.targets.discard(self)

    def detach(self) -> None:
        """Stop writing; an earlier model's mask elsewhere is kept."""
        self._prediction.flush()
        self.drop()

    def close(self, *, keep: bool = False) -> None:
        """Stop writing and remove an earlier model's mask elsewhere, unless it is to be kept."""
        if keep:
            self._prediction.flush()
        else:
            self._prediction.finish()
        self.drop()
        self._masks.touched()


class MaskLayers:
    """Owns the prediction layer of each image.

    Attributes
    ----------
    objects
        The object layers beside them.
    predictions
        The prediction layer of each image that had one.
    targets
        Destinations of running jobs.
    renumbered
        For each model id, its structures that were merged or deleted since.
    known_masks
        The annotations of an image whose mask is a plain result by now.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        annotations: Annotations,
        objects: ObjectLayers,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self.objects = viewer, session, objects
        self._annotations, self._events = annotations, events
        self.predictions: dict[Any, PredictionLayer] = {}
        self.targets: set[MaskTarget] = set()
        self.renumbered: dict[str, dict[int, int]] = {}
        self.known_masks: WeakKeyDictionary[Labels, ImageAnnotations] = WeakKeyDictionary()
        self._disk_guard = napari_layers.DiskSpaceGuard(viewer)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        session.events.structures.connect(self._recolor)
        events.image_removed.connect(self._on_image_removed)
        events.pixels_changed.connect(self._on_pixels_changed)
        events.tick.connect(self._on_tick)
        events.closed.connect(self._on_closed)

    @property
    def current(self) -> PredictionLayer | None:
        """The prediction layer of the chosen image, if there is one."""
        return self.predictions.get(self._session.image)

    def open(self, image: Image, model_id: str, structures: Sequence[Structure]) -> MaskTarget:
        """Prepare an image's prediction layer for the tiles of a model."""
        prediction = self.predictions.get(image)
        if prediction is None:
            annotated, tell = (
                self._annotations.of(image),
                partial(self._annotations.changed, image),
            )
            prediction = napari_layers.PredictionLayer(self._viewer, image, annotated, tell)
            prediction.on_doubt = partial(self._annotations.doubt, (prediction,))
            prediction.on_other = self._on_other_mask
            self.predictions[image] = prediction
        gone = self.renumbered.get(model_id, {})
        names = {s.number: s.name for s in structures if s.number not in gone}
        self._session.know(list(names), names)
        prediction.begin(model_id, self._session.structures, gone)
        target = MaskTarget(self, prediction, objects_only=all(s.objects for s in structures))
        self.targets.add(target)
        return target

    def show_or_hide(self) -> None:
        """Toggle the visibility of the chosen image's prediction: its objects, else its mask."""
        prediction, objects = self.current, self.objects.current
        if objects is not None and objects.alive and objects.layer is not None:
            napari_layers.show_or_hide(objects.layer)
        elif prediction is None or not prediction.alive or prediction.layer is None:
            self._session.say(messages.NO_PREDICTION, Level.WARNING)
        else:
            napari_layers.show_or_hide(prediction.layer)

    def mark(self) -> None:
        """Save all masks for `bring_back`."""
        for prediction in self.predictions.values():
            prediction.masks.mark()

    def bring_back(self) -> None:
        """Show the saved masks again."""
        for prediction in self.predictions.values():
            if prediction.alive and prediction.masks.can_bring_back:
                prediction.bring_back(self.renumbered.get(prediction.masks.earlier_model or "", {}))

    def invalidate(self) -> None:
        """Mark every mask as outdated, also for its own model."""
        for prediction in self.predictions.values():
            prediction.masks.invalidate()

    def touched(self) -> None:
        """Announce that corrections may have changed."""
        self._events.labels_touched.emit()

    def report_full_disk(self) -> None:
        """Report that the disk is full."""
        self._session.say(messages.NO_ROOM.format(gettempdir()), Level.WARNING)

    # -- numbers of structures -----------------------------------------------------------------

    def renumbering(self) -> dict[str, dict[int, int]]:
        """The renumbering of each model; 255 for background."""
        models = {entry.model.id for entry in self._session.history}
        for prediction in self.predictions.values():
            models |= {
                m
                for m in (prediction.masks.model_id, prediction.masks.earlier_model)
                if m is not None
            }
        return {model: self.renumbered.get(model, {}) for model in models}

    def renumber(self, numbers: Mapping[str, dict[int, int]]) -> None:
        """Renumber structures of the given models; other models are unchanged."""
        self.renumbered = {**self.renumbered, **numbers}
        for prediction in self.predictions.values():
            prediction.renumber(self.renumbered.get(prediction.masks.model_id or "", {}))

    def _recolor(self, structures: Sequence[Structure]) -> None:
        for prediction in self.predictions.values():
            if prediction.alive and prediction.layer is not None:
                napari_layers.paint_colors(prediction.layer, structures)

    # -- events --------------------------------------------------------------------------------

    def _on_other_mask(self, fits: bool, layer: Labels) -> None:
        """Handle other data assigned to a prediction layer."""
        if fits:
            self._session.say(messages.MASK_TAKEN_OVER)
        elif (image := self._session.image) is not None:
            text = messages.MASK_IS_YOURS.format(layer.name, image.name)
            self._session.say(text, Level.WARNING)

    def _on_layer_removed(self, event: Any) -> None:
        for prediction in self.predictions.values():
            if prediction.layer is event.value:
                prediction.end()

    def _on_image_removed(self, image: Any) -> None:
        if (prediction := self.predictions.pop(image, None)) is not None:
            if prediction.layer is not None:
                self.known_masks[prediction.layer] = prediction.annotated
            prediction.release_layer()

    def _on_pixels_changed(self, image: Any) -> None:
        """Mark masks of an image as outdated, and those of images that it is a channel of."""
        others = [s.image for s in self._session.sources if image in s.channels]
        for seen in (image, *others):
            if (prediction := self.predictions.get(seen)) is not None:
                prediction.masks.invalidate()

    def _on_tick(self, now: float) -> None:
        self._check_disk_space()
        for target in self.targets:
            target.flush(now)

    def _check_disk_space(self) -> None:
        """Disable painting on layers in files while their disk is full; keep current strokes."""
        stopped, again = self._disk_guard.update()
        if stopped:
            self._annotations.doubt([*self._annotations.strokes.values()])
            self._annotations.doubt([*self.predictions.values()])
            names = ", ".join(layer.name for layer in stopped)
            text = messages.NO_ROOM_TO_PAINT.format(gettempdir(), names)
            self._session.say(text, Level.WARNING)
        elif again:
            names = ", ".join(layer.name for layer in again)
            self._session.say(messages.ROOM_TO_PAINT.format(names), Level.DONE)

    def _on_closed(self) -> None:
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)
        for prediction in self.predictions.values():
            prediction.end()
