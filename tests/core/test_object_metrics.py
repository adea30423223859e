"""Scores of numbered objects against a matcher that tries every pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from napari_unetseg.core.object_metrics import THRESHOLDS, ObjectCounts, count_objects

IMAGES = arrays(np.int32, (6, 7), elements=st.integers(0, 4))


def slow(truth: np.ndarray, found: np.ndarray, threshold: float) -> int:
    """Matches by trying all pairs."""
    pairs = np.array(
        [
            [((truth == a) & (found == b)).sum() / ((truth == a) | (found == b)).sum() for b in ids]
            for ids in [[i for i in np.unique(found) if i]]
            for a in np.unique(truth)
            if a
        ]
    )
    if not pairs.size:
        return 0
    rows, columns = linear_sum_assignment(-(pairs >= threshold).astype(float))
    return int((pairs[rows, columns] >= threshold).sum())


@given(IMAGES, IMAGES)
def test_matches_are_those_of_all_pairs(truth: np.ndarray, found: np.ndarray) -> None:
    counts = count_objects(truth, found)
    assert counts.matched == tuple(slow(truth, found, t) for t in THRESHOLDS)
    assert counts.true == len(set(np.unique(truth)) - {0})
    assert counts.predicted == len(set(np.unique(found)) - {0})
    assert 0 <= counts.iou_sum <= counts.matched[0]


@given(IMAGES, st.permutations([1, 2, 3, 4]))
def test_numbers_make_no_difference(truth: np.ndarray, order: list[int]) -> None:
    counts = count_objects(truth, np.array([0, *order])[truth])
    assert counts.matched == (counts.true,) * len(THRESHOLDS)
    assert counts.split == counts.merged == 0
    if counts.true:
        assert counts.panoptic_quality == counts.mean_precision == 1.0


def test_splits_merges_and_scores() -> None:
    truth, found = np.zeros((10, 30), int), np.zeros((10, 30), int)
    truth[2:8, 0:8], truth[2:8, 10:18], truth[2:8, 18:26] = 1, 2, 3
    found[2:8, 0:4], found[2:8, 4:8] = 7, 8  # split
    found[2:8, 10:26] = 9  # merged
    counts = count_objects(truth, found)
    assert (counts.split, counts.merged, counts.true, counts.predicted) == (1, 1, 3, 3)
    assert counts.matched[0] == 2  # a half each
    assert counts.precision_at(0.5) == pytest.approx(2 / 4)
    assert counts.precision_at(0.75) == 0.0
    assert counts.panoptic_quality == pytest.approx(2 * (0.5 + 0.5) / 6)
    assert (counts + counts).precision_at(0.5) == counts.precision_at(0.5)
    assert math.isnan(ObjectCounts().precision_at(0.5))


def test_of_some_finished_objects_others_are_neither_right_nor_wrong() -> None:
    truth, found = np.zeros((10, 30), int), np.zeros((10, 30), int)
    truth[2:8, 0:8] = 1
    found[2:8, 0:7], found[2:8, 12:20] = 4, 5
    assert count_objects(truth, found, partial=True).precision_at(0.5) == 1.0
    assert count_objects(truth, found).precision_at(0.5) == 0.5


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        count_objects(np.zeros((2, 3), int), np.zeros((3, 2), int))
