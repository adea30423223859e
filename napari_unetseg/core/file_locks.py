"""Locks between programs, on one computer or several that share a folder.

An `OutputLock` is the operating system's lock, which ends with its process, and a file that names
the owner and is touched every few seconds. The latter is the lock itself where the file system has
none, or one that other computers do not see.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout, lock_descriptor

TOUCH_SECONDS = 5.0
STALE_SECONDS = 30.0
"""Seconds after which an owner on another computer that did not touch its file counts as dead."""
MAX_TRIES = 100
"""Most attempts, since an ending owner may delete lock files and folder."""
MAX_NOTE_BYTES = 4096


def try_lock(file: Path) -> FileLock | None:
    """Lock a permanent file; None while another process has it locked."""
    lock = FileLock(file, thread_local=False)  # opened and closed by different threads
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


@cache
def _machine() -> str:
    """A name of this computer, and on Linux of the process namespace."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    return f"{socket.gethostname()}-{uuid.getnode():x}"


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The owner of a lock."""

    process: int = 0
    host: str = ""
    machine: str = ""
    """Process id, computer name, and unique id of the computer."""
    since: float = 0.0
    """When it took the lock, seconds since 1970."""
    token: str = ""
    """Unique id of this lock."""

    @property
    def is_here(self) -> bool:
        """Whether it runs on this computer."""
        return self.machine == _machine()

    def __str__(self) -> str:
        if not self.process:
            return "another program"
        where = "this computer" if self.is_here else self.host
        begun = datetime.fromtimestamp(self.since)
        when = f"{begun:%H:%M:%S}"
        if begun.date() != datetime.now().date():
            when = f"{begun:%Y-%m-%d %H:%M}"
        return f"process {self.process} on {where}, since {when}"


class OutputLock:
    """The lock of an output of several files or steps.

    Its folder is made for it and removed with it when empty.

    Parameters
    ----------
    folder
        A hidden folder for lock files alone.

    Attributes
    ----------
    refused
        Why the file system has no locks, in the system's words; empty where it has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused = ""
        self._file, self._note = folder / "lock", folder / "owner.json"
        self._handle: int | None = None
        self._mine = LockOwner()
        self._stop = threading.Event()
        self._toucher: threading.Thread | None = None
        self._seen: tuple[str, int] | None = None
        self._seen_at = 0.0

    @property
    def files(self) -> tuple[str, str]:
        """Names of its files in the folder."""
        return self._file.name, self._note.name

    def take(self) -> LockOwner | None:
        """Take the lock, or return its owner; never waits.

        Call it again on the same object to wait: an owner on another computer counts as dead by a
        file that did not change between two calls.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        handle = self._open_locked()
        if handle is None:
            return self._read_note()[0]
        try:
            owner = self._write_note()
        except FileNotFoundError:  # without locks, the folder may go at any moment
            owner = LockOwner()
        except BaseException:
            os.close(handle)
            raise
        if owner is not None:
            os.close(handle)
            return owner
        self._handle, self._stop = handle, threading.Event()
        self._toucher = threading.Thread(target=self._touch, name="unetseg-lock", daemon=True)
        self._toucher.start()
        return None

    def release(self) -> None:
        """Release the lock and remove its files, and the folder if empty."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self._stop.set()
        if self._toucher is not None:
            self._toucher.join()
        mine = self._read_note()[0] == self._mine  # else it was taken over during a suspend
        if mine:
            with suppress(OSError):
                self._note.unlink()
        if sys.platform == "win32":  # Windows cannot delete open files, which is harmless
            os.close(handle)
        if mine:
            with suppress(OSError):
                self._file.unlink()
        if sys.platform != "win32":
            os.close(handle)
        with suppress(OSError):
            self.folder.rmdir()

    # -- the operating system's lock -----------------------------------------------------------

    def _open_locked(self) -> int | None:
        """The locked lock file; None while another process has it."""
        for _ in range(MAX_TRIES):
            with suppress(FileExistsError):  # or it is deleted before it is opened
                self.folder.mkdir(parents=True)
            try:
                handle = self._open()
            except FileNotFoundError:  # an ending owner deleted the folder
                continue
            except PermissionError:
                if sys.platform == "win32":  # an ending owner is deleting it
                    return None
                raise
            try:
                locked = self._lock(handle)
                if locked and self._is_in_place(handle):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
            if not locked:
                return None
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(self._file))

    def _open(self) -> int:
        try:
            return os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if sys.platform == "win32":
                raise
            return os.open(self._file, os.O_RDONLY)  # another user's; enough to lock it locally

    def _lock(self, handle: int) -> bool:
        try:
            return lock_descriptor(handle, blocking=False)
        except OSError as error:
            self.refused = (error.strerror or str(error)).lower()
            return True  # the owner file decides

    def _is_in_place(self, handle: int) -> bool:
        """Whether the file still has its name: an ending owner deletes it while locked.

        It is opened for that, since network file systems then ask the server.
        """
        try:
            with self._file.open("rb") as other:
                return os.path.sameopenfile(handle, other.fileno())
        except OSError:
            return False

    # -- the note ------------------------------------------------------------------------------

    def _write_note(self) -> LockOwner | None:
        """Write the owner file; return a living owner instead."""
        host, token = socket.gethostname(), secrets.token_hex(8)
        mine = LockOwner(os.getpid(), host, _machine(), time.time(), token)
        for _ in range(MAX_TRIES):
            try:
                handle = os.open(self._note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                owner, changed = self._read_note()
                if changed and not self._is_dead(owner, changed):
                    return owner
                if changed:  # else its owner has just removed it
                    self._take_away(owner)
                continue
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(mine), file)
            self._await_others()
            owner = self._read_note()[0]
            if owner != mine:
                return owner
            self._mine = mine
            return None
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(self._note))

    def _read_note(self, note: Path | None = None) -> tuple[LockOwner, int]:
        """The owner in the file and its modification time; 0 without a file."""
        try:
            with (note or self._note).open("rb") as file:
                changed = os.fstat(file.fileno()).st_mtime_ns
                return _owner(json.loads(file.read(MAX_NOTE_BYTES))), changed
        except FileNotFoundError:
            return LockOwner(), 0
        except (OSError, ValueError):
            return LockOwner(), 1  # half written, or of a newer version

    def _is_dead(self, owner: LockOwner, changed: int) -> bool:
        """Whether the owner is known to be dead; the operating system's lock is held here."""
        if owner.is_here and not (self.refused and _is_alive(owner.process)):
            return True
        if self._seen != (owner.token, changed):
            self._seen, self._seen_at = (owner.token, changed), time.monotonic()
        return time.monotonic() - self._seen_at > STALE_SECONDS

    def _take_away(self, owner: LockOwner) -> None:
        """Remove a dead owner's file; put back that of a program that just did the same."""
        aside = self._note.with_name(f"{self._note.name}.{secrets.token_hex(4)}")
        with suppress(FileNotFoundError):
            self._note.rename(aside)
            if self._read_note(aside)[0] == owner:
                aside.unlink()
            else:
                aside.replace(self._note)

    def _await_others(self) -> None:
        """Wait until no program has a file aside that it may put back; a killed one leaves it."""
        for _ in range(MAX_TRIES):
            if not any(self.folder.glob(f"{self._note.name}.*")):
                return
            time.sleep(0.001)

    def _touch(self) -> None:
        while not self._stop.wait(TOUCH_SECONDS):
            if self._read_note()[0] == self._mine:
                with suppress(OSError):
                    os.utime(self._note)


def _owner(values: Any) -> LockOwner:
    """The owner from the file's text; unknown if invalid."""
    kinds = {"process": int, "host": str, "machine": str, "since": float, "token": str}
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        return LockOwner()
    if not all(type(values[key]) is kind for key, kind in kinds.items()):
        return LockOwner()
    sound = 0 < values["process"] < 2**31 and 0 < values["since"] < 2**32
    return LockOwner(**values) if sound and values["host"].isprintable() else LockOwner()


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # on Windows os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with suppress(OSError):  # Linux: a zombie process
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
