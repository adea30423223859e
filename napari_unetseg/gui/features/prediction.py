"""Prediction on request, of the viewport or a whole stack."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.events import Event, TilePredicted
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.jobs.plane_objects import ObjectsFound
from napari_unetseg.jobs.remote.run_on import RunOn
from napari_unetseg.jobs.tasks import PredictTask
from napari_unetseg.jobs.window_tasks import nearest_first

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.mask_layers import MaskLayers, MaskTarget
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Message, Session


class MaskPrediction:
    """Predicts the chosen image into its prediction layer."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        models: SessionModels,
        masks: MaskLayers,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self._jobs = viewer, session, jobs
        self._sources, self._models, self._masks = sources, models, masks
        self._target: MaskTarget | None = None
        events.job_event.connect(self._on_event)
        events.job_ended.connect(self._on_ended)
        events.pixels_changed.connect(self._on_pixels_changed)

    def predict_plane(self) -> None:
        """Predict the visible plane or volume."""
        self._predict(whole=False)

    def predict_stack(self) -> None:
        """Predict every plane or volume, the visible one first."""
        self._predict(whole=True)

    def show_trained(self) -> None:
        """Show the final mask of a training, without hiding a warning of that training."""
        self._predict(whole=False, trained=True)

    def _predict(self, *, whole: bool, trained: bool = False) -> None:
        session = self._session
        with refusing(session):
            self._jobs.check_free()
            model, stack, image = self._models.model, self._sources.stack(), session.image
            model.check_image(stack)
            here = napari_layers.plane_on_screen(self._viewer, image, model.dims)
            planes = nearest_first(stack, model.dims, here) if whole else [here]
            self._target = self._masks.open(image, model.id, model.classes.structures)
            settings = PredictSettings(
                device=session.settings.device, match_spacing=session.match_spacing
            )
            work = RunOn(PredictTask(model, stack, planes, settings), session.computer)
            done = partial(self._on_done, None if trained else session.message)
            self._jobs.start(JobKind.PREDICT, f"Predicting {stack.name}", work, done)

    def _on_event(self, kind: JobKind, event: Event) -> None:
        if kind is JobKind.PREDICT and isinstance(event, TilePredicted):
            self._on_tile(event)
        elif kind is JobKind.PREDICT and isinstance(event, ObjectsFound) and self._target:
            self._target.show_objects(event)

    def _on_tile(self, event: TilePredicted) -> None:
        target = self._target
        if target is None:
            return
        if not target.alive:
            if not self._jobs.control.stopped:
                self._jobs.stop()
                self._session.say(messages.PREDICTION_DELETED, Level.WARNING)
            return
        if target.write(event):
            self._jobs.show_progress(event.done / event.total)
        else:
            self._target = None
            self._jobs.stop()

    def _on_ended(self, kind: JobKind) -> None:
        if kind is JobKind.PREDICT and self._target is not None:
            self._target.close()
            self._target = None

    def _on_pixels_changed(self, image: Any) -> None:
        if self._target is not None and self._target.image is image:
            self._jobs.stop()

    def _on_done(self, before: Message | None, _: None) -> None:
        entry, message = self._session.entry, self._session.message
        known = message is before or message is self._jobs.notice_shown
        if message.level is Level.WARNING and not known:
            return
        if self._jobs.control.stopped:
            text, level = messages.PREDICTION_STOPPED, Level.INFO
        elif entry is not None and not entry.model.validated:
            text, level = messages.NOT_VALIDATED, Level.DONE
        else:
            text, level = messages.PREDICTED, Level.DONE
        self._jobs.say_with_notices(text, level)
