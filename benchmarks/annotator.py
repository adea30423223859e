"""A simulated annotator: Dice on held-out images against simulated minutes of work.

    python benchmarks/annotator.py DATA [--sets A,B] [--seeds 0] [--minutes 10] [--ways random,next]

It is a simulation: an artificial hand (``hand.py``) that knows the truth works with the real
session and plugin of the dock and a viewer without a window, and the network really trains.
People are slower, err, and see more than the largest error; the times mean something beside each
other only.

All images of a set that are not held out are open, each with an annotation layer. The hand paints
a few strokes of every class on the first image, presses Train, and from then on goes from place to
place: it looks, waits for the mask, paints at the largest errors that are seen and a few strokes
where the mask is right. Training goes on from the model whenever it ended. The ways differ in this:

- ``random``: places are drawn at random, images and places alike;
- ``foreground``: as ``random``, but two of three places are around a voxel that is predicted as a
  structure, in a plane that is drawn at random (foreground-aware random, nnActive, arXiv
  2511.19183); what the prediction takes is not charged;
- ``next``: the dock's Next says where to go;
- ``corrections``: as ``next``, but the hand paints on the prediction layer;
- ``forest``: random places, with a random forest (``forest.py``) in the network's place.

``object_annotator.py`` is the same for numbered objects, corrected by gestures.

**The clock.** A second of the hand is a CPU second of training on one thread. The job runs in
turns with the hand, in the same thread: after every movement it is given that movement's time.
Waiting for a mask, or for Next, is waiting. What Next computes beside the job is taken from the
training's time; of the forest's time its features are not charged, and a forest that is being
fitted is shown at once and paid for by later ones being late. Dice is taken every so many minutes,
and costs no time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from forest import Forest, features
from hand import KEY, LOOK, Hand, box_around
from home import leave_home
from napari.components import ViewerModel
from napari.layers import Image, Labels
from sets import Annotated, BenchmarkSet, Item, predictor, read_sets, score
from watch import add_options, machine, make_settings, write_json

from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.state.session import Session
from napari_unetseg.inference.candidate_windows import region_shape

if TYPE_CHECKING:
    from napari_unetseg.gui.services.job_runner import Job
    from napari_unetseg.models.model import Model

Json = dict[str, Any]
WAYS = ("random", "foreground", "next", "corrections", "forest")
FIRST, WRONG, RIGHT = 3, 4, 1
"""Strokes of every class at first; at errors, and of every class where it is right, at a place."""
FOREGROUND, TRIES = 2 / 3, 5
"""Share of foreground-aware places on predicted structures; planes that are tried for one."""
SURROUNDINGS = 0.25
"""What is seen around a region, in parts of its edge."""
PATIENCE = 20.0
"""Seconds that the hand waits for a mask."""
TURN = 0.1
"""Seconds of a turn while the hand waits."""


class TurnRunner:
    """Runs a job in turns of CPU seconds, in the thread that asks for them."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._events: Generator[Any, None, Any] | None = None
        self._left = 0.0
        self.asked = 0.0
        """CPU seconds of all questions about where to look."""

    @property
    def busy(self) -> bool:
        """Whether a job has not ended."""
        return self._job is not None

    def start(self, job: Job) -> None:
        """Take a job; it does nothing before `advance`."""
        if self.busy:
            raise RuntimeError("a job runs already")
        self._job, self._events = job, job.work(job.control)

    def query(
        self,
        query: Callable[[], Any],
        on_result: Callable[[Any], None],
        on_error: Callable[[BaseException], None] | None = None,  # noqa: ARG002 - errors are raised
        *,
        about: str = "",
    ) -> None:
        """Answer at once; what is asked about where to look is taken from the job's time."""
        start = time.process_time()
        answer = query()
        if about == "look":
            seconds = time.process_time() - start
            self.asked += seconds
            self._left -= seconds
        on_result(answer)

    def background(
        self,
        task: Callable[[], Any],
        on_done: Callable[[Any], None],
        on_error: Callable[[BaseException], None],  # noqa: ARG002 - errors are raised
    ) -> None:
        """Run a task at once."""
        on_done(task())

    def pump(self) -> None:
        """Nothing waits."""

    def advance(self, seconds: float) -> None:
        """Give the job so much time; a step that takes longer is paid for later."""
        self._left += seconds
        while self._left > 0 and self._job is not None:
            self._next(self._job)
        self._left = min(self._left, 0.0)

    def _next(self, job: Job) -> None:
        assert self._events is not None
        start = time.process_time()
        try:
            event = next(self._events)
        except StopIteration as end:
            finish = partial(job.on_done, end.value)
        except Exception as error:  # noqa: BLE001 - as in a thread
            finish = partial(job.on_error, error)
        else:
            self._left -= time.process_time() - start
            job.on_event(event)
            return
        self._left -= time.process_time() - start
        self._job = self._events = None
        finish()

    def close(self, seconds: float = 10.0) -> bool:  # noqa: ARG002 - as every runner has it
        """Forget the job."""
        if self._events is not None:
            self._events.close()
        self._job = self._events = None
        return True


class Desk:
    """The dock without a window: a viewer, a plugin, a layer for each image, a clock."""

    def __init__(self, images: list[Annotated], settings: Any) -> None:
        torch.set_num_threads(settings.threads or 1)
        self.images, self.runner, self.seconds = images, TurnRunner(), 0.0
        self.viewer = ViewerModel()
        self.plugin = Plugin(self.viewer, self.runner, Session(settings=settings))
        self.plugin.next_region.clock = time.process_time
        self.session = self.plugin.session
        self.layers: list[Image] = []
        self.marks: Callable[[], None] = lambda: None
        for number, one in enumerate(images):
            layer = Image(one.image.data, rgb="S" in one.image.axes, name=f"{number}")
            self.viewer.add_layer(layer)
            self.layers.append(layer)
            self.plugin.sources.choose_image(layer)
            labels = Labels(np.zeros(one.labels.shape, np.uint8), name=f"{number} strokes")
            self.viewer.add_layer(labels)
            self.plugin.sources.choose_labels(labels, LabelKind.STROKES)
        self.plugin.sources.choose_image(self.layers[0])

    @property
    def model(self) -> Model | None:
        """The newest model that is shown."""
        return self.plugin.session.newest_model

    def work(self, seconds: float) -> None:
        """Let the hand's time pass."""
        self.seconds += seconds
        self.runner.advance(seconds)
        self.plugin.tick()
        self.marks()

    def go(self, image: int, plane: tuple[int, ...], region: tuple[slice, ...]) -> None:
        """Show a place by hand."""
        self.plugin.places.show(self.layers[image], plane, region)

    def labels(self, image: int) -> Labels:
        """The annotation layer of an image."""
        source = self.session.source(self.layers[image])
        assert source is not None
        return source.labels

    def mask(self, image: int, plane: tuple[int, ...]) -> np.ndarray | None:
        """What the prediction layer shows of a plane, if there is a mask."""
        found = self.plugin.masks.predictions.get(self.layers[image])
        if found is None or found.layer is None:
            return None
        shape = found.layer.data.shape[-2:]
        region = (*(slice(i, i + 1) for i in plane), *(slice(0, n) for n in shape))
        if not found.masks.covers(region):
            return None
        return np.asarray(found.layer.data[plane])

    def wait_for_mask(self, image: int, plane: tuple[int, ...]) -> np.ndarray | None:
        """Wait until the mask of a plane is by a model of now or later."""
        models, start = set(), self.seconds
        while self.seconds - start < PATIENCE:
            if self.model is not None:
                models.add(self.model.id)
            found = self.plugin.masks.predictions.get(self.layers[image])
            masks = found.masks if found else None
            if masks and masks.model_id in models and masks.is_fresh(plane, masks.model_id):
                break
            self.work(TURN)
        return self.mask(image, plane)

    def paint(self, layer: Labels, plane: tuple[int, ...], box: Any, stroke: Any) -> None:
        """Paint a stroke as napari does, and let its time pass."""
        rows, columns = stroke.pixels
        at = tuple(np.full(len(rows), i) for i in plane)
        value = stroke.value
        if layer is not self._annotation(layer):
            value %= BACKGROUND_LABEL
        layer.data_setitem((*at, rows + box[0].start, columns + box[1].start), value)
        self.work(stroke.seconds)
        if self.session.job is None and not self.runner.busy and self.model is not None:
            self.plugin.training.start()

    def _annotation(self, layer: Labels) -> Labels | None:
        return layer if any(s.labels is layer for s in self.session.sources) else None


class ForestAtHand:
    """A forest that is fitted anew, beside the hand, whenever the last fit is paid for."""

    def __init__(self, images: list[Annotated], seed: int) -> None:
        self.images, self.seed = images, seed
        self.known: dict[Any, np.ndarray] = {}
        self.forest: Forest | None = None
        self.free_at = 0.0

    def offer(self, labels: list[np.ndarray], now: float) -> None:
        """Strokes to fit to, if the last fit has had its time."""
        if now < self.free_at:
            return
        painted = [replace(i, labels=a) for i, a in zip(self.images, labels, strict=True)]
        for one in painted:
            for plane in one.planes:
                if one.labels[plane].any():
                    self.features(one, plane)
        start = time.process_time()
        self.forest = Forest(painted, 1, self.seed, self.known)
        self.free_at = now + time.process_time() - start

    def features(self, image: Annotated, plane: tuple[int, ...]) -> None:
        """Make a plane's features, which cost nothing here."""
        key = (id(image.image.data), plane)
        if key not in self.known:
            self.known[key] = features(image.image.read(plane, image.image.whole(2)), 1)

    def look(self, image: int, plane: tuple[int, ...], box: Any) -> tuple[np.ndarray, float]:
        """The mask of what is seen, and what it took."""
        assert self.forest is not None
        self.features(self.images[image], plane)
        start = time.process_time()
        mask = self.forest.region(self.images[image].image, plane, box)
        return mask, time.process_time() - start

    def score(self, tests: list[Annotated]) -> float:
        """Dice on held-out images."""
        return score(tests, self.forest.predict) if self.forest is not None else 0.0


class Annotator:
    """One way of working through one set."""

    def __init__(
        self, data: BenchmarkSet, way: str, seed: int, options: argparse.Namespace
    ) -> None:
        self.way, self.options = way, options
        self.images, self.tests = pool(data), data.tests()
        self.desk = Desk(self.images, make_settings(options, seed))
        self.hand, self.rng = Hand(seed), np.random.default_rng(seed + 1)
        self.visits = 0
        self.curve: list[Json] = []
        self.desk.marks = self.mark
        self.forest = ForestAtHand(self.images, seed) if way == "forest" else None

    def run(self) -> Json:
        """Work until the time is over; Dice at every mark."""
        wall = time.perf_counter()
        self.begin()
        while self.desk.seconds < 60 * self.options.minutes:
            self.visit()
        self.desk.plugin.close(0.1)
        return {"curve": self.curve, "wall_seconds": time.perf_counter() - wall}

    def begin(self) -> None:
        """A few strokes of every class on the first image, then Train."""
        plane = self.images[0].planes[0]
        whole = tuple(slice(0, n) for n in self.images[0].labels.shape[-2:])
        self.desk.work(LOOK)
        for stroke in self.hand.ordinary(self.images[0].labels[plane], FIRST):
            self.desk.paint(self.desk.labels(0), plane, whole, stroke)
        if self.forest is None:
            self.desk.plugin.training.start()

    def visit(self) -> None:
        """Go to a place, look, wait for the mask, paint."""
        desk, self.visits = self.desk, self.visits + 1
        image, plane, region = self.place()
        truth, labels = self.images[image].labels[plane], desk.labels(image)
        box = box_around(truth.shape, region[-2:], SURROUNDINGS)
        desk.work(LOOK)
        seen = self.mask(image, plane, box)
        layer = labels
        found = desk.plugin.masks.predictions.get(desk.layers[image])
        if self.way == "corrections" and found is not None and found.layer is not None:
            layer = found.layer
        there = np.asarray(labels.data[plane][box])
        for stroke in self.hand.corrections(truth[box], seen, there, wrong=WRONG, right=RIGHT):
            desk.paint(layer, plane, box, stroke)

    def place(self) -> tuple[int, tuple[int, ...], tuple[slice, ...]]:
        """Where to go: by Next, or at random."""
        attention = self.desk.plugin.next_region
        if self.way in ("next", "corrections") and self.desk.model is not None:
            before, asked = attention.suggestion, self.desk.runner.asked
            attention.next_region()
            waited = (
                attention.waited if attention.waited is not None else self.desk.runner.asked - asked
            )
            self.desk.work(KEY + waited)
            if attention.suggestion is not before and attention.suggestion is not None:
                found = attention.suggestion
                return self.desk.layers.index(found.layer), found.plane, found.region
        image, plane, region = self.foreground_place() or self.random_place()
        self.desk.work(KEY)
        if self.forest is None:
            self.desk.go(image, plane, region)
        return image, plane, region

    def random_place(self) -> tuple[int, tuple[int, ...], tuple[slice, ...]]:
        """A place drawn at random, images, planes and places alike."""
        image, plane = self.random_plane()
        shape = self.images[image].labels.shape[-2:]
        size = region_shape(shape)
        starts = [int(self.rng.integers(n - s + 1)) for n, s in zip(shape, size, strict=True)]
        return image, plane, tuple(slice(a, a + s) for a, s in zip(starts, size, strict=True))

    def random_plane(self) -> tuple[int, tuple[int, ...]]:
        """A plane drawn at random, images and planes alike."""
        image = int(self.rng.integers(len(self.images)))
        planes = self.images[image].planes
        return image, planes[int(self.rng.integers(len(planes)))]

    def foreground_place(self) -> tuple[int, tuple[int, ...], tuple[slice, ...]] | None:
        """A place around a predicted structure, if it is the turn of one and one is found."""
        model = self.desk.model
        if self.way != "foreground" or model is None or self.rng.random() >= FOREGROUND:
            return None
        run = predictor(model, self.options.threads, "cpu")
        for _ in range(TRIES):
            image, plane = self.random_plane()
            found = np.argwhere(run(self.images[image].image, [plane])[plane])
            if len(found):
                shape = self.images[image].labels.shape[-2:]
                region = region_around(found[int(self.rng.integers(len(found)))], shape)
                return image, plane, region
        return None

    def mask(self, image: int, plane: tuple[int, ...], box: Any) -> np.ndarray:
        """The mask on screen: the network's, or the forest's."""
        if self.forest is None:
            found = self.desk.wait_for_mask(image, plane)
            return (
                np.zeros_like(self.images[image].labels[plane][box])
                if found is None
                else found[box]
            )
        labels = [np.asarray(self.desk.labels(i).data) for i in range(len(self.images))]
        self.forest.offer(labels, self.desk.seconds)
        mask, seconds = self.forest.look(image, plane, box)
        self.desk.work(seconds)
        return mask

    def mark(self) -> None:
        """Take Dice on the held-out images when it is time; the clock stands still meanwhile."""
        due = (len(self.curve) + 1) * self.options.every
        while due <= min(self.desk.seconds / 60, self.options.minutes) + 1e-9:
            self.curve.append({"minutes": due, **self.judge()})
            print(f"{self.way:12}", {k: round(v, 3) for k, v in self.curve[-1].items()}, flush=True)
            due = (len(self.curve) + 1) * self.options.every

    def judge(self) -> Json:
        """Dice now, and how much was painted."""
        desk = self.desk
        voxels = sum(
            int((np.asarray(desk.labels(i).data) != 0).sum()) for i in range(len(self.images))
        )
        found: Json = {"visits": self.visits, "stroke_voxels": voxels}
        if self.forest is not None:
            return {"dice": self.forest.score(self.tests), **found}
        if desk.model is None:
            return {"dice": 0.0, **found}
        steps = sum(record.steps for record in desk.model.history)
        dice = score(self.tests, predictor(desk.model, self.options.threads, "cpu"))
        return {"dice": dice, "steps": steps, "asked_seconds": desk.runner.asked, **found}


def pool(data: BenchmarkSet) -> list[Annotated]:
    """All images of a set, or planes of its stacks, that are not held out, with full masks."""
    held = {(i.file, i.plane) for i in data.test}
    found = []
    files = dict.fromkeys([*(i.file for i in data.train), *_files(data)])
    for one in data.read([Item(f) for f in files if (f, None) not in held], "full"):
        file = next(f for f in files if Path(f).stem == one.image.name or f == one.image.name)
        planes = tuple(p for p in one.planes if (file, p) not in held)
        found.append(Annotated(one.image, one.labels, planes))
    return found


def _files(data: BenchmarkSet) -> Iterator[str]:
    for path in sorted((data.folder / "images").iterdir()):
        if not path.name.startswith("."):
            yield path.name


def region_around(voxel: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The region around a voxel, (Y, X), within a plane."""
    size = region_shape(shape)
    starts = np.clip(voxel - np.array(size) // 2, 0, np.array(shape) - size)
    return tuple(slice(int(a), int(a) + s) for a, s in zip(starts, size, strict=True))


def minutes_to(curve: list[Json], dice: float) -> float | None:
    """The first mark from which that Dice is reached; None if it never is."""
    return next((row["minutes"] for row in curve if row["dice"] >= dice), None)


def summary(results: Json) -> list[str]:
    """Lines of a table: what each way reached, and when it reached what random places did."""
    lines = ["A simulation: an artificial hand that knows the truth; no person has done this."]
    for name, runs in results.items():
        goal = None
        for way, found in runs.items():
            last = mean(run["curve"][-1]["dice"] for run in found)
            if way == "random":
                goal = last
            text = f"{name:28} {way:12} Dice {last:.3f}"
            if goal is not None and way != "random":
                times = [minutes_to(run["curve"], goal) for run in found]
                text += f"  random's Dice after {', '.join(str(t) for t in times)} min"
            lines.append(text)
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Run the program."""
    leave_home()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser)
    parser.add_argument("--sets", default="", help="comma-separated; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated minutes")
    parser.add_argument("--every", type=float, default=1.0, help="minutes between two marks")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated")
    parser.set_defaults(threads=1, seeds="0")
    options = parser.parse_args(arguments)
    results: Json = {}
    for data in read_sets(options.data, options.sets):
        runs: Json = results.setdefault(data.name, {})
        for way in options.ways.split(","):
            for seed in map(int, options.seeds.split(",")):
                run = Annotator(data, way, seed, options).run()
                runs.setdefault(way, []).append({"seed": seed, **run})
                if options.out is not None:
                    report = {"simulation": True, "machine": machine(), "sets": results}
                    write_json(options.out / "annotator.json", report)
    print("\n".join(summary(results)))


if __name__ == "__main__":
    main()
