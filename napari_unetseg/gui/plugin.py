"""Composition root: services and features of a window; no Qt."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.gui.features.batch import BatchPrediction
from napari_unetseg.gui.features.class_editor import ClassEditor
from napari_unetseg.gui.features.comparison import Comparison
from napari_unetseg.gui.features.corrections_outline import CorrectionsOutline
from napari_unetseg.gui.features.export import Export
from napari_unetseg.gui.features.label_conversion import LabelConversion
from napari_unetseg.gui.features.label_counts import LabelCounts
from napari_unetseg.gui.features.live_prediction import LivePrediction
from napari_unetseg.gui.features.model_history import ModelHistory
from napari_unetseg.gui.features.next_region import NextRegion
from napari_unetseg.gui.features.object_tuning import ObjectTuning
from napari_unetseg.gui.features.objects import Objects
from napari_unetseg.gui.features.postprocess import Postprocess
from napari_unetseg.gui.features.prediction import MaskPrediction
from napari_unetseg.gui.features.project_autosave import ProjectAutosave
from napari_unetseg.gui.features.project_restore import ProjectRestore
from napari_unetseg.gui.features.project_saving import ProjectSaving
from napari_unetseg.gui.features.quality_check import QualityCheck
from napari_unetseg.gui.features.quality_scores import QualityScores
from napari_unetseg.gui.features.remote_computer import RemoteComputer
from napari_unetseg.gui.features.review import Review
from napari_unetseg.gui.features.structures import Structures
from napari_unetseg.gui.features.training import Training
from napari_unetseg.gui.features.training_mask import TrainingMask
from napari_unetseg.gui.features.uncertainty_display import UncertaintyDisplay
from napari_unetseg.gui.features.voxel_size import VoxelSize
from napari_unetseg.gui.services.annotation_feed import AnnotationFeed
from napari_unetseg.gui.services.annotations import Annotations
from napari_unetseg.gui.services.checked_places import CheckedPlaces
from napari_unetseg.gui.services.finished_objects import FinishedObjects
from napari_unetseg.gui.services.image_sources import ImageSources
from napari_unetseg.gui.services.job_manager import JobManager
from napari_unetseg.gui.services.layer_alignment import LayerAlignment
from napari_unetseg.gui.services.mask_layers import MaskLayers
from napari_unetseg.gui.services.object_layers import ObjectLayers
from napari_unetseg.gui.services.place_draw import PlaceDraw
from napari_unetseg.gui.services.places_on_screen import PlacesOnScreen
from napari_unetseg.gui.services.project_layers import ProjectLayers
from napari_unetseg.gui.services.project_store import ProjectStore
from napari_unetseg.gui.services.session_models import SessionModels
from napari_unetseg.gui.services.undo_stack import UndoStack
from napari_unetseg.gui.shortcuts.commands import BRUSHES
from napari_unetseg.gui.state.app_events import AppEvents
from napari_unetseg.gui.state.preferences import Preferences
from napari_unetseg.gui.state.session import Mode, ObjectTool, Session

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.job_runner import Runner


class Plugin:
    """Services and features of a window; also runs without a window.

    Parameters
    ----------
    viewer
        The viewer, or its Qt-free model.
    runner
        Runs long jobs.
    session
        The evented state.
    preferences
        Reads the user's threads, device and folder; called before every job.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        runner: Runner,
        session: Session | None = None,
        preferences: Callable[[], Preferences] = Preferences,
    ) -> None:
        settings = TrainSettings(device=preferences().device)
        self.viewer, self.runner = viewer, runner
        self.session = session or Session(settings=settings)
        self.events = AppEvents()
        self._ticking = False
        self._make_services(preferences)
        self._make_features()
        self.sources.choose_first()

    def _make_services(self, preferences: Callable[[], Preferences]) -> None:
        viewer, session, runner, events = self.viewer, self.session, self.runner, self.events
        self.jobs = JobManager(session, runner, events, preferences)
        self.undo = UndoStack(session, events)
        self.annotations = Annotations(session, runner, events)
        self.sources = ImageSources(viewer, session, self.annotations, events)
        self.object_layers = ObjectLayers(
            viewer, session, self.annotations, self.undo, runner, events
        )
        self.masks = MaskLayers(viewer, session, self.annotations, self.object_layers, events)
        self.finished_objects = FinishedObjects(
            session, self.annotations, self.masks, self.undo, events
        )
        self.models = SessionModels(session, self.sources, self.masks)
        self.alignment = LayerAlignment(
            viewer, session, self.sources, self.masks, self.undo, events
        )
        self.store = ProjectStore(viewer, session, self.annotations, self.masks, runner)
        self.checked = CheckedPlaces(self.store)
        self.feed = AnnotationFeed(
            session, self.annotations, self.checked, self.alignment, self.jobs, runner, events
        )
        self.places = PlacesOnScreen(
            viewer, session, self.sources, self.annotations, self.masks, self.checked
        )

    def _make_features(self) -> None:
        viewer, session, runner, events = self.viewer, self.session, self.runner, self.events
        jobs, sources, masks, models = self.jobs, self.sources, self.masks, self.models
        annotations, undo, alignment = self.annotations, self.undo, self.alignment
        self.training_mask = TrainingMask(viewer, session, sources, masks, models, events)
        self.prediction = MaskPrediction(viewer, session, jobs, sources, models, masks, events)
        self.training = Training(
            session,
            jobs,
            models,
            self.feed,
            alignment,
            events,
            follow_screen=self.training_mask.follow_screen,
            show_mask=self.prediction.show_trained,
        )
        self.live = LivePrediction(viewer, session, jobs, sources, masks, events)
        restored = partial(
            ProjectLayers, viewer, session, sources, annotations, masks, models, events
        )
        self.restore = ProjectRestore(
            session, jobs, sources, annotations, self.store, restored, events
        )
        self.autosave = ProjectAutosave(session, annotations, self.store, events)
        self.saving = ProjectSaving(session, jobs, self.store)
        self.next_region = NextRegion(
            viewer, session, annotations, self.places, jobs, runner, events
        )
        draws = PlaceDraw(session, annotations, masks, self.places, self.checked, self.store)
        self.quality_check = QualityCheck(
            viewer,
            session,
            annotations,
            masks,
            self.places,
            draws,
            self.checked,
            self.store,
            jobs,
            runner,
            events,
        )
        self.quality_scores = QualityScores(session, self.checked, masks, runner)
        self.uncertainty = UncertaintyDisplay(viewer, session, sources, jobs, runner, events)
        self.voxel_size = VoxelSize(session, jobs, sources, masks, events)
        self.outline = CorrectionsOutline(viewer, session, annotations, events)
        self.counts = LabelCounts(session, sources, annotations, runner, events)
        self.conversion = LabelConversion(viewer, session, sources, runner)
        self.structures = Structures(viewer, session, sources, masks)
        self.classes = ClassEditor(session, annotations, masks, self.checked, undo, events)
        self.objects = Objects(
            viewer,
            session,
            annotations,
            self.object_layers,
            self.finished_objects,
            runner,
            events,
        )
        self.object_settings = ObjectTuning(session, masks, self.object_layers, runner, events)
        self.review = Review(viewer, session, masks, undo, events)
        self.history = ModelHistory(session, jobs, models)
        self.comparison = Comparison(viewer, session, jobs, runner, models, masks)
        self.postprocess = Postprocess(viewer, session, jobs, sources, models, masks)
        self.export = Export(session, jobs, sources, alignment, masks)
        self.computers = RemoteComputer(session, runner, events)
        self.batch = BatchPrediction(
            viewer, session, jobs, sources, masks, events, self.prediction.predict_plane
        )

    def actions(self) -> dict[str, Callable[[], None]]:
        """The function of each command with a keyboard shortcut, by command id."""
        brushes = {
            f"brush_{n}": partial(self.structures.select_brush, n) for n in range(1, BRUSHES + 1)
        }
        tools = {f"object_{t}": partial(self.objects.toggle, t) for t in ObjectTool if t}
        return (
            brushes
            | tools
            | {
                "train": self.training.start_or_stop,
                "predict": self.prediction.predict_plane,
                "new_layer": self._new_layer,
                "show_mask": self.masks.show_or_hide,
                "next": self.next_region.next_region,
                "accept_object": self.review.accept_object,
                "accept_plane": self.review.accept_plane,
                "undo": self.undo.undo,
                "brush_background": partial(self.structures.choose_brush, BACKGROUND_LABEL),
            }
        )

    def _new_layer(self) -> None:
        self.sources.new_annotation()

    def tick(self, *, resting: bool = False) -> None:
        """Called periodically by a timer.

        ``resting``: the user is idle, so that a job may use every core. Nested calls, and calls
        while layers are opened, do nothing, since napari may process events then.
        """
        if self._ticking or self.session.opening:
            return
        self._ticking, self.jobs.resting = True, resting
        try:
            self.events.tick.emit(time.perf_counter())
        finally:
            self._ticking = False

    def close(self, seconds: float = 20.0) -> bool:
        """Stop the running job, keep its model if it finishes in time, and close.

        Returns
        -------
        bool
            Whether everything ended within so many seconds.
        """
        mode, self.session.mode = self.session.mode, Mode.FROZEN
        self.events.closing.emit()
        end = time.perf_counter() + seconds
        while self.runner.busy and time.perf_counter() < end:
            self.runner.pump()
            time.sleep(0.005)
        self.session.job = None
        self.session.mode = mode  # the project stores the user's mode
        self.disconnect()
        return self.runner.close(max(0.1, end - time.perf_counter()))

    def disconnect(self) -> None:
        """Disconnect from the viewer and close the project."""
        self.events.closed.emit()
