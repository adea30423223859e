"""How long a stroke takes to be taken down and to be in the database of a project.

    python benchmarks/journal.py [--folder FOLDER]

Strokes of several sizes at random places of a stack of 20 planes, each painted over what was there:
medians, 99th percentiles and maxima in ms of what the window waits for, recording a stroke in
`ImageAnnotations` and in the project. Disk writes go to the folder's file system. A stroke as large
as the plane is a fill: of all of it, or around objects. What a fill puts off
(`ImageAnnotations.flush`) is done between strokes in slices, as the window's timer does; the
longest of them is given too. The clock is the wall's, or with ``--cpu`` that of the thread, for a
machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.io.project.project import Project

PLANES, SIDES = 20, (512, 2048)
KEY = "image-1"
FILLS = (("fill", 0, 100), ("around", 0, 100))


def brush(side: int, size: int, *, around: bool) -> np.ndarray:
    """What is painted: a diagonal, the whole plane, or the plane around objects."""
    rows, columns = np.ogrid[:size, :size]
    if size < side:
        return np.abs(rows - columns) < 5
    objects = np.hypot(rows % 64 - 32, columns % 64 - 32) < 18
    return ~objects if around else np.ones((size, size), bool)


def strokes(
    parent: Path | None,
    side: int,
    size: int,
    count: int,
    *,
    around: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[float, float]]:
    """Seconds of each of so many strokes, and of the longest slice of what it put off.

    A size as large as the side is a fill.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        project, truth = (
            Project.create(Path(folder) / "project"),
            ImageAnnotations((PLANES, side, side)),
        )
        described = {"shape": list(truth.shape), "dtype": "uint8", "kind": "strokes"}
        project.put_values({"images": {KEY: described}})
        project.add(KEY, truth)
        where = brush(side, size, around=around)
        for number in range(count):
            y, x = (int(n) for n in rng.integers(0, side - size + 1, 2))
            z = int(rng.integers(PLANES))
            region = (slice(z, z + 1), slice(y, y + size), slice(x, x + size))
            values = truth.read(LabelSource.STROKES, region)
            values[0][where] = 1 + number % 200
            start = clock()
            change = truth.record(LabelSource.STROKES, region, values)
            if change is not None:
                project.record(KEY, change)
            taken, slices, settled = clock() - start, [], False
            while not settled:
                start = clock()
                settled = truth.flush()
                slices.append(clock() - start)
            yield taken, max(slices)
        project.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cpu", action="store_true", help="CPU time of the thread")
    options = parser.parse_args(arguments)
    clock = time.thread_time if options.cpu else time.perf_counter
    print(f"{'plane':>6}{'stroke':>8}{'median':>9}{'99 %':>9}{'largest':>9}{'slice':>9}   ms")
    for side in SIDES:
        for name, size, count in (("30", 30, 500), ("200", 200, 500), *FILLS):
            around = name == "around"
            each = strokes(options.folder, side, size or side, count, around=around, clock=clock)
            ms, slices = 1000 * np.array(list(each)).T
            middle, late = np.percentile(ms, [50, 99])
            line = f"{side:6}{name:>8}{middle:9.2f}{late:9.2f}{ms.max():9.2f}{slices.max():9.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
