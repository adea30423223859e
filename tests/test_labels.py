"""Label kinds and numbers: what was painted is what is predicted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import (
    BRUSH,
    IGNORE,
    Classes,
    LabelKind,
    Structure,
    check_values,
    count_values,
)

STROKES, FULL, INSTANCES = LabelKind.STROKES, LabelKind.FULL, LabelKind.INSTANCES
SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)


def classes_of(array: np.ndarray, kind: LabelKind, ignore: int | None = None) -> Classes:
    return Classes.find([(count_values(array), kind)], ignore=ignore)


# -- what the values are -------------------------------------------------------------------------


@given(hnp.arrays(hnp.integer_dtypes() | hnp.unsigned_integer_dtypes(), SHAPES))
def test_values_are_counted_or_refused(array: np.ndarray) -> None:
    if array.min() < 0:
        with pytest.raises(UserError, match="negative"):
            count_values(array)
        return
    counted = count_values(array)
    assert sum(counted.values()) == array.size
    assert all((array == value).sum() == number for value, number in counted.items())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_whole_floats_are_welcome(dtype: str) -> None:
    array = np.array([[0, 1, 255], [2, 2, 0]], dtype)
    assert count_values(array) == {0: 2, 1: 1, 2: 2, 255: 1}
    classes = classes_of(array, STROKES)
    assert classes.encode(array, STROKES).tolist() == [[IGNORE, 1, 0], [2, 2, IGNORE]]


@pytest.mark.parametrize("odd", [0.5, np.nan, np.inf, -np.inf, 1e-3])
def test_other_floats_are_refused(odd: float) -> None:
    with pytest.raises(UserError, match="not whole numbers"):
        count_values(np.array([0.0, 1.0, odd]), "The labels of x")


@pytest.mark.parametrize("values", [np.zeros(3, complex), np.array(["a", "b"])])
def test_values_that_are_no_numbers_are_refused(values: np.ndarray) -> None:
    with pytest.raises(UserError, match="not whole numbers"):
        count_values(values)


def test_bool_masks_count_as_zeros_and_ones() -> None:
    mask = np.array([[True, False]])
    assert count_values(mask) == {0: 1, 1: 1}
    assert classes_of(mask, FULL).encode(mask, FULL).tolist() == [[1, 0]]


# -- kinds ---------------------------------------------------------------------------------------


@given(hnp.arrays(np.uint8, SHAPES))
def test_strokes(array: np.ndarray) -> None:
    """0 is not labelled, 255 is background, all other numbers stand for themselves."""
    classes = classes_of(array, STROKES)
    assert classes.background == bool((array == BRUSH).any())
    assert [s.number for s in classes.structures] == sorted(set(array.ravel()) - {0, BRUSH})
    encoded = classes.encode(array, STROKES)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded == IGNORE, array == 0)
    known = array != 0
    painted = np.where(array == BRUSH, 0, array)
    np.testing.assert_array_equal(classes.decode(encoded[known]), painted[known])


@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 254)), st.integers(0, 255))
def test_full_masks(array: np.ndarray, ignore: int) -> None:
    """0 is background; nothing is unlabelled but the value that is said to be."""
    classes = classes_of(array, FULL, ignore)
    encoded = classes.encode(array, FULL, ignore)
    np.testing.assert_array_equal(encoded == IGNORE, array == ignore)
    known = array != ignore
    np.testing.assert_array_equal(classes.decode(encoded[known]), array[known])


@given(hnp.arrays(np.uint64, SHAPES))
def test_instances(array: np.ndarray) -> None:
    """Every number above 0 is an object of structure 1, however large the number."""
    classes = Classes((Structure(1),))
    check_values(count_values(array), INSTANCES, "x")
    assert classes.decode(classes.encode(array, INSTANCES)).tolist() == (array > 0).tolist()


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "i8", "u8", "f4", ">u2"])
def test_any_dtype_encodes_alike(dtype: str) -> None:
    array = np.array([[0, 1, 3], [100, 3, 0]], dtype)
    for kind in LabelKind:
        classes = classes_of(array, kind)
        plain = classes.encode(array.astype(np.uint8), kind, ignore=3)
        np.testing.assert_array_equal(classes.encode(array, kind, ignore=3), plain)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
def test_a_mask_of_0_and_255_is_binary(dtype: str) -> None:
    mask = np.array([[0, 255], [255, 0]], dtype)
    values = count_values(mask)
    check_values(values, FULL, "x")
    classes = Classes.find([(values, FULL)])
    assert classes.binary
    assert classes.numbers == (0, 1)
    assert classes.structures[0].file_value == 255
    assert classes.encode(mask, FULL).tolist() == [[0, 1], [1, 0]]


def test_names_given_by_the_user_keep_the_value_in_the_file() -> None:
    known = [Structure(1, "nucleus", "#123456"), Structure(9, "unused")]
    classes = Classes.find([({0: 5, 255: 5}, FULL)], known)
    assert classes.structures == (Structure(1, "nucleus", "#123456", 255),)


def test_255_beside_others_is_refused_until_told() -> None:
    values = {0: 10, 1: 5, 255: 5}
    with pytest.raises(UserError, match=r"255 beside 1.*--ignore 255"):
        check_values(values, FULL, "The labels of x")
    check_values(values, FULL, "x", ignore=255)
    check_values(values, STROKES, "x")
    check_values(values, INSTANCES, "x")
    classes = Classes.find([(values, FULL)], ignore=255)
    assert classes.numbers == (0, 1)
    encoded = classes.encode(np.array([0, 1, 255]), FULL, 255)
    assert encoded.tolist() == [0, 1, IGNORE]


@pytest.mark.parametrize("kind", [STROKES, FULL])
def test_numbers_above_255_are_refused_but_as_instances(kind: LabelKind) -> None:
    with pytest.raises(UserError, match=r"1000.*instances"):
        check_values({0: 3, 1000: 1}, kind, "x")
    check_values({0: 3, 1000: 1}, INSTANCES, "x")


# -- classes -------------------------------------------------------------------------------------


def test_two_numbers_without_background_are_two_classes() -> None:
    array = np.array([[0, 3, 5]])
    classes = classes_of(array, STROKES)
    assert classes.numbers == (3, 5)
    assert not classes.binary
    assert classes.out_channels == 2
    assert classes.encode(array, STROKES).tolist() == [[IGNORE, 0, 1]]
    assert classes.decode(np.array([0, 1])).tolist() == [3, 5]


@pytest.mark.parametrize(
    ("numbers", "background", "channels"),
    [((1,), True, 1), ((7,), True, 1), ((1, 2), True, 3), ((1, 2), False, 2), ((1,), False, 1)],
)
def test_channels_of_the_head(numbers: tuple[int, ...], background: bool, channels: int) -> None:
    assert Classes(tuple(map(Structure, numbers)), background).out_channels == channels


def test_254_structures_with_background() -> None:
    array = np.arange(256, dtype=np.uint8)
    classes = classes_of(array, STROKES)
    assert classes.out_channels == 255
    assert classes.decode(classes.encode(array, STROKES)[1:]).tolist() == [*range(1, 255), 0]


def test_kinds_may_be_mixed() -> None:
    strokes, mask = np.array([[0, 2, 255]]), np.array([[0, 1, 1]])
    classes = Classes.find(
        [(count_values(strokes), STROKES), (count_values(mask), FULL), ({0: 4, 77: 1}, INSTANCES)]
    )
    assert classes.numbers == (0, 1, 2)


@pytest.mark.parametrize("number", [0, 255, -1, 1000])
def test_numbers_of_structures_are_1_to_254(number: int) -> None:
    with pytest.raises(UserError, match="1 to 254"):
        Structure(number)


def test_structures_get_names_and_colours_that_differ() -> None:
    structures = [Structure(n) for n in range(1, 8)]
    assert len({s.color for s in structures}) == 7
    assert structures[2].name == "structure 3"
    assert Structure(1) == Structure(1, "structure 1")
