"""Newer annotations: only what changed is read again, and all is as if it were read anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import Watched, blobs, strokes
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetseg.annotations.sparse_array import SparseArray, whole
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import Structure
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset

if TYPE_CHECKING:
    from napari_unetseg.data.validation_split import LabelledPlane

SHAPE = (3, 40, 48)


def content(plane: LabelledPlane) -> tuple[Any, ...]:
    """All that a training takes from a plane."""
    anchors = {number: voxels.tolist() for number, voxels in plane.anchors.items()}
    arrays = (plane.train.tobytes(), plane.validate.tobytes(), plane.counts.tolist())
    return (plane.pair, id(plane.stack.data), plane.index, *arrays, plane.blocks, anchors)


def facts(data: TrainingDataset) -> list[Any]:
    """All that a training takes from its data, and some samples."""
    rng = np.random.default_rng(0)
    drawn = [
        part.tobytes()
        for _ in range(6)
        for part in data.crop_patch(*data.sample_anchor(rng), (16,) * data.dims, rng)
    ]
    scored = [(p.pair, p.index, block) for p, block in data.validation_blocks()]
    counts = data.counts.tolist(), data.train_voxels, data.validation_voxels
    said = data.notes, data.unlabelled, data.validated, data.has_strokes, data.classes
    images = data.fingerprints, data.normalization, data._scalings
    return [counts, said, images, scored, drawn, *map(content, data.planes)]


def outcome(make: Callable[[], TrainingDataset]) -> tuple[TrainingDataset | None, Any]:
    """Data and its facts, or what was said against it."""
    try:
        data = make()
    except UserError as error:
        return None, str(error)
    return data, facts(data)


def copied(pair: AnnotatedImage, **changes: Any) -> AnnotatedImage:
    """The pair as a window gives it anew: another stack of the same array, copies of its labels."""
    labels = changes.pop("labels", np.array(pair.labels))
    return replace(pair, image=replace(pair.image), labels=labels, **changes)


def painted(array: Any, rng: np.random.Generator) -> np.ndarray:
    """A copy with a stroke, or with something wiped away."""
    array = np.array(array)
    z, y = rng.integers(array.shape[0]), rng.integers(array.shape[1])
    array[z, y : y + rng.integers(1, 12), :: rng.integers(1, 4)] = rng.choice([0, 1, 2, 255])
    return array


def sparse(labels: np.ndarray) -> SparseArray:
    """The same labels as annotations are kept."""
    grid = SparseArray(labels.shape, labels.dtype)
    grid.write(whole(labels.shape), labels)
    return grid


def changed(
    pairs: list[AnnotatedImage], how: str, rng: np.random.Generator
) -> list[AnnotatedImage]:
    """What a user may do to annotated images while a training goes on."""
    n = int(rng.integers(len(pairs)))
    one = pairs[n]
    if how == "paint":
        return [*pairs[:n], copied(one, labels=painted(one.labels, rng)), *pairs[n + 1 :]]
    if how == "in place":  # the same array, as in a script
        labels = np.asarray(one.labels)
        if labels.base is None and labels.flags.writeable:
            labels[:] = painted(labels, rng)
        return pairs
    if how == "correct":
        before = np.zeros(SHAPE, np.uint8) if one.corrections is None else one.corrections
        now = copied(one, corrections=painted(before, rng))
        return [*pairs[:n], now, *pairs[n + 1 :]]
    if how == "sparse":
        return [*pairs[:n], copied(one, labels=sparse(one.labels)), *pairs[n + 1 :]]
    if how == "kind":
        return [*pairs[:n], copied(one, kind="strokes", ignore=2), *pairs[n + 1 :]]
    if how == "spacing":
        image = replace(one.image, spacing=(3.0, 1.0, 1.0))
        return [*pairs[:n], replace(one, image=image), *pairs[n + 1 :]]
    if how == "add":
        image = Stack(rng.random(SHAPE).astype(np.float32), "ZYX", name="added")
        return [AnnotatedImage(image, painted(np.zeros(SHAPE, np.uint8), rng), "strokes"), *pairs]
    if how == "twice":
        return [copied(one, labels=painted(one.labels, rng)), *pairs]
    return pairs[:n] + pairs[n + 1 :] if len(pairs) > 1 else pairs


WAYS = "paint", "in place", "correct", "sparse", "kind", "spacing", "add", "twice", "remove"


@pytest.fixture(scope="module")
def few_anchors() -> Iterator[None]:
    """So few voxels are kept for sampling that which ones is left to chance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_unetseg.data.validation_split.MOST_ANCHORS", 30)
        yield


@pytest.mark.usefixtures("few_anchors")
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from(WAYS), min_size=1, max_size=4),
    st.sampled_from([2, 3]),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([4, 20]),
)
def test_newer_annotations_are_as_if_all_were_read_anew(
    seed: int, ways: list[str], dims: int, share: float, every: int
) -> None:
    rng, pairs = np.random.default_rng(seed), []
    for number, kind in enumerate(("strokes", "strokes", "full")):
        image, truth = blobs(SHAPE, 12, number, structures=2)
        labels = truth if kind == "full" else strokes(truth, every)
        pairs.append(AnnotatedImage(Stack(image, "ZYX", name=str(number)), labels, kind))
    fixed, names = pairs[2:], [Structure(1, "cell")]
    data = TrainingDataset(pairs, dims, share, seed=5, rule="image", structures=names)
    for way in ways:
        pairs = [*changed(pairs[:-1], way, rng), pairs[-1]]
        same = (dims, share)
        more = {"classes": data.classes, "normalization": data.normalization}
        anew, wanted = outcome(
            lambda same=same, more=more, pairs=pairs: TrainingDataset(
                pairs, *same, seed=5, rule="image", structures=names, **more
            )
        )
        newer, found = outcome(lambda data=data, pairs=pairs: data.with_annotations(pairs, fixed))
        assert found == wanted
        if newer is not None and anew is not None:
            spots = newer.labels_added_since(data), anew.labels_added_since(data)
            told = [[(p.pair, p.index, at.tolist()) for p, at in voxels] for voxels in spots]
            assert told[0] == told[1]
            data = newer


@pytest.mark.usefixtures("few_anchors")
def test_planes_without_a_stroke_follow_when_there_comes_enough_to_validate() -> None:
    image, truth = blobs((3, 96, 96), 30)
    stack, labels = Stack(image, "TYX"), np.zeros(truth.shape, np.uint8)
    labels[0] = strokes(truth, 90)[0]
    few, more = (
        AnnotatedImage(stack, labels, "strokes"),
        AnnotatedImage(stack, strokes(truth, 4), "strokes"),
    )
    more.labels[0] = labels[0]
    data = TrainingDataset([few], 2, 0.2, seed=3)
    assert not data.validated
    for pair in (more, few, more):
        data = data.with_annotations([pair])
        assert data.validated == (pair is more)
        same = {"classes": data.classes, "normalization": data.normalization}
        assert facts(data) == facts(TrainingDataset([pair], 2, 0.2, seed=3, **same))


# -- what is read again --------------------------------------------------------------------------


def folder_pair(number: int) -> AnnotatedImage:
    """Image and full mask in files, which count how much is read of them."""
    image, truth = blobs((1, 96, 96), 12, number)
    watched = Watched(image, most=image.size)
    return AnnotatedImage(Stack(watched, "ZYX"), Watched(truth, most=truth.size), "full")


def reads(pair: AnnotatedImage) -> tuple[int, int]:
    return len(pair.image.data.reads), len(pair.labels.reads)


def test_a_stroke_reads_nothing_of_the_folders_that_train_too() -> None:
    files = [folder_pair(number) for number in range(3)]
    image, truth = blobs((96, 96), 12, 9)
    live = AnnotatedImage(Stack(image, "YX"), strokes(truth, 12), "strokes")
    control, whole = JobControl(), (slice(0, 96),) * 2
    control.set_fixed_annotations(tuple(files))
    data = TrainingDataset([live, *files], 2, 0.15)
    for plane in data.planes:
        data.read(plane, whole)
    before = [reads(pair) for pair in files]

    control.push_annotations((copied(live, labels=strokes(truth, 4)),))
    newer = control.pop_annotations()
    assert newer is not None
    renewed = data.with_annotations(newer, control.fixed)
    assert renewed.train_voxels > data.train_voxels
    for plane in renewed.planes:  # the pixels are still in memory
        renewed.read(plane, whole)
    assert [reads(pair) for pair in files] == before
    # without that word each of their labels is looked at once, and split no more
    data.with_annotations(newer)
    assert [reads(pair) for pair in files] == [(i, n + 1) for i, n in before]


def test_of_a_stack_only_the_plane_with_the_stroke_is_split_again() -> None:
    image, truth = blobs((4, 96, 96), 30)
    before = AnnotatedImage(Stack(image, "TYX"), sparse(strokes(truth)), "strokes")
    labels = strokes(truth)
    labels[2, 50] = 1
    data = TrainingDataset([before], 2, 0.15)
    newer = data.with_annotations([copied(before, labels=sparse(labels))])
    kept = [a.train is b.train for a, b in zip(newer.planes, data.planes, strict=True)]
    assert kept == [True, True, False, True]


# -- several layers of the same pixels -----------------------------------------------------------


def two_layers(image: Stack, other: Stack) -> tuple[np.ndarray, AnnotatedImage, AnnotatedImage]:
    first, second = np.zeros((60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    first[5:25], first[40, :20] = 1, 255
    second[30:32], second[50, :30], second[8:10] = 255, 1, 1
    return first, AnnotatedImage(image, first, "strokes"), AnnotatedImage(other, second, "strokes")


@pytest.mark.parametrize("alike", ["the same stack", "the same array", "equal arrays"])
@pytest.mark.parametrize("appears", [False, True])
def test_layers_of_the_same_pixels_are_told_apart(alike: str, appears: bool) -> None:
    array = np.random.default_rng(0).random((60, 80)).astype(np.float32)
    image = Stack(array, "YX", name="a")
    other = {
        "the same stack": image,
        "the same array": Stack(array, "YX", name="b"),
        "equal arrays": Stack(array.copy(), "YX", name="b"),
    }[alike]
    painted, one, two = two_layers(image, other)
    data = TrainingDataset([two] if appears else [one, two], 2, 0.0)
    painted = painted.copy()
    painted[45:50, :44] = 1
    newer = [replace(one, labels=painted), two]
    found = data.with_annotations(newer, [two]).labels_added_since(data)
    wanted = np.count_nonzero(painted) if appears else 220
    assert [(plane.pair, len(voxels)) for plane, voxels in found] == [(0, wanted)]


def test_newer_regions_are_those_of_their_own_layer() -> None:
    image = Stack(np.random.default_rng(0).random((60, 80)), "YX")
    _, one, two = two_layers(image, image)
    spot = (slice(0, 60), slice(0, 10))
    data = TrainingDataset([replace(one, newer=(spot,)), two], 2, 0.0)
    found = [(plane.pair, len(voxels)) for plane, voxels in data.newer_voxels()]
    assert found == [(0, 210)]
