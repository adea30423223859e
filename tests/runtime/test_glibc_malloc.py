"""Memory that is kept for speed is given back after the job; elsewhere nothing is done."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from napari_unetseg.runtime import glibc_malloc
from napari_unetseg.runtime.glibc_malloc import (
    KEEP,
    MMAP_THRESHOLD,
    TRIM_THRESHOLD,
    USUAL,
    kept_memory,
)


class Libc:
    """Stands in for glibc: remembers what it was told."""

    def __init__(self, largest: int = 1 << 31) -> None:
        self.largest = largest
        self.values: dict[int, int] = {}
        self.trims = 0

    def gnu_get_libc_version(self) -> bytes:
        return b"2.36"

    def mallopt(self, parameter: int, value: int) -> int:
        if value > self.largest:
            return 0
        self.values[parameter] = value
        return 1

    def malloc_trim(self, pad: int) -> int:
        assert pad == 0
        self.trims += 1
        return 1


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    fake = Libc()
    monkeypatch.setattr(glibc_malloc, "_glibc", lambda: fake)
    return fake


def first(values: dict[int, tuple[int, ...]]) -> dict[int, int]:
    return {parameter: wanted[0] for parameter, wanted in values.items()}


def test_the_last_of_nested_and_concurrent_jobs_gives_the_memory_back(libc: Libc) -> None:
    inside, leave = threading.Event(), threading.Event()

    def job() -> None:
        with kept_memory():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=job)
    with kept_memory(), kept_memory():
        thread.start()
        assert inside.wait(60)
    assert libc.values == first(KEEP)
    assert libc.trims == 0
    leave.set()
    thread.join()
    assert libc.values == first(USUAL)
    assert libc.trims == 1


def test_a_job_that_fails_or_is_abandoned_gives_the_memory_back(libc: Libc) -> None:
    def events() -> Any:
        with kept_memory():
            yield 1
            yield 2

    job = events()
    next(job)
    assert libc.values == first(KEEP)
    job.close()
    assert libc.values == first(USUAL)
    with pytest.raises(ValueError, match="broken"), kept_memory():
        raise ValueError("broken")
    assert libc.values == first(USUAL)
    assert libc.trims == 2


def test_an_older_glibc_that_refuses_a_large_threshold_gets_a_smaller_one(libc: Libc) -> None:
    libc.largest = (1 << 31) - 1
    real = libc.mallopt

    def older(parameter: int, value: int) -> int:
        return 0 if parameter == MMAP_THRESHOLD and value > 1 << 25 else real(parameter, value)

    libc.mallopt = older  # type: ignore[method-assign]
    with kept_memory():
        assert libc.values == {MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: (1 << 31) - 1}


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_is_loaded_on_other_systems(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("no library is loaded here")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(glibc_malloc.ctypes, "CDLL", load)
    with kept_memory():
        pass


def test_a_library_without_the_calls_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(glibc_malloc.ctypes, "CDLL", lambda _: object())  # as musl
    with kept_memory():
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1000"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")],
)
def test_an_allocator_that_the_user_tuned_is_left_alone(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert glibc_malloc._glibc() is None


PROGRAM = """
import numpy as np, os
from napari_unetseg.runtime.glibc_malloc import kept_memory

def mib():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def use():
    arrays = [np.ones(2**20, np.float32) for _ in range(100)]
    pins = [bytes(3000) for _ in range(1000)]
    return pins

before = mib()
with kept_memory():
    pins = use()
    kept = mib()
print(before, kept, mib())
"""


@pytest.mark.skipif(glibc_malloc._glibc() is None, reason="needs glibc with its own settings")
def test_freed_memory_stays_during_a_job_and_is_given_back_after_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, kept, after = map(float, done.stdout.split())
    assert kept > before + 350
    assert after < before + 30
