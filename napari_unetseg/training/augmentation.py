"""Random augmentation of patches: geometry, intensity, noise.

All geometric changes are one resampling, and labels are never interpolated.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from napari_unetseg.core.settings import AugmentSettings

Source = torch.Generator | None

BEND, BEND_EVERY = 2.5, 32
"""Standard deviation of an elastic deformation and distance of its control points, in voxels."""

SHADE_EVERY = 48
"""Distance of the control points of uneven light, in voxels."""


def margin(settings: AugmentSettings) -> float:
    """Size of a sample relative to its patch in Y and X, so that rotation leaves few holes."""
    if not (settings.rotation or settings.scale):
        return 1.0
    angle = math.radians(min(settings.rotation, 45.0)) / 2
    return (math.cos(angle) + math.sin(angle)) / (1.0 - settings.scale / 2)


class Augmenter:
    """Random augmentation.

    Parameters
    ----------
    settings
        Probabilities and ranges of the changes.
    dims
        2 or 3.
    """

    def __init__(self, settings: AugmentSettings, dims: int) -> None:
        self.settings, self.dims = settings, dims
        self._moves = bool(settings.rotation or settings.scale or settings.elastic)

    def __call__(
        self,
        image: Tensor,
        target: Tensor,
        size: tuple[int, ...],
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Augment a sample and crop it to ``size``.

        Parameters
        ----------
        image
            (channels, *spatial) float32, normalised.
        target
            (*spatial,) uint8 class indices, or (maps, *spatial) of class indices and object maps.
        size
            Spatial size of the result, at most that of the sample.
        generator
            Random numbers; PyTorch's global generator, which all threads share, by default.

        Returns
        -------
        image, target
            (channels, *size) and (*size,), or (maps, *size).
        """
        if self._moves:
            image, target = self._resample(image, target, size, generator)
        else:
            middle = tuple(
                slice((have - want) // 2, (have - want) // 2 + want)
                for have, want in zip(image.shape[1:], size, strict=True)
            )
            where: tuple[Any, ...] = (..., *middle)
            image, target = image[where], target[where]
        image, target = self._flip_and_turn(image, target, generator)
        return self._change_intensity(image, generator).contiguous(), target.contiguous()

    def _resample(
        self, image: Tensor, target: Tensor, size: tuple[int, ...], source: Source
    ) -> tuple[Tensor, Tensor]:
        """Rotate, scale and deform in the plane, around the sample's centre."""
        places = self._places(size, source).to(image.device)
        shape = image.shape[1:]
        for axis, (have, want) in enumerate(zip(shape, size, strict=True)):
            places[axis] += (have - want) // 2 + (want - 1) / 2
        scale = torch.tensor(shape, device=image.device).view(-1, *(1,) * self.dims)
        grid = ((places * 2 + 1) / scale - 1).flip(0).movedim(0, -1)  # the last axis first
        moved = functional.grid_sample(
            image[None], grid[None], padding_mode="border", align_corners=False
        )[0]
        nearest = places.round().long()
        outside = ((nearest < 0) | (nearest >= scale)).any(0)
        index = tuple(n.clamp(0, s - 1) for n, s in zip(nearest, shape, strict=True))
        return moved, target[(..., *index)].masked_fill(outside, IGNORE_INDEX)

    def _places(self, size: tuple[int, ...], source: Source) -> Tensor:
        """Source coordinates (dims, *size) of the voxels, from the sample's centre, in voxels."""
        s = self.settings
        steps = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
        places = torch.stack(torch.meshgrid(*steps, indexing="ij"))
        angle = math.radians(_uniform(source, -s.rotation, s.rotation))
        zoom = math.exp(_uniform(source, math.log(1 - s.scale), -math.log(1 - s.scale)))
        y, x = places[-2].clone(), places[-1].clone()
        places[-2] = zoom * (math.cos(angle) * y + math.sin(angle) * x)
        places[-1] = zoom * (math.cos(angle) * x - math.sin(angle) * y)
        if s.elastic and _chance(source, s.elastic):
            points = [3 + -(-n // BEND_EVERY) for n in size[-2:]]
            bend = functional.interpolate(
                BEND * torch.randn(1, 2, *points, generator=source), size=size[-2:], mode="bicubic"
            )[0]
            places[-2:] += bend if self.dims == 2 else bend[:, None]
        return places

    def _flip_and_turn(
        self, image: Tensor, target: Tensor, source: Source
    ) -> tuple[Tensor, Tensor]:
        if self.settings.flips:
            axes = [a for a in range(-self.dims, 0) if _chance(source, 0.5)]
            image, target = image.flip(axes), target.flip(axes)
        if self.settings.quarter_turns and image.shape[-1] == image.shape[-2]:
            turns = int(torch.randint(4, (), generator=source))
            image, target = image.rot90(turns, (-2, -1)), target.rot90(turns, (-2, -1))
        return image, target

    def _change_intensity(self, image: Tensor, source: Source) -> Tensor:
        """Blur, noise, brightness, contrast, gamma, shading; less in RGB, where colours matter."""
        s, part = self.settings, 1 / 3 if len(image) == 3 else 1.0
        if s.gamma:
            power = math.exp(part * _uniform(source, math.log(1 - s.gamma), -math.log(1 - s.gamma)))
            image = image.sign() * image.abs() ** power
        if s.contrast or s.brightness:
            # PyTorch's own mean depends on the number of threads
            middle = float(np.mean(image.numpy(force=True)))
            gain = 1 + part * _uniform(source, -s.contrast, s.contrast)
            image = (image - middle) * gain + middle
            image = image + part * _uniform(source, -s.brightness, s.brightness)
        if s.shading:
            light = _field(image.shape[-2:], source).to(image.device)
            image = image + part * _uniform(source, 0, s.shading) * light
        if s.blur and _chance(source, s.blur):
            image = _blurred(image, source)
        if s.noise:
            image = image + torch.empty_like(image).normal_(generator=source) * _uniform(
                source, 0, s.noise
            )
        return image


def _field(size: tuple[int, ...], source: Source) -> Tensor:
    """A smooth random field (*size) of unit variance, for shading and elastic deformation."""
    shape = [2 + -(-n // SHADE_EVERY) for n in size]
    points = torch.randn(1, 1, *shape, generator=source)
    return functional.interpolate(points, size=size, mode="bicubic", align_corners=True)[0, 0]


def _blurred(image: Tensor, source: Source) -> Tensor:
    """Gaussian blur in the plane by 0.5 to 1.5 voxels."""
    sigma = _uniform(source, 0.5, 1.5)
    weights = torch.exp(-0.5 * (torch.arange(-4, 5, device=image.device) / sigma) ** 2)
    weights = weights / weights.sum()
    flat = image.reshape(-1, 1, *image.shape[-2:])
    flat = functional.pad(flat, (4, 4, 4, 4), mode="replicate")
    flat = functional.conv2d(
        functional.conv2d(flat, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1)
    )
    return flat.reshape(image.shape)


def _uniform(source: Source, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=source))


def _chance(source: Source, probability: float) -> bool:
    return bool(torch.rand((), generator=source) < probability)
