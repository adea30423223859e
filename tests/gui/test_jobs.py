"""Events on their way from a worker to the GUI thread."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_unetseg.core.events import Event, Notice, StepDone, TilePredicted
from napari_unetseg.gui.jobs import HAND_OVER, Inbox, Job, SyncRunner, ThreadRunner

if TYPE_CHECKING:
    from napari_unetseg.core.control import Control


class Heard:
    """What a job's callbacks were told, and in which threads."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.results: list[object] = []
        self.errors: list[BaseException] = []
        self.threads: set[str] = set()

    def job(self, work: Callable[[Control], Generator[Event, None, object]]) -> Job:
        return Job(work, self._hear(self.events), self._hear(self.results), self._hear(self.errors))

    def _hear(self, heap: list) -> Callable[[object], None]:
        def hear(what: object) -> None:
            heap.append(what)
            self.threads.add(threading.current_thread().name)

        return hear


def tile(number: int, side: int = 8) -> TilePredicted:
    region = (slice(0, side), slice(0, side))
    return TilePredicted((number,), region, np.zeros((side, side), np.uint8), None, number, 9)


def pump(runner: ThreadRunner, condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        runner.pump()
        time.sleep(0.002)


def test_events_and_result_arrive_in_the_thread_that_pumps() -> None:
    def work(control: Control) -> Generator[Event, None, str]:
        yield Notice(threading.current_thread().name)
        return "model"

    runner, heard = ThreadRunner(), Heard()
    runner.start(heard.job(work))
    pump(runner, lambda: bool(heard.results))
    assert heard.results == ["model"]
    assert heard.events == [Notice("unetseg-job")]
    assert heard.threads == {threading.current_thread().name}
    assert not runner.busy


def test_the_window_gets_its_turn_ten_times_sooner_than_by_default() -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    try:
        runner, heard = ThreadRunner(), Heard()
        runner.start(heard.job(lambda _: iter_of(sys.getswitchinterval())))
        pump(runner, lambda: bool(heard.results))
        assert heard.results == [pytest.approx(HAND_OVER, rel=0.01)]
    finally:
        sys.setswitchinterval(usual)


def iter_of(result: float) -> Generator[Event, None, float]:
    yield Notice("")
    return result


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), MemoryError(), ValueError(), KeyboardInterrupt()]
)
def test_no_error_in_the_worker_is_lost(error: BaseException) -> None:
    def work(control: Control) -> Generator[Event, None, None]:
        yield Notice("first")
        raise error

    runner, heard = ThreadRunner(), Heard()
    runner.start(heard.job(work))
    pump(runner, lambda: bool(heard.errors))
    assert heard.errors == [error]
    assert heard.events == [Notice("first")]
    assert not runner.busy


def test_only_the_newest_step_is_kept_and_everything_else_arrives_in_order() -> None:
    inbox = Inbox()
    for step in range(1, 1001):
        inbox.put(StepDone(step, 1000, 0.5, 1.0, 1.0))
    inbox.put(Notice("a"))
    inbox.put(Notice("b"))
    assert list(inbox.take(now=10.0)) == [
        StepDone(1000, 1000, 0.5, 1.0, 1.0),
        Notice("a"),
        Notice("b"),
    ]
    inbox.put(StepDone(1001, 0, 0.5, 1.0, None))
    assert list(inbox.take(now=10.05)) == []
    assert len(list(inbox.take(now=10.2))) == 1


def test_a_worker_waits_while_its_tiles_pile_up_and_none_is_dropped() -> None:
    made: list[int] = []

    def work(control: Control) -> Generator[Event, None, None]:
        for number in range(200):
            made.append(number)
            yield tile(number, side=1024)

    runner, heard = ThreadRunner(), Heard()
    runner.start(heard.job(work))
    time.sleep(0.3)
    assert len(made) < 60
    pump(runner, lambda: bool(heard.results))
    assert [t.plane[0] for t in heard.events if isinstance(t, TilePredicted)] == list(range(200))


def test_closing_stops_the_worker_and_drops_late_answers() -> None:
    def work(control: Control) -> Generator[Event, None, str]:
        while not control.stopped:
            yield tile(0, side=1024)
        return "late"

    runner, heard = ThreadRunner(), Heard()
    runner.start(heard.job(work))
    pump(runner, lambda: bool(heard.events))
    seen = len(heard.events)
    assert runner.close()
    runner.pump()
    assert len(heard.events) == seen
    assert not heard.results


def test_a_newer_question_replaces_a_waiting_one() -> None:
    answers: list[int] = []
    go = threading.Event()
    runner = ThreadRunner()

    def slow() -> int:
        go.wait(10)
        return 0

    runner.ask(slow, answers.append)
    for number in (1, 2, 3):
        runner.ask(lambda n=number: n, answers.append)
    go.set()
    pump(runner, lambda: bool(answers))
    assert answers == [3]


def test_the_synchronous_runner_does_the_same_at_once() -> None:
    def work(control: Control) -> Generator[Event, None, int]:
        yield Notice("one")
        return 7

    def fails(control: Control) -> Generator[Event, None, int]:
        yield Notice("two")
        raise RuntimeError("broken")

    heard = Heard()
    SyncRunner().start(heard.job(work))
    SyncRunner().start(heard.job(fails))
    assert heard.events == [Notice("one"), Notice("two")]
    assert heard.results == [7]
    assert [str(e) for e in heard.errors] == ["broken"]
