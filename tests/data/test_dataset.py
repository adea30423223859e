"""Blocks that stay where they are, a guard band, and samples that hold labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import Watched, blobs, full_pair, painted_pair, strokes
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import IGNORE_INDEX, Classes, LabelKind, Structure
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.data.validation_split import GUARD, block_shape, split_train_validation

FLAT = (1.0, 1.0)


def pair_of(labels: Any, kind: LabelKind = LabelKind.STROKES, **more: Any) -> AnnotatedImage:
    axes = "TZYX"[-labels.ndim :]
    image = np.random.default_rng(0).random(labels.shape).astype(np.float32)
    return AnnotatedImage(Stack(image, axes), labels, kind, **more)


def data_of(
    *pairs: AnnotatedImage, dims: int = 2, share: float = 0.2, **more: Any
) -> TrainingDataset:
    return TrainingDataset(pairs, dims, share, **more)


# -- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["labels", "corrections"])
def test_other_shapes_are_refused_with_both_shapes(which: str) -> None:
    image = Stack(np.zeros((3, 20, 30), np.uint8), "CYX", name="cells")
    arrays = {"labels": np.zeros((20, 30), np.uint8), "corrections": None}
    arrays[which] = np.zeros((21, 30), np.uint8)
    with pytest.raises(UserError, match=r"cells has the shape \(20, 30\).*\(21, 30\)"):
        AnnotatedImage(image, kind="strokes", **arrays)  # type: ignore[arg-type]


def test_axes_of_length_one_make_no_difference() -> None:
    image = Stack(np.zeros((1, 20, 30), np.uint8), "ZYX", name="cells")
    pair = AnnotatedImage(
        image, np.ones((20, 30), np.uint8), "strokes", corrections=np.ones((1, 1, 20, 30), np.uint8)
    )
    assert pair.labels.shape == pair.corrections.shape == (1, 20, 30)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "said"), [((), ""), ((None,), ""), (("mask",), ", not 'mask'"), ((np.ones(3),), "")]
)
def test_what_labels_mean_must_be_said(kind: tuple[Any, ...], said: str) -> None:
    """A mask that is silently taken for strokes would train without any background."""
    image = Stack(np.zeros((20, 30), np.uint8), "YX")
    with pytest.raises(UserError) as error:
        AnnotatedImage(image, np.zeros((20, 30), np.uint8), *kind)
    assert all(f"'{name}'" in str(error.value) for name in LabelKind)
    assert str(error.value).endswith(f"every other number an object){said}.")


def test_an_array_is_an_image_as_in_predict() -> None:
    labels = np.ones((2, 20, 30), np.uint8)
    pair = AnnotatedImage(np.zeros((2, 3, 20, 30), np.uint8), labels, "full", axes="ZCYX")
    assert (pair.kind, pair.image.axes, pair.image.n_channels) == (LabelKind.FULL, "ZCYX", 3)
    assert AnnotatedImage(np.zeros((20, 30, 3)), labels[0], LabelKind.FULL).image.axes == "YXS"
    assert AnnotatedImage(np.zeros((2, 20, 30)), labels, "instances").image.axes == "ZYX"
    with pytest.raises(UserError, match="do not match 'YX'"):
        AnnotatedImage(np.zeros((2, 20, 30)), labels, "full", axes="YX")


# -- blocks and the guard band -------------------------------------------------------------------


SIZES = st.tuples(st.integers(1, 150), st.integers(1, 150)) | st.tuples(
    st.integers(1, 20), st.integers(1, 60), st.integers(1, 60)
)


@settings(max_examples=40)
@given(shape=SIZES, share=st.sampled_from([0.0, 0.2, 0.5]), seed=st.integers(0, 99))
def test_split(shape: tuple[int, ...], share: float, seed: int) -> None:
    """Each label trains, validates or is in the guard band; none trains near a validating one."""
    rng = np.random.default_rng(seed)
    target = rng.choice([0, 1, IGNORE_INDEX], shape, p=[0.3, 0.2, 0.5]).astype(np.uint8)
    spacing = (2.0, 1.0, 1.0)[-len(shape) :]
    train, validate, blocks = split_train_validation(target, f"image {seed}", spacing, share)

    np.testing.assert_array_equal(train[train != IGNORE_INDEX], target[train != IGNORE_INDEX])
    np.testing.assert_array_equal(
        validate[validate != IGNORE_INDEX], target[validate != IGNORE_INDEX]
    )
    assert not ((train != IGNORE_INDEX) & (validate != IGNORE_INDEX)).any()
    held = np.zeros(shape, bool)
    near = np.zeros(shape, bool)
    guards = [max(1, edge // GUARD) for edge in block_shape(shape, spacing)]
    for block in blocks:
        held[block.region] = True
        assert block.labelled == (target[block.region] != IGNORE_INDEX).sum() > 0
        wide = tuple(
            slice(max(0, r.start - g), r.stop + g)
            for r, g in zip(block.region, guards, strict=True)
        )
        near[wide] = True
    assert (train[near] == IGNORE_INDEX).all()
    np.testing.assert_array_equal(validate != IGNORE_INDEX, held & (target != IGNORE_INDEX))
    if share == 0.0:
        assert not blocks
        np.testing.assert_array_equal(train, target)


def test_about_the_wanted_share_of_blocks_validates() -> None:
    target = np.zeros((800, 800), np.uint8)
    for share in (0.1, 0.2, 0.5):
        validate = split_train_validation(target, "key", FLAT, share)[1]
        assert (validate != IGNORE_INDEX).mean() == pytest.approx(share, abs=0.12)


def test_anisotropic_blocks_are_as_deep_as_wide_in_space() -> None:
    assert block_shape((60, 256, 256), (4.0, 1.0, 1.0)) == (8, 32, 32)
    assert block_shape((60, 256, 256), (1.0, 1.0, 1.0)) == (30, 32, 32)
    assert block_shape((1, 256, 256), (1.0, 1.0, 1.0))[1:] == (32, 32)


def regions(data: TrainingDataset) -> set[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]:
    return {
        (plane.index, tuple((r.start, r.stop) for r in block.region))
        for plane in data.planes
        for block in plane.blocks
    }


def test_blocks_stay_as_strokes_are_added_and_images_renamed() -> None:
    image, truth = blobs((200, 220), 25)
    few, more = strokes(truth, 16), strokes(truth, 4)
    before = data_of(AnnotatedImage(Stack(image, "YX", name="a"), few, "strokes"))
    after = data_of(AnnotatedImage(Stack(image.copy(), "YX", name="b"), more, "strokes"))
    assert before.validated
    assert after.validated
    assert regions(before) <= regions(after)
    # a voxel that validated never trains later, and the other way round
    old, new = before.planes[0], after.planes[0]
    assert (new.train[old.validate != IGNORE_INDEX] == IGNORE_INDEX).all()
    assert (new.validate[old.train != IGNORE_INDEX] == IGNORE_INDEX).all()


def test_what_validates_in_one_plane_trains_in_none() -> None:
    """Neighbouring planes and frames look alike, so they must not tell each other's labels."""
    image, truth = blobs((3, 128, 128), 40)
    data = data_of(AnnotatedImage(Stack(image, "TYX"), strokes(truth, 4), "strokes"), share=0.3)
    assert len(data.planes) == 3
    assert data.validation_blocks()
    for _, block in data.validation_blocks():
        assert all((plane.train[block.region] == IGNORE_INDEX).all() for plane in data.planes)


# -- too little to hold any back -----------------------------------------------------------------


def test_too_little_annotation_all_trains_also_what_is_in_guard_bands() -> None:
    """Wherever two single labels are painted, both train."""
    for place in range(0, 128, 3):
        labels = np.zeros((128, 128), np.uint8)
        labels[place, place], labels[place, 127 - place] = 1, 255
        data = data_of(pair_of(labels))
        assert not data.validated
        assert data.validation_blocks() == []
        assert data.train_voxels == np.count_nonzero(labels)
        np.testing.assert_array_equal(data.planes[0].train != IGNORE_INDEX, labels != 0)


def test_without_a_share_everything_trains() -> None:
    data = data_of(painted_pair((160, 160)), share=0.0)
    assert not data.validated
    assert data.train_voxels == np.count_nonzero(data.pairs[0].labels)


def test_enough_annotation_is_validated_and_counted() -> None:
    data = data_of(painted_pair((160, 160), 30))
    assert data.validated
    labelled = np.count_nonzero(data.pairs[0].labels)
    assert 0 < data.validation_voxels < 0.5 * labelled
    assert data.train_voxels + data.validation_voxels < labelled  # the rest is in guard bands


def test_a_rare_structure_is_among_the_scored_blocks() -> None:
    labels = np.full((12, 128, 128), 255, np.uint8)
    labels[:, ::2] = 1
    image = np.random.default_rng(0).random(labels.shape).astype(np.float32)
    common = data_of(AnnotatedImage(Stack(image, "TYX"), labels, "strokes"), share=0.3)
    scored = {id(block) for _, block in common.validation_blocks()}
    assert len(scored) == 64
    left_out = [
        (plane.index, block.region)
        for plane in common.planes
        for block in plane.blocks
        if id(block) not in scored
    ]
    assert len(left_out) > 64
    for index, region in left_out[:: len(left_out) // 5]:
        rare = labels.copy()
        rare[(*index, *region)] = 2  # it validates here and nowhere else
        place = np.argwhere(common.planes[3].train != IGNORE_INDEX)[:200]
        rare[3, place[:, 0], place[:, 1]] = 2
        data = data_of(AnnotatedImage(Stack(image, "TYX"), rare, "strokes"), share=0.3)
        assert data.validated
        assert any((p.validate[b.region] == 2).any() for p, b in data.validation_blocks())


# -- samples -------------------------------------------------------------------------------------


CASES: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = [
    ((100, 120), (32, 32), None),
    ((100, 120), (48, 48), (32, 32)),
    ((300, 300), (220, 220), (128, 128)),
    ((20, 120), (44, 44), (32, 32)),
    ((1, 40), (16, 16), (8, 8)),
    ((9, 9), (16, 16), None),
    ((6, 50, 50), (8, 24, 24), None),
    ((3, 40, 41), (12, 30, 30), (8, 24, 24)),
]


@pytest.mark.parametrize(("shape", "size", "core"), CASES)
def test_every_sample_holds_a_label_in_its_core(
    shape: tuple[int, ...], size: tuple[int, ...], core: tuple[int, ...] | None
) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    corner, other = (0,) * len(shape), tuple(s - 1 for s in shape)
    labels[corner], labels[other] = 1, 255  # the hardest places
    data = data_of(pair_of(labels), dims=len(shape))
    seen: set[int] = set()
    for _ in range(100):
        image, target = data.crop_patch(*data.sample_anchor(rng), size, rng, core)
        assert image.shape == (1, *size)
        assert image.dtype == np.float32
        assert target.shape == size
        assert target.dtype == np.uint8
        assert np.isfinite(image).all()
        inner = target
        if core:
            inner = target[
                tuple(
                    slice((s - c) // 2, (s - c) // 2 + c) for s, c in zip(size, core, strict=True)
                )
            ]
        found = set(np.unique(inner)) - {IGNORE_INDEX}
        assert found
        seen |= found
    assert seen == {0, 1}


def test_the_core_stays_inside_a_large_enough_image() -> None:
    labels = np.full((100, 120), 255, np.uint8)
    labels[:50] = 1
    data = data_of(pair_of(labels), share=0.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, target = data.crop_patch(*data.sample_anchor(rng), (60, 60), rng, (32, 32))
        assert (target[14:46, 14:46] != IGNORE_INDEX).all()


def test_images_and_targets_of_a_sample_belong_together() -> None:
    """An image that shows its labels: each voxel of a sample agrees, beyond the border too."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (50, 60)).astype(np.uint8)
    data = data_of(full_pair(truth.astype(np.float32), truth, "YX"), share=0.0)
    low, high = data.normalization.low[0], data.normalization.high[0]
    for _ in range(30):
        image, target = data.crop_patch(*data.sample_anchor(rng), (70, 40), rng)
        shown = (image[0] * (high - low) + low).round()
        known = target != IGNORE_INDEX
        np.testing.assert_array_equal(shown[known], target[known])
        assert set(np.unique(shown)) <= {0, 1, 2}  # mirrored beyond the border


def test_classes_are_drawn_alike_however_little_was_painted() -> None:
    labels = np.full((200, 200), 255, np.uint8)
    labels[100, 100:104] = 1
    data = data_of(pair_of(labels))
    rng = np.random.default_rng(0)
    hits = [
        bool((data.crop_patch(*data.sample_anchor(rng), (16, 16), rng)[1] == 1).any())
        for _ in range(200)
    ]
    assert 0.4 < np.mean(hits) < 0.7


@pytest.mark.parametrize("piece", [7, 1000, 10**6])
def test_places_are_found_a_piece_at_a_time(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_unetseg.data.validation_split.PIECE", piece)
    monkeypatch.setattr("napari_unetseg.data.validation_split.MOST_ANCHORS", 500)
    labels = np.random.default_rng(0).choice([0, 1, 255, 4], (50, 60)).astype(np.uint8)
    labels[3, :5] = 9
    data = data_of(pair_of(labels), share=0.0)
    plane = data.planes[0]
    for number, value in enumerate([255, 1, 4, 9]):
        assert plane.counts[number] == (labels == value).sum()
        places = plane.anchors[number]
        assert len(set(places.tolist())) == len(places) == min(500, plane.counts[number])
        assert (labels.ravel()[places] == value).all()
        if value != 9:
            assert np.ptp(places) > 2500  # from everywhere


def test_nothing_of_a_validation_block_is_drawn() -> None:
    data = data_of(painted_pair((160, 160), 30))
    plane = data.planes[0]
    assert data.validated
    assert (plane.train[plane.validate != IGNORE_INDEX] == IGNORE_INDEX).all()
    for number, places in plane.anchors.items():
        assert (plane.train.ravel()[places] == number).all()


def lazily(kind: str, array: np.ndarray) -> Any:
    if kind == "dask":
        return da.from_array(array, chunks=512)
    if kind == "zarr":
        stored = zarr.create_array(
            zarr.storage.MemoryStore(), shape=array.shape, dtype=array.dtype, chunks=(512, 512)
        )
        stored[:] = array
        return stored
    return array


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_one_voxel_of_each_class_in_a_large_lazy_image(kind: str) -> None:
    size = 4096 if kind == "zarr" else 1500
    labels = np.zeros((size, size), np.uint8)
    labels[5, size - 1], labels[size // 2, 7] = 3, 255
    image = np.zeros((size, size), np.uint8)
    image[::3] = 200
    data = data_of(
        AnnotatedImage(Stack(lazily(kind, image), "YX"), lazily(kind, labels), "strokes")
    )
    assert data.classes.numbers == (0, 3)
    assert not data.validated
    rng = np.random.default_rng(0)
    drawn = {
        int(v)
        for _ in range(20)
        for v in np.unique(data.crop_patch(*data.sample_anchor(rng), (64, 64), rng)[1])
    }
    assert drawn == {0, 1, IGNORE_INDEX}


def test_stacks_are_read_a_plane_at_a_time_and_only_where_labelled() -> None:
    labels = np.zeros((30, 40, 50), np.uint8)
    labels[7, 5], labels[9, 20] = 1, 255
    watched = Watched(np.zeros(labels.shape, np.uint8), most=40 * 50)
    data = data_of(AnnotatedImage(Stack(watched, "ZYX"), Watched(labels, most=40 * 50), "strokes"))
    assert [p.index for p in data.planes] == [(7,), (9,)]
    rng = np.random.default_rng(0)
    for _ in range(10):
        data.crop_patch(*data.sample_anchor(rng), (16, 16), rng)


def test_memory_for_images_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_unetseg.data.dataset.CACHE_BYTES", 3 * 4 * 32 * 32)
    labels = np.ones((6, 32, 32), np.uint8)
    labels[:, 16:] = 255
    data = data_of(pair_of(labels), share=0.0)
    for plane in [*data.planes, *data.planes]:
        image = data.read(plane, (slice(0, 32), slice(0, 32)))
        whole = data.normalization.apply(plane.stack.read(plane.index, plane.stack.whole(2)))
        np.testing.assert_array_equal(image, whole)
    assert data._cache.nbytes <= 3 * 4 * 32 * 32


# -- what the labels mean ------------------------------------------------------------------------


def test_corrections_win_over_labels() -> None:
    truth = np.zeros((60, 60), np.uint8)
    truth[20:40, 20:40] = 1
    fixed = np.zeros_like(truth)
    fixed[20, 20], fixed[0, 0], fixed[5, 5] = 255, 1, 255
    data = data_of(pair_of(truth, LabelKind.FULL, corrections=fixed), share=0.0)
    expected = truth.copy()
    expected[20, 20], expected[0, 0] = 0, 1
    np.testing.assert_array_equal(data.planes[0].train, expected)


def test_corrections_alone_are_enough() -> None:
    nothing = np.zeros((60, 60), np.uint8)
    fixed = nothing.copy()
    fixed[10, :], fixed[30, :] = 4, 255
    data = data_of(pair_of(nothing, corrections=fixed))
    assert data.classes.numbers == (0, 4)
    assert data.train_voxels == 120


def test_instances_with_an_ignored_number() -> None:
    objects = np.zeros((60, 60), np.uint16)
    objects[:10], objects[20:30], objects[40:50] = 1000, 7, 40000
    data = data_of(pair_of(objects, LabelKind.INSTANCES, ignore=7), share=0.0)
    assert data.classes.numbers == (0, 1)
    assert (data.planes[0].train[20:30] == IGNORE_INDEX).all()
    assert (data.planes[0].train[40:50] == 1).all()


def test_binary_masks_of_both_conventions_go_together() -> None:
    ones = np.zeros((40, 40), np.uint8)
    ones[:20] = 1
    data = data_of(*(pair_of(m, LabelKind.FULL) for m in (ones, ones * 255)), share=0.0)
    assert data.classes.numbers == (0, 1)
    assert (data.planes[1].train[:20] == 1).all()


@pytest.mark.parametrize("order", [1, -1])
def test_255_in_one_mask_beside_others_in_another_is_refused(order: int) -> None:
    one = np.zeros((40, 40), np.uint8)
    one[:20] = 255
    two = np.zeros((40, 40), np.uint8)
    two[:10], two[10:20] = 1, 2
    with pytest.raises(UserError, match="255 beside 2"):
        data_of(*[pair_of(m, LabelKind.FULL) for m in (one, two)][::order])
    data = data_of(*(pair_of(m, LabelKind.FULL, ignore=255) for m in (one, two)), share=0.0)
    assert data.classes.numbers == (0, 1, 2)


def halves(first: int, second: int, shape: tuple[int, ...] = (40, 40)) -> np.ndarray:
    labels = np.full(shape, first, np.uint8)
    labels[..., ::2, :] = second
    return labels


BAD: list[tuple[str, Callable[[], list[AnnotatedImage]], str]] = [
    ("no image", list, "no image with labels"),
    ("nothing", lambda: [pair_of(np.zeros((40, 40), np.uint8))], "Nothing is labelled yet"),
    ("only one", lambda: [pair_of(halves(0, 1))], "Only structure 1 is labelled.*brush 255"),
    ("only background", lambda: [pair_of(halves(0, 255))], "Only background.*a structure"),
    ("full, empty", lambda: [pair_of(halves(0, 0), LabelKind.FULL)], "Only background"),
    ("full, filled", lambda: [pair_of(halves(3, 3), LabelKind.FULL)], "Only structure 3"),
    ("halves", lambda: [pair_of(halves(0, 1) * np.float32(0.5))], "0.5, which are not whole"),
    ("negative", lambda: [pair_of(halves(0, 1).astype(int) - 1)], "negative value -1"),
    ("too large", lambda: [pair_of(halves(0, 1) * np.uint16(999))], "999.*1 to 254"),
    (
        "too large, full",
        lambda: [pair_of(halves(7, 1) * np.uint16(99), LabelKind.FULL)],
        "693.*instances",
    ),
    (
        "channels",
        lambda: [
            pair_of(halves(1, 255)),
            AnnotatedImage(
                Stack(np.zeros((40, 40, 3), np.uint8), "YXS", name="rgb"), halves(1, 255), "strokes"
            ),
        ],
        r"image has 1 channel\(s\) and rgb has 3",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_cannot_be_trained_on_is_one_sentence(
    make: Callable[[], list[AnnotatedImage]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        data_of(*make())
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_a_flat_image_cannot_be_a_volume() -> None:
    with pytest.raises(UserError, match="no Z axis"):
        data_of(pair_of(halves(1, 255)), dims=3)


def test_classes_of_a_model_to_go_on_from() -> None:
    labels = halves(2, 255)
    classes = Classes((Structure(2, "nucleus"),))
    assert data_of(pair_of(labels), classes=classes).classes == classes
    named = data_of(pair_of(labels), classes=classes, structures=[Structure(2, "nuclei")]).classes
    assert named.names == ("background", "nuclei")
    with pytest.raises(TrainingError, match="hold 2, but this training started with background, 1"):
        data_of(pair_of(labels), classes=Classes((Structure(1),)))
    with pytest.raises(TrainingError, match="nothing is labelled as 3"):
        data_of(pair_of(labels), classes=Classes((Structure(2), Structure(3))))


def test_images_of_another_bit_depth_are_scaled_as_in_prediction() -> None:
    image, truth = blobs((64, 64), 8)
    eight = (image.clip(0, 1) * 255).astype(np.uint8)
    first = data_of(AnnotatedImage(Stack(eight, "YX"), strokes(truth), "strokes"))
    later = data_of(
        AnnotatedImage(Stack(eight.astype(np.uint16) * 257, "YX"), strokes(truth), "strokes"),
        normalization=first.normalization,
    )
    region = (slice(0, 64), slice(0, 64))
    one, two = (d.read(d.planes[0], region) for d in (first, later))
    np.testing.assert_allclose(one, two, atol=0.01)
    assert later.normalization == first.normalization


def test_renewed_takes_newer_strokes_and_keeps_classes_and_range() -> None:
    image, truth = blobs((96, 96), 12)
    data = data_of(AnnotatedImage(Stack(image, "YX"), strokes(truth, 24), "strokes"))
    newer = data.with_annotations(
        [AnnotatedImage(Stack(image, "YX"), strokes(truth, 8), "strokes")]
    )
    assert newer.train_voxels > data.train_voxels
    assert newer.classes == data.classes
    assert newer.normalization is data.normalization
