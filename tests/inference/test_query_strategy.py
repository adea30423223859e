"""Where to look next, on pictures whose uncertain places are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attention_parts import reader
from helpers import Watched, random_model

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference import candidate_windows, query_strategy
from napari_unetseg.inference.predict import predict_probabilities
from napari_unetseg.inference.query_strategy import (
    ALL_DONE,
    QueryImage,
    RegionQuery,
    WindowScored,
)
from napari_unetseg.inference.uncertainty import (
    FLIPS,
    differences,
    likely_wrong,
    margin_uncertainty,
    predictive_entropy,
    uncertainty_map,
)

LONG = 1e9


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power so high that the highest score is drawn."""
    monkeypatch.setattr(query_strategy, "noise", lambda _: 0.0)


def ground(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Sharp squares of the structure all over: borders, but nothing undecided."""
    image = np.zeros(shape, np.float32)
    for y in range(8, shape[-2] - 8, 32):
        for x in range(8, shape[-1] - 8, 32):
            image[..., y : y + 12, x : x + 12] = 1.0
    return image + np.random.default_rng(seed).normal(0, 0.01, shape).astype(np.float32)


def doubt(image: np.ndarray, at: tuple[Any, ...]) -> None:
    """Something that the network cannot decide about: half of it is either class, by a hair."""
    odd = np.indices(image.shape).sum(0) % 2 == 1
    image[at] = np.where(odd, 0.4998, 0.5002)[at]


def survey_of(*subjects: Any, dims: int = 2, **more: Any) -> RegionQuery:
    return RegionQuery(
        [s if isinstance(s, QueryImage) else free(s) for s in subjects], dims, **more
    )


def nothing_labelled(_: tuple[int, ...], region: tuple[slice, ...]) -> np.ndarray:
    return np.zeros([s.stop - s.start for s in region], bool)


def free(image: Any, axes: str = "") -> QueryImage:
    axes = axes or "TZYX"[-image.ndim :]
    return QueryImage(Stack(image, axes), nothing_labelled)


def look(survey: RegionQuery, model: Any, seconds: float = LONG, **more: Any) -> int:
    events = list(survey.score_windows(model, seconds, **more))
    assert all(isinstance(event, WindowScored) for event in events)
    return len(events)


def covers(region: tuple[slice, ...], *at: int) -> bool:
    return all(s.start <= i < s.stop for s, i in zip(region, at, strict=True))


# -- maps --------------------------------------------------------------------------------------


def test_the_margin_is_between_the_two_best_of_all_classes() -> None:
    shares = np.array([[0.5, 1.0, 0.2], [0.5, 0.0, 0.2], [0.0, 0.0, 0.6]], np.float32)
    assert margin_uncertainty(shares) == pytest.approx([1.0, 0.0, 0.6])
    assert margin_uncertainty(shares).dtype == np.float32


def test_thin_doubt_counts_half_of_what_wide_doubt_does() -> None:
    thin, wide = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32)
    thin[::10] = 1.0
    wide[:4] = 1.0
    assert thin.sum() == wide.sum()
    wide[:] = 0
    wide[10:20, 10:26] = 1.0
    assert thin.sum() == wide.sum()
    assert likely_wrong(wide).sum() == pytest.approx(2 * likely_wrong(thin).sum())


def test_networks_differ_only_where_their_masks_do() -> None:
    old = np.array([[0.9, 0.6, 0.49], [0.1, 0.4, 0.51]], np.float32)
    new = np.array([[0.6, 0.1, 0.51], [0.4, 0.9, 0.49]], np.float32)
    assert differences(old, new) == pytest.approx([0.0, 0.5, 0.02], abs=1e-6)


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_the_map_is_1_minus_the_margin_of_the_prediction(axes: str) -> None:
    dims = len(axes)
    image = ground((8, 70, 90)[-dims:])
    doubt(image, (..., slice(40, 60), slice(40, 60)))
    model, stack = reader(dims), Stack(image, axes)
    found = uncertainty_map(model, stack, (), PredictSettings(tile=32))
    shares = predict_probabilities(model, stack)
    assert found == pytest.approx(1 - np.abs(shares[1] - shares[0]), abs=1e-5)
    assert found[..., 50, 50].min() > 0.99
    assert found[..., 14, 14].max() < 0.01


def test_entropy_is_in_parts_of_its_maximum() -> None:
    shares = np.array([[1 / 3, 1.0, 0.5], [1 / 3, 0.0, 0.5], [1 / 3, 0.0, 0.0]], np.float32)
    assert predictive_entropy(shares) == pytest.approx([1.0, 0.0, np.log(2) / np.log(3)])
    assert predictive_entropy(shares).dtype == np.float32


@pytest.mark.parametrize("axes", ["YX", "TZYX", "YXS"])
def test_averaged_passes_are_the_mean_over_mirrored_images(axes: str) -> None:
    shape = {"YX": (70, 91), "TZYX": (2, 5, 40, 37), "YXS": (50, 41, 3)}[axes]
    image = np.random.default_rng(0).normal(0.5, 0.3, shape).astype(np.float32)
    dims = 3 if "Z" in axes else 2
    model = random_model(1, depth=2, width=4, dims=dims, in_channels=3 if "S" in axes else 1)
    stack, plane = Stack(image, axes), (1,) * (axes[0] == "T")
    found = uncertainty_map(model, stack, plane, PredictSettings(tile=32), passes=4)
    total = np.zeros((2, *stack.spatial_shape(dims)))
    for turned in FLIPS:
        at = tuple(axes.index("YX"[axis]) for axis in turned)
        shares = predict_probabilities(model, Stack(np.flip(image, at), axes))
        shares = shares[(slice(None), *plane)]
        total += np.flip(shares, turned) / len(FLIPS)
    assert found == pytest.approx(1 - np.abs(total[1] - total[0]), abs=1e-4)
    single = uncertainty_map(model, stack, plane, PredictSettings(tile=32))
    assert np.abs(found - single).max() > 0.01, "this network tells directions apart"


# -- places ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 30), (640, 640), (2048, 700), (9, 300, 300), (40, 40, 40)])
def test_windows_cover_a_plane_once_and_regions_a_window(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    one = candidate_windows.WindowGrid.of(
        Stack(np.broadcast_to(np.uint8(0), shape), "ZYX"[-dims:]), dims
    )
    counts = np.zeros(shape, int)
    for number in range(one.count):
        plane, window = one.place(number)
        counts[window] += 1
        inside = np.zeros([s.stop - s.start for s in window], bool)
        for region in candidate_windows.cells_of(inside.shape, one.region):
            assert not inside[region].any()
            inside[region] = True
        assert inside.all()
        assert plane == ()
    assert (counts == 1).all()
    assert candidate_windows.region_shape(shape)[-1] == min(
        shape[-1], max(64, min(256, min(shape[-2:]) // 4))
    )


# -- suggestions -------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_noise")
def test_a_wholly_doubtful_object_wins_over_many_borders_and_one_noisy_voxel() -> None:
    image = ground((256, 256))
    doubt(image, (slice(150, 170), slice(60, 80)))
    image[20, 200] = 0.5
    survey = survey_of(image)
    look(survey, reader())
    assert covers(survey.suggest().region, 160, 70)


@pytest.mark.usefixtures("no_noise")
def test_planes_time_points_and_images_are_all_looked_at() -> None:
    series, single = ground((3, 4, 128, 128)), ground((128, 160))
    doubt(series, (2, 1, slice(90, 110), slice(20, 40)))
    doubt(single, (slice(20, 50), slice(120, 150)))
    survey = survey_of(series, single)
    assert look(survey, reader()) == 13
    first, second = survey.suggest(), survey.suggest()
    assert (first.image, first.plane) == (1, ())
    assert covers(first.region, 35, 135)
    assert (second.image, second.plane) == (0, (2, 1))
    assert covers(second.region, 100, 30)


@pytest.mark.usefixtures("no_noise")
def test_volumes_have_regions_with_a_depth() -> None:
    volume = ground((2, 40, 128, 128))
    doubt(volume, (1, slice(30, 38), slice(90, 110), slice(20, 40)))
    survey = survey_of(volume, dims=3)
    look(survey, reader(3))
    found = survey.suggest()
    assert found.plane == (1,)
    assert covers(found.region, 34, 100, 30)
    assert [s.stop - s.start for s in found.region] == [20, 64, 64]


def test_no_place_comes_twice_until_all_have_been_shown() -> None:
    survey = survey_of(ground((256, 256)))
    look(survey, reader())
    found = [survey.suggest() for _ in range(32)]
    seen = [[(s.start, s.stop) for s in one.region] for one in found]
    assert len({str(one) for one in seen[:16]}) == 16
    assert sorted(seen[:16]) == sorted(seen[16:])


@pytest.mark.usefixtures("no_noise")
def test_what_is_labelled_is_worth_less_and_all_labelled_is_said() -> None:
    image = ground((128, 128))
    doubt(image, (slice(10, 40), slice(10, 40)))
    doubt(image, (slice(90, 110), slice(90, 110)))
    labels = np.zeros(image.shape, bool)
    subject = QueryImage(Stack(image, "YX"), lambda plane, region: labels[region])
    survey = RegionQuery([subject], 2)
    look(survey, reader())
    labels[5:45:2, :64] = True  # painted after it was looked at
    assert covers(survey.suggest().region, 100, 100)
    labels[:] = True
    with pytest.raises(UserError, match="labelled already") as error:
        survey.suggest()
    assert str(error.value) == ALL_DONE


def test_a_rare_class_is_met_far_more_often_than_at_random() -> None:
    image = np.zeros((256, 256), np.float32)  # 16 regions
    image[::4] = 0.45  # uncertain all over, but background
    image[128:192, 192:] = 0.0
    image[150:166, 220:236] = 1.0
    met = 0
    for seed in range(30):
        survey = survey_of(image, seed=seed)
        look(survey, reader())
        met += any(covers(survey.suggest().region, 158, 228) for _ in range(3))
    assert met > 3 * (30 * 3 / 16), "three times what random places meet"


def test_uncertain_places_are_preferred_the_more_so_the_more_was_annotated() -> None:
    image = ground((256, 256))
    for row in range(4):
        for column, width in enumerate((5, 9, 13, 17)):
            top, left = 64 * row + 21, 64 * column + 21
            doubt(image, (slice(top, top + 18), slice(left, left + width)))

    def chosen(annotated: int) -> int:
        """How often, of 30, the most uncertain quarter of the regions is gone to."""
        count = 0
        for seed in range(30):
            survey = survey_of(image, seed=seed)
            look(survey, reader())
            for _ in range(annotated):
                survey.suggest()
            count += survey.suggest().region[1].start == 192
        return count

    assert 30 / 4 < chosen(0) < chosen(64)


def test_the_same_seed_gives_the_same_places() -> None:
    def places(seed: int) -> list[Any]:
        survey = survey_of(rng.normal(0.5, 0.1, (3, 256, 256)).astype(np.float32), seed=seed)
        look(survey, reader())
        return [survey.suggest() for _ in range(8)]

    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    first = places(0)
    rng.bit_generator.state = state
    assert places(0) == first
    rng.bit_generator.state = state
    assert places(1) != first


@pytest.mark.usefixtures("no_noise")
def test_a_newer_model_sees_the_most_promising_place_again_first() -> None:
    image = ground((5, 64, 64))
    doubt(image, (3, slice(20, 40), slice(20, 40)))
    survey = survey_of(image)
    look(survey, reader())
    newer = reader(threshold=0.3)  # decides what the other one could not
    look(survey, newer, 0.0)
    (again,) = [seen for seen in survey._seen.values() if seen.model == newer.id]
    assert again.plane == (3,)
    look(survey, newer)
    assert {seen.model for seen in survey._seen.values()} == {newer.id}


def test_where_two_models_differ() -> None:
    image = ground((128, 128))
    image[80:100, 80:100] = 0.5
    image[10:30, 10:30] = 0.3  # undecided for the new one, but both call it background
    survey = survey_of(image)
    look(survey, reader(threshold=0.32), before=reader(threshold=0.7))
    found = survey.suggest()
    assert covers(found.region, 90, 90)


# -- time and memory ---------------------------------------------------------------------------


def test_a_huge_stack_takes_no_longer_than_a_small_one() -> None:
    data = np.broadcast_to(ground((1024, 1024)), (50_000, 1024, 1024))
    watched = Watched(data, most=512 * 512)
    survey = survey_of(QueryImage(Stack(watched, "TYX"), nothing_labelled), clock=iter_clock(1.0))
    assert look(survey, reader(), 4.0) <= 4
    assert len(watched.reads) < 40
    first = survey.suggest()
    assert 0 <= first.plane[0] < 50_000


def iter_clock(step: float) -> Any:
    """A clock that goes on by a step whenever it is looked at."""
    now = [0.0]

    def tell() -> float:
        now[0] += step
        return now[0]

    return tell


def test_only_so_many_windows_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_strategy, "MAX_WINDOWS", 8)
    survey = survey_of(ground((40, 64, 64)), clock=iter_clock(1.0))
    look(survey, reader(), 60.0)
    assert len(survey._seen) == 8


def test_at_least_one_window_is_looked_at_and_a_stop_ends_it() -> None:
    survey = survey_of(ground((9, 64, 64)))
    assert look(survey, reader(), 0.0) == 1
    assert survey.ready
    control = JobControl()
    events = survey.score_windows(reader(), LONG, control=control)
    next(events)
    control.stop()
    assert list(events) == []
    survey.suggest()
    assert not survey.ready


def test_all_windows_are_looked_at_before_any_is_again() -> None:
    survey = survey_of(ground((9, 64, 64)))
    assert look(survey, reader()) == 9
    assert look(survey, reader()) == 0


def test_no_image_is_said() -> None:
    with pytest.raises(UserError, match="No open image"):
        RegionQuery([], 2)
