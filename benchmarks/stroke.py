"""From the end of a stroke to a mask that has learned from it, in a real window.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/stroke.py [--strokes 12] [--ended]
                                                                       [--data DATA --set NAME]

The sample's nuclei (512 × 512) with its strokes, or the first training image of a set (see
``sets.py``) with a part of its strokes (``--share``); a live training goes on. Then strokes of the
true class are painted one after another, as a user would: where the mask on screen is wrong. Noted
are the seconds until the training has taken a stroke, until a newer model's mask is on screen, and
until that mask has at least half of the stroke's wrong voxels right; and the Dice of the whole
image before, then, and ten seconds later. A stroke in a validation block is not learned from but
scored on, so that these are counted apart. A stroke that confirms what the mask says already needs
no newer mask, and none is painted. With ``--ended`` each stroke comes after a training that has
ended by itself, and begins one anew.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import tifffile
from painter import part_of
from scipy.ndimage import distance_transform_edt, maximum_filter
from sets import pooled_dice, read_sets
from window import Layers, open_window, run_event_loop, sample_layers

from napari_unetseg.core.labels import BACKGROUND_LABEL, IGNORE_INDEX
from napari_unetseg.data.validation_split import split_train_validation
from napari_unetseg.gui.layers import stack_of
from napari_unetseg.gui.state.session import MarkKind

SAMPLE = Path(__file__).resolve().parents[1] / "sample_data" / "nuclei2d_mask.tif"
PATIENCE, SOON, LATER = 20.0, 1.5, 10.0
SIZE, LENGTH = 5, 12
DEEPEST = 30
"""Of so many of the deepest mistakes one is painted on."""


@dataclass(slots=True)
class Found:
    """What became of a stroke: seconds, None if not in time."""

    held_out: bool
    taken: float | None = None
    newer: float | None = None
    right: float | None = None
    dice: float = 0.0
    """Dice of the whole image when the stroke was painted,"""
    answered: float | None = None
    later: float = 0.0
    """and its changes when the stroke was right, and `LATER` seconds after that."""


class Hand:
    """Paints strokes of the true class where the mask on screen is wrong."""

    def __init__(self, dock: Any, truth: np.ndarray) -> None:
        self.plugin, self.session, self.truth = dock.plugin, dock.session, truth
        self.rng = np.random.default_rng(0)

    @property
    def mask(self) -> np.ndarray:
        """The mask on screen."""
        return np.asarray(self.plugin.masks.current.layer.data)

    def held_out(self) -> np.ndarray:
        """Where strokes are scored on, or in the guard of such a block."""
        stack = stack_of(self.session.image)
        target = np.zeros(self.truth.shape, np.uint8)
        train, *_ = split_train_validation(
            target, stack.fingerprint(), stack.spatial_spacing(2), 0.15
        )
        return np.asarray(train == IGNORE_INDEX)

    def stroke(self) -> tuple[np.ndarray, np.ndarray]:
        """Paint one; where it is, and where the mask is wrong of it."""
        layer = self.session.training[0].labels
        wrong = (self.mask != self.truth) & (np.asarray(layer.data) == 0)
        depth = distance_transform_edt(wrong)
        deep = depth >= min(SIZE / 2, depth.max())  # where the brush fits in
        peaks = np.flatnonzero((depth == maximum_filter(depth, 2 * LENGTH)) & deep)
        deepest = peaks[np.argsort(depth.ravel()[peaks])[-DEEPEST:]]
        y, x = np.unravel_index(self.rng.choice(deepest), wrong.shape)
        value = self.truth[y, x]
        spot = np.zeros(wrong.shape, bool)
        spot[
            max(0, y - SIZE // 2) : y + SIZE // 2 + 1, max(0, x - LENGTH // 2) : x + LENGTH // 2
        ] = True
        spot &= self.truth == value
        with layer.block_history():
            layer.data_setitem(np.nonzero(spot), int(value) or BACKGROUND_LABEL)
        return spot, spot & (self.mask != self.truth)

    def look(self, ended: bool) -> Found:
        """Paint a stroke and wait for what becomes of it."""
        session, model = self.session, self.plugin.masks.current.masks.model_id

        def taken() -> int:
            return sum(mark.kind is MarkKind.STROKES for mark in session.marks)

        before, job = taken(), session.job
        spot, wrong = self.stroke()
        found = Found(bool(self.held_out()[spot].mean() > 0.5))
        wanted, start = self.truth[wrong], time.perf_counter()

        def all_known() -> bool:
            now = time.perf_counter() - start
            if found.taken is None and (taken() > before or (ended and session.job is not job)):
                found.taken = now
            if found.newer is None and self.plugin.masks.current.masks.model_id != model:
                found.newer = now
            if found.newer is not None and (self.mask[wrong] == wanted).mean() >= 0.5:
                found.right = now
            return found.right is not None

        found.dice = self.dice()
        run_event_loop(PATIENCE, all_known)
        found.answered = self.dice() - found.dice if found.right is not None else None
        run_event_loop(LATER)
        found.later = self.dice() - found.dice
        return found

    def dice(self) -> float:
        """Mean Dice over structures of the mask on screen."""
        mask = np.asarray(self.plugin.masks.current.layer.data)
        return pooled_dice([(mask.astype(np.uint8), self.truth)])


def layers_of(options: argparse.Namespace) -> tuple[Layers, np.ndarray]:
    """The layers to open, and the truth of the image."""
    if options.data is None:
        return sample_layers(512), (tifffile.imread(SAMPLE) > 0).astype(np.uint8)
    (data,) = read_sets(options.data, options.set)
    image, truth = data.training()[0], data.training("full")[0]
    (labels,) = part_of([image], options.share, np.random.default_rng(0))
    plane = image.planes[0]
    pixels = image.image.read(plane, image.image.whole(2))
    rgb = len(pixels) == 3
    shown = np.moveaxis(pixels, 0, -1) if rgb else pixels[0]
    layers: Layers = [
        (shown, {"name": "image", "rgb": rgb}, "image"),
        (labels[plane], {"name": "annotations"}, "labels"),
    ]
    return layers, truth.labels[plane]


def measure(options: argparse.Namespace) -> list[Found]:
    """What became of the strokes."""
    layers, truth = layers_of(options)
    ended = options.ended
    _, dock = open_window(512, (1366, 768), layers)
    session = dock.session
    hand = Hand(dock, truth)
    if ended:
        session.settings = session.settings.model_copy(update={"patience": 2})
    run_event_loop(2.0)
    dock.train.button.click()
    run_event_loop(60.0, lambda: session.job is not None and session.job.text.startswith("Step"))
    run_event_loop(10.0)
    found = []
    for _ in range(options.strokes):
        if ended:
            run_event_loop(120.0, lambda: session.job is None)
            run_event_loop(2.0)
        found.append(hand.look(ended))
        print(found[-1], flush=True)
    return found


def line(name: str, seconds: Sequence[float | None]) -> str:
    """A line of the table."""
    known = [one for one in seconds if one is not None]
    middle = f"median {median(known):.1f}, largest {max(known):.1f} s" if known else "-"
    soon = sum(one <= SOON for one in known)
    shares = f"{soon} of {len(seconds)} in {SOON:g} s, {len(known)} in {PATIENCE:g} s"
    return f"  {name:6}: {shares}; {middle}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--strokes", type=int, default=12)
    parser.add_argument("--ended", action="store_true")
    parser.add_argument("--data", type=Path, help="folder with benchmark.tsv")
    parser.add_argument("--set", default="", help="a set of it")
    parser.add_argument("--share", type=float, default=0.3, help="of the set's strokes")
    options = parser.parse_args(arguments)
    found = measure(options)
    for held_out, name in ((False, "strokes that train"), (True, "strokes in validation blocks")):
        mine = [one for one in found if one.held_out is held_out]
        print(name)
        for what in ("taken", "newer", "right"):
            print(line(what, [getattr(one, what) for one in mine]), flush=True)
        for what in ("answered", "later"):
            changes = [value for one in mine if (value := getattr(one, what)) is not None]
            if changes:
                print(f"  Dice, {what}: mean {mean(changes):+.3f}, least {min(changes):+.3f}")
    os._exit(0)


if __name__ == "__main__":
    main()
