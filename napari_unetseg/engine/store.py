"""A Zarr store in a folder, whose files are written whole or not at all, and last."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zarr.storage import LocalStore

from napari_unetseg.core.atomic import atomic_path

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

__all__ = ["ChunkStore", "FolderStore"]

PARTIAL = re.compile(r"\.(?:zarr|\d+)-\w{8}(?:\.json)?")
"""Names of the temporary files of `atomic_path` for chunks and metadata."""


class ChunkStore(Protocol):
    """What an output asks of a Zarr store besides what Zarr does."""

    def has(self, key: str) -> bool:
        """Whether a key is stored, whole."""

    def tidy(self, prefix: str) -> None:
        """Take away what a killed program left half written below a key."""


class FolderStore(LocalStore):
    """Zarr's own store for folders, but each file is written to the disk before it gets its name.

    After a program was killed, or the power failed, a file that is there is a whole one.
    """

    def __str__(self) -> str:
        return str(self.root)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file; `UserError` when the disk is full or the folder cannot be written."""
        self._check_writable()
        await asyncio.to_thread(self._write, self.root / key, value.to_bytes())

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file; as `set`."""
        self._check_writable()
        self._write(self.root / key, value.to_bytes())

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    def has(self, key: str) -> bool:
        """Whether a key is stored, whole."""
        return (self.root / key).is_file()

    def tidy(self, prefix: str) -> None:
        """Take away what a killed program left half written below a key."""
        for file in (self.root / prefix).rglob(".*"):
            if PARTIAL.fullmatch(file.name) and file.is_file():
                file.unlink(missing_ok=True)
