"""One job at a time, work that gives way to it, and late answers that are dropped; no window."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.gui.services.job_manager import JobManager
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.app_events import AppEvents
from napari_unetseg.gui.state.session import JobKind, Level, Session


class Held:
    """A runner whose jobs say and end what the test wants."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    @property
    def busy(self) -> bool:
        return bool(self.jobs)

    def start(self, job: Any) -> None:
        assert not self.jobs, "one at a time"
        self.jobs.append(job)

    def pump(self) -> None:
        pass

    def end(self, result: Any = None) -> Any:
        job = self.jobs.pop()
        job.on_done(result)
        return job

    def fail(self, error: Exception) -> None:
        self.jobs.pop().on_error(error)


def nothing(_: Any) -> Generator[Event, None, None]:
    yield from ()


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def bus() -> AppEvents:
    return AppEvents()


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def jobs(session: Session, held: Held, bus: AppEvents) -> JobManager:
    return JobManager(session, held, bus)  # type: ignore[arg-type]


@pytest.fixture
def told(bus: AppEvents) -> list[tuple[Any, ...]]:
    """What is published, in order."""
    found: list[tuple[Any, ...]] = []
    bus.job_started.connect(lambda kind: found.append(("started", kind)))
    bus.job_event.connect(lambda kind, event: found.append((kind, event)))
    bus.job_ended.connect(lambda kind: found.append(("ended", kind)))
    bus.job_failed.connect(lambda kind, error: found.append(("failed", kind, error)))
    return found


def keep(found: list[Any]) -> Callable[[Any], None]:
    return found.append


def test_a_job_is_published_from_its_start_to_its_end(
    jobs: JobManager, held: Held, told: list[tuple[Any, ...]]
) -> None:
    done: list[Any] = []
    jobs.start(JobKind.EXPORT, "Writing", nothing, keep(done))
    with pytest.raises(UserError, match=messages.BUSY[:20]):
        jobs.check_free()
    notice = Notice("Something to know.")
    held.jobs[0].on_event(notice)
    held.end("result")
    jobs.check_free()
    kind = JobKind.EXPORT
    assert told == [("started", kind), (kind, notice), ("ended", kind)]
    assert done == ["result"]


def test_an_error_ends_a_job_in_a_sentence(
    jobs: JobManager, session: Session, held: Held, told: list[tuple[Any, ...]]
) -> None:
    jobs.start(JobKind.MODEL, "Loading", nothing, keep([]))
    error = UserError("That is no model.")
    held.fail(error)
    assert (session.job, session.message.text) == (None, "That is no model.")
    assert session.message.level is Level.WARNING
    assert told[-2:] == [("ended", JobKind.MODEL), ("failed", JobKind.MODEL, error)]


def test_work_beside_the_jobs_gives_way_and_says_nothing_more(
    jobs: JobManager, held: Held, told: list[tuple[Any, ...]]
) -> None:
    ended: list[Any] = []
    jobs.start_idle(nothing, keep(ended), keep(ended))
    jobs.check_free()
    idle = held.jobs[0]
    first, late = Notice("first"), Notice("late")
    idle.on_event(first)
    jobs.start(JobKind.PREDICT, "Predicting", nothing, keep([]))
    assert jobs.idle_stopped
    assert idle.control.stopped
    assert held.jobs == [idle], "the job waits for the tile at hand"
    idle.on_event(late)
    held.end()
    assert ended == [None]
    assert (len(held.jobs), held.jobs[0] is idle) == (1, False)
    assert told == [(JobKind.LIVE, first), ("started", JobKind.PREDICT)]


def test_nothing_begins_after_the_window_closes(
    jobs: JobManager, held: Held, bus: AppEvents
) -> None:
    jobs.start_idle(nothing, keep([]), keep([]))
    jobs.start(JobKind.PREDICT, "Predicting", nothing, keep([]))
    bus.closing.emit()
    assert jobs.control.stopped
    held.end()
    assert not held.jobs
