"""The word to a running job: thread-safe, read by the job between two steps."""

from __future__ import annotations

import threading
from typing import Any


class JobControl:
    """What a running job may be told between two steps.

    Any thread may call any method. The job looks at it after every step, so that a stop
    takes effect within one step and what was learned is returned.

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

    def stop(self) -> None:
        """Ask the job to end after its current step and to return what it has."""
        self._stop.set()
        self._may_go_on.set()

    def pause(self) -> None:
        """Ask the job to wait after its current step; not every job does."""
        self._may_go_on.clear()
        if self.stopped:  # looked at afterwards, so that a stop at any moment ends the wait
            self._may_go_on.set()

    def resume(self) -> None:
        """Let a job that waits go on."""
        self._may_go_on.set()

    @property
    def paused(self) -> bool:
        """True while the job is to wait."""
        return not self._may_go_on.is_set()

    def wait(self) -> None:
        """For the job: wait while it is paused; a stop ends that too."""
        self._may_go_on.wait()

    def rest(self, seconds: float) -> None:
        """For the job: wait so long, and while it is paused; a stop ends that at once."""
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
        """Hand over newer annotated images; a job that can use them takes them after a step."""
        with self._lock:
            self._pairs = pairs

    def set_fixed_annotations(self, pairs: tuple[Any, ...]) -> None:
        """Annotations that go with whatever is offered.

        They stay as they are, so that they are not read again when newer ones come.
        """
        with self._lock:
            self._kept = pairs

    @property
    def fixed(self) -> tuple[Any, ...]:
        """The annotations that stay as they are."""
        with self._lock:
            return self._kept

    def pop_annotations(self) -> tuple[Any, ...] | None:
        """Newer annotations, once; None when there are none."""
        with self._lock:
            pairs, self._pairs = self._pairs, None
            return None if pairs is None else (*pairs, *self._kept)


Control = JobControl
"""The name of earlier versions."""
