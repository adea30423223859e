"""Outlines of numbered objects, along the edges of their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Y and X of a step to the right, down, to the left, up."""
Edge = tuple[int, int, int]
"""Y and X of the corner where an edge begins, and its direction, an index of `STEPS`."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """The outline of an object in a plane.

    ``parts`` has the rings of each part, whose pixels are connected along edges: the outer ring,
    then holes. A ring is (n, 2) int: X and Y of its corners from the upper left corner of the image
    on, the first one not repeated. Rings of a part meet in single points at most, so that it is a
    valid polygon; its area is the number of its pixels.
    """

    number: int
    parts: tuple[tuple[np.ndarray, ...], ...]


def outlines(ids: np.ndarray) -> Iterator[Outline]:
    """The outlines of all objects of a plane, in the order of their numbers.

    Parameters
    ----------
    ids
        Numbers of the objects, 0 for background; (Y, X), non-negative integers.
    """
    from scipy.ndimage import find_objects, label

    numbers = np.unique(ids[ids > 0])
    places = np.where(ids > 0, np.searchsorted(numbers, ids) + 1, 0)
    for place, (number, box) in enumerate(
        zip(numbers.tolist(), find_objects(places), strict=True), 1
    ):
        labelled, count = label(places[box] == place)
        corner = (box[1].start, box[0].start)
        parts = (_rings(labelled == part) for part in range(1, count + 1))
        yield Outline(number, tuple(tuple(ring + corner for ring in part) for part in parts))


def _rings(inside: np.ndarray) -> list[np.ndarray]:
    """The rings around a region, the outer one first."""
    edges = _edges(inside)
    left = dict.fromkeys(edges)
    rings = []
    while left:
        edge = next(iter(left))
        ring: list[Edge] = []
        while edge in left:
            del left[edge]
            ring.append(edge)
            edge = _next(edge, edges)
        turns = zip(ring, [ring[-1], *ring[:-1]], strict=True)
        rings.append(np.array([(x, y) for (y, x, d), (_, _, before) in turns if d != before]))
    return sorted(rings, key=lambda ring: -int(np.ptp(ring, axis=0).prod()))


def _edges(inside: np.ndarray) -> set[Edge]:
    """The edges between a region, to their right, and its surroundings."""
    padded = np.pad(inside, 1)
    beside = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    begins = ((0, 0), (0, 1), (1, 1), (1, 0))
    return {
        (y + down, x + right, direction)
        for direction, (other, (down, right)) in enumerate(zip(beside, begins, strict=True))
        for y, x in np.argwhere(inside & ~other).tolist()
    }


def _next(edge: Edge, edges: set[Edge]) -> Edge:
    """The edge after another; where two pixels meet in a corner it stays at what is outside."""
    y, x, direction = edge
    down, right = STEPS[direction]
    turns = ((y + down, x + right, (direction + turn) % 4) for turn in (-1, 0, 1))
    return next(found for found in turns if found in edges)
