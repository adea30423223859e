"""SQLite database of a project: schema, validation, label rows.

A single connection writes, with a write-ahead log in exclusive locking mode, which needs no shared
memory and so works on network drives too (docs/decisions/001-projects-in-sqlite.md).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
)
from napari_unetseg.annotations.annotation_time import checked_seconds
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.io.project.label_rows import Columns, change_of
from napari_unetseg.io.project.place_rows import CheckedPlace, place_columns, place_of

FILE = "project.sqlite3"
WAL = f"{FILE}-wal"
FORMAT = 3
"""Of a database with finished objects; one without them stays of format 2, with places, or 1."""
PLACES_FORMAT = 2
SCHEMA = {
    "state": "CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    "images": "CREATE TABLE images "
    "(name TEXT PRIMARY KEY, shape TEXT, dtype TEXT, kind TEXT) WITHOUT ROWID",
    "labels": "CREATE TABLE labels (id INTEGER PRIMARY KEY, image TEXT, origin TEXT, region TEXT, "
    "stamp INTEGER, labels BLOB, times BLOB, crc INTEGER)",
}
PLACES = (
    "CREATE TABLE places (id INTEGER PRIMARY KEY, image TEXT, region TEXT, weight REAL, "
    "seed INTEGER, state TEXT, seconds REAL, models TEXT, truth BLOB, crc INTEGER)"
)
"""A table that is made when the first place is written, so that older projects stay as they are."""
COLUMNS = {"state": 2, "images": 4, "labels": 8, "places": 10}
MAX_VALUE_BYTES = 2**26
MAX_COPIES = 10
IMAGE_KEY = re.compile(r"image-\d{1,6}")

# -- writing ---------------------------------------------------------------------------------------


class Database:
    """The writing connection.

    Parameters
    ----------
    folder
        The project folder. A missing database is created.

    Raises
    ------
    OSError, sqlite3.Error
        It cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        is_new = not self._path.exists()
        self._connection = _connect(self._path, "")
        try:
            if is_new:
                self._create()
            (mode,) = self._connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise sqlite3.OperationalError("there can be no write-ahead log")
            self._connection.execute("PRAGMA wal_autocheckpoint=0")
            self._connection.execute("PRAGMA synchronous=OFF")  # done by `sync` and `checkpoint`
            self._stat = self._path.stat()
        except BaseException:
            self._connection.close()
            raise

    def _create(self) -> None:
        self._connection.execute("PRAGMA user_version=1")
        with self.transaction():
            for statement in SCHEMA.values():
                self._connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction; its data are passed to the operating system when it ends."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def put_state(self, seconds: float, values: Mapping[str, Any] | None = None) -> None:
        """Write the annotation effort, and values that are not arrays if they changed."""
        state: list[tuple[str, Any]] = [("seconds", seconds)]
        if values is not None:
            state.append(("values", json.dumps(values)))
        self._put("state", state)

    def put_images(self, by_image: Mapping[str, ImageAnnotations]) -> None:
        """Write the description of the images' labels."""
        rows = [
            (key, json.dumps(list(annotated.shape)), annotated.grid_dtype, str(annotated.kind))
            for key, annotated in by_image.items()
        ]
        self._put("images", rows)

    def put_rows(self, rows: Iterable[Columns]) -> None:
        """Write label rows."""
        found = list(rows)
        if any(row[2] == LabelSource.OBJECTS for row in found):
            self._need(FORMAT)
        self._put("labels", found)

    def put_places(
        self, places: Iterable[CheckedPlace], removed: Iterable[int] | None = None
    ) -> None:
        """Write places of a check, and delete others by their ids, or all others."""
        rows = [place_columns(place) for place in places]
        if not _has_places(self._connection):
            if not rows:
                return
            self._need(PLACES_FORMAT)
        if removed is None:
            self._connection.execute("DELETE FROM places")
        else:
            self._connection.executemany("DELETE FROM places WHERE id = ?", ((i,) for i in removed))
        self._put("places", rows)

    def _need(self, version: int) -> None:
        """Raise the format of a database, so that earlier versions do not open it."""
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found < PLACES_FORMAT:
            self._connection.execute(PLACES)
        if found < version:
            self._connection.execute(f"PRAGMA user_version={version}")

    def _put(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ",".join("?" * COLUMNS[table])
        self._connection.executemany(f"REPLACE INTO {table} VALUES ({marks})", rows)

    def delete_rows(self, ids: Iterable[int]) -> None:
        """Delete label rows."""
        self._connection.executemany("DELETE FROM labels WHERE id = ?", ((i,) for i in ids))

    def delete_labels(self, image: str) -> None:
        """Delete all label rows of an image."""
        self._connection.execute("DELETE FROM labels WHERE image = ?", (image,))

    def clear(self) -> None:
        """Delete all images and their label rows."""
        self._connection.execute("DELETE FROM labels")
        self._connection.execute("DELETE FROM images")
        if _has_places(self._connection):
            self._connection.execute("DELETE FROM places")

    @property
    def is_there(self) -> bool:
        """Whether the open file is still the one at its path."""
        try:
            return os.path.samestat(self._stat, self._path.stat())
        except OSError:
            return False

    def sync(self) -> None:
        """Flush to disk, to survive a power failure; from any thread, while others write."""
        if not self.is_there:
            raise FileNotFoundError(2, "the folder is gone", str(self._path))
        handle = os.open(self._path.with_name(WAL), os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def checkpoint(self) -> None:
        """Copy the log into the database file; blocks writing."""
        self._connection.execute("PRAGMA synchronous=NORMAL")
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            self._connection.execute("PRAGMA synchronous=OFF")

    def close(self) -> None:
        """Copy the log into the database file and release it."""
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.close()


def _connect(path: Path, options: str) -> sqlite3.Connection:
    """A connection that runs no code from the file, with bounded memory."""
    uri = f"{path.absolute().as_uri()}?{options}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 2**16)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)
    safe = ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "locking_mode=EXCLUSIVE")
    for pragma in safe:
        connection.execute(f"PRAGMA {pragma}")
    return connection


# -- reading ---------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raise `UserError` unless a folder is a project that this version can open."""
    if not (folder / FILE).is_file():
        if (folder / "project.json").is_file():
            raise UserError(
                f"{folder} was made by an early version of this plugin and cannot be opened by "
                "this one; open it with that version and export its labels."
            )
        raise UserError(f"{folder} is no project: there is no {FILE} in it; choose another.")
    names = (FILE, WAL, f"{FILE}-journal", "models", ".lock")
    if any((folder / name).is_symlink() for name in names):
        raise UserError(f"{folder} holds links in place of its files; it is not opened.")


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """A validated, read-only connection to a project, which may be open elsewhere.

    Raises
    ------
    UserError
        It is no project, damaged, or of another version.
    """
    check_folder(folder)
    try:
        with ExitStack() as stack:
            path, options = folder / FILE, "mode=ro&immutable=1"
            log = folder / WAL
            if log.is_file() and log.stat().st_size:  # else SQLite would change the file
                temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                path, options = _copied(folder, Path(stack.enter_context(temporary))), ""
            connection = stack.enter_context(closing(_connect(path, options)))
            _check(connection, folder)
            yield connection
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{folder / FILE} cannot be read ({error}); free some space, or put a backup of it in "
            "its place."
        ) from error
    except (sqlite3.Error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(_damaged(folder)) from error


def _copied(folder: Path, to: Path) -> Path:
    """Copy a database and its log consistently, even if another program writes to them.

    Pages that are copied from the log to the file meanwhile remain in the log until it restarts,
    which changes its header.
    """
    for _ in range(MAX_COPIES):
        before = _log_header(folder)
        shutil.copyfile(folder / FILE, to / FILE)
        shutil.copyfile(folder / WAL, to / WAL)
        if _log_header(folder) == before:
            return to / FILE
    raise UserError(f"{folder.name} is being written; try again.")


def _log_header(folder: Path) -> bytes:
    with (folder / WAL).open("rb") as file:
        return file.read(32)


def _check(connection: sqlite3.Connection, folder: Path) -> None:
    """Raise an error if a database contains anything but the tables created here."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    found = connection.execute("SELECT type, name, sql FROM sqlite_master LIMIT 9").fetchall()
    if version > FORMAT:
        raise UserError(
            f"{folder.name} was made by another version of this plugin (format {version}, here "
            f"{FORMAT}); update the plugin to open it."
        )
    known = SCHEMA if version < PLACES_FORMAT else {**SCHEMA, "places": PLACES}
    if sorted(found) != sorted(("table", name, sql) for name, sql in known.items()):
        raise ValueError("it has other tables")
    if connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
        raise ValueError("it is damaged")


def read_state(connection: sqlite3.Connection) -> tuple[dict[str, Any], float]:
    """Values that are not arrays, and the annotation effort; `ValueError` if they are invalid."""
    state = dict(connection.execute("SELECT name, value FROM state").fetchall())
    values = json.loads(state.get("values", "{}"))
    if not isinstance(values, dict) or not isinstance(values.get("images", {}), dict):
        raise ValueError("no values")
    return values, checked_seconds(float(state.get("seconds", 0)))


def read_annotations(connection: sqlite3.Connection) -> dict[str, ImageAnnotations]:
    """Empty annotations of all images; `ValueError` if a description is invalid."""
    by_image = {}
    for key, shape, dtype, kind in connection.execute("SELECT * FROM images"):
        sizes, numbers = json.loads(shape), np.dtype(str(dtype))
        fits = IMAGE_KEY.fullmatch(key) and 2 <= len(sizes) <= 6 and numbers.kind in "biu"
        if not fits or not all(type(n) is int and 0 < n < 2**31 for n in sizes):
            raise ValueError("an image is not described as it must be")
        by_image[key] = ImageAnnotations(sizes, numbers, LabelKind(kind))
    order = sorted(by_image, key=lambda key: int(key.removeprefix("image-")))
    return {key: by_image[key] for key in order}


def read_rows(
    connection: sqlite3.Connection, by_image: Mapping[str, ImageAnnotations]
) -> Iterator[tuple[int, str, AnnotationChange] | None]:
    """Label rows in order, decoded by `change_of`; None for a damaged row."""
    for columns in connection.execute("SELECT * FROM labels ORDER BY id"):
        try:
            yield change_of(columns, by_image)
        except (KeyError, TypeError, ValueError, AttributeError):
            yield None


def read_places(
    connection: sqlite3.Connection, by_image: Mapping[str, ImageAnnotations]
) -> Iterator[CheckedPlace | None]:
    """The places of checks in order; None for one that is damaged."""
    if not _has_places(connection):
        return
    for columns in connection.execute("SELECT * FROM places ORDER BY id"):
        try:
            yield place_of(columns, by_image)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            yield None


def _has_places(connection: sqlite3.Connection) -> bool:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(version >= PLACES_FORMAT)


def _damaged(folder: Path) -> str:
    return f"{folder / FILE} is damaged, or not a project's; put a backup of it in its place."
