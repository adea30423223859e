"""From a stroke to its offer to a running training, and the longest call of the GUI thread.

    python benchmarks/offers.py [--planes 130] [--side 1600] [--strokes 15] [--period 0.6]
        [--corrections]

A stack whose planes are all painted on, the real plugin with its worker threads, and in the
place of the network a training that only takes what it is offered. No window: this thread calls
what the window's timer would. A stroke is painted each period; noted are the seconds until the
training was offered it, and for each kind of call of the GUI thread the longest one: beginning a
training, a stroke, a tick. With ``--corrections`` every plane has a mask with a correction too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels

import napari_unetseg.training.train as core_train
from napari_unetseg.annotations.annotation_store import AnnotationChange, LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services.job_runner import ThreadRunner
from napari_unetseg.io.project import locations
from napari_unetseg.training.training_events import StepDone

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.data.annotated_image import AnnotatedImage

TICK, PATIENCE = 0.01, 10.0
DAB = 12


class Offers:
    """In the place of the network's training: notes when it is offered each stroke."""

    def __init__(self) -> None:
        self.began = 0.0
        self.newest: tuple[AnnotatedImage, ...] = ()
        self.took: list[tuple[float, tuple[AnnotatedImage, ...]]] = []

    def __call__(self, *_: Any, control: JobControl, **__: Any) -> Generator[Event, None, None]:
        """Yield steps until stopped."""
        self.began, step = time.perf_counter(), 0
        while not control.stopped:
            if newer := control.pop_annotations():
                self.took.append((time.perf_counter(), newer))
            step += 1
            yield StepDone(step, 0, 0.5, 0.01 * step, None)
            time.sleep(TICK)
        raise UserError("It was stopped, and there is no model.")

    def first_with(self, where: tuple[int, ...], value: int) -> float | None:
        """When what was offered first had that value at a place."""
        *plane, y, x = where
        for seconds, pairs in self.took:
            if np.asarray(pairs[0].labels[tuple(plane)])[y, x] == value:
                return seconds
        return None


class GuiThread:
    """Calls what a window would, and remembers the longest call of each kind.

    Seconds are the clock's and the thread's own on the CPU: on a machine with other work the clock
    counts how long the thread waited for a core, too.
    """

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.longest: dict[str, tuple[float, float]] = {}

    def call(self, kind: str, function: Callable[[], object]) -> None:
        """Call it; seconds count for its kind."""
        start, busy = time.perf_counter(), time.thread_time()
        function()
        took = time.perf_counter() - start, time.thread_time() - busy
        known = self.longest.get(kind, (0.0, 0.0))
        self.longest[kind] = max(known[0], took[0]), max(known[1], took[1])

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Tick for so long, or until it is done."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and not done():
            self.call("tick", self.plugin.tick)
            time.sleep(TICK)


def painted(planes: int, side: int) -> np.ndarray:
    """Strokes on every plane: a structure along diagonals, background between them."""
    rows, columns = np.ogrid[:side, :side]
    one = np.zeros((side, side), np.uint8)
    one[(rows + columns) % 200 < 4] = 1
    one[(rows - columns) % 300 < 4] = BACKGROUND_LABEL
    data = np.zeros((planes, side, side), np.uint8)
    data[:] = one
    return data


def correct(plugin: Plugin, planes: int, side: int) -> None:
    """Put a correction on each plane, as painting on masks does."""
    image = plugin.session.image
    truth = plugin.annotations.of(image)
    for plane in range(planes):
        region = (slice(plane, plane + 1), slice(0, side // 2), slice(0, side // 2))
        values = truth.read(LabelSource.CORRECTIONS, region)
        values[:, ::9] = 1
        change = truth.record(LabelSource.CORRECTIONS, region, values)
        if isinstance(change, AnnotationChange):
            plugin.annotations.changed(image, change)


def measure(options: argparse.Namespace) -> None:
    """Paint, measure, print."""
    planes, side = options.planes, options.side
    plane = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    viewer = ViewerModel()
    viewer.add_layer(Image(np.broadcast_to(plane, (planes, side, side))))
    plugin = Plugin(viewer, ThreadRunner())
    layer = viewer.add_layer(Labels(painted(planes, side)))
    gui, training = GuiThread(plugin), Offers()
    core_train.train_events = training  # type: ignore[assignment]
    plugin.sources.choose_labels(layer, LabelKind.STROKES)
    if options.corrections:
        correct(plugin, planes, side)
    layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 1)
    gui.run(options.settle)
    gui.longest.clear()

    gui.call("train", plugin.training.start)
    gui.run(10 * PATIENCE, lambda: training.began > 0)
    offered: list[tuple[float, tuple[int, ...], int]] = []
    rng = np.random.default_rng(1)
    for _ in range(options.strokes):
        where = (int(rng.integers(planes)), *(int(n) for n in rng.integers(0, side - DAB, 2)))
        value = 1 if layer.data[where] != 1 else BACKGROUND_LABEL
        index = np.meshgrid(*[np.arange(DAB)] * 2, indexing="ij")
        at = (np.full(DAB * DAB, where[0]), *(where[1 + i] + index[i].ravel() for i in range(2)))
        start = time.perf_counter()
        gui.call("stroke", lambda at=at, value=value: layer.data_setitem(at, value))
        offered.append((start, where, value))
        gui.run(options.period - (time.perf_counter() - start))
    gui.run(PATIENCE, lambda: training.first_with(*offered[-1][1:]) is not None)
    gui.call("stop", plugin.jobs.stop)
    gui.run(PATIENCE, lambda: plugin.session.job is None)

    found = [(training.first_with(where, value), start) for start, where, value in offered]
    waits = sorted(seconds - start for seconds, start in found if seconds is not None)
    waits = waits or [float("nan")]
    last = offered[-1][0]
    meanwhile = sum(seconds is not None and seconds <= last for seconds, _ in found)
    print(
        f"{planes} planes of {side}²{', corrections' if options.corrections else ''}: "
        f"{meanwhile} of {len(offered)} strokes offered while painting; stroke → offer "
        f"first {(found[0][0] or np.nan) - found[0][1]:.2f} s, median {median(waits):.2f} s, "
        f"longest {waits[-1]:.2f} s, never {sum(seconds is None for seconds, _ in found)}"
    )
    calls = (f"{k} {1000 * s:.0f} ({1000 * c:.0f})" for k, (s, c) in gui.longest.items())
    print(f"longest call of the GUI thread, ms of the clock (on the CPU): {', '.join(calls)}")
    plugin.close()


def main() -> None:
    """Read options, measure; what is kept goes to a folder that is deleted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--planes", type=int, default=130)
    parser.add_argument("--side", type=int, default=1600)
    parser.add_argument("--strokes", type=int, default=15)
    parser.add_argument("--period", type=float, default=0.6)
    parser.add_argument("--settle", type=float, default=8.0, help="seconds before the training")
    parser.add_argument("--corrections", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        locations.platformdirs.user_data_dir = lambda *_, **__: str(Path(folder) / "data")
        locations.platformdirs.user_config_dir = lambda *_, **__: str(Path(folder) / "config")
        measure(options)


if __name__ == "__main__":
    main()
