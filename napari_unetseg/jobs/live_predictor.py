"""Live prediction of the viewport during training, between its steps.

PyTorch is imported inside the functions, so that opening the dock needs none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, TilePredicted
from napari_unetseg.jobs.image_ranges import ImageRanges
from napari_unetseg.jobs.plane_objects import with_objects
from napari_unetseg.training.training_events import ModelUpdated

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Normalization, Stack
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.settings import MatchSpacing
    from napari_unetseg.models.model import Model

EVERY_SECONDS = 2.0
"""Least seconds between masks of newer models, but for urgent ones."""
FREE_SECONDS = 10.0
"""Prediction seconds before `MAX_TIME_FRACTION` applies."""
MOST_COMPARED = 2**24
"""Most voxels of a mask that are compared with the mask before."""
MAX_TIME_FRACTION = 0.25
"""Largest fraction of a long training's time for prediction."""
URGENT_SECONDS = 5.0
"""Seconds by which urgent masks may exceed it, so that they need not wait for others."""


@dataclass(frozen=True, slots=True, eq=False)
class Viewport:
    """The visible part of an image; ``image`` is its layer, an opaque key in the worker.

    ``plane`` is the index along each leading axis of ``stack``, as in `TilePredicted`;
    ``match_spacing`` is as in `PredictSettings`.
    """

    image: Any
    stack: Stack
    plane: tuple[int, ...]
    match_spacing: MatchSpacing = False

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of the viewport."""
        return self.image, self.plane, self.match_spacing


class ViewportState:
    """The current viewport: set by the GUI thread, read by the worker; None: nothing to predict."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: Viewport | None = None
        self._seen: tuple[slice, ...] | None = None

    @property
    def seen(self) -> tuple[slice, ...] | None:
        """The visible region of the viewport's plane or volume; None if unknown."""
        with self._lock:
            return self._seen

    @seen.setter
    def seen(self, region: tuple[slice, ...] | None) -> None:
        with self._lock:
            self._seen = region

    @property
    def view(self) -> Viewport | None:
        """The newest viewport."""
        with self._lock:
            return self._view

    @view.setter
    def view(self, view: Viewport | None) -> None:
        with self._lock:
            self._view = view


@dataclass(frozen=True, slots=True, eq=False)
class MaskStarted(Event):
    """The following tiles are the mask of this viewport, by the model of this id."""

    view: Viewport
    model_id: str
    structures: Sequence[Structure]
    scores: Scores | None


@dataclass(frozen=True, slots=True)
class MaskFinished(Event):
    """All tiles of a viewport's mask were predicted.

    ``changed`` is the fraction of its voxels that differ from the mask before, None without one.
    """

    changed: float | None


class _Changes:
    """Counts the voxels of a mask that differ from those of the mask before."""

    def __init__(self) -> None:
        self._key: object = None
        self._masks: dict[object, np.ndarray] = {}
        self._begin()

    def _begin(self) -> None:
        self._changed, self._compared, self._held = 0, 0, 0

    def begin(self, key: object) -> None:
        """Begin a mask of the viewport with this key."""
        if key != self._key:
            self._key, self._masks = key, {}
        self._begin()

    def note(self, tile: TilePredicted) -> None:
        """Compare a tile, and hold it for the next mask."""
        where = tile.plane, tuple((r.start, r.stop) for r in tile.region)
        before = self._masks.get(where)
        if before is not None and before.shape == tile.mask.shape:
            self._changed += int(np.count_nonzero(before != tile.mask))
            self._compared += before.size
        self._held += tile.mask.size
        if self._held <= MOST_COMPARED:
            self._masks[where] = tile.mask

    @property
    def fraction(self) -> float | None:
        """Fraction of the compared voxels that changed; None without any."""
        return self._changed / self._compared if self._compared else None


class LivePredictor:
    """Predicts the viewport with the newest model of a training.

    Parameters
    ----------
    screen
        The current viewport.
    device
        As in `TrainSettings`.
    control
        The training's; a stop ends prediction.
    clock
        Seconds, such as `time.perf_counter`.
    """

    def __init__(
        self,
        screen: ViewportState,
        device: str,
        control: JobControl,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._screen, self._device, self._control = screen, device, control
        self._clock, self._start, self._spent = clock, clock(), 0.0
        self._newest: ModelUpdated | None = None
        self._shown: tuple[ModelUpdated | None, Viewport | None] = (None, None)
        self._begun = 0.0
        self._awaited = self._urgent = False
        self._tiles: Generator[Event, None, None] | None = None
        self._said: set[str] = set()
        self._ranges = ImageRanges()
        self._changes = _Changes()

    def after(self, event: Event) -> Generator[Event, None, None]:
        """Yield the start of a mask and tiles that are due after a training event.

        A mask of many tiles is spread over later events, so that the training goes on.
        """
        if isinstance(event, ModelUpdated):
            self._newest, self._awaited = event, self._awaited or event.urgent
        if self._may_go_on() and (begins := self._begin()) is not None:
            yield begins
        while self._tiles is not None and self._may_go_on():
            tile = self._next()
            if tile is None:
                self._tiles = None
                yield MaskFinished(self._changes.fraction)
            elif not self._was_said(tile):
                if isinstance(tile, TilePredicted):
                    self._changes.note(tile)
                yield tile

    def _was_said(self, event: Event) -> bool:
        """Whether an earlier mask had the same notice."""
        if not isinstance(event, Notice):
            return False
        known = event.text in self._said
        self._said.add(event.text)
        return known

    def _may_go_on(self) -> bool:
        allowed = FREE_SECONDS + MAX_TIME_FRACTION * (self._clock() - self._start)
        if self._awaited or (self._urgent and self._tiles is not None):
            allowed += URGENT_SECONDS
        return self._spent < allowed and not self._control.stopped

    def _begin(self) -> MaskStarted | None:
        """Start a mask if there is a newer model or viewport."""
        newest, view = self._newest, self._screen.view
        newer, moved = newest is not self._shown[0], view is not self._shown[1]
        rests = self._tiles is None and self._clock() - self._begun >= EVERY_SECONDS
        if newest is None or not (moved or (newer and (rests or self._awaited))):
            return None
        self._urgent = self._awaited or (self._urgent and self._tiles is not None)
        self._shown, self._begun = (newest, view), self._clock()
        self._tiles, self._awaited = None, False
        if view is None or not _fits(newest.model, view.stack):
            return None
        self._tiles = self._predict(newest.model, view)
        self._changes.begin(view.key)
        model = newest.model
        return MaskStarted(view, model.id, model.classes.structures, newest.scores)

    def _predict(self, model: Model, view: Viewport) -> Generator[Event, None, None]:
        known = yield from self._ranges.find(
            model, view.image, view.stack, match_spacing=view.match_spacing
        )
        yield from mask_of(model, view, self._device, self._control, self._screen, known)

    def _next(self) -> Event | None:
        """The next event of the mask, None after the last; a failure never ends the training."""
        start = self._clock()
        try:
            return next(self._tiles, None) if self._tiles is not None else None
        except (UserError, RuntimeError, MemoryError, OSError) as error:
            self._tiles = None
            text = f"Training continues, but its mask cannot be shown: {error}"
            return Notice(text, warning=True)
        finally:
            self._spent += self._clock() - start


def mask_of(
    model: Model,
    view: Viewport,
    device: str,
    control: JobControl,
    screen: ViewportState,
    normalization: Normalization | None = None,
) -> Generator[Event, None, None]:
    """Tiles of a viewport's mask, visible ones first, and its objects.

    ``normalization`` if known.
    """
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.inference.predict import predict_events

    settings = PredictSettings(
        device=device, match_spacing=view.match_spacing, object_maps=bool(model.classes.objects)
    )
    tiles = predict_events(
        model,
        view.stack,
        settings,
        planes=[view.plane],
        control=control,
        seen=lambda: screen.seen,
        normalization=normalization,
    )
    return with_objects(tiles, model, view.stack, lambda: screen.seen)


@dataclass(frozen=True, slots=True, eq=False)
class ViewportTask:
    """Prediction of the viewport and neighbouring planes, while nothing else runs."""

    model: Model
    """The model."""
    screen: ViewportState
    """The current viewport; another one cancels the mask in progress."""
    device: str
    """As in `PredictSettings`."""
    done: frozenset[tuple[int, ...]]
    """Planes that are predicted already."""
    ahead: int = 2
    """Neighbours on either side, along the last leading axis."""
    ranges: ImageRanges = field(default_factory=ImageRanges)
    """Cached normalisations."""

    def __call__(self, control: JobControl) -> Generator[Event, None, None]:
        """Yield masks until all neighbours are done, or another image is chosen."""
        first, done = self.screen.view, set(self.done)
        while not control.stopped:
            view = self.screen.view
            if first is None or view is None or view.image is not first.image:
                return
            wanted = next((p for p in near(view, self.ahead) if p not in done), None)
            if wanted is None:
                return
            if (yield from self._plane(view, wanted, control)):
                done.add(wanted)

    def _plane(
        self, view: Viewport, plane: tuple[int, ...], control: JobControl
    ) -> Generator[Event, None, bool]:
        """The mask of a plane; False if another viewport interrupted it."""
        asked = replace(view, plane=plane)
        yield MaskStarted(asked, self.model.id, self.model.classes.structures, None)
        known = yield from self.ranges.find(
            self.model, asked.image, asked.stack, match_spacing=asked.match_spacing
        )
        for tile in mask_of(self.model, asked, self.device, control, self.screen, known):
            yield tile
            if self.screen.view is not view:
                return False
        return not control.stopped


def near(view: Viewport, ahead: int) -> list[tuple[int, ...]]:
    """The viewport's plane and its neighbours along the last leading axis, nearest first."""
    if not view.plane:
        return [view.plane]
    *others, here = view.plane
    count = view.stack.grid_shape[len(view.plane) - 1]
    steps = [0, *(sign * n for n in range(1, ahead + 1) for sign in (1, -1))]
    return [(*others, here + step) for step in steps if 0 <= here + step < count]


def _fits(model: Model, stack: Stack) -> bool:
    """Whether a model fits an image; another one may have been chosen meanwhile."""
    try:
        model.check_image(stack)
    except UserError:
        return False
    return True
