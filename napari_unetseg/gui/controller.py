"""Connects session, jobs, layers, core and io; needs no Qt, so a whole session runs in a test."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import Change, Origin
from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.events import ChunkPredicted, Event, Notice, OtherSpacing, TilePredicted
from napari_unetseg.core.job_control import Control
from napari_unetseg.core.label_appearance import look_at
from napari_unetseg.core.labels import BRUSH, LabelKind
from napari_unetseg.core.settings import PredictSettings, TrainSettings
from napari_unetseg.gui import curve, sentences, work
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.aligning import Aligning
from napari_unetseg.gui.attention import Attention
from napari_unetseg.gui.batches import Batches
from napari_unetseg.gui.classes import ClassEditor
from napari_unetseg.gui.computers import Computers
from napari_unetseg.gui.grids import LabelCounter
from napari_unetseg.gui.jobs import Job, Runner, Work
from napari_unetseg.gui.keeping import Keeping
from napari_unetseg.gui.looking import Looking
from napari_unetseg.gui.masks import Masks
from napari_unetseg.gui.offers import AnnotationOffers
from napari_unetseg.gui.pace import Pace
from napari_unetseg.gui.pixels import Pixels
from napari_unetseg.gui.preferences import Preferences
from napari_unetseg.gui.remedies import LabelRemedies
from napari_unetseg.gui.review import Review
from napari_unetseg.gui.session import (
    JobKind,
    JobState,
    Level,
    Mode,
    ModelEntry,
    Session,
)
from napari_unetseg.gui.spacing import Spacing
from napari_unetseg.gui.steps import Steps
from napari_unetseg.jobs.live_predictor import MaskBegins
from napari_unetseg.jobs.remote.run_on import RunOn
from napari_unetseg.jobs.tasks import Prediction, RemoteDisconnected
from napari_unetseg.runtime.cpu import cores
from napari_unetseg.training.training_events import (
    EpochDone,
    Improved,
    Prepared,
    Renewed,
    StepDone,
    TrainingDone,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.core.label_appearance import Look
    from napari_unetseg.gui.newer import Pairs
    from napari_unetseg.gui.session import Message
    from napari_unetseg.gui.tidy import TidySettings
    from napari_unetseg.models.model import Model

__all__ = ["Controller"]

log = logging.getLogger(__name__)

MOST_MODELS = 10
"""Unsaved models that a session keeps; a project keeps the files of more."""
COUNTED = (Origin.STROKES, Origin.CORRECTIONS, Origin.ACCEPTED)
Counted = tuple[dict[int, int], list[int], "Look | None"]
"""Voxels of each number, of corrections and of accepted regions, and what the labels look like."""
FLUSH_SECONDS = 0.1
COUNT_SECONDS = 0.3
DOING = {
    JobKind.TRAIN: "Training",
    JobKind.PREDICT: "Predicting",
    JobKind.TIDY: "Tidying up",
    JobKind.EXPORT: "Exporting",
    JobKind.MODEL: "The model file",
    JobKind.BATCH: "The batch",
}


class Controller(Masks):
    """What the dock's buttons do.

    Parameters
    ----------
    viewer
        The viewer, or its Qt-free model.
    runner
        Runs long jobs; its ``pump`` is called by `tick`.
    session
        Where everything is remembered.
    preferences
        Reads the user's: threads, device and folder; called before every job.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        runner: Runner,
        session: Session | None = None,
        preferences: Callable[[], Preferences] = Preferences,
    ) -> None:
        self.runner = runner
        self._read_preferences = preferences
        self.preferences = preferences()
        self._control, self._pace = Control(), Pace()
        self._numbers = 0
        self._models = 0
        self._flushed = self._counted = 0.0
        self._counters = {origin: LabelCounter() for origin in COUNTED}
        self._noticed: list[Notice] = []
        self._notice_shown: Message | None = None
        self._refused: Message | None = None
        self._went_wrong = self._settling = self._ticking = False
        self._own: napari_layers.Own | None = None
        settings = TrainSettings(device=self.preferences.device)
        session = session or Session(settings=settings)
        self.steps = Steps(session)
        self.looking = Looking(self, session)
        self.keeping = Keeping(self, session)
        self.computers = Computers(self, session)
        self.spacing = Spacing(self, session)
        self.offers = AnnotationOffers(self)
        super().__init__(viewer, session)
        self.pixels = Pixels(self)
        self.aligning = Aligning(self)
        self.attention = Attention(self)
        self.review = Review(self)
        self.classes = ClassEditor(self)
        self.batches = Batches(self)
        self.remedies = LabelRemedies(self)

    # -- training ------------------------------------------------------------------------------

    def train(self) -> None:
        """Train on all sources; the newest model is gone on from where it fits."""
        with self.refusing():
            self.check_free()
            self.aligning.check()
            snapshots = self.offers.begin()
            folders = [s for s in self.session.sources if s.used and s.on_disk]
            if not snapshots and not folders:
                raise UserError(self.aligning.why_nothing_trains())
            entry = self.session.entry if self.session.go_on else None
            job = work.TrainWork(
                snapshots,
                folders,
                self.session.settings,
                self.session.structures,
                entry.model if entry else None,
                self.begin_looking(self.session.settings.dims),
                self.session.computer,
            )
            self.session.curve, self.session.marks, self.session.result = (), (), ""
            self._went_wrong = False
            self._marked = False
            self.looking.training_begins()
            self.start(JobKind.TRAIN, "Preparing", job, self._on_trained)

    def on_change(self, image: Any, change: Change) -> None:
        """Something was said about an image, and taken down."""
        super().on_change(image, change)
        self.looking.on_change(image, change)
        self.keeping.on_change(image, change)
        if self._own is not None and image is self._own.image:
            self._own.renew(change.region)

    def on_adopted(self, image: Any) -> None:
        """The strokes of an image began anew, with those of another layer."""
        self.keeping.on_adopted(image)

    def on_kind(self, image: Any) -> None:
        """The numbers in an image's labels mean something else now."""
        self.keeping.on_kind(image)

    def disconnect(self) -> None:
        """Listen to the viewer no more, and keep no project open."""
        super().disconnect()
        self.aligning.disconnect()
        self.attention.disconnect()
        self.keeping.close()

    def show_own(self, wanted: bool) -> None:
        """Outline what was corrected and accepted in the chosen image, or no longer."""
        if self._own is not None:
            self._own.remove()
            self._own = None
        image = self.session.image
        if wanted and image is not None:
            self._own = napari_layers.Own(self.viewer, image, self.truth(image))
            self._own.show()

    @property
    def shows_own(self) -> bool:
        """Whether the outlines are there; they may have been deleted."""
        return self._own is not None and self._own.alive

    def choose_image(self, image: Any) -> None:
        """Choose the image to work on; the outlines of what is one's own go with it."""
        super().choose_image(image)
        if self._own is not None and self._own.image is not self.session.image:
            self.show_own(self.shows_own)

    def forget(self, image: Any) -> None:
        """Know nothing of an image any more: it is gone, or its layer holds another one now."""
        super().forget(image)
        for part in (self.steps, self.looking, self.keeping, self.spacing, self.offers):
            part.forget(image)
        if self._own is not None and self._own.image is image:
            self.show_own(False)

    def show_difference(self) -> None:
        """Add a layer of what changed between the model before the last training and now."""
        with self.refusing():
            prediction = self.prediction
            if prediction is None or not prediction.can_bring_back:
                raise UserError(sentences.NOTHING_BEFORE)
            image = prediction.image

            def show(difference: Any) -> None:
                if image in self.viewer.layers:
                    napari_layers.show_difference(self.viewer, image, difference)
                    self.session.say(sentences.DIFFERENCE)

            def failed(error: BaseException) -> None:
                text = sentences.explain(error, "Comparing the masks")
                self.session.say(text, Level.WARNING)

            self.runner.query(prediction.difference, show, failed, about="difference")

    def stop(self) -> None:
        """End the running job after its current step; what was learned is kept."""
        if self.session.job is not None:
            self._control.stop()
            self.session.job = replace(self.session.job, stopping=True)

    def _on_trained(self, model: Model) -> None:
        self.mark()
        self._models += 1
        scores = model.scores
        score = f"Dice {scores.mean_dice:.2f}" if scores else "not validated"
        self.add_model(ModelEntry(model, f"Model {self._models} · {score}"))
        level = Level.WARNING if self._went_wrong else Level.DONE
        self.session.say(self.session.result or "Trained.", level)
        self.looking.trained(by_itself=not (self._control.stopped or self._went_wrong))
        if self.session.mode is Mode.FROZEN:
            self.session.say(f"{self.session.result} {sentences.FROZEN}".strip(), level)
        elif self.session.image is not None:
            self._predict(whole=False, trained=True)

    # -- predicting ----------------------------------------------------------------------------

    def predict_plane(self) -> None:
        """Predict what is on screen: the plane, or the volume."""
        self._predict(whole=False)

    def predict_stack(self) -> None:
        """Predict every plane or volume, what is on screen first."""
        self._predict(whole=True)

    def _predict(self, *, whole: bool, trained: bool = False) -> None:
        """``trained``: it is a training's last mask, which hides no warning of that."""
        with self.refusing():
            self.check_free()
            model, stack, image = self._model(), self.stack(), self.session.image
            model.check_image(stack)
            here = napari_layers.plane_on_screen(self.viewer, image, model.dims)
            planes = work.nearest_first(stack, model.dims, here) if whole else [here]
            self.begin_mask(image, model.id, model.classes.structures)
            device, match = self.session.settings.device, self.session.match_spacing
            settings = PredictSettings(device=device, match_spacing=match)
            task = Prediction(model, stack, planes, settings)
            job = RunOn(task, self.session.computer)
            done = partial(self._on_predicted, None if trained else self.session.message)
            self.start(JobKind.PREDICT, f"Predicting {stack.name}", job, done)

    def _on_predicted(self, before: Message | None, _: None) -> None:
        entry, message = self.session.entry, self.session.message
        known = message is before or message is self._notice_shown
        if message.level is Level.WARNING and not known:
            return
        if self._control.stopped:
            text, level = "Prediction was stopped; what was predicted so far is shown.", Level.INFO
        elif entry is not None and not entry.model.validated:
            text, level = sentences.NOT_VALIDATED, Level.DONE
        else:
            text, level = sentences.PREDICTED, Level.DONE
        self._say_with_notices(text, level)

    def _say_with_notices(self, text: str, level: Level) -> None:
        """Say where a job stands, after what it said on its way there."""
        if self._noticed:
            warned = any(notice.warning for notice in self._noticed)
            level = Level.WARNING if warned else Level.INFO
        self.session.say(" ".join([*(notice.text for notice in self._noticed), text]), level)

    def _on_tile(self, event: TilePredicted) -> None:
        target = self._target
        if target is None:
            return
        if not target.alive:
            if not self._control.stopped:
                self.stop()
                self.session.say(
                    "The prediction layer was deleted, so prediction stopped; press 'Predict' "
                    "to start again.",
                    Level.WARNING,
                )
            return
        if self.write_tile(event):
            self.show_progress(event.done / event.total)
        else:
            self.stop()

    # -- finishing -----------------------------------------------------------------------------

    def tidy(self, settings: TidySettings) -> None:
        """Tidy up the chosen image's prediction into a new layer."""
        with self.refusing():
            self.check_free()
            prediction = self.prediction
            if prediction is None or not prediction.alive or prediction.layer is None:
                raise UserError("There is no prediction to tidy up; press 'Predict' first.")
            dims, stack = self._model().dims, self.stack()
            mask = napari_layers.mask_of(prediction.image, prediction.layer)
            job = work.TidyWork(mask, settings, stack.spatial_spacing(dims))
            source = prediction.layer
            self.start(JobKind.TIDY, "Tidying up", job, partial(self._on_tidied, source))

    def _on_tidied(self, source: Any, data: Any) -> None:
        if data is None:
            self.session.say("Tidying up was stopped; no layer was made.")
        elif source not in self.viewer.layers:
            self.session.say("The prediction was deleted meanwhile; predict again.", Level.WARNING)
        else:
            layer = napari_layers.add_tidied(self.viewer, source, data, self.session.structures)
            what = f": {int(data.max())} objects" if data.dtype != "uint8" else ""
            self.session.say(f"{layer.name} is a new layer{what}.", Level.DONE)

    def export(self, layer: Any, path: Path) -> None:
        """Write a mask layer of the chosen image; the suffix says TIFF, OME-TIFF or PNG."""
        with self.refusing():
            self.check_free()
            if layer is None:
                raise UserError("There is no mask to export; press 'Predict' first.")
            stack = self.stack()
            self.aligning.check_mask(layer)
            mask = napari_layers.mask_of(self.session.image, layer)
            job = work.ExportWork(mask, stack, path, self.session.structures)
            self.start(JobKind.EXPORT, f"Writing {path.name}", job, self._on_written)

    def _on_written(self, paths: list[Path]) -> None:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        self.session.say(f"Wrote {paths[0]}{more}.", Level.DONE)

    # -- models --------------------------------------------------------------------------------

    def save_model(self, path: Path) -> None:
        """Write the model in use to a file."""
        with self.refusing():
            self.check_free()
            if self.session.entry is None:
                raise UserError(sentences.NO_MODEL)
            job = work.SaveWork(self.session.entry.model, path)
            done = partial(self._on_saved, self.session.entry)
            self.start(JobKind.MODEL, f"Saving {path.name}", job, done)

    def _on_saved(self, entry: ModelEntry, path: Path) -> None:
        saved = replace(entry, path=path)
        session = self.session
        session.history = tuple(saved if e is entry else e for e in session.history)
        session.entry = saved if session.entry is entry else session.entry
        session.say(f"Saved {path}.", Level.DONE)

    def load_model(self, path: Path) -> None:
        """Read a model file and use it."""
        with self.refusing():
            self.check_free()
            job = work.LoadWork(path)
            self.start(JobKind.MODEL, f"Loading {path.name}", job, partial(self._on_loaded, path))

    def _on_loaded(self, path: Path, model: Model) -> None:
        structures = model.classes.structures
        self.know([s.number for s in structures], {s.number: s.name for s in structures})
        self.add_model(ModelEntry(model, path.stem, path))
        self.session.say(
            f"{path.name} is in use; press 'Predict', or 'Train' to continue training it."
        )

    def use_model(self, entry: ModelEntry) -> None:
        """Use an earlier model of this session again."""
        self.session.entry = entry
        self._match_settings(entry.model)
        self.session.say(f"{entry.name} is in use; press 'Predict' to see it.")

    def add_model(self, entry: ModelEntry) -> None:
        """Use a model that is new in this session."""
        used = (self.session.entry, self._before)
        self.session.history = _kept((*self.session.history, entry), used)
        self.session.entry = entry
        self._match_settings(entry.model)

    def bring_back(self) -> None:
        """Use the model from before the last training again, with the masks that it made."""
        with self.refusing():
            self.check_free()
            before, now = self._before, self.session.entry
            if before is None or now is None:
                raise UserError(sentences.NOTHING_BEFORE)
            self.looking.stop()
            for prediction in self.predictions.values():
                if prediction.alive and prediction.can_bring_back:
                    prediction.bring_back(self.renumbered.get(prediction.earlier_model or "", {}))
            self.use_model(before)
            self._before = now
            self.looking.may_train = False
            self.session.say(f"{before.name} is in use again, with its mask.")

    def _match_settings(self, model: Model) -> None:
        """Settings describe the network in use, so that the next training goes on from it.

        Not those of a 3D network where the chosen image has no volumes.
        """
        net = model.net
        if net.dims == 3 and self.session.image is not None and not self.has_volumes():
            return
        weights = self.session.settings.encoder_weights
        if not ARCHITECTURES[net.encoder].encoder_weights:
            weights = None
        self.session.change_settings(
            dims=net.dims,
            depth=net.depth,
            width=net.width,
            norm=net.norm,
            dropout=net.dropout,
            encoder=net.encoder,
            encoder_weights=weights,
        )

    def _model(self) -> Model:
        if self.session.entry is None:
            raise UserError(sentences.NO_MODEL)
        return self.session.entry.model

    # -- jobs ----------------------------------------------------------------------------------

    def check_free(self) -> None:
        """Refuse a second job; before the first, see what the user prefers now."""
        busy = self.runner.busy and not self.looking.busy
        if self.session.job is not None or busy or self.is_opening:
            raise UserError(sentences.BUSY)
        old, self.preferences = self.preferences, self._read_preferences()
        if old.device != self.preferences.device:
            self.session.change_settings(device=self.preferences.device)

    def start(self, kind: JobKind, text: str, job: Work, on_done: Callable[[Any], None]) -> None:
        """Begin a job; `check_free` comes first."""
        self._numbers += 1
        number = self._numbers
        self._control = Control(self.thread_count())
        self._noticed.clear()
        self._notice_shown = None
        self._pace = Pace()
        self.session.job = JobState(number, kind, text)
        whole = Job(
            job,
            partial(self._on_event, number),
            partial(self._on_done, number, on_done),
            partial(self._on_error, number),
            self._control,
        )
        if self.looking.busy:
            self.looking.start_after(whole)
        else:
            self.runner.start(whole)

    def offer(self, pairs: Pairs) -> None:
        """Hand newer annotations to the training that runs."""
        self._control.offer_pairs(pairs)

    def is_current(self, number: int) -> bool:
        """Whether an answer belongs to the job at hand; later ones are dropped."""
        return self.session.job is not None and self.session.job.id == number

    def _on_done(self, number: int, on_done: Callable[[Any], None], result: Any) -> None:
        if self.is_current(number):
            self._end_job()
            on_done(result)

    def _end_job(self) -> None:
        """Nothing of a job goes on, and masks are as they were left."""
        trained = self.session.job is not None and self.session.job.kind is JobKind.TRAIN
        self.session.job = None
        self.batches.ended()
        self.offers.end()
        self.looking.job_ended(left=bool(self._control.take_pairs()))
        self._control.offer_pairs(())
        self.end_masks(frozen=trained and self.session.mode is Mode.FROZEN)

    def _on_error(self, number: int, error: BaseException) -> None:
        if not self.is_current(number) or self.session.job is None:
            return
        kind = self.session.job.kind
        self._end_job()
        self.computers.on_error(error)
        level = Level.WARNING if isinstance(error, UserError) else Level.ERROR
        self.session.say(sentences.explain(error, DOING[kind]), level)
        if kind is JobKind.TRAIN and isinstance(error, TrainingError):
            self._refused = self.session.message

    def _on_event(self, number: int, event: Event) -> None:
        if not self.is_current(number):
            return
        match event:
            case StepDone():
                self._on_step(event)
            case EpochDone() | Improved() | Renewed():
                curve.note(self.session, event)
                if isinstance(event, Improved):
                    self.session.improved = event.model
            case MaskBegins():
                self._on_mask_begins(event)
            case TilePredicted() if self._screen is not None:
                self._on_training_tile(event)
            case TilePredicted():
                self._on_tile(event)
            case OtherSpacing():
                if self.session.job is not None and self.session.job.kind is JobKind.PREDICT:
                    self._noticed += filter(None, [self.spacing.say()])
            case Notice():
                self._noticed.append(event)
                self.session.say_notice(event)
                self._notice_shown = self.session.message
            case Prepared():
                self.session.choices = event.choices
                self._say_with_notices(sentences.describe_prepared(event), Level.INFO)
                self._noticed.clear()
            case TrainingDone():
                self.session.result = sentences.describe_training(
                    event, on_strokes=self.session.on_strokes, earlier=bool(self.session.history)
                )
                if event.scores is not None:
                    pairs = zip(event.scores.numbers, event.scores.dice, strict=True)
                    self.session.dice = dict(pairs)
                self._went_wrong = event.outcome.went_wrong
            case RemoteDisconnected():
                self.computers.leave()
            case work.Progress():
                self.show_progress(event.fraction)
            case _ if self.session.job is not None and self.session.job.kind is JobKind.BATCH:
                self.batches.on_event(event)
            case ChunkPredicted():
                self.show_progress(event.done / event.total)

    def _on_step(self, event: StepDone) -> None:
        job = self.session.job
        if job is None:
            return
        fraction = None
        if event.steps:
            fraction = event.step / event.steps
        elif event.remaining is not None:
            fraction = event.seconds / max(event.seconds + event.remaining, 1e-9)
        text = f"Step {event.step}" + (f" of {event.steps}" if event.steps else "")
        self.session.job = replace(job, text=text, fraction=fraction, remaining=event.remaining)

    def show_progress(self, fraction: float, text: str | None = None) -> None:
        """Show how much of the job is done, 0 to 1, and what it does."""
        job = self.session.job
        if job is not None:
            left = self._pace.left(fraction)
            text = job.text if text is None else text
            self.session.job = replace(job, text=text, fraction=fraction, remaining=left)

    def pause(self) -> None:
        """Let the job wait, where it can."""
        if self.session.job is not None:
            self._control.pause()
            self.session.job = replace(self.session.job, paused=self._control.paused)

    def resume(self) -> None:
        """Let the job go on."""
        self._control.resume()
        if self.session.job is not None:
            self.session.job = replace(self.session.job, paused=False)

    # -- time ----------------------------------------------------------------------------------

    def tick(self, *, resting: bool = False) -> None:
        """Called by a timer: hands over events, shows what was written, counts labels.

        ``resting`` says that the user's hands rest, so that a job may have every core. While an
        earlier call goes on, or layers are opened, it does nothing: napari may handle events then.
        """
        if self._ticking or self.is_opening:
            return
        self._ticking = True
        try:
            self._tick(resting)
        finally:
            self._ticking = False

    def _tick(self, resting: bool) -> None:
        self._control.threads = self.thread_count(resting=resting)
        self.look()
        self.look_for_room()
        self.looking.look()
        self.aligning.tick()
        self.keeping.tick()
        self.attention.tick()
        self.spacing.tick()
        self.runner.pump()
        now = time.perf_counter()
        if self.doubts and not self._settling:
            self._settle()
        for truth in self.truths.values():
            truth.settle()
        if self._target is not None and now - self._flushed > FLUSH_SECONDS:
            self._target.flush()
            self._flushed = now
        if self._own is not None:
            self._own.flush()
        if self.labels_changed and now - self._counted > COUNT_SECONDS:
            self.labels_changed, self._counted = False, now
            self.offers.changed()
            self._count()
        self.offers.tick()

    def _settle(self) -> None:
        """Search what may have changed, beside the window."""
        doubts, self.doubts, self._settling = list(self.doubts), set(), True

        def settle(found: list[tuple[Any, Any]]) -> None:
            self._settling = False
            for one, regions in found:
                one.settle(regions)
            self.offers.searched(doubts)

        def failed(error: BaseException) -> None:  # the next change has it searched
            log.error("a search for what changed failed", exc_info=error)
            settle([])

        def search() -> list[tuple[Any, Any]]:
            return [(one, one.search()) for one in doubts]

        self.runner.query(search, settle, failed, about="changes")

    def thread_count(self, *, resting: bool = False) -> int:
        """CPU threads for a job: all but one while hands move."""
        fixed = self.session.settings.threads or self.preferences.threads
        return fixed or max(1, cores() - (0 if resting else 1))

    def _count(self) -> None:
        source, truth = self.session.source(), self.truths.get(self.session.image)
        labels = source.labels if source else None
        data = None if labels is None else napari_layers.data_of(labels)
        kind = source.kind if source else LabelKind.STROKES

        size = 0 if data is None else math.prod(data.shape)
        grey = labels is not None and self.remedies.are_grey(labels)
        said = None if truth is None else truth.snapshot()
        grids: dict[Origin, Any] = {o: None if said is None else said.grid(o) for o in COUNTED}
        if not isinstance(data, np.ndarray):  # nobody takes down what lazy arrays hold
            grids[Origin.STROKES] = data

        def count() -> Counted:
            strokes, *others = (self._counters[origin].count(grids[origin]) for origin in COUNTED)
            return strokes, [sum(o.values()) for o in others], look_at(data) if grey else None

        self.runner.query(count, partial(self._on_counted, labels, kind, size), about="counts")

    def _on_counted(self, labels: Any, kind: LabelKind, size: int, answer: Counted) -> None:
        counts, (self.session.corrected, self.session.accepted), look = answer
        if labels is not None:
            if labels is self._guessed:
                kind = self._guess_again(counts, size) or kind
            if labels in self.seen:
                self.seen[labels] = counts, look or self.seen[labels][1]
            if self.remedies.are_grey(labels):
                counts = {}
            elif kind is not LabelKind.STROKES:
                counts = _as_structures(counts, kind, size)
        if self.session.message is self._refused and counts != self.session.counts:
            self.session.say(sentences.TRAIN_NOW)
        self.session.counts = counts
        self.know(list(counts))

    def close(self, seconds: float = 20.0) -> bool:
        """Stop the running job, keep what it learned if it answers in time, and end."""
        mode, self.session.mode = self.session.mode, Mode.FROZEN
        self._control.stop()
        self.looking.end()
        self.attention.stop()
        end = time.perf_counter() + seconds
        while self.runner.busy and time.perf_counter() < end:
            self.runner.pump()
            time.sleep(0.005)
        self.session.job = None
        self.session.mode = mode  # as the project is to have it
        self.disconnect()
        return self.runner.close(max(0.1, end - time.perf_counter()))


def _kept(
    history: tuple[ModelEntry, ...], used: tuple[ModelEntry | None, ...]
) -> tuple[ModelEntry, ...]:
    """The newest models, those with a file of their own, and those in use: weights take memory."""
    newest = history[-MOST_MODELS:]
    return tuple(e for e in history if e in newest or e in used or e.path is not None)


def _as_structures(counts: dict[int, int], kind: LabelKind, size: int) -> dict[int, int]:
    """Counts of a mask or of instances as counts of structures and background (255)."""
    labelled = sum(n for value, n in counts.items() if value > 0)
    out = {BRUSH: size - sum(counts.values())}
    if kind is LabelKind.INSTANCES or (len(counts) == 1 and max(counts) >= BRUSH):
        out[1] = labelled
    else:
        out.update({n: c for n, c in counts.items() if 0 < n < BRUSH})
    return out
