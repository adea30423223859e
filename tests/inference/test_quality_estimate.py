"""Drawing of places and estimation of Dice from them, on populations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.inference.quality_estimate import (
    Candidate,
    QualityEstimate,
    draw_places,
    estimate,
    overlap_counts,
)

IMAGES, PLANES, PIECES = 6, 2, 16
CELLS = IMAGES * PLANES * PIECES


def population(seed: int) -> np.ndarray:
    """Voxels in both, in the mask and in the truth of each piece; images differ in quality."""
    rng = np.random.default_rng(seed)
    right = np.repeat(rng.beta(8, 1.5, IMAGES), PLANES * PIECES)
    truth = rng.gamma(1.5, 400, CELLS) * (rng.uniform(size=CELLS) < 0.7)
    both = truth * np.clip(right + rng.normal(0, 0.05, CELLS), 0, 1)
    mask = both + rng.gamma(0.5, 60, CELLS)
    return np.round([both, mask, truth]).T


def candidates(counts: np.ndarray) -> list[Candidate]:
    return [
        Candidate(
            n // (PLANES * PIECES),
            (n // PIECES % PLANES,),
            (slice(n, n + 1), slice(0, 1)),
            4096,
            {1: int(mask)},
        )
        for n, mask in enumerate(counts[:, 1])
    ]


def dice(counts: np.ndarray) -> float:
    both, mask, truth = counts.sum(0)
    return float(2 * both / (mask + truth))


def check(
    counts: np.ndarray, seed: int, *, places: int = 10, weigh: bool = True
) -> QualityEstimate:
    drawn = draw_places(candidates(counts), places, seed)
    weights = np.array([place.weight for place in drawn])
    rows = counts[[place.candidate.region[0].start for place in drawn]]
    return estimate(rows, weights if weigh else np.ones(len(weights)))


@pytest.mark.parametrize("places", [3, 5, 10, 40])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(places: int) -> None:
    populations = [population(seed) for seed in range(20)]
    found = [(dice(p), check(p, s, places=places)) for p in populations for s in range(15)]
    held = np.mean([one.low <= true <= one.high for true, one in found])
    assert 0.85 < held < 0.99
    widths = [one.high - one.low for _, one in found]
    assert np.mean(widths) < {3: 0.6, 5: 0.4, 10: 0.2, 40: 0.1}[places]


def test_without_the_weights_the_estimate_is_biased_where_errors_are_in_empty_pieces() -> None:
    counts = population(0)
    missed = counts[:, 1] < np.median(counts[:, 1])
    counts[missed] = [0, 0, 300]  # structures that the network does not see
    true = dice(counts)
    weighed, plain = (
        np.mean([check(counts, seed, weigh=weigh).dice for seed in range(200)])
        for weigh in (True, False)
    )
    assert abs(weighed - true) < 0.03
    assert plain - true > 0.05


def test_a_seed_gives_the_same_places_and_another_one_others() -> None:
    known = candidates(population(1))
    assert draw_places(known, 10, 3) == draw_places(known, 10, 3)
    assert draw_places(known, 10, 3) != draw_places(known, 10, 4)


def test_weights_add_up_to_the_number_of_pieces_on_average() -> None:
    known = candidates(population(2))
    sums = [sum(place.weight for place in draw_places(known, 10, seed)) for seed in range(500)]
    assert np.mean(sums) == pytest.approx(CELLS, rel=0.05)


def test_places_are_spread_over_images() -> None:
    counts = np.tile([90.0, 100.0, 100.0], (CELLS, 1))
    images = [{p.candidate.image for p in draw_places(candidates(counts), 6, s)} for s in range(9)]
    assert all(len(found) == IMAGES for found in images)


def test_a_rare_structure_is_met() -> None:
    known = [
        Candidate(0, (), (slice(n, n + 1), slice(0, 1)), 100, {1: 50, 2: 40 * (n == 7)})
        for n in range(400)
    ]
    for seed in range(50):
        assert any(p.candidate.foreground[2] for p in draw_places(known, 10, seed))


def test_what_is_labelled_altogether_is_not_drawn_and_few_pieces_are_all_drawn_once() -> None:
    known = [Candidate(0, (), (slice(n, n + 1), slice(0, 1)), n % 2) for n in range(12)]
    places = draw_places(known, 10, 0)
    assert sorted(p.candidate.region[0].start for p in places) == [1, 3, 5, 7, 9, 11]
    assert {p.weight for p in places} == {1.0}
    assert draw_places([], 10, 0) == []


def test_overlap_counts_leave_out_what_was_labelled_before() -> None:
    truth = np.array([[1, 1, 0, BACKGROUND_LABEL], [2, BACKGROUND_LABEL, 0, 1]], np.uint8)
    mask = np.array([[1, 0, 1, 1], [2, 0, 1, 2]], np.uint8)
    assert overlap_counts(truth, mask, (1, 2, 3)) == {1: (1, 2, 3), 2: (1, 2, 1), 3: (0, 0, 0)}


def test_no_place_says_nothing_one_place_says_little_and_no_mistake_is_not_certainty() -> None:
    row = np.array([[90.0, 100.0, 100.0]])
    nothing = estimate(0 * row, np.ones(1))
    assert nothing.places == 0
    assert np.isnan(nothing.dice)
    assert (estimate(row, np.ones(1)).low, estimate(row, np.ones(1)).high) == (0.0, 1.0)
    perfect = estimate(np.tile([100.0, 100.0, 100.0], (9, 1)), np.ones(9))
    assert (perfect.dice, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.9)


def test_the_interval_of_the_iou_is_that_of_the_dice() -> None:
    iou, low, high = QualityEstimate(0.8, 0.5, 0.9, 10).iou
    assert (iou, low, high) == pytest.approx((2 / 3, 1 / 3, 9 / 11))
