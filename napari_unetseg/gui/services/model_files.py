"""Files of the session's models in the project folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from napari_unetseg.gui.state import messages

if TYPE_CHECKING:
    from pathlib import Path

    from napari_unetseg.core.settings import ObjectSettings
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.state.session import ModelEntry, Session
    from napari_unetseg.io.project.project import Project


class ModelFiles:
    """Writes the file of every listed model in the background, and retries failures.

    A file is written again when it is said otherwise how the model finds objects.

    Parameters
    ----------
    on_change
        Called when `trouble` may have changed.
    """

    def __init__(self, runner: Runner, session: Session, on_change: Callable[[], None]) -> None:
        self._runner, self._session, self._on_change = runner, session, on_change
        self._project: Project | None = None
        self._written: dict[str, ObjectSettings | None] = {}
        self._waiting: set[str] = set()
        self._failed: dict[str, str] = {}

    @property
    def trouble(self) -> str:
        """Why a listed model is only in memory, in a sentence; empty if none is."""
        return next(iter(self._failed.values()), "")

    def follow(self, project: Project | None, written: Iterable[str] = ()) -> None:
        """Write to this project from now on; the given models are in files already."""
        known = {entry.model.id: entry.model.object_settings for entry in self._session.history}
        self._project, self._written = project, {name: known.get(name) for name in written}
        self._waiting, self._failed = set(), {}

    def update(self) -> None:
        """Write models without a file, and delete files of models no longer listed."""
        project = self._project
        if project is None:
            return
        listed = {entry.model.id: entry for entry in self._session.history}
        for gone in self._written - listed.keys():
            del self._written[gone]
            remove = partial(project.remove_model, gone)
            self._runner.background(remove, lambda _: None, lambda _: None)
        self._failed = {name: why for name, why in self._failed.items() if name in listed}
        for name, entry in listed.items():
            settings = entry.model.object_settings
            known = name in self._written and self._written[name] == settings
            if known or name in self._waiting:
                continue
            self._waiting.add(name)
            self._runner.background(
                partial(project.add_model, name, entry.model.save, replace=name in self._written),
                partial(self._on_written, project, entry),
                partial(self._on_error, project, entry),
            )

    def _on_written(self, project: Project, entry: ModelEntry, _: Path) -> None:
        if project is self._project:
            self._waiting.discard(entry.model.id)
            self._failed.pop(entry.model.id, None)
            self._written[entry.model.id] = entry.model.object_settings
            self.update()  # it may have been removed from the list
            self._on_change()

    def _on_error(self, project: Project, entry: ModelEntry, error: BaseException) -> None:
        if project is self._project:
            self._waiting.discard(entry.model.id)
            self._failed[entry.model.id] = messages.not_written(entry.name, error)
            self._on_change()
