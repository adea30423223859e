"""Training: manual, and automatic after strokes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.score_text import score_figure
from napari_unetseg.gui.state import messages, training_curve
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level, Mode, ModelEntry
from napari_unetseg.jobs.window_tasks import TrainWork
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelSetAside,
    ModelUpdated,
    SetAside,
    TrainingDone,
    TrainingPrepared,
)

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.gui.services.annotation_feed import AnnotationFeed
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.jobs.live_predictor import ViewportState
    from napari_unetseg.models.model import Model

PAUSE_SECONDS = 0.7
"""A training begins anew this long after the last stroke."""


class Training:
    """Trains on all sources.

    Parameters
    ----------
    follow_screen
        Called with 2 or 3, the dimensions of the network: the screen that the training is to
        predict meanwhile.
    show_mask
        Called when there is a new model whose mask is to be shown.
    """

    def __init__(
        self,
        session: Session,
        jobs: JobManager,
        models: SessionModels,
        feed: AnnotationFeed,
        alignment: LayerAlignment,
        events: AppEvents,
        follow_screen: Callable[[int], ViewportState],
        show_mask: Callable[[], None],
    ) -> None:
        self._session, self._jobs, self._models = session, jobs, models
        self._feed, self._alignment = feed, alignment
        self._follow_screen, self._show_mask = follow_screen, show_mask
        self._made = 0
        self._went_wrong = False
        events.job_event.connect(self._on_event)
        events.job_ended.connect(self._on_ended)
        events.tick.connect(self._on_tick)

    def start(self) -> None:
        """Train on all sources; the model in use is gone on from where it fits."""
        session = self._session
        with refusing(session):
            self._jobs.check_free()
            self._alignment.check()
            snapshots = self._feed.snapshots()
            folders = [s for s in session.sources if s.used and s.on_disk]
            if not snapshots and not folders:
                raise UserError(self._alignment.why_nothing_trains())
            entry = session.entry if session.go_on else None
            work = TrainWork(
                snapshots,
                folders,
                session.settings,
                session.structures,
                entry.model if entry else None,
                self._follow_screen(session.settings.dims),
                session.computer,
            )
            session.curve, session.marks, session.result = (), (), ""
            session.set_aside = session.mask_changed = None
            self._went_wrong = False
            self._models.begin_training()
            self._feed.clear()
            self._jobs.start(JobKind.TRAIN, "Preparing", work, self._on_done)

    def start_or_stop(self) -> None:
        """Train, or stop what runs."""
        job = self._session.job
        if job is None:
            self.start()
        elif not job.stopping:
            self._jobs.stop()

    def show_set_aside(self) -> None:
        """Train on from the model that was set aside, or use it when nothing runs."""
        session, entry = self._session, self._session.set_aside
        if entry is None:
            return
        session.set_aside = None
        if session.job is not None and session.job.kind is JobKind.TRAIN:
            self._jobs.control.ask_for_set_aside()
        else:
            self._models.use(entry)
            self._show_mask()

    def _on_event(self, kind: JobKind, event: Event) -> None:
        if kind is not JobKind.TRAIN:
            return
        match event:
            case EpochDone() | ModelUpdated() | AnnotationsUpdated():
                training_curve.note(self._session, event)
                if isinstance(event, ModelUpdated):
                    self._session.improved = event.model
            case TrainingPrepared():
                self._session.choices = event.choices
                if not event.blocks:
                    self._session.result = f"{messages.describe_scores(None)}."
                self._jobs.say_with_notices(messages.describe_prepared(event), Level.INFO)
                self._jobs.clear_notices()
            case ModelSetAside():
                self._set_aside(event)
            case TrainingDone():
                self._on_result(event)

    def _set_aside(self, event: ModelSetAside) -> None:
        """Keep a model that the training leaves, for the user to choose."""
        what = "best score" if event.reason is SetAside.BEST else "set aside"
        entry = ModelEntry(event.model, f"Model {self._made + 1} · {what}, step {event.step}")
        self._models.keep(entry)
        if event.reason is SetAside.FELL:
            self._session.set_aside = entry

    def _on_result(self, event: TrainingDone) -> None:
        session = self._session
        session.result = messages.describe_training(event, earlier=bool(session.history))
        if event.scores is not None:
            session.scores = event.scores
        self._went_wrong = event.outcome.went_wrong

    def _on_ended(self, kind: JobKind) -> None:
        if kind is JobKind.TRAIN:
            self._session.improved = None

    def _on_done(self, model: Model) -> None:
        session = self._session
        self._models.mark()
        self._made += 1
        score = score_figure(model.scores) if model.scores else "not validated"
        self._models.add(ModelEntry(model, f"Model {self._made} · {score}"))
        level = Level.WARNING if self._went_wrong else Level.DONE
        session.say(session.result or "Trained.", level)
        session.retrain = not (self._jobs.control.stopped or self._went_wrong)
        if session.mode is Mode.FROZEN:
            session.say(f"{session.result} {messages.FROZEN}".strip(), level)
        elif session.image is not None and session.checking is None:
            self._show_mask()

    def _on_tick(self, _: float) -> None:
        """Begin a training for strokes that were painted after the last one."""
        session, painted = self._session, self._feed.painted_at
        if painted is None or not session.retrain or not session.watched or not session.go_on:
            return
        if session.job is not None or session.entry is None or session.image is None:
            return
        if session.mode is not Mode.LIVE or self._jobs.idle_runs:
            return
        if time.monotonic() - painted >= PAUSE_SECONDS:
            self._feed.painted_at = None
            self.start()
