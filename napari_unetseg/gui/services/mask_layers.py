"""Masks on their way into prediction layers, after a training and while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from tempfile import gettempdir
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.services.image_sources import Choices
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level, Mode, ModelEntry, Session
from napari_unetseg.jobs.live_predictor import MaskBegins, Screen, View

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_unetseg.core.events import TilePredicted
    from napari_unetseg.core.labels import Structure

__all__ = ["Masks"]


class Masks(Choices):
    """Knows which prediction layer the tiles of the running job go into.

    Parameters
    ----------
    viewer, session
        As in `Choices`.
    """

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._target: napari_layers.Prediction | None = None
        self._screen: Screen | None = None
        self._dims = 2
        self._before: ModelEntry | None = None
        self._marked = True
        self._room = napari_layers.PaintRoom(viewer)
        super().__init__(viewer, session)

    def begin_mask(self, image: Image, model_id: str, structures: Sequence[Structure]) -> None:
        """Make an image's prediction layer ready for the tiles of a model."""
        target = self.predictions.get(image)
        if target is None:
            tell = partial(self.on_change, image)
            target = napari_layers.Prediction(self.viewer, image, self.truth(image), tell)
            target.on_doubt = partial(self.on_doubt, target)
            target.on_other = self._on_other_mask
            self.predictions[image] = target
        gone = self.renumbered.get(model_id, {})
        names = {s.number: s.name for s in structures if s.number not in gone}
        self.know(list(names), names)
        target.begin(model_id, self.session.structures, gone)
        self._target = target

    def forget(self, image: Image) -> None:
        """Know nothing of an image any more, and put no more tiles over it."""
        super().forget(image)
        if self._screen is not None:
            self._screen.view = None
            if self._target is not None and self._target.image is image:
                self._target = None

    def look_anew(self, image: Image) -> bool:
        """Have a training look at an image anew; whether a prediction of its old pixels goes on."""
        if self._screen is not None:
            self._screen.view = None
            return False
        return self._target is not None and self._target.image is image

    def _on_other_mask(self, fits: bool, layer: Labels) -> None:
        """Somebody gave a prediction layer other data."""
        if fits:
            self.session.say(messages.MASK_TAKEN_OVER)
        elif (image := self.session.image) is not None:
            text = messages.MASK_IS_YOURS.format(layer.name, image.name)
            self.session.say(text, Level.WARNING)

    def renumbering(self) -> dict[str, dict[int, int]]:
        """For each model that there is, what its numbers became; 255 for background."""
        models = {entry.model.id for entry in self.session.history}
        for prediction in self.predictions.values():
            models |= {m for m in (prediction.model_id, prediction.earlier_model) if m is not None}
        return {model: self.renumbered.get(model, {}) for model in models}

    def renumber(self, numbers: Mapping[str, dict[int, int]]) -> None:
        """Show other numbers for those of models; other models' stay as they are."""
        self.renumbered = {**self.renumbered, **numbers}
        for prediction in self.predictions.values():
            prediction.renumber(self.renumbered.get(prediction.model_id or "", {}))

    def end_masks(self, *, frozen: bool = False) -> None:
        """Show the last tiles of a job; no more come. What is on screen stays if it is frozen."""
        if self._target is not None and frozen:
            self._target.flush()
        elif self._target is not None:
            self._target.finish()
        self.labels_changed |= self._target is not None
        self._target = self._screen = None

    def rest_masks(self) -> None:
        """Show the last tiles; what an earlier model said elsewhere stays until it is looked at."""
        if self._target is not None:
            self._target.flush()
        self._target = None

    def write_tile(self, event: TilePredicted) -> bool:
        """Write a tile of the mask that began last; whether its layer and room for it are there."""
        target = self._target
        if target is None or not target.alive:
            return False
        if not target.has_room:
            target.flush()
            self._target = None
            self.session.say(messages.NO_ROOM.format(gettempdir()), Level.WARNING)
            return False
        target.write(event.index, event.mask)
        return True

    def look_for_room(self) -> None:
        """No painting on layers in files while their disk is full; a stroke at hand is kept."""
        stopped, again = self._room.look()
        if stopped:
            self.doubts.update(self.strokes.values(), self.predictions.values())
            names = ", ".join(layer.name for layer in stopped)
            text = messages.NO_ROOM_TO_PAINT.format(gettempdir(), names)
            self.session.say(text, Level.WARNING)
        elif again:
            names = ", ".join(layer.name for layer in again)
            self.session.say(messages.ROOM_TO_PAINT.format(names), Level.DONE)

    # -- while a training goes on --------------------------------------------------------------

    def begin_looking(self, dims: int) -> Screen:
        """What a training will be told about the screen, from now until `end_masks`."""
        self._screen, self._dims = Screen(), dims
        self.look()
        return self._screen

    def look(self) -> None:
        """Tell a training that goes on what is on screen now."""
        screen, image = self._screen, self.session.image
        if screen is None:
            return
        if image is None or self.session.mode is not Mode.LIVE:
            screen.view = None
            return
        with suppress(UserError):
            screen.seen = napari_layers.region_on_screen(image, self._dims)
            plane = napari_layers.plane_on_screen(self.viewer, image, self._dims)
            match, seen = self.session.match_spacing, screen.view
            if seen is None or seen.key != (image, plane, match):
                screen.view = View(image, self.stack(), plane, match)

    def _on_mask_begins(self, event: MaskBegins) -> None:
        image, earlier = event.view.image, self._target
        if earlier is not None and earlier.image is image and not earlier.alive:
            self._hide()
        elif not self._follows() or not _is_current(event.view):
            self._target = None
        elif self._screen is not None and image in self.viewer.layers:
            self.mark()
            self.begin_mask(image, event.model_id, event.structures)
            session = self.session
            self.session.result = messages.describe_better(
                event, on_strokes=session.on_strokes, earlier=bool(session.history)
            )
            if earlier is None:
                self.session.say(messages.MASK_BEGINS)

    def mark(self) -> None:
        """Keep the model in use and its masks to be brought back, once a training has a newer one.

        Not when it begins: one that fails leaves nothing to bring anything back from.
        """
        if not self._marked:
            self._marked, self._before = True, self.session.entry
            for prediction in self.predictions.values():
                prediction.mark()

    def _on_training_tile(self, event: TilePredicted) -> None:
        if self._target is None or not self._follows():
            return
        if self._target.alive:
            self.write_tile(event)
        else:
            self._hide()

    def _follows(self) -> bool:
        """Whether the mask may change while it trains; masks under way come too late otherwise."""
        return self.session.mode is Mode.LIVE

    def _hide(self) -> None:
        """The layer was deleted, so show no more while this training goes on."""
        if self._target is not None and self._target.image in self.viewer.layers:
            self.session.say(messages.MASK_DELETED, Level.WARNING)
        if self._screen is not None:
            self._screen.view = None
        self._target = self._screen = None


def _is_current(view: View) -> bool:
    """Whether a view is of the pixels that its image has now; others may have come meanwhile."""
    try:
        return view.stack.grid_shape == napari_layers.grid_shape(view.image)
    except UserError:
        return False
