"""Numbers that objects keep, and room for finished ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_unetseg.core.object_matching import beside_finished, keep_ids

SHAPE = (7, 6)
few = arrays(np.int32, SHAPE, elements=st.integers(0, 4))


def row(*numbers: int) -> np.ndarray:
    return np.array(numbers)


def test_an_object_keeps_its_number_and_others_get_new_ones() -> None:
    old = row(0, 9, 9, 9, 0, 0, 4, 4, 0)
    new = row(0, 2, 2, 0, 0, 1, 3, 3, 3)
    assert keep_ids(new, old, 20).tolist() == [0, 9, 9, 0, 0, 21, 4, 4, 4]


def test_the_larger_part_of_a_split_object_keeps_the_number() -> None:
    assert keep_ids(row(1, 1, 1, 2, 2), row(5, 5, 5, 5, 5), 5).tolist() == [5, 5, 5, 6, 6]


def test_halves_are_both_new() -> None:
    assert keep_ids(row(1, 1, 2, 2), row(5, 5, 5, 5), 5).tolist() == [6, 6, 7, 7]


def test_united_objects_have_the_number_of_the_larger_one() -> None:
    assert keep_ids(row(1, 1, 1, 1, 1), row(8, 8, 7, 7, 7), 8).tolist() == [7] * 5


@given(few, few)
def test_the_objects_stay_the_same(new: np.ndarray, old: np.ndarray) -> None:
    """Numbers change one to one, and no new one is an earlier one."""
    kept = keep_ids(new, old, 4)
    pairs = set(zip(new.ravel().tolist(), kept.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert ((new == 0) == (kept == 0)).all()
    for number in np.unique(old[old > 0]):
        there = kept == number
        if there.any():
            assert 2 * (there & (old == number)).sum() > (old == number).sum()


@given(few)
def test_nothing_changes_where_nothing_moved(ids: np.ndarray) -> None:
    assert (keep_ids(ids, ids, 4) == ids).all()


def test_finished_objects_have_their_voxels_and_hide_what_they_cover() -> None:
    predicted = row(1, 1, 1, 2, 2, 2, 3)
    finished = row(0, 9, 9, 9, 0, 0, 0)
    assert beside_finished(predicted, finished).tolist() == [0, 9, 9, 9, 2, 2, 3]


def test_a_finished_object_replaces_the_predicted_one_of_its_number() -> None:
    assert beside_finished(row(7, 7, 7, 7, 0), row(0, 0, 0, 7, 7)).tolist() == [0, 0, 0, 7, 7]


@given(few, few)
def test_finished_objects_are_whole(predicted: np.ndarray, finished: np.ndarray) -> None:
    both = beside_finished(predicted, finished + 10 * (finished > 0))
    assert ((both > 10) == (finished > 0)).all()
    for number in np.unique(predicted[predicted > 0]):
        where = predicted == number
        free = where & (finished == 0)
        hidden = 2 * free.sum() < where.sum()
        assert (both[free] == (0 if hidden else number)).all()
