"""Whether a model fell on held-out strokes: seldom by chance, nearly always if it did."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetseg.core.agreement import Observations
from napari_unetseg.training.score_guard import LEAST_FALL, fell

PAIRS = 400


def observed(right: np.ndarray, classes: np.ndarray) -> Observations:
    return Observations(classes, np.full(len(right), 50), right, right)


def two_models(
    rng: np.random.Generator, strokes: int, fall: float
) -> tuple[Observations, Observations]:
    """Two models on the same strokes, of two classes: most are right, some are half right.

    Half of what a model gets wrong is the stroke's fault, so that both have it wrong.
    """
    classes = np.arange(strokes) % 2
    hard = rng.beta(6, 1, strokes)
    one, other = (np.clip(hard + rng.normal(0, 0.1, strokes) - less, 0, 1) for less in (fall, 0.0))
    return observed(one, classes), observed(other, classes)


@pytest.mark.parametrize("strokes", [6, 20, 60])
def test_models_that_are_equal_fall_by_chance_in_one_pair_of_a_hundred(strokes: int) -> None:
    rng = np.random.default_rng(strokes)
    alarms = sum(fell(*two_models(rng, strokes, 0.0)) for _ in range(PAIRS))
    assert alarms / PAIRS <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / PAIRS)


@pytest.mark.parametrize("strokes", [6, 20, 60])
def test_two_falls_in_a_row_below_the_luckiest_of_equal_epochs_are_rare(strokes: int) -> None:
    """The best is chosen by its score, so that what follows it is worse by chance alone."""
    rng, twice, trainings, epochs = np.random.default_rng(strokes), 0, 20, 40
    classes = np.arange(strokes) % 2
    for _ in range(trainings):
        hard, before = rng.beta(6, 1, strokes), False
        best = None
        for _ in range(epochs):
            right = np.clip(hard + rng.normal(0, 0.1, strokes), 0, 1)
            if best is None or right.mean() > best.mean():
                best = right
            now = fell(observed(right, classes), observed(best, classes))
            twice, before = twice + (now and before), now
    assert twice / (trainings * epochs) <= 0.02


def test_a_fall_of_a_fifth_is_noticed_with_twenty_strokes() -> None:
    rng = np.random.default_rng(0)
    assert sum(fell(*two_models(rng, 20, 0.2)) for _ in range(PAIRS)) / PAIRS >= 0.97


def test_a_rise_is_no_fall_and_a_small_fall_is_passed_over() -> None:
    classes = np.arange(40) % 2
    for change, worse in ((0.1, False), (0.0, False), (-LEAST_FALL / 2, False), (-0.1, True)):
        now, best = np.full(40, 0.8 + change), np.full(40, 0.8)
        assert fell(observed(now, classes), observed(best, classes)) is worse


def test_every_class_counts_as_much() -> None:
    """Three strokes of one class fell, and a hundred of the other did not."""
    classes = np.repeat([0, 1], [3, 100])
    best, now = np.full(103, 0.9), np.where(classes == 0, 0.5, 0.9)
    assert fell(observed(now, classes), observed(best, classes))


def test_one_stroke_of_a_class_says_nothing_of_chance() -> None:
    classes = np.array([0, 1, 1])
    assert not fell(observed(np.zeros(3), classes), observed(np.ones(3), classes))
    none = observed(np.empty(0), np.empty(0, int))
    assert not fell(none, none)
