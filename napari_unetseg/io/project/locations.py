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
    """An unnamed project of a window that was closed or crashed.

    ``names`` are the images', ``when`` is the Unix time of its last change.
    """

    folder: Path
    names: tuple[str, ...]
    when: float


def recovery_folder() -> Path:
    """The folder of unnamed projects."""
    return Path(platformdirs.user_data_dir(PLUGIN, appauthor=False)) / "recovery"


def is_recovery(folder: Path) -> bool:
    """Whether a project is unnamed."""
    return folder.parent == recovery_folder()


def new_recovery() -> Path:
    """A new folder for an unnamed project."""
    day = time.strftime("%Y-%m-%d %H.%M.%S")
    for number in count():
        folder = recovery_folder() / f"{day} {os.getpid()}{f' {number}' if number else ''}"
        if not folder.exists():
            return folder
    raise AssertionError


def recoveries() -> list[Recovery]:
    """Unnamed projects with content that no window has open, newest first."""
    found = []
    for folder in recovery_folder().glob("*"):
        with suppress(OSError, UserError):
            if (folder / FILE).is_file() and _is_free(folder) and (names := _names(folder)):
                when = max(p.stat().st_mtime for p in folder.iterdir())
                found.append(Recovery(folder, names, when))
    return sorted(found, key=lambda r: -r.when)


def throw_away(recovery: Recovery) -> None:
    """Delete an unnamed project."""
    if recovery.folder.parent == recovery_folder() and _is_free(recovery.folder):
        shutil.rmtree(recovery.folder, ignore_errors=True)


def _is_free(folder: Path) -> bool:
    lock = try_lock(folder / ".lock")
    if lock is not None:
        lock.release()
    return lock is not None


def _names(folder: Path) -> tuple[str, ...]:
    """Names of the annotated images; empty if the project has no content."""
    with reading(folder) as connection:
        has_labels = connection.execute("SELECT 1 FROM labels LIMIT 1").fetchall()
        images = read_state(connection)[0].get("images", {}) if has_labels else {}
        return tuple(str(image["name"]) for image in images.values())


# -- opened last -----------------------------------------------------------------------------------


def _recent_file() -> Path:
    return Path(platformdirs.user_config_dir(PLUGIN, appauthor=False)) / "recent.json"


def recent() -> list[Path]:
    """Existing projects that were opened most recently, newest first."""
    try:
        listed = json.loads(_recent_file().read_text(encoding="utf-8"))
        paths = [Path(str(path)) for path in listed]
    except (OSError, ValueError, TypeError):
        return []
    return [path for path in paths if (path / FILE).is_file()]


def remember(folder: Path) -> None:
    """Add a project to the recent ones; errors are ignored."""
    paths = [folder.resolve(), *(p for p in recent() if p != folder.resolve())]
    with suppress(UserError), atomic_path(_recent_file()) as path:
        path.write_text(json.dumps([str(p) for p in paths[:MOST_RECENT]]), encoding="utf-8")


# -- images ----------------------------------------------------------------------------------------


def image_candidates(folder: Path, described: Mapping[str, Any]) -> list[Path]:
    """Possible paths of a project's image: relative to the project, or unchanged."""
    relative, path = described.get("relative"), described.get("path")
    places = [folder / relative] if isinstance(relative, str) else []
    places += [Path(path)] if isinstance(path, str) else []
    return [as_stored(place) for place in places]
