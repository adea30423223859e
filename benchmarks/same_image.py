"""Strokes on one image, trained and predicted on that image: the protocol of napari-convpaint.

Their benchmark paints even artificial strokes of 0.25, 1 and 2.5 % of the pixels and takes the mean
IoU over classes, averaged over images (read off ``images/fe_quantifications/FEs_overview.png`` of
guiwitz/napari-convpaint at b1e1ddd, so to about 0.01). Their stained tissue has several
classes. Here every structure of a set is one foreground, and strokes are those of
``painter.even_strokes``: other images and another hand, so that the forest of the same run is the
comparison and theirs the order of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from forest import Forest
from painter import even_strokes
from quality_report import row
from sets import Annotated, BenchmarkSet, Predictor, predictor, read_sets
from watch import machine, make_settings, watch, write_json

from napari_unetseg.core.labels import BACKGROUND_LABEL

if TYPE_CHECKING:
    import argparse

Json = dict[str, Any]
SHARES = (0.0025, 0.01, 0.025)
"""Stroke pixels as a share of the image's pixels."""
PUBLISHED = {
    "Cellpose's images, ilastik filters": (0.71, 0.75, 0.77),
    "Cellpose's images, DINOv2": (0.58, 0.61, 0.64),
    "stained tissue, ilastik filters": (0.39, 0.48, 0.52),
    "stained tissue, DINOv2 and JAFAR": (0.42, 0.59, 0.67),
}
"""napari-convpaint's mean IoU at `SHARES`."""


def mean_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """IoU of foreground (not 0) and of background, averaged; both occur in the truth."""
    found, real = mask > 0, truth > 0
    return mean(float((a & b).sum() / (a | b).sum()) for a, b in ((found, real), (~found, ~real)))


def images_of(data: BenchmarkSet, count: int) -> Iterator[Annotated]:
    """Evenly spread test images of a set that have foreground and background, one plane each."""
    step = max(1.0, len(data.test) / count)
    items = [data.test[int(i * step)] for i in range(min(count, len(data.test)))]
    for item in items:
        (image,) = data.read([item], "full")
        plane = image.planes[len(image.planes) // 2]
        labels = (image.labels > 0).astype(np.uint8)
        if 0 < labels[plane].mean() < 1:
            yield Annotated(image.image, labels, (plane,))


def judge(image: Annotated, predict: Predictor) -> float:
    """Mean IoU in the plane of the image."""
    (plane,) = image.planes
    return mean_iou(predict(image.image, [plane])[plane], image.labels[plane])


def run_image(
    image: Annotated, share: float, marks: Sequence[float], options: argparse.Namespace, seed: int
) -> Json:
    """Mean IoU of the first answer, of what is shown at the marks, and of the forest."""
    (plane,) = image.planes
    labels = np.zeros_like(image.labels)
    rng = np.random.default_rng(seed)
    labels[plane] = even_strokes(image.labels[plane], (1, BACKGROUND_LABEL), share, rng)
    painted = replace(image, labels=labels)
    settings = make_settings(options, seed)
    trace = watch([painted.pair("strokes")], settings, max(marks), kind=options.kind)
    models = [trace.shown[0], *(trace.at(mark) or trace.shown[0] for mark in marks)]
    known = {
        id(s): judge(image, predictor(s.model, options.threads, options.device)) for s in models
    }
    forest = Forest([painted], options.threads, seed)
    return {
        "share": share,
        "strokes": int((labels > 0).sum()) / labels[plane].size,
        "iou": [known[id(s)] for s in models],
        "first_seconds": trace.shown[0].seconds,
        "forest": judge(image, forest.predict),
    }


def run(options: argparse.Namespace, marks: Sequence[float]) -> Json:
    """Every set, with the options of ``quality.py``; print a table, write JSON after each set."""
    report: Json = {
        "machine": machine(),
        "clock": options.kind,
        "threads": options.threads,
        "changed_settings": options.set,
        "marks": marks,
        "published": PUBLISHED,
        "sets": {},
    }
    heads = ["first", *(f"{mark} s" for mark in marks), "forest"]
    print(f"{'mean IoU on the same image':34}" + "".join(f"{head:>7}" for head in heads))
    every: list[Json] = []
    for data in read_sets(options.data, options.sets):
        runs = list(runs_of(data, marks, options))
        every += runs
        report["sets"][data.name] = {"runs": runs, "mean": means(runs)}
        report["mean"] = means(every)
        print_lines(data.name, means(runs))
        if options.out:
            write_json(options.out / "same_image.json", report)
    print_lines("mean over images", report["mean"])
    print_published()
    return report


def runs_of(
    data: BenchmarkSet, marks: Sequence[float], options: argparse.Namespace
) -> Iterator[Json]:
    """All images, shares and seeds of a set."""
    for number, image in enumerate(images_of(data, options.images)):
        for share in SHARES:
            for seed in options.seed_numbers:
                found = run_image(image, share, marks, options, seed)
                yield {"image": number, "seed": seed, **found}


def means(runs: Sequence[Json]) -> Json:
    """Mean over images and seeds for each share: first answer and marks, and the forest."""
    found: Json = {}
    for share in SHARES:
        own = [run for run in runs if run["share"] == share]
        if own:
            columns = zip(*(run["iou"] for run in own), strict=True)
            ours = [mean(column) for column in columns]
            found[f"{share:.2%}"] = {"iou": ours, "forest": mean(run["forest"] for run in own)}
    return found


def print_lines(name: str, found: Json) -> None:
    """A line for each share: first answer, marks, forest."""
    for share, values in found.items():
        print(row(f"{name[:26]:26} {share}", [*values["iou"], values["forest"]]), flush=True)


def print_published() -> None:
    """The published figures, for the three shares."""
    print("\nnapari-convpaint, mean IoU at " + ", ".join(f"{share:.2%}" for share in SHARES))
    for name, values in PUBLISHED.items():
        print(row(name, list(values)))
