"""When strokes begin a training anew, with fakes in the place of all that trains."""

from __future__ import annotations

import time
from typing import Any

import pytest

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.features.training import Training
from napari_unetseg.gui.state.app_events import AppEvents
from napari_unetseg.gui.state.session import JobKind, JobState, Mode, Session


class Feed:
    painted_at: float | None = None

    def snapshots(self) -> tuple[Any, ...]:
        return ("a snapshot",)

    def clear(self) -> None:
        self.painted_at = None


class Jobs:
    idle_runs = False

    def __init__(self) -> None:
        self.started: list[Any] = []

    def check_free(self) -> None:
        pass

    def start(self, *job: Any) -> None:
        self.started.append(job)


class Models:
    def begin_training(self) -> None:
        pass


class Alignment:
    def check(self) -> None:
        pass

    def why_nothing_trains(self) -> str:
        return "Paint first."


class Desk:
    """A training feature beside a model that was trained, and strokes that are newer."""

    def __init__(self) -> None:
        self.session, self.events = Session(), AppEvents()
        self.feed, self.jobs = Feed(), Jobs()
        parts: tuple[Any, ...] = (self.jobs, Models(), self.feed, Alignment(), self.events)
        self.training = Training(
            self.session, *parts, follow_screen=lambda _: None, show_mask=lambda: None
        )
        self.session.image, self.session.retrain = "an image", True
        self.session.entry = type("Entry", (), {"model": None})()
        self.feed.painted_at = time.monotonic() - 60.0

    def trains(self) -> bool:
        self.events.tick.emit(0.0)
        return bool(self.jobs.started)


def test_newer_strokes_begin_a_training_once() -> None:
    desk = Desk()
    assert desk.trains()
    desk.events.tick.emit(0.0)
    assert len(desk.jobs.started) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retrain", False),
        ("watched", False),
        ("go_on", False),
        ("mode", Mode.ONCE),
        ("image", None),
        ("entry", None),
        ("job", JobState(1, JobKind.EXPORT, "Writing")),
    ],
)
def test_nothing_begins_where_it_would_be_in_the_way(field: str, value: Any) -> None:
    desk = Desk()
    setattr(desk.session, field, value)
    assert not desk.trains()


def test_hands_that_paint_and_masks_under_way_come_first() -> None:
    desk = Desk()
    desk.feed.painted_at = time.monotonic()
    assert not desk.trains()
    desk.feed.painted_at = time.monotonic() - 60.0
    desk.jobs.idle_runs = True
    assert not desk.trains()


def test_a_refusal_is_said_and_strokes_stay_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()

    def refuses() -> tuple[Any, ...]:
        raise UserError("The labels do not fit.")

    monkeypatch.setattr(desk.feed, "snapshots", refuses)
    desk.training.start()
    assert desk.session.message.text == "The labels do not fit."
    assert not desk.jobs.started
