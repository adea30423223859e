"""glibc malloc thresholds that keep freed memory in the process during a job.

Every step of a training frees its large arrays and allocates the like at once; glibc returns such
pages to the system, which costs a thousand page faults a step. Not needed on macOS, Windows or
musl.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``, from malloc.h."""
KEEP = {MMAP_THRESHOLD: (1 << 30, 1 << 25), TRIM_THRESHOLD: ((1 << 31) - 1,)}
USUAL = {MMAP_THRESHOLD: (1 << 25,), TRIM_THRESHOLD: (1 << 26,)}
"""glibc raises its thresholds from 128 KiB to these as arrays are freed, and cannot be told to
find them anew once they were set; a process that held one large image has reached them."""

_lock = threading.Lock()
_jobs = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process; the last job to end gives it back to the system.

    Jobs may be nested and run in any threads. Drop what is large before the end: only free memory
    can be given back. Where the user has tuned glibc's allocator by environment variables, or there
    is no glibc, nothing is done.
    """
    global _jobs
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _jobs += 1
        if _jobs == 1:
            _set(libc, KEEP)
    try:
        yield
    finally:
        with _lock:
            _jobs -= 1
            if _jobs == 0:
                _set(libc, USUAL)
                libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, values: Mapping[int, tuple[int, ...]]) -> None:
    """Set each parameter to the first value that this version of glibc takes."""
    for parameter, wanted in values.items():
        any(libc.mallopt(parameter, value) for value in wanted)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and its allocator was left as it is."""
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or tuned or any(n.startswith("MALLOC_") for n in os.environ):
        return None
    libc = ctypes.CDLL(None)
    needed = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    return libc if all(hasattr(libc, name) for name in needed) else None
