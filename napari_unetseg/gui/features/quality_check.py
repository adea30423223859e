"""Check of quality: random places that the user corrects, one after another.

What the places say of each model is computed by `QualityScores`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import TilePredicted
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import complain, refusing
from napari_unetseg.gui.state.session import Level
from napari_unetseg.io.project.place_rows import CheckedPlace, PlaceState

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.checked_places import CheckedPlaces
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.place_draw import Draw, PlaceDraw
    from napari_unetseg.gui.services.places_on_screen import PlacesOnScreen
    from napari_unetseg.gui.services.project_store import ProjectStore
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.models.model import Model

LOOKING = "Places to check are drawn…"
NO_PLACE = (
    "Every pixel of the open images is labelled, or was checked before; open other images to "
    "check the mask on them."
)
NO_PROJECT = "The check needs a project to be kept in; press 'Save project…' first."
NOT_OPEN = "The images of the places that are left are not open; open them, or press 'Stop'."
NO_MASK = "There is no mask in the frame yet; wait for it, or press 'Predict this plane'."
WHAT_TO_DO = "Correct the mask inside the yellow frame, then press 'Right'."
DONE = "The check is done; its result is under Check quality."
STOPPED = "The check was stopped; the places that were checked count."
MEASURING = "The models are being measured at the checked places; press again in a moment."
NOTHING_TO_USE = "No checked place is left whose image is open."
USED = (
    "{} of {} checked places are used for training from now on; the figures of the models so far "
    "stay, later ones need a new check."
)


class QualityCheck:
    """Sends the viewer to random places and records the corrected mask there."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        annotations: Annotations,
        masks: MaskLayers,
        screen: PlacesOnScreen,
        draws: PlaceDraw,
        checked: CheckedPlaces,
        store: ProjectStore,
        jobs: JobManager,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._session, self._annotations, self._masks = session, annotations, masks
        self._screen, self._draws, self._checked, self._store = screen, draws, checked, store
        self._jobs, self._runner, self._viewer = jobs, runner, viewer
        self._frame = napari_layers.PlaceFrame(viewer)
        self._control = JobControl()
        self._asking = False
        self._current: CheckedPlace | None = None
        checked.changed.connect(self._on_places)
        events.image_removed.connect(self._on_image_removed)
        events.closing.connect(self._on_closing)
        events.closed.connect(self._frame.remove)

    # -- what the user does --------------------------------------------------------------------

    def begin(self, count: int | None = None, seed: int | None = None) -> None:
        """Draw places and go to the first; where a check was begun, go on with it.

        Parameters
        ----------
        count
            How many places; 10 by default.
        seed
            Of the draw; by default another one for each check of the project.
        """
        with refusing(self._session):
            if self._checked.of_state(PlaceState.PENDING):
                self._go()
            elif not self._asking:
                self._draw(count, seed)

    def right(self) -> None:
        """Record the mask shown at the place as its truth; go to the next."""
        with refusing(self._session):
            place, image = self._here()
            prediction = self._masks.predictions.get(image)
            if (
                prediction is None
                or not prediction.alive
                or not prediction.masks.covers(place.region)
            ):
                raise UserError(NO_MASK)
            truth = np.where(place.truth == 0, 0, prediction.read(place.region)).astype(np.uint8)
            self._end(replace(place, truth=truth, state=PlaceState.CHECKED, seconds=time.time()))

    def skip(self) -> None:
        """Leave the place out of the estimate; go to the next."""
        with refusing(self._session):
            place, _ = self._here()
            self._end(replace(place, state=PlaceState.SKIPPED))

    def stop(self) -> None:
        """End the check; the places that were not reached count as never drawn."""
        self._leave()
        self._checked.put((), self._checked.of_state(PlaceState.PENDING))
        self._session.say(STOPPED)

    def use_for_training(self) -> None:
        """Release the checked places for training; later models are not measured there."""
        with refusing(self._session):
            if self._session.measuring:
                raise UserError(MEASURING)  # released places measure no model any more
            checked = self._checked.of_state(PlaceState.CHECKED)
            usable = [p for p in checked if self._checked.image_of(p) is not None]
            if not usable:
                raise UserError(NOTHING_TO_USE)
            self._checked.put([replace(place, state=PlaceState.RELEASED) for place in usable])
            for place in usable:
                self._accept(place)
            self._session.say(USED.format(len(usable), len(checked)), Level.DONE)

    # -- drawing -------------------------------------------------------------------------------

    def _draw(self, count: int | None, seed: int | None) -> None:
        """Draw places beside the window."""
        model = self._session.newest_model
        if model is None:
            raise UserError(messages.NO_MODEL)
        if self._store.begin(reopen=True) is None:
            raise UserError(NO_PROJECT)
        sources = self._draws.sources(model)
        if not sources:
            raise UserError(messages.NO_IMAGE)
        if seed is None:
            seed = 1 + max((place.seed for place in self._checked.places), default=-1)
        self._control = control = JobControl(self._jobs.thread_count())
        work = self._draws.work(model, sources, count, seed, control)

        def answer(drawn: list[Draw]) -> None:
            self._asking = False
            with refusing(self._session):
                drawn = [one for one in drawn if one.source.image in self._viewer.layers]
                if not drawn:
                    raise UserError(NO_PLACE)
                self._draws.keep(drawn, seed)
                self._go()

        def failed(error: BaseException) -> None:
            self._asking = False
            complain(self._session, error, "Drawing places to check")

        self._asking = True
        self._session.say(LOOKING)
        self._runner.query(work, answer, failed, about="check")

    # -- from place to place -------------------------------------------------------------------

    def _here(self) -> tuple[CheckedPlace, Any]:
        place = self._current
        image = self._checked.image_of(place) if place is not None else None
        if place is None or image is None:
            raise UserError(NOT_OPEN)
        return place, image

    def _end(self, place: CheckedPlace) -> None:
        self._checked.put([place])
        if self._checked.of_state(PlaceState.PENDING):
            self._go()
        else:
            self._leave()
            self._session.say(DONE, Level.DONE)

    def _go(self) -> None:
        """Go to the next place whose image is open."""
        pending = self._checked.of_state(PlaceState.PENDING)
        place = next((p for p in pending if self._checked.image_of(p) is not None), None)
        if place is None:
            raise UserError(NOT_OPEN)
        self._current, image = place, self._checked.image_of(place)
        plane, region = tuple(s.start for s in place.region[:-2]), place.region[-2:]
        self._screen.show(image, plane, region)
        self._frame.show(image, place.region)
        self._on_places()
        self._show_mask(place, image)
        self._session.say(WHAT_TO_DO)

    def _show_mask(self, place: CheckedPlace, image: Any) -> None:
        """Put the brush on the mask; where none was predicted yet, predict the place."""
        prediction = self._masks.predictions.get(image)
        if prediction is not None and prediction.alive and prediction.masks.covers(place.region):
            self._take_brush(image)
            return
        model, source = self._session.newest_model, self._session.source(image)
        if model is None:
            return
        stack = napari_layers.stack_of(image, source.channels if source else ())
        numbers = dict(self._masks.renumbered.get(model.id, {}))
        device, match = self._session.settings.device, self._session.match_spacing
        plane, region = tuple(s.start for s in place.region[:-2]), place.region[-2:]

        def predict() -> np.ndarray:
            from napari_unetseg.inference.check_masks import PlanePredictor

            return PlanePredictor(model, stack, device, match, numbers).mask(plane, region)

        def answer(mask: np.ndarray) -> None:
            if self._current is place and image in self._viewer.layers:
                self._put_mask(model, image, TilePredicted(plane, region, mask, None, 1, 1))

        def failed(error: BaseException) -> None:
            complain(self._session, error, "Predicting the place")

        self._runner.query(predict, answer, failed, about="check")

    def _put_mask(self, model: Model, image: Any, tile: TilePredicted) -> None:
        """Show the mask of a place, unless there is one by now."""
        prediction = self._masks.predictions.get(image)
        whole = (*(slice(i, i + 1) for i in tile.plane), *tile.region)
        if prediction is None or not prediction.alive or not prediction.masks.covers(whole):
            target = self._masks.open(image, model.id, model.classes.structures)
            target.write(tile)
            target.close(keep=True)
        self._take_brush(image)

    def _take_brush(self, image: Any) -> None:
        """Put a brush on the mask into the user's hand."""
        prediction, brush = self._masks.predictions[image], self._session.brush
        if prediction.layer is not None:
            number = 0 if brush == BACKGROUND_LABEL else brush
            napari_layers.activate_brush(self._viewer, prediction.layer, number)

    def _leave(self) -> None:
        self._current = None
        self._frame.remove()
        self._session.checking = None

    def _accept(self, place: CheckedPlace) -> None:
        """Record the truth of a place as accepted, except where the user annotated since."""
        image, region = self._checked.image_of(place), place.region
        annotated = self._annotations.of(image)
        accepted = annotated.read(LabelSource.ACCEPTED, region)
        new = (annotated.overrides(region) == 0) & (place.truth != 0)
        accepted[new] = place.truth[new]
        change = annotated.record(LabelSource.ACCEPTED, region, accepted)
        if change is not None:
            self._annotations.changed(image, change)
            prediction = self._masks.predictions.get(image)
            if prediction is not None and prediction.alive:
                prediction.show(LabelSource.ACCEPTED, region)

    # -- events --------------------------------------------------------------------------------

    def _on_places(self) -> None:
        """Show how far the check is, and whether there is anything to use."""
        pending = self._checked.of_state(PlaceState.PENDING)
        if (before := self._current) is not None:
            self._current = next((place for place in pending if place.is_same_as(before)), None)
            if self._current is None:  # it is checked, or of a project that was closed
                self._leave()
        if (here := self._current) is not None:
            drawn = sum(place.seed == here.seed for place in self._checked.places)
            left = sum(place.seed == here.seed for place in pending)
            self._session.checking = drawn - left + 1, drawn
        self._session.unchecked = len(pending)
        self._session.checked = len(self._checked.of_state(PlaceState.CHECKED))

    def _on_image_removed(self, image: Any) -> None:
        if self._current is not None and self._checked.image_of(self._current) in (None, image):
            self._leave()

    def _on_closing(self) -> None:
        self._control.stop()
