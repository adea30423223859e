"""Projects: whatever was said is there again, after saving, a crash, a full disk, a move."""

from __future__ import annotations

import json
import os
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

from napari_unetseg.annotations.annotation_store import Origin, Truth
from napari_unetseg.annotations.annotation_time import First
from napari_unetseg.annotations.sparse_array import Region, whole
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.io import journal, project
from napari_unetseg.io.contents import FILE, read_contents
from napari_unetseg.io.journal import Journal, Said, State, pack, read_frames
from napari_unetseg.io.project import Project

SHAPE = (3, 300, 520)
KEY = "image-1"
IMAGES = {"images": {KEY: {"shape": list(SHAPE), "dtype": "uint8", "kind": "strokes"}}}
SPOKEN = (Origin.STROKES, Origin.CORRECTIONS, Origin.ACCEPTED)


def begin(folder: Path) -> tuple[Project, Truth]:
    one = Project.create(folder)
    one.put_values(IMAGES)
    truth = Truth(SHAPE)
    one.add(KEY, truth)
    return one, truth


def say(one: Project, truth: Truth, origin: Origin, region: Region, values: Any) -> None:
    shape = [s.stop - s.start for s in region]
    change = truth.note(origin, region, np.broadcast_to(values, shape).astype(np.uint8))
    if change is not None:
        one.record(KEY, change)


def draw(rng: np.random.Generator) -> tuple[Origin, Region, np.ndarray]:
    y, x, z = rng.integers(0, 280), rng.integers(0, 500), int(rng.integers(3))
    region = (slice(z, z + 1), slice(int(y), int(y) + 20), slice(int(x), int(x) + 20))
    values = rng.integers(0, 3, (1, 20, 20)).astype(np.uint8)
    return SPOKEN[int(rng.integers(3))], region, values


def assert_same(one: Truth, other: Truth) -> None:
    everything = whole(one.shape)
    for origin in Origin:
        np.testing.assert_array_equal(one.read(origin, everything), other.read(origin, everything))
        np.testing.assert_array_equal(
            one.stamps(origin).read(everything), other.stamps(origin).read(everything)
        )
    assert (one.kind, one.grid_dtype) == (other.kind, other.grid_dtype)


def reopened(folder: Path) -> tuple[Project, Truth]:
    one = Project.open(folder)
    return one, one.truths[KEY]


@given(st.lists(st.integers(0, 11), max_size=30), st.integers(0, 2**32 - 1))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_is_there_again(
    tmp_path_factory: pytest.TempPathFactory, what: list[int], seed: int
) -> None:
    """Saying, saving, closing and opening in any order; values and times."""
    folder = tmp_path_factory.mktemp("projects") / "one"
    rng = np.random.default_rng(seed)
    one, truth = begin(folder)
    for step in what:
        if step < 8:
            origin, region, values = draw(rng)
            say(one, truth, origin, region, values)
        elif step == 8:
            one.save()
        elif step == 9:
            one.put_values({**one.values, "note": int(rng.integers(100))})
        elif step == 10:
            labels = rng.integers(0, 900, SHAPE).astype(np.int32) * (rng.random(SHAPE) > 0.999)
            list(truth.adopt(labels.astype(np.int32), LabelKind.INSTANCES))
            one.add(KEY, truth)
            images = {KEY: {**one.values["images"][KEY], "kind": "instances"}}
            one.put_values({**one.values, "images": images})
        else:
            values_before, before = one.values, truth
            one.close()
            one, truth = reopened(folder)
            assert_same(before, truth)
            assert one.values == values_before
    one.close()
    again, now = reopened(folder)
    assert_same(truth, now)
    assert again.lost == []
    again.close()


def test_saving_goes_on_beside_what_is_said(tmp_path: Path) -> None:
    """Frames that are written while a snapshot is made are replayed onto it."""
    rng = np.random.default_rng(0)
    one, truth = begin(tmp_path / "one")
    for _ in range(20):
        say(one, truth, *draw(rng))
    real = truth.chunks

    def slowly(origin: Origin) -> Iterator[Any]:
        for chunk in real(origin):
            say(one, truth, *draw(rng))
            yield chunk

    truth.chunks = slowly  # type: ignore[method-assign]
    one.save()
    one.close()
    again, now = reopened(tmp_path / "one")
    assert_same(truth, now)
    again.close()
    assert sorted(p.name for p in (tmp_path / "one").glob("snapshot-*")) == ["snapshot-2"]


class Watched:
    """A lock that tells when another thread asks for it."""

    def __init__(self, lock: Any) -> None:
        self._lock, self._owner = lock, threading.get_ident()
        self.asked = threading.Event()

    def __enter__(self) -> None:
        if threading.get_ident() != self._owner:
            self.asked.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_an_image_may_be_added_while_a_snapshot_lists_the_images(tmp_path: Path) -> None:
    one, _ = begin(tmp_path / "one")
    lock = one._lock = Watched(one._lock)  # type: ignore[assignment]
    images = dict.fromkeys((KEY, "image-2", "image-3"), IMAGES["images"][KEY])
    second, third = Truth(SHAPE), Truth(SHAPE)
    third.note(Origin.STROKES, (slice(0, 1), slice(0, 9), slice(0, 9)), np.ones((1, 9, 9), "u1"))
    adding = threading.Thread(target=lambda: one.add("image-3", third, {"images": images}))

    class Listed(Truth):
        """Another image is added when this one is looked at."""

        @property
        def grid_dtype(self) -> str:
            if adding.ident is None and threading.get_ident() == lock._owner and listing:
                adding.start()
                assert lock.asked.wait(10)
            return super().grid_dtype

    listing = False
    second.__class__ = Listed
    one.add("image-2", second, {"images": images})
    listing = True
    one.save()
    adding.join(10)
    assert adding.ident
    one.close()
    again, _ = reopened(tmp_path / "one")
    assert again.lost == []
    assert_same(again.truths["image-3"], third)
    again.close()


def test_what_is_said_while_a_copy_is_written_is_in_the_copy(tmp_path: Path) -> None:
    """The planes that were predicted first are written while another one is."""
    one, truth = begin(tmp_path / "one")
    speaking = threading.Thread(target=lambda: say(one, truth, Origin.FIRST, planes[1], 1))
    planes = [(slice(z, z + 1), slice(0, 300), slice(0, 520)) for z in range(2)]

    class Heard(float):
        def __round__(self, digits: Any = None) -> Any:
            if speaking.ident is None:
                speaking.start()
                speaking.join(10)
            return float(self)

    say(one, truth, Origin.FIRST, planes[0], 1)
    one.effort.firsts[KEY] = {(0,): First(Heard(3.0), 1)}
    copy = one.save_as(tmp_path / "copy")
    assert speaking.ident
    assert set(one.effort.firsts[KEY]) == {(0,), (1,)}
    copy.catch_up(one)
    copy.add(KEY, truth)
    for each in (one, copy):
        each.close()
    moved, now = reopened(tmp_path / "copy")
    assert set(moved.effort.firsts[KEY]) == {(0,), (1,)}
    assert_same(now, truth)
    moved.close()


def test_a_journal_cut_off_anywhere_gives_all_whole_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth, frames = Truth(SHAPE), []
    for _ in range(4):
        origin, region, values = draw(rng)
        change = truth.note(origin, region, values)
        assert change is not None
        frames.append(pack(Said(KEY, change)))
    path = tmp_path / "journal-1"
    one = Journal(path)
    ends = [one.size]
    for frame in frames:
        one.append(frame)
        ends.append(one.size)
    one.close()
    content = path.read_bytes()
    for length in range(len(content) - len(frames[-1]) - 3, len(content) + 1):
        path.write_bytes(content[:length])
        found = list(read_frames(path))
        assert len(found) == sum(length >= end for end in ends[1:])
    for at in range(ends[2], ends[3], 7):
        flipped = bytearray(content)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        assert len(list(read_frames(path))) == 2, "a damaged frame, and nothing after it"


def test_what_a_torn_journal_lost_is_said_and_kept(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, Origin.STROKES, (slice(0, 1), slice(0, 9), slice(0, 9)), 1)
    one.close()
    path = tmp_path / "one" / "journal-1"
    path.write_bytes(path.read_bytes()[:-3])
    again, now = reopened(tmp_path / "one")
    assert "not whole" in again.lost[0]
    assert not now.read(Origin.STROKES, whole(SHAPE)).any()
    again.save()
    assert (tmp_path / "one" / "unread-journal-1").exists()
    kept = sorted(p.name for p in (tmp_path / "one").glob("unread-*"))
    again.save()
    again.save()
    assert sorted(p.name for p in (tmp_path / "one").glob("unread-*")) == kept, "copies pile up"
    again.close()


# -- crashes ---------------------------------------------------------------------------------------

CHILD = """
import sys, threading
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_project import begin, draw, say
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


def replay(seed: int, count: int) -> Truth:
    rng, truth = np.random.default_rng(seed), Truth(SHAPE)
    for _ in range(count):
        truth.note(*draw(rng))
    return truth


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_loses_nothing_that_was_recorded(tmp_path: Path, seed: int) -> None:
    """SIGKILL at a random moment, while strokes are recorded and snapshots are written."""
    arguments = [sys.executable, "-c", CHILD, str(tmp_path / "one"), str(Path(__file__).parent)]
    child = subprocess.Popen([*arguments, str(seed)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    assert first == "0\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.6))  # the moment is random, nothing waits for it
    child.send_signal(signal.SIGKILL)
    acknowledged = 1 + child.stdout.read().count("\n")
    child.wait()
    child.stdout.close()
    one, truth = reopened(tmp_path / "one")
    assert one.lost == [] or "not whole" in one.lost[0]
    wanted = [replay(seed, count) for count in (acknowledged, acknowledged + 1)]
    everything = whole(SHAPE)
    assert any(
        all(
            np.array_equal(truth.read(origin, everything), w.read(origin, everything))
            for origin in Origin
        )
        for w in wanted
    ), f"{acknowledged} were acknowledged"
    one.save()
    one.close()


FAULTS = ["_sync_tree", "write_truth", "_write_file", "_sweep"]


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

    monkeypatch.setattr(project if hasattr(project, fault) else Project, fault, die)
    with pytest.raises(Killed):
        one.save()
    monkeypatch.undo()
    say(one, truth, *draw(rng))
    one._release()  # as the end of a process does
    again, now = reopened(tmp_path / "one")
    assert_same(truth, now)
    again.save()
    again.close()
    last, then = reopened(tmp_path / "one")
    assert_same(truth, then)
    last.close()
    assert len(list((tmp_path / "one").glob("snapshot-*"))) == 1


# -- disks -----------------------------------------------------------------------------------------


def test_a_full_disk_leaves_what_was_there_and_goes_on_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    one, truth = begin(tmp_path / "one")
    for _ in range(5):
        say(one, truth, *draw(rng))
    real, room = os.write, [100]

    def full(file: int, data: Any) -> int:
        if file > 2 and not room[0]:
            raise OSError(28, "No space left on device")
        length = min(room[0], len(data)) if file > 2 else len(data)
        room[0] -= length if file > 2 else 0
        return real(file, bytes(data)[:length])

    before = (tmp_path / "one" / "journal-1").read_bytes()
    monkeypatch.setattr(journal.os, "write", full)
    for _ in range(5):
        say(one, truth, *draw(rng))
    assert "no space left on device" in one.trouble
    assert "save the project elsewhere" in one.trouble
    assert (tmp_path / "one" / "journal-1").read_bytes() == before
    assert not one.retry()
    with pytest.raises(UserError):
        one.save()
    monkeypatch.undo()
    say(one, truth, *draw(rng))
    assert one.retry() or one.needs_saving
    one.save()
    assert one.trouble == ""
    one.close()
    again, now = reopened(tmp_path / "one")
    assert_same(truth, now)
    again.close()


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
    assert_same(truth, now)
    again.close()


def test_a_copy_is_a_project_of_its_own(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, Origin.ACCEPTED, (slice(0, 1), slice(0, 9), slice(0, 9)), 1)
    one.add_model("first", lambda path: path.write_bytes(b"model"))
    two = one.save_as(tmp_path / "two")
    assert (two.folder / "models" / "first.safetensors").read_bytes() == b"model"
    one.close()
    two.close()
    again, now = reopened(tmp_path / "two")
    assert_same(truth, now)
    assert again.values == IMAGES
    again.close()


def test_two_windows_are_kept_apart(tmp_path: Path) -> None:
    one, _ = begin(tmp_path / "one")
    with pytest.raises(UserError, match="open in another window"):
        Project.open(tmp_path / "one")
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


# -- hostile and damaged projects ------------------------------------------------------------------


def damage(folder: Path, how: str) -> None:
    file = folder / FILE
    content = json.loads(file.read_text())
    match how:
        case "cut off":
            file.write_text(file.read_text()[:50])
        case "newer":
            content["format"] = 99
        case "list":
            content = []
        case "escaping snapshot":
            content["snapshot"] = "../elsewhere"
        case "escaping image":
            content["images"]["../image"] = content["images"][KEY]
        case "giant":
            content["images"][KEY]["shape"] = [2**40, 2, 2]
        case "object":
            content["images"][KEY]["dtype"] = "object"
        case "deep":
            file.write_text("[" * 100_000)
    if how not in ("cut off", "deep"):
        file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "how",
    ["cut off", "newer", "list", "escaping snapshot", "escaping image", "giant", "object", "deep"],
)
def test_a_damaged_project_file_is_one_sentence(tmp_path: Path, how: str) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, *draw(np.random.default_rng(0)))
    one.save()
    one.close()
    damage(tmp_path / "one", how)
    with pytest.raises(UserError) as caught:
        Project.open(tmp_path / "one")
    assert ("format 99" if how == "newer" else "damaged") in str(caught.value)
    assert not (tmp_path / "one" / "journal-3").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codecs", [{"name": "bytes"}, {"name": "numcodecs.pickle", "configuration": {}}]),
        ("shape", [2**40, 300, 520]),
        ("data_type", "int64"),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [3, 300, 520]}}),
        ("storage_transformers", [{"name": "odd"}]),
        ("node_type", "group"),
    ],
)
def test_snapshots_that_are_not_ours_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    import napari_unetseg.io.snapshot as snapshot

    one, truth = begin(tmp_path / "one")
    say(one, truth, Origin.STROKES, (slice(0, 1), slice(0, 9), slice(0, 9)), 1)
    one.save()
    one.close()
    file = next((tmp_path / "one").glob("snapshot-*")) / KEY / "strokes" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    opened: list[str] = []
    real = snapshot.zarr.open_array
    monkeypatch.setattr(
        snapshot.zarr, "open_array", lambda path, **m: opened.append(path) or real(path, **m)
    )
    again = Project.open(tmp_path / "one")
    assert "not ours" in again.lost[0]
    assert not any(path.endswith("/strokes") for path in opened)
    again.close()


@pytest.mark.parametrize("name", ["strokes", "strokes.times", "corrections"])
def test_a_flipped_bit_of_a_snapshot_is_said_and_the_rest_is_read(
    tmp_path: Path, name: str
) -> None:
    one, truth = begin(tmp_path / "one")
    rng = np.random.default_rng(0)
    for _ in range(30):
        say(one, truth, *draw(rng))
    one.save()
    one.close()
    chunk = next((tmp_path / "one").glob("snapshot-*")) / KEY / name / "c" / "1" / "0" / "0"
    whole_file = chunk.read_bytes()
    damaged = (slice(1, 2), slice(0, 256), slice(0, 256))
    origin = Origin(name.partition(".")[0])
    for bit in rng.integers(0, 8 * len(whole_file), 25).tolist():
        flipped = bytearray(whole_file)
        flipped[bit // 8] ^= 1 << bit % 8
        chunk.write_bytes(flipped)
        contents = read_contents(tmp_path / "one")
        assert contents.lost == [
            f"Part of what was saved could not be read: a chunk of {name} is damaged."
        ]
        now = contents.truths[KEY]
        assert not now.read(origin, damaged).any()
        for other in Origin:
            expected = truth.read(other, whole(SHAPE))
            if other is origin:
                expected[damaged] = 0
            np.testing.assert_array_equal(now.read(other, whole(SHAPE)), expected)


def test_snapshots_without_checksums_still_open(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, *draw(np.random.default_rng(0)))
    one.save()
    one.close()
    for file in next((tmp_path / "one").glob("snapshot-*")).rglob("zarr.json"):
        said = json.loads(file.read_text())
        assert said["codecs"].pop() == {"name": "crc32c"}
        file.write_text(json.dumps(said))
        for chunk in (p for p in (file.parent / "c").rglob("*") if p.is_file()):
            chunk.write_bytes(chunk.read_bytes()[:-4])
    contents = read_contents(tmp_path / "one")
    assert contents.lost == []
    assert_same(contents.truths[KEY], truth)


def test_a_chunk_that_would_become_huge_is_not_decoded(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, Origin.STROKES, (slice(0, 1), slice(0, 9), slice(0, 9)), 1)
    one.save()
    one.close()
    chunk = next((tmp_path / "one").glob("snapshot-*")) / KEY / "strokes" / "c" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[4:8] = (2**31 - 1).to_bytes(4, "little")
    chunk.write_bytes(content)
    again = Project.open(tmp_path / "one")
    assert "damaged" in again.lost[0]
    again.close()


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "said", "image": "image-9"},
        {"kind": "said", "image": KEY, "origin": "strokes", "region": [[0, 1]], "dtype": "|O"},
        {"kind": "said", "image": KEY, "origin": "strokes", "region": [[-5, 1]] * 3},
        {"kind": "run", "values": {}},
        {"kind": "state", "values": []},
    ],
)
def test_a_whole_frame_that_no_frame_may_be_ends_reading(tmp_path: Path, header: Any) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, Origin.STROKES, (slice(0, 1), slice(0, 9), slice(0, 9)), 1)
    assert one._journal is not None
    text = json.dumps({"stamp": 1, "sizes": [0], "dtype": "|u1", **header}).encode()
    content = len(text).to_bytes(4, "little") + text
    one._journal.append(journal.LENGTHS.pack(len(content), journal.zlib.crc32(content)) + content)
    one.close()
    again, now = reopened(tmp_path / "one")
    assert_same(truth, now)
    assert "only in part" in again.lost[0]
    again.close()


def test_a_frame_beyond_its_image_is_refused(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    other = Truth((9, 900, 900))
    region = (slice(8, 9), slice(800, 809), slice(0, 9))
    say(one, other, Origin.STROKES, region, 1)
    one.close()
    again, now = reopened(tmp_path / "one")
    assert "outside its image" in again.lost[0]
    assert_same(truth, now)
    again.close()


def test_states_travel_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal-1"
    one = Journal(path)
    one.append(pack(State({"name": "Zellen · µm", "list": [1, 2.5, None]})))
    one.close()
    (found,) = list(read_frames(path))
    assert isinstance(found, State)
    assert found.values == {"name": "Zellen · µm", "list": [1, 2.5, None]}


def test_labels_of_any_byte_order_are_there_again(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    labels = np.zeros(SHAPE, ">u2")
    labels[0, 5, 5] = 300
    list(truth.adopt(labels, LabelKind.INSTANCES))
    one.add(KEY, truth)
    region = (slice(0, 1), slice(5, 6), slice(5, 7))
    change = truth.note(Origin.STROKES, region, labels[:1, 5:6, 4:6])
    assert change is not None
    one.record(KEY, change)
    one.close()
    again, now = reopened(tmp_path / "one")
    assert again.lost == []
    assert_same(truth, now)
    assert now.read(Origin.STROKES, whole(SHAPE))[0, 5, 6] == 300
    again.close()


def test_an_image_is_taken_in_whole_or_not_at_all(tmp_path: Path) -> None:
    """A kill while a layer of labels is written leaves the labels of before."""
    one, truth = begin(tmp_path / "one")
    say(one, truth, Origin.STROKES, (slice(0, 1), slice(0, 9), slice(0, 9)), 1)
    before = one.journal_bytes
    labels = np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.uint8)
    list(truth.adopt(labels, LabelKind.STROKES))
    one.add(KEY, truth)
    one.close()
    path = tmp_path / "one" / "journal-1"
    content = path.read_bytes()
    path.write_bytes(content[: (before + len(content)) // 2])
    again, now = reopened(tmp_path / "one")
    assert now.count(Origin.STROKES) == 81
    again.close()


def test_a_project_opened_in_a_thread_is_free_when_it_is_closed(tmp_path: Path) -> None:
    begin(tmp_path / "one")[0].close()
    opened: list[Project] = []
    thread = threading.Thread(target=lambda: opened.append(Project.open(tmp_path / "one")))
    thread.start()
    thread.join()
    opened[0].close()
    Project.open(tmp_path / "one").close()


def test_a_folder_that_was_put_back_gets_what_was_said_meanwhile(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    one, truth = begin(tmp_path / "one")
    say(one, truth, *draw(rng))
    one.sync()
    shutil.copytree(tmp_path / "one", tmp_path / "backup")
    shutil.rmtree(tmp_path / "one")
    say(one, truth, *draw(rng))
    shutil.copytree(tmp_path / "backup", tmp_path / "one")
    one.sync()
    assert one.needs_saving
    assert not one.retry()
    one.save()
    one.close()
    again, now = reopened(tmp_path / "one")
    assert_same(truth, now)
    again.close()


def test_labels_that_are_replaced_during_a_save_cost_nothing(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    place = (slice(0, 1), slice(0, 9), slice(0, 9))
    say(one, truth, Origin.STROKES, place, 1)
    say(one, truth, Origin.CORRECTIONS, place, 2)
    real, done = truth.chunks, []

    def meanwhile(origin: Origin) -> Iterator[Any]:
        if not done:
            done.append(origin)
            list(truth.adopt(np.full(SHAPE, 700, np.int32), LabelKind.INSTANCES))
            truth.chunks = real  # type: ignore[method-assign]
            one.add(KEY, truth)
        yield from real(origin)

    truth.chunks = meanwhile  # type: ignore[method-assign]
    one.save()
    one.close()
    again, now = reopened(tmp_path / "one")
    assert again.lost == []
    assert_same(truth, now)
    again.close()


def test_a_save_that_comes_late_touches_nothing(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, Origin.STROKES, (slice(0, 1), slice(0, 9), slice(0, 9)), 1)
    one.close()
    other, now = reopened(tmp_path / "one")
    say(other, now, Origin.STROKES, (slice(0, 1), slice(20, 29), slice(0, 9)), 1)
    before = sorted(p.name for p in (tmp_path / "one").iterdir())
    one.save()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == before
    other.close()


def test_links_in_place_of_files_are_not_followed(tmp_path: Path) -> None:
    begin(tmp_path / "one")[0].close()
    (tmp_path / "mine.json").write_bytes((tmp_path / "one" / FILE).read_bytes())
    (tmp_path / "one" / FILE).unlink()
    (tmp_path / "one" / FILE).symlink_to(tmp_path / "mine.json")
    with pytest.raises(UserError, match="links"):
        Project.open(tmp_path / "one")
