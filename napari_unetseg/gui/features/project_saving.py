"""Saving of projects under a name, and their reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.services.report_work import ReportWork
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.jobs.window_tasks import at_once

if TYPE_CHECKING:
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.project_store import ProjectStore
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.io.project.project import Project


class ProjectSaving:
    """Saves projects under a name, and writes reports."""

    def __init__(self, session: Session, jobs: JobManager, store: ProjectStore) -> None:
        self._session, self._jobs, self._store = session, jobs, store

    def save_as(self, folder: Path) -> None:
        """Copy the project to a new folder and use that from now on."""
        with refusing(self._session):
            self._jobs.check_free()
            project = self._store.begin(reopen=True)
            if project is not None:
                work = at_once(partial(project.save_as, folder))
                self._jobs.start(JobKind.MODEL, f"Saving {folder.name}", work, self._on_copied)

    def _on_copied(self, copy: Project) -> None:
        self._store.move(copy)
        self._session.say(f"Everything is saved in {copy.folder} from now on.", Level.DONE)

    def report(self, output: Path, on_page: Callable[[Path], None]) -> None:
        """Write a report page into a folder; ``on_page`` is called with its file."""
        project, keys, named = self._store.project, self._store.keys, self._session.project
        with refusing(self._session):
            self._jobs.check_free()
            if project is None or not keys:
                raise UserError(messages.NOTHING_TO_REPORT)
            stacks = {key: napari_layers.stack_of(image) for image, key in keys.items()}
            title = named.name if named else ", ".join(image.name for image in keys)
            work = ReportWork(project.folder, output, title, stacks)

            def done(page: Path) -> None:
                self._session.say(f"The report is {page}.", Level.DONE)
                on_page(page)

            self._jobs.start(JobKind.EXPORT, "Writing the report", work, done)
