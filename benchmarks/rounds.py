"""Strokes added in rounds at the worst places: going on beside starting afresh.

    python benchmarks/rounds.py DATA [--sets A,B] [--seeds 0] [--round-seconds 20] [--out DIR]

The first round has a fifth of the given strokes. In each later one as many voxels of every class
are painted by a simulated hand (``painter.py``) where the newest mask of the training images is
most wrong. After each round: Dice on the test images, of the model that went on and of one trained
afresh on the same strokes for the same time. At the end, one is trained once on all strokes for the
time of all rounds together. ``watch.py`` says what the clock counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from painter import Labels, add_strokes, amounts, part_of
from sets import BenchmarkSet, predictor, read_sets, score
from watch import Trace, add_options, clock_kind, machine, make_settings, watch, write_json

from napari_unetseg.core.labels import BACKGROUND_LABEL

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

Json = dict[str, Any]


class Rounds:
    """All rounds of one set and seed."""

    def __init__(self, data: BenchmarkSet, seed: int, options: argparse.Namespace) -> None:
        self.options, self.settings = options, make_settings(options, seed)
        self.given, self.by_image = data.training(), data.training("full")
        self.tests = data.tests()
        self.rng = np.random.default_rng(seed)
        self.share = 1 / options.rounds

    def run(self) -> Json:
        """Rounds, and the training on all strokes at once."""
        labels = part_of(self.given, self.share, self.rng)
        before = [np.zeros_like(array) for array in labels]
        masks: Labels | None = None
        model: Model | None = None
        rounds: list[Json] = []
        for number in range(1, self.options.rounds + 1):
            if masks is not None:
                before, labels = labels, self.paint(labels, masks)
            going_on = self.train(labels, self.options.round_seconds, model)
            model = self.shown(going_on, self.options.round_seconds, model)
            afresh = self.train(labels, self.options.round_seconds)
            new = [(now > 0) & (then == 0) for now, then in zip(labels, before, strict=True)]
            then, masks = masks, self.masks(model)
            rounds.append(
                {
                    "round": number,
                    "stroke_voxels": int(sum((array > 0).sum() for array in labels)),
                    "continuing": self.judge(going_on, model),
                    "afresh": self.judge(afresh, self.shown(afresh, self.options.round_seconds)),
                    "new_strokes_right_before": right(labels, then, new) if then else None,
                    "new_strokes_right_after": right(labels, masks, new),
                }
            )
        seconds = self.options.rounds * self.options.round_seconds
        once = self.train(labels, seconds)
        return {"rounds": rounds, "once": self.judge(once, self.shown(once, seconds))}

    def paint(self, labels: Labels, masks: Labels) -> Labels:
        """Another share of strokes where the masks are most wrong."""
        wanted = {value: round(self.share * n) for value, n in amounts(self.given).items()}
        return add_strokes(labels, self.by_image, masks, wanted, self.rng)

    def train(self, labels: Labels, seconds: float, init: Model | None = None) -> Trace:
        """Train on strokes."""
        pairs = [
            replace(image, labels=array).pair("strokes")
            for image, array in zip(self.given, labels, strict=True)
        ]
        return watch(pairs, self.settings, seconds, kind=self.options.kind, init=init)

    def shown(self, trace: Trace, seconds: float, init: Model | None = None) -> Model:
        """What the user sees when the time is over: the newest, else what was there before."""
        newest = trace.at(seconds)
        if newest is not None:
            return newest.model
        return init if init is not None else trace.shown[0].model

    def masks(self, model: Model) -> Labels:
        """The model's masks of the training images."""
        predict = predictor(model, self.options.threads, self.settings.device)
        return [predict(image.image, image.planes) for image in self.by_image]

    def judge(self, trace: Trace, model: Model) -> Json:
        """Dice on the test images, and how long it took."""
        predict = predictor(model, self.options.threads, self.settings.device)
        return {
            "dice": score(self.tests, predict),
            "first_seconds": trace.shown[0].seconds,
            "seconds": trace.seconds,
            "wall_seconds": trace.wall,
            "ended": trace.reason,
        }


def right(labels: Labels, masks: Labels, where: Sequence[np.ndarray]) -> float:
    """Share of the stroke voxels at some places that the masks have right."""
    hits = total = 0
    for strokes, mask, place in zip(labels, masks, where, strict=True):
        wanted = strokes[place] % BACKGROUND_LABEL  # 255 is background, 0 in a mask
        hits += int((mask[place] == wanted).sum())
        total += wanted.size
    return hits / total if total else float("nan")


def medians(runs: Sequence[Json]) -> Json:
    """Medians over seeds of what the table shows."""
    return {
        "continuing": [median(c) for c in zip(*map(_dice("continuing"), runs), strict=True)],
        "afresh": [median(c) for c in zip(*map(_dice("afresh"), runs), strict=True)],
        "once": median(run["once"]["dice"] for run in runs),
        "slowest_round_seconds": max(
            r["continuing"]["seconds"] for run in runs for r in run["rounds"]
        ),
        "last_over_once": median(
            run["rounds"][-1]["continuing"]["dice"] - run["once"]["dice"] for run in runs
        ),
    }


def _dice(way: str) -> Any:
    return lambda run: [found[way]["dice"] for found in run["rounds"]]


def print_set(name: str, middle: Json) -> None:
    """The lines of one set."""
    for way in ("continuing", "afresh"):
        dice = "".join(f"{value:8.3f}" for value in middle[way])
        print(f"{name if way == 'continuing' else '':28}{way:12}{dice}", flush=True)
    print(
        f"{'':28}{'once':12}{middle['once']:8.3f}   last round − once "
        f"{middle['last_over_once']:+.3f}; slowest round {middle['slowest_round_seconds']:.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> Json:
    """Read the arguments, run every set, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser)
    parser.add_argument("--sets", default="", help="comma-separated; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    options.kind = clock_kind(options)
    report: Json = {
        "machine": machine(),
        "clock": options.kind,
        "threads": options.threads,
        "changed_settings": options.set,
        "round_seconds": options.round_seconds,
        "sets": {},
    }
    print("Dice after " + ", ".join(f"round {i + 1}" for i in range(options.rounds)))
    for data in read_sets(options.data, options.sets):
        runs = [Rounds(data, int(seed), options).run() for seed in options.seeds.split(",")]
        report["sets"][data.name] = {"runs": runs, "median": medians(runs)}
        print_set(data.name, report["sets"][data.name]["median"])
        if options.out:
            write_json(options.out / "rounds.json", report)
    return report


if __name__ == "__main__":
    main()
