"""How long a stroke takes to be taken down and to be in the journal of a project.

    python benchmarks/journal.py [--folder FOLDER]

Strokes of several sizes at random places of a stack of 20 planes, each painted over what was there:
medians, 99th percentiles and maxima in ms of what the window waits for, the stroke's `Truth.note`
and the project's `record` together. Disk writes go to the folder's file system.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from napari_unetseg.core.truth import Origin, Truth
from napari_unetseg.io.project import Project

PLANES, SIDES = 20, (512, 2048)
KEY = "image-1"


def strokes(parent: Path | None, side: int, size: int, count: int) -> Iterator[float]:
    """Seconds that each of so many strokes takes; a size as large as the side is a whole fill."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        project, truth = Project.create(Path(folder) / "project"), Truth((PLANES, side, side))
        described = {"shape": list(truth.shape), "dtype": "uint8", "kind": "strokes"}
        project.put_values({"images": {KEY: described}})
        project.add(KEY, truth)
        rows, columns = np.ogrid[:size, :size]
        where = np.abs(rows - columns) < 5 if size < side else np.ones((size, size), bool)
        for number in range(count):
            y, x = (int(n) for n in rng.integers(0, side - size + 1, 2))
            z = int(rng.integers(PLANES))
            region = (slice(z, z + 1), slice(y, y + size), slice(x, x + size))
            values = truth.read(Origin.STROKES, region)
            values[0][where] = 1 + number % 200
            start = time.perf_counter()
            change = truth.note(Origin.STROKES, region, values)
            if change is not None:
                project.record(KEY, change)
            yield time.perf_counter() - start
        project.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path)
    parent = parser.parse_args(arguments).folder
    print(f"{'plane':>6}{'stroke':>8}{'median':>9}{'99 %':>9}{'largest':>9}   ms")
    for side in SIDES:
        for size, count in ((30, 500), (200, 500), (side, 40)):
            ms = [1000 * seconds for seconds in strokes(parent, side, size, count)]
            middle, late = np.percentile(ms, [50, 99])
            print(f"{side:6}{size:8}{middle:9.2f}{late:9.2f}{max(ms):9.2f}", flush=True)


if __name__ == "__main__":
    main()
