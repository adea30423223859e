"""What single strokes at mistakes do to a mask: answered, Dice at once, Dice after more training.

    python benchmarks/answers.py DATA [--sets A,B] [--strokes 8] [--steps 80] [--later 80]

Every stroke is painted at the same state of a training (``--steps`` steps).
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, maximum_filter
from sets import Annotated, BenchmarkSet, predictor, read_sets, score

from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.data.validation_split import split_train_validation
from napari_unetseg.training.training_run import TrainingRun
from napari_unetseg.training.training_state import Checkpoint

SIZE, LENGTH, DEEPEST = 5, 12, 30


def newest(run: TrainingRun):
    """The newest averaged weights as a model."""
    return run.model("now", Checkpoint(run.trainer.weights(), run.state.steps))


def mistakes(mask, truth, labels, image: Annotated, plane, rng):
    """A stroke at one of the deepest mistakes that train."""
    held = (
        split_train_validation(
            np.zeros(truth.shape, np.uint8),
            image.image.fingerprint(),
            image.image.spatial_spacing(2),
            0.15,
        )[0]
        == IGNORE_INDEX
    )
    wrong = (mask != truth) & (labels == 0) & ~held
    depth = distance_transform_edt(wrong)
    deep = depth >= min(SIZE / 2, depth.max())
    peaks = np.flatnonzero((depth == maximum_filter(depth, 2 * LENGTH)) & deep)
    deepest = peaks[np.argsort(depth.ravel()[peaks])[-DEEPEST:]]
    y, x = np.unravel_index(rng.choice(deepest), wrong.shape)
    spot = np.zeros(wrong.shape, bool)
    spot[max(0, y - SIZE // 2) : y + SIZE // 2 + 1, max(0, x - LENGTH // 2) : x + LENGTH // 2] = (
        True
    )
    return spot & (truth == truth[y, x]) & ~held, int(truth[y, x])


def measure(data: BenchmarkSet, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    images, tests = data.training(), data.tests()[: options.tests]
    truths = data.read(data.train, "full")
    control = JobControl(threads=1)
    settings = TrainSettings(steps=10**6, seed=options.seed, threads=1, device="cpu")
    pairs = [i.pair("strokes") for i in images]
    run = TrainingRun(pairs, settings, (), None, control, None)
    list(run.begin())
    for _ in range(options.steps):
        list(run.step())
    predict = predictor(newest(run), 1)
    base = score(tests, predict)
    masks = [predict(i.image, i.planes) for i in images]
    trainer, state = run.trainer, run.state
    kept = {
        k: copy.deepcopy(getattr(trainer, k).state_dict())
        for k in ("network", "ema_network", "optimizer")
    }
    numbers = {
        k: getattr(trainer, k)
        for k in ("steps", "ema_restart", "distillation", "focus", "_focus_until")
    }
    old_data = run.data
    kept_state = {k: copy.copy(v) for k, v in vars(state).items()}
    rng = np.random.default_rng(options.seed)
    rows = []
    for number in range(options.strokes):
        which = int(rng.integers(len(images)))
        image, truth = images[which], truths[which]
        plane = image.planes[int(rng.integers(len(image.planes)))]
        spot, value = mistakes(
            masks[which][plane], truth.labels[plane], image.labels[plane], image, plane, rng
        )
        wrong = spot & (masks[which][plane] != value)
        if wrong.sum() < 5:
            continue
        for k, v in kept.items():
            getattr(trainer, k).load_state_dict(copy.deepcopy(v))
        for k, v in numbers.items():
            setattr(trainer, k, v)
        for k, v in kept_state.items():
            setattr(state, k, copy.copy(v))
        run.data = old_data
        trainer.use(old_data)
        labels = image.labels.copy()
        labels[plane][spot] = value or BACKGROUND_LABEL
        newer = [replace(i, labels=labels) if n == which else i for n, i in enumerate(images)]
        newer_pairs = [p if n != which else newer[n].pair("strokes") for n, p in enumerate(pairs)]
        begun = time.perf_counter()
        list(run._renew(newer_pairs))
        seconds = time.perf_counter() - begun
        row = [seconds]

        def judge():
            predict = predictor(newest(run), 1)
            right = (predict(image.image, [plane])[plane][wrong] == value).mean()
            return right, score(tests, predict) - base

        row += judge()
        for later in options.later:
            for _ in range(later):
                list(run.step())
            row += judge()
        rows.append(row)
    r = np.array(rows)
    line = f"{data.name[:12]:12} base {base:.3f} n {len(r)} sec {np.median(r[:, 0]):.2f} | at once: answered {(r[:, 1] >= 0.5).mean():.2f} Dice {r[:, 2].mean():+.3f} ({r[:, 2].min():+.3f})"
    for k, later in enumerate(np.cumsum(options.later)):
        line += f" | +{later} steps: {(r[:, 3 + 2 * k] >= 0.5).mean():.2f} Dice {r[:, 4 + 2 * k].mean():+.3f} ({r[:, 4 + 2 * k].min():+.3f})"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="em_isbi2012,nuclei_fluo_dsb2018,phase_contrast_usiigaci")
    parser.add_argument("--strokes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--later", default="10,20,50")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", type=int, default=3)
    options = parser.parse_args()
    options.later = [int(x) for x in options.later.split(",")]
    for data in read_sets(options.data, options.sets):
        measure(data, options)


if __name__ == "__main__":
    main()
