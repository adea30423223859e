"""Edits of numbered objects: merge, split, delete, accept and finish, as pure functions.

They take the numbers of one plane (Y, X) or volume (Z, Y, X), integer, 0 where there is no object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region

SMALLEST_PIECE = 4
"""Voxels of a piece that a stroke cuts off; fewer are the jitter of a hand."""
NO_OBJECT = "There is no object there; click inside one."
ONE_OBJECT = "The stroke crosses fewer than two objects; draw it from one into the other."
NOT_CROSSED = "The stroke crosses no object; draw it through the one to split."
NOT_CUT = "The stroke does not cut the object in two; begin and end it outside of the object."


@dataclass(frozen=True, slots=True, eq=False)
class ObjectEdit:
    """New numbers of some voxels."""

    region: Region
    """Bounding box of the voxels."""
    ids: np.ndarray
    """Numbers after the edit, uint32, of the region's shape; 0 for no object."""
    changed: np.ndarray
    """Voxels that the edit is about, bool: those of the objects that it finishes, whole, and those
    that are of no object any more."""

    def on_grid(self, index: Sequence[int]) -> ObjectEdit:
        """The same edit on the image's grid, from the index of its plane or volume there."""
        axes = tuple(range(len(index)))
        return replace(
            self,
            region=(*(slice(i, i + 1) for i in index), *self.region),
            ids=np.expand_dims(self.ids, axes),
            changed=np.expand_dims(self.changed, axes),
        )


def merge(ids: np.ndarray, path: np.ndarray) -> ObjectEdit:
    """Make one object of those that a stroke crosses, with the number of the largest.

    Objects that do not touch are joined along the stroke.

    Parameters
    ----------
    ids
        Numbers of the objects.
    path
        (N, axes) voxel coordinates of the stroke, in order.

    Raises
    ------
    UserError
        The stroke crosses fewer than two objects.
    """
    from scipy.ndimage import label

    line = _line(path, ids.shape)
    crossed = ids[line]
    numbers, _ = _numbers(crossed)
    if len(numbers) < 2:
        raise UserError(ONE_OBJECT)
    inside = [ids == number for number in numbers]
    largest = numbers[int(np.argmax([where.sum() for where in inside]))]
    union = np.logical_or.reduce(inside)
    box = bounds(union)
    if label(union[box], np.ones((3,) * ids.ndim))[1] > 1:
        first, *_, last = np.flatnonzero(crossed)
        union[tuple(axis[first : last + 1] for axis in line)] = True
    return _edit(union, np.where(union, largest, 0))


def split(ids: np.ndarray, path: np.ndarray, new_id: int | None = None) -> ObjectEdit:
    """Cut the object that most of a stroke is in; the larger piece keeps the number.

    The voxels of the stroke go to the piece that they are connected to, so that none is lost. In a
    volume the cut runs through all planes across the axis along which the stroke moves least.

    Parameters
    ----------
    ids
        Numbers of the objects.
    path
        (N, axes) voxel coordinates of the stroke, in order.
    new_id
        Number of the smaller piece, by default the next above those in ``ids``.

    Raises
    ------
    UserError
        The stroke crosses no object, or does not cut it in two.
    """
    line = _line(path, ids.shape)
    numbers, counts = _numbers(ids[line])
    if not len(numbers):
        raise UserError(NOT_CROSSED)
    number = numbers[int(np.argmax(counts))]
    whole = ids == number
    box = bounds(whole)
    inside, cut = whole[box], _cut(line, ids.shape)[box]
    smaller = _smaller_piece(inside, cut)
    pieces = np.full(inside.shape, number, np.int64)
    pieces[smaller] = int(ids.max()) + 1 if new_id is None else new_id
    return ObjectEdit(box, np.where(inside, pieces, 0).astype(np.uint32), inside)


def delete(ids: np.ndarray, point: np.ndarray) -> ObjectEdit:
    """Remove the object at a point, voxel coordinates; `UserError` where there is none."""
    where = _object_at(ids, point)
    return _edit(where, np.zeros_like(ids))


def accept(ids: np.ndarray, point: np.ndarray) -> ObjectEdit:
    """Finish the object at a point, voxel coordinates; `UserError` where there is none."""
    where = _object_at(ids, point)
    return _edit(where, ids)


def finish(ids: np.ndarray, mask: np.ndarray, number: int) -> ObjectEdit:
    """Make a mask an object, all of it; what it was made of before is of no object any more.

    Parameters
    ----------
    ids
        Numbers of the objects.
    mask
        The object, bool, of the same shape.
    number
        A new number, or that of the object that is drawn anew.

    Raises
    ------
    UserError
        The mask is empty.
    """
    if not mask.any():
        raise UserError("Nothing is painted of the object; paint all of it first.")
    return _edit(mask | (ids == number), np.where(mask, number, 0))


def _edit(changed: np.ndarray, ids: np.ndarray) -> ObjectEdit:
    box = bounds(changed)
    return ObjectEdit(box, ids[box].astype(np.uint32), changed[box])


def bounds(where: np.ndarray) -> Region:
    """Bounding box of a mask that is not empty."""
    box = []
    for axis in range(where.ndim):
        found = np.flatnonzero(where.any(axis=tuple(a for a in range(where.ndim) if a != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def _numbers(crossed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the objects on a stroke, and how many of its voxels each has."""
    return np.unique(crossed[crossed > 0], return_counts=True)


def _object_at(ids: np.ndarray, point: np.ndarray) -> np.ndarray:
    at = tuple(np.rint(np.asarray(point, float)).astype(int).tolist())
    inside = all(0 <= i < size for i, size in zip(at, ids.shape, strict=True))
    if not inside or not ids[at]:
        raise UserError(NO_OBJECT)
    where: np.ndarray = ids == ids[at]
    return where


def _line(path: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Indices of a stroke's voxels inside a shape, in order and without gaps."""
    points = np.atleast_2d(np.asarray(path, float))
    runs = [points[:1]]
    for start, end in pairwise(points):
        steps = int(np.ceil(np.abs(end - start).max())) + 1
        runs.append(np.linspace(start, end, steps + 1)[1:])
    voxels = np.rint(np.concatenate(runs)).astype(int)
    return tuple(voxels[((voxels >= 0) & (voxels < shape)).all(1)].T)


def _cut(line: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Voxels of a stroke; in a volume a sheet across the axis along which it moves least."""
    index: list[Any] = list(line)
    if len(shape) == 3:
        index[int(np.argmin([np.ptp(axis) for axis in line]))] = slice(None)
    cut = np.zeros(shape, bool)
    cut[tuple(index)] = True
    return cut


def _smaller_piece(inside: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The smaller of the two pieces of an object, without its voxels that are connected to neither.

    Faces connect voxels, so that a line of voxels that touch at corners cuts.
    """
    from scipy.ndimage import label
    from skimage.segmentation import watershed

    parts, _ = label(inside)
    crossed = parts[cut & inside]
    part = parts == np.bincount(crossed).argmax()
    pieces, _ = label(part & ~cut)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    larger, smaller = (*np.argsort(-sizes, kind="stable"), 0)[:2]
    if sizes[smaller] < SMALLEST_PIECE:
        raise UserError(NOT_CUT)
    seeds = np.where(pieces == larger, 1, np.where(pieces == smaller, 2, 0))
    flat = np.zeros(inside.shape, np.uint8)
    grown: np.ndarray = watershed(flat, seeds, mask=part)  # type: ignore[no-untyped-call]
    return np.asarray(grown == 2)
