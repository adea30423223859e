"""Paint strokes like a person's from a ground truth: thin, smooth, and each within one class.

Values are those of an annotation: 0 not labelled, 1 to 254 structures, 255 the background brush.
All coordinates are (y, x) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKGROUND = 255
_TURNS = np.linspace(-0.7, 0.7, 15)


@dataclass(frozen=True, slots=True)
class Stroke:
    """How one stroke is to be drawn.

    Attributes
    ----------
    value : int
        What the brush paints.
    width : float
        Diameter of the round brush in pixels.
    length : int
        Longest way of the brush in pixels; the stroke ends earlier where it finds no way on.
    clearance : float
        Distance in pixels that the middle of the brush tends to keep from the region's edge.
    """

    value: int
    width: float
    length: int
    clearance: float


def disc(
    centre: NDArray[np.float64], width: float, shape: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the pixels whose middle a round brush of `width` covers, cut at the border."""
    radius = width / 2
    low = np.maximum(np.ceil(centre - radius), 0).astype(int)
    high = np.minimum(np.floor(centre + radius), np.array(shape) - 1).astype(int)
    y, x = np.ogrid[low[0] : high[0] + 1, low[1] : high[1] + 1]
    inside = np.nonzero((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2)
    return inside[0] + low[0], inside[1] + low[1]


def room(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in pixels to the nearest pixel outside `region`; the image's border is no edge."""
    return np.asarray(ndimage.distance_transform_edt(region))


def draw(
    canvas: NDArray[np.uint8],
    distance: NDArray[np.float64],
    start: tuple[float, float],
    heading: float,
    stroke: Stroke,
    rng: np.random.Generator,
) -> int:
    """Draw one stroke into `canvas`, never leaving the region where `distance` is above 0.

    Parameters
    ----------
    canvas : array of uint8, shape (Y, X)
        The annotation, written in place.
    distance : array of float, shape (Y, X)
        Distance in pixels from the edge of the region where the brush may paint (see `room`).
    start : (y, x)
        Where the brush touches down.
    heading : float
        First direction in radians, 0 along x.
    stroke : Stroke
        Value, width, length and distance from the edge.
    rng : numpy.random.Generator
        Source of the hand's trembling.

    Returns
    -------
    int
        The way in pixels that the brush went; 0 if it does not fit at `start`.
    """
    points = [np.array(start, dtype=float)]
    if not _fits(distance, points[0], stroke.width):
        return 0
    bend = 0.0
    while len(points) <= stroke.length:
        bend = 0.85 * bend + rng.normal(0, 0.05)
        step = _next_heading(distance, points, heading + bend, stroke)
        if step is None:
            break
        heading = step
        points.append(points[-1] + _unit(heading))
    for point in points:
        canvas[disc(point, stroke.width, canvas.shape)] = stroke.value
    return len(points)


def _unit(heading: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.sin(heading), np.cos(heading)], axis=-1)


def _fits(distance: NDArray[np.float64], point: NDArray[np.float64], width: float) -> bool:
    if (point < 0).any() or (point > np.array(distance.shape) - 1).any():
        return False
    return bool(distance[disc(point, width, distance.shape)].all())


def _next_heading(
    distance: NDArray[np.float64],
    points: list[NDArray[np.float64]],
    heading: float,
    stroke: Stroke,
) -> float | None:
    """Choose the direction that fits, turns little, keeps the clearance and crosses no old way."""
    turned = points[-1] + _unit(heading + _TURNS)
    ahead = points[-1] + 4 * _unit(heading + _TURNS)
    y, x = np.clip(np.rint(ahead).astype(int), 0, np.array(distance.shape) - 1).T
    cost = 4 * _TURNS**2 + abs(distance[y, x] - stroke.clearance) / stroke.clearance
    trail = np.array(points[: -int(3 * stroke.width)])
    if len(trail):
        gap = np.hypot(*(trail - turned[:, np.newaxis]).transpose(2, 0, 1)).min(axis=1)
        cost[gap < 2.5 * stroke.width] = np.inf
    for choice in np.argsort(cost, kind="stable"):
        if np.isfinite(cost[choice]) and _fits(distance, turned[choice], stroke.width):
            return heading + float(_TURNS[choice])
    return None


def draw_along(
    canvas: NDArray[np.uint8],
    blob: NDArray[np.bool_],
    stroke: Stroke,
    rng: np.random.Generator,
) -> int:
    """Draw one stroke through a compact region, from one of its far ends over its middle.

    Parameters and result are those of `draw`; `blob` is the region.
    """
    distance = room(blob)
    places = np.argwhere(distance >= min(0.5 * distance.max(), stroke.clearance))
    fitting = np.array([p for p in places if _fits(distance, p.astype(float), stroke.width)])
    if not len(fitting):
        return 0
    middle = np.argwhere(blob).mean(axis=0)
    far = np.hypot(*(fitting - middle).T)
    ends = fitting[far >= 0.85 * far.max()]
    start = ends[rng.integers(len(ends))]
    heading = float(np.arctan2(*(middle - start))) + rng.normal(0, 0.25)
    return draw(canvas, distance, (start[0], start[1]), heading, stroke, rng)
