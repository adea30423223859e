"""Viewport mask during training."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, TilePredicted
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind, Level, Mode
from napari_unetseg.jobs.live_predictor import MaskFinished, MaskStarted, Viewport, ViewportState
from napari_unetseg.jobs.plane_objects import ObjectsFound

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.mask_layers import MaskLayers, MaskTarget
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session


class TrainingMask:
    """Tells a training what is on screen; shows the masks that it predicts between its steps."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        sources: ImageSources,
        masks: MaskLayers,
        models: SessionModels,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self._sources = viewer, session, sources
        self._masks, self._models = masks, models
        self._screen: ViewportState | None = None
        self._target: MaskTarget | None = None
        self._dims = 2
        events.job_event.connect(self._on_event)
        events.job_ended.connect(self._on_ended)
        events.image_removed.connect(self._on_image_removed)
        events.pixels_changed.connect(self._on_pixels_changed)
        events.tick.connect(self._on_tick)

    def follow_screen(self, dims: int) -> ViewportState:
        """What a training with a network of so many dimensions is told, until it ends."""
        self._screen, self._dims = ViewportState(), dims
        self._look()
        return self._screen

    def _look(self) -> None:
        screen, image = self._screen, self._session.image
        if screen is None:
            return
        if image is None or not self._session.mask_follows:
            screen.view = None
            return
        with suppress(UserError):
            screen.seen = napari_layers.region_on_screen(image, self._dims)
            plane = napari_layers.plane_on_screen(self._viewer, image, self._dims)
            match, seen = self._session.match_spacing, screen.view
            if seen is None or seen.key != (image, plane, match):
                screen.view = Viewport(image, self._sources.stack(), plane, match)

    # -- what the training says ----------------------------------------------------------------

    def _on_event(self, kind: JobKind, event: Event) -> None:
        if kind is not JobKind.TRAIN or self._screen is None:
            return
        match event:
            case MaskStarted():
                self._on_begins(event)
            case TilePredicted():
                self._on_tile(event)
            case ObjectsFound() if self._target is not None and self._session.mask_follows:
                self._target.show_objects(event)
            case MaskFinished():
                self._session.mask_changed = event.changed

    def _on_begins(self, event: MaskStarted) -> None:
        session, image, earlier = self._session, event.view.image, self._target
        if earlier is not None and earlier.image is image and not earlier.alive:
            self._hide()
        elif not session.mask_follows or not _is_current(event.view):
            self._drop()
        elif image in self._viewer.layers:
            self._drop()
            self._models.mark()
            self._target = self._masks.open(image, event.model_id, event.structures)
            if event.scores is not None:
                session.result = messages.describe_shown(event, earlier=bool(session.history))
            if earlier is None:
                session.say(messages.MASK_BEGINS)

    def _on_tile(self, event: TilePredicted) -> None:
        if self._target is None or not self._session.mask_follows:
            return
        if not self._target.alive:
            self._hide()
        elif not self._target.write(event):
            self._target = None

    def _hide(self) -> None:
        """The layer was deleted, so show no more while this training goes on."""
        if self._target is not None and self._target.image in self._viewer.layers:
            self._session.say(messages.MASK_DELETED, Level.WARNING)
        if self._screen is not None:
            self._screen.view = None
        self._drop()
        self._screen = None

    def _drop(self) -> None:
        if self._target is not None:
            self._target.drop()
        self._target = None

    # -- events --------------------------------------------------------------------------------

    def _on_ended(self, kind: JobKind) -> None:
        """What is on screen stays if it is frozen."""
        if kind is JobKind.TRAIN:
            if self._target is not None:
                frozen = self._session.mode is Mode.FROZEN or self._session.checking is not None
                self._target.close(keep=frozen)
            self._target = self._screen = None

    def _on_image_removed(self, image: Any) -> None:
        if self._screen is not None:
            self._screen.view = None
            if self._target is not None and self._target.image is image:
                self._drop()

    def _on_pixels_changed(self, _: Any) -> None:
        if self._screen is not None:
            self._screen.view = None

    def _on_tick(self, _: float) -> None:
        self._look()


def _is_current(view: Viewport) -> bool:
    """Whether a view is of the pixels that its image has now; others may have come meanwhile."""
    try:
        return view.stack.grid_shape == napari_layers.grid_shape(view.image)
    except UserError:
        return False
