"""The simulated annotator: its hand, its clock, and that it really works with the dock's parts."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import annotator
import hand
import numpy as np
import pytest
import tifffile
from helpers import blobs, strokes
from PIL import Image

from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.services.job_runner import Job

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl

SMALL = ["--set", "width=4", "--set", "depth=2", "--set", "device=cpu"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with three pictures to work on, of which one has strokes, and one held out."""
    rows = ["set\taxes\tlabels\trole\titem"]
    for folder in ("images", "masks", "scribbles"):
        (tmp_path / "flat" / folder).mkdir(parents=True)
    for seed in range(4):
        image, truth = blobs((128, 128), 14, seed)
        name = f"p{seed}.png"
        pixels = (image.clip(0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "flat" / "images" / name)
        Image.fromarray(truth).save(tmp_path / "flat" / "masks" / name)
        tifffile.imwrite(tmp_path / "flat" / "scribbles" / f"p{seed}.tif", strokes(truth))
    rows += ["flat\tYX\tsemantic\ttrain\tp0.png", "flat\tYX\tsemantic\ttest\tp3.png"]
    (tmp_path / "benchmark.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


# -- the hand ----------------------------------------------------------------------------------


def halves() -> np.ndarray:
    truth = np.zeros((100, 100), np.uint8)
    truth[:, 50:] = 1
    return truth


def painted(found: list[hand.Stroke], value: int, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, bool)
    for stroke in found:
        if stroke.value == value:
            out[stroke.pixels] = True
    return out


def test_strokes_stay_off_the_edge_of_their_class() -> None:
    truth = halves()
    found = list(hand.Hand(0).ordinary(truth, 5))
    assert [s.value for s in found] == [BACKGROUND_LABEL] * 5 + [1] * 5
    assert not painted(found, 1, truth.shape)[:, :52].any()
    assert not painted(found, BACKGROUND_LABEL, truth.shape)[:, 48:].any()


def test_the_largest_error_comes_first_and_what_is_right_last() -> None:
    truth = halves()
    mask = truth.copy()
    mask[20:40, 70:90] = 0  # missed
    labels = np.zeros_like(truth)
    first, *rest = hand.Hand(0).corrections(truth, mask, labels, wrong=1, right=1)
    assert first.value == 1
    rows, columns = first.pixels
    assert 15 <= rows.mean() <= 45
    assert 65 <= columns.mean() <= 95
    assert {s.value for s in rest} == {1, BACKGROUND_LABEL}


def test_what_is_painted_is_not_painted_over_and_where_all_is_right_little_is_done() -> None:
    truth = halves()
    labels = np.zeros_like(truth)
    labels[:, :60] = BACKGROUND_LABEL
    found = list(hand.Hand(0).corrections(truth, truth, labels, wrong=4, right=1))
    assert [s.value for s in found] == [1]
    assert not (painted(found, 1, truth.shape) & (labels != 0)).any()


def test_a_stroke_takes_the_time_to_find_to_travel_and_to_paint() -> None:
    truth = np.zeros((200, 200), np.uint8)
    (stroke,) = hand.Hand(0).ordinary(truth, 1)
    zoom = hand.CANVAS / 200
    least = hand.FIND + hand.KEY + len(stroke.pixels[0]) / hand.BRUSH_WIDTH**2 * zoom / hand.SPEED
    assert least < stroke.seconds < hand.FIND + hand.KEY + 2.0
    thin = np.zeros((200, 200), np.uint8)
    thin[100:106] = 1  # a path six pixels wide is followed slowly
    slow = [s for s in hand.Hand(0).ordinary(thin, 1) if s.value == 1]
    length = hand.LENGTH / 2  # it may be shorter, but not by that much
    assert slow[0].seconds > length / (hand.STEERING * 6 * zoom)


# -- the clock ---------------------------------------------------------------------------------


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_job_gets_the_time_of_the_hand_and_no_more() -> None:
    runner, done = annotator.TurnRunner(), []

    def work(control: JobControl) -> Generator[Event, None, str]:
        for number in range(100):
            burn(0.02)
            yield Notice(str(number))
        return "end"

    seen: list[Any] = []
    runner.start(Job(work, seen.append, done.append, done.append))
    assert runner.busy
    assert not seen, "nothing runs before the hand moves"
    runner.advance(0.1)
    assert 4 <= len(seen) <= 6
    runner.advance(0.1)
    assert 9 <= len(seen) <= 11
    runner.query(lambda: burn(0.1), lambda _: None, about="look")
    before = len(seen)
    runner.advance(0.1)
    assert len(seen) <= before + 1, "what Next computes is taken from the training"
    runner.advance(10.0)
    assert done == ["end"]
    assert not runner.busy


def test_idle_time_is_not_saved_up() -> None:
    runner, seen = annotator.TurnRunner(), []
    runner.advance(100.0)

    def work(control: JobControl) -> Generator[Event, None, None]:
        for _ in range(50):
            burn(0.02)
            yield Notice("")

    runner.start(Job(work, seen.append, seen.append, seen.append))
    runner.advance(0.05)
    assert 1 <= len(seen) <= 4


def test_a_failure_is_handed_on() -> None:
    runner, errors = annotator.TurnRunner(), []

    def work(control: JobControl) -> Generator[Event, None, None]:
        yield Notice("")
        raise ValueError("no")

    runner.start(Job(work, lambda _: None, lambda _: None, errors.append))
    runner.advance(1.0)
    assert isinstance(errors[0], ValueError)
    assert not runner.busy


# -- the program -------------------------------------------------------------------------------


def test_all_images_but_the_held_out_ones_are_worked_on(root: Path) -> None:
    (data,) = annotator.read_sets(root)
    found = annotator.pool(data)
    assert [one.image.name for one in found] == ["p0", "p1", "p2"]
    assert all(set(np.unique(one.labels)) == {0, 1} for one in found)


def test_the_first_minute_that_reaches_a_dice() -> None:
    curve = [{"minutes": m, "dice": d} for m, d in ((1, 0.5), (2, 0.7), (3, 0.6))]
    assert annotator.minutes_to(curve, 0.6) == 2
    assert annotator.minutes_to(curve, 0.8) is None


def test_a_region_around_a_voxel_stays_in_the_plane() -> None:
    for voxel in ((0, 0), (100, 130), (255, 299)):
        region = annotator.region_around(np.array(voxel), (256, 300))
        assert [s.stop - s.start for s in region] == [64, 64]
        assert all(s.start <= v < s.stop for s, v in zip(region, voxel, strict=True))
        assert region[0].start >= 0
        assert region[1].stop <= 300


def test_two_of_three_foreground_places_are_around_what_is_predicted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spot(*_: Any) -> Any:
        """A model that predicts a single voxel."""
        mask = np.zeros((128, 128), np.uint8)
        mask[64, 40] = 1
        return lambda _stack, _planes: mask

    def work(self: annotator.Annotator) -> dict[str, Any]:
        self.begin()
        while self.desk.model is None:
            self.desk.work(1.0)
        places.extend(self.place() for _ in range(60))
        self.desk.plugin.close(0.1)
        return {"curve": [{"minutes": 1, "dice": 0.0}]}

    places: list[Any] = []
    monkeypatch.setattr(annotator, "predictor", spot)
    monkeypatch.setattr(annotator.Annotator, "run", work)
    annotator.main([str(root), "--ways", "foreground", *SMALL])
    around = [region for _, _, region in places if region == (slice(32, 96), slice(8, 72))]
    assert 30 <= len(around) <= 50


@pytest.mark.slow
@pytest.mark.parametrize("way", annotator.WAYS)
def test_every_way_learns_from_what_the_hand_paints(root: Path, tmp_path: Path, way: str) -> None:
    if way == "forest":
        pytest.importorskip("sklearn")
    out = tmp_path / "out"
    every = 0.1 if way == "random" else 0.2  # minutes; the others need time to choose a place
    time_options = ["--minutes", f"{2 * every}", "--every", f"{every}"]
    annotator.main([str(root), "--ways", way, *time_options, "--out", str(out), *SMALL])
    report = json.loads((out / "annotator.json").read_text())
    assert report["simulation"] is True
    (run,) = report["sets"]["flat"][way]
    assert [row["minutes"] for row in run["curve"]] == [every, 2 * every]
    first, last = run["curve"]
    assert last["dice"] > 0.5
    assert last["visits"] > first["visits"]
    assert last["stroke_voxels"] >= first["stroke_voxels"] > 0
    if way in ("next", "corrections"):
        assert last["asked_seconds"] > 0
