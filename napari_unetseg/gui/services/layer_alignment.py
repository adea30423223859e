"""Alignment of layers with the chosen image: check, message, correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.layers import TRANSFORM_ATTRIBUTES, Alignment, alignment, misalignment_text
from napari_unetseg.gui.services.undo_stack import UndoStep
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import Level, Misalignment

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.undo_stack import UndoStack
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import ImageSource, Session

ALIGNMENT_ATTRIBUTES, TEXT_ATTRIBUTES = (*TRANSFORM_ATTRIBUTES, "data"), ("visible", "name")
"""Layer attributes that affect alignment, and those that affect the message."""


class LayerAlignment:
    """Checks the alignment of layers, and updates the session's misalignment."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        sources: ImageSources,
        masks: MaskLayers,
        undo: UndoStack,
        events: AppEvents,
    ) -> None:
        self._session, self._sources, self._masks = session, sources, masks
        self._undo, self._events, self._layers = undo, events, viewer.layers
        self._changed = self._moved = True
        self._layers.events.inserted.connect(self._on_inserted)
        self._layers.events.removed.connect(self._on_removed)
        for layer in self._layers:
            self._listen(layer)
        for field in ("image", "sources"):
            getattr(self._session.events, field).connect(self._on_change, max_args=0)
        events.tick.connect(self._on_tick)
        events.closed.connect(self._on_closed)

    def _on_closed(self) -> None:
        self._layers.events.inserted.disconnect(self._on_inserted)
        self._layers.events.removed.disconnect(self._on_removed)
        for layer in self._layers:
            self._leave(layer)
        for field in ("image", "sources"):
            getattr(self._session.events, field).disconnect(self._on_change, missing_ok=True)

    def _on_tick(self, _: float) -> None:
        if self._changed:
            self._changed = False
            self.update()

    def update(self) -> None:
        """Check the alignment with the chosen image; newly aligned labels may be adopted."""
        moved, self._moved = self._moved, False
        if moved:
            self._sources.adopt_labels()
        self._session.misalignment = self._find()

    # -- what trains ---------------------------------------------------------------------------

    def misplaced(self) -> tuple[ImageSource, str] | None:
        """A training source with a misaligned layer, and a sentence why."""
        for source in self._session.sources:
            if source.used and not source.on_disk:
                for layer in self._used_with(source):
                    if text := misalignment_text(source.image, layer):
                        return source, text
        return None

    def check(self) -> None:
        """Refuse to train on misaligned layers; the image in question is chosen."""
        if (found := self.misplaced()) is not None:
            source, text = found
            self._sources.choose_image(source.image)
            self.update()
            raise UserError(text)

    def check_mask(self, layer: Labels) -> None:
        """Refuse to export a misaligned mask; the user can align it then."""
        image = self._session.image
        match alignment(image, layer):
            case Alignment.OTHER_SHAPE:
                raise UserError(messages.OTHER_MASK.format(layer.name, image.name))
            case Alignment.MISPLACED:
                self._session.misalignment = self._misalignment(
                    layer, misalignment_text(image, layer)
                )
                raise UserError(misalignment_text(image, layer))

    def why_nothing_trains(self) -> str:
        """What to do if no image has labels."""
        if self._session.image is None:
            return messages.NO_IMAGE
        self.update()
        found = self._session.misalignment
        return messages.NO_LABELS if found is None else found.text

    # -- aligning ------------------------------------------------------------------------------

    def align(self) -> None:
        """Align the misaligned layer with the chosen image, and use it."""
        with refusing(self._session):
            found, image = self._session.misalignment, self._session.image
            if found is None or not found.can_align:
                raise UserError(messages.NOTHING_TO_ALIGN)
            layer, data = found.layer, found.layer.data
            place = napari_layers.transform_of(layer)

            def redo() -> None:
                napari_layers.align_to(image, layer)
                napari_layers.follow(image, layer)

            def undo() -> None:
                napari_layers.unfollow(layer)
                if layer.data is not data:
                    layer.data = data
                napari_layers.set_transform(layer, place)

            redo()
            text = messages.ALIGNED.format(layer.name, image.name)
            self._session.say(text, Level.DONE)
            source = self._session.source()
            if isinstance(layer, Labels) and (source is None or source.labels is None):
                self._sources.choose_labels(layer, found=True)  # may warn in turn
            self._undo.add(UndoStep(image, f"aligning {layer.name}", undo, redo))
            self.update()

    # -- parts ---------------------------------------------------------------------------------

    def _find(self) -> Misalignment | None:
        image, source = self._session.image, self._session.source()
        if image is None or source is None:
            return None
        for layer in self._used_with(source):
            if text := misalignment_text(image, layer):
                return self._misalignment(layer, text)
        for layer in self._used_with(source):
            if napari_layers.in_other_units(image, layer):
                text = messages.OTHER_UNITS.format(layer.name, image.name)
                return Misalignment(layer, text, True, isinstance(layer, Image))
        if source.labels is not None or source.chosen:  # the user chose none
            return None
        return self._among_free(image)

    def _used_with(self, source: ImageSource) -> Iterator[Any]:
        """Layers whose voxels must match the source's image."""
        yield from source.layers[1:]
        prediction = self._masks.predictions.get(source.image)
        if prediction is not None and prediction.alive:
            yield prediction.layer

    def _among_free(self, image: Image) -> Misalignment | None:
        """Why none of the free Labels layers is adopted for this image."""
        free = self._sources.free_labels()
        fitting = [one for one in free if alignment(image, one) is Alignment.ALIGNED]
        if fitting:
            names = " and ".join(f"'{one.name}'" for one in fitting)
            return Misalignment(fitting[-1], messages.SEVERAL_LABELS.format(names, image.name))
        others = [one for one in self._sources.images() if one is not image]
        active = self._layers.selection.active
        for layer in sorted(free, key=lambda one: one is active)[::-1]:
            if all(alignment(other, layer) is not Alignment.ALIGNED for other in others):
                return self._misalignment(layer, misalignment_text(image, layer))
        return self._of_closed(image)

    def _of_closed(self, image: Image) -> Misalignment | None:
        """Visible labels of a closed image; another image may have the same size by chance."""
        for layer in self._sources.labels_candidates():
            had = self._sources.labels_of.get(layer)
            if had is None or had() in self._layers or not layer.visible:
                continue
            if alignment(image, layer) is not Alignment.OTHER_SHAPE:
                text = messages.LABELS_OF_CLOSED.format(layer.name, image.name)
                return Misalignment(layer, text)
        return None

    def _misalignment(self, layer: Any, text: str) -> Misalignment:
        can_align = alignment(self._session.image, layer) is Alignment.MISPLACED
        return Misalignment(layer, text, can_align, isinstance(layer, Image))

    # -- what layers do ------------------------------------------------------------------------

    def _on_inserted(self, event: Any) -> None:
        self._listen(event.value)
        self._on_moved()

    def _on_removed(self, event: Any) -> None:
        self._leave(event.value)
        self._changed = True

    def _listen(self, layer: Any) -> None:
        if isinstance(layer, Image | Labels):
            napari_layers.follow_as_its_original(layer)
            for name, call in self._calls():
                getattr(layer.events, name).connect(call)
        if isinstance(layer, Image):
            layer.events.data.connect(self._on_pixels)

    def _leave(self, layer: Any) -> None:
        if isinstance(layer, Image | Labels):
            for name, call in self._calls():
                getattr(layer.events, name).disconnect(call)
        if isinstance(layer, Image):
            layer.events.data.disconnect(self._on_pixels)

    def _calls(self) -> list[tuple[str, Callable[[], None]]]:
        moves = [(name, self._on_moved) for name in ALIGNMENT_ATTRIBUTES]
        return [*moves, *((name, self._on_change) for name in TEXT_ATTRIBUTES)]

    def _on_change(self) -> None:
        self._changed = True

    def _on_moved(self) -> None:
        self._changed = self._moved = True

    def _on_pixels(self, event: Any) -> None:
        if not napari_layers.is_overlay(event.source):
            self._events.pixels_changed.emit(event.source)
