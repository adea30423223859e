"""A project: a folder that keeps what people said about images, and what was learned from it.

    project.json            which snapshot and journals count; images, structures, settings, models
    snapshot-<n>/<image>/   truths as sparse Zarr arrays
    journal-<n>             what was said since, appended as it is said
    models/                 model files
    .lock                   held while a window has the project open

Opening reads the snapshot and then the journals from the snapshot's number on. Saving writes a
snapshot beside the old one and then replaces ``project.json``: at every moment the folder opens
with all that was said.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_unetseg.annotations.annotation_store import Change, Origin, Truth
from napari_unetseg.annotations.annotation_time import Effort, First
from napari_unetseg.annotations.sparse_array import Cell, planes_of
from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.file_locks import try_lock
from napari_unetseg.io.contents import FILE, FORMAT, Contents, check_folder, read_contents
from napari_unetseg.io.journal import Adopted, Frame, Journal, Said, State, Together, pack
from napari_unetseg.io.snapshot import write_truth

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["Project"]

MOST_WAITING = 2**26
"""Bytes that wait for the disk; what is beyond is written with the next snapshot."""


class Project:
    """A project that is open.

    Attributes
    ----------
    folder
        Where it is.
    values
        All that is no array, as `put_values` takes it.
    truths
        What was said about each image, by its key.
    effort
        How long was annotated, and when each plane was first predicted.
    trouble
        Why nothing is written at the moment, in a sentence; empty if all is well.
    lost
        What could not be read, in sentences.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {}
        self.truths: dict[str, Truth] = {}
        self.effort = Effort()
        self.trouble = ""
        self.lost: list[str] = []
        self._lock = threading.RLock()  # around the journal
        self._saving = threading.Lock()  # one snapshot at a time
        self._held: FileLock | None = None
        self._journal: Journal | None = None
        self._number = self._first = 0
        self._snapshot = ""
        self._waiting: list[bytes] = []
        self._overflown = self._unread = False

    # -- open and close ------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make a project in a new or empty folder.

        Raises
        ------
        UserError
            Something is there already, or the folder cannot be written.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty; choose a new folder for the project.")
        project = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "models").mkdir()
            project._take()
            project._begin_journal()
        except OSError as error:
            project._release()
            raise UserError(_cannot("made", folder, error)) from error
        project._write_file()
        return project

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a project with all that was said in it, after a crash too.

        Raises
        ------
        UserError
            It is no project, is open in another window, or comes from a newer version.
        """
        check_folder(folder)
        project = cls(folder)
        try:
            project._take()
            project._take_over(read_contents(folder))
            project._begin_journal()
        except OSError as error:
            project._release()
            raise UserError(_cannot("opened", folder, error)) from error
        except BaseException:
            project._release()
            raise
        return project

    def _take_over(self, found: Contents) -> None:
        self.values, self.truths, self.lost = found.values, found.truths, found.lost
        self.effort = found.effort
        self._snapshot, self._first, self._number = found.snapshot, found.first, found.number
        self._unread = bool(found.lost)

    def close(self) -> None:
        """Write what waits and let others open it."""
        with self._saving, self._lock:
            self.retry()
            _finish(self._journal)
            self._journal = None
        self._release()

    def _take(self) -> None:
        self._held = try_lock(self.folder / ".lock")
        if self._held is None:
            raise UserError(f"{self.folder.name} is open in another window; close it there first.")

    def _release(self) -> None:
        if self._held is not None:
            with suppress(OSError):
                self._held.release()

    # -- what is said --------------------------------------------------------------------------

    def record(self, key: str, change: Change) -> None:
        """Write down what was said about an image; never raises, see `trouble`."""
        with self._lock:
            if change.origin is Origin.FIRST:
                planes, seconds = planes_of(change.region), self.effort.seconds
                self.effort.predicted(key, planes, seconds, change.stamp)
            else:
                self.effort.word(time.monotonic())
            self._append(Said(key, change, self.effort.seconds))

    def add(self, key: str, truth: Truth, naming: dict[str, Any] | None = None) -> None:
        """Take in an image with all that was said about it until now, whole or not at all.

        ``naming`` are the `values` that name a new image; they go into the same journal, which is
        not read without.
        """
        with self._lock:
            self.truths[key] = truth
            if naming is not None:
                self.values = naming
                self._append(State(naming))
            frames: list[Adopted | Said] = [Adopted(key, truth.grid_dtype, truth.kind)]
            for origin in Origin:
                grid = truth.grid(origin)
                for cell, values, stamps in truth.chunks(origin):
                    region = grid.region_of(cell)
                    shape = [s.stop - s.start for s in region]
                    values = np.zeros(shape, grid.dtype) if values is None else values
                    stamps = np.zeros(shape, np.uint32) if stamps is None else stamps
                    if origin is Origin.FIRST:
                        first = self._first_of(key, cell[:-2], truth)
                        change = Change(origin, region, values, first.stamp)
                        frames.append(Said(key, change, first.seconds))
                        continue
                    change = Change(origin, region, values, int(stamps.max()), stamps)
                    frames.append(Said(key, change, self.effort.seconds))
            self._append(Together(tuple(frames)))

    def _first_of(self, key: str, plane: Cell, truth: Truth) -> First:
        """When a plane was first predicted; now, if it was before its image came here."""
        known = self.effort.firsts.setdefault(key, {})
        return known.setdefault(plane, First(self.effort.seconds, truth.stamp))

    def put_values(self, values: dict[str, Any]) -> None:
        """Write down all that is no array, if it differs; must be JSON."""
        if values != self.values:
            self.values = values
            self._append(State(values))

    def _append(self, frame: Frame) -> None:
        with self._lock:
            packed = pack(frame)
            if self._journal is not None and not self._waiting and not self._overflown:
                try:
                    self._journal.append(packed)
                    return
                except OSError as error:
                    self.trouble = self._sentence(error)
            if sum(map(len, self._waiting)) + len(packed) > MOST_WAITING:
                self._overflown = True  # the truths have it; a snapshot will
            else:
                self._waiting.append(packed)

    def retry(self) -> bool:
        """Write what waits, if it can be written now; whether all is well."""
        with self._lock:
            try:
                if self._journal is None:
                    return False
                if not self._journal.there:
                    self._overflown = True  # what comes back there lacks what was said since
                    raise FileNotFoundError(2, "the folder is gone", str(self.folder))
                while self._waiting:
                    self._journal.append(self._waiting[0])
                    del self._waiting[0]
            except OSError as error:
                self.trouble = self._sentence(error)
                return False
            if not self._overflown:
                self.trouble = ""
            return not self.trouble

    def sync(self) -> None:
        """Have the disk keep the journal through a power cut; in any thread."""
        journal = self._journal
        if journal is None:
            return
        try:
            journal.sync()
        except OSError as error:
            if journal is self._journal:
                self.trouble = self._sentence(error)
                self._overflown = self._overflown or not journal.there

    @property
    def journal_bytes(self) -> int:
        """How much was written since the last snapshot began."""
        return self._journal.size if self._journal is not None else 0

    @property
    def needs_saving(self) -> bool:
        """Whether something is in memory alone, so that only `save` or `retry` helps."""
        return bool(self._waiting) or self._overflown

    # -- snapshots -----------------------------------------------------------------------------

    def save(self) -> None:
        """Write a snapshot and begin a new journal; any thread may, while more is recorded.

        Raises
        ------
        UserError
            It could not be written; what was there is as it was.
        """
        with self._saving:
            if self._journal is None:
                return  # it was closed meanwhile, and may be another window's by now
            folder, behind = None, self.needs_saving
            try:
                with self._lock:
                    old = self._begin_journal()
                    first, values, described = self._number, dict(self.values), self._described()
                    truths, effort = dict(self.truths), self.effort.to_json()
                    behind = bool(self._waiting) or self._overflown
                    self._waiting.clear()  # the truths have all of it
                    self._overflown = False
                _finish(old)
                folder = self.folder / f"snapshot-{first}"
                folder.mkdir()
                for key, image in described.items():
                    (folder / key).mkdir()
                    write_truth(folder / key, truths[key], image["dtype"])
                _sync_tree(folder)
            except OSError as error:
                if folder is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                self._overflown = self._overflown or behind  # it is in the truths alone
                self.trouble = self._sentence(error)
                raise UserError(self.trouble) from error
            before = self._first, self._snapshot
            self._first, self._snapshot = first, folder.name
            try:
                self._write_file(values, described, effort)
            except UserError as error:
                self._first, self._snapshot = before
                self._overflown = self._overflown or behind
                self.trouble = str(error)
                raise
            self.trouble = self.trouble if self.needs_saving else ""
            self._sweep()

    def save_as(self, folder: Path) -> Project:
        """A copy of the project elsewhere, open; this one stays as it is.

        Any thread may, while more is recorded here; `catch_up` brings it to the copy.
        """
        copy = Project.create(folder)
        with self._lock:
            copy.values, copy.truths = dict(self.values), dict(self.truths)
            copy.effort = deepcopy(self.effort)
        try:
            for file in sorted((self.folder / "models").glob("*.safetensors")):
                shutil.copy2(file, copy.folder / "models" / file.name)
            copy.save()
        except (OSError, UserError) as error:
            copy.close()
            raise UserError(_cannot("saved", folder, error)) from error
        return copy

    def catch_up(self, before: Project) -> None:
        """Take over what was recorded in another project since this one was copied from it."""
        with before._lock, self._lock:
            self.truths.update(before.truths)
            self.effort = before.effort  # of the same person, who goes on annotating

    def add_model(self, name: str, save: Callable[[Path], object]) -> Path:
        """Keep a model file; ``save`` writes it to the path that it is given."""
        path = self.folder / "models" / f"{name}.safetensors"
        if not path.exists():
            save(path)
        return path

    def remove_model(self, name: str) -> None:
        """Keep a model file no longer: a day of live training makes hundreds."""
        with suppress(OSError):
            (self.folder / "models" / f"{name}.safetensors").unlink(missing_ok=True)

    def _begin_journal(self) -> Journal | None:
        """Write to a new journal from now on; returns the one before, to be finished."""
        number = self._number + 1
        while (self.folder / f"journal-{number}").exists():
            number += 1
        new = Journal(self.folder / f"journal-{number}")
        old, self._journal, self._number = self._journal, new, number
        return old

    def _described(self) -> dict[str, Any]:
        """Shape, type and kind of every image's labels now."""
        return {
            key: {"shape": list(t.shape), "dtype": t.grid_dtype, "kind": str(t.kind)}
            for key, t in self.truths.items()
        }

    def _write_file(
        self,
        values: dict[str, Any] | None = None,
        described: dict[str, Any] | None = None,
        effort: dict[str, Any] | None = None,
    ) -> None:
        content = {
            "format": FORMAT,
            "snapshot": self._snapshot,
            "journal": self._first,
            "images": self._described() if described is None else described,
            "values": self.values if values is None else values,
            "effort": self.effort.to_json() if effort is None else effort,
        }
        with atomic_path(self.folder / FILE) as path:
            path.write_text(json.dumps(content, indent=1))

    def _sweep(self) -> None:
        """Delete what the newest snapshot has taken the place of, but for what was not read."""
        for old in self.folder.iterdir():
            name, _, number = old.name.partition("-")
            if not number.isdigit() or int(number) >= self._first or old.is_symlink():
                continue
            with suppress(OSError):
                if name in ("snapshot", "journal") and self._unread:
                    old.rename(self.folder / f"unread-{old.name}")
                elif name == "snapshot":
                    shutil.rmtree(old)
                elif name == "journal":
                    old.unlink()
        self._unread = False

    def _sentence(self, error: OSError) -> str:
        reason = (error.strerror or str(error)).lower()
        return (
            f"The project in {self.folder} cannot be written ({reason}); what you do is kept in "
            "memory: free some space, or save the project elsewhere."
        )


def _finish(journal: Journal | None) -> None:
    if journal is not None:
        with suppress(OSError):
            journal.sync()
        journal.close()


def _sync_tree(folder: Path) -> None:
    """Have the disk keep every file of a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _cannot(done: str, folder: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return f"The project {folder} could not be {done} ({reason}); choose another folder."
