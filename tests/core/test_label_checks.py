"""Labels as people have them: what they look like, what is refused, and the way out."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.label_appearance import Appearance, classify_labels
from napari_unetseg.core.label_checks import (
    check_together,
    check_values,
    count_values,
    notes_of,
    read_values,
)
from napari_unetseg.core.labels import LabelKind

STROKES, FULL, INSTANCES = LabelKind.STROKES, LabelKind.FULL, LabelKind.INSTANCES
LABELS, OBJECTS, BLURRED, IMAGE = Appearance
SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)
Y, X = np.mgrid[:160, :160]


def objects(count: int = 12, seed: int = 0, radius: tuple[float, float] = (7, 13)) -> np.ndarray:
    """Discs with numbers from 1 on that touch and cover one another now and then."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(Y.shape, np.int32)
    for number in range(1, count + 1):
        y, x = rng.integers(0, len(Y), 2)
        ids[(Y - y) ** 2 + (X - x) ** 2 < rng.uniform(*radius) ** 2] = number
    return ids


def binary() -> np.ndarray:
    return objects() > 0


def jpeg(mask: np.ndarray, quality: int = 75) -> np.ndarray:
    file = io.BytesIO()
    mask = mask * np.uint8(255) if mask.dtype == bool else mask
    Image.fromarray(mask.astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(mask: np.ndarray, factor: float, how: Image.Resampling) -> np.ndarray:
    size = round(mask.shape[1] * factor), round(mask.shape[0] * factor)
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, how))


def halved(mask: np.ndarray) -> np.ndarray:
    """Each pixel the mean of four."""
    return mask.reshape(len(mask) // 2, 2, -1, 2).mean((1, 3)).round()


def rings(count: int) -> np.ndarray:
    """Structures inside one another: 1 outermost."""
    return sum(ndimage.binary_erosion(binary(), iterations=2 * k + 1) for k in range(count))


def photo(seed: int = 0, smooth: float = 0.0) -> np.ndarray:
    noisy = np.where(binary(), 120.0, 30.0) + np.random.default_rng(seed).normal(0, 9, Y.shape)
    return np.clip(ndimage.gaussian_filter(noisy, smooth) if smooth else noisy, 0, 255).astype("u1")


def spots(size: int) -> np.ndarray:
    """Numbered spots of so many pixels along an edge."""
    rng = np.random.default_rng(0)
    seeds = np.where(rng.random(Y.shape) < 0.01, rng.permutation(Y.size).reshape(Y.shape), 0)
    return ndimage.grey_dilation(seeds, (size, size))


def classes(count: int, cells: int = 90) -> np.ndarray:
    """Patches of tissue of so many classes, several of each; one of them is 0."""
    rng = np.random.default_rng(1)
    seeds = np.zeros(Y.size, bool)
    seeds[rng.choice(Y.size, cells, replace=False)] = True
    nearest = ndimage.distance_transform_edt(~seeds.reshape(Y.shape), return_indices=True)[1]
    return (nearest[0] * 31 + nearest[1] * 17) % count


def painted(numbers: int) -> np.ndarray:
    """A few thin strokes of each number and of the background brush."""
    strokes = np.zeros(Y.shape, np.uint8)
    for number in range(numbers):
        strokes[5 + 7 * number, 10:50] = strokes[6 + 7 * number, 60:150] = number + 1
    strokes[150:153, 5:140] = strokes[3:60:20, 155:] = 255
    return strokes


def layers(count: int) -> np.ndarray:
    """Tissue in layers, each from the left to the right edge."""
    return np.clip((Y - 30) // 12, 0, count)


LOOKS: list[tuple[str, Callable[[], np.ndarray], Appearance]] = [
    ("binary", lambda: binary() * 255, LABELS),
    ("two structures", lambda: binary() * 1 + (objects(seed=3) > 0), LABELS),
    ("rim and inside", lambda: rings(2), LABELS),
    ("0, 128 and 255", lambda: rings(2) * 127, LABELS),
    ("rings", lambda: rings(5), LABELS),
    ("20 classes", lambda: classes(20), LABELS),
    ("60 classes", lambda: classes(60, 400), LABELS),
    ("a class each, no background", lambda: (Y // 32) * 5 + X // 32 + 1, LABELS),
    ("layers", lambda: layers(8), LABELS),
    ("speckles of few structures", lambda: halved(binary() * 8) % 9, LABELS),
    ("strokes", lambda: painted(2), LABELS),
    ("strokes of many structures", lambda: painted(18), LABELS),
    ("distances to the edge", lambda: ndimage.distance_transform_edt(binary()).astype(int), LABELS),
    ("numbered points", lambda: spots(1), OBJECTS),
    ("5 objects", lambda: objects(5, 4), OBJECTS),
    ("12 objects", objects, OBJECTS),
    ("60 objects", lambda: objects(60, radius=(3, 7)), OBJECTS),
    ("objects with large numbers", lambda: np.where(binary(), objects() + 70_000, 0), OBJECTS),
    ("objects as floats", lambda: objects().astype(np.float32), OBJECTS),
    ("JPEG", lambda: jpeg(binary() * 255), BLURRED),
    ("JPEG of low quality", lambda: jpeg(binary() * 255, 40), BLURRED),
    ("JPEG of good quality", lambda: jpeg(binary() * 255, 92), BLURRED),
    ("JPEG of 0 and 200", lambda: jpeg(binary() * 200), BLURRED),
    ("JPEG of 255 and 0", lambda: jpeg(~binary() * 255), BLURRED),
    ("JPEG of squares", lambda: jpeg((Y // 40 + X // 33) % 3 == 0) * 1.0, BLURRED),
    ("smaller", lambda: resized(binary() * 255, 0.6, Image.Resampling.BILINEAR), BLURRED),
    ("larger", lambda: resized(binary() * 255, 1.7, Image.Resampling.BICUBIC), BLURRED),
    ("ringing", lambda: resized(binary() * 255, 2.3, Image.Resampling.LANCZOS), BLURRED),
    ("half", lambda: halved(binary() * 255), BLURRED),
    ("noisy image", photo, IMAGE),
    ("smooth image", lambda: photo(smooth=1.0), IMAGE),
    ("noise", lambda: np.random.default_rng(0).integers(0, 65535, Y.shape), IMAGE),
]


@pytest.mark.parametrize(("make", "appearance"), [x[1:] for x in LOOKS], ids=[x[0] for x in LOOKS])
def test_what_labels_look_like(make: Callable[[], np.ndarray], appearance: Appearance) -> None:
    array = make()
    assert classify_labels(array).appearance is appearance
    stack = np.zeros((4, *array.shape), array.dtype)
    stack[1:3] = array
    assert classify_labels(stack).appearance is appearance
    assert (
        classify_labels(np.where(array == 0, -1, array.astype(int)), ignore=-1).appearance
        is appearance
    )


def test_a_blurred_mask_is_cut_halfway() -> None:
    assert classify_labels(jpeg(binary() * 255)).threshold == 127
    assert classify_labels(jpeg(binary() * 200)).threshold == 100


def test_a_large_image_is_looked_at_where_something_is() -> None:
    large = np.zeros((1500, 1400), np.int32)
    large[:160, 1240:] = objects()
    assert classify_labels(large).appearance is OBJECTS


# -- values ----------------------------------------------------------------------------------------


@given(hnp.arrays(hnp.integer_dtypes() | hnp.unsigned_integer_dtypes(), SHAPES))
def test_values_are_counted(array: np.ndarray) -> None:
    counted = count_values(array)
    assert sum(counted.values()) == array.size
    assert all((array == value).sum() == number for value, number in counted.items())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_whole_floats_and_nan_are_welcome(dtype: str) -> None:
    array = np.array([[0, 1, 255], [2, 2, 0], [np.nan, np.nan, 1]], dtype)
    assert count_values(array) == {0: 2, 1: 2, 2: 2, 255: 1}
    values = read_values(array, STROKES, "The labels of x")
    assert values.missing == 2
    assert notes_of([values]) == ("The labels of x hold NaN, which counts as not labelled.",)


@pytest.mark.parametrize("odd", [0.5, np.inf, -np.inf, 1e-3])
def test_other_floats_are_refused(odd: float) -> None:
    with pytest.raises(UserError, match="not whole numbers"):
        count_values(np.array([0.0, 1.0, odd, np.nan]), "The labels of x")


def test_a_probability_map_is_told_its_threshold() -> None:
    with pytest.raises(UserError, match=r"values above 0.5 structure 1 with '--threshold 0\.5'"):
        count_values(np.array([0.0, 0.3, 1.0]))
    with pytest.raises(UserError, match="'--threshold 50'"):
        count_values(np.array([0.0, 33.3, 100.0]))


@pytest.mark.parametrize("values", [np.zeros(3, complex), np.array(["a", "b"])])
def test_values_that_are_no_numbers_are_refused(values: np.ndarray) -> None:
    with pytest.raises(UserError, match="not whole numbers"):
        count_values(values)


# -- what is refused -------------------------------------------------------------------------------


def test_255_beside_others_is_refused_until_told() -> None:
    values = {0: 10, 1: 5, 255: 5}
    with pytest.raises(UserError, match=r"255 beside 1.*--ignore 255.*strokes"):
        check_values(values, FULL, "The labels of x")
    check_values(values, FULL, "The labels of x", ignore=255)
    check_values(values, STROKES, "x")
    check_values(values, INSTANCES, "x")
    with pytest.raises(UserError, match="255 beside 2"):
        check_together([0, 1, 2, 255])
    check_together([0, 1, 255, 65535])


def test_more_than_254_structures_are_objects_and_no_strokes() -> None:
    values = {0: 3, 7: 1, 1000: 1}
    with pytest.raises(UserError, match=r"1000.*'--labels instances'"):
        check_values(values, FULL, "x")
    with pytest.raises(UserError, match=r"300.*1 to 254 and 255 is the background"):
        check_values({0: 3, 300: 5, 255: 4}, STROKES, "x")
    check_values(values, INSTANCES, "x")


@pytest.mark.parametrize("value", [2**16 - 1, 2**32 - 1])
def test_what_minus_1_becomes_without_a_sign_may_be_ignored(value: int) -> None:
    with pytest.raises(UserError, match=f"'--ignore {value}' if that means 'not labelled'"):
        check_values({0: 5, 1: 5, value: 5}, FULL, "The labels")
    check_values({0: 5, 1: 5, value: 5}, FULL, "The labels", value)


@pytest.mark.parametrize("kind", list(LabelKind))
def test_negative_values_are_refused_with_advice_until_ignored(kind: LabelKind) -> None:
    values = {-1: 5, 0: 3, 1: 4}
    with pytest.raises(UserError, match=r"negative value -1; add '--ignore -1'") as error:
        check_values(values, kind, "x")
    assert ("'--threshold 0' if it is the background" in str(error.value)) == (kind is not STROKES)
    check_values(values, kind, "x", ignore=-1)


def test_minus_1_alone_is_a_mask_of_signed_numbers() -> None:
    with pytest.raises(UserError, match="1 for the structure"):
        check_values({-1: 5, 0: 3}, FULL, "x")


@pytest.mark.parametrize("kind", list(LabelKind))
@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (jpeg(binary() * 255), r"edges were blurred by JPEG.*'--threshold 12[57]'"),
        (jpeg(binary() * 200), r"edges were blurred.*'--threshold 100'"),
        (photo(), "look like an image.*swapped.*'--threshold"),
    ],
)
def test_no_kind_takes_blurred_masks_or_images(
    kind: LabelKind, array: np.ndarray, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        read_values(array, kind, "The labels of x")
    with pytest.raises(UserError, match=sentence):
        read_values(array, kind, "The labels of x", ignore=255)


def test_swapped_images_and_labels_are_named() -> None:
    with pytest.raises(UserError, match="seem to be swapped; give them in the other"):
        read_values(photo(), FULL, "The labels of x", image=Stack(objects(), "YX"))
    with pytest.raises(UserError, match="look like an image or"):
        read_values(photo(), FULL, "The labels of x", image=Stack(photo(1), "YX"))


# -- what is said ----------------------------------------------------------------------------------


def said(arrays: list[np.ndarray], kind: LabelKind = FULL) -> str:
    return " ".join(
        notes_of([read_values(a, kind, f"The labels of {n}") for n, a in enumerate(arrays)])
    )


def test_objects_taken_for_structures_are_said() -> None:
    text = said([objects(60, radius=(3, 7))])
    assert "each of them a single region" in text
    assert "'--labels instances'" in text
    assert "The labels of 0 and 2 more" in said([objects(12 + n, n) for n in range(3)])
    assert not said([objects()], INSTANCES)


@pytest.mark.parametrize("make", [lambda: classes(20), lambda: layers(8), lambda: rings(4)])
def test_classes_are_taken_without_a_word(make: Callable[[], np.ndarray]) -> None:
    assert not said([make()])


@given(st.lists(st.integers(0, 254), min_size=1, max_size=20))
def test_any_few_structures_are_fine(numbers: list[int]) -> None:
    check_values(dict.fromkeys(numbers, 3), FULL, "x")
    check_values(dict.fromkeys(numbers, 3), STROKES, "x")
