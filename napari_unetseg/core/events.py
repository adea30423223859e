"""Events of long jobs, as frozen dataclasses."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import numpy as np

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """A sentence for the user; the job continues.

    ``warning``: the result may be wrong, or is not what was asked for.
    """

    text: str
    warning: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class OtherSpacing(Notice):
    """The voxel size of an image differs from that of the training images.

    ``sizes`` names both, for grouping images; ``offer`` is what to do on the command line and in
    Python, if anything.
    """

    sizes: str
    offer: str = ""


@dataclass(frozen=True, slots=True)
class FlatImage(Notice):
    """An image has the same value everywhere."""


@dataclass(frozen=True, slots=True)
class TilePredicted(Event):
    """One tile of a prediction."""

    plane: tuple[int, ...]
    """Index along each leading axis (all grid axes before the spatial ones)."""
    region: tuple[slice, ...]
    """Slices of the spatial axes (ZYX or YX) that the tile covers."""
    mask: np.ndarray
    """Structures' numbers, 0 for background; shape of the region, uint8."""
    probabilities: np.ndarray | None
    """Float32, (classes, *region); None unless asked for."""
    done: int
    total: int
    """Tiles done and in all."""
    maps: np.ndarray | None = None
    """Object maps, float32, (2, *region), see `core.object_maps`; None unless asked for."""

    @property
    def index(self) -> tuple[int | slice, ...]:
        """Index of the tile in the grid of the image: leading indices, then slices."""
        return (*self.plane, *self.region)


@dataclass(frozen=True, slots=True)
class ChunkPredicted(Event):
    """A chunk of a prediction was stored; ``done`` of ``total`` include those stored earlier."""

    done: int
    total: int


def pass_on(event: Event, on_event: Callable[[Event], object] | None) -> None:
    """Call a listener; without one, log notices."""
    if on_event is not None:
        on_event(event)
    elif isinstance(event, Notice):
        log.warning(event.text)


def finish(events: Generator[Event, None, T], on_event: Callable[[Event], object]) -> T:
    """Run a job to its end, telling of each event; return what the job returns."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            result: T = end.value
            return result
        on_event(event)


def with_each(
    events: Generator[Event, None, T], change: Callable[[Event], Iterable[Event]]
) -> Generator[Event, None, T]:
    """Yield what ``change`` makes of each event of a job; return what the job returns."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            result: T = end.value
            return result
        yield from change(event)
