"""Python interpreter settings for a job beside a window."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HAND_OVER = 0.0005
"""Seconds after which a thread hands Python's lock over to one that waits, 5 ms by default: Qt
gives the lock away and takes it again many times an event, and waited as often for the worker."""

_lock = threading.Lock()
_jobs, _usual = 0, 0.0


@contextmanager
def responsive_window() -> Iterator[None]:
    """Keep a window responsive while a job runs; the last job to end undoes it.

    Threads hand Python's lock over sooner, and full garbage collections leave out what was there
    before, PyTorch's half a million objects above all: looking at these takes half a second, in
    which the window stands still.
    """
    global _jobs, _usual
    with _lock:
        _jobs += 1
        if _jobs == 1:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(HAND_OVER, _usual))
    gc.freeze()
    try:
        yield
    finally:
        with _lock:
            _jobs -= 1
            if _jobs == 0:
                sys.setswitchinterval(_usual)
                gc.unfreeze()  # layers that were removed meanwhile can be freed now
