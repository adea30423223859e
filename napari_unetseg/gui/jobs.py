"""Runs a generator in a thread and hands its events to the GUI; the only file of gui with threads.

A job is a generator function of events. `ThreadRunner` runs it in a worker thread; its `pump` is
called by a timer of the GUI thread and calls the job's callbacks there. `SyncRunner` does the
same at once, for tests and scripts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from napari_unetseg.core.control import Control
from napari_unetseg.core.events import Event, StepDone, TilePredicted

__all__ = ["HAND_OVER", "Inbox", "Job", "Runner", "SyncRunner", "ThreadRunner"]

log = logging.getLogger(__name__)

Work = Callable[[Control], Generator[Event, None, Any]]

TILE_BYTES = 32 * 2**20
"""Tiles that may wait for the GUI thread before the worker has to wait."""
STEP_SECONDS = 0.1
"""The newest step is shown this often at most."""
PUMP_SECONDS = 0.008
"""Time that one pump may take before the event loop gets its turn."""
HAND_OVER = 0.0005
"""Seconds after which a thread hands Python's lock over to one that waits, 5 ms by default: Qt
gives the lock away and takes it again many times an event, and waited as often for the worker."""
NICENESS = 10
"""How far the worker steps back behind the window, on Linux."""


@dataclass(eq=False)
class Job:
    """Work, the word to it, and whom to tell; callbacks run in the GUI thread."""

    work: Work
    on_event: Callable[[Event], None]
    on_done: Callable[[Any], None]
    on_error: Callable[[BaseException], None]
    control: Control = field(default_factory=Control)


class Runner(Protocol):
    """Runs one job at a time, and short questions beside it."""

    @property
    def busy(self) -> bool:
        """Whether a job runs or has not been answered yet."""

    def start(self, job: Job) -> None:
        """Run a job; its answers arrive through its callbacks."""

    def ask(
        self, question: Callable[[], Any], on_answer: Callable[[Any], None], about: str = ""
    ) -> None:
        """Compute something short beside the job; a newer question replaces a waiting one.

        Questions about different things do not wait for each other.
        """

    def pump(self) -> None:
        """Hand over what has arrived; called in the GUI thread."""

    def close(self, seconds: float = 10.0) -> bool:
        """Stop, forget all callbacks and wait for the worker; False if it did not end in time."""


class Inbox:
    """Events on their way from a worker to the GUI thread.

    Of steps only the newest is kept. Everything else arrives whole and in order; a worker whose
    tiles pile up waits until they are taken.
    """

    def __init__(self, limit: int = TILE_BYTES) -> None:
        self._limit = limit
        self._ready = threading.Condition()
        self._events: deque[Event] = deque()
        self._step: StepDone | None = None
        self._step_shown = 0.0
        self._bytes = 0
        self._closed = False
        self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None

    def put(self, event: Event) -> None:
        """Add an event; waits while too many tiles have not been taken."""
        with self._ready:
            if self._closed:
                return
            if isinstance(event, StepDone):
                self._step = event
                return
            self._events.append(event)
            if isinstance(event, TilePredicted):
                self._bytes += event.mask.nbytes
                self._ready.wait_for(lambda: self._closed or self._bytes <= self._limit)

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """The worker is done: nothing comes after this."""
        with self._ready:
            self.result, self.error, self.ended = result, error, True

    def close(self) -> None:
        """Nobody listens any more: forget everything and let the worker go."""
        with self._ready:
            self._closed = True
            self._events.clear()
            self._ready.notify_all()

    @property
    def finished(self) -> bool:
        """The worker is done and everything was taken."""
        with self._ready:
            return self.ended and not self._events

    def take(self, now: float) -> Iterator[Event]:
        """Yield what has arrived, the newest step first if one is due."""
        with self._ready:
            step, due = self._step, now - self._step_shown >= STEP_SECONDS
            if step is not None and due:
                self._step, self._step_shown = None, now
        if step is not None and due:
            yield step
        while True:
            with self._ready:
                if not self._events:
                    return
                event = self._events.popleft()
                if isinstance(event, TilePredicted):
                    self._bytes -= event.mask.nbytes
                    self._ready.notify_all()
            yield event


class _Questions:
    """Questions about one thing: one is thought about, the newest other one waits."""

    def __init__(self) -> None:
        self._waiting: tuple[Callable[[], Any], Callable[[Any], None]] | None = None
        self._asked: tuple[threading.Thread, list[Any], Callable[[Any], None]] | None = None

    def ask(self, question: Callable[[], Any], on_answer: Callable[[Any], None]) -> None:
        self._waiting = (question, on_answer)
        self._ask_next()

    def _ask_next(self) -> None:
        if self._asked is not None or self._waiting is None:
            return
        (question, on_answer), self._waiting = self._waiting, None
        answer: list[Any] = []

        def think() -> None:
            try:
                answer.append(question())
            except Exception:
                log.exception("a question beside the job failed")

        thread = threading.Thread(target=think, name="unetseg-question", daemon=True)
        self._asked = (thread, answer, on_answer)
        thread.start()

    def pump(self) -> bool:
        """Hand over an answer; whether there is more to come."""
        if self._asked is not None and not self._asked[0].is_alive():
            (_, answer, on_answer), self._asked = self._asked, None
            if answer and self._waiting is None:
                on_answer(answer[0])
            self._ask_next()
        return self._asked is not None

    def close(self) -> threading.Thread | None:
        asked, self._asked, self._waiting = self._asked, None, None
        return None if asked is None else asked[0]


class ThreadRunner:
    """Runs jobs in a worker thread.

    Parameters
    ----------
    prepare
        Called in the worker before every job, such as to import PyTorch without a stall.
    """

    def __init__(self, prepare: Callable[[], None] | None = None) -> None:
        self._prepare = prepare
        self._job: Job | None = None
        self._inbox: Inbox | None = None
        self._thread: threading.Thread | None = None
        self._questions: dict[str, _Questions] = {}

    @property
    def busy(self) -> bool:
        """Whether a job runs or has not been answered yet."""
        return self._job is not None

    def start(self, job: Job) -> None:
        """Run a job in a thread of its own; ``RuntimeError`` while another one runs."""
        if self.busy:
            raise RuntimeError("a job runs already")
        self._job, self._inbox = job, Inbox()
        sys.setswitchinterval(min(HAND_OVER, sys.getswitchinterval()))
        self._thread = threading.Thread(
            target=self._work, args=(job, self._inbox), name="unetseg-job", daemon=True
        )
        self._thread.start()

    def _work(self, job: Job, inbox: Inbox) -> None:
        try:
            if self._prepare is not None:
                self._prepare()
            _step_back()
            inbox.end(_exhaust(job.work(job.control), inbox.put))
        except BaseException as error:
            log.info("the job failed", exc_info=True)
            inbox.end(error=error)

    def ask(
        self, question: Callable[[], Any], on_answer: Callable[[Any], None], about: str = ""
    ) -> None:
        """Compute something short in a thread of its own, one at a time of what it is about."""
        self._questions.setdefault(about, _Questions()).ask(question, on_answer)

    def pump(self) -> None:
        """Hand over what has arrived, for some milliseconds at most."""
        for about, questions in tuple(self._questions.items()):
            if not questions.pump() and self._questions.get(about) is questions:
                del self._questions[about]
        job, inbox = self._job, self._inbox
        if job is None or inbox is None:
            return
        start = time.perf_counter()
        for event in inbox.take(start):
            job.on_event(event)
            if self._job is not job or time.perf_counter() - start > PUMP_SECONDS:
                return
        if inbox.finished:
            self._job = self._inbox = self._thread = None
            if inbox.error is not None:
                job.on_error(inbox.error)
            else:
                job.on_done(inbox.result)

    def close(self, seconds: float = 10.0) -> bool:
        """Stop the job and wait for it; late answers are dropped."""
        job, inbox, thread = self._job, self._inbox, self._thread
        self._job = self._inbox = self._thread = None
        asked = [questions.close() for questions in self._questions.values()]
        self._questions.clear()
        if job is not None and inbox is not None:
            job.control.stop()
            inbox.close()
        threads = [t for t in (thread, *asked) if t is not None]
        for one in threads:
            one.join(seconds)
        return not any(one.is_alive() for one in threads)


class SyncRunner:
    """Runs everything at once in the calling thread."""

    def __init__(self) -> None:
        self.busy = False

    def start(self, job: Job) -> None:
        """Run a job to its end; callbacks are called on the way."""
        self.busy = True
        try:
            result = _exhaust(job.work(job.control), job.on_event)
        except Exception as error:  # noqa: BLE001 - as in a thread
            self.busy = False
            job.on_error(error)
        else:
            self.busy = False
            job.on_done(result)

    def ask(
        self,
        question: Callable[[], Any],
        on_answer: Callable[[Any], None],
        about: str = "",  # noqa: ARG002 - as every runner has it
    ) -> None:
        """Answer at once."""
        on_answer(question())

    def pump(self) -> None:
        """Nothing ever waits."""

    def close(self, seconds: float = 10.0) -> bool:  # noqa: ARG002 - as every runner has it
        """Nothing ever runs."""
        return True


def _step_back() -> None:
    """Let the window's thread go first where both want a core; PyTorch's threads inherit it.

    Linux alone gives each thread a niceness of its own.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _exhaust(events: Generator[Event, None, Any], put: Callable[[Event], None]) -> Any:
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        put(event)
