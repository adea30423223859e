"""From the end of a stroke to a mask of a model that has learned from it, in a real window.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/stroke.py [--strokes 8]

The sample's nuclei (512 × 512) with its strokes; a live training goes on. Then strokes of the true
structure are painted at random places, one after another. Noted are the seconds until the training
has taken a stroke, and until the mask on screen is that of a model shown after that. A model is
shown only if it scores better on the validation blocks: where none does in time, the mask stays,
and that is counted apart.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile
from window import open_window, run_event_loop

from napari_unetseg.core.labels import BRUSH
from napari_unetseg.gui.session import MarkKind

SAMPLE = Path(__file__).resolve().parents[1] / "sample_data" / "nuclei2d_mask.tif"
PATIENCE = 20.0
SIZE, LENGTH = 5, 12


def stroke(layer: Any, truth: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a short stroke that stays within one class."""
    while True:
        start = rng.integers(SIZE, np.array(truth.shape) - SIZE - LENGTH)
        row = truth[start[0], start[1] : start[1] + LENGTH]
        if (row == row[0]).all():
            break
    layer.brush_size = SIZE
    with layer.block_history():
        for step in range(LENGTH):
            layer.paint((start[0], start[1] + step), int(row[0]) or BRUSH)


def measure(count: int) -> list[tuple[float | None, float | None]]:
    """Seconds until each stroke was taken, and until a newer mask; None if not in time."""
    _, dock = open_window(512, (1366, 768))
    controller, session = dock.controller, dock.session
    truth = (tifffile.imread(SAMPLE) > 0).astype(np.uint8)
    run_event_loop(2.0)
    dock.train.button.click()
    run_event_loop(60.0, lambda: session.job is not None and session.job.text.startswith("Step"))
    run_event_loop(5.0)
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        if session.job is None:  # it ended by itself: strokes begin it anew
            run_event_loop(1.0)

        def taken() -> int:
            return sum(mark.kind is MarkKind.STROKES for mark in session.marks)

        before = taken()
        stroke(session.training[0].labels, truth, rng)
        start = time.perf_counter()
        run_event_loop(PATIENCE, lambda n=before: taken() > n)
        learned = time.perf_counter() - start if taken() > before else None
        prediction = controller.prediction
        model = prediction.model_id if prediction else None
        run_event_loop(PATIENCE, lambda m=model: controller.prediction.model_id != m)
        newer = controller.prediction.model_id != model
        found.append((learned, time.perf_counter() - start if newer else None))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--strokes", type=int, default=8)
    found = measure(parser.parse_args(arguments).strokes)
    for name, place in (("taken", 0), ("newer mask", 1)):
        seconds = [one[place] for one in found if one[place] is not None]
        middle = f"{median(seconds):.1f}, largest {max(seconds):.1f}" if seconds else "-"
        print(f"{name:11}: {len(seconds)} of {len(found)} in time; median {middle} s", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
