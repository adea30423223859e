"""Persistent flags of the user interface, such as dismissed hints."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import platformdirs

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.state.preferences import PLUGIN

log = logging.getLogger(__name__)


class UserFlags:
    """A small JSON file in the user's configuration folder, written atomically.

    An unreadable file counts as empty; values that cannot be written are kept until napari is
    closed.
    """

    def __init__(self) -> None:
        self._unwritten: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """The file, which may not exist."""
        return Path(platformdirs.user_config_dir(PLUGIN, appauthor=False)) / "window.json"

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        return (found if isinstance(found, dict) else {}) | self._unwritten

    def flag(self, name: str) -> bool:
        """Whether a flag is set."""
        return self._read().get(name) is True

    def put(self, name: str, value: bool) -> None:
        """Set a value; changes by other windows are kept."""
        everything = self._read() | {name: value}
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(everything, indent=1), encoding="utf-8")
        except UserError as error:
            log.info("%s", error)
            self._unwritten[name] = value
        else:
            self._unwritten.clear()


user_flags = UserFlags()
"""The flags of this process."""
