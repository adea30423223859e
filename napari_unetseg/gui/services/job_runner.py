"""Job threads, whose events are delivered to the GUI thread.

A job is a generator function of events. `ThreadRunner` runs it in a worker thread; its `pump` is
called by a timer of the GUI thread and calls the job's callbacks there.
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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from napari_unetseg.core.events import Event, TilePredicted, finish
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.runtime.interpreter import responsive_window
from napari_unetseg.training.training_events import StepDone

log = logging.getLogger(__name__)

Work = Callable[[JobControl], Generator[Event, None, Any]]
Query = Callable[[], Any]
OnDone = Callable[[Any], None]
OnError = Callable[[BaseException], None]

TILE_BYTES = 32 * 2**20
"""Maximum bytes of queued tiles before the worker has to wait."""
STEP_SECONDS = 0.1
"""Minimum interval between steps delivered, in seconds."""
PUMP_SECONDS = 0.008
"""Maximum seconds of one pump before it returns to the event loop."""
NICENESS = 10
"""Niceness of the worker relative to the GUI thread, on Linux."""


@dataclass(eq=False)
class Job:
    """Work, its control and its callbacks, which run in the GUI thread."""

    work: Work
    on_event: Callable[[Event], None]
    on_done: Callable[[Any], None]
    on_error: Callable[[BaseException], None]
    control: JobControl = field(default_factory=JobControl)


class Runner(Protocol):
    """Runs one job at a time; queries and background tasks in parallel."""

    @property
    def busy(self) -> bool:
        """Whether a job runs or its callbacks have not been called yet."""

    def start(self, job: Job) -> None:
        """Run a job; its events and result arrive through its callbacks."""

    def query(
        self, query: Query, on_result: OnDone, on_error: OnError | None = None, *, about: str = ""
    ) -> None:
        """Compute something in parallel to the job; the latest query wins.

        One query of a topic is computed at a time, and of those that wait only the latest is kept.
        Results are always delivered, even if a later query waits: otherwise frequent queries would
        never get a result. Without ``on_error`` an error is logged.
        """

    def background(self, task: Query, on_done: OnDone, on_error: OnError) -> None:
        """Run a task for its side effects in parallel to the job.

        All tasks run to their end, in order; `close` waits for them. ``on_error`` reports an error
        to the user.
        """

    def pump(self) -> None:
        """Deliver pending events and results; called in the GUI thread."""

    def close(self, seconds: float = 10.0) -> bool:
        """Stop, drop all callbacks and wait for the worker; False if it did not end in time."""


class EventQueue:
    """Queue of events from a worker to the GUI thread.

    Only the newest step is kept. All other events are delivered in order; the worker blocks while
    too many tiles are queued.
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
        """Add an event; block while too many tiles are queued."""
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
        """Mark the worker as done: no events follow."""
        with self._ready:
            self.result, self.error, self.ended = result, error, True

    def close(self) -> None:
        """Drop all events and unblock the worker."""
        with self._ready:
            self._closed = True
            self._events.clear()
            self._ready.notify_all()

    @property
    def finished(self) -> bool:
        """Whether the worker is done and all events were taken."""
        with self._ready:
            return self.ended and not self._events

    def take(self, now: float) -> Iterator[Event]:
        """Yield queued events, the newest step first if one is due."""
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


@dataclass(eq=False)
class _Call:
    """A computation and its callbacks, which run in the GUI thread."""

    function: Query
    on_done: OnDone
    on_error: OnError
    result: Any = None
    error: BaseException | None = None

    def compute(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - reported in the GUI thread
            self.error = error

    def deliver(self) -> None:
        if self.error is None:
            self.on_done(self.result)
        else:
            self.on_error(self.error)


class _Queries:
    """Queries of one topic: one is computed, the latest other one waits.

    The thread is a daemon, so that a query that hangs does not keep the process alive.
    """

    def __init__(self) -> None:
        self._waiting: _Call | None = None
        self._running: tuple[threading.Thread, _Call] | None = None

    def ask(self, call: _Call) -> None:
        self._waiting = call
        self._begin()

    def _begin(self) -> None:
        if self._running is not None or self._waiting is None:
            return
        call, self._waiting = self._waiting, None
        thread = threading.Thread(target=call.compute, name="unetseg-query", daemon=True)
        self._running = (thread, call)
        thread.start()

    def pump(self) -> bool:
        """Deliver a result; return whether more queries are pending."""
        if self._running is not None and not self._running[0].is_alive():
            (_, call), self._running = self._running, None
            self._begin()
            call.deliver()
        return self._running is not None

    def close(self) -> threading.Thread | None:
        """Drop all queries; return the thread that still computes."""
        running, self._running, self._waiting = self._running, None, None
        return None if running is None else running[0]


class _Background:
    """Tasks that all run to their end, in order; a non-daemon thread, so that the process waits."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "unetseg-background")
        self._tasks: deque[tuple[_Call, Future[None]]] = deque()

    def add(self, call: _Call) -> None:
        self._tasks.append((call, self._thread.submit(call.compute)))

    def pump(self) -> None:
        while self._tasks and self._tasks[0][1].done():
            self._tasks.popleft()[0].deliver()

    def close(self, seconds: float) -> bool:
        """Drop the callbacks and let the tasks end; return whether they ended in time."""
        self._thread.shutdown(wait=False)
        ended = not wait([future for _, future in self._tasks], seconds).not_done
        for call, _ in self._tasks:
            if call.error is not None:
                _log(call.error)
        self._tasks.clear()
        return ended


class ThreadRunner:
    """Runs jobs in a worker thread.

    Parameters
    ----------
    prepare
        Called in the worker before every job, for example to import PyTorch without a stall.
    """

    def __init__(self, prepare: Callable[[], None] | None = None) -> None:
        self._prepare = prepare
        self._job: Job | None = None
        self._queue: EventQueue | None = None
        self._thread: threading.Thread | None = None
        self._queries: dict[str, _Queries] = {}
        self._background: _Background | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs or its callbacks have not been called yet."""
        return self._job is not None

    def start(self, job: Job) -> None:
        """Run a job in a thread of its own; ``RuntimeError`` while another one runs."""
        if self.busy:
            raise RuntimeError("a job runs already")
        self._job, self._queue = job, EventQueue()
        self._thread = threading.Thread(
            target=self._work, args=(job, self._queue), name="unetseg-job", daemon=True
        )
        self._thread.start()

    def _work(self, job: Job, queue: EventQueue) -> None:
        try:
            with responsive_window():
                if self._prepare is not None:
                    self._prepare()
                _step_back()
                result = finish(job.work(job.control), queue.put)
            queue.end(result)
        except BaseException as error:
            log.info("the job failed", exc_info=True)
            queue.end(error=error)

    def query(
        self, query: Query, on_result: OnDone, on_error: OnError | None = None, *, about: str = ""
    ) -> None:
        """Compute something in a thread of its own; see `Runner`."""
        queries = self._queries.setdefault(about, _Queries())
        queries.ask(_Call(query, on_result, on_error or _log))

    def background(self, task: Query, on_done: OnDone, on_error: OnError) -> None:
        """Run a task for its effect in a thread of its own; see `Runner`."""
        if self._background is None:
            self._background = _Background()
        self._background.add(_Call(task, on_done, on_error))

    def pump(self) -> None:
        """Deliver pending events and results, for some milliseconds at most."""
        for about, queries in tuple(self._queries.items()):
            if not queries.pump() and self._queries.get(about) is queries:
                del self._queries[about]
        if self._background is not None:
            self._background.pump()
        job, queue = self._job, self._queue
        if job is None or queue is None:
            return
        start = time.perf_counter()
        for event in queue.take(start):
            job.on_event(event)
            if self._job is not job or time.perf_counter() - start > PUMP_SECONDS:
                return
        if queue.finished:
            self._job = self._queue = self._thread = None
            if queue.error is not None:
                job.on_error(queue.error)
            else:
                job.on_done(queue.result)

    def close(self, seconds: float = 10.0) -> bool:
        """Stop the job and wait for it; late results are dropped."""
        job, queue, thread = self._job, self._queue, self._thread
        self._job = self._queue = self._thread = None
        if job is not None and queue is not None:
            job.control.stop()
            queue.close()
        threads = [thread, *(queries.close() for queries in self._queries.values())]
        background, self._queries, self._background = self._background, {}, None
        ended = background is None or background.close(seconds)
        for one in threads:
            if one is not None:
                one.join(seconds)
        return ended and not any(one is not None and one.is_alive() for one in threads)


def _log(error: BaseException) -> None:
    log.error("what was computed beside the job failed", exc_info=error)


def _step_back() -> None:
    """Lower the priority below the GUI thread's; PyTorch's threads inherit it.

    Only Linux has a niceness per thread.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
