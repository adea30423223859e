"""A stack of 100 GB in the real window: opened, painted on, trained, scrolled with live prediction.

It is opened with our reader from an OME-Zarr folder (`stacks.py`), some strokes are painted on one
plane and trained on, then planes are scrolled through as a person does: runs of planes, a tenth of
a second each, and stops. Measured are the lateness of the event loop, the memory, and how long it
takes until the mask of a plane that was stopped at is there. First the same planes are scrolled
through in napari alone, without the dock: the image, then with two empty Labels layers in files, as
many as the plugin shows. What that takes is napari's own and the machine's.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/scale_window.py FOLDER [--size 100]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from home import leave_home
from stacks import make_stack, n_planes
from window import Stopwatch, run_event_loop, show_lateness, summary

RUN, PAUSE = 12, 0.1
"""Planes that are scrolled through before a stop, and seconds on each."""
PATIENCE = 30.0
"""Seconds that a mask is waited for."""


def memory_mb() -> dict[str, float]:
    """Memory of this process: its own, and pages of files that the system may take back."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"own": "RssAnon", "files": "RssFile", "peak": "VmHWM"}
    return {k: int(lines[name].split()[0]) * 1024 / 1e6 for k, name in names.items()}


def paint(layer: Any, image: np.ndarray, plane: int, strokes: int) -> None:
    """Dabs on the brightest and the darkest places of a plane."""
    from scipy.ndimage import uniform_filter

    smooth = uniform_filter(image.astype(np.float32), 7)[64:-64, 64:-64]
    rng, (low, high) = np.random.default_rng(0), np.percentile(smooth, (30, 95))
    layer.brush_size = 7
    for number, where in ((1, smooth >= high), (255, smooth <= low)):
        found = np.argwhere(where) + 64
        for y, x in found[rng.choice(len(found), strokes, replace=False)]:
            layer.paint((plane, int(y), int(x)), number)


def scroll_alone(path: Path, window: tuple[int, int], stops: int) -> dict[str, list[float]]:
    """Lateness while the image is scrolled through without the plugin's dock, and with labels."""
    import napari

    viewer = napari.Viewer()
    viewer.window.resize(*window)
    watch = Stopwatch()
    with TemporaryDirectory() as folder:
        (layer,) = viewer.open(str(path), plugin="napari-unetseg")
        for labels in range(3):
            if labels:
                file = Path(folder) / str(labels)
                data = np.memmap(file, np.uint8, "w+", shape=layer.data.shape)
                viewer.add_labels(data, scale=layer.scale)
            viewer.dims.set_current_step(0, 100)
            run_event_loop(3.0)
            with watch.measuring(f"napari alone, {labels} labels layers"):
                for plane in range(200, 200 + RUN * stops):
                    viewer.dims.set_current_step(0, plane)
                    run_event_loop(PAUSE)
        viewer.close()
    watch.stop()
    return dict(watch.late)


class Session:
    """The window, and what is measured in it."""

    def __init__(self, path: Path, window: tuple[int, int]) -> None:
        import napari

        from napari_unetseg.gui.dock_widget import UNetDock

        self.viewer = napari.Viewer()
        self.viewer.window.resize(*window)
        self.dock = UNetDock(self.viewer)
        self.viewer.window.add_dock_widget(self.dock, name="U-Net segmentation")
        run_event_loop(3.0)
        self.watch, self.seconds = Stopwatch(), {}
        self.memory = {"before": memory_mb()}
        self.path = path

    def step(self, name: str, work: Callable[[], object], until: Callable[[], bool]) -> None:
        """Do something, wait until it is done; its seconds, lateness and memory."""
        with self.watch.measuring(name):
            begun = time.perf_counter()
            work()
            run_event_loop(600.0, until)
            self.seconds[name] = time.perf_counter() - begun
            run_event_loop(1.0)
        self.memory[name] = memory_mb()
        print(name, round(self.seconds[name], 2), self.memory[name], flush=True)

    def show(self, plane: int) -> None:
        """Move the slider."""
        self.viewer.dims.set_current_step(0, plane)

    def scroll(self, name: str, first: int, stops: int) -> list[float]:
        """Scroll and stop; seconds until the mask in sight was there after each stop."""
        waited = []
        with self.watch.measuring(name):
            for stop in range(stops):
                for plane in range(first + RUN * stop, first + RUN * (stop + 1)):
                    self.show(plane)
                    run_event_loop(PAUSE)
                waited.append(self.wait_for_mask(plane))
                run_event_loop(0.5)
        self.memory[name] = memory_mb()
        return waited

    def wait_for_mask(self, plane: int) -> float:
        """Seconds from now until the mask in sight is shown."""
        from napari_unetseg.gui.layers import region_on_screen

        plugin, image = self.dock.plugin, self.dock.session.image
        prediction = plugin.masks.predictions[image]
        whole = (slice(plane, plane + 1), *region_on_screen(image, 2))
        begun = time.perf_counter()
        fresh = prediction.masks._fresh

        def there() -> bool:
            return bool(prediction.masks._fresh.holds((plane,), whole[1:]))

        assert fresh is prediction.masks._fresh
        run_event_loop(PATIENCE, there)
        return time.perf_counter() - begun


def measure(path: Path, window: tuple[int, int], stops: int, shot: Path | None) -> dict[str, Any]:
    """All of it, in order."""
    leave_home()
    alone = scroll_alone(path, window, stops)
    one = Session(path, window)
    viewer, session, plane = one.viewer, one.dock.session, 100
    one.step(
        "opening",
        lambda: viewer.open(str(path), plugin="napari-unetseg"),
        lambda: session.image is not None,
    )
    one.step("another plane", lambda: one.show(plane), lambda: True)
    one.step(
        "new layer",
        one.dock.plugin.sources.new_annotation,
        lambda: session.source().labels is not None,
    )
    image = np.asarray(session.image.data[0][plane])
    one.step("painting", lambda: paint(session.source().labels, image, plane, 60), lambda: True)
    session.change_settings(minutes=0.25, threads=1)
    one.step("training", one.dock.train.button.click, lambda: session.job is None)
    waited = {"whole plane": one.scroll("scrolling, whole planes in sight", 200, stops)}
    viewer.scene.camera.zoom *= 4.0
    run_event_loop(1.0)
    waited["part"] = one.scroll("scrolling, a quarter in sight", 600, stops)
    run_event_loop(5.0)
    if shot is not None:
        viewer.screenshot(str(shot), canvas_only=False, flash=False)
    shown = [s.stop - s.start for s in _in_sight(session.image)]
    late = summary(alone | one.watch.late)
    viewer.close()
    return {"late_ms": late, "memory_mb": one.memory, "seconds": one.seconds, "mask_s": waited} | {
        "part_px": shown
    }


def _in_sight(image: Any) -> tuple[slice, ...]:
    from napari_unetseg.gui.layers import region_on_screen

    return region_on_screen(image, 2)


def main() -> int:
    """Print tables; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the stack is made, and left")
    parser.add_argument("--size", type=float, default=100.0, help="GB")
    parser.add_argument("--stops", type=int, default=9)
    parser.add_argument("--window", type=int, nargs=2, default=(1366, 768), metavar=("W", "H"))
    parser.add_argument("--shot", type=Path, help="a picture of the window at the end")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    path = options.folder / f"{options.size:g}gb.zarr"
    if not path.exists():
        make_stack(path, n_planes(options.size * 1e9))
    report = measure(path, tuple(options.window), options.stops, options.shot)
    show_lateness(report["late_ms"])
    for name, values in report["mask_s"].items():
        print(f"mask of a {name}: median {median(values):.2f} s, longest {max(values):.2f} s")
    if options.json:
        cores = {"cores": os.cpu_count(), "qt": os.environ.get("QT_API", "")}
        options.json.write_text(json.dumps(cores | report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
