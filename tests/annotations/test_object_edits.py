"""Edits of numbered objects: no voxel is lost, and no other object changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_unetseg.annotations.object_edits import (
    ObjectEdit,
    accept,
    delete,
    finish,
    merge,
    split,
)
from napari_unetseg.core.errors import UserError

Drawn = tuple[np.ndarray, np.ndarray]


def applied(ids: np.ndarray, edit: ObjectEdit) -> np.ndarray:
    after = ids.copy()
    after[edit.region][edit.changed] = edit.ids[edit.changed]
    return after


@st.composite
def drawn(draw: st.DrawFn, axes: int = 2) -> Drawn:
    """A few boxes with numbers, some touching, and a stroke through the picture."""
    shape = (4, 16, 18)[-axes:]
    ids = np.zeros(shape, np.uint32)
    for number in draw(st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True)):
        ends = [sorted(draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
        ids[tuple(slice(low, high) for low, high in ends)] = number
    spot = st.tuples(*(st.integers(-2, n + 1) for n in shape))
    path = np.array(draw(st.lists(spot, min_size=1, max_size=4)))
    if axes == 3:
        path[:, 0] = draw(st.integers(0, 3))  # painted in a plane
    return ids, path


def attempt(act: Callable[[], ObjectEdit]) -> ObjectEdit | None:
    try:
        return act()
    except UserError:
        return None


@pytest.mark.parametrize("axes", [2, 3])
@given(data=st.data())
def test_a_split_loses_no_voxel_and_a_merge_takes_it_back(axes: int, data: st.DataObject) -> None:
    ids, path = data.draw(drawn(axes))
    edit = attempt(lambda: split(ids, path, new_id=77))
    if edit is None:
        return
    after = applied(ids, edit)
    assert ((after > 0) == (ids > 0)).all()
    changed = after != ids
    assert (after[changed] == 77).all()
    (number,) = np.unique(ids[changed])
    assert 4 <= (after == 77).sum() <= (after == number).sum()
    alone = np.where(np.isin(after, (number, 77)), after, 0)
    ends = np.array([np.argwhere(alone == n)[0] for n in (number, 77)])
    inside = ids == number
    assert (applied(alone, merge(alone, ends))[inside] == number).all()


@pytest.mark.parametrize("axes", [2, 3])
@given(data=st.data())
def test_a_merge_changes_only_the_objects_on_the_stroke(axes: int, data: st.DataObject) -> None:
    ids, path = data.draw(drawn(axes))
    edit = attempt(lambda: merge(ids, path))
    if edit is None:
        return
    after = applied(ids, edit)
    ((kept,),) = [np.unique(after[after != ids])]
    assert kept in ids
    gone = [n for n in np.unique(ids) if n and n not in after]
    assert gone
    others = (ids > 0) & ~np.isin(ids, [*gone, kept])
    np.testing.assert_array_equal(after[others], ids[others])
    assert (after[ids > 0] > 0).all()


def test_two_touching_halves_are_merged_by_a_stroke_and_split_by_another() -> None:
    ids = np.zeros((20, 30), np.uint32)
    ids[5:15, 5:15], ids[5:15, 15:25] = 2, 8
    edit = merge(ids, np.array([[10, 8], [10, 20]]))
    whole = applied(ids, edit)
    assert edit.changed.sum() == 200
    assert (whole[ids > 0] == 2).all()
    again = applied(whole, split(whole, np.array([[2, 15], [18, 15]]), new_id=9))
    assert np.unique(again).tolist() == [0, 2, 9]
    assert abs(int((again == 9).sum()) - 100) <= 10
    assert (again[:, 20][5:15] != again[:, 8][5:15]).all()


def test_objects_that_do_not_touch_are_joined_along_the_stroke() -> None:
    ids = np.zeros((10, 30), np.uint32)
    ids[2:8, 2:8], ids[2:8, 20:29] = 1, 2
    after = applied(ids, merge(ids, np.array([[5, 0], [5, 29]])))
    assert (after[5, 2:29] == 2).all()
    assert (after[5, :2] == 0).all()
    assert (after > 0).sum() == 36 + 54 + 12


def test_a_split_of_a_volume_runs_through_all_planes() -> None:
    ids = np.zeros((6, 20, 20), np.uint32)
    ids[1:5, 4:16, 4:16] = 5
    after = applied(ids, split(ids, np.array([[2, 0, 9], [2, 19, 9]])))
    assert np.unique(after).tolist() == [0, 5, 6]
    assert (after[1:5, 8, 5] != after[1:5, 8, 15]).all()


@pytest.mark.parametrize(
    ("act", "points"),
    [
        (merge, [[2, 2], [5, 5]]),
        (split, [[0, 0], [0, 9]]),
        (split, [[0, 5], [5, 5]]),
        (delete, [0, 0]),
        (delete, [40, 3]),
        (accept, [0, 0]),
    ],
)
def test_a_stroke_that_misses_says_what_to_do(
    act: Callable[[np.ndarray, np.ndarray], ObjectEdit], points: list[object]
) -> None:
    ids = np.zeros((12, 12), np.uint32)
    ids[2:10, 2:10] = 4
    with pytest.raises(UserError, match=r"; (draw|click|begin)"):
        act(ids, np.array(points))


def test_an_object_is_deleted_accepted_and_drawn_anew() -> None:
    ids = np.zeros((12, 12), np.uint32)
    ids[2:6, 2:6], ids[2:6, 6:9] = 4, 7
    assert not (applied(ids, delete(ids, np.array([3, 3]))) == 4).any()
    edit = accept(ids, np.array([3, 3]))
    np.testing.assert_array_equal(applied(ids, edit), ids)
    assert edit.changed.sum() == 16
    mask = np.zeros(ids.shape, bool)
    mask[3:8, 3:7] = True
    after = applied(ids, finish(ids, mask, 4))
    np.testing.assert_array_equal(after == 4, mask)
    np.testing.assert_array_equal(after == 7, (ids == 7) & ~mask)


def test_an_edit_knows_its_place_on_the_grid_of_the_image() -> None:
    ids = np.zeros((12, 12), np.uint32)
    ids[2:6, 3:6] = 4
    edit = delete(ids, np.array([3, 3])).on_grid((7, 1))
    assert edit.region == (slice(7, 8), slice(1, 2), slice(2, 6), slice(3, 6))
    assert edit.ids.shape == edit.changed.shape == (1, 1, 4, 3)
