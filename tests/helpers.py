"""Small pictures, strokes, networks and models that the tests of core share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import Classes, LabelKind, Structure
from napari_unetseg.core.settings import AugmentSettings, NetSettings, TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.models.model import Model
from napari_unetseg.models.registry import build
from napari_unetseg.training import losses
from napari_unetseg.training.losses import LossInputs, LossTerm, Mean, cross_entropy
from napari_unetseg.training.train import train_events

if TYPE_CHECKING:
    import pytest

    from napari_unetseg.core.events import Event
    from napari_unetseg.models.unet import UNet

torch.set_num_threads(1)  # these networks are tiny: more threads only wait for each other

NO_AUGMENT = AugmentSettings(
    flips=False,
    quarter_turns=False,
    rotation=0,
    scale=0,
    elastic=0,
    brightness=0,
    contrast=0,
    gamma=0,
    shading=0,
    blur=0,
    noise=0,
)
TURNS_ONLY = NO_AUGMENT.model_copy(update={"flips": True, "quarter_turns": True})


def blobs(
    shape: tuple[int, ...], count: int, seed: int = 0, structures: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Bright balls on a noisy ground, float32 about 0 to 1, and their truth (0, 1, 2, ...).

    Structure k is told from the others by its brightness.
    """
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, np.uint8)
    image = rng.normal(0.1, 0.05, shape).astype(np.float32)
    grid = np.ogrid[tuple(slice(0, s) for s in shape)]
    largest = max(3, min(shape[-2:]) // 8)
    for i in range(count):
        center = [rng.integers(0, s) for s in shape]
        radius = rng.integers(max(2, largest // 2), largest + 1)
        inside = sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) <= radius**2
        truth[inside] = 1 + i % structures
    image += truth.astype(np.float32) * (0.8 / structures)
    return image, truth


def strokes(truth: np.ndarray, every: int = 12, brush: bool = True) -> np.ndarray:
    """Annotation of every n-th row: structures by their number, background by 255."""
    painted = np.zeros_like(truth)
    rows = truth[..., every // 2 :: every, :]
    painted[..., every // 2 :: every, :] = np.where(rows == 0, 255 if brush else 0, rows)
    return painted


def painted_pair(
    shape: tuple[int, ...] = (96, 96), count: int = 12, seed: int = 0, **more: Any
) -> AnnotatedImage:
    """An image of blobs with strokes."""
    image, truth = blobs(shape, count, seed)
    axes = more.pop("axes", "TZYX"[-len(shape) :])
    return AnnotatedImage(
        Stack(image, axes, name=f"blobs {seed}"), strokes(truth), "strokes", **more
    )


def tiny(**changes: Any) -> TrainSettings:
    """Settings of a training that takes a second or two."""
    values: dict[str, Any] = {
        "depth": 2,
        "width": 4,
        "threads": 1,
        "device": "cpu",
        "patch": 32,
        "batch": 4,
        "augment": TURNS_ONLY,
        **changes,
    }
    return TrainSettings.model_validate(values)


def run_training(pairs: Sequence[AnnotatedImage], settings: TrainSettings, **more: Any) -> Any:
    """Train to the end; (model, events)."""
    events: list[Event] = []
    generator = train_events(pairs, settings, **more)
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return end.value, events


def of_kind(events: Sequence[Event], kind: type) -> list[Any]:
    return [e for e in events if isinstance(e, kind)]


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    """Dice of two boolean arrays."""
    both = int(truth.sum()) + int(found.sum())
    return 2.0 * int((truth & found).sum()) / both if both else math.nan


def random_network(seed: int = 0, **settings: Any) -> UNet:
    """A network in evaluation mode whose norms have seen data of their own and whose head speaks.

    Freshly initialised, the head's logits are close to 0 and norms are the identity, so that
    many a mistake would not be seen. Here the logits of noise spread about 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(NetSettings(**settings))
        for name, value in network.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.startswith("head"):
                value.normal_(0.0, 0.5)
            elif value.ndim == 1 and value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.4 - 0.1)
        network.eval()
        size = [4 * s + 8 for s in network.stride]
        noise = torch.rand(1, settings.get("in_channels", 1), *size)
        with torch.no_grad():
            logits = network(noise).transpose(0, 1).flatten(1)
            network.head.bias.sub_(logits.median(1).values)
            factor = (0.5 / logits.std()).clamp(max=4.0)
            network.head.weight.mul_(factor)
            network.head.bias.mul_(factor)
    return network


def random_model(
    seed: int = 0, numbers: Sequence[int] = (1,), background: bool = True, **net: Any
) -> Model:
    """A model with random weights that leaves intensities as they are."""
    classes = Classes(tuple(Structure(n) for n in numbers), background)
    net = {"image_features": True, **net}
    settings = NetSettings(out_channels=classes.out_channels, **net)
    network = random_network(seed, **settings.model_dump())
    n = settings.in_channels
    return Model(
        net=settings,
        weights={k: v.clone() for k, v in network.state_dict().items()},
        classes=classes,
        channels=tuple(f"channel {i + 1}" for i in range(n)),
        normalization=Normalization((0.0,) * n, (1.0,) * n, (0.5,) * n),
        spacing=(1.0,) * settings.dims,
        units=("pixel",) * settings.dims,
    )


def sized(image: Any, axes: str, *sizes: float, unit: str = "um", **more: Any) -> Stack:
    """A stack with these voxel sizes along the last of Z, Y and X, or one for all of them."""
    spatial = [a for a in "ZYX" if a in axes]
    given = dict(zip("ZYX"[-len(sizes) :] if len(sizes) > 1 else "", sizes, strict=False))
    given = given or dict.fromkeys(spatial, sizes[0])
    spacing = tuple(given.get(a, 1.0) for a in axes)
    units = tuple(unit if a in given else "pixel" for a in axes)
    return Stack(image, axes, spacing, units, **more)


def trained_at(model: Model, *sizes: float, unit: str = "um") -> Model:
    """The model, as if its training images had had voxels of that size."""
    spacing = sizes if len(sizes) > 1 else sizes * model.dims
    return replace(model, spacing=spacing, units=(unit,) * model.dims)


class Watched:
    """An array-like that counts what is read and refuses to be read whole.

    NumPy is only given what was asked for by slicing, as with dask and zarr.
    """

    def __init__(self, array: np.ndarray, most: int | None = None) -> None:
        self.array, self.most = array, most
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.reads: list[int] = []

    def __getitem__(self, index: Any) -> np.ndarray:
        piece = self.array[index]
        self.reads.append(piece.size)
        limit = self.most or self.array.size - 1
        assert piece.size <= limit, f"read {piece.size} voxels at once, at most {limit} allowed"
        return piece

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise AssertionError("the whole array was read")

    @property
    def peak(self) -> int:
        return max(self.reads)


def full_pair(image: np.ndarray, truth: np.ndarray, axes: str, **more: Any) -> AnnotatedImage:
    return AnnotatedImage(Stack(image, axes), truth, LabelKind.FULL, **more)


def stopped_control() -> JobControl:
    control = JobControl(threads=1)
    control.stop()
    return control


def broken_loss(
    monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool], gradient: bool = False
) -> None:
    """The n-th loss of a training is NaN where ``bad(n)``; or its gradient alone is."""
    calls = [0]

    def value(batch: LossInputs) -> Mean:
        calls[0] += 1
        mean = cross_entropy(batch)
        if not bad(calls[0]):
            return mean
        if gradient:
            return mean._replace(value=mean.value + (batch.logits.sum() * 0.0).sqrt())
        return mean._replace(value=mean.value * math.nan)

    terms = (LossTerm("cross_entropy", lambda _: 1.0, value), *losses.LOSSES[1:])
    monkeypatch.setattr("napari_unetseg.training.trainer.LOSSES", terms)
