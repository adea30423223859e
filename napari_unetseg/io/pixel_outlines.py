"""Outlines of objects along the edges of their pixels, as polygons with holes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

Ring = np.ndarray
"""Corners (n, 2) as X and Y, int64; pixel (y, x) reaches from (x, y) to (x + 1, y + 1). The first
corner is not repeated."""
Polygon = list[Ring]
"""The outer ring, then those of holes."""
STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
"""X and Y of the directions of an edge: right, down, left, up."""


def outlines_of(ids: np.ndarray) -> dict[int, list[Polygon]]:
    """Outline every object of a plane.

    The polygons enclose exactly the pixels of an object, so that their area is its number of
    pixels, and outlines of touching objects share their edges. Pixels of an object that touch only
    at corners, or not at all, are polygons of their own. All are valid in the sense of the OGC:
    rings do not cross, and touch others and themselves at single corners at most.

    Parameters
    ----------
    ids
        (Y, X), non-negative integers of any width; 0 is no object.

    Returns
    -------
    dict
        Polygons by the object's number, in ascending order; outer rings run clockwise on screen,
        where Y points down, holes anticlockwise.
    """
    from skimage.measure import label

    parts = label(ids, connectivity=1, background=0)  # type: ignore[no-untyped-call]
    starts, directions, owners = _edges(parts)
    if not len(owners):
        return {}
    rings: dict[int, Polygon] = defaultdict(list)
    for chain in _chains(starts, directions, owners, parts.shape[1] + 1):
        for ring in _simple(_corners(starts[chain], directions[chain])):
            outer = _doubled_area(ring) > 0
            rings[int(owners[chain[0]])].insert(0 if outer else len(rings), ring)
    first = _first_pixels(parts)
    found: dict[int, list[Polygon]] = defaultdict(list)
    for part in sorted(rings):
        found[int(ids.flat[first[part]])].append(rings[part])
    return dict(sorted(found.items()))


def _edges(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start (x, y), direction and part of every edge of pixels that has its part on the right."""
    padded = np.pad(parts, 1)
    above, below = padded[:-1, 1:-1], padded[1:, 1:-1]
    left, right = padded[1:-1, :-1], padded[1:-1, 1:]
    horizontal, vertical = above != below, left != right
    found = []
    for differs, owner, direction, (dx, dy) in (
        (horizontal, below, 0, (0, 0)),
        (horizontal, above, 2, (1, 0)),
        (vertical, left, 1, (0, 0)),
        (vertical, right, 3, (0, 1)),
    ):
        y, x = np.nonzero(differs & (owner > 0))
        found.append((np.stack([x + dx, y + dy], 1), np.full(len(x), direction), owner[y, x]))
    starts, directions, owners = (np.concatenate(values) for values in zip(*found, strict=True))
    return starts, directions, owners


def _chains(
    starts: np.ndarray, directions: np.ndarray, owners: np.ndarray, width: int
) -> Iterator[list[int]]:
    """Closed chains of edges: their indices, in order.

    Where two edges of a part begin at a corner, the one to the right is taken: the chain stays with
    its pixel.
    """

    def keys(points: np.ndarray, turned: np.ndarray) -> np.ndarray:
        corner = points[:, 1].astype(np.int64) * width + points[:, 0]
        keyed: np.ndarray = (corner * 4 + turned) * (int(owners.max()) + 1) + owners
        return keyed

    own = keys(starts, directions)
    order = np.argsort(own)
    ordered, ends = own[order], starts + STEPS[directions]
    following = np.full(len(own), -1)
    for turn in (3, 0, 1):  # left, straight on, right: the last one found is taken
        wanted = keys(ends, (directions + turn) % 4)
        at = np.searchsorted(ordered, wanted).clip(max=len(own) - 1)
        there = ordered[at] == wanted
        following[there] = order[at[there]]
    after, done = following.tolist(), bytearray(len(own))
    for begin in range(len(own)):
        if not done[begin]:
            chain, edge = [], begin
            while not done[edge]:
                done[edge] = 1
                chain.append(edge)
                edge = after[edge]
            yield chain


def _corners(starts: np.ndarray, directions: np.ndarray) -> Ring:
    """Where a closed chain changes its direction, or may touch itself."""
    corners: Ring = starts[directions != np.roll(directions, 1)]
    return corners


def _simple(ring: Ring) -> Iterator[Ring]:
    """Cut a ring at corners that it passes twice, so that none passes a corner twice."""
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for corner in map(tuple, ring.tolist()):
        if (before := at.get(corner)) is not None:
            yield np.array(path[before:])
            for passed in path[before + 1 :]:
                del at[passed]
            del path[before + 1 :]
        else:
            at[corner] = len(path)
            path.append(corner)
    yield np.array(path)


def _doubled_area(ring: Ring) -> int:
    """Twice the enclosed area; negative for holes."""
    x, y = ring[:, 0], ring[:, 1]
    return int(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _first_pixels(parts: np.ndarray) -> np.ndarray:
    """Flat index of a pixel of each part."""
    flat = parts.ravel()
    first = np.zeros(int(flat.max()) + 1, np.int64)
    first[flat] = np.arange(len(flat))
    return first
