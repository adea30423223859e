"""Demo: napari with the sample, prepared strokes and a live training.

``python -m napari_unetseg.gui.demo`` opens a window. With ``--headless`` it does the same without
a user (a screen such as Xvfb is still needed) and writes the results to a folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg import sample
from napari_unetseg.core.labels import Classes, LabelKind
from napari_unetseg.core.metrics import Scores, confusion, scores_of
from napari_unetseg.core.score_text import score_name, score_text
from napari_unetseg.io.open_image import open_stack

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_unetseg.gui.dock_widget import UNetDock

MINUTES = 1.5
SIZE = (1600, 1000)
PATIENCE = 900.0
"""Timeout in seconds of a demo with ``--headless``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _options(arguments)
    import napari

    viewer, dock = _open(options.minutes)
    if not options.headless:
        dock.train.button.click()
        napari.run()
        return 0
    try:
        return _run_headless(viewer, dock, options.out)
    finally:
        viewer.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="napari_unetseg.gui.demo", description="Open the sample in napari, train, show a mask."
    )
    parser.add_argument("--headless", action="store_true", help="leave results and end")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time to train")
    return parser.parse_args(arguments)


def _open(minutes: float) -> tuple[Viewer, UNetDock]:
    """Open a window with the sample's image and strokes, and the dock."""
    import napari
    from napari.layers import Layer

    from napari_unetseg.gui.dock_widget import UNetDock

    viewer = napari.Viewer(title="napari-unetseg demo")
    viewer.window.resize(*SIZE)
    for layer in sample.nuclei2d():
        viewer.add_layer(Layer.create(*layer))
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net segmentation", area="right")
    dock.session.change_settings(minutes=minutes)
    viewer.reset_view()
    return viewer, dock


def _run_headless(viewer: Viewer, dock: UNetDock, out: Path) -> int:
    session = dock.session
    _wait(lambda: bool(session.counts))
    dock.train.button.click()
    _say("Training …")
    _wait(lambda: session.job is None)
    prediction = dock.plugin.masks.current
    if session.entry is None or prediction is None or prediction.layer is None:
        _say(session.message.text)
        return 1
    end = time.monotonic() + 1.0  # the plot and the canvas are drawn in the next frames
    _wait(lambda: time.monotonic() > end)
    mask = np.asarray(prediction.layer.data)
    scores, voxels = _score(mask, session.training[0].labels.data)
    _write_out(viewer, dock, out, mask, scores)
    _say(session.result)
    _say(
        f"Dice {scores.mean_dice:.3f}, IoU {scores.mean_iou:.3f} against the ground truth "
        f"({voxels:,} pixels that were not painted). Results: {out.resolve()}"
    )
    return 0


def _wait(condition: Callable[[], bool]) -> None:
    """Process events until a condition holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"The demo made no progress within {PATIENCE:.0f} s.")
        QApplication.processEvents()
        time.sleep(0.01)


def _score(mask: np.ndarray, strokes: np.ndarray) -> tuple[Scores, int]:
    """Scores of a mask against the sample's ground truth where nothing was painted."""
    truth = np.asarray(open_stack(sample.sample_path("nuclei2d_mask.tif")).data[...])
    free = strokes == 0
    classes = Classes.find([({0: 1, 1: 1}, LabelKind.FULL)])
    counts = confusion((truth[free] > 0).astype(np.uint8), (mask[free] > 0).astype(np.uint8), 2)
    return scores_of(counts, classes), int(free.sum())


def _write_out(viewer: Viewer, dock: UNetDock, out: Path, mask: np.ndarray, scores: Scores) -> None:
    """Write screenshot, mask, model, curve and scores."""
    from napari_unetseg.io.write_masks import write_mask

    out.mkdir(parents=True, exist_ok=True)
    entry = dock.session.entry
    if entry is None:
        return
    record = entry.model.history[-1]
    write_mask(out / "mask.tif", mask, axes="YX")
    entry.model.save(out / "model.safetensors")
    dock.train.plot.grab().save(str(out / "curve.png"))
    viewer.screenshot(str(out / "window.png"), canvas_only=False, flash=False)
    report: dict[str, Any] = {
        "dice": scores.mean_dice,
        "iou": scores.mean_iou,
        "pixels": scores.voxels,
        "validation": record.scores and f"{score_name(record.scores)} {score_text(record.scores)}",
        "training_seconds": record.seconds,
        "steps": record.steps,
        "device": record.device,
        "threads": record.threads,
        "model": entry.model.id,
        "version": _version(),
    }
    (out / "scores.json").write_text(json.dumps(report, indent=2) + "\n")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _version() -> str:
    try:
        return version("napari-unetseg")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
