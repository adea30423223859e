"""A simulated annotator of objects: seconds per object by gestures on found ones, and by painting.

    python benchmarks/object_annotator.py DATA [--sets A] [--seeds 0,1,2] [--goal 0.8] [--out DIR]

It is a simulation, as ``annotator.py`` is, with the same hand (``hand.py``): it knows the truth,
and its seconds mean something beside each other only. Both ways number the objects of the same
images, the training images of ``objects.py``, until the numbers on screen have an AP at 0.5 of
``--goal``; the clock then stands at so many seconds, which are divided by all objects of these
images.

- ``painting``: views in order; every object is painted whole, along its outline.
- ``gestures``: a few objects are painted whole, and a few strokes of background; from then on a
  network trains while the hand goes from view to view, looks at the numbers found there, corrects a
  few mistakes and accepts an object that is right. Pieces of one object are merged, an object that
  holds several is split, one that is none is deleted; what cannot be had so is painted whole.

**The clock** is the hand's; a second of it is a CPU second of the training on one thread, of which
the predictions are taken. To see a view takes a look, and so does every mistake found in it; a
gesture is a key, the way to its place and a stroke; an outline is followed as the steering law
says, within the width of the brush.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from hand import BRUSH_WIDTH, CANVAS, FIND, KEY, LOOK, SPEED, STEERING, TRAVEL, Hand
from object_mistakes import SAME, Act, Box, acts, centred, nearest_of
from object_scores import MEASURES, scores_of_objects
from object_sets import Picture, read_split
from object_ways import objects_of
from sets import read_sets
from skimage.measure import perimeter
from watch import add_options, machine, make_settings, write_json

from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import ModelUpdated

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

Json = dict[str, Any]
VIEW = 256
"""Largest edge of a view in pixels."""
BEGIN, FIRST = 4, 2
"""Pictures that are begun with, and objects painted and strokes of background in each."""
MISTAKES, RIGHT = 5, 1
"""Mistakes corrected, and objects accepted, in a view."""


@dataclass(eq=False)
class Sheet:
    """A picture with all that was labelled of it."""

    picture: Picture
    strokes: np.ndarray = field(init=False)
    finished: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.strokes = np.zeros(self.picture.ids.shape, np.uint8)
        self.finished = np.zeros(self.picture.ids.shape, np.int32)

    @property
    def pair(self) -> AnnotatedImage:
        """A snapshot for the training."""
        kept = self.strokes.copy(), self.finished.copy()
        return AnnotatedImage(self.picture.image, kept[0], LabelKind.STROKES, objects=kept[1])

    @property
    def labelled(self) -> bool:
        """Whether anything is labelled."""
        return bool(self.strokes.any() or self.finished.any())

    def finish(self, inside: np.ndarray) -> None:
        """Make these voxels a whole object."""
        self.finished[inside] = self.finished.max() + 1
        self.strokes[inside] = 0

    def shown(self, found: np.ndarray) -> np.ndarray:
        """Numbers on screen: the finished objects, and those found that they leave."""
        covered = np.bincount(found.ravel(), self.finished.ravel() > 0) / np.bincount(found.ravel())
        keep = (covered[found] <= SAME) & (self.strokes != BACKGROUND_LABEL) & (found > 0)
        rest = np.where(keep, found + self.finished.max(), 0)
        return np.where(self.finished > 0, self.finished, rest)

    def views(self) -> Iterator[Box]:
        """Views in reading order that cover the picture."""
        spans = []
        for size in self.picture.ids.shape:
            count = -(-size // VIEW)
            edges = np.linspace(0, size, count + 1).astype(int).tolist()
            spans.append([slice(a, b) for a, b in pairwise(edges)])
        return ((rows, columns) for rows in spans[0] for columns in spans[1])


class Training:
    """A training that is given its time bit by bit."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.settings = make_settings(options, seed)
        self.model: Model | None = None
        self.control, self._left = JobControl(self.settings.threads), 0.0
        self._events: Generator[Any, None, Model] | None = None

    def give(self, sheets: list[Sheet]) -> None:
        """Newer labels: a running training takes them, else another one starts."""
        pairs = tuple(sheet.pair for sheet in sheets if sheet.labelled)
        if self._events is not None:
            self.control.push_annotations(pairs)
            return
        self.control = JobControl(self.settings.threads)
        structures = [Structure(1, "object", objects=True)]
        self._events = train_events(
            pairs, self.settings, structures=structures, init=self.model, control=self.control
        )

    def advance(self, seconds: float) -> None:
        """Train for so many seconds; a step that takes longer is paid for later."""
        self._left += seconds
        while self._left > 0 and self._events is not None:
            start = time.process_time()
            try:
                event = next(self._events)
                self.model = event.model if isinstance(event, ModelUpdated) else self.model
            except StopIteration as end:
                self.model, self._events = end.value, None
            self._left -= time.process_time() - start
        self._left = min(self._left, 0.0)

    def charge(self, seconds: float) -> None:
        """Take the time of something else from the training's."""
        self._left -= seconds


class Annotator:
    """The hand at work on all pictures of a set."""

    def __init__(self, pictures: list[Picture], seed: int, options: argparse.Namespace) -> None:
        self.options, self.sheets = options, [Sheet(picture) for picture in pictures]
        self.training, self.hand = Training(options, seed), Hand(seed)
        self.rng = np.random.default_rng(seed)
        self.seconds, self.at, self.zoom = 0.0, np.zeros(2), 1.0
        self.done = dict.fromkeys(("painted", "merged", "split", "deleted", "accepted"), 0)
        self.objects = sum(len(np.unique(picture.ids[picture.ids > 0])) for picture in pictures)
        """True objects of all pictures."""
        self.curve: list[Json] = []

    # -- what the hand does ------------------------------------------------------------------------

    def work(self, seconds: float) -> None:
        """Let the hand's time pass."""
        self.seconds += seconds
        self.training.advance(seconds)

    def look(self, box: Box) -> None:
        """See a view, from its middle."""
        sizes = np.array([side.stop - side.start for side in box])
        self.zoom = CANVAS / max(sizes)
        self.at = np.array([side.start for side in box]) + sizes / 2
        self.work(LOOK)

    def reach(self, inside: np.ndarray) -> None:
        """Take the tool in hand and go to an object."""
        place = np.argwhere(inside).mean(0)
        self.work(KEY + FIND + float(np.hypot(*(place - self.at))) * self.zoom / TRAVEL)
        self.at = place

    def paint(self, sheet: Sheet, number: int) -> None:
        """Paint an object whole: along its outline, and fill it."""
        inside = sheet.picture.ids == number
        self.reach(inside)
        length = max(float(perimeter(inside)), 4.0) * self.zoom
        self.work(length / min(SPEED, STEERING * BRUSH_WIDTH * self.zoom))
        sheet.finish(inside)
        self.done["painted"] += 1

    def draw(self, inside: np.ndarray) -> None:
        """A stroke across an object."""
        rows, columns = np.nonzero(inside)
        self.reach(inside)
        across = float(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1))
        self.work(across * self.zoom / SPEED)

    def background(self, sheet: Sheet, box: Box) -> None:
        """A few strokes of background."""
        truth = (sheet.picture.ids[box] > 0).astype(np.uint8)
        for stroke in self.hand.ordinary(truth, FIRST):
            if stroke.value == BACKGROUND_LABEL:
                sheet.strokes[box][stroke.pixels] = stroke.value
                self.work(stroke.seconds)

    # -- the two ways ------------------------------------------------------------------------------

    def by_painting(self) -> None:
        """Paint every object, view after view, until the goal is reached."""
        for sheet in self.sheets:
            for box in sheet.views():
                self.look(box)
                for number in centred(sheet.picture.ids, box):
                    self.paint(sheet, number)
                    if self.done["painted"] >= self.options.goal * self.objects:
                        self.enough([s.finished for s in self.sheets])
                        return

    def by_gestures(self) -> None:
        """Begin with a few labels, then go from view to view until the goal is reached."""
        places = [(sheet, box) for sheet in self.sheets for box in sheet.views()]
        for sheet in self.sheets[:BEGIN]:
            box = next(sheet.views())
            self.look(box)
            for number in self.rng.permutation(centred(sheet.picture.ids, box))[:FIRST]:
                self.paint(sheet, int(number))
            self.background(sheet, box)
            self.training.give(self.sheets)
        for sheet, box in cycle(places):
            if self.mark() or self.seconds >= 60 * self.options.minutes:
                return
            self.look(box)
            self.correct(sheet, box)
            self.training.give(self.sheets)

    def correct(self, sheet: Sheet, box: Box) -> None:
        """Correct some mistakes of a view, and accept an object."""
        start = time.process_time()
        shown = self.shown(sheet)
        self.training.charge(time.process_time() - start)
        if shown is None:
            return
        right, left = [], MISTAKES
        for act in acts(sheet.picture.ids, shown, box):
            inside = np.isin(shown, act.shown)
            if act.kind == "accepted":
                right += [inside] if not sheet.finished[inside].any() else []
            elif left:
                left -= 1
                self.work(LOOK)
                self.apply(act, sheet, inside)
        for inside in right[:RIGHT]:
            self.reach(inside)
            sheet.finish(inside)
            self.done["accepted"] += 1

    def apply(self, act: Act, sheet: Sheet, inside: np.ndarray) -> None:
        """Correct a mistake; ``inside`` is what of it is on screen."""
        if act.kind == "painted":
            self.paint(sheet, act.true[0])
            return
        self.done[act.kind] += 1
        if act.kind == "deleted":
            self.reach(inside)
            sheet.finished[inside], sheet.strokes[inside] = 0, BACKGROUND_LABEL
        elif act.kind == "merged":
            self.draw(inside)
            sheet.finish(inside)
        else:
            nearest = nearest_of(sheet.picture.ids, act.true)
            for number in act.true[1:]:
                self.draw(inside & (nearest == number))
            for number in act.true:
                sheet.finish(inside & (nearest == number))

    # -- what is on screen -------------------------------------------------------------------------

    def shown(self, sheet: Sheet) -> np.ndarray | None:
        """The numbers on screen; None before there is a model."""
        model = self.training.model
        if model is None:
            return None
        return sheet.shown(objects_of(model, sheet.picture, self.options))

    def mark(self) -> bool:
        """Take the AP of all pictures when it is time, which costs none; whether it suffices."""
        due = (len(self.curve) + 1) * self.options.every
        if self.seconds < 60 * due or self.training.model is None:
            return False
        return self.enough([self.shown(sheet) for sheet in self.sheets])

    def enough(self, shown: list[Any]) -> bool:
        """Whether the goal is reached; keeps the AP with the time."""
        scores = scores_of_objects([s.picture.ids for s in self.sheets], shown)
        kept = {measure: scores[measure] for measure in MEASURES}
        self.curve.append({"seconds": float(self.seconds), **kept, **self.done})
        print({k: round(v, 3) for k, v in self.curve[-1].items()}, flush=True)
        return scores["ap50"] >= self.options.goal


def run(pictures: list[Picture], tests: list[Picture], seed: int, options: Any) -> Json:
    """Both ways on the same pictures."""
    result: Json = {"seed": seed}
    for way in ("painting", "gestures"):
        worker = Annotator(pictures, seed, options)
        worker.by_painting() if way == "painting" else worker.by_gestures()
        last = worker.curve[-1] if worker.curve else {"ap50": 0.0}
        reached = last["ap50"] >= options.goal
        each = worker.seconds / worker.objects
        curve = worker.curve[-1:] if way == "painting" else worker.curve
        result[way] = {"seconds_per_object": each, "reached": reached, "curve": curve}
        if worker.training.model is not None:
            found = [objects_of(worker.training.model, p, options) for p in tests]
            result[way]["held_out"] = scores_of_objects([p.ids for p in tests], found)
        print(f"{way}: {each:.2f} s per object,", "reached" if reached else "not reached")
    hand, ours = (result[way]["seconds_per_object"] for way in ("painting", "gestures"))
    result["factor"] = hand / ours
    return result


def main(arguments: list[str] | None = None) -> Json:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser)
    parser.add_argument("--sets", default="nuclei_fluo_dsb2018", help="comma-separated")
    parser.add_argument("--goal", type=float, default=0.8, help="AP at 0.5")
    parser.add_argument("--minutes", type=float, default=30.0, help="simulated minutes at most")
    parser.add_argument("--every", type=float, default=0.25, help="minutes between two marks")
    parser.set_defaults(threads=1)
    options = parser.parse_args(arguments)
    options.device = make_settings(options, 0).device
    report: Json = {"simulation": True, "goal": options.goal, "machine": machine(), "sets": {}}
    for data in read_sets(options.data, options.sets):
        split = read_split(data)
        runs = []
        for seed in map(int, options.seeds.split(",")):
            runs.append(run(list(split.train), list(split.test), seed, options))
            factor = median(one["factor"] for one in runs)
            report["sets"][data.name] = {"split": split.names, "factor": factor, "runs": runs}
            if options.out is not None:
                write_json(options.out / "object_annotator.json", report)
        print(f"{data.name}: factor {factor:.1f}, median of {len(runs)} seed(s)")
    return report


if __name__ == "__main__":
    main()
