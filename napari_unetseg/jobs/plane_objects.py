"""Objects of planes and volumes, numbered as soon as their tiles are predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.annotations.sparse_array import Region, intersection, within
from napari_unetseg.core.events import Event, TilePredicted
from napari_unetseg.core.object_maps import FULL_SCALE, quantized

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.settings import ObjectSettings
    from napari_unetseg.models.model import Model

USUAL_VOXELS, MOST_VOXELS = 2**22, 2**24
"""Voxels of a plane up to which all of it is numbered, and of the visible part of a larger one."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectsFound(Event):
    """The objects of a plane or volume, or of its visible part, and what they were found from.

    ``plane`` and ``region`` are as in `TilePredicted`. Arrays are of the region's shape.
    """

    plane: tuple[int, ...]
    region: Region
    ids: np.ndarray
    """Numbers of the objects from 1 on, 0 elsewhere, int32."""
    mask: np.ndarray
    """Structures' numbers, uint8."""
    maps: np.ndarray | None
    """Object maps, (2, *region) uint8 as of `object_maps.quantized`; None: split at necks."""
    structures: tuple[int, ...]
    """Those that consist of objects."""
    spacing: tuple[float, ...]
    """Voxel size along each axis of the region."""

    @property
    def index(self) -> tuple[int | slice, ...]:
        """Index of the region in the grid of the image."""
        return (*self.plane, *self.region)

    def found_with(self, settings: ObjectSettings | None) -> ObjectsFound:
        """The same with the objects that other settings give."""
        from napari_unetseg.data.object_ids import find_objects

        maps = None if self.maps is None else self.maps.astype(np.float32) / FULL_SCALE
        ids = find_objects(self.mask, maps, self.structures, settings, self.spacing)
        return replace(self, ids=ids)


def visible_part(shape: Sequence[int], seen: Region | None) -> Region:
    """The part of a plane or volume whose objects are numbered: all of it, unless it is large.

    Parameters
    ----------
    shape
        Of the plane or volume.
    seen
        The visible region; None if unknown.

    Returns
    -------
    tuple of slice
        Of a large plane the visible region with its surroundings, or the middle of it where even
        that is too large.
    """
    if math.prod(shape) <= USUAL_VOXELS:
        return tuple(slice(0, size) for size in shape)
    seen = seen or tuple(slice(0, size) for size in shape)
    sides = [max(1, s.stop - s.start) for s in seen]
    voxels = math.prod(sides)
    most = USUAL_VOXELS if voxels <= USUAL_VOXELS else min(voxels, MOST_VOXELS)
    factor = (most / voxels) ** (1 / len(sides))
    spans = []
    for side, span, size in zip(sides, seen, shape, strict=True):
        wanted = min(size, max(1, int(side * factor)))
        start = min(max(0, (span.start + span.stop - wanted) // 2), size - wanted)
        spans.append(slice(start, start + wanted))
    return tuple(spans)


class _Collected:
    """The tiles of a part of one plane or volume."""

    def __init__(self, model: Model, stack: Stack, plane: tuple[int, ...], region: Region) -> None:
        self._model, self._stack = model, stack
        self.plane, self.region = plane, region
        shape = tuple(s.stop - s.start for s in region)
        self._mask = np.zeros(shape, np.uint8)
        known = model.object_settings is not None
        self._maps = np.zeros((2, *shape), np.uint8) if known else None
        self._missing = np.ones(shape, bool)

    def add(self, tile: TilePredicted) -> None:
        """Take the part of a tile that lies in the region."""
        cut = intersection(tile.region, self.region)
        if cut is None:
            return
        here, there = within(cut, self.region), within(cut, tile.region)
        self._mask[here] = tile.mask[there]
        self._missing[here] = False
        if self._maps is not None and tile.maps is not None:
            self._maps[(slice(None), *here)] = quantized(tile.maps[(slice(None), *there)])

    @property
    def complete(self) -> bool:
        return not self._missing.any()

    def objects(self) -> ObjectsFound:
        """The objects of the region."""
        model = self._model
        return ObjectsFound(
            self.plane,
            self.region,
            np.zeros(0, np.int32),
            self._mask,
            self._maps,
            model.classes.objects,
            tuple(self._stack.spatial_spacing(model.dims)),
        ).found_with(model.object_settings)


def with_objects(
    events: Iterable[Event],
    model: Model,
    stack: Stack,
    seen: Callable[[], Region | None] = lambda: None,
) -> Generator[Event, None, None]:
    """Pass on the events of a prediction, and the objects of each plane after its last tile.

    Parameters
    ----------
    events
        Of a prediction with object maps, plane by plane.
    model, stack
        What is predicted; without structures of objects nothing is added.
    seen
        Returns the visible region; of large planes it is numbered alone, once it is predicted.
    """
    if not model.classes.objects:
        yield from events
        return
    shape, part, done = stack.spatial_shape(model.dims), None, False
    for event in events:
        if not isinstance(event, TilePredicted):
            yield event
            continue
        if part is None or part.plane != event.plane:
            part, done = _Collected(model, stack, event.plane, visible_part(shape, seen())), False
        part.add(event)
        yield replace(event, maps=None)
        if not done and part.complete:
            done = True
            yield part.objects()
