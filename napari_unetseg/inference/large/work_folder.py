"""Hidden work folder of an output: its lock and its chunks."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.file_locks import LockOwner, OutputLock

DELETED = "deleted-"
"""Prefix of folders that are being deleted."""
OLD_STORE = ("labels", "0", "zarr.json")
"""Layout of earlier versions, with the store in the folder itself."""


class WorkFolder:
    """The work folder of one output, locked by one program.

    Chunks lie in a store that is named after the model, image and settings that they are of
    (`Plan.digest`), so that no two programs ever write different bytes to one place: not even
    where locks do nothing, or where workers go on after the program that began them was killed.

    Parameters
    ----------
    path
        The folder; created when needed and removed when empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = OutputLock(path)

    @property
    def refused(self) -> str:
        """Why the file system gives no locks; empty where it does."""
        return self._lock.refused

    def take(self) -> LockOwner | None:
        """Lock it, or return the owner; `UserError` where the folder cannot be written.

        Partial files of a killed program are deleted.
        """
        try:
            owner = self._lock.take()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"Cannot write to {self.path.parent} ({reason}); choose another folder."
            ) from error
        if owner is None:
            self._delete(entry for entry in self._contents() if not _is_store(entry))
        return owner

    def release(self) -> None:
        """Unlock it; chunks stay."""
        self._lock.release()

    def unfinished(self) -> bool:
        """Whether it holds chunks."""
        return any(map(_is_store, self._contents()))

    def store(self, digest: str) -> Path:
        """The store of a plan; those of others are deleted."""
        store = self.path / digest
        old = [self.path / name for name in OLD_STORE if (self.path / name).exists()]
        if old and not store.exists():  # of a version that had one store for all plans
            store.mkdir()
            for part in old:
                part.rename(store / part.name)
        self._delete(entry for entry in self._contents() if entry != store)
        return store

    def clear(self) -> None:
        """Delete the chunks of a finished output."""
        self._delete(self._contents())

    def _contents(self) -> Iterator[Path]:
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in self.path.iterdir():
                if entry.name not in self._lock.files:
                    yield entry

    @staticmethod
    def _delete(entries: Iterable[Path]) -> None:
        for entry in list(entries):
            gone = entry.with_name(f"{DELETED}{secrets.token_hex(4)}")
            with suppress(OSError):
                entry.rename(gone)
            for path in (entry, gone):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink()


def _is_store(entry: Path) -> bool:
    kept = entry.is_dir() or entry.name in OLD_STORE
    return kept and not entry.name.startswith(DELETED)
