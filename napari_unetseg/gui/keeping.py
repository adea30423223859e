"""Nothing is lost: what people say goes to a project as they say it, named or not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import Change, Origin
from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui import sentences
from napari_unetseg.gui.model_files import ModelFiles
from napari_unetseg.gui.restoring import Restored
from napari_unetseg.gui.session import JobKind, Level, Session
from napari_unetseg.gui.work import CopyWork, OpenWork, ReportWork
from napari_unetseg.io.project import locations
from napari_unetseg.io.project.project import Project

if TYPE_CHECKING:
    from napari_unetseg.gui.controller import Controller
    from napari_unetseg.gui.session import ModelEntry

__all__ = ["Keeping"]

SYNC_SECONDS = 2.0
"""A power cut may cost this much."""
RETRY_SECONDS = 5.0
SAVE_SECONDS, SAVE_BYTES, LITTLE = 300.0, 2**25, 2**10
"""What was recorded is joined after so long, or when it is so large."""


class Keeping:
    """Connects a session with the project that keeps it.

    Parameters
    ----------
    controller, session
        The controller knows the layers, the truths and the runner.
    """

    def __init__(self, controller: Controller, session: Session) -> None:
        self._controller, self._session = controller, session
        self.project: Project | None = None
        self._keys: dict[Any, str] = {}
        self._prints: dict[str, str] = {}
        self._models = ModelFiles(controller.runner, session, self._tell)
        self._writing, self._failure = False, ""
        self._synced = self._tried = self._saved = time.monotonic()
        self._said_trouble = ""
        self._window: dict[str, Any] = {}
        self._closed = False
        self._recognised: list[tuple[int, int]] = []
        for field in ("structures", "settings", "history", "entry", "mode", "match_spacing"):
            getattr(session.events, field).connect(self._on_values, max_args=0)
        session.recoveries = tuple(locations.recoveries())

    # -- what is said --------------------------------------------------------------------------

    def on_change(self, image: Any, change: Change) -> None:
        """Write down what was said; the first word makes a project without a name."""
        if self.project is None:
            if change.stamp == 0 or self._closed:
                return
            self._begin()
        if image not in self._keys:
            self._add(image)
        elif self.project is not None and (change.stamp or change.origin is not Origin.STROKES):
            self.project.record(self._keys[image], change)  # a layer's beginning comes as a whole
        self._tell()

    def on_adopted(self, image: Any) -> None:
        """The strokes of an image began anew."""
        if self.project is not None and image in self._keys:
            self.project.add(self._keys[image], self._controller.truths[image], self._values())
            self._tell()

    def on_kind(self, image: Any) -> None:
        """The numbers in an image's labels mean something else."""
        if image in self._keys:
            self._on_values()

    def forget(self, image: Any) -> None:
        """An image was removed; what was said about it stays in the project."""
        self._keys.pop(image, None)

    def on_pixels(self, image: Any) -> None:
        """An image has other pixels; by these it is known where it is in no file."""
        if image in self._keys and napari_layers.path_of(image) is None:
            self._fingerprint(image, self._keys[image])
            self._on_values()

    def _begin(self) -> None:
        """Keep everything in a project that has no name yet."""
        try:
            self.project = Project.create(locations.new_recovery())
        except UserError as error:
            self._closed = True
            self._session.say(sentences.NOT_KEPT.format(error), Level.WARNING)
            return
        self._models.follow(self.project)
        for image in self._controller.truths:
            self._add(image)

    def _add(self, image: Any) -> None:
        """Take in an image with all that was said about it."""
        project = self.project
        if project is None:
            return
        if image not in self._keys:
            taken = set(project.truths)
            self._keys[image] = next(k for n in range(1, 10**6) if (k := f"image-{n}") not in taken)
            self._fingerprint(image, self._keys[image])
        project.add(self._keys[image], self._controller.truth(image), self._values())
        self._models.update()

    def _fingerprint(self, image: Any, key: str) -> None:
        stack = napari_layers.stack_of(image)

        def note(fingerprint: str) -> None:
            self._prints[key] = fingerprint
            self._on_values()

        if isinstance(stack.data, np.ndarray):  # at once, as it may be known by nothing else
            self._prints[key] = stack.fingerprint()
        else:
            self._controller.runner.query(stack.fingerprint, note, about=f"fingerprint {key}")

    # -- all that is no array ------------------------------------------------------------------

    def _on_values(self) -> None:
        if self.project is not None:
            self.project.put_values(self._values())
            self._models.update()

    def _values(self) -> dict[str, Any]:
        session, project = self._session, self.project
        assert project is not None
        images = dict(project.values.get("images", {}))
        images.update({key: self._describe(image, key) for image, key in self._keys.items()})
        return {
            "images": images,
            "structures": [
                {"number": s.number, "name": s.name, "color": s.color, "file_value": s.file_value}
                for s in session.structures
            ],
            "settings": session.settings.model_dump(mode="json"),
            "mode": str(session.mode),
            "match_spacing": session.match_spacing,
            "models": [{"name": e.name, "id": e.model.id} for e in session.history],
            "renumbered": {
                model: {str(number): other for number, other in sorted(numbers.items())}
                for model, numbers in self._controller.renumbered.items()
                if numbers and model in {entry.model.id for entry in session.history}
            },
            "in_use": session.entry.model.id if session.entry else None,
            "window": project.values.get("window", {}),
        }

    def _describe(self, image: Any, key: str) -> dict[str, Any]:
        truth, source = self._controller.truth(image), self._session.source(image)
        path = napari_layers.path_of(image)
        assert self.project is not None
        return {
            "name": image.name,
            "path": str(path) if path else None,
            "reader": napari_layers.reader_of(image) if path else None,
            "relative": _relative(path, self.project.folder),
            "fingerprint": self._prints.get(key),
            "shape": list(truth.shape),
            "dtype": truth.grid_dtype,
            "kind": str(truth.kind),
            "labels": source.labels.name if source and source.labels else None,
        }

    # -- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Called again and again: sync, save and retry when it is time, beside the window."""
        project, now = self.project, time.monotonic()
        if project is None:
            return
        self.recognise()
        self._look(project)
        if self._writing:
            return
        if self._trouble and now - self._tried > RETRY_SECONDS:
            self._tried = now
            self._models.update()
            self._write(project, partial(_save, project))
        elif now - self._synced > SYNC_SECONDS and project.unsynced:
            self._synced = now
            self._write(project, project.sync)
        elif project.unsaved_bytes > SAVE_BYTES or (
            now - self._saved > SAVE_SECONDS and project.unsaved_bytes > LITTLE
        ):
            self._saved = now
            self._write(project, partial(_save, project))

    def _write(self, project: Project, task: Callable[[], None]) -> None:
        """Write beside the window, one at a time."""

        def done(error: BaseException | None) -> None:
            self._writing = False
            if project is self.project:
                self._failure = sentences.not_written("The project", error) if error else ""
                self._tell()

        self._writing = True
        self._controller.runner.background(task, lambda _: done(None), done)

    @property
    def _trouble(self) -> str:
        """Why something is in memory alone, in a sentence; empty if all is on disk."""
        trouble = self.project.trouble if self.project is not None else ""
        return trouble or self._failure or self._models.trouble

    def _tell(self) -> None:
        """Say once that nothing can be written, and once that it can again."""
        if (trouble := self._trouble) != self._said_trouble:
            self._said_trouble = trouble
            if trouble:
                self._session.say(trouble, Level.ERROR)
            else:
                self._session.say(sentences.KEPT_AGAIN, Level.DONE)

    def close(self) -> None:
        """Write what waits and the window's state, and let others open the project."""
        self._closed = True
        project = self.project
        if project is not None:
            self._look(project)
            project.put_values({**project.values, "window": self._window})
            self._models.update()  # what could not be written is tried once more
            self._leave(project, project.close)
        self.project = None
        self._models.follow(None)

    def _leave(self, project: Project, close: Callable[[], None]) -> None:
        """Close a project after all that is still to be written to it."""

        def closed(_: object) -> None:
            self._session.recoveries = tuple(locations.recoveries())

        def failed(error: BaseException) -> None:
            self._session.say(sentences.not_written(project.folder.name, error), Level.ERROR)

        self._controller.runner.background(close, closed, failed)

    def _look(self, project: Project) -> None:
        """Remember where the window looks: without its layers it looks nowhere."""
        image = self._keys.get(self._session.image)
        if image is not None:
            self._window = {**napari_layers.window_state(self._controller.viewer), "image": image}
        elif not self._window:
            self._window = project.values.get("window", {})

    # -- projects with a name ------------------------------------------------------------------

    def save_as(self, folder: Path) -> None:
        """Keep everything in a new folder from now on."""
        controller = self._controller
        with controller.refusing():
            controller.check_free()
            if self.project is None:
                self._closed = False
                self._begin()
            if self.project is None:
                return
            work = CopyWork(self.project, folder)
            controller.start(JobKind.MODEL, f"Saving {folder.name}", work, self._on_copied)

    def _on_copied(self, copy: Project) -> None:
        before, self.project = self.project, copy
        self._failure = ""
        self._models.follow(copy)
        if before is not None:
            copy.catch_up(before)
        self._on_values()
        if before is not None:
            useless = self._session.project is None and not copy.trouble
            self._leave(before, partial(_close, before, useless=useless))
        self._named(copy.folder)
        self._session.say(f"Everything is saved in {copy.folder} from now on.", Level.DONE)

    def report(self, output: Path, on_page: Callable[[Path], None]) -> None:
        """Write a page about what was done into a folder; ``on_page`` is called with its file."""
        controller, project = self._controller, self.project
        with controller.refusing():
            controller.check_free()
            if project is None or not self._keys:
                raise UserError(sentences.NOTHING_TO_REPORT)
            stacks = {key: napari_layers.stack_of(image) for image, key in self._keys.items()}
            named = self._session.project
            title = named.name if named else ", ".join(image.name for image in self._keys)
            work = ReportWork(project.folder, output, title, stacks)

            def done(page: Path) -> None:
                self._session.say(f"The report is {page}.", Level.DONE)
                on_page(page)

            controller.start(JobKind.EXPORT, "Writing the report", work, done)

    def open(self, folder: Path) -> None:
        """Open a project: its images, labels, models and settings."""
        controller = self._controller
        with controller.refusing():
            controller.check_free()
            if self.project is not None and self.project.folder.resolve() == folder.resolve():
                self._complete(self.project)
                return
            work = OpenWork(folder)
            controller.start(JobKind.MODEL, f"Opening {folder.name}", work, self._on_opened)

    def recover(self, recovery: locations.Recovery) -> None:
        """Open what another window left."""
        self.open(recovery.folder)

    def discard(self, recovery: locations.Recovery) -> None:
        """Delete what another window left."""
        locations.throw_away(recovery)
        self._session.recoveries = tuple(locations.recoveries())

    def _on_opened(self, found: tuple[Project, list[ModelEntry], list[str]]) -> None:
        project, entries, lost = found
        kept = self._kept()
        if self.project is not None:
            self.close()
        self._closed = False
        self._keys, self._prints, self._failure = {}, {}, ""
        with self._controller.opening():
            self._keys, missing = Restored(self._controller, project, kept).restore(entries)
            self._prints = {k: i["fingerprint"] for k, i in project.values["images"].items()}
            self.project = project
        self._models.follow(project, [entry.model.id for entry in entries])
        self._named(None if _is_nameless(project) else project.folder)
        self._session.missing = missing
        self._session.recoveries = tuple(locations.recoveries())
        self._say_open(project, [*lost, *project.lost])

    def _say_open(self, project: Project, lost: Sequence[str]) -> None:
        missing = self._session.missing
        what = "What was not saved" if _is_nameless(project) else project.folder.name
        said = [f"{what} is open with all its annotations.", *lost]
        if missing:
            said.append(sentences.MISSING.format(", ".join(missing)))
        self._session.say(" ".join(said), Level.WARNING if missing or lost else Level.DONE)

    def _kept(self) -> frozenset[Any]:
        """Images of which all that was painted is in the project that is open."""
        safe = self.project is not None and not self.project.trouble
        return frozenset(self._keys) if safe else frozenset()

    def _complete(self, project: Project) -> None:
        """Make the layers that are missing of the project that is open."""
        with self._controller.opening():
            restored = Restored(self._controller, project, self._kept())
            self._keys, self._session.missing = restored.complete(self._keys)
        self._look_again(restored)
        self._say_open(project, [])

    def _look_again(self, restored: Restored) -> None:
        """Take down what was painted on layers while they were no image's."""
        for image in restored.reused:
            if (strokes := self._controller.strokes.get(image)) is not None:
                strokes.look_again()

    def find(self, path: Path) -> None:
        """Take a file for an image that was not found, and others that moved with it."""
        with self._controller.refusing():
            self._controller.check_free()
            if not self._find_missing(path):
                raise UserError(sentences.NOT_THAT_IMAGE.format(path.name))

    def recognise(self) -> None:
        """See whether an image that came is one of the project that is not open."""
        project, images = self.project, self._controller.images()
        if project is None or len(project.truths) <= len(self._keys):
            return
        seen = [(id(image), id(image.data)) for image in images]
        if seen != self._recognised:
            self._recognised = seen
            self._find_missing(None)

    def _find_missing(self, path: Path | None) -> bool:
        """Look for missing images among what is open, in a file and beside it; whether one is."""
        project, session = self.project, self._session
        if project is None:
            return False
        with self._controller.opening():
            restored = Restored(self._controller, project, self._kept())
            found, lost = restored.find(self._keys, path)
            self._keys.update(found)
            if found:
                self._controller.choose_image(next(iter(found)))
        self._look_again(restored)
        if found:
            session.missing = tuple(name for name in session.missing if name in lost)
            self._on_values()
            names = ", ".join(image.name for image in found)
            session.say(f"{names} is open with all its annotations.", Level.DONE)
        return bool(found)

    def _named(self, folder: Path | None) -> None:
        self._session.project = folder
        if folder is not None:
            locations.remember(folder)


def _is_nameless(project: Project) -> bool:
    return project.folder.parent == locations.recovery_folder()


def _close(project: Project, *, useless: bool) -> None:
    """Close a project, and delete it where another one has all of it."""
    project.close()
    if useless:
        locations.throw_away(locations.Recovery(project.folder, (), 0.0))


def _save(project: Project) -> None:
    try:
        project.save()
    except UserError:
        return  # its trouble says why


def _relative(path: Path | None, folder: Path) -> str | None:
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return None
