"""Label kinds and numbers: what was painted is what is predicted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.label_checks import check_values, count_values
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX, Classes, LabelKind, Structure

STROKES, FULL, INSTANCES = LabelKind.STROKES, LabelKind.FULL, LabelKind.INSTANCES
SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)


def classes_of(array: np.ndarray, kind: LabelKind, ignore: int | None = None) -> Classes:
    return Classes.find([({v: n for v, n in count_values(array).items() if v != ignore}, kind)])


def test_bool_masks_are_zeros_and_ones() -> None:
    mask = np.array([[True, False]])
    assert classes_of(mask, FULL).encode(mask, FULL).tolist() == [[1, 0]]


# -- kinds ---------------------------------------------------------------------------------------


@given(hnp.arrays(np.uint8, SHAPES))
def test_strokes(array: np.ndarray) -> None:
    """0 is not labelled, 255 is background, all other numbers stand for themselves."""
    classes = classes_of(array, STROKES)
    assert classes.background == bool((array == BACKGROUND_LABEL).any())
    assert [s.number for s in classes.structures] == sorted(
        set(array.ravel()) - {0, BACKGROUND_LABEL}
    )
    encoded = classes.encode(array, STROKES)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded == IGNORE_INDEX, array == 0)
    known = array != 0
    painted = np.where(array == BACKGROUND_LABEL, 0, array)
    np.testing.assert_array_equal(classes.decode(encoded[known]), painted[known])


@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 254)), st.integers(0, 255))
def test_full_masks(array: np.ndarray, ignore: int) -> None:
    """0 is background; nothing is unlabelled but the value that is said to be."""
    classes = classes_of(array, FULL, ignore)
    encoded = classes.encode(array, FULL, ignore)
    np.testing.assert_array_equal(encoded == IGNORE_INDEX, array == ignore)
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


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u1", 255), ("u2", 255), ("i4", 255), ("f4", 255), ("u2", 256), ("u2", 65535), ("i4", 10**6)],
)
def test_a_mask_of_0_and_one_large_number_is_binary(dtype: str, value: int) -> None:
    mask = np.array([[0, value], [value, 0]], dtype)
    values = count_values(mask)
    check_values(values, FULL, "x")
    classes = Classes.find([(values, FULL)])
    assert classes.binary
    assert classes.numbers == (0, 1)
    assert classes.structures[0].file_value == value
    assert classes.encode(mask, FULL).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("kind", list(LabelKind))
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4", "f8"])
def test_a_value_to_ignore_may_be_negative(kind: LabelKind, dtype: str) -> None:
    array = np.array([[-1, 1, 0], [2, -1, 1]], dtype)
    check_values(count_values(array), kind, "x", ignore=-1)
    encoded = classes_of(array, kind, -1).encode(array, kind, -1)
    np.testing.assert_array_equal((encoded == IGNORE_INDEX)[array != 0], (array == -1)[array != 0])


@pytest.mark.parametrize("kind", list(LabelKind))
def test_nan_is_not_labelled(kind: LabelKind) -> None:
    array = np.array([[np.nan, 1, 2], [1, np.nan, 0]], np.float32)
    encoded = classes_of(array, kind).encode(array, kind)
    np.testing.assert_array_equal(
        (encoded == IGNORE_INDEX)[array != 0], np.isnan(array)[array != 0]
    )


def test_names_given_by_the_user_keep_the_value_in_the_file() -> None:
    known = [Structure(1, "nucleus", "#123456"), Structure(9, "unused")]
    classes = Classes.find([({0: 5, 255: 5}, FULL)], known)
    assert classes.structures == (Structure(1, "nucleus", "#123456", 255),)


# -- classes -------------------------------------------------------------------------------------


def test_two_numbers_without_background_are_two_classes() -> None:
    array = np.array([[0, 3, 5]])
    classes = classes_of(array, STROKES)
    assert classes.numbers == (3, 5)
    assert not classes.binary
    assert classes.out_channels == 2
    assert classes.encode(array, STROKES).tolist() == [[IGNORE_INDEX, 0, 1]]
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
