"""Locations of projects (unnamed and recent ones) and of their images."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import platformdirs

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.file_locks import try_lock
from napari_unetseg.io.file_names import as_stored
from napari_unetseg.io.project.database import FILE, read_state, reading

PLUGIN = "napari-unetseg"
MOST_RECENT = 10


@dataclass(frozen=True, slots=True)
class Recovery:
    """A project that nobody named, left by a window that is gone.

    ``names`` are the images', ``when`` is the time of its last change in seconds since 1970.
    """

    folder: Path
    names: tuple[str, ...]
    when: float


def recovery_folder() -> Path:
    """Where projects without a name are."""
    return Path(platformdirs.user_data_dir(PLUGIN, appauthor=False)) / "recovery"


def is_recovery(folder: Path) -> bool:
    """Whether a project has no name yet."""
    return folder.parent == recovery_folder()


def new_recovery() -> Path:
    """A folder for a project that has no name yet."""
    day = time.strftime("%Y-%m-%d %H.%M.%S")
    for number in count():
        folder = recovery_folder() / f"{day} {os.getpid()}{f' {number}' if number else ''}"
        if not folder.exists():
            return folder
    raise AssertionError


def recoveries() -> list[Recovery]:
    """Projects without a name that hold something and that no window has open, newest first."""
    found = []
    for folder in recovery_folder().glob("*"):
        with suppress(OSError, UserError):
            if (folder / FILE).is_file() and _is_free(folder) and (names := _names(folder)):
                when = max(p.stat().st_mtime for p in folder.iterdir())
                found.append(Recovery(folder, names, when))
    return sorted(found, key=lambda r: -r.when)


def throw_away(recovery: Recovery) -> None:
    """Delete a project that was never named."""
    if recovery.folder.parent == recovery_folder() and _is_free(recovery.folder):
        shutil.rmtree(recovery.folder, ignore_errors=True)


def _is_free(folder: Path) -> bool:
    lock = try_lock(folder / ".lock")
    if lock is not None:
        lock.release()
    return lock is not None


def _names(folder: Path) -> tuple[str, ...]:
    """Names of the images that something was said about; none if the project holds nothing."""
    with reading(folder) as connection:
        said = connection.execute("SELECT 1 FROM labels LIMIT 1").fetchall()
        images = read_state(connection)[0].get("images", {}) if said else {}
        return tuple(str(image["name"]) for image in images.values())


# -- opened last -----------------------------------------------------------------------------------


def _recent_file() -> Path:
    return Path(platformdirs.user_config_dir(PLUGIN, appauthor=False)) / "recent.json"


def recent() -> list[Path]:
    """Projects that were open last and are still there, the newest first."""
    try:
        listed = json.loads(_recent_file().read_text(encoding="utf-8"))
        paths = [Path(str(path)) for path in listed]
    except (OSError, ValueError, TypeError):
        return []
    return [path for path in paths if (path / FILE).is_file()]


def remember(folder: Path) -> None:
    """A project was opened or saved; not being able to note that is no matter."""
    paths = [folder.resolve(), *(p for p in recent() if p != folder.resolve())]
    with suppress(UserError), atomic_path(_recent_file()) as path:
        path.write_text(json.dumps([str(p) for p in paths[:MOST_RECENT]]), encoding="utf-8")


# -- images ----------------------------------------------------------------------------------------


def places_of(folder: Path, described: Mapping[str, Any]) -> list[Path]:
    """Where an image of a project may be: beside the project, as it moves with it, or as before."""
    relative, path = described.get("relative"), described.get("path")
    places = [folder / relative] if isinstance(relative, str) else []
    places += [Path(path)] if isinstance(path, str) else []
    return [as_stored(place) for place in places]
