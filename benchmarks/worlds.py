"""Random worlds: pictures with known classes, made of shapes, textures, optics and noise.

A world is a style. Its pictures have the same kinds of things in nearly the same look, so that
strokes on one picture say something of another.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

__all__ = ["World", "field", "make_bank"]

EDGE = 128
"""Pixels of a picture along Y and X."""
CLASSES = 3
KINDS = ("objects", "objects", "nested", "tissue", "tissue", "regions", "lines", "cells")
Rng = np.random.Generator


def field(rng: Rng, sigma: float, n: int = EDGE) -> np.ndarray:
    """A Gaussian random field (n, n) of unit variance and correlation length ``sigma`` pixels."""
    squared = np.fft.rfftfreq(n)[None] ** 2 + np.fft.fftfreq(n)[:, None] ** 2
    low_pass = np.exp(-2 * (np.pi * sigma) ** 2 * squared)
    values = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * low_pass, s=(n, n))
    return (values - values.mean()) / (values.std() + 1e-6)


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def edges(ids: np.ndarray, thick: float) -> np.ndarray:
    """Pixels at a change of id, grown to a thickness."""
    found = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        change = np.diff(ids, axis=axis) != 0
        pads = [(0, 0), (0, 0)]
        for pads[axis] in ((1, 0), (0, 1)):
            found |= np.pad(change, pads)
    rounds = round(thick) - 1
    return ndi.binary_dilation(found, iterations=rounds) if rounds > 0 else found


def bent(rng: Rng, strength: float, sigma: float) -> np.ndarray:
    """Places of the pixels (2, n, n), moved at random."""
    places = np.mgrid[:EDGE, :EDGE].astype(float)
    return places + strength * np.stack([field(rng, sigma), field(rng, sigma)])


def ellipses(rng: Rng, p: dict[str, Any]) -> np.ndarray:
    """Ids of bent ellipses, 0 between them."""
    y, x = bent(rng, p["rough"], p["radius"] * 0.6)
    ids = np.zeros((EDGE, EDGE), int)
    count = max(2, int(p["cover"] * EDGE**2 / (np.pi * p["radius"] ** 2)))
    for number in range(1, count + 1):
        cy, cx = rng.uniform(-5, EDGE + 5, 2)
        radius = p["radius"] * np.exp(rng.normal(0, p["spread"]))
        stretch = np.exp(rng.normal(0, p["ecc"]) / 2 + p["long"] / 2)
        turn = rng.uniform(0, np.pi)
        u = np.cos(turn) * (y - cy) + np.sin(turn) * (x - cx)
        v = np.cos(turn) * (x - cx) - np.sin(turn) * (y - cy)
        inside = (u / (radius * stretch)) ** 2 + (v / (radius / stretch)) ** 2 < 1
        if p["apart"] and (ids[ndi.binary_dilation(inside, iterations=2)] > 0).any():
            continue
        ids[inside] = number
    return ids


def tissue(rng: Rng, p: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of cells that fill the picture, and the distance to the nearest border in pixels."""
    pad = 2 * p["radius"]
    count = max(4, int((EDGE + 2 * pad) ** 2 / (3.2 * p["radius"] ** 2)))
    seeds = rng.uniform(-pad, EDGE + pad, (count, 2))
    weights = np.exp(rng.normal(0, p["spread"], count))
    places = bent(rng, 1.5 * p["rough"], p["radius"] * 0.5).reshape(2, -1).T
    distance, index = cKDTree(seeds).query(places, k=min(6, count))
    distance = distance / weights[index]
    order = np.argsort(distance, 1)[:, :2]
    first, second = np.take_along_axis(distance, order, 1).T
    ids = np.take_along_axis(index, order[:, :1], 1)[:, 0] + 1
    return ids.reshape(EDGE, EDGE), ((second - first) / 2).reshape(EDGE, EDGE)


class World:
    """A style; `picture` draws another picture in it."""

    def __init__(self, rng: Rng) -> None:
        self.kind = str(rng.choice(KINDS))
        low = 9 if self.kind == "tissue" else 3.5
        self.shape: dict[str, Any] = {
            "radius": log_uniform(rng, low, 40 if self.kind == "tissue" else 28),
            "spread": rng.uniform(0, 0.35),
            "ecc": rng.uniform(0, 0.5),
            "long": rng.choice([0, 0, rng.uniform(0, 1.4)]),
            "rough": rng.uniform(0, 4),
            "cover": rng.uniform(0.05, 0.6),
            "apart": rng.random() < 0.6,
            "thick": log_uniform(rng, 0.8, 3.5),
        }
        self._choose_look(rng)
        self._choose_optics(rng)

    def _choose_look(self, rng: Rng) -> None:
        self.channels = 3 if rng.random() < 0.5 else 1
        self.stained = self.channels == 3 and rng.random() < 0.6
        self.base, self.far = rng.uniform(0, 1, self.channels), rng.choice([0.08, 0.25, 0.6])
        self.mean = np.stack([self._color(rng) for _ in range(CLASSES)])
        if self.stained and rng.random() < 0.7:  # the background lets the light through
            self.mean[0] = np.exp(-rng.uniform(0, 0.15, 3))
        self.jitter = rng.choice([0, 0.05, 0.2]) * rng.random(CLASSES)
        self.texture = [
            (log_uniform(rng, 0.6, 6), rng.choice([0, 0.05, 0.15, 0.3]) * rng.random())
            for _ in range(CLASSES)
        ]
        self.everywhere = log_uniform(rng, 0.6, 10), rng.choice([0, 0.1, 0.25]) * rng.random()
        self.debris = rng.random() < 0.5, self._color(rng)
        self.organelles = rng.random() < 0.7, self.mean[1] + self._color(rng) - self.base
        self.debris_radius = log_uniform(rng, 1, 5)
        self.organelle_radius = log_uniform(rng, 1.5, 0.35 * self.shape["radius"] + 2)
        self.organelles_have_rims = rng.random() < 0.6
        self.rims_look_like_membranes = rng.random() < 0.5
        self.rim_is_a_class = rng.random() < 0.25

    def _color(self, rng: Rng) -> np.ndarray:
        """The colour of a class or of clutter (channels,): a stain, or anything near the others."""
        if self.stained:
            hue = np.clip(self.base + rng.normal(0, self.far / 2, 3), 0, 1)
            return np.exp(-log_uniform(rng, 0.1, 2) * hue)
        return self.base + rng.normal(0, self.far, self.channels)

    def _choose_optics(self, rng: Rng) -> None:
        self.shade = rng.choice([0, 0.15, 0.4]) * rng.random()
        self.rim = rng.choice([0, 0, 0.4]) * rng.normal(), log_uniform(rng, 0.7, 2.5)
        self.halo = rng.choice([0, 0, 0.5]) * rng.normal(), log_uniform(rng, 2, 8)
        self.dome = rng.choice([0, 0, 0.5]) * rng.normal()
        self.blur = rng.choice([0, 0.7, 1.2, 2])
        self.noise = rng.choice([0.01, 0.04, 0.1, 0.2]) * rng.random() + 0.005
        self.shot = rng.random() < 0.3
        self.grain = rng.choice([0, 0, 0.8])
        self.gamma = np.exp(rng.uniform(-0.6, 0.6))
        self.varies = rng.choice([0, 0.2, 0.5])

    def another_day(self, rng: Rng) -> World:
        """This style with stains, focus, noise and light that are a little different."""
        world = copy.copy(self)
        world.mean = self.mean + 0.15 * self.varies * rng.normal(0, 1, self.mean.shape)
        world.blur = max(0.0, self.blur * np.exp(self.varies * rng.normal()))
        world.noise = self.noise * np.exp(self.varies * rng.normal())
        world.gamma = self.gamma * np.exp(0.5 * self.varies * rng.normal())
        world.shade = self.shade + 0.1 * self.varies * rng.random()
        return world

    def classes(self, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Class indices and ids of objects, both (EDGE, EDGE)."""
        p = self.shape
        if self.kind == "tissue":
            ids, gap = tissue(rng, p)
            uneven = 0.7 + 0.3 * np.clip(field(rng, 6), -1, 1)
            return np.where(gap < p["thick"] * uneven, 2, 1), ids
        if self.kind == "regions":
            values = field(rng, p["radius"] * 0.7)
            found = (values > np.quantile(values, 1 - p["cover"])).astype(int)
            return found, found
        if self.kind == "lines":
            values = field(rng, p["radius"])
            slope = np.hypot(*np.gradient(values)) + 0.02
            found = (np.abs(values - rng.normal(0, 0.3)) / slope < p["thick"]).astype(int)
            return found, found
        if self.kind == "nested":
            ids = ellipses(rng, {**p, "radius": max(8, p["radius"])})
            depth = ndi.distance_transform_edt(ids > 0)
            depth = depth + 1.5 * field(rng, 4) * min(3, p["radius"] / 6)
            return np.where((ids > 0) & (depth > 0.45 * p["radius"]), 2, (ids > 0) * 1), ids
        ids = ellipses(rng, p)
        if self.kind == "cells" or self.rim_is_a_class:
            return np.where(edges(ids, p["thick"]) & (ids > 0), 2, (ids > 0) * 1), ids
        return (ids > 0) * 1, ids

    def picture(self, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """A picture (3, EDGE, EDGE) float16 and its classes (EDGE, EDGE) uint8."""
        classes, ids = self.classes(rng)
        image = self.mean[classes].transpose(2, 0, 1).copy()
        image += rng.normal(0, 1, ids.max() + 1)[ids] * self.jitter[classes]
        for number, (sigma, amount) in enumerate(self.texture):
            image += amount * field(rng, sigma) * (classes == number)
        image += self.everywhere[1] * field(rng, self.everywhere[0])
        image = self._clutter(rng, image, classes, ids)
        image = self._light(rng, image, ids > 0)
        return np.clip(self._camera(rng, image), -1, 3).astype(np.float16), classes.astype(np.uint8)

    def _clutter(self, rng: Rng, image: np.ndarray, classes: np.ndarray, ids: np.ndarray) -> Any:
        """Things that are no class of their own: organelles inside, debris outside."""
        small = {"ecc": 0.3, "long": 0, "rough": 0.5}
        there, color = self.organelles
        if there and (ids > 0).any():
            cover = rng.uniform(0.05, 0.25)
            p = {**small, "radius": self.organelle_radius, "spread": 0.3, "cover": cover}
            found = ellipses(rng, {**p, "apart": True})
            if self.kind == "tissue":  # whole ones only
                cut = np.unique(found[(classes != 1) & (found > 0)])
                inside = (found > 0) & ~np.isin(found, cut)
            else:
                inside = (found > 0) & (classes == 1)
            image = self._organelles(image, found, inside, color)
        there, color = self.debris
        if there and (classes == 0).any():
            cover = rng.uniform(0.01, 0.08)
            p = {**small, "radius": self.debris_radius, "spread": 0.5, "cover": cover}
            found = ellipses(rng, {**p, "apart": False})
            image = np.where((found > 0) & (classes == 0), color[:, None, None], image)
        return image

    def _organelles(
        self, image: np.ndarray, ids: np.ndarray, inside: np.ndarray, color: Any
    ) -> Any:
        if not self.organelles_have_rims:
            return np.where(inside, color[:, None, None], image)
        rim = self.mean[2] if self.rims_look_like_membranes else color
        lighter = image + 0.3 * (color - self.mean[1])[:, None, None]
        image = np.where(inside, lighter, image)
        return np.where(edges(ids, 1.0) & inside, rim[:, None, None], image)

    def _light(self, rng: Rng, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Domes, halos and rims of objects, uneven light, blur."""
        solid = inside.astype(float)
        if self.kind != "tissue":
            if self.dome:
                depth = ndi.distance_transform_edt(inside) / self.shape["radius"]
                image = image + self.dome * np.minimum(depth, 1)
            glow = ndi.gaussian_filter(solid, self.halo[1]) - solid
            image = image + self.halo[0] * glow * (1 - solid)
            image = image + self.rim[0] * (ndi.gaussian_filter(solid, self.rim[1]) - solid)
        image = image + self.shade * field(rng, EDGE / 4)
        return ndi.gaussian_filter(image, (0, self.blur, self.blur)) if self.blur else image

    def _camera(self, rng: Rng, image: np.ndarray) -> np.ndarray:
        """Gamma, noise, and the range from the 1st to the 99.8th percentile."""
        low, high = np.quantile(image, [0.01, 0.99])
        image = (image - low) / (high - low + 1e-3)
        image = np.sign(image) * np.abs(image) ** self.gamma
        noise = rng.standard_normal(image.shape)
        if self.grain:
            noise = ndi.gaussian_filter(noise, (0, self.grain, self.grain))
            noise /= noise.std() + 1e-6
        strength = np.sqrt(np.clip(image, 0.05, 2)) if self.shot else 1.0
        image = image + self.noise * strength * noise
        low, high = np.percentile(image, [1, 99.8], axis=(1, 2))[:, :, None, None]
        image = (image - low) / (high - low + 1e-3)
        return np.repeat(image, 3, 0) if len(image) == 1 else image


def make_bank(seed: int, count: int, pictures: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (count, pictures, 3, EDGE, EDGE) float16 and classes uint8 of ``count`` worlds."""
    rng = np.random.default_rng(seed)
    images, truths = [], []
    while len(images) < count:
        world = World(rng)
        drawn = [world.another_day(rng).picture(rng) for _ in range(pictures)]
        truth = np.stack([classes for _, classes in drawn])
        present = np.flatnonzero(np.bincount(truth.ravel()) > 0.01 * truth.size)
        if len(present) > 1 and all(np.isin(present, classes).all() for classes in truth):
            images.append(np.stack([image for image, _ in drawn]))
            truths.append(truth)
    return np.stack(images), np.stack(truths)
