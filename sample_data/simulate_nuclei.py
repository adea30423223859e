"""Simulate a tissue with two kinds of nuclei in two channels, with exact truth.

Both kinds are stained alike in the first channel; the second one shows a marker in the nuclei of
kind 2 alone, and weakly everywhere. Nuclei are deformed ellipses in clusters, so that many touch
others of either kind. Coordinates are (y, x) in pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]

EDGE = 256
SPACING_UM = 0.5
PLAIN, MARKED = 1, 2
CHANNELS = ("DAPI", "marker")
COUNT, CLUSTERS = 90, 11

_NEAREST = 0.78  # distance of two nuclei in units of the sum of their radii
_GAIN, _OFFSET, _READ_NOISE, _BLUR = 3.0, 100.0, 4.0, 1.1


def simulate(seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8]]:
    """Simulate the picture.

    Parameters
    ----------
    seed : int
        The same seed gives the same picture.

    Returns
    -------
    image : array of uint16, shape (C, Y, X)
        Camera counts; channels as in `CHANNELS`.
    ids : array of uint16, shape (Y, X)
        0 background, every other number a nucleus.
    kinds : array of uint8, shape (Y, X)
        0 background, 1 nucleus without the marker, 2 with it.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:EDGE, :EDGE].astype(float)
    depth = np.full((EDGE, EDGE), np.inf)
    ids = np.zeros((EDGE, EDGE), np.uint16)
    kinds = np.zeros((EDGE, EDGE), np.uint8)
    light = np.zeros((2, EDGE, EDGE))
    for number, (centre, radius) in enumerate(_places(rng), start=1):
        kind = MARKED if rng.random() < 0.4 else PLAIN
        here = _depth(y - centre[0], x - centre[1], radius, rng)
        inside = (here < 1) & (here < depth)  # where two meet, each has what is deeper in it
        depth[inside], ids[inside], kinds[inside] = here[inside], number, kind
        stain, marker = np.exp(rng.normal(0, [0.25, 0.3]))
        texture = np.maximum(1 + 0.3 * _smooth(rng.normal(size=(EDGE, EDGE)), 2.0), 0.2)
        light[0][inside] = (55 * stain * texture)[inside]
        light[1][inside] = ((70 if kind == MARKED else 8) * marker * texture)[inside]
    return _record(light, rng), *_whole(ids, kinds)


def _places(rng: np.random.Generator) -> list[tuple[Array, float]]:
    """Centres and radii: clusters whose nuclei touch, and some are cut by the border."""
    middles = rng.uniform(10, EDGE - 10, (CLUSTERS, 2))
    found: list[tuple[Array, float]] = []
    for _ in range(60 * COUNT):
        centre = middles[rng.integers(CLUSTERS)] + rng.normal(0, 20, 2)
        radius = float(rng.uniform(8, 12))
        near = any(np.hypot(*(centre - c)) < _NEAREST * (radius + r) for c, r in found)
        if not near and (centre > -4).all() and (centre < EDGE + 4).all():
            found.append((centre, radius))
        if len(found) == COUNT:
            break
    return found


def _depth(y: Array, x: Array, radius: float, rng: np.random.Generator) -> Array:
    """Distance from a nucleus's centre in units of its surface's: below 1 is inside."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.25)
    u, v = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    around = np.arctan2(u, v)
    surface = np.ones_like(y)
    for order, most in ((2, 0.06), (3, 0.05), (4, 0.03)):
        phase = rng.uniform(0, 2 * np.pi)
        surface += rng.uniform(0, most) * np.cos(order * around + phase)
    return np.asarray(np.hypot(u / stretch, v * stretch) / (radius * surface))


def _smooth(noise: Array, sigma: float) -> Array:
    """Noise of unit variance with that correlation length."""
    found = ndimage.gaussian_filter(noise, sigma)
    return np.asarray(found / found.std())


def _whole(
    ids: NDArray[np.uint16], kinds: NDArray[np.uint8]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Drop pieces that a neighbour cut off, so that each number is one object; renumber."""
    kept = np.zeros_like(ids)
    for number in np.unique(ids[ids > 0]):
        pieces, _ = ndimage.label(ids == number)
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() >= 40:
            kept[pieces == 1 + sizes.argmax()] = kept.max() + 1
    return kept, np.where(kept > 0, kinds, 0).astype(np.uint8)


def _record(light: Array, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Take the picture, shape (C, Y, X)."""
    blurred = ndimage.gaussian_filter(light, (0, _BLUR, _BLUR))
    haze = 0.12 * ndimage.gaussian_filter(light, (0, 14, 14))
    # Rounded, so that the last bit of a float decides nothing and the picture is the same anywhere.
    counted = rng.poisson(np.round(blurred + haze + 5.0, 3))
    counts = _OFFSET + _GAIN * counted + rng.normal(0, _READ_NOISE, counted.shape)
    return np.asarray(np.clip(np.rint(counts), 0, 65535), np.uint16)
