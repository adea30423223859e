"""The current project of a window: images, values, models and errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.services.model_files import ModelFiles
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level
from napari_unetseg.io.project import locations
from napari_unetseg.io.project.project import Project

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import Session


class ProjectStore:
    """Connects a session with its project, which may be unnamed.

    Attributes
    ----------
    project
        The project; None before there is anything to save.
    keys
        The project's key of each image layer.
    writing
        Whether a task is writing in the background.
    """

    replaced = Signal()
    """Another project is open now, or none."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        annotations: Annotations,
        masks: MaskLayers,
        runner: Runner,
    ) -> None:
        self._viewer, self._session, self._runner = viewer, session, runner
        self._annotations, self._masks = annotations, masks
        self.project: Project | None = None
        self.keys: dict[Any, str] = {}
        self.writing = self._closed = False
        self._prints: dict[str, str] = {}
        self._models = ModelFiles(runner, session, self.report_trouble)
        self._failure = self._reported_trouble = ""
        self._window: dict[str, Any] = {}
        self.list_recoveries()

    @property
    def kept(self) -> frozenset[Any]:
        """Images whose annotations are all in the project."""
        safe = self.project is not None and not self.project.trouble
        return frozenset(self.keys) if safe else frozenset()

    @property
    def trouble(self) -> str:
        """Why something is only in memory, in a sentence; empty if all is on disk."""
        trouble = self.project.trouble if self.project is not None else ""
        return trouble or self._failure or self._models.trouble

    def report_trouble(self) -> None:
        """Report once that writing failed, and once that it works again."""
        if (trouble := self.trouble) != self._reported_trouble:
            self._reported_trouble = trouble
            if trouble:
                self._session.say(trouble, Level.ERROR)
            else:
                self._session.say(messages.KEPT_AGAIN, Level.DONE)

    def list_recoveries(self) -> None:
        """List unnamed projects that other windows have left."""
        self._session.recoveries = tuple(locations.recoveries())

    # -- one project after another -------------------------------------------------------------

    def begin(self, *, reopen: bool = False) -> Project | None:
        """The project; a new unnamed one if there is none.

        Parameters
        ----------
        reopen
            Also create one after the last one was closed, or could not be created.
        """
        if self.project is not None or (self._closed and not reopen):
            return self.project
        self._closed = False
        try:
            self.project = Project.create(locations.new_recovery())
        except UserError as error:
            self._closed = True
            self._session.say(messages.NOT_KEPT.format(error), Level.WARNING)
            return None
        self._models.follow(self.project)
        for image in self._annotations.by_image:
            self.add(image)
        return self.project

    def open(self, project: Project, keys: Mapping[Any, str], models: Collection[str]) -> None:
        """Use an opened project from now on.

        Parameters
        ----------
        project, keys
            The project, and its key of each image layer.
        models
            Ids of the models that have a file.
        """
        self._closed, self._failure = False, ""
        self.keys, self.project = dict(keys), project
        self._prints = {k: i["fingerprint"] for k, i in project.values["images"].items()}
        self._models.follow(project, models)
        self._name(project)
        self.replaced.emit()

    def move(self, copy: Project) -> None:
        """Use a named copy of the project from now on."""
        before, self.project, self._failure = self.project, copy, ""
        self._models.follow(copy)
        if before is not None:
            copy.catch_up(before)
        self.update()
        if before is not None:
            useless = self._session.project is None and not copy.trouble
            self._leave(before, partial(_close, before, useless=useless))
        self._name(copy)
        self.replaced.emit()

    def close(self) -> None:
        """Write pending changes and the viewer state, and release the project."""
        self._closed = True
        project = self.project
        if project is not None:
            self.store_view()
            project.put_values({**project.values, "window": self._window})
            self._models.update()  # retry failed writes once more
            self._leave(project, project.close)
        self.project = None
        self._models.follow(None)
        self.replaced.emit()

    def _leave(self, project: Project, close: Callable[[], None]) -> None:
        """Close a project after all pending writes."""

        def failed(error: BaseException) -> None:
            self._session.say(messages.not_written(project.folder.name, error), Level.ERROR)

        self._runner.background(close, lambda _: self.list_recoveries(), failed)

    def _name(self, project: Project) -> None:
        nameless = locations.is_recovery(project.folder)
        self._session.project = None if nameless else project.folder
        if not nameless:
            locations.remember(project.folder)

    # -- what is kept --------------------------------------------------------------------------

    def add(self, image: Any) -> None:
        """Add an image with its annotations."""
        project = self.project
        if project is None:
            return
        if image not in self.keys:
            taken = set(project.by_image)
            self.keys[image] = next(k for n in range(1, 10**6) if (k := f"image-{n}") not in taken)
            self.fingerprint(image)
        project.add(self.keys[image], self._annotations.of(image), self._values())
        self._models.update()

    def fingerprint(self, image: Any) -> None:
        """Compute the fingerprint of an image's pixels; raises `UserError` if it has none."""
        stack, key = napari_layers.stack_of(image), self.keys[image]

        def note(fingerprint: str) -> None:
            self._prints[key] = fingerprint
            self.update()

        if isinstance(stack.data, np.ndarray):  # immediately, as nothing else identifies the image
            self._prints[key] = stack.fingerprint()
        else:
            self._runner.query(stack.fingerprint, note, about=f"fingerprint {key}")

    def update(self) -> None:
        """Store the current values and models of the session."""
        if self.project is not None:
            self.project.put_values(self._values())
            self._models.update()

    def store_view(self) -> None:
        """Remember camera and sliders, which are meaningless once the layers are gone."""
        image = self.keys.get(self._session.image)
        if image is not None:
            self._window = {**napari_layers.window_state(self._viewer), "image": image}
        elif not self._window and self.project is not None:
            self._window = self.project.values.get("window", {})

    def write(self, task: Callable[[], None]) -> None:
        """Write in the background, one task at a time; see `writing`."""
        project = self.project

        def done(error: BaseException | None) -> None:
            self.writing = False
            if project is self.project:
                self._failure = messages.not_written("The project", error) if error else ""
                self.report_trouble()

        self.writing = True
        self._runner.background(task, lambda _: done(None), done)

    def retry(self) -> None:
        """Retry models whose files could not be written."""
        self._models.update()

    def _values(self) -> dict[str, Any]:
        session, project = self._session, self.project
        assert project is not None
        images = dict(project.values.get("images", {}))
        images.update({key: self._describe(image, key) for image, key in self.keys.items()})
        return {
            "images": images,
            "structures": [
                {"number": s.number, "name": s.name, "color": s.color, "file_value": s.file_value}
                | ({"objects": True} if s.objects else {})  # unknown to earlier versions
                for s in session.structures
            ],
            "settings": session.settings.model_dump(mode="json"),
            "mode": str(session.mode),
            "match_spacing": session.match_spacing,
            "models": [{"name": e.name, "id": e.model.id} for e in session.history],
            "renumbered": {
                model: {str(number): other for number, other in sorted(numbers.items())}
                for model, numbers in self._masks.renumbered.items()
                if numbers and model in {entry.model.id for entry in session.history}
            },
            "in_use": session.entry.model.id if session.entry else None,
            "window": project.values.get("window", {}),
        }

    def _describe(self, image: Any, key: str) -> dict[str, Any]:
        annotated, source = self._annotations.of(image), self._session.source(image)
        path = napari_layers.path_of(image)
        assert self.project is not None
        return {
            "name": image.name,
            "path": str(path) if path else None,
            "reader": napari_layers.reader_of(image) if path else None,
            "relative": _relative(path, self.project.folder),
            "fingerprint": self._prints.get(key),
            "shape": list(annotated.shape),
            "dtype": annotated.grid_dtype,
            "kind": str(annotated.kind),
            "labels": source.labels.name if source and source.labels else None,
        }


def _close(project: Project, *, useless: bool) -> None:
    """Close a project; delete it if another one contains all of it."""
    project.close()
    if useless:
        locations.throw_away(locations.Recovery(project.folder, (), 0.0))


def _relative(path: Path | None, folder: Path) -> str | None:
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return None
