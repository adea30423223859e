"""Events on their way from a worker to the GUI thread."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sync_runner import SyncRunner

from napari_unetseg.core.events import Event, Notice, TilePredicted
from napari_unetseg.gui.services.job_runner import EventQueue, Job, ThreadRunner
from napari_unetseg.training.training_events import StepDone

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl


class Heard:
    """What a job's callbacks were told, and in which threads."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.results: list[object] = []
        self.errors: list[BaseException] = []
        self.threads: set[str] = set()

    def job(self, work: Callable[[JobControl], Generator[Event, None, object]]) -> Job:
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
    def work(control: JobControl) -> Generator[Event, None, str]:
        yield Notice(threading.current_thread().name)
        return "model"

    runner, heard = ThreadRunner(), Heard()
    runner.start(heard.job(work))
    pump(runner, lambda: bool(heard.results))
    assert heard.results == ["model"]
    assert heard.events == [Notice("unetseg-job")]
    assert heard.threads == {threading.current_thread().name}
    assert not runner.busy


def test_the_window_gets_its_turn_sooner_while_a_job_runs() -> None:
    usual = sys.getswitchinterval()
    runner, heard = ThreadRunner(), Heard()
    runner.start(heard.job(lambda _: iter_of(sys.getswitchinterval())))
    pump(runner, lambda: bool(heard.results))
    assert heard.results[0] < usual
    assert sys.getswitchinterval() == usual


def iter_of(result: float) -> Generator[Event, None, float]:
    yield Notice("")
    return result


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), MemoryError(), ValueError(), KeyboardInterrupt()]
)
def test_no_error_in_the_worker_is_lost(error: BaseException) -> None:
    def work(control: JobControl) -> Generator[Event, None, None]:
        yield Notice("first")
        raise error

    runner, heard = ThreadRunner(), Heard()
    runner.start(heard.job(work))
    pump(runner, lambda: bool(heard.errors))
    assert heard.errors == [error]
    assert heard.events == [Notice("first")]
    assert not runner.busy


def test_only_the_newest_step_is_kept_and_everything_else_arrives_in_order() -> None:
    inbox = EventQueue()
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

    def work(control: JobControl) -> Generator[Event, None, None]:
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
    def work(control: JobControl) -> Generator[Event, None, str]:
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


def test_the_latest_query_waits_alone_and_what_was_computed_is_handed_over() -> None:
    answers: list[int] = []
    go = threading.Event()
    runner = ThreadRunner()

    def slow() -> int:
        go.wait(10)
        return 0

    runner.query(slow, answers.append)
    for number in (1, 2, 3):
        runner.query(lambda n=number: n, answers.append)
    go.set()
    pump(runner, lambda: len(answers) == 2)
    assert answers == [0, 3]
    assert runner.close()


def test_who_asks_faster_than_answers_come_gets_answers() -> None:
    """A later query waits whenever one is answered, for ever."""
    asked, answers = 0, list[int]()
    runner = ThreadRunner()

    def ask() -> None:
        nonlocal asked
        asked += 1
        runner.query(lambda n=asked: n, answers.append)

    def asking() -> bool:
        ask()
        ask()
        return len(answers) >= 5

    pump(runner, asking)
    assert answers == sorted(answers)
    assert runner.close()


def test_a_query_that_fails_says_so_and_the_next_one_is_computed() -> None:
    heard: list[str] = []
    runner = ThreadRunner()
    runner.query(lambda: 1 / 0, lambda _: None, lambda e: heard.append(type(e).__name__))
    pump(runner, lambda: bool(heard))
    runner.query(lambda: "fine", heard.append)
    pump(runner, lambda: len(heard) == 2)
    assert heard == ["ZeroDivisionError", "fine"]


def test_background_tasks_all_run_in_order_and_tell_their_errors() -> None:
    done, told = list[int](), list[str]()
    go = threading.Event()
    runner = ThreadRunner()

    def task(number: int) -> int:
        go.wait(10)
        if number == 2:
            raise OSError(28, "No space left on device")
        done.append(number)
        return number

    for number in range(5):
        runner.background(
            partial(task, number),
            lambda n: told.append(f"{n} in {threading.current_thread().name}"),
            lambda e: told.append(str(e)),
        )
    go.set()
    pump(runner, lambda: len(told) == 5)
    assert done == [0, 1, 3, 4]
    here = threading.current_thread().name
    assert told == [
        f"0 in {here}",
        f"1 in {here}",
        "[Errno 28] No space left on device",
        f"3 in {here}",
        f"4 in {here}",
    ]
    assert runner.close()


def test_closing_waits_for_background_tasks_and_not_for_queries_that_wait() -> None:
    done: list[str] = []
    go = threading.Event()
    runner = ThreadRunner()

    def slow(name: str) -> None:
        go.wait(10)
        done.append(name)

    for name in ("first", "second"):
        runner.background(partial(slow, name), done.append, lambda _: None)
    for name in ("asked", "waits"):
        runner.query(partial(slow, name), done.append)
    threading.Timer(0.05, go.set).start()
    assert runner.close()
    assert sorted(done) == ["asked", "first", "second"]


def test_the_synchronous_runner_does_the_same_at_once() -> None:
    def work(control: JobControl) -> Generator[Event, None, int]:
        yield Notice("one")
        return 7

    def fails(control: JobControl) -> Generator[Event, None, int]:
        yield Notice("two")
        raise RuntimeError("broken")

    heard = Heard()
    SyncRunner().start(heard.job(work))
    SyncRunner().start(heard.job(fails))
    SyncRunner().background(lambda: 1 / 0, heard.results.append, heard.errors.append)
    assert isinstance(heard.errors.pop(), ZeroDivisionError)
    assert heard.events == [Notice("one"), Notice("two")]
    assert heard.results == [7]
    assert [str(e) for e in heard.errors] == ["broken"]
