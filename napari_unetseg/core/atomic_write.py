"""Atomic file writes."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_unetseg.core.errors import UserError


@contextmanager
def atomic_path(path: str | Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; it replaces ``path`` when the block succeeds.

    The folder is made where it does not exist; of a link the target is replaced. After a failure
    the old file is unchanged and the temporary one is gone.

    Parameters
    ----------
    path
        The file.
    scratch
        A folder on the same disk for the temporary file; by default it lies beside the file.

    Raises
    ------
    UserError
        The disk is full, or the folder cannot be written.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path = path.resolve() if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = scratch is None or scratch.stat().st_dev != path.parent.stat().st_dev
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:40]}-",
            suffix=path.suffix,
            dir=path.parent if beside else scratch,
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(_mode(path))
        temporary.replace(path)
    except OSError as error:
        raise UserError(_sentence(path, error)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder; raise `UserError` where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"Cannot write to {folder} ({reason}); choose another folder.") from error


def _mode(path: Path) -> int:
    """Permissions of the file that is replaced, or of a new file."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sentence(path: Path, error: OSError) -> str:
    kept = (
        "the old file is unchanged; " if os.path.exists(path) else ""
    )  # Path.exists raises for bad names
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{path} could not be saved, the disk is full; {kept}free some space or save elsewhere."
        )
    reason = (error.strerror or str(error)).lower()
    return f"{path} could not be saved ({reason}); {kept}choose a folder with write permission."
