"""Simulate a time lapse of cells in two channels, with exact truth.

Nuclei are deformed ellipsoids that drift, turn and change shape; vesicles are small bodies in the
cytoplasm around them. What the camera sees is blurred, unevenly lit, bleached, mixed between the
channels and noisy. Lengths are micrometres, coordinates are (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]

FRAMES, PLANES, HEIGHT, WIDTH = 3, 5, 160, 192
SPACING = (1.0, 0.2, 0.2)
INTERVAL_S = 30.0
NUCLEUS, VESICLE = 1, 2
CHANNELS = ("nuclei", "vesicles")

_FINE = 4  # planes that are computed for each plane that is recorded
_MARGIN = 6  # computed planes above and below, for the light that comes from there
_PSF = (0.5, 0.22, 0.22)  # standard deviations
_GAIN, _OFFSET, _READ_NOISE = 2.0, 100.0, 3.0


@dataclass(frozen=True, slots=True)
class Nucleus:
    """A nucleus at one moment; `waves` and `nucleoli` are fixed to its own frame."""

    centre: Array
    radii: Array
    angle: float
    lobes: Array  # amplitude and phase of the orders 2, 3, 4
    waves: Array  # chromatin: rows of three wave numbers and a phase
    nucleoli: Array  # rows of z, y, x in units of the radii
    brightness: float

    def local(self, points: Array) -> Array:
        """Turn points of shape (..., 3) into the frame of the nucleus, in units of its radii."""
        z, y, x = np.moveaxis(points - self.centre, -1, 0)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([z, cos * y - sin * x, sin * y + cos * x], axis=-1) / self.radii

    def depth(self, local: Array) -> Array:
        """Distance from the centre in units of the surface's: below 1 is inside."""
        around = np.arctan2(local[..., 1], local[..., 2])
        square = local**2
        flat = (square[..., 1] + square[..., 2]) / np.maximum(square.sum(axis=-1), 1e-12)
        surface = np.ones_like(around)
        for order, (amplitude, phase) in enumerate(self.lobes, start=2):
            surface += amplitude * flat * np.cos(order * around + phase)
        return np.asarray(np.sqrt(square.sum(axis=-1)) / surface)

    def chromatin(self, local: Array) -> Array:
        """Density of the stain, about 1."""
        waves = np.cos(local @ self.waves[:, :3].T + self.waves[:, 3]).sum(axis=-1)
        density = 1 + 0.35 * waves / np.sqrt(len(self.waves) / 2)
        for nucleolus in self.nucleoli:
            density *= 1 - 0.55 * np.exp(-((local - nucleolus) ** 2).sum(axis=-1) / 0.05)
        return np.asarray(np.maximum(density, 0.15))


@dataclass(frozen=True, slots=True)
class Vesicle:
    """A vesicle at one moment."""

    centre: Array
    radii: Array
    brightness: float

    def inside(self, points: Array) -> NDArray[np.bool_]:
        """Whether points of shape (..., 3) lie in the vesicle."""
        return np.asarray((((points - self.centre) / self.radii) ** 2).sum(axis=-1) <= 1)


def simulate(seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Simulate the stack.

    Parameters
    ----------
    seed : int
        The same seed gives the same stack.

    Returns
    -------
    image : array of uint16, shape (T, C, Z, Y, X)
        Camera counts; channels as in `CHANNELS`.
    truth : array of uint8, shape (T, Z, Y, X)
        0 background, 1 nucleus, 2 vesicle.
    """
    rng = np.random.default_rng(seed)
    points = _points()
    nuclei = [_nucleus(rng, centre) for centre in _centres(rng)]
    vesicles = _vesicles(rng, nuclei)
    images, truths = [], []
    for frame in range(FRAMES):
        light, labels = _light(points, nuclei, vesicles)
        images.append(_record(light * 0.93**frame, rng))
        truths.append(labels[_recorded()])
        moved = [_move_nucleus(nucleus, rng) for nucleus in nuclei]
        vesicles = _move_vesicles(vesicles, nuclei, moved, rng)
        nuclei = moved
    return np.stack(images), np.stack(truths)


def _recorded() -> slice:
    return slice(_MARGIN, _MARGIN + _FINE * (PLANES - 1) + 1, _FINE)


def _points() -> Array:
    """Positions of the computed voxels, shape (Z, Y, X, 3)."""
    planes = _FINE * (PLANES - 1) + 1 + 2 * _MARGIN
    z = (np.arange(planes) - _MARGIN) * SPACING[0] / _FINE
    y, x = np.arange(HEIGHT) * SPACING[1], np.arange(WIDTH) * SPACING[2]
    return np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1)


def _centres(rng: np.random.Generator) -> list[Array]:
    """Places for nuclei: some of them nearly touch, some are cut by the border."""
    high = np.array([2.5, HEIGHT * SPACING[1] + 1, WIDTH * SPACING[2] + 1])
    centres: list[Array] = []
    for _ in range(60):
        centre = rng.uniform([1.3, -1, -1], high)
        if all(np.hypot(*(centre - other)[1:]) > 7.6 for other in centres):
            centres.append(centre)
    return centres


def _nucleus(rng: np.random.Generator, centre: Array) -> Nucleus:
    wave_numbers = rng.normal(0, 5.0, (24, 3))
    return Nucleus(
        centre=centre,
        radii=rng.uniform([2.1, 2.7, 3.3], [2.8, 3.3, 4.3]),
        angle=rng.uniform(0, np.pi),
        lobes=np.stack([rng.uniform(0, [0.1, 0.07, 0.04]), rng.uniform(0, 2 * np.pi, 3)], axis=1),
        waves=np.column_stack([wave_numbers, rng.uniform(0, 2 * np.pi, 24)]),
        nucleoli=rng.uniform(-0.5, 0.5, (rng.integers(1, 4), 3)),
        brightness=float(np.exp(rng.normal(0, 0.35))),
    )


def _move_nucleus(nucleus: Nucleus, rng: np.random.Generator) -> Nucleus:
    return Nucleus(
        centre=nucleus.centre + rng.normal(0, [0.15, 0.45, 0.45]),
        radii=nucleus.radii * rng.normal(1, 0.02, 3),
        angle=nucleus.angle + rng.normal(0, 0.12),
        lobes=nucleus.lobes + rng.normal(0, [0.01, 0.3], (3, 2)),
        waves=nucleus.waves,
        nucleoli=nucleus.nucleoli,
        brightness=nucleus.brightness,
    )


def _clear(centre: Array, nuclei: list[Nucleus]) -> bool:
    return all(float(n.depth(n.local(centre))) > 1.3 for n in nuclei)


def _vesicles(rng: np.random.Generator, nuclei: list[Nucleus]) -> list[Vesicle]:
    vesicles: list[Vesicle] = []
    for nucleus in nuclei:
        for _ in range(rng.integers(14, 24)):
            around, away = rng.uniform(0, 2 * np.pi), rng.uniform(4.2, 7.5)
            centre = nucleus.centre + away * np.array([0, np.sin(around), np.cos(around)])
            centre[0] = rng.uniform(0, 4)
            radius = rng.uniform(0.4, 0.85)
            if _clear(centre, nuclei):
                radii = radius * rng.uniform([1, 0.8, 0.8], [1.3, 1.2, 1.2])
                vesicles.append(Vesicle(centre, radii, float(np.exp(rng.normal(0, 0.4)))))
    return vesicles


def _move_vesicles(
    vesicles: list[Vesicle], before: list[Nucleus], after: list[Nucleus], rng: np.random.Generator
) -> list[Vesicle]:
    """Carry vesicles along with the nearest nucleus; those that would enter one are gone."""
    moved = []
    for vesicle in vesicles:
        nearest = int(np.argmin([np.hypot(*(vesicle.centre - n.centre)[1:]) for n in before]))
        drift = after[nearest].centre - before[nearest].centre
        centre = vesicle.centre + drift + rng.normal(0, [0.15, 0.4, 0.4])
        if _clear(centre, after):
            moved.append(Vesicle(centre, vesicle.radii, vesicle.brightness))
    return moved


def _light(
    points: Array, nuclei: list[Nucleus], vesicles: list[Vesicle]
) -> tuple[Array, NDArray[np.uint8]]:
    """Return emitted light of both stains, shape (2, Z, Y, X), and the truth on the same grid."""
    light = np.zeros((2, *points.shape[:-1]))
    truth = np.zeros(points.shape[:-1], np.uint8)
    haze = np.zeros(points.shape[1:3])
    for nucleus in nuclei:
        box = _box(points, nucleus.centre, 6.0)
        local = nucleus.local(points[box])
        inside = nucleus.depth(local) < 1
        truth[box][inside] = NUCLEUS
        light[0][box][inside] = 90 * nucleus.brightness * nucleus.chromatin(local[inside])
        away = ((points[0, ..., 1:] - nucleus.centre[1:]) ** 2).sum(axis=-1)
        haze = np.maximum(haze, nucleus.brightness * np.exp(-away / 50))
    light[1] = 28 * haze * np.where(truth == NUCLEUS, 0.45, 1.0)
    for vesicle in vesicles:
        box = _box(points, vesicle.centre, 1.5)
        inside = vesicle.inside(points[box])
        truth[box][inside] = VESICLE
        light[1][box][inside] += 170 * vesicle.brightness
    return light, truth


def _box(points: Array, centre: Array, reach: float) -> tuple[slice, ...]:
    """Part of the grid within `reach` of `centre` along each axis."""
    step = points[1, 1, 1] - points[0, 0, 0]
    low = np.ceil((centre - reach - points[0, 0, 0]) / step).astype(int)
    high = np.floor((centre + reach - points[0, 0, 0]) / step).astype(int) + 1
    return tuple(
        slice(int(a), max(int(b), 0)) for a, b in zip(np.maximum(low, 0), high, strict=True)
    )


def _record(light: Array, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Take the picture of one moment: shape (2, Z, Y, X) of the recorded planes."""
    step = (SPACING[0] / _FINE, *SPACING[1:])
    sigma = [0.0, *(psf / size for psf, size in zip(_PSF, step, strict=True))]
    blurred = ndimage.gaussian_filter(light, sigma, mode="nearest")[:, _recorded()]
    mixed = np.stack([blurred[0] + 0.03 * blurred[1], blurred[1] + 0.18 * blurred[0]])
    photons = (mixed + np.array([9.0, 12.0])[:, None, None, None]) * _illumination()
    # Rounded, so that the last bit of a float decides nothing and the stack is the same everywhere.
    counted = rng.poisson(np.round(photons, 3))
    counts = _OFFSET + _GAIN * counted + rng.normal(0, _READ_NOISE, counted.shape)
    return np.asarray(np.clip(np.rint(counts), 0, 65535), np.uint16)


def _illumination() -> Array:
    """Relative brightness of the lamp over the field, shape (Y, X): 1 at its brightest."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    off_axis = ((y - 0.4 * HEIGHT) / HEIGHT) ** 2 + ((x - 0.6 * WIDTH) / WIDTH) ** 2
    return np.asarray(np.exp(-1.1 * off_axis))
