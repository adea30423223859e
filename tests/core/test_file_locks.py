"""Locks between programs: one owner at a time, none that is dead, and nothing that stays behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_unetseg.core import file_locks
from napari_unetseg.core.file_locks import LockOwner, OutputLock

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from napari_unetseg.core.file_locks import OutputLock
lock = OutputLock(Path(sys.argv[1]))
print(lock.take(), flush=True)
time.sleep(300)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    return process


def left_note(folder: Path, **changes: object) -> Path:
    """The note of an owner that was killed on another computer."""
    folder.mkdir(exist_ok=True)
    said = {"process": 7, "host": "node07", "machine": "other", "since": 1e9, "token": "abc"}
    (folder / "owner.json").write_text(json.dumps(said | changes))
    return folder / "owner.json"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks, as Lustre may be mounted."""

    def refuse(handle: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(file_locks, "lock_descriptor", refuse)


def test_one_has_it_and_the_other_is_told_who(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    first, second = OutputLock(folder), OutputLock(folder)
    assert first.take() is None
    owner = second.take()
    assert owner is not None
    assert owner.process == os.getpid()
    assert str(owner).startswith(f"process {os.getpid()} on this computer, since ")
    second.release()
    assert second.take() is not None, "who does not have it cannot release it"
    first.release()
    assert not folder.exists()
    assert second.take() is None
    (folder / "chunk").touch()
    second.release()
    assert [p.name for p in folder.iterdir()] == ["chunk"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("system", ["locks", "none"])
def test_a_killed_owner_is_noticed_at_once(
    tmp_path: Path, system: str, request: pytest.FixtureRequest
) -> None:
    if system == "none":
        request.getfixturevalue("refused")
    lock = OutputLock(tmp_path / "work")
    process = holder(tmp_path / "work")
    owner = lock.take()
    assert owner is not None
    assert owner.process == process.pid
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # nobody takes note of it yet
    assert (tmp_path / "work" / "owner.json").exists()
    assert lock.take() is None
    lock.release()
    assert list(tmp_path.iterdir()) == []
    process.communicate()


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads that take turns every 10 microseconds, so that rare orders of steps occur."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("refused", "many_switches")
def test_never_two_at_once_after_a_killed_owner_without_locks(tmp_path: Path) -> None:
    """Several programs notice at the same time that an owner is dead, and remove its file."""
    lock = OutputLock(tmp_path / "first")
    assert lock.take() is None
    machine = json.loads((tmp_path / "first" / "owner.json").read_text())["machine"]
    lock.release()
    for turn in range(20):
        folder = tmp_path / str(turn)
        left_note(folder, process=2**22 + 5, machine=machine)
        assert most_at_once(folder, rounds=2) == 1
        assert not folder.exists()


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize("system", ["locks", "none"])
def test_never_two_at_once_while_lock_files_come_and_go(
    tmp_path: Path, system: str, request: pytest.FixtureRequest
) -> None:
    """Each release takes the lock file and its folder away while others try to open them."""
    if system == "none":
        request.getfixturevalue("refused")
    assert most_at_once(tmp_path / "work", rounds=40) == 1
    assert not (tmp_path / "work").exists()


def most_at_once(folder: Path, rounds: int) -> int:
    """How many of four threads had the lock at the same time, at most."""
    inside, most, done = [0], [0], []

    def work() -> None:
        lock = OutputLock(folder)
        for _ in range(rounds):
            while lock.take() is not None:
                time.sleep(0.0005)
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1
            lock.release()
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 4
    return most[0]


def test_an_owner_on_another_computer_is_dead_when_its_note_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock may not be seen here, and clocks differ: only that the note changes counts."""
    now = [1000.0]
    monkeypatch.setattr("napari_unetseg.core.file_locks.time.monotonic", lambda: now[0])
    note = left_note(tmp_path / "work")
    lock = OutputLock(tmp_path / "work")
    for _ in range(5):
        owner = lock.take()
        assert str(owner) == "process 7 on node07, since 2001-09-09 " + str(owner)[-5:]
        now[0] += file_locks.STALE_SECONDS - 1
        os.utime(note, (now[0], now[0]))
    assert lock.take() is not None
    now[0] += file_locks.STALE_SECONDS - 1
    assert lock.take() is not None
    now[0] += 2
    assert lock.take() is None
    assert json.loads(note.read_text())["process"] == os.getpid()
    lock.release()
    assert not (tmp_path / "work").exists()


def test_an_owner_touches_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_locks, "TOUCH_SECONDS", 0.01)
    lock, note = OutputLock(tmp_path / "work"), tmp_path / "work" / "owner.json"
    assert lock.take() is None
    os.utime(note, (1, 1))
    until = time.monotonic() + 20
    while note.stat().st_mtime == 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    lock.release()
    assert not [t for t in threading.enumerate() if t.name == "unetseg-lock"]


def test_an_owner_that_was_taken_for_dead_leaves_the_next_one_alone(tmp_path: Path) -> None:
    lock = OutputLock(tmp_path / "work")
    assert lock.take() is None
    note = left_note(tmp_path / "work")
    lock.release()
    assert json.loads(note.read_text())["process"] == 7
    assert (tmp_path / "work" / "lock").exists()


@pytest.mark.usefixtures("refused")
def test_who_took_over_just_before_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two find the same owner dead; the slower one must not remove the quicker one's note."""
    left_note(tmp_path / "work")
    slower, quicker = OutputLock(tmp_path / "work"), OutputLock(tmp_path / "work")

    def is_dead(lock: OutputLock, owner: LockOwner, changed: int) -> bool:
        if owner.process == os.getpid():
            return False
        if lock is slower:
            assert quicker.take() is None
        return True

    monkeypatch.setattr(OutputLock, "_is_dead", is_dead)
    owner = slower.take()
    assert owner is not None
    assert owner.process == os.getpid()
    quicker.release()
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("refused")
def test_without_locks_the_note_is_the_lock_and_it_is_said(tmp_path: Path) -> None:
    first, second = OutputLock(tmp_path / "work"), OutputLock(tmp_path / "work")
    assert first.take() is None
    assert first.refused == "function not implemented"
    assert second.take() is not None
    first.release()
    assert second.take() is None
    second.release()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"process": 1}',
        json.dumps(
            {"process": -1, "host": "a", "machine": "b", "since": 1e9, "token": "c"},
        ),
        json.dumps({"process": 1, "host": "\x1b[2J", "machine": "b", "since": 1e9, "token": "c"}),
        json.dumps({"process": 1, "host": "a", "machine": "b", "since": 1e300, "token": "c"}),
    ],
)
def test_a_note_that_is_none_names_nobody_and_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    left_note(tmp_path / "work").write_text(text)
    lock = OutputLock(tmp_path / "work")
    assert str(lock.take()) == "another program"
    monkeypatch.setattr(file_locks, "STALE_SECONDS", -1.0)
    assert lock.take() is None
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|cannot find"):
        OutputLock(tmp_path / "file" / "work").take()


def test_times_of_another_day_have_a_date() -> None:
    owner = LockOwner(7, "node07", "other", time.time(), "abc")
    assert str(owner).count("-") == 0
    assert str(LockOwner(7, "node07", "other", 1e9, "abc")).count("-") == 2
