"""What a single stroke at a mistake does to a mask: right at once, and after more training.

    python benchmarks/answers.py DATA [--sets A,B] [--strokes 8] [--steps 80] [--later 10,40]

Every stroke is painted at the same state of a training on the set's strokes, one thread. Printed
are the seconds of its answer, the share of strokes of which half of the wrong voxels are right,
and how the Dice on the test images changed: mean (worst).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, maximum_filter
from sets import Annotated, BenchmarkSet, Plane, predictor, read_sets, score

from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.data.validation_split import split_train_validation
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import AnnotationsUpdated, ModelUpdated, StepDone

if TYPE_CHECKING:
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model

SETS = "em_isbi2012,nuclei_fluo_dsb2018,phase_contrast_usiigaci"
SIZE, LENGTH, DEEPEST = 5, 12, 30
LEAST_WRONG = 5
"""Voxels of a stroke that are wrong, at least."""


def stroke_at(
    mask: np.ndarray, truth: Annotated, plane: Plane, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Where a stroke at one of the deepest mistakes lies that trains, and its structure."""
    image, target = truth.image, truth.labels[plane]
    blank = np.zeros(target.shape, np.uint8)
    train, *_ = split_train_validation(blank, image.fingerprint(), image.spatial_spacing(2), 0.15)
    held = train == IGNORE_INDEX
    depth = distance_transform_edt((mask != target) & (labels == 0) & ~held)
    deep = depth >= min(SIZE / 2, depth.max())
    peaks = np.flatnonzero((depth == maximum_filter(depth, 2 * LENGTH)) & deep)
    deepest = peaks[np.argsort(depth.ravel()[peaks])[-DEEPEST:]]
    y, x = np.unravel_index(rng.choice(deepest), target.shape)
    spot = np.zeros(target.shape, bool)
    rows = slice(max(0, y - SIZE // 2), y + SIZE // 2 + 1)
    spot[rows, max(0, x - LENGTH // 2) : x + LENGTH // 2] = True
    return spot & (target == target[y, x]) & ~held, int(target[y, x])


class Painted:
    """A training that gets a stroke after some steps; every one starts from the same seed."""

    def __init__(self, data: BenchmarkSet, options: argparse.Namespace) -> None:
        self.images, self.truths = data.training(), data.training("full")
        self.tests, self.options = data.tests()[: options.tests], options
        self.pairs = [image.pair("strokes") for image in self.images]
        self.rng = np.random.default_rng(options.seed)
        self.before = self._train(None, options.steps)[0][-1]
        predict = predictor(self.before, 1)
        self.dice = score(self.tests, predict)
        self.masks = [predict(image.image, image.planes) for image in self.images]

    def stroke(self) -> list[float] | None:
        """Seconds; what is right and the change of Dice, at once and later. None: too small."""
        which = int(self.rng.integers(len(self.images)))
        image, truth = self.images[which], self.truths[which]
        plane = image.planes[int(self.rng.integers(len(image.planes)))]
        mask = self.masks[which][plane]
        spot, value = stroke_at(mask, truth, plane, image.labels[plane], self.rng)
        wrong = spot & (mask != value)
        if wrong.sum() < LEAST_WRONG:
            return None
        labels = image.labels.copy()
        labels[plane][spot] = value or BACKGROUND_LABEL
        pairs = list(self.pairs)
        pairs[which] = replace(image, labels=labels).pair("strokes")
        models, seconds = self._train(pairs, self.options.steps, *self.options.later)
        found = [seconds]
        for model in models:
            predict = predictor(model, 1)
            right = (predict(image.image, [plane])[plane][wrong] == value).mean()
            found += [float(right), score(self.tests, predict) - self.dice]
        return found

    def _train(
        self, newer: Sequence[AnnotatedImage] | None, first: int, *later: int
    ) -> tuple[list[Model], float]:
        """Models after the first steps (and the stroke), and after more; seconds of the answer."""
        marks = list(np.cumsum([first, *later]))
        steps = int(marks[-1])
        settings = TrainSettings(steps=steps, seed=self.options.seed, threads=1, device="cpu")
        settings = settings.model_copy(update={"cosine_schedule": False})
        control, models, newest, taken = JobControl(threads=1), [], None, 0.0
        for event in train_events(self.pairs, settings, control=control):
            match event:
                case StepDone() if event.step == first and newer is not None:
                    control.push_annotations(tuple(newer))
                    taken = time.perf_counter()
                case AnnotationsUpdated():
                    newest = None
                case ModelUpdated():
                    newest = copy.copy(event.model)
                    if event.urgent and event.step == first:
                        models.append(newest)
                        taken = time.perf_counter() - taken
        return [*models, *([newest] if newest is not None else [])], taken


def main() -> None:
    """Print a line a set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--strokes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--later", default="40", help="more steps")
    parser.add_argument("--tests", type=int, default=3, help="test items that are scored")
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    options.later = [int(count) for count in options.later.split(",")]
    torch.set_num_threads(1)
    for data in read_sets(options.data, options.sets):
        painted = Painted(data, options)
        rows = [row for _ in range(options.strokes) if (row := painted.stroke()) is not None]
        table = np.array([row for row in rows if len(row) == 1 + 2 * (1 + len(options.later))])
        text = f"{data.name}: {len(rows)} strokes, Dice {painted.dice:.3f}; "
        text += f"answer {np.median(table[:, 0]):.2f} s"
        for column in range(1, table.shape[1], 2):
            right, change = table[:, column], table[:, column + 1]
            text += f"; {(right >= 0.5).mean():.2f} answered, {change.mean():+.3f}"
            text += f" ({change.min():+.3f})"
        print(text, flush=True)


if __name__ == "__main__":
    main()
