"""Time of annotation, and the quality of first predictions over it: exact numbers, and on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_unetseg.annotations.annotation_store import Origin, Truth
from napari_unetseg.annotations.annotation_time import PAUSE, Effort, First
from napari_unetseg.annotations.quality import (
    PlaneQuality,
    agreement,
    first_qualities,
    plane_region,
)
from napari_unetseg.core.labels import BRUSH, LabelKind, Structure
from napari_unetseg.io import project as project_module
from napari_unetseg.io.contents import FILE
from napari_unetseg.io.project import Project

SHAPE = (3, 10, 10)
ONE = (Structure(1),)
TWO = (Structure(1), Structure(2))
KEY = "image-1"
IMAGES = {"images": {KEY: {"shape": list(SHAPE), "dtype": "uint8", "kind": "strokes"}}}


def note(truth: Truth, origin: Origin, plane: int, rows: slice, value: Any) -> int:
    """Let some rows of a plane hold a value; the time of it."""
    region = plane_region((plane,), SHAPE)
    values = truth.read(origin, region)
    values[0, rows] = value
    change = truth.note(origin, region, values)
    assert change is not None
    return change.stamp


def predicted(truth: Truth, plane: int, rows: int) -> int:
    """A first prediction that says structure 1 in the first rows and background below."""
    note(truth, Origin.FIRST, plane, slice(0, 10), BRUSH)
    return note(truth, Origin.FIRST, plane, slice(0, rows), 1)


# -- time ------------------------------------------------------------------------------------------


def test_pauses_do_not_count_and_neither_does_the_word_after_one() -> None:
    effort = Effort()
    for now in (100.0, 110.0, 110.0 + PAUSE, 500.0, 520.0, 520.0 + PAUSE + 0.01, 600.0):
        effort.word(now)
    assert effort.seconds == pytest.approx(10 + PAUSE + 20 + (600 - 520 - PAUSE - 0.01))


def test_time_and_firsts_survive_json_and_what_is_none_is_refused() -> None:
    effort = Effort()
    effort.seconds = 12.34
    effort.predicted(KEY, [(0,), (2,)], 3.0, 5)
    effort.predicted(KEY, [(2,)], 4.0, 9)
    again = Effort.from_json(json.loads(json.dumps(effort.to_json())))
    assert again.seconds == 12.3
    assert again.firsts == {KEY: {(0,): First(3.0, 5), (2,): First(4.0, 9)}}
    good = effort.to_json()
    for bad in (
        [],
        {"seconds": 1},
        {**good, "seconds": float("nan")},
        {**good, "seconds": True},
        {**good, "seconds": -1},
        {**good, "firsts": {KEY: [[0.5, 1.0, 2]]}},
        {**good, "firsts": {KEY: [[0, "1", 2]]}},
        {**good, "firsts": {KEY: [[1]]}},
        {**good, "firsts": []},
    ):
        with pytest.raises(ValueError, match=r"."):
            Effort.from_json(bad)


# -- quality ---------------------------------------------------------------------------------------


def test_an_accepted_plane_counts_as_a_whole() -> None:
    truth = Truth(SHAPE)
    stamp = predicted(truth, 1, rows=4)
    note(truth, Origin.ACCEPTED, 1, slice(0, 10), BRUSH)
    note(truth, Origin.ACCEPTED, 1, slice(2, 5), 1)
    found = first_qualities(truth, {(1,): First(90.0, stamp)}, ONE)
    # predicted rows 0-3, true rows 2-4: two in common of four and three
    assert found == [PlaneQuality((1,), 1.5, pytest.approx(2 * 2 / (4 + 3)), 100, 1.0)]
    assert found[0].complete


def test_only_what_was_said_counts_where_nothing_was_accepted() -> None:
    truth = Truth(SHAPE)
    stamp = predicted(truth, 0, rows=4)
    note(truth, Origin.STROKES, 0, slice(1, 2), 1)
    note(truth, Origin.CORRECTIONS, 0, slice(3, 4), BRUSH)
    note(truth, Origin.CORRECTIONS, 0, slice(6, 7), 1)
    (found,) = first_qualities(truth, {(0,): First(0.0, stamp)}, ONE)
    # row 1 right, row 3 too much, row 6 missed
    assert found == PlaneQuality((0,), 0.0, pytest.approx(2 / (2 + 1 + 1)), 30, 0.0)
    assert not found.complete


def test_what_was_painted_before_the_first_prediction_is_left_out() -> None:
    truth = Truth(SHAPE)
    note(truth, Origin.STROKES, 0, slice(0, 2), 1)
    note(truth, Origin.STROKES, 2, slice(0, 2), 1)
    stamps = {0: predicted(truth, 0, rows=2), 2: predicted(truth, 2, rows=2)}
    firsts = {(plane,): First(0.0, stamp) for plane, stamp in stamps.items()}
    assert first_qualities(truth, firsts, ONE) == []
    note(truth, Origin.STROKES, 0, slice(5, 6), 1)
    note(truth, Origin.ACCEPTED, 2, slice(0, 10), BRUSH)
    note(truth, Origin.ACCEPTED, 2, slice(0, 5), 1)
    found = {q.plane: q for q in first_qualities(truth, firsts, ONE)}
    assert (found[0,].dice, found[0,].voxels) == (0.0, 10)
    # rows 0 and 1 of the accepted plane were right, and known before
    assert (found[2,].dice, found[2,].voxels) == (0.0, 80)


def test_the_newest_word_wins_and_gone_structures_and_strokes_are_left_out() -> None:
    truth = Truth(SHAPE)
    stamp = predicted(truth, 0, rows=4)
    note(truth, Origin.FIRST, 0, slice(8, 10), 2)
    note(truth, Origin.CORRECTIONS, 0, slice(0, 2), BRUSH)
    note(truth, Origin.STROKES, 0, slice(0, 10), 1)
    firsts = {(0,): First(0.0, stamp)}
    (found,) = first_qualities(truth, firsts, ONE)
    assert (found.dice, found.voxels) == (pytest.approx(2 * 4 / (4 + 8)), 80)
    (both,) = first_qualities(truth, firsts, TWO)
    assert (both.dice, both.voxels) == (pytest.approx((2 * 4 / (4 + 10) + 0) / 2), 100)
    truth.put_strokes_away()
    (alone,) = first_qualities(truth, firsts, ONE)
    assert (alone.dice, alone.voxels) == (0.0, 20)


def test_no_point_without_a_time_a_structure_or_a_later_word() -> None:
    truth = Truth(SHAPE)
    stamp = predicted(truth, 0, rows=4)
    assert first_qualities(truth, {(0,): First(0.0, stamp)}, ONE) == []
    note(truth, Origin.ACCEPTED, 0, slice(6, 8), BRUSH)
    assert first_qualities(truth, {(0,): First(0.0, stamp)}, ONE) == []  # background alone
    note(truth, Origin.ACCEPTED, 0, slice(0, 1), 1)
    assert first_qualities(truth, {(1,): First(0.0, stamp)}, ONE) == []
    assert len(first_qualities(truth, {(0,): First(0.0, stamp)}, ONE)) == 1


def test_full_masks_and_binary_ones_are_understood() -> None:
    truth = Truth(SHAPE, np.uint8, LabelKind.FULL)
    note(truth, Origin.STROKES, 0, slice(0, 5), 255)
    region = plane_region((0,), SHAPE)
    said = np.full((1, 10, 10), BRUSH, np.uint8)
    said[0, :4] = 1
    scores = agreement(truth, region, said, ONE)
    assert scores is not None
    assert (scores.dice, scores.voxels) == ((pytest.approx(2 * 4 / (4 + 5)),), 100)


# -- on disk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
def test_time_and_firsts_are_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """From the journal alone, and from a snapshot with a journal after it."""
    now = [1000.0]
    monkeypatch.setattr(project_module.time, "monotonic", lambda: now[0])
    one, truth = Project.create(tmp_path / "p"), Truth(SHAPE)
    one.put_values(IMAGES)
    predicted(truth, 0, rows=3)  # before the project knew of the image
    one.add(KEY, truth)

    def say(origin: Origin, plane: int, seconds: float) -> None:
        now[0] += seconds
        region = plane_region((plane,), SHAPE)
        change = truth.note(origin, region, truth.read(origin, region) + np.uint8(1))
        assert change is not None
        one.record(KEY, change)

    say(Origin.STROKES, 0, 5)
    say(Origin.STROKES, 0, 20)
    say(Origin.FIRST, 1, 500)
    if saved:
        one.save()
    say(Origin.CORRECTIONS, 1, 1)
    say(Origin.ACCEPTED, 1, 10)
    say(Origin.FIRST, 2, 3)
    known = one.effort.firsts[KEY]
    assert {plane: first.seconds for plane, first in known.items()} == {(0,): 0, (1,): 20, (2,): 30}
    one.close()
    again = Project.open(tmp_path / "p")
    assert again.effort.seconds == 30
    assert again.effort.firsts == {KEY: known}
    copy = again.save_as(tmp_path / "copy")
    copy.close()
    again.close()
    moved = Project.open(tmp_path / "copy")
    assert (moved.effort.seconds, moved.effort.firsts) == (30, {KEY: known})
    moved.close()


def test_a_project_without_times_or_with_damaged_ones_opens(tmp_path: Path) -> None:
    one = Project.create(tmp_path / "p")
    one.close()
    file = tmp_path / "p" / FILE
    content = json.loads(file.read_text())
    for effort, lost in ((None, 0), ({"seconds": "long"}, 1)):
        file.write_text(json.dumps({**content, "effort": effort}))
        again = Project.open(tmp_path / "p")
        assert (again.effort.seconds, len(again.lost)) == (0, lost)
        again.close()
