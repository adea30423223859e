"""Voxel sizes of images and models: comparison, notices, resampling factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import OtherSpacing
from napari_unetseg.core.lengths import MICROMETRES, micrometres
from napari_unetseg.core.resample import Resampling

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.settings import MatchSpacing
    from napari_unetseg.models.model import Model

TOLERANCE = 1.2
"""Ratio of voxel sizes up to which a difference is not mentioned (benchmarks/results/README.md)."""
ALIKE = 1.02
"""Ratio up to which a difference is rounding, and nothing is resampled."""
MOST_TIMES = 8.0
"""Ratio along an axis above which resampling is refused."""
MOST_GROWTH = 64.0
"""Most voxels made of one, which multiplies the prediction time."""
SMALLEST_UM = 0.05
"""Size below which nm are used."""

Micrometres = tuple[float | None, ...]
"""Voxel size along ZYX or YX; None where unknown."""


@dataclass(frozen=True, slots=True)
class SpacingRange:
    """Smallest and largest voxel size of images along each axis, µm."""

    low: Micrometres
    high: Micrometres

    @classmethod
    def of_images(cls, stacks: Sequence[Stack], dims: int) -> Self:
        """The range of images with known sizes."""
        low, high = [], []
        for along in zip(*(_sizes(stack, dims) for stack in stacks), strict=True):
            known = [size for size in along if size is not None]
            low.append(min(known, default=None))
            high.append(max(known, default=None))
        return cls(tuple(low), tuple(high))

    @classmethod
    def of_model(cls, model: Model) -> Self:
        """The range of a model's training images."""
        low, high = model.spacing_range or (model.spacing, model.spacing)
        return cls(
            tuple(map(micrometres, low, model.units)), tuple(map(micrometres, high, model.units))
        )

    def nearest(self, sizes: Micrometres) -> Micrometres:
        """The size in the range that is nearest to an image's."""
        rows = zip(sizes, self.low, self.high, strict=True)
        return tuple(
            low if size is None or low is None or high is None else min(max(size, low), high)
            for size, low, high in rows
        )

    def covers(self, other: SpacingRange) -> bool:
        """Whether another range lies in this one, within `ALIKE`."""
        ends = (VoxelSizes(sizes, self.nearest(sizes)) for sizes in (other.low, other.high))
        return not any(end.differ for end in ends)

    @property
    def wide(self) -> bool:
        """Whether the range is so wide that structures differ in size."""
        return VoxelSizes(self.low, self.high).differ

    @property
    def text(self) -> str:
        """Such as ``0.2 µm`` or ``0.05 to 0.2 µm``."""
        low, high = _texts(self.low, self.high)
        number = low.split()[0] if "×" not in f"{low}{high}" else low
        return f"{number} to {high}" if self.wide else low


@dataclass(frozen=True, slots=True)
class VoxelSizes:
    """The voxel size of an image, and the nearest one of a model's training images."""

    image: Micrometres
    model: Micrometres

    @classmethod
    def compare(cls, model: Model, stack: Stack) -> Self:
        """Those of a model and an image."""
        sizes = _sizes(stack, model.dims)
        return cls(sizes, SpacingRange.of_model(model).nearest(sizes))

    @property
    def factors(self) -> tuple[float, ...]:
        """Size of the model's voxels in those of the image; 1 where alike or unknown."""
        pairs = zip(self.image, self.model, strict=True)
        ratios = [min(max(m / i, 1e-9), 1e9) if i and m else 1.0 for i, m in pairs]
        return tuple(1.0 if _times(ratio) < ALIKE else ratio for ratio in ratios)

    @property
    def differ(self) -> bool:
        """Whether they differ so much that a mask may be wrong."""
        return any(round(_times(factor), 6) > TOLERANCE for factor in self.factors)

    @property
    def unknown(self) -> bool:
        """Whether a size is unknown."""
        return None in (*self.image, *self.model)

    @property
    def too_far(self) -> bool:
        """Whether they differ too much for resampling."""
        growth = 1 / math.prod(self.factors)
        return max(map(_times, self.factors)) > MOST_TIMES or growth > MOST_GROWTH

    @property
    def what(self) -> str:
        """Pixel or voxel."""
        return "pixel" if len(self.image) == 2 else "voxel"

    def describe(self, name: str) -> str:
        """Describe the difference in a sentence."""
        times, what = {round(factor, 1) for factor in self.factors}, self.what
        image, model = _texts(self.image, self.model)
        change = "have another size or shape"
        if len(times) == 1:
            factor = self.factors[0]
            change = f"are {_rounded(_times(factor))} times {'larger' if factor > 1 else 'smaller'}"
        return (
            f"{name} has {what}s of {image}, but the model was trained on {what}s of {model}: "
            f"structures {change} in {what}s than in training, so the mask may be wrong."
        )

    def obstacle(self, name: str) -> str:
        """Why an image cannot be predicted at the model's voxel size; empty if it can."""
        what, (image, model) = self.what, _texts(self.image, self.model)
        if None in self.image:
            return (
                f"The {what} size of {name}{_along(self.image)} is not known, so it cannot be "
                f"predicted at the model's {what} size; give it with --spacing, or remove "
                "--match-spacing."
            )
        if None in self.model:
            return (
                f"The {what} size{_along(self.model)} of the model's training images is not "
                f"known, so {name} cannot be predicted at it; train with --spacing, or remove "
                "--match-spacing."
            )
        if self.too_far:
            return (
                f"{name} has {what}s of {image}, and the model was trained on {what}s of {model}, "
                f"which is too far apart to resample (at most {MOST_TIMES:g} times along an axis, "
                f"and {MOST_GROWTH:g} times as many {what}s); check both with 'unetseg info', "
                "correct them with --spacing, or train on such images."
            )
        return ""


OFFER = (
    "--match-spacing (in Python PredictSettings(match_spacing=True)) predicts at the model's {} "
    "size."
)


@dataclass(frozen=True, slots=True, eq=False)
class FittedSpacing:
    """An image at the voxel size for prediction."""

    seen: Stack
    """The image as the network sees it."""
    resampling: Resampling | None = None
    """From its own voxels to those; None where they are the same."""
    notice: OtherSpacing | None = None
    """About the sizes of image and model."""


def fit_spacing(model: Model, stack: Stack, *, match: MatchSpacing) -> FittedSpacing:
    """Fit an image to a model's voxel size, with a notice on differences.

    Parameters
    ----------
    model, stack
        The model, and the image to predict.
    match
        As ``match_spacing`` of `PredictSettings`.

    Raises
    ------
    UserError
        ``match`` is True, but a size is not known, or the two are too far apart.
    """
    sizes, name = VoxelSizes.compare(model, stack), stack.name
    obstacle, (image, known) = sizes.obstacle(name), _texts(sizes.image, sizes.model)
    if match is True and obstacle:
        raise UserError(obstacle)
    if match and not obstacle and set(sizes.factors) != {1.0}:
        text = f"{name} is predicted at the model's {sizes.what} size, {known} instead of {image}."
        resampling = Resampling(stack.spatial_shape(model.dims), sizes.factors)
        notice = OtherSpacing(text, f"{image}, {known}")
        return FittedSpacing(resampling.view(stack), resampling, notice)
    if not sizes.differ:
        return FittedSpacing(stack)
    far = sizes.too_far and not sizes.unknown
    text, offer = (
        (obstacle, "") if far else (sizes.describe(name), obstacle or OFFER.format(sizes.what))
    )
    notice = OtherSpacing(text, f"{image}, {known}", offer, warning=True)
    return FittedSpacing(stack, notice=notice)


def model_spacing(
    stacks: Sequence[Stack], dims: int
) -> tuple[tuple[float, ...], tuple[str, ...], tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """Voxel sizes of training images for a model.

    Returns
    -------
    spacing, units, spacing_range
        As in `Model`; along each axis of the first image of which the size is known.
    """
    whole = SpacingRange.of_images(stacks, dims)
    spacing, units, low, high = [], [], [], []
    for axis, (least, most) in enumerate(zip(whole.low, whole.high, strict=True)):
        given = [(s.spatial_spacing(dims)[axis], s.grid_units[-dims:][axis]) for s in stacks]
        size, unit = next((one for one in given if micrometres(*one) is not None), given[0])
        spacing.append(float(size))
        units.append(unit)
        low.append(float(size) if least is None else least / MICROMETRES[unit])
        high.append(float(size) if most is None else most / MICROMETRES[unit])
    alike = all(b <= a * ALIKE for a, b in zip(low, high, strict=True))
    return tuple(spacing), tuple(units), None if alike else (tuple(low), tuple(high))


def why_other_sizes(stacks: Sequence[Stack], dims: int, init: Model | None) -> str:
    """A notice on differing voxel sizes of training images, or nothing.

    Nothing where an initial model was trained on the same sizes.
    """
    sizes = SpacingRange.of_images(stacks, dims)
    what = "pixels" if dims == 2 else "voxels"
    if init is not None and init.dims == dims:
        known = SpacingRange.of_model(init)
        if known.covers(sizes):
            return ""
        return (
            f"The initial model was trained on {what} of {known.text}, but these images have "
            f"{what} of {sizes.text}: structures have another size than it learned, which may "
            "need more labels."
        )
    if not sizes.wide:
        return ""
    return (
        f"The training images have {what} of {sizes.text} and are not resampled: label each "
        "structure in images of every size that the model will be used on."
    )


def _sizes(stack: Stack, dims: int) -> Micrometres:
    return tuple(map(micrometres, stack.spatial_spacing(dims), stack.grid_units[-dims:]))


def _times(factor: float) -> float:
    return max(factor, 1 / factor)


def _rounded(times: float) -> str:
    """A number to two digits, such as ``4``, ``1.3`` or ``100``."""
    rounded = float(f"{times:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _along(sizes: Micrometres) -> str:
    """Which axes are not known, where others are."""
    axes = [a for a, size in zip("ZYX"[-len(sizes) :], sizes, strict=True) if size is None]
    return f" along {' and '.join(axes)}" if len(axes) < len(sizes) else ""


def _texts(one: Micrometres, other: Micrometres) -> tuple[str, str]:
    """Two sizes in the same unit: ``0.2 µm``, or ``0.3 × 0.1 × 0.1 µm (Z × Y × X)``."""
    largest = max((size for size in (*one, *other) if size), default=1.0)
    unit, name = (1e3, "mm") if largest >= 1e3 else (1.0, "µm")
    unit, name = (1e-3, "nm") if largest < SMALLEST_UM else (unit, name)

    def text(sizes: Micrometres) -> str:
        texts = ["?" if size is None else f"{size / unit:.3g}" for size in sizes]
        if len(set(texts)) == 1:
            return f"{texts[0]} {name}"
        return f"{' × '.join(texts)} {name} ({' × '.join('ZYX'[-len(sizes) :])})"

    return text(one), text(other)
