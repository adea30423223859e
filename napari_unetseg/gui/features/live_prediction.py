"""Live mode: prediction of the viewport while no job runs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.core.events import Event, Notice, OtherSpacing, TilePredicted
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.jobs.image_ranges import ImageRanges
from napari_unetseg.jobs.live_predictor import (
    MaskStarted,
    Viewport,
    ViewportState,
    ViewportTask,
    near,
)
from napari_unetseg.jobs.plane_objects import ObjectsFound
from napari_unetseg.jobs.remote.run_on import RunOn

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.mask_layers import MaskLayers, MaskTarget
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import ModelEntry, Session


class LivePrediction:
    """Keeps the mask of the viewport up to date in live mode while no job runs."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        masks: MaskLayers,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self._jobs = viewer, session, jobs
        self._sources, self._masks = sources, masks
        self._screen: ViewportState | None = None
        self._target: MaskTarget | None = None
        self._entry: ModelEntry | None = None
        self._made: list[tuple[Any, ...]] = []
        self._failed: set[tuple[Any, ...]] = set()
        self._reported: set[str] = set()
        self._ranges = ImageRanges()
        events.computer_chosen.connect(self._on_computer_chosen)
        events.job_started.connect(self._on_job_started)
        events.job_event.connect(self._on_event)
        events.image_removed.connect(self._forget)
        events.pixels_changed.connect(self._on_pixels_changed)
        events.tick.connect(self._on_tick)
        events.closing.connect(self._stop)

    def update(self) -> None:
        """Update the viewport, and start a prediction if its mask is missing."""
        session, running = self._session, self._screen is not None
        if session.job is not None or session.entry is None or session.image is None:
            return
        if not session.mask_follows or not session.watched:
            self._stop()
        elif running and session.entry is not self._entry:
            self._stop()  # another model was chosen
        elif running or not self._jobs.busy:
            with suppress(UserError):
                view = self._view(session.entry)
                if running:
                    self._show(view)
                elif self._missing(session.entry, view):
                    self._begin(session.entry, view)

    def _stop(self) -> None:
        """Release the worker after the current tile."""
        self._jobs.stop_idle()
        if self._screen is not None:
            self._screen.view = None

    def _view(self, entry: ModelEntry) -> Viewport:
        image, stack = self._session.image, self._sources.stack()
        entry.model.check_image(stack)
        plane = napari_layers.plane_on_screen(self._viewer, image, entry.model.dims)
        return Viewport(image, stack, plane, self._session.match_spacing)

    def _show(self, view: Viewport) -> None:
        screen = self._screen
        if screen is None:
            return
        dims = len(view.stack.grid_shape) - len(view.plane)
        screen.seen = napari_layers.region_on_screen(view.image, dims)
        seen = screen.view
        if seen is None or seen.key != view.key:
            screen.view = view

    def _missing(self, entry: ModelEntry, view: Viewport) -> bool:
        """Whether the visible plane has no mask and one may be predicted."""
        prediction = self._masks.predictions.get(view.image)
        if prediction is None or (entry, view.image, view.plane) in self._failed:
            return False  # no mask of this image was requested yet, or it cannot be predicted
        return prediction.alive and not prediction.masks.is_fresh(view.plane, entry.model.id)

    def _begin(self, entry: ModelEntry, view: Viewport) -> None:
        prediction = self._masks.predictions[view.image]
        self._screen = ViewportState()
        self._show(view)
        fresh = {p for p in near(view, 2) if prediction.masks.is_fresh(p, entry.model.id)}
        device, ranges = self._session.settings.device, self._ranges
        look = ViewportTask(entry.model, self._screen, device, frozenset(fresh), ranges=ranges)
        self._entry, self._made = entry, [(entry, view.image, view.plane)]
        work = RunOn(look, self._session.computer)
        self._jobs.start_idle(work, self._on_done, self._on_error)

    # -- what the work says --------------------------------------------------------------------

    def _on_event(self, kind: JobKind, event: Event) -> None:
        if kind is not JobKind.LIVE or self._session.entry is None:
            return
        match event:
            case MaskStarted():
                self._on_begins(event)
            case TilePredicted() if self._target is not None:
                if not self._target.write(event):
                    self._target = None
            case ObjectsFound() if self._target is not None:
                self._target.show_objects(event)
            case OtherSpacing():
                pass  # the user's mode decides whether it is shown
            case Notice() if event.text not in self._reported:  # repeated for every plane
                self._reported.add(event.text)
                self._session.say_notice(event)

    def _on_begins(self, event: MaskStarted) -> None:
        image = event.view.image
        prediction = self._masks.predictions.get(image)
        if prediction is None or not prediction.alive:
            self._stop()  # the user deleted the layer meanwhile
            return
        self._made.append((self._entry, image, event.view.plane))
        if self._target is not None:
            self._target.drop()
        self._target = self._masks.open(image, event.model_id, event.structures)

    def _on_done(self, _: object) -> None:
        view, entry = self._screen.view if self._screen is not None else None, self._session.entry
        if not self._jobs.idle_stopped and view is not None and entry is not None:
            made = (self._entry, view.image, view.plane)
            if made in self._made and self._missing(entry, view):
                self._failed.add(made)  # it failed: do not retry in a loop
        self._end()

    def _on_error(self, error: BaseException) -> None:
        if isinstance(error, LostError):
            self._session.computer = ""
        else:
            self._failed.update(self._made[-1:])
        text = messages.explain(error, "The mask on screen")
        if text not in self._reported:
            self._reported.add(text)
            self._session.say(text, Level.WARNING)
        self._end()

    def _end(self) -> None:
        if self._target is not None:
            self._target.detach()
        self._screen, self._target, self._entry, self._made = None, None, None, []

    # -- events --------------------------------------------------------------------------------

    def _on_computer_chosen(self) -> None:
        """Retry what failed, as the newly chosen computer may be able to predict it."""
        self._stop()
        self._failed.clear()
        self._reported.clear()

    def _on_job_started(self, _: JobKind) -> None:
        self._stop()

    def _forget(self, image: Any) -> None:
        self._ranges.forget(image)
        self._failed = {one for one in self._failed if one[1] is not image}

    def _on_pixels_changed(self, image: Any) -> None:
        self._stop()
        for seen in (image, *(s.image for s in self._session.sources if image in s.channels)):
            self._forget(seen)

    def _on_tick(self, _: float) -> None:
        self.update()
