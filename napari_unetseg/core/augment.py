"""Random changes of a sample, the same for image and labels; labels are never interpolated.

In 2D the geometry is torchvision's (`transforms.v2`); flips, quarter turns and intensities are a
line of PyTorch each and serve 3D as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import IGNORE

if TYPE_CHECKING:
    from napari_unetseg.core.config import AugmentSettings

__all__ = ["Augmenter", "margin"]

Geometry = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SMALLEST, SMALLEST_ELASTIC = 4, 25
"""Smaller samples are left as they are, or not deformed: torchvision's kernels are wider."""


def margin(settings: AugmentSettings, dims: int) -> float:
    """How much larger than a patch a sample is cut, so that a rotation seldom leaves a hole."""
    if dims == 3:
        return 1.0
    angle = math.radians(min(settings.rotation, 45.0)) / 2
    return (math.cos(angle) + math.sin(angle)) / (1.0 - settings.scale / 2)


class Augmenter:
    """Changes samples at random, with PyTorch's global generator.

    Parameters
    ----------
    settings
        What to change and by how much.
    dims
        2 or 3.

    Raises
    ------
    UserError
        torchvision is missing or does not fit the installed PyTorch.
    """

    def __init__(self, settings: AugmentSettings, dims: int) -> None:
        self.settings, self.dims = settings, dims
        self._geometry = _geometry(settings) if dims == 2 else None

    def __call__(
        self, image: Tensor, target: Tensor, size: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Change a sample and cut it to size.

        Parameters
        ----------
        image
            (channels, *spatial) float32, normalised.
        target
            (*spatial,) uint8 class indices.
        size
            Spatial size of the result, at most that of the sample.

        Returns
        -------
        image, target
            (channels, *size) and (*size,).
        """
        if self._geometry is not None:
            image, target = self._geometry(image, target)
        middle = tuple(
            slice((have - want) // 2, (have - want) // 2 + want)
            for have, want in zip(image.shape[1:], size, strict=True)
        )
        image, target = image[(slice(None), *middle)], target[middle]
        image, target = self._flip_and_turn(image, target)
        return self._change_intensity(image).contiguous(), target.contiguous()

    def _flip_and_turn(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.settings.flips:
            axes = [a for a in range(-self.dims, 0) if _chance(0.5)]
            image, target = image.flip(axes), target.flip(axes)
        if self.settings.quarter_turns and image.shape[-1] == image.shape[-2]:
            turns = int(torch.randint(4, ()))
            image, target = image.rot90(turns, (-2, -1)), target.rot90(turns, (-2, -1))
        return image, target

    def _change_intensity(self, image: Tensor) -> Tensor:
        s = self.settings
        if s.gamma:
            power = math.exp(_uniform(math.log(1 - s.gamma), -math.log(1 - s.gamma)))
            image = image.sign() * image.abs() ** power
        if s.contrast or s.brightness:
            middle = image.mean()
            image = (image - middle) * (1 + _uniform(-s.contrast, s.contrast)) + middle
            image = image + _uniform(-s.brightness, s.brightness)
        if s.noise:
            image = image + torch.randn_like(image) * _uniform(0, s.noise)
        return image


def _geometry(settings: AugmentSettings) -> Geometry | None:
    """Rotation, scale, elastic deformation and blur by torchvision."""
    if not (settings.rotation or settings.scale or settings.elastic or settings.blur):
        return None
    try:
        from torchvision import tv_tensors
        from torchvision.transforms import InterpolationMode, v2
    except (ImportError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"torchvision does not work with PyTorch {torch.__version__} ({error}); install the "
            "torchvision that belongs to it with 'pip install -U torch torchvision'."
        ) from error
    fill: dict[Any, float] = {tv_tensors.Image: 0.0, tv_tensors.Mask: float(IGNORE)}
    smooth = InterpolationMode.BILINEAR
    steps: list[Any] = [
        v2.RandomAffine(
            settings.rotation,
            scale=(1 - settings.scale, 1 + settings.scale),
            interpolation=smooth,
            fill=fill,
        )
    ]
    if settings.blur:
        blur = v2.GaussianBlur(kernel_size=7, sigma=(0.5, 1.5))
        steps.append(v2.RandomApply([blur], p=settings.blur))
    rigid = v2.Compose(list(steps))
    if settings.elastic:
        elastic = v2.ElasticTransform(alpha=60.0, sigma=6.0, interpolation=smooth, fill=fill)
        steps.insert(1, v2.RandomApply([elastic], p=settings.elastic))
    full = v2.Compose(steps)

    def change(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if min(target.shape) < SMALLEST:
            return image, target
        chain = full if min(target.shape) >= SMALLEST_ELASTIC else rigid
        out = chain(tv_tensors.Image(image), tv_tensors.Mask(target))
        return out[0].as_subclass(Tensor), out[1].as_subclass(Tensor)

    return change


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _chance(probability: float) -> bool:
    return bool(torch.rand(()) < probability)
