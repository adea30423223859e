"""Models of the session: reuse, save, load."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level, ModelEntry
from napari_unetseg.jobs.window_tasks import at_once, read_model

if TYPE_CHECKING:
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.models.model import Model


class ModelHistory:
    """Chooses, saves and loads models."""

    def __init__(self, session: Session, jobs: JobManager, models: SessionModels) -> None:
        self._session, self._jobs, self._models = session, jobs, models

    @property
    def folder(self) -> Path:
        """Where models are saved unless the user chooses another folder."""
        return self._jobs.preferences.models_dir

    def use(self, entry: ModelEntry) -> None:
        """Use an earlier model of this session again."""
        self._models.use(entry)
        self._session.say(f"{entry.name} is in use; press 'Predict' to see it.")

    def save(self, path: Path) -> None:
        """Write the model in use to a file."""
        with refusing(self._session):
            self._jobs.check_free()
            entry = self._session.entry
            if entry is None:
                raise UserError(messages.NO_MODEL)
            done = partial(self._on_saved, entry)
            work = at_once(partial(entry.model.save, path))
            self._jobs.start(JobKind.MODEL, f"Saving {path.name}", work, done)

    def _on_saved(self, entry: ModelEntry, path: Path) -> None:
        session, saved = self._session, replace(entry, path=path)
        session.history = tuple(saved if e is entry else e for e in session.history)
        session.entry = saved if session.entry is entry else session.entry
        session.say(f"Saved {path}.", Level.DONE)

    def load(self, path: Path) -> None:
        """Read a model file and use it."""
        with refusing(self._session):
            self._jobs.check_free()
            done = partial(self._on_loaded, path)
            work = at_once(partial(read_model, path))
            self._jobs.start(JobKind.MODEL, f"Loading {path.name}", work, done)

    def _on_loaded(self, path: Path, model: Model) -> None:
        names = {s.number: s.name for s in model.classes.structures}
        self._session.know(list(names), names)
        self._models.add(ModelEntry(model, path.stem, path))
        self._session.say(
            f"{path.name} is in use; press 'Predict', or 'Train' to continue training it."
        )
