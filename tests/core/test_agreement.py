"""The interval of agreement holds the truth; strokes and classes count alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_unetseg.core.agreement import Agreement, Observations, agreement_of, dice_interval
from napari_unetseg.core.metrics import Scores
from napari_unetseg.core.score_text import score_name, score_text

NUMBERS = (0, 1, 4)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def observed(right: np.ndarray, classes: np.ndarray) -> Observations:
    return Observations(classes, np.full(len(right), 30), right, right)


def agreement(right: np.ndarray, classes: np.ndarray) -> Agreement:
    found = agreement_of(observed(right, classes), NUMBERS)
    assert found is not None
    return found


def all_right_or_wrong(share: float) -> Draw:
    return lambda rng, n: (rng.random(n) < share).astype(float)


def partly_right(a: float, b: float) -> Draw:
    """Of 30 voxels, which are right together: the fraction of a stroke's own is Beta(a, b)."""
    return lambda rng, n: rng.binomial(30, rng.beta(a, b, n)) / 30


def often_right(share: float) -> Draw:
    return lambda rng, n: np.where(rng.random(n) < share, 1.0, rng.random(n) * 0.8)


DRAWS: list[tuple[Draw, float]] = [
    *((all_right_or_wrong(p), p) for p in (0.1, 0.5, 0.8, 0.9, 0.95, 0.98)),
    *((partly_right(a, b), a / (a + b)) for a, b in ((20, 2), (5, 1), (2, 0.1), (1, 1), (0.5, 2))),
    *((often_right(p), p + (1 - p) * 0.4) for p in (0.3, 0.8, 0.95)),
]
COUNTS = [(1, 1), (3,), (2, 2), (10,), (2, 8), (1, 40), (5, 5, 5), (10, 15), (2, 48), (50,)]


def test_the_interval_holds_the_true_agreement() -> None:
    """90 % is asked for, over strokes that are all or nothing, partly right, and alike."""
    rng, runs, coverage = np.random.default_rng(0), 300, []
    for counts in COUNTS:
        classes = np.repeat(np.arange(len(counts)), counts)
        for shift in range(len(DRAWS)):
            draws = [DRAWS[(shift + 5 * k) % len(DRAWS)] for k in range(len(counts))]
            truth = np.mean([mean for _, mean in draws])
            held = 0
            for _ in range(runs):
                each = [draw(rng, n) for (draw, _), n in zip(draws, counts, strict=True)]
                found = agreement(np.concatenate(each), classes)
                held += bool(found.low <= truth <= found.high)
            coverage.append(held / runs)
    assert np.mean(coverage) >= 0.88
    assert min(coverage) >= 0.8 - 2 * np.sqrt(0.8 * 0.2 / runs)


def test_few_strokes_that_are_right_say_little() -> None:
    few = agreement(np.ones(3), np.zeros(3, int))
    assert few.low < 0.5
    assert few.value < 0.8
    assert few.high == 1.0
    many = agreement(np.ones(60), np.repeat([0, 1], 30))
    assert many.low > 0.9
    assert many.value < 1


def test_classes_count_alike_however_many_strokes_they_have() -> None:
    right = np.r_[np.ones(200), np.zeros(200 // 4)]
    found = agreement(right, np.repeat([0, 2], [200, 50]))
    assert found.value == pytest.approx(0.5, abs=0.01)
    each = dict(found.each)
    assert (each[0].low > 0.95, each[4].high < 0.1) == (True, True)
    assert (each[0].strokes, each[4].strokes) == (200, 50)
    assert found.strokes == 250
    assert agreement_of(observed(np.zeros(0), np.zeros(0, int)), NUMBERS) is None


def test_voxels_of_a_stroke_are_one_observation() -> None:
    """Ten times as many voxels in each stroke make nothing more certain."""
    found = observed(np.array([1.0, 0.5, 0.9]), np.zeros(3, int))
    larger = Observations(found.classes, found.voxels * 10, found.right, found.soft)
    assert agreement_of(found, NUMBERS) == agreement_of(larger, NUMBERS)


def test_dice_of_full_masks_has_an_interval_over_blocks() -> None:
    """Of 24 blocks drawn from many, which differ in size and in how well they are found."""
    rng, held, widths = np.random.default_rng(1), 0, []
    size = rng.integers(0, 400, (2000, 2))
    hits = (size * rng.beta(8, 2, size.shape)).astype(int)
    both = size + hits + rng.integers(0, 40, size.shape)
    truth = (2 * hits.sum(0) / both.sum(0)).mean()
    for _ in range(200):
        some = rng.choice(2000, 24, replace=False)
        found = dice_interval(hits[some], both[some])
        assert found is not None
        assert found.strokes == 0
        assert found.low <= found.value <= found.high
        assert found.value == pytest.approx((2 * hits[some].sum(0) / both[some].sum(0)).mean())
        held += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert held / 200 >= 0.85
    assert np.mean(widths) < 0.2
    assert dice_interval(np.zeros((3, 1)), np.zeros((3, 1))) is None


def said(found: Agreement | None, before: Agreement | None = None) -> str:
    scores = [
        Scores(("cell",), (1,), (0.95,), (0.9,), 500, 12, agreement=a) for a in (found, before)
    ]
    return f"{score_name(scores[0])} {score_text(scores[0], scores[1] if before else None)}"


def test_what_is_said_claims_no_more_than_the_interval() -> None:
    few, many = (
        agreement(np.ones(3), np.zeros(3, int)),
        agreement(np.ones(4000), np.zeros(4000, int)),
    )
    assert said(few) == "agreement with held-out strokes 0.74 (0.42 to 1.00, 3 strokes)"
    assert said(many) == "agreement with held-out strokes over 0.99 (0.99 to 1.00, 4000 strokes)"
    one = Agreement(0.874, 0.749, 0.941, 1)
    assert said(one) == "agreement with held-out strokes 0.87 (0.74 to 0.95, 1 stroke)"
    assert said(one, few).endswith(" 0.74 → 0.87 (0.74 to 0.95, 1 stroke)")
    assert "→" not in said(one, one)
    full = Agreement(0.997, 0.95, 0.999, 0)
    assert said(full) == "Dice on held-out blocks 1.00 (0.95 to 1.00, 12 blocks)"
    assert said(None) == "Dice on held-out labels 0.95"
    assert "→" not in said(full, few)
