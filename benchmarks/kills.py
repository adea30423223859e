"""Kill a real window at random moments, open what it left, and compare voxel for voxel.

    python benchmarks/kills.py [--kills 50] [--seed 0]      (needs a screen, or xvfb-run)

A child opens a window with an image and does things as its seed says: paints, erases, fills, draws
polygons, undoes and redoes on the annotations and on the mask, accepts and takes back, predicts,
merges structures, saves. After each it reports a digest of all strokes, corrections and accepted
regions. One child is let go on and tells what the digests must be; the others are killed with
SIGKILL. What is read back must be what was there after the last reported action, or after the one
that was under way.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.gui.plugin import Plugin

SIDE, PLANES, ACTIONS = 200, 3, 60
ORIGINS = ("strokes", "corrections", "accepted")


def picture() -> np.ndarray:
    """Noise with bright squares, uint8."""
    image = np.random.default_rng(0).integers(0, 60, (PLANES, SIDE, SIDE)).astype(np.uint8)
    image[:, 40:120, 50:150] += 150
    return image


def digests(truth: ImageAnnotations) -> list[str]:
    """One for each origin, of values and places."""
    found = []
    for name in ORIGINS:
        grid = truth.grid(_origin(name))
        digest = hashlib.sha256()
        for cell in sorted(grid.cells()):
            chunk = grid.chunk(cell)
            assert chunk is not None
            digest.update(repr(cell).encode() + chunk.tobytes())
        found.append(digest.hexdigest()[:16])
    return found


def _origin(name: str) -> Any:
    from napari_unetseg.annotations.annotation_store import LabelSource

    return LabelSource(name)


# -- the child -------------------------------------------------------------------------------------


def child(home: Path, seed: int) -> None:
    """Open a window and act until killed, or until all is done."""
    os.environ.update(HOME=str(home), XDG_DATA_HOME=str(home), XDG_CONFIG_HOME=str(home))
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_unetseg.gui.dock_widget import UNetDock

    viewer = napari.Viewer(show=True)
    image = viewer.add_image(picture(), name="picture")
    dock = UNetDock(viewer)
    viewer.window.add_dock_widget(dock)
    plugin = dock.plugin
    plugin.sources.new_annotation()
    plugin.structures.add()
    hand = Hand(plugin, np.random.default_rng(seed))
    for number in range(ACTIONS):
        hand.act()
        while plugin.session.job is not None or plugin.jobs.idle_runs:
            QApplication.processEvents()
            time.sleep(0.002)
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            QApplication.processEvents()
        print("did", number, *digests(plugin.annotations.of(image)), flush=True)
    os._exit(0)


class Hand:
    """Does one thing after another, always the same for a seed."""

    def __init__(self, plugin: Plugin, rng: np.random.Generator) -> None:
        self.plugin, self.viewer, self.rng = plugin, plugin.viewer, rng
        self.mask((slice(0, PLANES), slice(0, SIDE), slice(0, SIDE)))

    def act(self) -> None:
        """Do something."""
        doings: list[tuple[float, Callable[[], None]]] = [
            (5, self.paint),
            (1, self.fill),
            (1, self.polygon),
            (3, self.undo),
            (1, self.redo),
            (2, self.plugin.review.accept_plane),
            (1, self.plugin.review.withdraw_plane),
            (1, self.plugin.review.drop_corrections_plane),
            (1, self.plugin.undo.undo),
            (2, self.predict),
            (1, self.save),
            (1, self.move),
            (0.3, lambda: self.plugin.classes.merge(2, 1)),
        ]
        weights = np.array([weight for weight, _ in doings])
        chosen = int(self.rng.choice(len(doings), p=weights / weights.sum()))
        doings[chosen][1]()

    def layer(self) -> Any:
        """The annotations, or the mask."""
        prediction = self.plugin.masks.current
        if self.rng.random() < 0.5 and prediction is not None and prediction.layer is not None:
            return prediction.layer
        return self.plugin.session.training[0].labels

    def place(self) -> tuple[int, ...]:
        """A voxel of the plane on screen."""
        plane = int(self.viewer.dims.current_step[0])
        return (plane, *(int(i) for i in self.rng.integers(5, SIDE - 5, 2)))

    def paint(self) -> None:
        """Paint or erase a stroke."""
        layer, start = self.layer(), np.array(self.place())
        layer.brush_size = int(self.rng.integers(3, 12))
        value = int(self.rng.choice([0, 1, 2, 255]))
        step = np.array([0, *self.rng.integers(-3, 4, 2)])
        with layer.block_history():
            for number in range(12):
                layer.paint(np.clip(start + number * step, 0, SIDE - 1), value)

    def fill(self) -> None:
        """Fill an area."""
        self.layer().fill(self.place(), int(self.rng.choice([0, 1, 255])))

    def polygon(self) -> None:
        """Fill a triangle."""
        layer, corners = self.layer(), [self.place() for _ in range(3)]
        layer.mode = "polygon"
        layer.paint_polygon(corners, 1)
        layer.mode = "pan_zoom"

    def undo(self) -> None:
        """Ctrl+Z."""
        self.layer().undo()

    def redo(self) -> None:
        """Ctrl+Shift+Z."""
        self.layer().redo()

    def move(self) -> None:
        """Go to another plane."""
        self.viewer.dims.set_current_step(0, int(self.rng.integers(PLANES)))

    def predict(self) -> None:
        """A new mask arrives in a part of the plane on screen."""
        plane, y, x = self.place()
        self.mask((slice(plane, plane + 1), slice(0, y), slice(0, x)))

    def mask(self, region: tuple[slice, ...]) -> None:
        """Write a mask as a model's tile is written."""
        plugin, image = self.plugin, self.plugin.session.image
        number = int(self.rng.integers(10**6))
        target = plugin.masks.open(image, f"model{number}", plugin.session.structures[:1])
        prediction = plugin.masks.predictions[image]
        shape = [s.stop - s.start for s in region]
        prediction.write(region, self.rng.integers(0, 2, shape).astype(np.uint8))
        target.detach()

    def save(self) -> None:
        """Join what was recorded."""
        project = self.plugin.store.project
        if project is not None:
            project.save()


# -- the parent ------------------------------------------------------------------------------------


def start(home: Path, seed: int) -> subprocess.Popen[str]:
    """A child that acts."""
    home.mkdir(parents=True)
    command = [sys.executable, __file__, "--child", str(home), "--seed", str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wanted(home: Path, seed: int) -> list[list[str]]:
    """The digests after each action, of a child that is let go on."""
    whole = start(home, seed)
    out, _ = whole.communicate(timeout=300)
    found = [line.split()[2:] for line in out.splitlines() if line.startswith("did ")]
    if len(found) != ACTIONS:
        raise RuntimeError(f"the child ended after {len(found)} of {ACTIONS} actions")
    return found


def kill_one(home: Path, seed: int, moment: float, digest: Sequence[Sequence[str]]) -> str:
    """Kill a child ``moment`` of its way; what was wrong with what it left, empty if nothing."""
    one = start(home, seed)
    assert one.stdout is not None
    last = -1
    while last < int(moment * (ACTIONS - 1)):
        line = one.stdout.readline()
        if not line:
            return "the child ended by itself"
        last = int(line.split()[1]) if line.startswith("did ") else last
    time.sleep(moment * 0.03)
    one.send_signal(signal.SIGKILL)
    rest = [line.split() for line in one.stdout.read().splitlines() if line.startswith("did ")]
    last = max([last, *(int(words[1]) for words in rest if len(words) == 2 + len(ORIGINS))])
    one.wait()
    one.stdout.close()
    found = left_in(home)
    if found is None:
        return "nothing was left" if any(d != digest[0] for d in digest[: last + 1]) else ""
    allowed = digest[last : last + 2]
    for place, name in enumerate(ORIGINS):
        if found[place] not in {states[place] for states in allowed}:
            return f"{name} after action {last} are others than they were"
    return ""


def left_in(home: Path) -> list[str] | None:
    """The digests of what a killed window left."""
    from napari_unetseg.io.project.project import Project

    for folder in home.glob("napari-unetseg/recovery/*"):
        project = Project.open(folder)
        try:
            return digests(project.by_image["image-1"])
        finally:
            project.close()
    return None


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Kill so many windows; returns what was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child, options.seed)
    wrong = []
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        seeds = [options.seed + n for n in range(max(1, options.kills // 10))]
        digest = {seed: wanted(Path(folder) / f"whole{seed}", seed) for seed in seeds}
        for number in range(options.kills):
            seed = seeds[number % len(seeds)]
            home = Path(folder) / f"killed{number}"
            problem = kill_one(home, seed, chance.random(), digest[seed])
            print(f"kill {number + 1}: {problem or 'all there'}", flush=True)
            wrong += [problem] if problem else []
    print(f"{options.kills} kills, {len(wrong)} with losses")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
