"""Masks while a training goes on: which model and which plane, and how often."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gui_parts import squares
from live_parts import constant, scores

from napari_unetseg.core.events import Event, Notice, TilePredicted
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.jobs.live_predictor import (
    EVERY_SECONDS,
    FREE_SECONDS,
    MAX_TIME_FRACTION,
    LivePredictor,
    MaskFinished,
    MaskStarted,
    Viewport,
    ViewportState,
)
from napari_unetseg.training.training_events import ModelUpdated, StepDone

STEP = StepDone(1, 0, 0.5, 0.1, None)


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A live mask of a small image, and what comes out of it."""

    def __init__(self, planes: tuple[int, ...] = (), data: Any = None) -> None:
        self.clock, self.control, self.screen = Clock(), JobControl(1), ViewportState()
        self.stack = Stack.from_array(squares(planes)) if data is None else data
        self.live = LivePredictor(self.screen, "cpu", self.control, self.clock)
        self.look(*(0,) * len(planes))

    def look(self, *plane: int) -> None:
        self.screen.view = Viewport("layer", self.stack, plane)

    def after(self, events: Iterable[Event], seconds: float = 0.0) -> list[Event]:
        self.clock.now += seconds
        return [came for event in events for came in self.live.after(event)]


def improved(number: int, dice: float | None = None, *, urgent: bool = False) -> ModelUpdated:
    found = None if dice is None else scores(dice)
    return ModelUpdated(constant(number, dice or 0.0), found, 1.0, urgent=urgent)


def masks(events: Iterable[Event]) -> list[tuple[tuple[int, ...], set[int]]]:
    """Plane and values of each tile."""
    tiles = [event for event in events if isinstance(event, TilePredicted)]
    return [(tile.plane, set(np.unique(tile.mask).tolist())) for tile in tiles]


def test_the_first_model_is_shown_at_once() -> None:
    watched = Watched()
    assert watched.after([STEP]) == []
    begins, tile, finished = watched.after([improved(1, 0.9)])
    assert isinstance(begins, MaskStarted)
    assert finished == MaskFinished(None)
    assert begins.scores == scores(0.9)
    assert begins.model_id == constant(1, 0.9).id
    assert begins.view is watched.screen.view
    assert masks([tile]) == [((), {1})]
    assert watched.after([STEP] * 3, EVERY_SECONDS) == []


def test_later_models_are_shown_now_and_then_and_the_newest_wins() -> None:
    watched = Watched()
    watched.after([improved(1, 0.5)])
    assert watched.after([improved(1, 0.6), improved(0, 0.7), STEP], 0.5) == []
    begins, tile, finished = watched.after([STEP, STEP], EVERY_SECONDS)
    assert isinstance(begins, MaskStarted)
    assert begins.scores == scores(0.7)
    assert masks([tile]) == [((), {0})]
    assert finished == MaskFinished(1.0)


def test_an_answer_to_a_stroke_is_shown_at_once() -> None:
    watched = Watched()
    watched.after([improved(1, 0.5)])
    assert masks(watched.after([improved(0, 0.6, urgent=True)])) == [((), {0})]
    assert watched.after([improved(1, 0.7)]) == []
    assert masks(watched.after([STEP], EVERY_SECONDS)) == [((), {1})]


def test_it_is_known_how_much_of_a_mask_changed() -> None:
    """On the same plane; on another one there is nothing to compare with."""
    watched = Watched((3,))

    def changed(number: int, grain: float) -> float | None:
        came = watched.after([improved(number, grain, urgent=True)])
        (finished,) = [event for event in came if isinstance(event, MaskFinished)]
        return finished.changed

    assert changed(1, 0.5) is None
    assert changed(1, 0.6) == 0.0
    assert changed(0, 0.7) == 1.0
    watched.look(2)
    assert changed(1, 0.8) is None
    assert changed(0, 0.9) == 1.0


def test_another_plane_on_screen_is_predicted_at_once_with_the_newest_model() -> None:
    watched = Watched((3,))
    watched.after([improved(1)])
    watched.look(2)
    assert masks(watched.after([STEP])) == [((2,), {1})]
    watched.screen.view = None
    assert watched.after([improved(0)], EVERY_SECONDS) == []
    watched.look(1)
    assert masks(watched.after([STEP])) == [((1,), {0})]


def test_nothing_is_begun_after_a_stop() -> None:
    watched = Watched()
    watched.control.stop()
    assert watched.after([improved(1)]) == []


def test_an_image_that_the_model_cannot_predict_is_passed_over() -> None:
    watched = Watched()
    watched.screen.view = Viewport("colour", Stack.from_array(np.zeros((32, 32, 3)), "YXS"), ())
    assert watched.after([improved(1)]) == []
    watched.look()
    assert masks(watched.after([STEP])) == [((), {1})]


class Slow:
    """An image that takes its time to be read."""

    shape, dtype, ndim = (2400, 1200), np.dtype(np.uint8), 2

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.spent = clock, seconds, 0.0

    def __getitem__(self, index: Any) -> np.ndarray:
        self.clock.now += self.seconds
        self.spent += self.seconds
        return np.broadcast_to(np.uint8(9), self.shape)[index]


def test_a_mask_of_many_tiles_leaves_the_training_its_share() -> None:
    watched = Watched()
    seconds = FREE_SECONDS / 8  # its range is measured in six reads
    slow = Slow(watched.clock, seconds)
    watched.stack = Stack.from_array(slow)  # type: ignore[arg-type]
    watched.look()
    came = watched.after([improved(1)])
    assert 2 <= len(masks(came)) <= 6
    assert masks(watched.after([STEP])) == []
    for _ in range(40):
        came += watched.after([STEP], seconds)
        elapsed = watched.clock.now - Clock.now
        assert slow.spent <= FREE_SECONDS + MAX_TIME_FRACTION * elapsed + seconds
    last, finished = came[-2:]
    assert isinstance(finished, MaskFinished)
    assert isinstance(last, TilePredicted)
    assert last.done == last.total >= 4


def test_an_answer_does_not_wait_until_other_masks_have_used_up_their_share() -> None:
    """Also where a newer model comes before its mask is begun."""
    watched = Watched()
    slow = Slow(watched.clock, FREE_SECONDS / 8)
    watched.stack = Stack.from_array(slow)  # type: ignore[arg-type]
    watched.look()
    watched.after([improved(1, 0.5)])
    assert watched.after([STEP]) == []  # nothing is left
    begins, *tiles = watched.after([improved(0, 0.6, urgent=True)])
    assert isinstance(begins, MaskStarted)
    assert begins.model_id == constant(0, 0.6).id
    assert masks(tiles)
    assert watched.after([improved(0, 0.7, urgent=True), improved(1, 0.8)]) == []  # too much
    begins, *tiles = watched.after([improved(1, 0.9)], FREE_SECONDS)
    assert isinstance(begins, MaskStarted)
    assert begins.model_id == constant(1, 0.9).id
    assert masks(tiles)


def test_an_image_in_a_file_is_measured_for_the_first_mask_alone() -> None:
    watched = Watched()
    slow = Slow(watched.clock, seconds=0.01)
    watched.stack = Stack.from_array(slow)  # type: ignore[arg-type]
    watched.look()
    spent = []
    for number in (1, 2):
        before = slow.spent
        tiles = masks(watched.after([improved(number)], EVERY_SECONDS))
        spent.append((len(tiles), round((slow.spent - before) / slow.seconds)))
    (tiles_first, reads_first), (tiles_second, reads_second) = spent
    assert tiles_first == tiles_second == reads_second
    assert reads_first > tiles_first


def test_a_mask_that_fails_never_ends_the_training_and_is_said_once() -> None:
    class Broken(Slow):
        def __getitem__(self, index: Any) -> np.ndarray:
            raise OSError("the file is gone")

    watched = Watched()
    watched.stack = Stack.from_array(Broken(watched.clock, 0))  # type: ignore[arg-type]
    watched.look()
    came = watched.after([improved(1), STEP])
    assert [type(event) for event in came] == [MaskStarted, Notice]
    assert isinstance(came[1], Notice)
    assert "the file is gone" in came[1].text
    again = watched.after([improved(1), STEP], EVERY_SECONDS)
    assert [type(event) for event in again] == [MaskStarted]


def test_two_models_with_the_same_scores_are_two_events() -> None:
    one, same = improved(1, 0.9), improved(1, 0.9)
    assert one == one
    assert one != same
    assert len({one, same}) == 2
