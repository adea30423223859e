"""Corrections of numbered objects: merge, split, delete, accept, redraw.

Pure functions on the numbers of one plane or volume, integer, 0 for no object. Lines are given by
points (N, axes) in voxels, such as the two ends of a stroke.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Region = tuple[slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectEdit:
    """New numbers of some voxels; only objects that they belong to change."""

    region: Region
    """Bounding box in the plane or volume."""
    ids: np.ndarray
    """Numbers after the edit, int32, of the region's shape."""
    changed: np.ndarray
    """Voxels that the edit is about, bool: all of the objects that are finished by it, and those
    that are no object any more."""


def merge(ids: np.ndarray, line: np.ndarray) -> ObjectEdit | None:
    """Make one of the objects that a line touches, with the number of the largest.

    Objects that do not touch each other are joined along the line. None where it touches fewer
    than two.
    """
    path = _voxels(line, ids.shape)
    numbers = np.unique(ids[path])
    numbers = numbers[numbers > 0]
    if len(numbers) < 2:
        return None
    sizes = [int((ids == n).sum()) for n in numbers]
    number = int(numbers[int(np.argmax(sizes))])
    where = np.isin(ids, numbers)
    between = np.zeros(ids.shape, bool)
    between[path] = True
    on_objects = np.flatnonzero(ids[path] > 0)
    first, last = int(on_objects[0]), int(on_objects[-1])
    bridge = tuple(axis[first : last + 1] for axis in path)
    joined = where.copy()
    joined[bridge] = True
    return _edit(np.where(joined, number, ids), joined)


def split(ids: np.ndarray, line: np.ndarray, first_id: int) -> ObjectEdit | None:
    """Cut objects along a line; of each the largest piece keeps the number.

    Voxels of the line go to the nearest piece. In a volume the cut goes through all planes along
    the first axis. None where the line cuts none through.

    Parameters
    ----------
    first_id
        The first free number, for the other pieces.
    """
    from scipy.ndimage import distance_transform_edt, label

    path = _voxels(line, ids.shape)
    out, changed, free = ids.copy(), np.zeros(ids.shape, bool), first_id
    for number in np.unique(ids[path]).tolist():
        if number <= 0:
            continue
        inside = ids == number
        cut = np.zeros(ids.shape, bool)
        index: tuple[Any, ...] = (slice(None), *path[-2:]) if ids.ndim == 3 else path
        cut[index] = True
        pieces, count = label(inside & ~cut)  # faces alone connect, so that a thin line cuts
        before = label(inside)[1]
        if count <= before:
            continue
        nearest = distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
        pieces = np.where(inside, pieces[tuple(nearest)], 0)
        sizes = np.bincount(pieces.ravel())[1:]
        numbers = np.zeros(count + 1, ids.dtype)
        for rank, piece in enumerate(np.argsort(-sizes, kind="stable").tolist()):
            numbers[piece + 1] = number if rank == 0 else free + rank - 1
        free += count - 1
        out[inside] = numbers[pieces[inside]]
        changed |= inside
    return _edit(out, changed) if changed.any() else None


def delete(ids: np.ndarray, point: np.ndarray) -> ObjectEdit | None:
    """Remove the object at a point; None where there is none."""
    where = _object_at(ids, point)
    return None if where is None else _edit(np.where(where, 0, ids), where)


def accept(ids: np.ndarray, point: np.ndarray) -> ObjectEdit | None:
    """Take the object at a point as it is; None where there is none."""
    where = _object_at(ids, point)
    return None if where is None else _edit(ids, where)


def redraw(before: np.ndarray, after: np.ndarray) -> ObjectEdit | None:
    """What a brush changed: the objects that were painted on are finished as they are now.

    An object of which all voxels were painted over is no more. None where nothing changed.
    """
    differs = before != after
    if not differs.any():
        return None
    touched = np.unique(np.concatenate([before[differs], after[differs]]))
    return _edit(after, differs | np.isin(after, touched[touched > 0]))


def _edit(after: np.ndarray, changed: np.ndarray) -> ObjectEdit:
    """An edit, cropped to what changed."""
    region = []
    for axis in range(changed.ndim):
        others = tuple(a for a in range(changed.ndim) if a != axis)
        places = np.flatnonzero(changed.any(axis=others))
        region.append(slice(int(places[0]), int(places[-1]) + 1))
    box = tuple(region)
    return ObjectEdit(box, after[box].astype(np.int32), changed[box])


def _object_at(ids: np.ndarray, point: np.ndarray) -> np.ndarray | None:
    index = tuple(np.rint(point).astype(int).tolist())
    inside = all(0 <= i < n for i, n in zip(index, ids.shape, strict=True))
    return ids == ids[index] if inside and ids[index] > 0 else None


def _voxels(line: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Indices of the voxels of a line that lie in the image, in order, without gaps."""
    points = np.atleast_2d(np.asarray(line, float))
    parts = [np.rint(points[:1])]
    for a, b in pairwise(points):
        steps = max(1, int(np.ceil(np.abs(b - a).max() * 2)))
        parts.append(np.rint(a + (b - a) * np.linspace(0, 1, steps + 1)[:, None]))
    found = np.concatenate(parts).astype(int)
    found = found[((found >= 0) & (found < shape)).all(1)]
    _, first = np.unique(found, axis=0, return_index=True)
    return tuple(found[np.sort(first)].T)
