"""*Check quality*: how often its 90 % interval holds the Dice of all images, and its minutes.

    python benchmarks/check_quality.py DATA [--sets A,B] [--seeds 0,1,2] [--steps 60] [--places 10]

For each set a model is trained briefly on the strokes, and the test images are predicted. Then
places are drawn again and again as the dock draws them, over all test images; the ground truth
stands for a person who corrects each place to the pixel. Reported are, for each structure, how
often the interval holds the Dice of all test images pooled, and how wide it is. How long a check
takes is simulated with the timing of ``hand.py``: a person looks, paints over every error that is
three pixels wide or more, with a brush as wide as the error, and presses a key. What the estimate
would be if narrower errors were left as they are is reported beside it.
Settings are the defaults; nothing is tuned to a set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from hand import (
    BRUSH_WIDTH,
    CANVAS,
    FIND,
    KEY,
    LOOK,
    SPEED,
    STEERING,
    TRAVEL,
    box_around,
)
from home import leave_home
from scipy import ndimage
from sets import Annotated, BenchmarkSet, predictor, read_sets
from watch import add_options, machine, make_settings, write_json

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.inference.candidate_windows import cells_of, region_shape
from napari_unetseg.inference.quality_estimate import (
    Candidate,
    DrawnPlace,
    draw_places,
    estimate,
    overlap_counts,
)
from napari_unetseg.training.train import train

Json = dict[str, Any]
SURROUNDINGS = 0.25
"""What is seen around a place, in parts of its edge, as in the dock."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of a test image: as it is drawn from, its plane's truth and mask (Y, X).

    ``counts`` is the overlap with the truth, ``by_hand`` with what the hand makes of the mask.
    """

    candidate: Candidate
    truth: np.ndarray
    mask: np.ndarray
    counts: dict[int, tuple[int, int, int]]
    by_hand: dict[int, tuple[int, int, int]]


def pieces_of(tests: Sequence[Annotated], masks: Sequence[np.ndarray]) -> list[Piece]:
    """All pieces of the given planes of the test images."""
    numbers = sorted({int(n) for one in tests for n in np.unique(one.labels)} - {0})
    found = []
    for image, (one, mask) in enumerate(zip(tests, masks, strict=True)):
        shape = one.labels.shape[-2:]
        for plane in one.planes:
            whole = one.labels[plane], mask[plane]
            for region in cells_of(shape, region_shape(shape)):
                truth, said = (array[region] for array in whole)
                counts, by_hand = (
                    overlap_counts(np.where(right == 0, BACKGROUND_LABEL, right), said, numbers)
                    for right in (truth, corrected(truth, said))
                )
                foreground = {number: count[1] for number, count in counts.items()}
                candidate = Candidate(image, plane, region, truth.size, foreground)
                found.append(Piece(candidate, *whole, counts, by_hand))
    return found


def seconds_of(drawn: Sequence[Piece]) -> float:
    """Simulated seconds of a check: to look, to correct what is seen to be wrong, to press."""
    total = 0.0
    for piece in drawn:
        region = piece.candidate.region
        box = box_around(piece.truth.shape, region, SURROUNDINGS)
        zoom = CANVAS / max(s.stop - s.start for s in box)
        truth, mask = piece.truth[region], piece.mask[region]
        total += LOOK + KEY
        for value in np.unique(truth):
            total += painting((truth == value) & (mask != value), zoom)
    return total


def painting(wrong: np.ndarray, zoom: float) -> float:
    """Seconds to paint over the errors (Y, X) of one class, the nearest next."""
    pieces, count = ndimage.label(seen(wrong))
    if not count:
        return 0.0
    depth = ndimage.distance_transform_edt(pieces > 0)
    numbers = np.arange(1, count + 1)
    widths = 2 * zoom * ndimage.maximum(depth, pieces, numbers)
    lengths = zoom**2 * ndimage.sum_labels(pieces > 0, pieces, numbers) / widths
    places = zoom * np.array(ndimage.center_of_mass(pieces > 0, pieces, numbers))
    at, brush, left, seconds = np.full(2, CANVAS / 2), 0.0, set(range(count)), KEY
    while left:
        one = min(left, key=lambda n: float(np.hypot(*(places[n] - at))))
        seconds += FIND + float(np.hypot(*(places[one] - at))) / TRAVEL
        seconds += float(lengths[one] / min(SPEED, STEERING * widths[one]))
        if not brush / 2 <= widths[one] <= brush * 2:  # another size of brush
            seconds, brush = seconds + KEY, float(widths[one])
        at = places[one]
        left.remove(one)
    return seconds


def seen(wrong: np.ndarray) -> np.ndarray:
    """The errors that are as wide as the hand's brush."""
    return np.asarray(ndimage.binary_opening(wrong, np.ones((BRUSH_WIDTH, BRUSH_WIDTH))))


def corrected(truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask after the hand has painted over the errors that it sees."""
    found = mask.copy()
    for value in np.unique(truth):
        found[seen((truth == value) & (mask != value))] = value
    return found


def judge(number: int, pieces: Sequence[Piece], draws: Sequence[Sequence[DrawnPlace]]) -> Json:
    """How the estimates of one structure compare with its Dice over all pieces."""
    hits, said, right = np.sum([one.counts[number] for one in pieces], 0)
    true = 2 * hits / (said + right)
    by_candidate = {id(one.candidate): one for one in pieces}

    def estimates(field: str) -> np.ndarray:
        found = []
        for drawn in draws:
            chosen = [by_candidate[id(place.candidate)] for place in drawn]
            counts = np.array([getattr(one, field)[number] for one in chosen], float)
            found.append(estimate(counts, np.array([place.weight for place in drawn])))
        return np.array([[e.dice, e.low, e.high, e.places] for e in found]).T

    dice, low, high, places = estimates("counts")
    by_hand, lowest, highest, _ = estimates("by_hand")
    return {
        "true_dice": true,
        "mean_estimate": float(np.nanmean(dice)),
        "mean_estimate_by_hand": float(np.nanmean(by_hand)),
        "coverage_by_hand": float(((lowest <= true) & (true <= highest)).mean()),
        "root_mean_square_error": float(np.sqrt(np.nanmean((dice - true) ** 2))),
        "coverage": float(((low <= true) & (true <= high)).mean()),
        "above": float((low > true).mean()),
        "below": float((high < true).mean()),
        "mean_width": float(np.nanmean(high - low)),
        "mean_places": float(places.mean()),
    }


def run_set(data: BenchmarkSet, seed: int, options: argparse.Namespace) -> Json:
    """Train, predict, and check again and again."""
    settings = make_settings(options, seed).model_copy(update={"steps": options.steps})
    model = train([one.pair("strokes") for one in data.training()], settings)
    tests, predict = data.tests(), predictor(model, options.threads, "cpu")
    pieces = pieces_of(tests, [predict(one.image, one.planes) for one in tests])
    candidates = [one.candidate for one in pieces]
    draws = [draw_places(candidates, options.places, draw) for draw in range(options.draws)]
    by_candidate = {id(one.candidate): one for one in pieces}
    times = [seconds_of([by_candidate[id(place.candidate)] for place in d]) for d in draws]
    scores = model.scores
    return {
        "pieces": len(pieces),
        "structures": {number: judge(number, pieces, draws) for number in pieces[0].counts},
        "held_out_strokes": dict(zip(scores.numbers, scores.dice, strict=True)) if scores else {},
        "mean_minutes": float(np.mean(times)) / 60,
        "largest_minutes": max(times) / 60,
    }


def lines(results: dict[str, list[Json]]) -> list[str]:
    """The table: medians over seeds, and of each how often the interval holds the Dice."""
    rows = [
        "| set | structure | held-out strokes | Dice of all | mean estimate | its RMSE "
        "| holds it, each seed | mean width | by hand, holds it | minutes, mean and largest |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        minutes = [
            median(run["mean_minutes"] for run in runs),
            max(r["largest_minutes"] for r in runs),
        ]
        for number in runs[0]["structures"]:
            found = [run["structures"][number] for run in runs]
            middle = {key: median(one[key] for one in found) for key in found[0]}
            strokes = median(run["held_out_strokes"].get(number, float("nan")) for run in runs)
            held = ", ".join(f"{one['coverage']:.0%}" for one in found)
            cells = (
                *(name, number, f"{strokes:.3f}", f"{middle['true_dice']:.3f}"),
                *(f"{middle[key]:.3f}" for key in ("mean_estimate", "root_mean_square_error")),
                *(held, f"{middle['mean_width']:.3f}"),
                f"{middle['mean_estimate_by_hand']:.3f}, {middle['coverage_by_hand']:.0%}",
                ", ".join(f"{one:.1f}" for one in minutes),
            )
            rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def main(arguments: list[str] | None = None) -> dict[str, list[Json]]:
    """Run the program."""
    leave_home()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser)
    parser.add_argument("--sets", default="", help="comma-separated; default: all")
    parser.add_argument("--steps", type=int, default=60, help="of the training")
    parser.add_argument("--draws", type=int, default=100, help="checks of each set and seed")
    parser.add_argument("--places", type=int, default=10, help="places of a check")
    parser.set_defaults(threads=1)
    options = parser.parse_args(arguments)
    results: dict[str, list[Json]] = {}
    for data in read_sets(options.data, options.sets):
        for seed in map(int, options.seeds.split(",")):
            found = {"seed": seed, **run_set(data, seed, options)}
            results.setdefault(data.name, []).append(found)
            if options.out is not None:
                report = {"machine": machine(), "places": options.places, "sets": results}
                write_json(options.out / "check_quality.json", report)
        print(f"{data.name}: done", flush=True)
    print("\n".join(lines(results)))
    return results


if __name__ == "__main__":
    main()
