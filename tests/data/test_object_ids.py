"""Objects from maps and at necks: what is found, and that pieces give the same as the whole."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from napari_unetseg.core.object_maps import FULL_SCALE, encode_maps
from napari_unetseg.core.settings import ObjectSettings
from napari_unetseg.data.object_forest import Hills, numbers, united
from napari_unetseg.data.object_heights import heights_of, usual_radius
from napari_unetseg.data.object_ids import find_objects

SETTINGS = ObjectSettings()


def balls(shape: tuple[int, ...], step: int, spacing: tuple[float, ...]) -> np.ndarray:
    """Touching balls on a grid, each with a number."""
    sizes = [max(2, round(step / s)) for s in spacing]
    grid = np.indices(shape)
    centre = [
        np.minimum(g // n * n + n // 2, shape[i] - 1)
        for i, (g, n) in enumerate(zip(grid, sizes, strict=True))
    ]
    far = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True))
    number = np.ravel_multi_index(
        [g // n for g, n in zip(grid, sizes, strict=True)],
        [-(-k // n) for k, n in zip(shape, sizes, strict=True)],
    )
    return np.where(np.asarray(far) < (0.55 * step) ** 2, number + 1, 0)


def maps_of(ids: np.ndarray, spacing: tuple[float, ...], noise: float = 0.0) -> np.ndarray:
    maps = encode_maps(ids, spacing, background=True).astype(np.float32) / FULL_SCALE
    rng = np.random.default_rng(0)
    return np.asarray(np.clip(maps + rng.normal(0, noise, maps.shape), 0, 1), np.float32)


def same_up_to_numbers(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((90, 120), (1.0, 1.0)), ((90, 120), (0.5, 0.5)), ((16, 72, 72), (3.0, 1.0, 1.0))],
)
def test_touching_objects_of_true_maps_are_found(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    truth = balls(shape, round(24 * spacing[-1]), spacing)
    mask = (truth > 0).astype(np.uint8)
    found = find_objects(mask, maps_of(truth, spacing, 0.05), [1], SETTINGS, spacing)
    assert ((found > 0) == (mask > 0)).all()
    inside = distance_transform_edt(truth > 0) > 2
    whole = np.bincount(truth.ravel())
    for number in np.flatnonzero(whole > 0.5 * whole[1:].max())[1:]:
        _, counts = np.unique(found[(truth == number) & inside], return_counts=True)
        assert counts.max() > 0.9 * counts.sum(), number
    assert len(np.unique(found)) == len(np.unique(truth))


def test_two_disks_with_a_neck_are_split_there_and_one_disk_is_not() -> None:
    y, x = np.mgrid[:60, :120]
    two = (((y - 30) ** 2 + (x - 30) ** 2 < 400) | ((y - 30) ** 2 + (x - 66) ** 2 < 400)).astype(
        np.uint8
    )
    found = find_objects(two, None, [1], None, (1, 1))
    assert found.max() == 2
    assert found[30, 30] != found[30, 66]
    assert abs(int((found == found[30, 30]).sum()) - int((found == found[30, 66]).sum())) < 40
    one = ((y - 30) ** 2 + (x - 50) ** 2 < 400).astype(np.uint8)
    one[28:31, 48:51] = 0  # a hole in the middle is no border
    assert find_objects(one, None, [1], None, (1, 1)).max() == 1


def test_structures_that_touch_are_never_one_object_and_areas_have_no_number() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 5:20], mask[10:30, 20:40], mask[10:30, 40:55] = 1, 3, 2
    for maps in (None, np.full((2, 40, 60), 0.5, np.float32)):
        found = find_objects(mask, maps, [1, 2, 3], SETTINGS, (1, 1))
        assert len({int(found[20, x]) for x in (10, 30, 50)}) == 3
        found = find_objects(mask, maps, [1, 3], SETTINGS, (1, 1))
        assert not found[mask == 2].any()
        assert found[20, 10] != found[20, 30]


def test_small_objects_are_left_out() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:25, 5:25], mask[30:33, 40:43] = 1, 1
    assert find_objects(mask, None, [1], ObjectSettings(smallest=9), (1, 1)).max() == 2
    assert find_objects(mask, None, [1], ObjectSettings(smallest=10), (1, 1)).max() == 1


def test_a_hill_is_an_object_from_the_prominence_on() -> None:
    mask = np.ones((1, 21), np.uint8)
    maps = np.zeros((2, 1, 21), np.float32)
    maps[1] = np.interp(np.arange(21), [0, 5, 10, 15, 20], [0, 1, 0.7, 0.8, 0])
    for prominence, count in ((0.05, 2), (0.2, 1)):
        settings = ObjectSettings(prominence=prominence, smoothing=0)
        assert find_objects(mask, maps, [1], settings, (1, 1)).max() == count


def test_nothing_and_one_voxel() -> None:
    empty = np.zeros((12, 9), np.uint8)
    assert not find_objects(empty, None, [1], None, (1, 1)).any()
    assert not find_objects(empty, np.ones((2, 12, 9), np.float32), [1], SETTINGS, (1, 1)).any()
    empty[4, 4] = 1
    assert find_objects(empty, None, [1], None, (1, 1)).sum() == 1
    assert (find_objects(np.ones((5, 5), np.uint8), None, [1], None, (1, 1)) == 1).all()


def test_uniting_piece_by_piece_gives_what_uniting_all_at_once_gives() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        count = int(rng.integers(2, 40))
        low = rng.permutation(1000)[: 3 * count].astype(np.int64)
        pairs = rng.integers(0, count, (len(low), 2))
        pairs, low = pairs[pairs[:, 0] != pairs[:, 1]], low[pairs[:, 0] != pairs[:, 1]]
        peaks = np.zeros(count, np.int64)
        for side in pairs.T:
            np.maximum.at(peaks, side, low)
        peaks += rng.integers(0, 400, count)
        peaks = (peaks << 52) | np.arange(count)
        cut = rng.random(count) < 0.5
        key = (low << 52) | 7
        hills = Hills(peaks, np.ones(count, np.int64), cut, pairs, key, key)
        first, some = united(hills, 200)
        then, _ = united(Hills.joined([some], np.zeros((0, 2), np.int64), key[:0], key[:0]), 200)
        at_once, all_ = united(Hills(peaks, hills.sizes, cut & False, pairs, key, key), 200)
        assert same_up_to_numbers(then[first], at_once)
        kruskal = flooded(peaks, pairs, key, 200)
        assert same_up_to_numbers(at_once, kruskal)
        assert numbers(all_, 2).max() <= numbers(all_, 1).max() == len(all_.peaks)


def flooded(peaks: np.ndarray, pairs: np.ndarray, low: np.ndarray, prominence: int) -> np.ndarray:
    """Hills united saddle by saddle, from the highest down."""
    group = np.arange(len(peaks))
    highest = peaks >> 52
    for at in np.argsort(low)[::-1]:
        one, other = group[pairs[at]]
        lower = min(highest[group == one].max(), highest[group == other].max())
        if one != other and lower - (low[at] >> 52) < prominence:
            group[group == one] = other
    return group


@pytest.mark.parametrize("with_maps", [True, False])
@pytest.mark.parametrize("shape", [(70, 64), (20, 34, 30)])
def test_heights_of_a_piece_are_those_of_the_whole(shape: tuple[int, ...], with_maps: bool) -> None:
    spacing = (2.0, 1.0, 1.0)[-len(shape) :]
    rng = np.random.default_rng(1)
    mask = (balls(shape, 14, spacing) > 0).astype(np.uint8)
    mask[tuple(rng.integers(0, n, 40) for n in shape)] ^= 1
    maps = rng.integers(0, 255, (2, *shape)).astype(np.uint8)
    how = heights_of(ObjectSettings(radius=4), [1], spacing, maps=with_maps, mask=mask)
    assert how.maps == with_maps
    whole = how.of(mask, maps)
    for start in product(*(range(0, n, 16) for n in shape)):
        core = tuple(slice(s, min(s + 16, n)) for s, n in zip(start, shape, strict=True))
        wide = tuple(
            slice(max(0, c.start - h), min(n, c.stop + h))
            for c, h, n in zip(core, how.halo, shape, strict=True)
        )
        inner = tuple(
            slice(c.start - w.start, c.stop - w.start) for c, w in zip(core, wide, strict=True)
        )
        np.testing.assert_array_equal(
            how.of(mask[wide], maps[(slice(None), *wide)])[inner], whole[core]
        )


def test_the_usual_radius_is_that_of_the_objects_wherever_they_are() -> None:
    mask = np.zeros((2, 1500, 1500), np.uint8)
    assert usual_radius(mask, [1], (1.0, 1.0)) == 8
    y, x = np.mgrid[:1500, :1500]
    for cy, cx in ((620, 630), (700, 640), (900, 901)):
        mask[1][(y - cy) ** 2 + (x - cx) ** 2 < 20**2] = 1
    assert 10 < usual_radius(mask, [1], (1.0, 1.0)) < 20
    assert 5 < usual_radius(mask, [1], (0.5, 0.5)) < 10
