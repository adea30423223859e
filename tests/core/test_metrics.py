"""Scores against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_unetseg.core.labels import IGNORE_INDEX, Classes, Structure
from napari_unetseg.core.metrics import (
    confusion,
    mean_of,
    scores_of,
    soft_confusion,
    soft_dice_of,
)

TWO = Classes((Structure(1), Structure(4)))


@given(st.integers(2, 5), st.integers(0, 99))
def test_confusion_counts_pairs_of_labelled_voxels(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice([*range(n), IGNORE_INDEX], (9, 8)).astype(np.uint8)
    found = rng.integers(0, n, (9, 8)).astype(np.uint8)
    counts = confusion(truth, found, n)
    for i in range(n):
        for j in range(n):
            assert counts[i, j] == ((truth == i) & (found == j)).sum()


@given(st.integers(0, 999))
def test_dice_and_iou_per_structure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(0, 3, (2, 7, 9)).astype(np.uint8)
    scores = scores_of(confusion(truth, found, 3), TWO, blocks=5)
    for k, (dice, iou) in enumerate(zip(scores.dice, scores.iou, strict=True), 1):
        hit = ((truth == k) & (found == k)).sum()
        assert dice == pytest.approx(2 * hit / ((truth == k).sum() + (found == k).sum()))
        assert iou == pytest.approx(hit / ((truth == k) | (found == k)).sum())
    assert scores.numbers == (1, 4)
    assert (scores.voxels, scores.blocks) == (63, 5)
    assert scores.mean_dice == pytest.approx(np.mean(scores.dice))
    assert scores.mean_iou == pytest.approx(np.mean(scores.iou))


def test_a_structure_that_occurs_nowhere_has_no_score() -> None:
    truth = np.array([[0, 1, 1]], np.uint8)
    scores = scores_of(confusion(truth, truth, 3), TWO)
    assert scores.dice[0] == 1.0
    assert math.isnan(scores.dice[1])
    assert scores.mean_dice == 1.0
    assert math.isnan(mean_of([math.nan]))
    found = np.array([[2, 1, 1]], np.uint8)
    assert scores_of(confusion(truth, found, 3), TWO).dice[1] == 0.0


def test_without_background_every_class_is_a_structure() -> None:
    truth, found = np.array([[0, 1, 1, 0]], np.uint8), np.array([[0, 1, 0, 0]], np.uint8)
    classes = Classes((Structure(2), Structure(3)), background=False)
    assert scores_of(confusion(truth, found, 2), classes).dice == pytest.approx((0.8, 2 / 3))


@given(st.integers(0, 99))
def test_soft_dice_of_certain_predictions_is_dice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, IGNORE_INDEX], (8, 9)).astype(np.uint8)
    found = rng.integers(0, 3, (8, 9))
    shares = (found == np.arange(3)[:, None, None]).astype(np.float32)
    sums = soft_confusion(truth, shares)
    np.testing.assert_array_equal(sums, confusion(truth, found, 3))
    all_classes = Classes((Structure(1), Structure(2), Structure(3)), background=False)
    hard = scores_of(sums.astype(int), all_classes)
    occurs = [d for d, k in zip(hard.dice, range(3), strict=True) if (truth == k).any()]
    assert soft_dice_of(sums) == pytest.approx(np.mean(occurs))


def test_soft_dice_tells_sure_from_unsure() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)

    def score(p: float) -> float:
        right = np.array([[[p, p, 1 - p, 1 - p]], [[1 - p, 1 - p, p, p]]], np.float32)
        return soft_dice_of(soft_confusion(truth, right))

    assert 0.5 < score(0.6) < score(0.9) < 1.0
    assert math.isnan(soft_dice_of(np.zeros((2, 2))))


@given(st.integers(0, 99), st.integers(1, 20))
def test_with_shares_it_does_not_matter_how_much_was_painted(seed: int, times: int) -> None:
    sums = np.random.default_rng(seed).random((3, 3)) + 0.1
    shares = (0.7, 0.2, 0.1)
    more = sums.copy()
    more[1] *= times
    assert soft_dice_of(more, shares) == pytest.approx(soft_dice_of(sums, shares))


def test_shares_make_it_the_dice_of_whole_images() -> None:
    """Strokes of equal amount; a tenth of the background is taken for a structure of a tenth."""
    sums = np.array([[90.0, 10.0], [0.0, 100.0]])
    structure = 2 * 0.1 / (0.1 + 0.09 + 0.1)
    background = 2 * 0.81 / (0.81 + 0.9)
    assert soft_dice_of(sums, (0.9, 0.1)) == pytest.approx((structure + background) / 2)
    assert soft_dice_of(sums) > 0.94
    assert math.isnan(soft_dice_of(np.zeros((2, 2)), (0.5, 0.5)))
