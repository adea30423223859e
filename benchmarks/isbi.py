"""Membranes with full masks, beside what the U-Net paper reports for the ISBI 2012 challenge.

    python benchmarks/isbi.py DATA [--set-name em_isbi2012] [--train 0-13] [--test 14-19]

Default settings, full masks of the training slices, a budget in minutes of the clock of
``watch.py`` (CPU minutes a thread). Slices are the files of the set in the order of their names.
Structure 1 is the membrane.

Pixel error: 1 − accuracy of "membrane probability ≥ 0.5". Adapted Rand error: that of scikit-image
between the 4-connected pieces of non-membrane in mask and prediction, slice by slice, true membrane
left out; the mean over slices, at 0.5 and at the best threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sets import Annotated, BenchmarkSet, Item, pooled_dice, read_sets
from skimage.measure import label
from skimage.metrics import adapted_rand_error
from watch import add_options, clock_kind, machine, make_settings, watch, write_json

from napari_unetseg.core.settings import PredictSettings

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

MEMBRANE = 1
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
PUBLISHED = {"warping_error": 0.000353, "rand_error": 0.0382, "pixel_error": 0.0611}
"""Ronneberger, Fischer and Brox (2015), table 1, on the challenge's test set."""
DIFFERENCE = (
    "The published figures are for the challenge's hidden test set, 30 slices of another volume "
    "scored by its organisers at ten thresholds, after training on all 30 public slices and with "
    "predictions averaged over seven rotations; here some of the public slices train and later "
    "ones of the same series test, with one prediction a slice and scikit-image's adapted Rand "
    "error. Compare the order of magnitude, not the digits."
)

Json = dict[str, Any]


def numbers(text: str) -> list[int]:
    """Read ``0-13`` or ``0,2,5-7``."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def slices(data: BenchmarkSet, chosen: Sequence[int]) -> list[Annotated]:
    """Slices of a set with their full masks, by their place in the order of names."""
    files = sorted(file.name for file in (data.folder / "images").iterdir())
    if max(chosen) >= len(files):
        raise SystemExit(f"{data.name} has {len(files)} slices; choose from 0 to {len(files) - 1}.")
    return data.read([Item(files[number]) for number in chosen], "full")


def membrane_probability(model: Model, image: Annotated, options: argparse.Namespace) -> np.ndarray:
    """Probability of membrane, float32, shape of the slice."""
    from napari_unetseg.inference.predict import predict_probabilities

    device = make_settings(options, options.seed).device
    settings = PredictSettings(threads=options.threads, device=device)
    shares = predict_probabilities(model, image.image, settings)
    found: np.ndarray = shares[model.classes.numbers.index(MEMBRANE)]
    return found


def pixel_error(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], at: float = 0.5) -> float:
    """Share of all pixels on the wrong side of a threshold."""
    wrong = sum(int(((p >= at) != (t > 0)).sum()) for p, t in zip(found, truth, strict=True))
    return wrong / sum(t.size for t in truth)


def rand_error(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], at: float = 0.5) -> float:
    """Mean over slices of the adapted Rand error of the pieces between the membranes."""
    errors = [
        adapted_rand_error(label(t == 0, connectivity=1), label(p < at, connectivity=1))[0]
        for p, t in zip(found, truth, strict=True)
    ]
    return float(np.mean(errors))


def measures(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> Json:
    """Every measure of probabilities against masks."""
    rand = {at: rand_error(found, truth, at) for at in THRESHOLDS}
    best = min(rand, key=lambda at: rand[at])
    masks = [(p >= 0.5).astype(np.uint8) for p in found]
    pixels = {at: pixel_error(found, truth, at) for at in THRESHOLDS}
    return {
        "membrane_dice": pooled_dice(zip(masks, truth, strict=True)),
        "pixel_error": pixel_error(found, truth),
        "pixel_error_best_threshold": min(pixels.values()),
        "rand_error": rand_error(found, truth),
        "rand_error_best_threshold": rand[best],
        "best_threshold": best,
    }


def run(options: argparse.Namespace) -> Json:
    """Train, predict, measure."""
    (data,) = read_sets(options.data, options.set_name)
    train = [image.pair("full") for image in slices(data, numbers(options.train))]
    tests = slices(data, numbers(options.test))
    seconds = 60 * options.minutes
    settings = make_settings(options, options.seed)
    trace = watch(train, settings, seconds, kind=options.kind)
    shown = trace.at(seconds) or trace.shown[0]
    found = [membrane_probability(shown.model, image, options) for image in tests]
    truth = [(image.labels == MEMBRANE).astype(np.uint8) for image in tests]
    return {
        "machine": machine(),
        "clock": options.kind,
        "threads": options.threads,
        "changed_settings": options.set,
        "train": options.train,
        "test": options.test,
        "minutes": options.minutes,
        "trained_seconds": trace.seconds,
        "trained_wall_seconds": trace.wall,
        "steps": trace.steps,
        "ended": trace.reason,
        **measures(found, truth),
        "published_unet": PUBLISHED,
        "difference": DIFFERENCE,
    }


def main(arguments: Sequence[str] | None = None) -> Json:
    """Read the arguments, run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser, seeds=False)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set-name", default="em_isbi2012")
    parser.add_argument("--train", default="0-13", help="slices, such as 0-13 or 0,6")
    parser.add_argument("--test", default="14-19")
    parser.add_argument("--minutes", type=float, default=15.0)
    options = parser.parse_args(arguments)
    options.kind = clock_kind(options)
    report = run(options)
    print(f"{'':34}{'here':>9}{'published':>11}")
    print(f"{'membrane Dice':34}{report['membrane_dice']:9.4f}{'–':>11}")
    print(f"{'warping error':34}{'–':>9}{PUBLISHED['warping_error']:11.6f}")
    for name in ("rand_error", "pixel_error"):
        print(f"{name.replace('_', ' ') + ' at 0.5':34}{report[name]:9.4f}{PUBLISHED[name]:11.4f}")
        best = report[f"{name}_best_threshold"]
        print(f"{name.replace('_', ' ') + ', best threshold':34}{best:9.4f}")
    print(f"after {report['trained_seconds'] / 60:.1f} min ({report['ended']}). {DIFFERENCE}")
    if options.out:
        write_json(options.out / "isbi.json", report)
    return report


if __name__ == "__main__":
    main()
