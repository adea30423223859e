"""Thread-safe control of a running job."""

from __future__ import annotations

import threading
from typing import Any


class JobControl:
    """Control of a running job from any thread.

    The job reads it after every step, so that a stop takes effect within one step and its result is
    returned.

    Parameters
    ----------
    threads
        How many CPU threads the job may use; None leaves PyTorch's own number.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._stop = threading.Event()
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._lock = threading.Lock()
        self._threads = threads
        self._pairs: tuple[Any, ...] | None = None
        self._kept: tuple[Any, ...] = ()
        self._set_aside_wanted = False

    def stop(self) -> None:
        """Ask the job to end after its current step and to return what it has."""
        self._stop.set()
        self._may_go_on.set()

    def pause(self) -> None:
        """Make the job wait after its current step, if it supports that."""
        self._may_go_on.clear()
        if self.stopped:  # checked afterwards, so that a stop at any moment ends the wait
            self._may_go_on.set()

    def resume(self) -> None:
        """Let a job that waits go on."""
        self._may_go_on.set()

    @property
    def paused(self) -> bool:
        """True while the job is to wait."""
        return not self._may_go_on.is_set()

    def wait(self) -> None:
        """Called by the job: wait while paused; a stop ends that."""
        self._may_go_on.wait()

    def rest(self, seconds: float) -> None:
        """Called by the job: wait for seconds, and while paused; a stop ends that at once."""
        self._stop.wait(seconds)
        self.wait()

    @property
    def stopped(self) -> bool:
        """True once a stop was asked for."""
        return self._stop.is_set()

    @property
    def threads(self) -> int | None:
        """Number of CPU threads the job should use from its next step on."""
        with self._lock:
            return self._threads

    @threads.setter
    def threads(self, number: int | None) -> None:
        with self._lock:
            self._threads = number

    def push_annotations(self, pairs: tuple[Any, ...]) -> None:
        """Pass newer annotated images, which the job takes after a step."""
        with self._lock:
            self._pairs = pairs

    def ask_for_set_aside(self) -> None:
        """Ask a training to go on from the model that it set aside when its agreement fell."""
        with self._lock:
            self._set_aside_wanted = True

    def pop_set_aside_request(self) -> bool:
        """Whether the model set aside was asked for; once."""
        with self._lock:
            wanted, self._set_aside_wanted = self._set_aside_wanted, False
            return wanted

    def set_fixed_annotations(self, pairs: tuple[Any, ...]) -> None:
        """Annotations used with all pushed ones.

        They never change, so that they are not read again.
        """
        with self._lock:
            self._kept = pairs

    @property
    def fixed(self) -> tuple[Any, ...]:
        """Annotations that never change."""
        with self._lock:
            return self._kept

    def pop_annotations(self) -> tuple[Any, ...] | None:
        """The pushed annotations, once; None without any."""
        with self._lock:
            pairs, self._pairs = self._pairs, None
            return None if pairs is None else (*pairs, *self._kept)


Control = JobControl
"""Alias of earlier versions."""
