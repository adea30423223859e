"""How often the interval of the agreement with held-out strokes holds the agreement with new ones.

    python benchmarks/agreement.py DATA [--sets A,B] [--trainings 50] [--steps 60] [--out FILE]

Each training has other strokes, drawn at random from the full masks of a set's training images by
``painter.py``: few or many, of all classes. Its interval is compared with the agreement with at
least 500 strokes drawn anew in the same way from the same masks, cut by blocks as held-out strokes
are, without the voxels that were painted. Beside it stand what the dock said before (Dice on the
voxels of the held-out strokes) and the Dice of the whole masks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median

import numpy as np
from painter import Labels, add_strokes
from scipy import ndimage
from sets import Annotated, BenchmarkSet, pooled_dice, predictor, read_sets

from napari_unetseg import TrainSettings, train
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX, Classes, LabelKind
from napari_unetseg.data.validation_split import split_train_validation

FRESH = 500
"""Strokes drawn anew, at least."""
MOST_DRAWS = 400
VOXELS = (300, 2500)
"""Painted voxels of each class, drawn evenly on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Found:
    """One training: its agreement and interval, and the truth."""

    set: str
    seed: int
    strokes: int
    value: float
    low: float
    high: float
    truth: float
    dice_on_strokes: float
    true_dice: float

    @property
    def holds(self) -> bool:
        """Whether the interval holds the agreement with new strokes."""
        return self.low <= self.truth <= self.high

    @property
    def claims_too_much(self) -> bool:
        """Whether even the lower limit is above it."""
        return self.low > self.truth


def draw(images: Sequence[Annotated], voxels: int, rng: np.random.Generator) -> Labels:
    """Strokes anywhere, about so many voxels of each class."""
    classes = np.unique(np.concatenate([np.unique(i.labels[p]) for i in images for p in i.planes]))
    wanted = {int(k) or BACKGROUND_LABEL: voxels for k in classes}
    truth = [image.labels for image in images]
    return add_strokes([np.zeros_like(t) for t in truth], images, truth, wanted, rng)


def pieces(labels: np.ndarray, mask: np.ndarray, classes: Classes, key: str) -> Iterator[tuple]:
    """Class and fraction right of each stroke in some blocks of a plane, chosen by the key."""
    target = classes.encode(labels, LabelKind.STROKES)
    found = classes.encode(np.where(mask == 0, BACKGROUND_LABEL, mask), LabelKind.STROKES)
    held = split_train_validation(target, key, (1.0, 1.0), TrainSettings().validation_fraction)[1]
    for number in np.unique(held[held != IGNORE_INDEX]):
        ids, count = ndimage.label(held == number, np.ones((3, 3)))
        right = ndimage.mean(found == held, ids, np.arange(1, count + 1))
        yield from ((int(number), float(r)) for r in right)


def agreement_with_new(
    images: Sequence[Annotated],
    masks: Labels,
    painted: Labels,
    classes: Classes,
    voxels: int,
    rng: np.random.Generator,
) -> float:
    """Mean over classes of the fraction right of new strokes."""
    found: list[tuple[int, float]] = []
    for number in range(MOST_DRAWS):
        if len(found) >= FRESH:
            break
        fresh = draw(images, voxels, rng)
        for which, (image, mask) in enumerate(zip(images, masks, strict=True)):
            fresh[which][painted[which] != 0] = 0
            for plane in image.planes:
                key = f"{number} {which} {plane}"
                found += pieces(fresh[which][plane], mask[plane], classes, key)
    numbers = {k for k, _ in found}
    return mean(mean(r for k, r in found if k == number) for number in numbers)


def measure(data: BenchmarkSet, seed: int, steps: int) -> Found | None:
    """Train once; None where too little was painted for a score."""
    rng = np.random.default_rng((seed, len(data.name)))
    images = data.training("full")
    voxels = round(float(np.exp(rng.uniform(*np.log(VOXELS)))))
    painted = draw(images, voxels, rng)
    strokes = [replace(i, labels=p) for i, p in zip(images, painted, strict=True)]
    settings = TrainSettings(steps=steps, threads=1, seed=seed, device="cpu")
    model = train([s.pair("strokes") for s in strokes], settings)
    if model.scores is None or (agreement := model.scores.agreement) is None:
        return None
    predict = predictor(model, 1, "cpu")
    masks = [predict(image.image, image.planes) for image in images]
    truth = agreement_with_new(images, masks, painted, model.classes, voxels, rng)
    both = ((m[p], i.labels[p]) for i, m in zip(images, masks, strict=True) for p in i.planes)
    return Found(
        data.name,
        seed,
        agreement.strokes,
        agreement.value,
        agreement.low,
        agreement.high,
        truth,
        model.scores.mean_dice,
        pooled_dice(both),
    )


def row(name: str, found: Sequence[Found]) -> str:
    """A line of the table."""
    figures = [
        f"{median(f.strokes for f in found):7.0f}",
        f"{mean(f.value for f in found):7.3f}",
        f"{mean(f.high - f.low for f in found):7.3f}",
        f"{mean(f.truth for f in found):7.3f}",
        f"{sum(f.holds for f in found):6d}",
        f"{sum(f.claims_too_much for f in found):9d}",
        f"{mean(f.dice_on_strokes for f in found):12.3f}",
        f"{mean(f.true_dice for f in found):10.3f}",
    ]
    return f"{name:26}{len(found):4d}{''.join(figures)}"


def main() -> None:
    """Print a line for each training, then a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="", help="names, separated by commas; default all")
    parser.add_argument("--trainings", type=int, default=50)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, help="figures of each training as JSON")
    options = parser.parse_args()
    sets, all_found = read_sets(options.data, options.sets), []
    for number in range(options.trainings):
        found = measure(sets[number % len(sets)], number, options.steps)
        print(found or f"{sets[number % len(sets)].name}: no score", flush=True)
        all_found += [found] if found else []
        if options.out:
            options.out.write_text(json.dumps([asdict(f) for f in all_found], indent=1))
    print("\nset, trainings: strokes, agreement, width, with new strokes, interval holds it,")
    print("lower limit above it, Dice on the held-out strokes, Dice of the masks")
    for name in dict.fromkeys(f.set for f in all_found):
        print(row(name, [f for f in all_found if f.set == name]))
    print(row("all", all_found))


if __name__ == "__main__":
    main()
