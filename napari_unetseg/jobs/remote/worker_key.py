"""Shared secret of a worker and its users, in files that only their user can read."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

import platformdirs

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.project.locations import PLUGIN

KEY = re.compile(r"[\w-]{22,200}", re.ASCII)
"""At least the 128 bits of 22 characters."""


def key_path(address: str = "") -> Path:
    """Key file of the worker at an address; without one, of this user's workers."""
    name = f"remote-{re.sub(r'[^a-zA-Z0-9.-]', '_', address)}" if address else "worker"
    return Path(platformdirs.user_config_dir(PLUGIN, appauthor=False)) / f"{name}.key"


def worker_key() -> str:
    """The key of this user's workers, created at first use; `UserError` where that fails."""
    if not key_path().exists():
        save_key("", secrets.token_urlsafe(32))
    return _read(key_path())


def save_key(address: str, key: str) -> None:
    """Store the key of the worker at an address; `UserError` if invalid or on failure."""
    if not KEY.fullmatch(key):
        raise UserError(
            "The text after the address is no key; copy the whole line 'ADDRESS KEY' that "
            "'unetseg worker' prints."
        )
    path = key_path(address)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)  # readable by this user alone
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{key}\n")
        Path(temporary).replace(path)
    except OSError as error:
        raise UserError(f"The key cannot be written to {path}: {error.strerror}.") from error


def key_for(address: str, file: Path | None = None) -> bytes:
    """The key of the worker at an address.

    Parameters
    ----------
    address
        Such as ``127.0.0.1:8786``.
    file
        Key file; None: the one stored for this address, else that of this user's own workers.

    Raises
    ------
    UserError
        There is none.
    """
    kept = (path for path in (key_path(address), key_path()) if path.exists())
    found = file or next(kept, None)
    if found is None:
        raise UserError(
            f"The key of the worker at {address} is not known here yet: choose 'ADDRESS KEY' as "
            "computer in the dock, as 'unetseg worker' prints it, or give --key-file in a command."
        )
    return _read(found).encode()


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            key = file.read(1000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The key file {path} cannot be read: {error}.") from error
    if not KEY.fullmatch(key):
        raise UserError(f"{path} holds no key; copy the key file of the worker again.")
    return key
