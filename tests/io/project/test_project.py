"""Projects: whatever was said is there again, after saving, a crash, a full disk, a move."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_parts import (
    IMAGES,
    KEY,
    PLACE,
    SHAPE,
    begin,
    check_kept,
    draw,
    is_same,
    kill,
    no_room,
    reopened,
    say,
)

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
)
from napari_unetseg.annotations.sparse_array import whole
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.io.project.database import FILE, Database
from napari_unetseg.io.project.project import Project


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(0, 2**32 - 1))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_is_there_again(
    tmp_path_factory: pytest.TempPathFactory, what: list[int], seed: int
) -> None:
    """Saying, saving, closing, being killed and opening in any order; values and times."""
    folder = tmp_path_factory.mktemp("projects") / "one"
    rng = np.random.default_rng(seed)
    one, truth = begin(folder)
    for step in what:
        if step < 8:
            say(one, truth, *draw(rng))
        elif step == 8:
            one.save()
        elif step == 9:
            one.put_values({**one.values, "note": int(rng.integers(100))})
        elif step == 10:
            labels = rng.integers(0, 900, SHAPE).astype(np.int32) * (rng.random(SHAPE) > 0.999)
            list(truth.adopt(labels.astype(np.int32), LabelKind.INSTANCES))
            one.add(KEY, truth)
        else:
            values_before, before = one.values, truth
            kill(one) if step == 11 else one.close()
            one, truth = reopened(folder)
            assert is_same(before, truth)
            assert one.values == values_before
    one.close()
    again, now = reopened(folder)
    assert is_same(truth, now)
    assert again.lost == []
    again.close()


def test_saving_goes_on_beside_what_is_said(tmp_path: Path) -> None:
    """What is recorded while chunks are joined is newer than they are."""
    rng = np.random.default_rng(0)
    one, truth = begin(tmp_path / "one")
    for _ in range(20):
        say(one, truth, *draw(rng))
    real = truth.chunks

    def slowly(*which: Any) -> Iterator[Any]:
        for chunk in real(*which):
            say(one, truth, *draw(rng))
            yield chunk
            say(one, truth, *draw(rng))

    truth.chunks = slowly  # type: ignore[method-assign]
    one.save()
    kill(one)
    again, now = reopened(tmp_path / "one")
    assert is_same(truth, now)
    again.close()


def test_images_may_be_added_while_others_are_written(tmp_path: Path) -> None:
    one, _ = begin(tmp_path / "one")
    images = {f"image-{number}": IMAGES["images"][KEY] for number in range(1, 40)}
    done = threading.Event()

    def save() -> None:
        while not done.is_set():
            one._is_behind = True  # so that all images are listed
            one.save()

    saving = threading.Thread(target=save)
    saving.start()
    for key in images:
        truth = ImageAnnotations(SHAPE)
        truth.record(LabelSource.STROKES, PLACE, np.ones((1, 9, 9), np.uint8))
        one.add(key, truth, {"images": images})
    done.set()
    saving.join(10)
    one.close()
    again = Project.read(tmp_path / "one")
    assert again.lost == []
    assert list(again.by_image) == list(images)
    assert {truth.count(LabelSource.STROKES) for truth in again.by_image.values()} == {81}


def test_what_is_said_while_a_copy_is_written_is_in_the_copy(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    copy = one.save_as(tmp_path / "copy")
    say(one, truth, LabelSource.STROKES, PLACE, 2)
    say(one, truth, LabelSource.ACCEPTED, (slice(1, 2), *PLACE[1:]), 2)
    list(truth.adopt(np.full(SHAPE, 700, np.int32), LabelKind.INSTANCES))
    one.add(KEY, truth)
    copy.catch_up(one)
    kill(copy)
    one.close()
    moved, now = reopened(tmp_path / "copy")
    assert moved.lost == []
    assert is_same(now, truth)
    moved.close()


# -- crashes ---------------------------------------------------------------------------------------

CHILD = """
import sys, threading
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from project_parts import begin, draw, say
rng = np.random.default_rng(int(sys.argv[3]))
one, truth = begin(Path(sys.argv[1]))
def save():
    while True:
        one.save()
threading.Thread(target=save, daemon=True).start()
for number in range(100_000):
    say(one, truth, *draw(rng))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def replay(seed: int, count: int) -> ImageAnnotations:
    rng, truth = np.random.default_rng(seed), ImageAnnotations(SHAPE)
    for _ in range(count):
        truth.record(*draw(rng))
    return truth


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_loses_nothing_that_was_recorded(tmp_path: Path, seed: int) -> None:
    """SIGKILL at a random moment, while strokes are recorded and chunks are joined."""
    parts = str(Path(__file__).parents[2])
    arguments = [sys.executable, "-c", CHILD, str(tmp_path / "one"), parts, str(seed)]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    assert first == "0\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.6))  # the moment is random, nothing waits for it
    child.send_signal(signal.SIGKILL)
    acknowledged = 1 + child.stdout.read().count("\n")
    child.wait()
    child.stdout.close()
    one, truth = reopened(tmp_path / "one")
    assert one.lost == []
    wanted = [replay(seed, count) for count in (acknowledged, acknowledged + 1)]
    assert any(is_same(truth, one) for one in wanted), f"{acknowledged} were acknowledged"
    one.save()
    one.close()


@pytest.mark.parametrize("bytes_changed", ["cut off", "flipped"])
def test_a_log_that_is_torn_anywhere_gives_all_whole_changes_before(
    tmp_path: Path, bytes_changed: str
) -> None:
    rng, steps = np.random.default_rng(1), 6
    one, truth = begin(tmp_path / "one")
    states = [replay(1, 0)]
    log = tmp_path / "one" / f"{FILE}-wal"
    ends = [log.stat().st_size]
    for step in range(steps):
        say(one, truth, *draw(rng))
        states.append(replay(1, step + 1))
        ends.append(log.stat().st_size)
    kill(one)
    content = log.read_bytes()
    for at in range(ends[0], ends[-1], 997):
        torn = bytearray(content[:at] if bytes_changed == "cut off" else content)
        if bytes_changed == "flipped":
            torn[at] ^= 1 << at % 8
        log.write_bytes(torn)
        found = Project.read(tmp_path / "one")
        assert found.lost == []
        whole_ones = sum(end <= at for end in ends[1:])
        assert is_same(found.by_image[KEY], states[whole_ones]), at


FAULTS = ["put_rows", "delete_rows", "sync", "checkpoint"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_that_dies_anywhere_leaves_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    rng = np.random.default_rng(3)
    one, truth = begin(tmp_path / "one")
    for number in range(12):
        say(one, truth, *draw(rng))
        if number == 5:
            one.save()

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Database, fault, die)
        with pytest.raises(Killed):
            one.save()
    say(one, truth, *draw(rng))
    kill(one)
    for _ in range(2):
        again, now = reopened(tmp_path / "one")
        assert is_same(truth, now)
        again.close()


# -- disks -----------------------------------------------------------------------------------------


def test_a_full_disk_leaves_what_was_there_and_goes_on_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    one, truth = begin(tmp_path / "one")
    for _ in range(5):
        say(one, truth, *draw(rng))
    with no_room():
        for _ in range(40):
            say(one, truth, *draw(rng))
        one.put_values({**one.values, "note": 1})
        assert "cannot be written" in one.trouble
        assert "save the project elsewhere" in one.trouble
        with pytest.raises(UserError, match="cannot be written"):
            one.save()
    before = Project.read(tmp_path / "one")
    assert before.lost == []
    assert 0 < before.by_image[KEY].stamp < truth.stamp
    say(one, truth, *draw(rng))
    assert one.trouble, "nothing newer is written before what is older"
    one.save()
    assert one.trouble == ""
    say(one, truth, *draw(rng))
    kill(one)
    again, now = reopened(tmp_path / "one")
    assert is_same(truth, now)
    assert again.values["note"] == 1
    again.close()


def test_labels_that_begin_anew_on_a_full_disk_are_written_later(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    labels = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int32)
    labels[0] = 0
    with no_room():
        list(truth.adopt(labels, LabelKind.INSTANCES))
        one.add(KEY, truth)
        assert one.trouble
    assert Project.read(tmp_path / "one").by_image[KEY].count(LabelSource.STROKES) == 81
    one.save()
    kill(one)
    check_kept(tmp_path / "one", truth)


def test_a_folder_that_vanished_is_said_and_another_one_takes_everything(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    one, truth = begin(tmp_path / "one")
    say(one, truth, *draw(rng))
    one.save()
    shutil.rmtree(tmp_path / "one")
    say(one, truth, *draw(rng))
    one.sync()
    assert "cannot be written" in one.trouble
    say(one, truth, *draw(rng))
    two = one.save_as(tmp_path / "two")
    one.close()
    two.close()
    again, now = reopened(tmp_path / "two")
    assert is_same(truth, now)
    again.close()


@pytest.mark.parametrize("there", ["its backup", "an empty folder"])
def test_a_folder_that_was_put_back_gets_what_was_said_meanwhile(
    tmp_path: Path, there: str
) -> None:
    rng = np.random.default_rng(6)
    one, truth = begin(tmp_path / "one")
    say(one, truth, *draw(rng))
    one.save()
    shutil.copytree(tmp_path / "one", tmp_path / "backup")
    shutil.rmtree(tmp_path / "one")
    say(one, truth, *draw(rng))
    if there == "its backup":
        shutil.copytree(tmp_path / "backup", tmp_path / "one")
    else:
        (tmp_path / "one").mkdir()
    one.sync()
    assert one.trouble
    one.save()
    assert not one.trouble
    kill(one)
    again, now = reopened(tmp_path / "one")
    assert is_same(truth, now)
    again.close()


def test_a_copy_is_a_project_of_its_own(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, LabelSource.ACCEPTED, PLACE, 1)
    one.add_model("first", lambda path: path.write_bytes(b"model"))
    two = one.save_as(tmp_path / "two")
    assert (two.folder / "models" / "first.safetensors").read_bytes() == b"model"
    one.close()
    two.close()
    again, now = reopened(tmp_path / "two")
    assert is_same(truth, now)
    assert again.values == IMAGES
    again.close()


def test_two_windows_are_kept_apart_and_a_reader_may_look(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    with pytest.raises(UserError, match="open in another window"):
        Project.open(tmp_path / "one")
    for _ in range(2):
        say(one, truth, LabelSource.STROKES, PLACE, 1)
        assert is_same(Project.read(tmp_path / "one").by_image[KEY], truth)
        one.save()
    assert is_same(Project.read(tmp_path / "one").by_image[KEY], truth)
    one.close()
    Project.open(tmp_path / "one").close()


@pytest.mark.parametrize("there", ["a file", "another project"])
def test_nothing_is_overwritten_by_a_new_project(tmp_path: Path, there: str) -> None:
    folder = tmp_path / "one"
    if there == "a file":
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    else:
        begin(folder)[0].close()
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(UserError, match="not empty"):
        Project.create(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


# -- labels ----------------------------------------------------------------------------------------


def test_labels_of_any_byte_order_are_there_again(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    labels = np.zeros(SHAPE, ">u2")
    labels[0, 5, 5] = 300
    list(truth.adopt(labels, LabelKind.INSTANCES))
    one.add(KEY, truth)
    region = (slice(0, 1), slice(5, 6), slice(5, 7))
    change = truth.record(LabelSource.STROKES, region, labels[:1, 5:6, 4:6])
    assert change is not None
    one.record(KEY, change)
    kill(one)
    again, now = reopened(tmp_path / "one")
    assert again.lost == []
    assert is_same(truth, now)
    assert now.read(LabelSource.STROKES, whole(SHAPE))[0, 5, 6] == 300
    again.close()


def test_a_change_larger_than_a_row_is_written_in_chunks(tmp_path: Path) -> None:
    one, shape = Project.create(tmp_path / "one"), (1, 2050, 2060)
    truth = ImageAnnotations(shape)
    one.add(KEY, truth, IMAGES)
    values = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    for number in range(2):
        change = truth.record(LabelSource.STROKES, whole(shape), np.roll(values, number))
        assert change is not None
        one.record(KEY, change)
        stamps = np.full(shape, 7 + number, np.uint32)
        change = truth.restore(LabelSource.ACCEPTED, whole(shape), values, stamps)
        assert isinstance(change, AnnotationChange)
        one.record(KEY, change)
    kill(one)
    check_kept(tmp_path / "one", truth)


def test_labels_that_are_replaced_during_a_save_cost_nothing(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    say(one, truth, LabelSource.CORRECTIONS, PLACE, 2)
    real, done = truth.chunks, []

    def meanwhile(*which: Any) -> Iterator[Any]:
        found = list(real(*which))
        if not done:
            done.append(which)
            list(truth.adopt(np.full(SHAPE, 700, np.int32), LabelKind.INSTANCES))
            one.add(KEY, truth)
        yield from found

    truth.chunks = meanwhile  # type: ignore[method-assign]
    one.save()
    kill(one)
    check_kept(tmp_path / "one", truth)


def test_a_save_that_comes_late_touches_nothing(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    one.close()
    other, now = reopened(tmp_path / "one")
    say(other, now, LabelSource.STROKES, (slice(0, 1), slice(20, 29), slice(0, 9)), 1)
    one.save()
    kill(other)
    assert is_same(Project.read(tmp_path / "one").by_image[KEY], now)


def test_a_project_opened_in_a_thread_is_free_when_it_is_closed(tmp_path: Path) -> None:
    begin(tmp_path / "one")[0].close()
    opened: list[Project] = []
    thread = threading.Thread(target=lambda: opened.append(Project.open(tmp_path / "one")))
    thread.start()
    thread.join()
    opened[0].close()
    Project.open(tmp_path / "one").close()


def test_a_long_day_does_not_make_a_long_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    one, truth = begin(tmp_path / "one")
    for step in range(600):
        say(one, truth, *draw(rng))
        if step % 100 == 99:
            one.save()
    one.close()
    assert {p.name for p in (tmp_path / "one").iterdir()} <= {FILE, "models", ".lock"}
    assert (tmp_path / "one" / FILE).stat().st_size < 2**21


@pytest.mark.parametrize("saved", [False, True])
def test_annotation_time_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one, truth = begin(tmp_path / "one")
    for value, seconds in enumerate((5, 20, 500, 10), 1):
        now[0] += seconds
        say(one, truth, LabelSource.STROKES, PLACE, value)
        if saved:
            one.save()
    kill(one)
    again, _ = reopened(tmp_path / "one")
    assert again.effort.seconds == 30
    again.save_as(tmp_path / "copy").close()
    again.close()
    assert Project.read(tmp_path / "copy").effort.seconds == 30


def test_what_was_said_again_of_a_whole_chunk_leaves_nothing_behind_when_it_is_erased(
    tmp_path: Path,
) -> None:
    one, truth = begin(tmp_path / "one")
    chunk = (slice(0, 1), slice(0, 256), slice(0, 256))
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    one.save()
    values, stamps = truth.read(LabelSource.STROKES, chunk), truth.times(LabelSource.STROKES, chunk)
    for number in (7, 8):
        change = truth.restore(LabelSource.STROKES, chunk, values * 2, stamps + number)
        assert change is not None
        one.record(KEY, change)
        kill(one)
        one, truth = reopened(tmp_path / "one")
    change = truth.restore(LabelSource.STROKES, chunk, values * 0, stamps * 0)
    assert change is not None
    one.record(KEY, change)
    one.close()
    assert Project.read(tmp_path / "one").by_image[KEY].count(LabelSource.STROKES) == 0
