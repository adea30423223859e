"""A simulated hand: thin strokes inside one class, where the prediction is most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from sets import Annotated

from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import BACKGROUND_LABEL

if TYPE_CHECKING:
    from sets import Plane

PIECE = 16
"""Edge in pixels of the cells that given strokes are cut into, to give a part of them."""
MARGIN = 2
"""Strokes keep this many pixels from the edge of their class, less where the class is thin."""
LENGTH = 40
"""Pixels of a simulated stroke."""
BLUR = 8.0
"""Standard deviation in pixels of the neighbourhood in which errors are counted."""
TURN = 0.6
"""Standard deviation in radians of a stroke's change of direction at each pixel."""
MOST_OF_CLASS = 0.25
"""Largest share of a class's pixels in a picture that even strokes cover."""
EVEN_ROUNDS = 6
"""How often more room is looked for in a class; strokes keep apart, so that it is full too soon."""
MOST_STROKES = 1000
"""Strokes of a class and round, so that a class without room cannot go on for ever."""

Labels = list[np.ndarray]


def amounts(strokes: Sequence[Annotated]) -> dict[int, int]:
    """Voxels of each stroke value, over all images."""
    counts = np.sum([np.bincount(s.labels.ravel(), minlength=256) for s in strokes], axis=0)
    return {value: int(counts[value]) for value in range(1, 256) if counts[value]}


def part_of(strokes: Sequence[Annotated], share: float, rng: np.random.Generator) -> Labels:
    """A share of every class's stroke voxels: whole pieces of strokes from random places."""
    chosen = [np.zeros_like(s.labels) for s in strokes]
    for value, total in amounts(strokes).items():
        left = max(1, round(share * total))
        pieces = _pieces(strokes, value)
        for number in rng.permutation(len(pieces)):
            image, places = pieces[number]
            chosen[image].reshape(-1)[places[:left]] = value
            left -= min(left, len(places))
    return chosen


def _pieces(strokes: Sequence[Annotated], value: int) -> list[tuple[int, np.ndarray]]:
    """Flat indices of a value's voxels, a cell of a plane at a time, with the image's number."""
    pieces = []
    for number, image in enumerate(strokes):
        places = np.flatnonzero(image.labels == value)
        index = np.stack(np.unravel_index(places, image.labels.shape))
        index[-2:] //= PIECE
        _, cells = np.unique(index, axis=1, return_inverse=True)
        pieces += [(number, places[cells == cell]) for cell in range(cells.max(initial=-1) + 1)]
    return pieces


@dataclass(slots=True, eq=False)
class _Room:
    """Where one class may be painted in one plane, and how wrong the prediction is there."""

    image: int
    plane: Plane
    inside: np.ndarray
    errors: np.ndarray

    @property
    def worst(self) -> float:
        return float(self.errors.max())


def add_strokes(
    labels: Labels,
    truths: Sequence[Annotated],
    predicted: Sequence[np.ndarray],
    wanted: dict[int, int],
    rng: np.random.Generator,
) -> Labels:
    """Labels with more strokes, at the worst places of every class.

    Parameters
    ----------
    labels
        Strokes so far, uint8, one array of the grid's shape for each image.
    truths
        The same images with their full masks; only their planes are painted on.
    predicted
        Masks of the same shapes.
    wanted
        How many voxels to add of each stroke value (255 is background).
    """
    added = [array.copy() for array in labels]
    for value, count in wanted.items():
        rooms = [
            _room(number, truth, plane, predicted[number], value, added[number], rng)
            for number, truth in enumerate(truths)
            for plane in truth.planes
        ]
        left = count
        for _ in range(MOST_STROKES):
            room = max(rooms, key=lambda r: r.worst)
            if left <= 0 or room.worst <= 0:
                break
            start = np.unravel_index(room.errors.argmax(), room.errors.shape)
            stroke = walk(room.inside, start, min(LENGTH, left), rng)
            added[room.image][room.plane][stroke] = value
            left -= len(stroke[0])
            room.inside[stroke] = False
            room.errors[around(stroke, room.inside.shape)] = 0.0
            room.errors[~room.inside] = 0.0
    return added


def even_strokes(
    mask: np.ndarray, values: Sequence[int], share: float, rng: np.random.Generator
) -> np.ndarray:
    """Strokes (Y, X) uint8 at random places: equal pixels a class, fewer where it has no room.

    Parameters
    ----------
    mask
        Classes (Y, X) uint8.
    values
        Stroke values of the classes (255 is background).
    share
        Of the picture's pixels, all classes together.
    """
    truth = [Annotated(Stack(mask, "YX"), mask, ((),))]
    most = round(share * mask.size / len(values))
    sizes = {value: int((mask == value % BACKGROUND_LABEL).sum()) for value in values}
    wanted = {value: min(most, int(MOST_OF_CLASS * size)) for value, size in sizes.items()}
    labels = np.zeros_like(mask)
    for _ in range(EVEN_ROUNDS):
        left = {value: count - int((labels == value).sum()) for value, count in wanted.items()}
        (labels,) = add_strokes([labels], truth, [mask], left, rng)
    return labels


def _room(
    number: int,
    truth: Annotated,
    plane: Plane,
    predicted: np.ndarray,
    value: int,
    labels: np.ndarray,
    rng: np.random.Generator,
) -> _Room:
    structure = 0 if value == BACKGROUND_LABEL else value
    inside = truth.labels[plane] == structure
    wrong = inside & (predicted[plane] != structure)
    inside = room_inside(inside)[0] & (labels[plane] == 0)
    errors = ndimage.gaussian_filter(wrong.astype(np.float32), BLUR)
    errors += 1e-6 * (1 + rng.random(errors.shape, np.float32))  # where nothing is wrong: anywhere
    return _Room(number, plane, inside, np.where(inside, errors, 0.0))


def room_inside(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a class may be painted, off its edge, and how far each of its pixels is from that."""
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    thick = ndimage.maximum_filter(depth, 2 * MARGIN + 1)
    return inside & (depth > np.minimum(MARGIN, thick / 2)), depth


def around(
    stroke: tuple[np.ndarray, ...], shape: tuple[int, ...], reach: int = round(BLUR)
) -> tuple[slice, ...]:
    """The box of a stroke and its neighbourhood: the next one goes elsewhere."""
    return tuple(
        slice(max(0, int(axis.min()) - reach), min(edge, int(axis.max()) + reach + 1))
        for axis, edge in zip(stroke, shape, strict=True)
    )


def walk(
    inside: np.ndarray, start: tuple[np.intp, ...], length: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Indices of a thin random walk of at most ``length`` pixels that stays inside."""
    at, angle = np.array(start, float), rng.uniform(0, 2 * np.pi)
    visited = {tuple(int(i) for i in start)}
    for _ in range(4 * length):
        if len(visited) >= length:
            break
        angle += rng.normal(0, TURN)
        ahead = at + np.array([np.sin(angle), np.cos(angle)])
        pixel = tuple(int(i) for i in np.rint(ahead))
        if (
            all(0 <= i < edge for i, edge in zip(pixel, inside.shape, strict=True))
            and inside[pixel]
        ):
            at = ahead
            visited.add(pixel)
        else:
            angle = rng.uniform(0, 2 * np.pi)
    return tuple(np.array(sorted(visited)).T)
