"""Active learning: the unlabelled region that a network would learn most from.

A `RegionQuery` predicts windows of the images, one at a time for a given time, and keeps a few
numbers of each. New windows are drawn at random, with equal chances for each image whatever its
number of planes, in turn with the most promising ones of an earlier model; at most `MAX_WINDOWS`
are kept.

Every region of a window has

- an error estimate: the mean of `uncertainty.likely_wrong`, since every border is uncertain and
  single voxels are noise;
- an appearance: mean and standard deviation of intensities and probabilities. Its value is the
error
  mass of regions that look alike, each of which counts half for every labelled or suggested region
  of that appearance: facility location (Wei, Iyer and Bilmes 2015);
- a labelled fraction.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
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
    moved,
    overlap,
    regions_of,
)
from napari_unetseg.inference.uncertainty import (
    RegionPredictor,
    differences,
    likely_wrong,
    margin_uncertainty,
)
from napari_unetseg.runtime.devices import use_threads

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.settings import MatchSpacing
    from napari_unetseg.models.model import Model

Labelled = Callable[[Plane, Region], np.ndarray]
"""Returns where a region of a plane is labelled: boolean, of the region's shape."""

MAX_WINDOWS = 1024
"""Most windows that are kept."""
MAX_LABELLED = 0.5
"""Labelled fraction from which on a region is not suggested."""
HALF_VALUE_FRACTION = 0.04
"""Labelled fraction at which a region's value halves: thin strokes cover little."""
MAX_REPRESENTATIVES = 512
"""Most representative regions, since each is compared with each."""
MIN_EXAMPLE_FRACTION = 0.002
"""Labelled fraction from which on a region is an example of its appearance."""
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
    score: float
    """Estimated value, comparable only within a query."""


@dataclass(frozen=True, slots=True)
class WindowScored(Event):
    """A window was scored: number in this call, and seconds since its start."""

    windows: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Scores of a window; rows are its regions."""

    model: str
    plane: Plane
    regions: tuple[Region, ...]
    wrong: np.ndarray
    features: np.ndarray
    known: np.ndarray


class RegionQuery:
    """Scores windows of images and suggests regions to annotate.

    Parameters
    ----------
    images
        The images; each must fit the models.
    dims
        2 for planes, 3 for volumes, as the models have.
    seed
        Random seed of the windows.
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
        self._seen: OrderedDict[tuple[int, int], _Seen] = OrderedDict()
        self._shown: list[tuple[int, Plane, Region]] = []
        self._suggested: list[np.ndarray] = []
        self._ahead = 0

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
        passes: int = 1,
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
        passes
            Mirrored passes to average, 1 to 4.
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
            self._remember(key, self._window(name, key, *predictors[image], passes))
            done += 1
            self._ahead += 1
            yield WindowScored(done, self.clock() - start)
            if self.clock() - start >= seconds:
                break
        return done

    def _choose(self, name: str, turn: int) -> tuple[int, int] | None:
        """The next window: a new one and the most promising old one in turn."""
        fresh, stale = self._fresh(), self._outdated(name)
        if fresh is None or (stale is not None and turn % 2 == 1):
            return stale if stale is not None else fresh
        return fresh

    def _fresh(self) -> tuple[int, int] | None:
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

    def _outdated(self, name: str) -> tuple[int, int] | None:
        """The most promising window of another model."""
        known = [(k, s) for k, s in self._seen.items() if s.model != name]
        if not known:
            return None
        return max(known, key=lambda one: self._promise(one[0][0], one[1]))[0]

    def _promise(self, image: int, seen: _Seen) -> float:
        worth = seen.wrong * _room_left(seen.known)
        free = [
            w for w, r in zip(worth, seen.regions, strict=True) if self._new(image, seen.plane, r)
        ]
        return float(max(free, default=0.0))

    def _remember(self, key: tuple[int, int], seen: _Seen) -> None:
        self._seen.pop(key, None)
        self._seen[key] = seen
        while len(self._seen) > MAX_WINDOWS:
            self._seen.popitem(last=False)

    def _window(
        self,
        name: str,
        key: tuple[int, int],
        now: RegionPredictor,
        before: RegionPredictor | None,
        passes: int,
    ) -> _Seen:
        grid, query = self._grids[key[0]], self.images[key[0]]
        plane, window = grid.place(key[1])
        image = now.image(plane, window)
        probs = now.predict(image, passes)
        if before is None:
            wrong = likely_wrong(margin_uncertainty(probs))
        else:
            wrong = differences(before.predict(before.image(plane, window), passes), probs)
        labelled = query.labelled(plane, window)
        regions = tuple(regions_of([s.stop - s.start for s in window], grid.region))
        rows = [(wrong[r].mean(), labelled[r].mean(), _features(image, probs, r)) for r in regions]
        return _Seen(
            name,
            plane,
            tuple(moved(r, window) for r in regions),
            np.array([row[0] for row in rows]),
            np.array([row[2] for row in rows]),
            np.array([row[1] for row in rows]),
        )

    # -- choosing ------------------------------------------------------------------------------

    def suggest(self) -> Suggestion:
        """The most valuable scored region, never the same twice.

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
        suggestion, features = found
        self._shown.append((suggestion.image, suggestion.plane, suggestion.region))
        self._suggested.append(features)
        return suggestion

    def _best(self) -> tuple[Suggestion, np.ndarray] | None:
        """Search from the most promising; labels are read again only where they may decide."""
        rows = [(key[0], seen) for key, seen in self._seen.items()]
        if not rows:
            return None
        wrong = np.concatenate([seen.wrong for _, seen in rows])
        features = np.concatenate([seen.features for _, seen in rows])
        known = np.concatenate([seen.known for _, seen in rows])
        worth = wrong * self._typical(wrong, features, known)
        places = [(image, seen.plane, r) for image, seen in rows for r in seen.regions]
        best: tuple[Suggestion, np.ndarray] | None = None
        for row in np.argsort(-worth, kind="stable"):
            if best is not None and worth[row] <= best[0].score:
                break
            image, plane, region = places[row]
            if not self._new(image, plane, region):
                continue
            fraction = float(self.images[image].labelled(plane, region).mean())
            score = float(worth[row] * _room_left(np.array(fraction)))
            if fraction < MAX_LABELLED and (best is None or score > best[0].score):
                best = Suggestion(image, plane, region, score), features[row]
        return best

    def _typical(self, wrong: np.ndarray, features: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Fraction of the error mass that looks like each region, but like no example, 0 to 1."""
        spread = features.std(0) + 1e-6
        kinds = _some(np.arange(len(features)))
        examples = np.array([*_some(features[known >= MIN_EXAMPLE_FRACTION]), *self._suggested])
        left = wrong[kinds] * _room_left(known[kinds])
        if len(examples):
            left = left * np.prod(1 - _alike(features[kinds], examples, spread) / 2, axis=1)
        total = max(float(wrong[kinds].sum()), 1e-12)
        return np.asarray(_alike(features, features[kinds], spread) @ left / total)

    def _new(self, image: int, plane: Plane, region: Region) -> bool:
        """Whether a region hardly overlaps with earlier suggestions."""
        return not any(
            i == image and p == plane and overlap(r, region) > 0.25 for i, p, r in self._shown
        )


def _features(image: np.ndarray, probs: np.ndarray, region: Region) -> np.ndarray:
    """Appearance features of a region."""
    pixels, probable = image[(slice(None), *region)], probs[(slice(None), *region)]
    flat = pixels.reshape(len(pixels), -1)
    rough = np.abs(np.diff(pixels, axis=-1)).reshape(len(pixels), -1)
    return np.concatenate(
        [flat.mean(1), flat.std(1), rough.mean(1), probable.reshape(len(probs), -1).mean(1)]
    )


def _some(rows: np.ndarray) -> np.ndarray:
    """At most `MAX_REPRESENTATIVES` rows, evenly spaced."""
    return rows[:: math.ceil(max(1, len(rows)) / MAX_REPRESENTATIVES)]


def _alike(some: np.ndarray, others: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Similarity of regions, (some, others), from 0 to 1."""
    a, b = some / spread, others / spread
    apart = (a**2).mean(1)[:, None] + (b**2).mean(1)[None] - 2 * a @ b.T / a.shape[1]
    return np.asarray(np.exp(-2 * np.maximum(apart, 0.0)))


def _room_left(labelled: np.ndarray) -> np.ndarray:
    """Weight of a labelled fraction: 1 for none, then less."""
    return np.asarray(HALF_VALUE_FRACTION / (HALF_VALUE_FRACTION + labelled))
