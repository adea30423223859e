"""Live, once, frozen: masks of what is on screen while nothing else runs, and trainings anew."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, OtherSpacing, TilePredicted
from napari_unetseg.core.job_control import Control
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui import sentences
from napari_unetseg.gui.jobs import Job
from napari_unetseg.gui.session import Level, Mode
from napari_unetseg.jobs.image_ranges import ImageRanges
from napari_unetseg.jobs.live_predictor import LookWork, MaskBegins, Screen, View, near
from napari_unetseg.jobs.remote.run_on import RunOn

if TYPE_CHECKING:
    from napari_unetseg.annotations.annotation_store import Change
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.controller import Controller
    from napari_unetseg.gui.session import ModelEntry, Session

__all__ = ["Looking"]

PAUSE_SECONDS = 0.7
"""A training begins anew this long after the last stroke."""
MOST_NEWER = 100
"""Regions of an image, the newest, that a training answers before its first step."""


class Looking:
    """Keeps the mask on screen up to date in live mode, beside the jobs that people start.

    Parameters
    ----------
    controller, session
        The controller knows the viewer, the masks and the runner.
    """

    def __init__(self, controller: Controller, session: Session) -> None:
        self._controller, self._session = controller, session
        self._screen: Screen | None = None
        self._control = Control()
        self._next: Job | None = None
        self._entry: ModelEntry | None = None
        self._made: list[tuple[Any, ...]] = []
        self._failed: set[tuple[Any, ...]] = set()
        self._said: set[str] = set()
        self._ranges = ImageRanges()
        self._painted: float | None = None
        self._offered = 0.0
        self.newer: dict[Any, list[Region]] = {}
        """Where something was said of images that no training has taken yet."""
        self.watched = True
        """Whether there is anybody to look: False while the dock is closed."""
        self.may_train = False
        """Whether strokes begin a training: one ended by itself, so more strokes may help."""

    @property
    def busy(self) -> bool:
        """Whether it has the worker."""
        return self._screen is not None

    def stop(self) -> None:
        """Give the worker back after the tile at hand."""
        self._control.stop()
        if self._screen is not None:
            self._screen.view = None

    def end(self) -> None:
        """The window closes: nothing is begun any more."""
        self._next = None
        self.stop()

    def start_after(self, job: Job) -> None:
        """Start a job as soon as the worker is free."""
        self._next = job
        self.stop()

    # -- strokes -------------------------------------------------------------------------------

    def on_change(self, image: Any, change: Change) -> None:
        """Something was said; in live mode a training begins anew after a moment."""
        self._painted = time.monotonic()
        regions = self.newer.setdefault(image, [])
        regions[:] = [*regions[1 - MOST_NEWER :], change.region]

    def _train_anew(self) -> bool:
        """Begin a training for strokes that were painted after the last one; whether it did."""
        painted, session = self._painted, self._session
        if painted is None or not self.may_train or session.mode is not Mode.LIVE:
            return False
        if time.monotonic() - painted < PAUSE_SECONDS or not session.go_on:
            return False
        self._painted = None
        self._controller.train()
        return True

    def offered(self, until: float) -> None:
        """What was painted until then (seconds of `time.monotonic`) was offered to the training."""
        self._offered = until

    def job_ended(self, *, left: bool) -> None:
        """A job ended; ``left`` says whether the newest that was offered was not taken."""
        if self._painted is not None and self._painted <= self._offered and not left:
            self._painted = None
            self.newer.clear()

    def try_again(self) -> None:
        """What could not be predicted may be on the computer that was chosen now."""
        self.stop()
        self._failed.clear()
        self._said.clear()

    def forget(self, image: Any) -> None:
        """An image is gone."""
        self.newer.pop(image, None)
        self._ranges.forget(image)
        self._failed = {one for one in self._failed if one[1] is not image}

    def trained(self, *, by_itself: bool) -> None:
        """A training ended; strokes from now on begin another if it ended by itself."""
        self.may_train = by_itself

    def training_begins(self) -> None:
        """What was painted until now is learned from."""
        self.newer.clear()
        self._painted = None
        self._offered = 0.0

    # -- masks ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Called again and again: tell what is on screen, begin what is missing."""
        session = self._session
        if session.job is not None or session.entry is None or session.image is None:
            return
        if session.mode is not Mode.LIVE or not self.watched:
            self.stop()
            return
        if not self.busy and (self._train_anew() or self._controller.runner.busy):
            return
        if self.busy and session.entry is not self._entry:
            self.stop()  # another model was chosen
            return
        with suppress(UserError):
            view = self._view(session.entry.model.dims)
            if self.busy:
                self._show(view)
            elif self._missing(view):
                self._begin(view)

    def _view(self, dims: int) -> View:
        controller, image = self._controller, self._session.image
        stack = controller.stack()
        if self._session.entry is not None:
            self._session.entry.model.check_image(stack)
        plane = napari_layers.plane_on_screen(controller.viewer, image, dims)
        return View(image, stack, plane, self._session.match_spacing)

    def _show(self, view: View) -> None:
        screen = self._screen
        if screen is None:
            return
        dims = len(view.stack.grid_shape) - len(view.plane)
        screen.seen = napari_layers.region_on_screen(view.image, dims)
        seen = screen.view
        if seen is None or seen.key != view.key:
            screen.view = view

    def _missing(self, view: View) -> bool:
        """Whether the mask of the plane on screen is not there, and may be made."""
        entry, prediction = self._session.entry, self._controller.predictions.get(view.image)
        if entry is None or (entry, view.image, view.plane) in self._failed:
            return False
        if prediction is None:
            return False  # nobody has asked for a mask of this image yet
        return prediction.alive and not prediction.is_fresh(view.plane, entry.model.id)

    def _begin(self, view: View) -> None:
        entry, prediction = self._session.entry, self._controller.predictions[view.image]
        assert entry is not None
        self._screen, self._control = Screen(), Control(self._controller.thread_count())
        self._show(view)
        fresh = {p for p in near(view, 2) if prediction.is_fresh(p, entry.model.id)}
        device, ranges = self._session.settings.device, self._ranges
        look = LookWork(entry.model, self._screen, device, frozenset(fresh), ranges=ranges)
        work = RunOn(look, self._session.computer)
        self._entry, self._made = entry, [(entry, view.image, view.plane)]
        self._controller.runner.start(
            Job(work, self._on_event, self._on_done, self._on_error, self._control)
        )

    def _on_event(self, event: Event) -> None:
        if self._session.entry is None or self._control.stopped:
            return
        controller = self._controller
        match event:
            case MaskBegins():
                prediction = controller.predictions.get(event.view.image)
                if prediction is None or not prediction.alive:
                    self.stop()  # the layer was deleted meanwhile, and stays away
                    return
                self._made.append((self._entry, event.view.image, event.view.plane))
                controller.begin_mask(event.view.image, event.model_id, event.structures)
            case TilePredicted():
                controller.write_tile(event)
            case OtherSpacing():
                controller.spacing.say()
            case Notice() if event.text not in self._said:  # it comes with every plane
                self._said.add(event.text)
                self._session.say_notice(event)

    def _on_done(self, _: object) -> None:
        view = self._screen.view if self._screen is not None else None
        if not self._control.stopped and view is not None and self._missing(view):
            made = (self._entry, view.image, view.plane)
            if made in self._made:  # it cannot be made: do not try again and again
                self._failed.add(made)
        self._end()

    def _on_error(self, error: BaseException) -> None:
        if not self._controller.computers.on_error(error):
            self._failed.update(self._made[-1:])
        text = sentences.explain(error, "The mask on screen")
        if text not in self._said:
            self._said.add(text)
            self._session.say(text, Level.WARNING)
        self._end()

    def _end(self) -> None:
        self._screen, self._entry, self._made = None, None, []
        job, self._next = self._next, None
        if job is None:
            self._controller.rest_masks()
        else:  # whose mask may have begun already
            self._controller.runner.start(job)
