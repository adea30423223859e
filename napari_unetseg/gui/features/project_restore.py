"""Opening and recovery of projects, and search for their missing images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level, ModelEntry
from napari_unetseg.io.project import locations
from napari_unetseg.jobs.window_tasks import OpenWork

if TYPE_CHECKING:
    from pathlib import Path

    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.project_layers import ProjectLayers
    from napari_unetseg.gui.services.project_store import ProjectStore
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.io.project.project import Project
    from napari_unetseg.models.model import Model


class ProjectRestore:
    """Restores projects into the session.

    Parameters
    ----------
    restored
        Restores the layers of a project; called with it and the images saved in another project.
    """

    def __init__(
        self,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        annotations: Annotations,
        store: ProjectStore,
        restored: Callable[[Project, Collection[Any]], ProjectLayers],
        events: AppEvents,
    ) -> None:
        self._session, self._jobs, self._sources = session, jobs, sources
        self._annotations, self._store, self._restored = annotations, store, restored
        self._recognised: list[tuple[int, int]] = []
        events.pixels_changed.connect(self._recognise, max_args=0)
        events.tick.connect(self._recognise, max_args=0)

    # -- opening -------------------------------------------------------------------------------

    def open(self, folder: Path) -> None:
        """Open a project: its images, labels, models and settings."""
        with refusing(self._session):
            self._jobs.check_free()
            project = self._store.project
            if project is not None and project.folder.resolve() == folder.resolve():
                self._complete(project)
                return
            work = OpenWork(folder)
            self._jobs.start(JobKind.MODEL, f"Opening {folder.name}", work, self._on_opened)

    def recover(self, recovery: locations.Recovery) -> None:
        """Open an unnamed project that another window left."""
        self.open(recovery.folder)

    def discard(self, recovery: locations.Recovery) -> None:
        """Delete an unnamed project that another window left."""
        locations.throw_away(recovery)
        self._store.list_recoveries()

    def _on_opened(self, found: tuple[Project, list[tuple[str, Model]], list[str]]) -> None:
        (project, models, lost), store = found, self._store
        entries = [ModelEntry(model, name) for name, model in models]
        kept = store.kept
        if store.project is not None:
            store.close()
        store.keys = {}
        with self._sources.opening():
            keys, missing = self._restored(project, kept).restore(entries)
            store.open(project, keys, [entry.model.id for entry in entries])
        self._session.missing = missing
        store.list_recoveries()
        self._say_open(project, [*lost, *project.lost])

    def _say_open(self, project: Project, lost: Sequence[str]) -> None:
        missing, nameless = self._session.missing, locations.is_recovery(project.folder)
        what = "What was not saved" if nameless else project.folder.name
        sentences = [f"{what} is open with all its annotations.", *lost]
        if missing:
            sentences.append(messages.MISSING.format(", ".join(missing)))
        self._session.say(" ".join(sentences), Level.WARNING if missing or lost else Level.DONE)

    # -- images that are missing ---------------------------------------------------------------

    def find(self, path: Path) -> None:
        """Locate a missing image at a path, and others that moved with it."""
        with refusing(self._session):
            self._jobs.check_free()
            if not self._find_missing(path):
                raise UserError(messages.NOT_THAT_IMAGE.format(path.name))

    def _complete(self, project: Project) -> None:
        """Restore the missing layers of the open project."""
        with self._sources.opening():
            restored = self._restored(project, self._store.kept)
            self._store.keys, self._session.missing = restored.complete(self._store.keys)
        self._record_missed_strokes(restored)
        self._say_open(project, [])

    def _recognise(self) -> None:
        """Check whether an added image is a missing one of the open project."""
        project, images = self._store.project, self._sources.images()
        if project is None or len(project.by_image) <= len(self._store.keys):
            return
        seen = [(id(image), id(image.data)) for image in images]
        if seen != self._recognised:
            self._recognised = seen
            self._find_missing(None)

    def _find_missing(self, path: Path | None) -> bool:
        """Look for missing images in open layers, a file and its folder; True if any was found."""
        project, session, store = self._store.project, self._session, self._store
        if project is None:
            return False
        with self._sources.opening():
            restored = self._restored(project, store.kept)
            found, lost = restored.find(store.keys, path)
            store.keys.update(found)
            if found:
                self._sources.choose_image(next(iter(found)))
        self._record_missed_strokes(restored)
        if found:
            session.missing = tuple(name for name in session.missing if name in lost)
            store.update()
            names = ", ".join(image.name for image in found)
            session.say(f"{names} is open with all its annotations.", Level.DONE)
        return bool(found)

    def _record_missed_strokes(self, restored: ProjectLayers) -> None:
        """Record what was painted on the layers while they belonged to no image."""
        for image in restored.reused:
            if (strokes := self._annotations.strokes.get(image)) is not None:
                strokes.look_again()
