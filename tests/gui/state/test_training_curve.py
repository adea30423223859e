"""What a training's events leave on its curve, what is drawn of it, and what is said about it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gui_parts import squares
from live_parts import Puppet, constant, scores
from pyqtgraph import PlotCurveItem, PlotWidget

from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.core.metrics import Scores, log_losses, loss_of
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.eta import EtaEstimator
from napari_unetseg.gui.state.session import Mark, MarkKind, Point, Session
from napari_unetseg.gui.state.training_curve import Columns, classes_to_show, finite, note
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelUpdated,
    Outcome,
    SetAside,
    TrainingDone,
)

if TYPE_CHECKING:
    from window_parts import Window

pytestmark = pytest.mark.gui


def several(*dice: float, loss: float = 0.4) -> Scores:
    numbers = tuple(range(1, len(dice) + 1))
    names = tuple(f"structure {n}" for n in numbers)
    return Scores(names, numbers, dice, dice, 500, 14, 0.5, loss)


def point(step: int, *dice: float, loss: float = 1.0) -> Point:
    found = several(*dice) if dice else None
    return Point(step, loss, found, step / 10, 0.5 if dice else None)


def large() -> tuple[np.ndarray, np.ndarray]:
    """An image with blocks enough for a score, and its full mask."""
    image = np.tile(squares(), (3, 3))
    return image, (image > 100).astype(np.uint8)


# -- the loss on held-out labels -------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_what_is_labelled() -> None:
    truth = np.array([0, 1, 1, 255, 0], np.uint8)
    shares = np.array([[0.9, 0.2, 0.4, 0.5, 0.6], [0.1, 0.8, 0.6, 0.5, 0.4]], np.float32)
    sums = log_losses(truth, shares)
    wanted = [-math.log(0.9) - math.log(0.6), -math.log(0.8) - math.log(0.6)]
    assert sums == pytest.approx(wanted, rel=1e-5)
    counts = np.array([2, 2])
    assert loss_of(sums, counts) == pytest.approx(sum(wanted) / 4, rel=1e-5)
    rare = loss_of(sums, counts, (0.9, 0.1))
    assert rare == pytest.approx(0.9 * wanted[0] / 2 + 0.1 * wanted[1] / 2, rel=1e-5)
    assert math.isnan(loss_of(np.zeros(2), np.zeros(2)))
    certain_and_wrong = log_losses(np.array([1]), np.array([[1.0], [0.0]], np.float32))
    assert np.isfinite(certain_and_wrong).all()


# -- events → session ------------------------------------------------------------------------------


def test_events_become_points_and_marks() -> None:
    session = Session()
    note(session, ModelUpdated(constant(1), scores(0.7), 1.0, 0, urgent=True))
    note(session, ModelUpdated(constant(1), None, 2.0, 9))
    found = several(0.5, math.nan, 0.7)
    note(session, EpochDone(1, 20, 0.8, found, True, 3.0))
    note(session, EpochDone(2, 40, 0.6, None, False, 5.0))
    note(session, AnnotationsUpdated(1234, 40, 5.5))
    first, second = session.curve
    assert first == Point(20, 0.8, found, 3.0, 0.4)
    assert second == Point(40, 0.6, None, 5.0)
    assert session.marks == (
        Mark(MarkKind.SHOWN, 0, 1.0, 0.7),
        Mark(MarkKind.STROKES, 40, 5.5),
    )
    assert "the new annotations: 1,234 labelled pixels" in session.message.text


# -- what is drawn ---------------------------------------------------------------------------------


def test_points_without_a_value_are_not_drawn() -> None:
    x, y = finite([1, 2, 3], [0.5, math.inf, 0.7])
    assert (x.tolist(), y.tolist()) == ([1, 3], [0.5, 0.7])


def test_columns_grow_with_the_curve_and_begin_anew_with_another() -> None:
    columns = Columns()
    curve = (point(10, 0.5), point(20, 0.6, 0.4), point(30))
    columns.take(curve[:1])
    columns.take(curve)
    assert columns.steps == [10, 20, 30]
    assert columns.each[1][:2] == [0.5, 0.6]
    assert math.isnan(columns.each[2][0])
    assert math.isnan(columns.each[1][2])
    columns.take((point(5, 0.1),))
    assert (columns.steps, columns.each) == ([5], {1: [0.1]})


def test_of_many_structures_the_worst_are_drawn() -> None:
    assert classes_to_show({2: [0.5], 1: [0.1]}) == [1, 2]
    many = {n: [0.0, n / 10] for n in range(1, 9)} | {9: [0.0, math.nan]}
    many[7] = [1.0, 0.01]
    assert classes_to_show(many) == [1, 2, 7]


def test_of_ten_thousand_epochs_few_points_are_drawn(painted: Window) -> None:
    session, plot = painted.session, painted.dock.train.plot
    session.structures = tuple(Structure(n) for n in range(1, 9))
    curve = tuple(point(n, *(k / 9 for k in range(1, 9))) for n in range(1, 10_001))
    session.curve = curve[:-1]
    painted.wait(lambda: bool(plot.lines))
    session.curve = curve
    painted.wait(lambda: plot.lines[0].x[-1] == 10_000)
    drawn = [
        item.getData()[0]
        for item in plot.findChild(PlotWidget).scene().items()
        if isinstance(item, PlotCurveItem) and item.isVisible()
    ]
    assert max(len(x) for x in drawn) < 2_000
    names = [line.name.rsplit(" ", 1)[0] for line in plot.lines]
    worst = [f"Dice structure {n}" for n in (1, 2, 3)]
    assert names == ["training", "validation", *worst, "Dice"]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_plot_names_its_lines_in_a_legend_and_switches_its_axis(
    painted: Window, theme: str
) -> None:
    painted.viewer.theme = theme
    session, plot = painted.session, painted.dock.train.plot
    session.structures = (Structure(1, "nucleus"), Structure(2, "<b>fibre"))
    session.marks = (Mark(MarkKind.SHOWN, 10, 1.0, 0.5), Mark(MarkKind.STROKES, 20, 2.0))
    session.curve = tuple(point(n, 0.5, 0.7) for n in (10, 20, 30))
    painted.wait(lambda: len(plot.lines) == 5)
    text = plot.legend.text().replace("&nbsp;", " ")
    for name in ("training loss", "validation loss", "Dice nucleus 0.50", "Dice 0.60"):
        assert name in text
    assert "&lt;b&gt;fibre" in text
    assert "strokes added" in text
    assert "answer shown" in text
    assert plot.lines[0].x.tolist() == [10, 20, 30]
    plot.over_time.click()
    assert plot.lines[0].x.tolist() == [1.0, 2.0, 3.0]
    plot.over_time.click()
    assert plot.lines[0].x.tolist() == [10, 20, 30]


# -- the sentence under the plot -------------------------------------------------------------------


def test_the_sentence_says_the_score_and_where_the_earlier_model_is() -> None:
    done = TrainingDone(Outcome.COMPLETED, "Training ended.", scores(0.93), 3, 60, 12.0)
    said = messages.describe_training(done, earlier=True)
    assert said == (
        "Agreement with held-out strokes 0.93 (0.75 to 0.97, 23 strokes); the earlier model can "
        "be restored under Model. Training ended (12 s)."
    )
    assert "earlier" not in messages.describe_training(done, earlier=False)
    full = TrainingDone(Outcome.COMPLETED, "Ended.", several(0.934, 0.95), 3, 60, 12.0)
    assert messages.describe_training(full, earlier=False).startswith(
        "Dice on held-out labels 0.94"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [(None, "stop whenever"), (0.0, "hardly changes"), (0.02, "2.0% of it"), (1.0, "100.0% of it")],
)
def test_how_the_mask_changes_is_said(changed: float | None, said: str) -> None:
    assert said in messages.describe_mask(changed)


def test_a_newer_model_is_told_in_the_window_and_the_earlier_one_is_there(
    painted: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    import napari_unetseg.training.train as train

    puppet = Puppet()
    monkeypatch.setattr(train, "train_events", puppet.train_events)
    dock, session = painted.dock, painted.session
    puppet.improve(1, 0.91)
    dock.train.button.click()
    painted.wait(lambda: "0.91" in session.result)
    dock.train.button.click()
    painted.wait(lambda: painted.idle() and len(session.history) == 1)
    puppet.improve(1, 0.93)
    dock.train.button.click()
    painted.wait(lambda: "0.93" in dock.train.result.text())
    assert "Agreement with held-out strokes" in dock.train.result.text()
    assert "the earlier model is kept" in dock.train.result.text()
    assert [m.kind for m in session.marks] == [MarkKind.SHOWN]
    dock.train.button.click()
    painted.wait(lambda: painted.idle() and len(session.history) == 2)
    assert "the earlier model can be restored under Model" in dock.train.result.text()
    session.scores = scores(0.93)
    brushes = [dock.annotate.brushes.row_of(n).score for n in (1, BACKGROUND_LABEL)]
    assert [label.text() for label in brushes] == ["0.93", "0.93"]
    assert all("greement with held-out strokes" in label.toolTip() for label in brushes)
    dock.model.history.setCurrentIndex(0)
    dock.model.history.activated.emit(0)
    assert session.entry is session.history[0]


def test_progress_without_a_set_end_says_how_the_mask_changes(
    painted: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not how many minutes are left at most."""
    import napari_unetseg.training.train as train

    puppet = Puppet(remaining=1078.0)
    monkeypatch.setattr(train, "train_events", puppet.train_events)
    dock, session = painted.dock, painted.session
    session.change_settings(steps=None, minutes=None, epochs=None)
    dock.train.button.click()
    painted.wait(lambda: "stop whenever" in dock.train.doing.text())
    puppet.improve(1, 0.9)
    puppet.improve(0, 0.9)
    painted.wait(lambda: session.mask_changed == 1.0)
    assert "you can use the mask now; 100.0% of it changed" in dock.train.doing.text()
    assert "left" not in dock.train.doing.text()
    dock.train.button.click()
    painted.wait(painted.idle)


def test_the_model_set_aside_is_one_press_away(
    painted: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    import napari_unetseg.training.train as train

    puppet = Puppet()
    monkeypatch.setattr(train, "train_events", puppet.train_events)
    dock, session = painted.dock, painted.session
    puppet.improve(1, 0.9)
    dock.train.button.click()
    painted.wait(lambda: "0.90" in session.result)
    button = dock.train.set_aside
    assert button.isHidden()
    puppet.set_aside(0, SetAside.BEST)
    painted.wait(lambda: len(session.history) == 1)
    assert "best score" in session.history[0].name
    assert button.isHidden()
    aside = puppet.set_aside(0, SetAside.FELL)
    painted.wait(lambda: not button.isHidden())
    button.click()
    painted.wait(lambda: puppet.wanted == 1)  # the training goes on from it
    assert button.isHidden()
    puppet.set_aside(0, SetAside.FELL)
    painted.wait(lambda: not button.isHidden())
    dock.train.button.click()
    painted.wait(painted.idle)
    assert session.entry is session.history[-1]
    button.click()  # nothing runs: it is used
    assert "set aside" in session.entry.name
    assert session.entry.model.id != aside.id
    assert button.isHidden()
    dock.train.button.click()
    painted.wait(lambda: session.job is not None)
    assert session.set_aside is None
    dock.train.button.click()
    painted.wait(painted.idle)


def test_the_real_training_shows_its_newest_models_in_order() -> None:
    image, mask = large()
    pairs = [AnnotatedImage(Stack.from_array(image), mask, LabelKind.FULL)]
    settings = TrainSettings(depth=2, width=4, steps=60, patch=32, batch=2, threads=1)
    events: list[Any] = list(train_events(pairs, settings, control=JobControl(1)))
    shown = [e for e in events if isinstance(e, ModelUpdated)]
    assert shown[0].urgent
    assert shown[0].scores is not None
    assert len(shown) > 1
    steps = [e.step for e in shown]
    assert steps == sorted(steps)
    assert steps[0] == 0
    curve = shown[-1].model.history[-1].curve
    losses = [p.validation_loss for p in curve]
    assert all(loss is not None and 0 < loss < 5 for loss in losses)


# -- how long --------------------------------------------------------------------------------------


def test_how_long_is_told_from_the_pace_since_the_first_word() -> None:
    now = [0.0]
    pace = EtaEstimator(lambda: now[0])
    now[0] = 10.0  # PyTorch was loaded meanwhile
    assert pace.left(0.1) is None
    now[0] = 11.0
    assert pace.left(0.2) == pytest.approx(8.0)
    now[0] = 12.0
    assert pace.left(0.6) == pytest.approx(2.0 * 0.4 / 0.5)
    quick = EtaEstimator(lambda: now[0])
    assert quick.left(0.1) is None
    now[0] = 13.0
    assert quick.left(0.5) is None
