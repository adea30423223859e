"""Project folders: annotations, models and settings of a session.

A folder holds ``project.sqlite3``, ``models/`` and, while it is open, ``.lock``. Annotations are
rows of the database, one for each chunk that a change touches; a change is a transaction.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from napari_unetseg.annotations.annotation_time import AnnotationTime
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.file_locks import try_lock
from napari_unetseg.io.project.database import (
    Database,
    check_folder,
    read_annotations,
    read_places,
    read_rows,
    read_state,
    reading,
)
from napari_unetseg.io.project.label_rows import SMALL, Columns, columns_of, split_change
from napari_unetseg.io.project.row_index import (
    ChunkKey,
    RowIndex,
    chunks_in,
    chunks_of,
    joined_row,
)

if TYPE_CHECKING:
    from filelock import FileLock

    from napari_unetseg.annotations.annotation_store import AnnotationChange, ImageAnnotations
    from napari_unetseg.io.project.place_rows import CheckedPlace

BATCH = 64
"""Maximum number of chunks joined in one transaction while the user paints: a few ms."""
COMMIT_BYTES = 2**13
"""Approximate bytes that a transaction adds to the log beside labels."""


class Project:
    """An open project, or a copy that was read.

    Attributes
    ----------
    folder
        The project folder.
    values
        All values that are not arrays, as for `put_values`.
    by_image
        The annotations of each image, by its key.
    places
        What was drawn to check the quality of the mask, by number.
    effort
        The annotation effort.
    trouble
        Why nothing is written at the moment, in a sentence; empty if there is no error.
    lost
        Sentences about what could not be read.
    unsynced
        Whether a power failure could lose data.
    unsaved_bytes
        Bytes written since the last `save` began.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {}
        self.by_image: dict[str, ImageAnnotations] = {}
        self.places: dict[int, CheckedPlace] = {}
        self.effort = AnnotationTime()
        self.trouble = ""
        self.lost: list[str] = []
        self.unsynced, self.unsaved_bytes = False, 0
        self._lock = threading.RLock()  # guards the database and the fields below
        self._saving = threading.Lock()  # one `save` at a time
        self._file_lock: FileLock | None = None
        self._database: Database | None = None
        self._rows = RowIndex()
        self._is_behind = False  # something is only in memory
        self._is_foreign = False  # the file's rows differ from the index
        self._since_copy: set[ChunkKey] = set()

    # -- open and close ------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Create a project in a new or empty folder.

        Raises
        ------
        UserError
            The folder is not empty, or cannot be written.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty; choose a new folder for the project.")
        project = cls(folder)
        with project._claimed("made"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "models").mkdir()
            project._acquire()
            project._database = Database(folder)
        return project

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a project with all annotations, also after a crash.

        Raises
        ------
        UserError
            It is no project, is damaged or open in another window, or of another version.
        """
        check_folder(folder)
        project = cls(folder)
        with project._claimed("opened"):
            project._acquire()
            project._read()
            project._database = Database(folder)
        return project

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the current state of a project, which may be open elsewhere; read-only.

        Raises
        ------
        UserError
            It is no project, is damaged, or of another version.
        """
        project = cls(folder)
        project._read()
        return project

    def _read(self) -> None:
        damaged = 0
        with reading(self.folder) as connection:
            self.values, self.effort.seconds = read_state(connection)
            self.by_image = read_annotations(connection)
            for row in read_rows(connection, self.by_image):
                if row is None:
                    damaged += 1
                    continue
                number, key, change = row
                self.by_image[key].put(change)
                self._rows.read(number, key, change, self.by_image[key])
            found = list(read_places(connection, self.by_image))
            self.places = {place.number: place for place in found if place is not None}
            damaged += len(found) - len(self.places)
        if damaged:
            self.lost.append(f"Part of what was saved is damaged and left out: {damaged} pieces.")

    def close(self) -> None:
        """Write pending changes and release the project."""
        try:
            with suppress(UserError):
                self.save()
        finally:
            with self._saving, self._lock:
                if self._database is not None:
                    with suppress(sqlite3.Error):
                        self._database.close()
                self._database = None
            self._release()

    @contextmanager
    def _claimed(self, done: str) -> Iterator[None]:
        """Release the lock if anything fails, and convert the error to `UserError`."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._release()
            raise UserError(_cannot(done, self.folder, error)) from error
        except BaseException:
            self._release()
            raise

    def _acquire(self) -> None:
        self._file_lock = try_lock(self.folder / ".lock")
        if self._file_lock is None:
            raise UserError(f"{self.folder.name} is open in another window; close it there first.")

    def _release(self) -> None:
        if self._file_lock is not None:
            with suppress(OSError):
                self._file_lock.release()

    # -- recording -----------------------------------------------------------------------------

    def record(self, key: str, change: AnnotationChange) -> None:
        """Write a change of an image's annotations; never raises, see `trouble`."""
        with self._lock:
            self.effort.count_change(time.monotonic())
            dtype = self.by_image[key].grid(change.origin).dtype
            new_id = self._rows.new_id
            rows = [columns_of(new_id(), key, one, dtype) for one in split_change(change)]
            if self._write(rows):
                self._rows.changes += [row[0] for row in rows]
            chunks = list(chunks_in(key, change.origin, change.region))
            self._rows.dirty.update(chunks)
            self._since_copy.update(chunks)

    def add(
        self, key: str, annotated: ImageAnnotations, naming: dict[str, Any] | None = None
    ) -> None:
        """Add an image with all of its annotations, atomically.

        ``naming`` are the `values` that contain the new image.
        """
        with self._lock:
            self.by_image[key] = annotated
            self.values = self.values if naming is None else naming
            before, numbers = self._rows.known(key), self._rows.number(chunks_of({key: annotated}))
            joined = (joined_row(self.by_image, chunk, number) for chunk, number in numbers.items())

            def begin(database: Database) -> None:
                database.put_images({key: annotated})
                database.delete_labels(key)

            if self._write([row for row in joined if row is not None], begin):
                self._rows.begin(key, numbers)
            else:
                self._rows.dirty.update(before, numbers)
            self._since_copy.update(before, numbers)

    def put_values(self, values: dict[str, Any]) -> None:
        """Write the values that are not arrays, if they changed; they must be JSON."""
        with self._lock:
            if values != self.values:
                self.values = values
                self._write((), lambda database: database.put_images(self.by_image))

    def put_places(self, places: Iterable[CheckedPlace], removed: Iterable[int] = ()) -> None:
        """Write down places of a check, and forget others by their numbers."""
        with self._lock:
            new, gone = {place.number: place for place in places}, list(removed)
            self.places = {n: p for n, p in (self.places | new).items() if n not in gone}
            self._write((), lambda database: database.put_places(new.values(), gone))

    def _write(
        self, rows: Collection[Columns], begin: Callable[[Database], object] | None = None
    ) -> bool:
        """Write rows after calling ``begin``; skipped if older changes are only in memory."""
        try:
            if self._database is not None and not self._is_behind:
                with self._database.transaction():
                    if begin is not None:
                        begin(self._database)
                    self._database.put_rows(rows)
                    values = None if begin is None else self.values
                    self._database.put_state(self.effort.seconds, values)
                self.unsynced = True
                self.unsaved_bytes += COMMIT_BYTES + sum(len(row[5]) for row in rows)
                return True
        except (OSError, sqlite3.Error) as error:
            self._fail(error)
        self._is_behind = True
        return False

    def _fail(self, error: Exception) -> None:
        self._is_behind = True
        self.trouble = (
            f"The project in {self.folder} cannot be written ({_reason(error)}); what you do is "
            "kept in memory: free some space, or save the project elsewhere."
        )

    # -- what is done beside the window --------------------------------------------------------

    def sync(self) -> None:
        """Flush to disk, to survive a power failure; from any thread."""
        database = self._database
        if database is None:
            return
        self.unsynced = False
        try:
            database.sync()
        except OSError as error:
            with self._lock:
                if database is self._database:
                    self._fail(error)

    def save(self) -> None:
        """Write changes that are only in memory, and join the rows of each chunk; from any thread.

        Raises
        ------
        UserError
            Writing failed; the earlier content is unchanged.
        """
        with self._saving:
            if self._database is None:
                return  # it was closed meanwhile and may be open in another window
            try:
                if not self._database.is_there:
                    self._reconnect()
                self._join_all()
                self._database.sync()
                with self._lock:
                    self._database.checkpoint()
            except (OSError, sqlite3.Error, UserError) as error:
                self._fail(error)
                raise UserError(self.trouble) from error

    def _reconnect(self) -> None:
        """Reconnect to the file that replaced the one that was written."""
        if not self.folder.is_dir():
            raise FileNotFoundError(2, "the folder is gone", str(self.folder))
        self._release()
        self._acquire()
        with self._lock:
            gone, self._database = self._database, Database(self.folder)
            self._is_behind = self._is_foreign = True
            self._rows.joined, self._rows.changes = {}, []
            self._rows.dirty = set(chunks_of(self.by_image))
        if gone is not None:
            with suppress(sqlite3.Error):
                gone.close()

    def _join_all(self) -> None:
        """Write one row for each changed chunk, then delete the rows of the changes.

        The new rows get their ids before the chunks are read, so that changes recorded meanwhile
        have later ids; repeating part of them is harmless. Changes that are only in memory are
        written in one transaction.
        """
        while True:
            with self._lock:
                dirty, self._rows.dirty = self._rows.dirty, set()
                changes, self._rows.changes = self._rows.changes, []
                numbers = self._rows.number(dirty)
                is_behind, self.unsaved_bytes = self._is_behind, 0
            chunks = list(numbers)
            step = max(1, len(chunks)) if is_behind else BATCH
            try:
                for start in range(0, max(is_behind, len(chunks)), step):
                    batch = {chunk: numbers[chunk] for chunk in chunks[start : start + step]}
                    is_last = start + step >= len(chunks)
                    self._put_joined(batch, changes if is_last else (), everything=is_behind)
            except BaseException:
                with self._lock:
                    self._rows.dirty |= dirty
                    self._rows.changes += changes
                raise
            if not self._is_behind:
                self.trouble = ""
                return

    def _put_joined(
        self, numbers: Mapping[ChunkKey, int], changes: Iterable[int], *, everything: bool
    ) -> None:
        """Write chunks as rows with these ids, and delete rows; also write the values."""
        rows = {chunk: joined_row(self.by_image, chunk, n, SMALL) for chunk, n in numbers.items()}
        with self._lock:
            database, joined = self._database, self._rows.joined
            assert database is not None
            for chunk in self._rows.outdated(numbers):
                del rows[chunk]
            with database.transaction():
                if self._is_foreign:
                    database.clear()
                if everything:
                    database.put_images(self.by_image)
                    database.put_state(self.effort.seconds, self.values)
                    database.put_places(self.places.values())
                database.delete_rows(changes)
                database.delete_rows(joined[chunk] for chunk in rows if chunk in joined)
                database.put_rows(row for row in rows.values() if row is not None)
            for chunk, row in rows.items():
                joined.pop(chunk, None)
                if row is not None:
                    joined[chunk] = numbers[chunk]
            self.unsynced = True
            if everything:
                self._is_behind, self._is_foreign = bool(self._rows.dirty), False

    # -- copies, models ------------------------------------------------------------------------

    def save_as(self, folder: Path) -> Project:
        """Copy the project to another folder and open the copy; this project is unchanged.

        The copy is written from memory, so that it works if the project's disk is full or removed.
        Any thread may call this while changes are recorded; `catch_up` transfers those.
        """
        copy = Project.create(folder)
        with self._lock:
            copy.values, copy.by_image = dict(self.values), dict(self.by_image)
            copy.places = dict(self.places)
            copy.effort = deepcopy(self.effort)
            self._since_copy = set()
        copy._rows.dirty, copy._is_behind = set(chunks_of(copy.by_image)), True
        try:
            for file in sorted((self.folder / "models").glob("*.safetensors")):
                shutil.copy2(file, copy.folder / "models" / file.name)
            copy.save()
        except (OSError, UserError) as error:
            copy.close()
            raise UserError(_cannot("saved", folder, error)) from error
        return copy

    def catch_up(self, before: Project) -> None:
        """Record the changes that another project received since this one was copied from it."""
        with before._lock, self._lock:
            self.by_image.update(before.by_image)
            self.values, self.places = before.values, before.places
            self.effort = before.effort  # of the same user, who continues annotating
            self._rows.dirty |= before._since_copy
            self._is_behind = True
            try:
                self._join_all()
            except (OSError, sqlite3.Error) as error:
                self._fail(error)

    def add_model(
        self, name: str, save: Callable[[Path], object], *, replace: bool = False
    ) -> Path:
        """Add a model file, or replace it; ``save`` writes it to the path that it is given."""
        path = self.folder / "models" / f"{name}.safetensors"
        if replace or not path.exists():
            save(path)
        return path

    def remove_model(self, name: str) -> None:
        """Delete a model file, as live training makes hundreds a day."""
        with suppress(OSError):
            (self.folder / "models" / f"{name}.safetensors").unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _cannot(done: str, folder: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"The project {folder} could not be {done} ({_reason(error)}); choose another folder."
