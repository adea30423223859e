"""Places of a check of quality in a project: there again after a kill, a copy, a full disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from project_parts import KEY, PLACE, begin, check_kept, kill, no_room, say

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.project.database import FILE
from napari_unetseg.io.project.place_rows import CheckedPlace, ModelOverlaps, PlaceState
from napari_unetseg.io.project.project import Project

PENDING = CheckedPlace(
    1,
    KEY,
    (slice(1, 2), slice(64, 128), slice(0, 65)),
    3.25,
    seed=0,
    truth=np.random.default_rng(0).choice([0, 255], (1, 64, 65)).astype(np.uint8),
)
CHECKED = replace(
    PENDING,
    number=2,
    truth=np.random.default_rng(1).choice([0, 1, 2, 255], (1, 64, 65)).astype(np.uint8),
    state=PlaceState.CHECKED,
    seconds=1.7e9,
    models={"abc": ModelOverlaps("Model 1", {1: (5, 7, 9), 2: (0, 0, 3)})},
)


def said(places: dict[int, CheckedPlace]) -> list[object]:
    return [
        (
            number,
            (p.number, p.image, p.region, p.weight, p.seed, p.state, p.seconds),
            p.truth.tolist(),
            {model: (one.name, dict(one.counts)) for model, one in p.models.items()},
        )
        for number, p in sorted(places.items())
    ]


def check_places(folder: Path, places: dict[int, CheckedPlace]) -> None:
    for again in (Project.read(folder), Project.open(folder)):
        assert again.lost == []
        assert said(again.places) == said(places)
        again.close()


def user_version(folder: Path) -> int:
    with closing(sqlite3.connect(folder / FILE)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("end", [kill, Project.close])
def test_places_are_there_again_after_closing_and_after_a_kill(tmp_path: Path, end: object) -> None:
    one, truth = begin(tmp_path / "one")
    one.put_places([PENDING, replace(PENDING, number=2)])
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    one.put_places([CHECKED], [1])
    end(one)  # type: ignore[operator]
    check_places(tmp_path / "one", {2: CHECKED})
    check_kept(tmp_path / "one", truth)


def test_a_project_without_places_stays_as_older_programs_read_it(tmp_path: Path) -> None:
    one, truth = begin(tmp_path / "one")
    say(one, truth, LabelSource.STROKES, PLACE, 1)
    one.put_places([])
    one.close()
    assert user_version(tmp_path / "one") == 1
    again = Project.open(tmp_path / "one")
    again.put_places([CHECKED])
    again.close()
    assert user_version(tmp_path / "one") == 2
    check_places(tmp_path / "one", {2: CHECKED})


def test_a_copy_has_the_places_of_the_moment_at_which_it_takes_over(tmp_path: Path) -> None:
    one, _ = begin(tmp_path / "one")
    one.put_places([PENDING, CHECKED])
    copy = one.save_as(tmp_path / "two")
    one.put_places([replace(CHECKED, number=3)], [1])
    copy.catch_up(one)
    one.close()
    copy.close()
    check_places(tmp_path / "two", {2: CHECKED, 3: replace(CHECKED, number=3)})


def test_places_that_found_no_room_are_written_when_there_is_some(tmp_path: Path) -> None:
    one, _ = begin(tmp_path / "one")
    one.put_places([PENDING])
    noise = np.random.default_rng(0).integers(1, 250, (1, 300, 520)).astype(np.uint8)
    large = replace(CHECKED, region=(slice(0, 1), slice(0, 300), slice(0, 520)), truth=noise)
    with no_room():
        one.put_places([large], [1])
        assert one.trouble
    one.save()
    assert not one.trouble
    kill(one)
    check_places(tmp_path / "one", {2: large})


def test_a_damaged_place_is_left_out_and_said(tmp_path: Path) -> None:
    one, _ = begin(tmp_path / "one")
    one.put_places([PENDING, CHECKED])
    one.close()
    with closing(sqlite3.connect(tmp_path / "one" / FILE)) as connection, connection:
        connection.execute("UPDATE places SET weight = 99 WHERE id = 2")
    again = Project.read(tmp_path / "one")
    assert list(again.places) == [1]
    assert again.lost


def test_a_foreign_table_is_refused(tmp_path: Path) -> None:
    one, _ = begin(tmp_path / "one")
    one.close()
    with closing(sqlite3.connect(tmp_path / "one" / FILE)) as connection, connection:
        connection.execute("CREATE TABLE places (id INTEGER)")
    with pytest.raises(UserError):
        Project.open(tmp_path / "one")
