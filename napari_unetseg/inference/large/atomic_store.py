"""Zarr folder store with atomic writes, in which a missing chunk is an error."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from zarr.storage import LocalStore

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

PARTIAL = re.compile(r"\.(?:zarr|\d+)-\w{8}(?:\.json)?")
"""Temporary file names of `atomic_path` for chunks and metadata."""
CHUNK = re.compile(r"(?:^|/)c(?:/\d+)+$")
"""Keys of chunks."""


class FolderStore(LocalStore):
    """Zarr's local store with atomic, flushed writes.

    Every existing file is complete, even after a power failure. A missing chunk is an error, not
    zeros, and nothing is written after the store was deleted.
    """

    def __str__(self) -> str:
        return str(self.root)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a file; `UserError` where it is a chunk and not there."""
        return self._checked(key, await super().get(key, prototype, byte_range))

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a file; as `get`."""
        return self._checked(key, super().get_sync(key, prototype=prototype, byte_range=byte_range))

    def _checked(self, key: str, value: Buffer | None) -> Buffer | None:
        if value is None and CHUNK.search(key):
            raise UserError(f"{self.root / key} is missing; give the same command again.")
        return value

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file; `UserError` when the disk is full or the folder cannot be written."""
        self._check_writable()
        await asyncio.to_thread(self._write, key, value.to_bytes())

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file; as `set`."""
        self._check_writable()
        self._write(key, value.to_bytes())

    def _write(self, key: str, data: bytes) -> None:
        if CHUNK.search(key) and not self.has("zarr.json"):
            raise UserError(
                f"{self.root} was removed while it was written to; give the same command again."
            )
        with atomic_path(self.root / key) as temporary:
            temporary.write_bytes(data)

    def has(self, key: str) -> bool:
        """Whether a key is stored, whole."""
        return (self.root / key).is_file()

    def tidy(self, prefix: str) -> None:
        """Delete partial files of a killed program below a key."""
        for file in (self.root / prefix).rglob(".*"):
            if PARTIAL.fullmatch(file.name) and file.is_file():
                file.unlink(missing_ok=True)
