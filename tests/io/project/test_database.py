"""Files that are damaged, foreign or hostile: one sentence, nothing is run, nothing is changed."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project_parts import KEY, PLACE, begin, draw, is_same, say

from napari_unetseg.annotations.annotation_store import AnnotationChange, LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.project.database import FILE
from napari_unetseg.io.project.label_rows import columns_of
from napari_unetseg.io.project.project import Project


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with two strokes on different chunks."""
    one, truth = begin(tmp_path / "one")
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    say(one, truth, LabelSource.STROKES, (slice(1, 2), slice(0, 9), slice(0, 9)), 1)
    one.close()
    return one.folder


def change(folder: Path, *statements: str, parameters: tuple[Any, ...] = ()) -> None:
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    connection.execute("PRAGMA journal_mode=DELETE")
    for statement in statements:
        connection.execute(statement, parameters)
    connection.close()


def files_of(folder: Path) -> dict[str, str]:
    """Digests of all files."""
    files = [p for p in folder.iterdir() if p.is_file() and p.name != ".lock"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def assert_refused(folder: Path, match: str) -> None:
    before = files_of(folder)
    for way in (Project.open, Project.read):
        with pytest.raises(UserError, match=match) as caught:
            way(folder)
        assert "\n" not in str(caught.value)
        assert files_of(folder) == before, "it is as it was"


SCHEMAS = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON labels BEGIN DELETE FROM images; END",
    "a view": "CREATE VIEW v AS SELECT * FROM labels",
    "a table": "CREATE TABLE more (a)",
    "an index": "CREATE INDEX i ON labels (abs(stamp))",
    "a column": "ALTER TABLE labels ADD COLUMN more AS (abs(stamp))",
    "a virtual table": "CREATE VIRTUAL TABLE f USING fts5(text)",
    "no table": "DROP TABLE state",
    "a table of another form": "ALTER TABLE images RENAME COLUMN kind TO sort",
}


@pytest.mark.parametrize("what", SCHEMAS)
def test_another_schema_is_refused(folder: Path, what: str) -> None:
    change(folder, SCHEMAS[what])
    assert_refused(folder, "damaged, or not a project's")


CELLS = {
    "a list of values": ("UPDATE state SET value = '[]'", ()),
    "deep values": ("UPDATE state SET value = ?", ("[" * 100_000,)),
    "values that are bytes": ("UPDATE state SET value = x'ff00'", ()),
    "values that are no text": ("UPDATE state SET value = CAST(x'7bfffe7d' AS TEXT)", ()),
    "values that are large": ("UPDATE state SET value = zeroblob(?)", (70 * 2**20,)),
    "an escaping image": ("UPDATE images SET name = '../image'", ()),
    "an image of a number": ("UPDATE images SET name = 7", ()),
    "a giant image": ("UPDATE images SET shape = '[1099511627776, 2, 2]'", ()),
    "an image of many axes": ("UPDATE images SET shape = ?", (json.dumps([1] * 99),)),
    "an image of halves": ("UPDATE images SET shape = '[3, 300.5, 520]'", ()),
    "labels that are objects": ("UPDATE images SET dtype = 'object'", ()),
    "labels that are records": ("UPDATE images SET dtype = 'u1,u1'", ()),
    "labels that are text": ("UPDATE images SET dtype = 'S1000000000'", ()),
    "an unknown kind": ("UPDATE images SET kind = 'mine'", ()),
    "endless seconds": ("REPLACE INTO state VALUES ('seconds', 'inf')", ()),
    "seconds of text": ("REPLACE INTO state VALUES ('seconds', 'long')", ()),
    "a null": ("UPDATE images SET shape = NULL", ()),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_table_that_holds_what_it_cannot_is_refused(folder: Path, what: str) -> None:
    statement, parameters = CELLS[what]
    change(folder, statement, parameters=parameters)
    tracemalloc.start()
    assert_refused(folder, "is damaged|cannot be read")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**28


ROWS: dict[str, Callable[[list[Any]], None]] = {
    "another image": lambda row: row.__setitem__(1, "image-9"),
    "another origin": lambda row: row.__setitem__(2, "mine"),
    "a region outside": lambda row: row.__setitem__(3, "0:1,0:9,600:609"),
    "a negative region": lambda row: row.__setitem__(3, "-1:0,0:9,0:9"),
    "a region of text": lambda row: row.__setitem__(3, "a:b,c:d,e:f"),
    "a long region": lambda row: row.__setitem__(3, "0:1," * 9999),
    "a region of other axes": lambda row: row.__setitem__(3, "0:9,0:9"),
    "a large region": lambda row: row.__setitem__(3, "0:3,0:300,0:520"),
    "a region that is null": lambda row: row.__setitem__(3, None),
    "a negative time": lambda row: row.__setitem__(4, -1),
    "a time of text": lambda row: row.__setitem__(4, "soon"),
    "labels that are text": lambda row: row.__setitem__(5, "text"),
    "labels that are null": lambda row: row.__setitem__(5, None),
    "labels that are cut off": lambda row: row.__setitem__(5, row[5][:-3]),
    "labels that claim to be large": lambda row: row.__setitem__(
        5, row[5][:4] + (2**31 - 1).to_bytes(4, "little") + row[5][8:]
    ),
    "times that are labels": lambda row: row.__setitem__(6, row[5]),
    "another checksum": lambda row: row.__setitem__(7, row[7] ^ 1),
}


@pytest.mark.parametrize("what", ROWS)
@pytest.mark.parametrize("checksum", ["old", "right"])
def test_a_row_that_is_damaged_is_said_and_the_others_are_read(
    folder: Path, what: str, checksum: str
) -> None:
    from napari_unetseg.io.project.label_rows import _crc

    region = (slice(2, 3), slice(0, 9), slice(0, 9))
    one = AnnotationChange(LabelSource.STROKES, region, np.ones((1, 9, 9), np.uint8), 5)
    row = list(columns_of(1000, KEY, one, np.dtype(np.uint8)))
    ROWS[what](row)
    if checksum == "right" and what != "another checksum":
        try:
            row[7] = _crc(tuple(row[1:5]), row[5], row[6])
        except TypeError:
            return
    change(folder, "INSERT INTO labels VALUES (?,?,?,?,?,?,?,?)", parameters=tuple(row))
    before = files_of(folder)
    found = Project.read(folder)
    assert found.lost == ["Part of what was saved is damaged and left out: 1 pieces."]
    assert found.by_image[KEY].count(LabelSource.STROKES) == 162
    assert files_of(folder) == before
    opened = Project.open(folder)
    say(opened, opened.by_image[KEY], LabelSource.STROKES, region, 1)
    opened.close()
    assert Project.read(folder).by_image[KEY].count(LabelSource.STROKES) == 243


def test_bytes_that_changed_are_refused_or_said_and_never_taken_for_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, truth = begin(tmp_path / "one")
    for _ in range(30):
        say(one, truth, *draw(rng))
    one.close()
    file = tmp_path / "one" / FILE
    content, outcomes = file.read_bytes(), set()
    for at in rng.integers(0, len(content), 300).tolist():
        torn = bytearray(content)
        torn[at] ^= 1 << at % 8
        file.write_bytes(torn)
        try:
            found = Project.read(tmp_path / "one")
        except UserError:
            outcomes.add("refused")
        else:
            outcomes.add("said" if found.lost else "not used")
            assert found.lost or is_same(found.by_image[KEY], truth)
        assert file.read_bytes() == torn
    assert {"refused", "said"} <= outcomes


@pytest.mark.parametrize("length", [0, 1, 16, 60, 100, 511, 4095, 4096, 4097, 9000, -5000])
def test_a_file_that_is_cut_off_is_refused(folder: Path, length: int) -> None:
    file = folder / FILE
    file.write_bytes(file.read_bytes()[:length])
    assert_refused(folder, "damaged")


def test_foreign_files_and_other_versions_are_refused(folder: Path, tmp_path: Path) -> None:
    change(folder, "PRAGMA user_version = 99")
    assert_refused(folder, "another version of this plugin .format 99")
    (folder / FILE).write_bytes(b"\x80\x04 pickled")
    assert_refused(folder, "not a project's")
    with pytest.raises(UserError, match="is no project"):
        Project.open(tmp_path)


def test_a_project_of_the_early_form_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "project.json").write_text('{"format": 1}')
    (tmp_path / "journal-1").write_bytes(b"napari-unetseg journal 1\n")
    assert_refused(tmp_path, "made by an early version")


@pytest.mark.parametrize("name", [FILE, f"{FILE}-wal", "models", ".lock"])
def test_links_in_place_of_files_are_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "mine"
    if (folder / name).exists():
        (folder / name).rename(target)
    (folder / name).symlink_to(target)
    with pytest.raises(UserError, match="links"):
        Project.open(folder)


def test_a_hostile_log_changes_nothing_beside_a_healthy_file(folder: Path) -> None:
    """What a log adds to the schema is refused as what the file holds."""
    content = (folder / FILE).read_bytes()
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(SCHEMAS["a trigger"])
    log = (folder / f"{FILE}-wal").read_bytes()
    connection.close()
    (folder / FILE).write_bytes(content)
    (folder / f"{FILE}-wal").write_bytes(log)
    assert_refused(folder, "damaged, or not a project's")


def test_folders_that_cannot_be_written_are_read_and_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as root, whom no permission stops: SQLite is told to open the file read-only."""
    connect = sqlite3.connect

    def read_only(name: str, **options: Any) -> sqlite3.Connection:
        return connect(name if "immutable" in name else f"{name}mode=ro", **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    before = files_of(folder)
    with pytest.raises(UserError, match=r"could not be opened .*choose another folder"):
        Project.open(folder)
    assert Project.read(folder).by_image[KEY].count(LabelSource.STROKES) == 162
    assert files_of(folder) == before
