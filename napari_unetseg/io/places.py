"""Where projects are: those without a name yet, and those that were opened last."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import platformdirs

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.file_locks import try_lock
from napari_unetseg.io.contents import FILE
from napari_unetseg.io.journal import read_headers

__all__ = [
    "Recovery",
    "new_recovery",
    "recent",
    "recoveries",
    "recovery_folder",
    "remember",
    "throw_away",
]

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
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
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
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    values, said = content["values"], bool(content["snapshot"])
    for path in sorted(folder.glob("journal-*")):
        for header in read_headers(path):
            values = header["values"] if header["kind"] == "state" else values
            said = said or header["kind"] in ("said", "together")
    return tuple(str(image["name"]) for image in values.get("images", {}).values()) if said else ()


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
