"""One number of CPU cores, whoever asks."""

from __future__ import annotations

import os

import pytest

from napari_unetseg.runtime.cpu import cores, default_threads


@pytest.mark.parametrize(("local", "share", "threads"), [(None, 6, 5), (4, 1, 1), (2, 3, 3)])
def test_processes_of_a_machine_share_the_cores_that_they_may_use(
    monkeypatch: pytest.MonkeyPatch, local: int | None, share: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    if local is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, "0")
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, str(local))
    assert (cores(), default_threads()) == (share, threads)


def test_a_system_that_binds_no_process_to_cores_has_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for there, threads in ((4, 3), (1, 1), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda there=there: there)
        assert (cores(), default_threads()) == (there or 1, threads)
