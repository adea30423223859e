"""Active learning: a region to annotate, drawn by class-stratified, noise-powered entropy.

A `RegionQuery` predicts windows of the images, one at a time for a given time, and keeps the scores
of their regions. New windows are drawn at random, with equal chances for each image whatever its
number of planes, in turn with those of an earlier model that would be suggested first; at most
`MAX_WINDOWS` are kept.

From ClaSP PE (arXiv 2601.13677) are the predictive entropy, the stratification by predicted class,
so that rare structures are met, and the power noise that falls with a schedule: the logarithm of a
score plus Gumbel noise is a draw by a power of the score (Kirsch et al., arXiv 2106.12059). Our own
are

- one region at a time instead of batches, so that the class is drawn too: each predicted class, and
  all classes together, have the same chance;
- the score: the entropy of the voxels of a class, `uncertainty.likely_wrong` against thin borders,
  as a mean over the whole region, so that a few voxels count little;
- the schedule, which follows the number of annotated regions;
- the weight of what is labelled already.

The disagreement with an earlier model is neither stratified nor noisy: the largest comes first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.inference.candidate_windows import (
    Plane,
    Region,
    WindowGrid,
    cells_of,
    moved,
)
from napari_unetseg.inference.uncertainty import (
    RegionPredictor,
    differences,
    likely_wrong,
    predictive_entropy,
)
from napari_unetseg.runtime.devices import use_threads

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.settings import MatchSpacing
    from napari_unetseg.models.model import Model

_Key = tuple[int, int]  # index of an image, number of a window
Labelled = Callable[[Plane, Region], np.ndarray]
"""Returns where a region of a plane is labelled: boolean, of the region's shape."""

MAX_WINDOWS = 1024
"""Most windows that are kept."""
MAX_LABELLED = 0.5
"""Labelled fraction from which on a region is not suggested."""
HALF_VALUE_FRACTION = 0.04
"""Labelled fraction at which a region's value halves: thin strokes cover little."""
FIRST_POWER, ANNOTATED_PER_POWER = 2.0, 10
"""The power of the score at first, so that many certain regions do not outweigh few uncertain ones,
and the number of annotated regions after which it is one higher."""
LEAST = 1e-6
"""Added to the score over all classes: what is wholly certain comes last, but it comes."""
ALL_DONE = (
    "Every region that was checked is labelled already; add images, or correct the mask where "
    "it is wrong."
)
NOTHING = "No open image fits the model; open one that does."


@dataclass(frozen=True, slots=True, eq=False)
class QueryImage:
    """An image and its labels."""

    stack: Stack
    labelled: Labelled


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A suggested region."""

    image: int
    """Index into the images."""
    plane: Plane
    """Index along each leading axis."""
    region: Region
    """A slice for each spatial axis, YX or ZYX."""


@dataclass(frozen=True, slots=True)
class WindowScored(Event):
    """A window was scored: number in this call, and seconds since its start."""

    windows: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Scores of a window, (regions, 1 + classes), and the labelled fraction of each region."""

    model: str
    plane: Plane
    regions: tuple[Region, ...]
    scores: np.ndarray
    known: np.ndarray


class RegionQuery:
    """Scores windows of images and suggests regions to annotate.

    The same images, labels, models, windows scored and seed give the same suggestions.

    Parameters
    ----------
    images
        The images; each must fit the models.
    dims
        2 for planes, 3 for volumes, as the models have.
    seed
        Random seed of the windows and of what is suggested.
    clock
        Seconds, such as `time.perf_counter`.
    """

    def __init__(
        self,
        images: Sequence[QueryImage],
        dims: int,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not images:
            raise UserError(NOTHING)
        self.images, self.dims = tuple(images), dims
        self._rng, self.clock = np.random.default_rng(seed), clock
        self._grids = [WindowGrid.of(s.stack, dims) for s in images]
        self._seen: OrderedDict[_Key, _Seen] = OrderedDict()
        self._classes: tuple[int, ...] = ()
        self._shown: set[tuple[_Key, int]] = set()
        self._suggested = self._ahead = 0

    @property
    def ready(self) -> bool:
        """Whether enough windows of the newest model are scored for a suggestion."""
        return self._ahead > 0

    # -- looking -------------------------------------------------------------------------------

    def score_windows(
        self,
        model: Model,
        seconds: float,
        *,
        before: Model | None = None,
        device: str = "auto",
        match_spacing: MatchSpacing = False,
        control: JobControl | None = None,
    ) -> Generator[Event, None, int]:
        """Score windows until the time is over; one at least.

        Parameters
        ----------
        model
            The current model.
        seconds
            Time to spend; the last window is finished.
        before
            An earlier model with the same classes: measure disagreement instead of uncertainty.
        device, match_spacing, control
            As in `RegionPredictor`; stops after a window.

        Yields
        ------
        WindowScored
            After each window.

        Returns
        -------
        int
            Number of scored windows.
        """
        control, start, done = control or JobControl(), self.clock(), 0
        name = model.id if before is None else f"{before.id} {model.id}"
        name += " matched" * bool(match_spacing)
        classes = model.classes.numbers if before is None else ()
        if classes != self._classes:
            self._seen.clear()
            self._classes = classes
        predictors: dict[int, tuple[RegionPredictor, RegionPredictor | None]] = {}
        use_threads(control.threads)
        while not control.stopped and (key := self._choose(name, done)) is not None:
            image = key[0]
            if image not in predictors:
                stack = self.images[image].stack
                predictors[image] = (
                    RegionPredictor(model, stack, device, match_spacing),
                    RegionPredictor(before, stack, device, match_spacing)
                    if before is not None
                    else None,
                )
            self._remember(key, self._window(name, key, *predictors[image]))
            done += 1
            self._ahead += 1
            yield WindowScored(done, self.clock() - start)
            if self.clock() - start >= seconds:
                break
        return done

    def _choose(self, name: str, turn: int) -> _Key | None:
        """The next window: a new one and one of an earlier model in turn."""
        if turn % 2 == 1 and (stale := self._outdated(name)) is not None:
            return stale
        fresh = self._fresh()
        return fresh if fresh is not None else self._outdated(name)

    def _fresh(self) -> _Key | None:
        """A new window, drawn at random; None if there hardly is one."""
        free = [
            image
            for image, grid in enumerate(self._grids)
            if grid.count > MAX_WINDOWS
            or any((image, n) not in self._seen for n in range(grid.count))
        ]
        if not free:
            return None
        image = int(self._rng.choice(free))
        count = self._grids[image].count
        if count <= MAX_WINDOWS:
            left = [n for n in range(count) if (image, n) not in self._seen]
            return image, int(self._rng.choice(left))
        for _ in range(32):
            number = int(self._rng.integers(count))
            if (image, number) not in self._seen:
                return image, number
        return None

    def _outdated(self, name: str) -> _Key | None:
        """The window of another model that would be suggested first."""
        stale = {key: seen for key, seen in self._seen.items() if seen.model != name}
        return next((key for key, _ in self._ranked(stale)), next(iter(stale), None))

    def _remember(self, key: _Key, seen: _Seen) -> None:
        self._seen.pop(key, None)
        self._seen[key] = seen
        while len(self._seen) > MAX_WINDOWS:
            self._seen.popitem(last=False)

    def _window(
        self, name: str, key: _Key, now: RegionPredictor, before: RegionPredictor | None
    ) -> _Seen:
        grid, query = self._grids[key[0]], self.images[key[0]]
        plane, window = grid.place(key[1])
        image = now.image(plane, window)
        probs = now.predict(image)
        if before is None:
            wrong, winner = likely_wrong(predictive_entropy(probs)), probs.argmax(0)
        else:
            wrong = differences(before.predict(before.image(plane, window)), probs)
            winner = np.zeros(wrong.shape, int)  # one class: nothing to stratify by
        labelled = query.labelled(plane, window)
        regions = tuple(cells_of(wrong.shape, grid.region))
        return _Seen(
            name,
            plane,
            tuple(moved(r, window) for r in regions),
            np.array([_scores(wrong[r], winner[r], len(probs)) for r in regions]),
            np.array([labelled[r].mean() for r in regions]),
        )

    # -- choosing ------------------------------------------------------------------------------

    def suggest(self) -> Suggestion:
        """Draw a scored region, never the same twice.

        When all were suggested once, those that are hardly labelled may come again.

        Raises
        ------
        UserError
            Nothing is left: all of it is labelled.
        """
        self._ahead = 0
        found = self._best()
        if found is None and self._shown:
            self._shown.clear()
            found = self._best()
        if found is None:
            raise UserError(ALL_DONE)
        key, row = found
        self._shown.add(found)
        self._suggested += 1
        seen = self._seen[key]
        return Suggestion(key[0], seen.plane, seen.regions[row])

    def _best(self) -> tuple[_Key, int] | None:
        """The first region without newer labels than its score; else the first hardly labelled."""
        hardly = None
        for key, row in self._ranked(self._seen):
            seen = self._seen[key]
            fraction = self.images[key[0]].labelled(seen.plane, seen.regions[row]).mean()
            if fraction < MAX_LABELLED:
                if fraction <= seen.known[row]:
                    return key, row
                hardly = hardly or (key, row)
        return hardly

    def _ranked(self, windows: Mapping[_Key, _Seen]) -> Iterator[tuple[_Key, int]]:
        """Regions that were not suggested yet: classes in random order, each drawn by its score."""
        places = [(key, row) for key, seen in windows.items() for row in range(len(seen.known))]
        if not places:
            return
        known = np.concatenate([seen.known for seen in windows.values()])
        scores = np.concatenate([seen.scores for seen in windows.values()])
        scores *= HALF_VALUE_FRACTION / (HALF_VALUE_FRACTION + known[:, None])
        annotated = max(self._suggested, int((known > 0).sum()))
        scale = noise(annotated) if self._classes else 0.0
        left = np.array([place not in self._shown for place in places])
        for of_class in self._rng.permutation(scores.T):
            rows = np.flatnonzero((of_class > 0) & left)
            drawn = np.log(of_class[rows]) + scale * self._rng.gumbel(size=len(rows))
            for row in rows[np.argsort(-drawn, kind="stable")]:
                left[row] = False
                yield places[row]


def noise(annotated: int) -> float:
    """Scale of the Gumbel noise after so many annotated regions, the inverse of the power."""
    return 1 / (FIRST_POWER + annotated / ANNOTATED_PER_POWER)


def _scores(wrong: np.ndarray, winner: np.ndarray, classes: int) -> np.ndarray:
    """Mean error estimate over a region, (1 + classes,): of all voxels, then of each class's."""
    by_class = np.bincount(winner.ravel(), wrong.ravel(), classes)
    return np.array([by_class.sum() + LEAST * wrong.size, *by_class]) / wrong.size
