"""Dice after so many seconds from the press of Train, beside a random forest on the same strokes.

    python benchmarks/quality.py DATA [--sets A,B] [--seeds 0,1,2] [--seconds 120] [--out DIR]

DATA is a folder with ``benchmark.tsv`` (see ``sets.py``). Settings are the defaults, for every set;
nothing is tuned to a set. What counts at a mark is the newest model that was shown until then; it
is scored after the training, so that the clock stands still (``watch.py`` says what it counts).
Network and forest take turns in one process. A set's ratio is
(1 − our Dice) / (1 − the forest's Dice), of medians over seeds.

``--same-image`` trains and predicts on one test image at a time instead (``same_image.py``), with
mean IoU at the marks from 10 s on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import same_image
from quality_report import medians, plot, print_tables, ratio, summary
from sets import Annotated, BenchmarkSet, predictor, read_sets, score
from watch import Trace, add_options, clock_kind, machine, make_settings, timed, watch, write_json

from napari_unetseg.core.image_stack import Stack

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

MARKS = (2, 5, 10, 20, 30, 60, 120)
"""Seconds at which the shown model is scored."""
FALL_FROM = 30
"""From here on every model shown is scored, to see how far the Dice ever falls."""
SAME_IMAGE_FROM = 10
"""First mark in seconds of ``--same-image``."""
FIRST_EDGE = 512
"""Edge in pixels of the picture that the time of the first mask is for."""

Json = dict[str, Any]
Scorer = Callable[["Model"], float]


def marks_until(seconds: float) -> list[int]:
    """The marks that a training of that length reaches."""
    return [mark for mark in MARKS if mark <= seconds]


def largest_fall(dice: Sequence[float]) -> float:
    """The largest fall below an earlier maximum, 0 when there is none."""
    highest = np.maximum.accumulate(np.asarray(dice, float))
    return float((highest - dice).max()) if len(dice) else 0.0


def cached(images: Sequence[Annotated], threads: int, device: str) -> Scorer:
    """A scorer that scores no model twice."""
    known: dict[str, float] = {}

    def run(model: Model) -> float:
        if model.id not in known:
            known[model.id] = score(images, predictor(model, threads, device))
        return known[model.id]

    return run


def curve_of(trace: Trace, seconds: float, scorer: Scorer) -> Json:
    """Dice at the marks (0 before the first model), the scored models, and the largest fall."""
    marks = marks_until(seconds)
    at_marks = [trace.at(mark) for mark in marks]
    late = trace.between(FALL_FROM, seconds) if seconds > FALL_FROM else []
    scored = {id(s): s for s in (*trace.shown[:1], *at_marks, *late) if s is not None}
    points = sorted(scored.values(), key=lambda s: s.seconds)
    return {
        "dice": [scorer(s.model) if s else 0.0 for s in at_marks],
        "curve": [[s.seconds, s.wall, scorer(s.model)] for s in points],
        "largest_fall": largest_fall([scorer(s.model) for s in late]) if late else None,
        "models_shown": len(trace.shown),
        "trained_seconds": trace.seconds,
        "trained_wall_seconds": trace.wall,
        "steps": trace.steps,
        "ended": trace.reason,
    }


def first_picture(images: Sequence[Annotated], dims: int) -> tuple[Stack, tuple[int, ...]]:
    """A picture of 512² from the first training image, mirrored where that is smaller.

    A 3D model gets the whole volume. Returns a stack, and the plane of it that is wanted.
    """
    image = images[0]
    if dims == 3:
        return image.image, image.planes[0]
    pixels = image.image.read(image.planes[0], image.image.whole(2))
    tiles = [-(-FIRST_EDGE // edge) for edge in pixels.shape[1:]]
    for axis, count in enumerate(tiles, 1):
        pieces = [pixels if i % 2 == 0 else np.flip(pixels, axis) for i in range(count)]
        pixels = np.concatenate(pieces, axis)
    return Stack(np.ascontiguousarray(pixels[:, :FIRST_EDGE, :FIRST_EDGE]), "CYX"), ()


def first_mask(trace: Trace, images: Sequence[Annotated], options: argparse.Namespace) -> Json:
    """Seconds from the press of Train to the first mask of a picture of 512²."""
    first = trace.shown[0]
    stack, plane = first_picture(images, first.model.dims)
    predict = predictor(first.model, options.threads, options.device)
    _, seconds = timed(options.threads, options.kind, lambda: predict(stack, [plane]))
    return {
        "first_seconds": first.seconds + seconds,
        "first_model_seconds": first.seconds,
        "first_predict_seconds": seconds,
    }


def run_ours(data: BenchmarkSet, truth: str, seed: int, options: argparse.Namespace) -> Json:
    """Train once and score what was shown."""
    images = data.training("full" if truth == "full" else "strokes")
    pairs = [image.pair("full" if truth == "full" else "strokes") for image in images]
    trace = watch(pairs, make_settings(options, seed), options.seconds, kind=options.kind)
    scorer = cached(data.tests(), options.threads, options.device)
    result = {"seed": seed, **first_mask(trace, images, options)}
    return {
        **result,
        "first_dice": scorer(trace.shown[0].model),
        **curve_of(trace, options.seconds, scorer),
    }


def run_forest(data: BenchmarkSet, seed: int, options: argparse.Namespace) -> Json:
    """Fit the forest to the strokes and score it."""
    from forest import Forest

    images, tests = data.training(), data.tests()
    forest, fit = timed(
        options.threads, options.kind, lambda: Forest(images, options.threads, seed)
    )
    dice, seconds = timed(options.threads, options.kind, lambda: score(tests, forest.predict))
    mpx = sum(image.voxels for image in tests) / 1e6
    return {
        "seed": seed,
        "dice": dice,
        "fit_seconds": fit,
        "predict_seconds_per_mpx": seconds / mpx,
    }


def run_set(data: BenchmarkSet, options: argparse.Namespace) -> Json:
    """All seeds of a set; network and forest take turns."""
    runs: dict[str, list[Json]] = {}
    for seed in options.seed_numbers:
        for truth in ("strokes", "full"):
            if options.truth in (truth, "both"):
                runs.setdefault(truth, []).append(run_ours(data, truth, seed, options))
        if options.truth != "full":
            runs.setdefault("forest", []).append(run_forest(data, seed, options))
    result: Json = {"runs": runs, "median": {name: medians(found) for name, found in runs.items()}}
    middle = result["median"]
    if "forest" in middle:
        forest, ours = middle["forest"]["dice"], middle["strokes"]
        result["ratio"] = [ratio(dice, forest) for dice in ours["dice"]]
        result["first_over_forest"] = ours["first_dice"] / forest if forest else None
    if options.truth == "both":
        both = zip(middle["strokes"]["dice"], middle["full"]["dice"], strict=True)
        result["share_of_full"] = [ours / full if full else None for ours, full in both]
    return result


def run(options: argparse.Namespace) -> Json:
    """Every set; what is done so far is written after each."""
    sets = read_sets(options.data, options.sets)
    counted = options.count.split(",") if options.count else [data.name for data in sets]
    report: Json = {
        "machine": machine(),
        "clock": options.kind,
        "threads": options.threads,
        "changed_settings": options.set,
        "marks": marks_until(options.seconds),
        "sets": {},
    }
    for data in sets:
        report["sets"][data.name] = run_set(data, options)
        report["summary"] = summary(report["sets"], counted)
        print(f"{data.name}: done", flush=True)
        if options.out:
            write_json(options.out / "quality.json", report)
    return report


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser)
    parser.add_argument("--sets", default="", help="comma-separated; default all")
    parser.add_argument("--count", default="", help="sets of the mean ratio; default all that run")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument(
        "--truth",
        choices=("strokes", "full", "both"),
        default="strokes",
        help="full: the full masks of the same training images, without a forest",
    )
    parser.add_argument("--same-image", action="store_true")
    parser.add_argument("--images", type=int, default=3, help="images of a set, with --same-image")
    options = parser.parse_args(arguments)
    options.kind = clock_kind(options)
    options.device = make_settings(options, 0).device
    options.seed_numbers = [int(seed) for seed in options.seeds.split(",")]
    return options


def main(arguments: Sequence[str] | None = None) -> Json:
    """Read the arguments, run every set, print tables, write JSON and a plot."""
    options = parse(arguments)
    if options.same_image:
        marks = [mark for mark in marks_until(options.seconds) if mark >= SAME_IMAGE_FROM]
        return same_image.run(options, marks)
    report = run(options)
    print_tables(report)
    if options.out:
        plot(report, Path(options.out) / "quality.png")
    return report


if __name__ == "__main__":
    main()
