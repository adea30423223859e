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
from napari_unetseg.io.project.label_rows import SMALL, Columns, columns_of, pieces_of
from napari_unetseg.io.project.row_index import (
    Place,
    RowIndex,
    joined_row,
    places_in,
    places_of,
)

if TYPE_CHECKING:
    from filelock import FileLock

    from napari_unetseg.annotations.annotation_store import AnnotationChange, ImageAnnotations
    from napari_unetseg.io.project.place_rows import CheckedPlace

BATCH = 64
"""Chunks that are joined at once while somebody paints: a few ms."""
COMMIT_BYTES = 2**13
"""What a transaction adds to the log beside labels, about."""


class Project:
    """A project that is open, or that was read.

    Attributes
    ----------
    folder
        Where it is.
    values
        All that is no array, as `put_values` takes it.
    by_image
        What was said about each image, by its key.
    places
        What was drawn to check the quality of the mask, by number.
    effort
        How long was annotated.
    trouble
        Why nothing is written at the moment, in a sentence; empty if all is well.
    lost
        What could not be read, in sentences.
    unsynced
        Whether a power cut could lose anything.
    unsaved_bytes
        How much was written since `save` began last.
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
        self._lock = threading.RLock()  # around the database and what follows
        self._saving = threading.Lock()  # one `save` at a time
        self._held: FileLock | None = None
        self._database: Database | None = None
        self._rows = RowIndex()
        self._is_behind = False  # something is in memory alone
        self._is_foreign = False  # the file holds other rows than the index says
        self._since_copy: set[Place] = set()

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
        with project._claimed("made"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "models").mkdir()
            project._take()
            project._database = Database(folder)
        return project

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a project with all that was said in it, after a crash too.

        Raises
        ------
        UserError
            It is no project, is damaged or open in another window, or of another version.
        """
        check_folder(folder)
        project = cls(folder)
        with project._claimed("opened"):
            project._take()
            project._read()
            project._database = Database(folder)
        return project

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a project as it is now, also one that is open; nothing can be written to it.

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
        """Write what waits and let others open it."""
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
        """The lock is let go where anything fails, which is a `UserError`."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._release()
            raise UserError(_cannot(done, self.folder, error)) from error
        except BaseException:
            self._release()
            raise

    def _take(self) -> None:
        self._held = try_lock(self.folder / ".lock")
        if self._held is None:
            raise UserError(f"{self.folder.name} is open in another window; close it there first.")

    def _release(self) -> None:
        if self._held is not None:
            with suppress(OSError):
                self._held.release()

    # -- what is said --------------------------------------------------------------------------

    def record(self, key: str, change: AnnotationChange) -> None:
        """Write down what was said about an image; never raises, see `trouble`."""
        with self._lock:
            self.effort.count_change(time.monotonic())
            dtype = self.by_image[key].grid(change.origin).dtype
            new_id = self._rows.new_id
            rows = [columns_of(new_id(), key, one, dtype) for one in pieces_of(change)]
            if self._write(rows):
                self._rows.changes += [row[0] for row in rows]
            places = list(places_in(key, change.origin, change.region))
            self._rows.dirty.update(places)
            self._since_copy.update(places)

    def add(
        self, key: str, annotated: ImageAnnotations, naming: dict[str, Any] | None = None
    ) -> None:
        """Take in an image with all that was said about it until now, whole or not at all.

        ``naming`` are the `values` that name a new image.
        """
        with self._lock:
            self.by_image[key] = annotated
            self.values = self.values if naming is None else naming
            before, numbers = self._rows.known(key), self._rows.number(places_of({key: annotated}))
            joined = (joined_row(self.by_image, place, number) for place, number in numbers.items())

            def begin(database: Database) -> None:
                database.put_images({key: annotated})
                database.delete_labels(key)

            if self._write([row for row in joined if row is not None], begin):
                self._rows.begin(key, numbers)
            else:
                self._rows.dirty.update(before, numbers)
            self._since_copy.update(before, numbers)

    def put_values(self, values: dict[str, Any]) -> None:
        """Write down all that is no array, if it differs; must be JSON."""
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
        """Write rows after what ``begin`` writes; not if something older is in memory alone."""
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
        """Have the disk keep what was written through a power cut; in any thread."""
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
        """Write what is in memory alone, and join the rows of each chunk; in any thread.

        Raises
        ------
        UserError
            It could not be written; what was there is as it was.
        """
        with self._saving:
            if self._database is None:
                return  # it was closed meanwhile, and may be another window's by now
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
        """Write to the file that is in the place of the one that was written."""
        if not self.folder.is_dir():
            raise FileNotFoundError(2, "the folder is gone", str(self.folder))
        self._release()
        self._take()
        with self._lock:
            gone, self._database = self._database, Database(self.folder)
            self._is_behind = self._is_foreign = True
            self._rows.joined, self._rows.changes = {}, []
            self._rows.dirty = set(places_of(self.by_image))
        if gone is not None:
            with suppress(sqlite3.Error):
                gone.close()

    def _join_all(self) -> None:
        """Write one row for each chunk that changed, then delete those of the changes.

        The new rows are numbered before the chunks are read, so that what is recorded meanwhile is
        newer; what a chunk has of it already is only said again. What was in memory alone is
        written in one transaction.
        """
        while True:
            with self._lock:
                dirty, self._rows.dirty = self._rows.dirty, set()
                changes, self._rows.changes = self._rows.changes, []
                numbers = self._rows.number(dirty)
                is_behind, self.unsaved_bytes = self._is_behind, 0
            places = list(numbers)
            step = max(1, len(places)) if is_behind else BATCH
            try:
                for start in range(0, max(is_behind, len(places)), step):
                    batch = {place: numbers[place] for place in places[start : start + step]}
                    is_last = start + step >= len(places)
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
        self, numbers: Mapping[Place, int], changes: Iterable[int], *, everything: bool
    ) -> None:
        """Write chunks as rows with these ids and delete rows; with all that is no array, too."""
        rows = {place: joined_row(self.by_image, place, n, SMALL) for place, n in numbers.items()}
        with self._lock:
            database, joined = self._database, self._rows.joined
            assert database is not None
            for place in self._rows.outdated(numbers):
                del rows[place]
            with database.transaction():
                if self._is_foreign:
                    database.clear()
                if everything:
                    database.put_images(self.by_image)
                    database.put_state(self.effort.seconds, self.values)
                    database.put_places(self.places.values())
                database.delete_rows(changes)
                database.delete_rows(joined[place] for place in rows if place in joined)
                database.put_rows(row for row in rows.values() if row is not None)
            for place, row in rows.items():
                joined.pop(place, None)
                if row is not None:
                    joined[place] = numbers[place]
            self.unsynced = True
            if everything:
                self._is_behind, self._is_foreign = bool(self._rows.dirty), False

    # -- copies, models ------------------------------------------------------------------------

    def save_as(self, folder: Path) -> Project:
        """A copy of the project elsewhere, open; this one stays as it is.

        It is written from memory, so that a disk that is full or gone does not matter. Any thread
        may, while more is recorded here; `catch_up` brings it to the copy.
        """
        copy = Project.create(folder)
        with self._lock:
            copy.values, copy.by_image = dict(self.values), dict(self.by_image)
            copy.places = dict(self.places)
            copy.effort = deepcopy(self.effort)
            self._since_copy = set()
        copy._rows.dirty, copy._is_behind = set(places_of(copy.by_image)), True
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
            self.by_image.update(before.by_image)
            self.values, self.places = before.values, before.places
            self.effort = before.effort  # of the same person, who goes on annotating
            self._rows.dirty |= before._since_copy
            self._is_behind = True
            try:
                self._join_all()
            except (OSError, sqlite3.Error) as error:
                self._fail(error)

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


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _cannot(done: str, folder: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"The project {folder} could not be {done} ({_reason(error)}); choose another folder."
