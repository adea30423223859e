"""How long a person annotated: exact seconds, and on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from napari_unetseg.io.contents import FILE

from napari_unetseg.annotations.annotation_store import Origin, Truth
from napari_unetseg.annotations.annotation_time import PAUSE, Effort
from napari_unetseg.annotations.sparse_array import plane_region
from napari_unetseg.io import project as project_module
from napari_unetseg.io.project import Project

SHAPE = (3, 10, 10)
KEY = "image-1"
IMAGES = {"images": {KEY: {"shape": list(SHAPE), "dtype": "uint8", "kind": "strokes"}}}


def test_pauses_do_not_count_and_neither_does_the_change_after_one() -> None:
    effort = Effort()
    for now in (100.0, 110.0, 110.0 + PAUSE, 500.0, 520.0, 520.0 + PAUSE + 0.01, 600.0):
        effort.word(now)
    assert effort.seconds == pytest.approx(10 + PAUSE + 20 + (600 - 520 - PAUSE - 0.01))


@pytest.mark.parametrize("saved", [False, True])
def test_annotation_time_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """From the journal alone, and from a snapshot with a journal after it."""
    now = [1000.0]
    monkeypatch.setattr(project_module.time, "monotonic", lambda: now[0])
    one, truth = Project.create(tmp_path / "p"), Truth(SHAPE)
    one.put_values(IMAGES)
    one.add(KEY, truth)

    def say(origin: Origin, plane: int, seconds: float) -> None:
        now[0] += seconds
        region = plane_region((plane,), SHAPE)
        change = truth.note(origin, region, truth.read(origin, region) + np.uint8(1))
        assert change is not None
        one.record(KEY, change)

    say(Origin.STROKES, 0, 5)
    say(Origin.STROKES, 0, 20)
    if saved:
        one.save()
    say(Origin.CORRECTIONS, 1, 500)
    say(Origin.ACCEPTED, 1, 10)
    one.close()
    again = Project.open(tmp_path / "p")
    assert again.effort.seconds == 30
    again.save_as(tmp_path / "copy").close()
    again.close()
    moved = Project.open(tmp_path / "copy")
    assert moved.effort.seconds == 30
    moved.close()


@pytest.mark.parametrize("seconds", ["long", float("nan"), True, -1, None])
def test_a_project_with_a_damaged_time_opens(tmp_path: Path, seconds: object) -> None:
    one = Project.create(tmp_path / "p")
    one.close()
    file = tmp_path / "p" / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": seconds}))
    again = Project.open(tmp_path / "p")
    assert (again.effort.seconds, len(again.lost)) == (0, 1)
    again.close()
