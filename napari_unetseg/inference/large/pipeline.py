"""Overlapped reading, computing and writing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")
AHEAD = 2
"""Tasks that are read in advance, and results that may wait to be written."""


def overlapped(
    tasks: Iterable[T],
    read: Callable[[T], R],
    work: Callable[[T, R], W],
    write: Callable[[T, W], object],
) -> Iterator[T]:
    """Read, work and write task after task, each step of them beside the others.

    One thread reads and one writes, in the order of the tasks; ``work`` runs in the thread that
    iterates. No more than two tasks wait before or after it, so that memory is bounded.

    Yields
    ------
    task
        After its result was written; results so far are written when iteration stops.

    Raises
    ------
    Exception
        The first that one of the three steps raised.
    """
    wanted = iter(tasks)
    coming: deque[tuple[T, Future[R]]] = deque()
    going: deque[tuple[T, Future[object]]] = deque()
    with (
        ThreadPoolExecutor(1, "unetseg-read") as reader,
        ThreadPoolExecutor(1, "unetseg-write") as writer,
    ):

        def fetch() -> None:
            for task in islice(wanted, AHEAD - len(coming)):
                coming.append((task, reader.submit(read, task)))

        try:
            fetch()
            while coming:
                task, future = coming.popleft()
                fetch()
                going.append((task, writer.submit(write, task, work(task, future.result()))))
                del future
                while going and (len(going) > AHEAD or going[0][1].done()):
                    yield _settled(going)
            while going:
                yield _settled(going)
        finally:
            for _, pending in coming:
                pending.cancel()


def _settled(going: deque[tuple[T, Future[object]]]) -> T:
    """Wait for the oldest result to be written; its task."""
    task, future = going.popleft()
    future.result()
    return task
