"""Strokes, corrections, accepted regions: kept apart, the newest wins; an undo is the newest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
)
from napari_unetseg.annotations.sparse_array import CHUNK, Region, SparseArray, whole
from napari_unetseg.core.labels import LabelKind

SHAPE = (3, 300, 520)
STROKES, CORRECTIONS, ACCEPTED = LabelSource.STROKES, LabelSource.CORRECTIONS, LabelSource.ACCEPTED


def at(z: int, y: tuple[int, int], x: tuple[int, int]) -> Region:
    return slice(z, z + 1), slice(*y), slice(*x)


def say(
    truth: ImageAnnotations, origin: LabelSource, region: Region, value: int
) -> AnnotationChange | None:
    shape = [s.stop - s.start for s in region]
    return truth.record(origin, region, np.full(shape, value, np.uint8))


def winning_of(truth: ImageAnnotations) -> np.ndarray:
    return truth.effective_overrides(whole(SHAPE))


@st.composite
def regions(draw: st.DrawFn) -> Region:
    spans = []
    for size in SHAPE:
        a, b = sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size))))
        spans.append(slice(min(a, size - 1), max(b, min(a, size - 1) + 1)))
    return tuple(spans)


@given(st.lists(st.tuples(regions(), st.integers(0, 255)), max_size=8))
def test_a_sparse_grid_reads_what_a_dense_one_would(writes: list[tuple[Region, int]]) -> None:
    sparse, dense = SparseArray(SHAPE), np.zeros(SHAPE, np.uint8)
    for region, value in writes:
        dense[region] = value
        sparse.write(region, dense[region])
    for region, _ in writes:
        np.testing.assert_array_equal(sparse.read(region), dense[region])
    np.testing.assert_array_equal(sparse.read(whole(SHAPE)), dense)
    assert list(sparse.differing(dense)) == []
    assert sparse.planes() == {(z,) for z in range(3) if dense[z].any()}
    assert all(sparse.chunk(cell).any() for cell in sparse.cells())


WAYS = ("write", "adopt_chunk", "set_lazy", "view", "flush")


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(WAYS), min_size=1, max_size=20))
def test_parts_that_are_given_or_put_off_are_as_if_written(seed: int, ways: list[str]) -> None:
    """What was given or marked with stays as it was, whatever is written there later."""
    rng = np.random.default_rng(seed)
    sparse, dense = SparseArray(SHAPE, np.uint32), np.zeros(SHAPE, np.uint32)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for way in ways:
        chunk, some = at(1, (0, CHUNK), (0, CHUNK)), at(1, (3, 90), (40, 200))
        region = [chunk, some, at(1, (CHUNK, 300), (512, 520))][int(rng.integers(3))]
        shape, value = dense[region].shape, np.uint32(rng.integers(1, 9))
        if way == "set_lazy":
            where = rng.random(shape) < rng.choice([0.1, 1.0])
            sparse.set_lazy(region, where, value)
            dense[region][where] = value
            held.append((where, where.copy()))
        elif way in ("write", "adopt_chunk"):
            choices = [rng.integers(0, 3, shape), np.zeros(shape), np.full(shape, value)]
            values = choices[int(rng.integers(3))].astype(np.uint32)
            dense[region] = values
            getattr(sparse, way)(region, values)
            held.append((values, values.copy()))
        elif way == "flush":
            sparse.flush(2)
        else:
            np.testing.assert_array_equal(sparse.view(region), dense[region])
        assert sparse.planes() == {(z,) for z in range(3) if dense[z].any()}
    assert all(np.array_equal(now, then) for now, then in held)
    np.testing.assert_array_equal(sparse.read(whole(SHAPE)), dense)


def test_fills_in_memory_made_ready_are_taken_down_like_any() -> None:
    """What was said stays as it was said when the next fill comes into the same kind of memory."""
    shape = (2, 600, 600)
    truth, dense, times = (
        ImageAnnotations(shape),
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.uint32),
    )
    around = np.hypot(*np.ogrid[-32:568, -32:568]) % 90 > 30
    said: list[tuple[AnnotationChange, np.ndarray]] = []
    for number in range(1, 7):
        region = (slice(number % 2, number % 2 + 1), *whole(shape[1:]))
        layer = dense[region].copy()
        layer[0][around if number % 3 else ~around] = number
        change = truth.record(STROKES, region, layer)
        assert change is not None
        said.append((change, change.values.copy()))
        times[region][layer != dense[region]] = change.stamp
        dense[region] = layer
        layer[:] = 99  # the layer is painted on; what was taken down is not its memory
        while not truth.flush(3):
            pass
        np.testing.assert_array_equal(truth.read(STROKES, whole(shape)), dense)
        np.testing.assert_array_equal(truth.times(STROKES, whole(shape)), times)
    assert all(np.array_equal(change.values, then) for change, then in said)


def test_differing_chunks_are_found_and_no_others() -> None:
    grid, dense = SparseArray(SHAPE), np.zeros(SHAPE, np.uint8)
    dense[1, 270, 515] = 3
    assert list(grid.differing(dense)) == [at(1, (CHUNK, 300), (2 * CHUNK, 520))]


def test_the_newest_wins_voxel_by_voxel() -> None:
    truth = ImageAnnotations(SHAPE)
    place = at(0, (0, 10), (0, 10))
    say(truth, STROKES, place, 1)
    say(truth, CORRECTIONS, at(0, (0, 10), (0, 8)), 2)
    say(truth, ACCEPTED, at(0, (0, 10), (0, 6)), 255)
    say(truth, STROKES, at(0, (0, 10), (0, 4)), 3)
    say(truth, CORRECTIONS, at(0, (0, 10), (0, 2)), 4)
    assert truth.effective_overrides(place)[0, 0].tolist() == [4, 4, 0, 0, 255, 255, 2, 2, 0, 0]
    assert truth.overrides(place)[0, 0].tolist() == [4, 4, 255, 255, 255, 255, 2, 2, 0, 0]


def test_an_erased_stroke_says_nothing_but_an_erased_mask_says_background() -> None:
    for kind, wins in ((LabelKind.STROKES, 2), (LabelKind.FULL, 0)):
        truth, place = ImageAnnotations(SHAPE, kind=kind), at(0, (0, 1), (0, 1))
        say(truth, STROKES, place, 1)
        say(truth, CORRECTIONS, place, 2)
        say(truth, STROKES, place, 0)
        assert truth.effective_overrides(place).item() == wins


def test_an_undo_is_the_newest() -> None:
    truth, place, wide = (
        ImageAnnotations(SHAPE),
        at(2, (5, 9), (250, 260)),
        at(2, (5, 9), (250, 300)),
    )
    say(truth, STROKES, place, 1)
    say(truth, CORRECTIONS, wide, 2)
    say(truth, STROKES, wide, 3)
    undone = np.zeros((1, 4, 50), np.uint8)
    undone[..., :10] = 1
    change = truth.record(STROKES, wide, undone)
    assert change is not None
    assert (truth.times(STROKES, wide) == change.stamp).all()
    assert not truth.effective_overrides(place).any(), (
        "the stroke that came back is newer than the correction"
    )
    assert (truth.effective_overrides(at(2, (5, 9), (260, 300))) == 2).all(), (
        "no stroke is left there"
    )


def test_strokes_of_another_type_of_numbers_keep_their_times() -> None:
    truth, place = ImageAnnotations(SHAPE), at(2, (5, 9), (250, 260))
    say(truth, STROKES, place, 1)
    say(truth, CORRECTIONS, at(2, (5, 9), (250, 255)), 2)
    say(truth, CORRECTIONS, place, 2)
    say(truth, STROKES, at(2, (5, 6), (250, 260)), 3)
    before, times = truth.effective_overrides(place), truth.times(STROKES, place)
    truth.retype(np.int32)
    assert truth.grid_dtype == "int32"
    np.testing.assert_array_equal(truth.times(STROKES, place), times)
    np.testing.assert_array_equal(truth.effective_overrides(place), before)


def test_strokes_of_an_adopted_layer_are_older_than_all_else() -> None:
    truth, layer = ImageAnnotations(SHAPE), np.zeros(SHAPE, np.int32)
    say(truth, CORRECTIONS, at(0, (0, 2), (0, 2)), 2)
    layer[0, :4, :4] = 700
    changes = list(truth.adopt(layer, LabelKind.INSTANCES))
    assert [c.stamp for c in changes] == [0]
    assert truth.read(STROKES, at(0, (0, 1), (0, 1))).item() == 700
    assert truth.effective_overrides(at(0, (0, 1), (0, 1))).item() == 2


@pytest.mark.parametrize("seed", range(20))
def test_changes_replayed_and_undone_give_the_same_truth(seed: int) -> None:
    """Strokes and fills, of all of a plane or around objects; an undo is the newest."""
    rng = np.random.default_rng(seed)
    one, other = ImageAnnotations(SHAPE), ImageAnnotations(SHAPE)
    data = {o: np.zeros(SHAPE, np.uint8) for o in (STROKES, CORRECTIONS, ACCEPTED)}
    times = {o: np.zeros(SHAPE, np.uint32) for o in data}
    past: list[tuple[LabelSource, Region, np.ndarray]] = []
    for _ in range(40):
        if past and rng.random() < 0.3:
            origin, region, before = past.pop()
            where = data[origin][region] != before
            data[origin][region] = before
            change = one.record(origin, whole(SHAPE), data[origin])
        else:
            origin = list(data)[rng.integers(3)]
            region = _somewhere(rng)
            values = data[origin][region]
            past.append((origin, region, values.copy()))
            where = rng.random(values.shape) < rng.choice([0.02, 0.5, 1.0])
            where &= values != (number := rng.integers(0, 4))
            values[where] = number
            change = one.record(origin, region, values)
        times[origin][region][where] = one.stamp
        if change is not None:
            other.put(change)
    everything = whole(SHAPE)
    for origin, array in data.items():
        np.testing.assert_array_equal(one.read(origin, everything), array)
        np.testing.assert_array_equal(other.read(origin, everything), array)
        np.testing.assert_array_equal(one.times(origin, everything), times[origin])
        np.testing.assert_array_equal(other.times(origin, everything), times[origin])
    np.testing.assert_array_equal(
        one.effective_overrides(everything), other.effective_overrides(everything)
    )
    assert one.stamp == other.stamp


def _somewhere(rng: np.random.Generator) -> Region:
    """A small place, or a large one of a plane."""
    if rng.random() < 0.5:
        y, x, z = rng.integers(0, 290), rng.integers(0, 500), rng.integers(3)
        return at(z, (y, y + 10), (x, x + 20))
    y, x, z = rng.integers(0, 50), rng.integers(0, 50), rng.integers(3)
    return at(z, (y, 300 - y), (x, 520 - x))


@given(
    st.lists(
        st.tuples(st.sampled_from(LabelSource), regions(), st.integers(0, 2)),
        min_size=2,
        max_size=6,
    ),
    st.sets(st.integers(1, 5)),
)
def test_snapshots_hold_what_was_said_then_and_share_what_wins(
    words: list[tuple[LabelSource, Region, int]], taken: set[int]
) -> None:
    truth, then = ImageAnnotations(SHAPE), list[tuple[ImageAnnotations, np.ndarray]]()
    before = None
    for number, word in enumerate(words):
        say(truth, *word)
        if number in taken:
            snapshot = truth.snapshot()
            corrections = snapshot.corrections(before)
            then.append((snapshot, winning_of(truth)))
            known = np.zeros(SHAPE) if corrections is None else np.asarray(corrections)
            np.testing.assert_array_equal(known, then[-1][1])
            before = snapshot, corrections
    for snapshot, wanted in then:
        np.testing.assert_array_equal(winning_of(snapshot), wanted)


def test_what_wins_is_computed_again_only_where_something_was_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, computed = ImageAnnotations(SHAPE), list[Region]()
    for plane in range(3):
        say(truth, CORRECTIONS, at(plane, (0, 300), (0, 520)), 2)
    first = truth.snapshot()
    known = first.corrections()
    real = ImageAnnotations.effective_overrides

    def winning(self: ImageAnnotations, region: Region) -> np.ndarray:
        computed.append(region)
        return real(self, region)

    monkeypatch.setattr(ImageAnnotations, "effective_overrides", winning)
    say(truth, STROKES, at(1, (10, 20), (10, 20)), 1)
    say(truth, CORRECTIONS, at(2, (260, 270), (10, 20)), 0)
    truth.disable_strokes()
    truth.enable_strokes()
    now = truth.snapshot().corrections((first, known))
    assert sorted(computed, key=str) == [
        at(1, (0, CHUNK), (0, CHUNK)),
        at(2, (CHUNK, 300), (0, CHUNK)),
    ]
    assert now is not None
    assert (now[1, 15, 15], now[2, 265, 15], now[2, 15, 15]) == (0, 0, 2)
    truth.disable_strokes()
    away = truth.snapshot().corrections((first, known))
    assert away is not None
    assert away[1, 15, 15] == 2
