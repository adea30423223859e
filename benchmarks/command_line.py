"""Train on strokes and score on test images, through the command line alone.

    python benchmarks/command_line.py DATA [--sets A,B] [--dims D] [--minutes M] [--json FILE]

DATA is a folder with ``benchmark.tsv`` (see ``sets.py``). Of a stack the strokes are in some planes
and the score is that of others. Nothing is tuned to a set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sets import BenchmarkSet, find, read_sets

from napari_unetseg.io.open_image import open_labels, stem_of
from napari_unetseg.io.write_masks import write_mask

UNSCORED = 65535
"""Value of masks in planes that are not to be scored."""


def link(items: Sequence[str], source: Path, target: Path) -> Path:
    """A folder with links to the items; a label may have another suffix than its image."""
    target.mkdir(parents=True)
    for item in dict.fromkeys(items):
        file = find(source, item)
        (target / file.name).symlink_to(file.resolve())
    return target


def held_out(data: BenchmarkSet, target: Path) -> Path:
    """Masks of the test items in a folder; of a stack, other planes are not to be scored."""
    source = data.folder / "masks"
    if data.axes in ("YX", "YXS"):
        return link([item.file for item in data.test], source, target)
    target.mkdir(parents=True)
    for name in dict.fromkeys(item.file for item in data.test):
        truth = np.asarray(open_labels(find(source, name)))
        kept = np.full(truth.shape, UNSCORED, np.uint16)
        for item in data.test:
            where = item.plane if item.plane is not None else ...
            if item.file == name:
                kept[where] = truth[where]
        write_mask(target / f"{stem_of(name)}.tif", kept, axes=data.axes)
    return target


def unetseg(*arguments: object) -> float:
    """Run the command; return its wall time in seconds."""
    started = time.monotonic()
    command = [sys.executable, "-m", "napari_unetseg", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def run_set(data: BenchmarkSet, options: list[object], dims: int) -> dict[str, Any]:
    """Train, predict and evaluate one set."""
    root, kind = data.folder, "instances" if data.instances else "full"
    said: list[object] = [] if data.axes == "YXS" else ["--axes", data.axes]
    scoring: list[object] = ["--labels", kind, *said]
    if data.axes not in ("YX", "YXS"):
        scoring += ["--ignore", UNSCORED]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        train, test = ([item.file for item in items] for items in (data.train, data.test))
        images = link(train, root / "images", work / "train")
        labels = link(train, root / "scribbles", work / "strokes")
        test_images = link(test, root / "images", work / "test")
        masks = held_out(data, work / "masks")
        model, scores = work / "model.safetensors", work / "scores.json"
        trained = unetseg(
            "train",
            images,
            labels,
            "-o",
            model,
            "--labels",
            "strokes",
            *said,
            "--dims",
            dims,
            *options,
        )
        scored = unetseg("evaluate", model, test_images, masks, *scoring, "--json", scores)
        predicted = unetseg("predict", model, test_images, "-o", work / "out", *said)
        assert len(list((work / "out").iterdir())) == len(set(test))
        found = json.loads(scores.read_text())
    return {
        "scores": found,
        "train_seconds": trained,
        "evaluate_seconds": scored,
        "predict_seconds": predicted,
    }


def main() -> None:
    """Read the arguments, run every set, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="", help="comma-separated; default all")
    parser.add_argument("--dims", type=int, default=2, choices=(2, 3))
    parser.add_argument("--minutes", type=float, help="default: training ends by itself")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    extra: list[object] = ["--threads", options.threads]
    extra += ["--minutes", options.minutes] if options.minutes else []
    results = {}
    print(f"{'set':28} {'Dice':>6} {'train s':>8} {'evaluate s':>10}")
    for data in read_sets(options.data, options.sets):
        if options.dims == 3 and "Z" not in data.axes:
            continue
        result = run_set(data, extra, options.dims)
        results[data.name] = result
        print(
            f"{data.name:28} {result['scores']['mean_dice']:6.3f} {result['train_seconds']:8.1f} "
            f"{result['evaluate_seconds']:10.1f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
