"""Random changes are the same for image and labels, and labels stay what they were."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import NO_AUGMENT
from torch import Tensor

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.core.settings import AugmentSettings
from napari_unetseg.training.augmentation import Augmenter, margin

GEOMETRY: list[dict[str, Any]] = [
    {"flips": True},
    {"quarter_turns": True},
    {"rotation": 45.0},
    {"rotation": 180.0},
    {"scale": 0.3},
    {"elastic": 1.0},
    {"flips": True, "quarter_turns": True, "rotation": 30.0, "scale": 0.2, "elastic": 1.0},
]
INTENSITY: list[dict[str, Any]] = [
    {"brightness": 0.5},
    {"contrast": 0.5},
    {"gamma": 0.5},
    {"shading": 0.3},
    {"noise": 0.5},
    {"blur": 1.0},
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def changed(**values: Any) -> AugmentSettings:
    return NO_AUGMENT.model_copy(update=values)


def patches(shape: tuple[int, ...], cell: int = 12) -> Tensor:
    """Random class indices 0 to 2 in squares."""
    cells = torch.randint(
        3, [-(-s // cell) for s in shape], generator=torch.Generator().manual_seed(1)
    )
    for axis, size in enumerate(shape):
        cells = cells.repeat_interleave(cell, axis).narrow(axis, 0, size)
    return cells.to(torch.uint8)


def inside_of_classes(target: Tensor) -> Tensor:
    """Voxels all of whose neighbours within 2 in the plane are of the same class."""
    values = torch.nn.functional.pad(target.float(), (2, 2, 2, 2), value=-1.0)[None]
    pool = torch.nn.functional.max_pool2d
    return (pool(values, 5, 1) == -pool(-values, 5, 1))[0]


@pytest.mark.parametrize("settings", GEOMETRY)
@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_labels_move_together(settings: dict[str, Any], dims: int) -> None:
    """An image that shows its labels still does after every change."""
    augment = Augmenter(changed(**settings), dims)
    target = patches((96, 96) if dims == 2 else (8, 60, 60))
    image = torch.stack([target.float(), 10.0 - target.float()])
    size = (64, 64) if dims == 2 else (6, 48, 48)
    different = 0
    for _ in range(12):
        x, y = augment(image, target, size)
        assert x.shape == (2, *size)
        assert y.shape == size
        assert y.dtype == torch.uint8
        assert set(y.unique().tolist()) <= {0, 1, 2, IGNORE_INDEX}  # never between two numbers
        sure = inside_of_classes(y) & (y != IGNORE_INDEX)
        assert sure.float().mean() > 0.2
        # a bend may squeeze the corner of a square between two voxels, but seldom does
        assert ((x[0] - y).abs()[sure] > 0.05).float().mean() < 1e-2
        assert ((x[1] - (10.0 - y.float())).abs()[sure] > 0.05).float().mean() < 1e-2
        start = [(a - b) // 2 for a, b in zip(target.shape, size, strict=True)]
        middle = target[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
        different += not torch.equal(y, middle)
    assert different > 5  # and it does change something


@pytest.mark.parametrize("settings", INTENSITY)
def test_intensity_leaves_labels_alone_and_changes_the_image(settings: dict[str, Any]) -> None:
    augment = Augmenter(changed(**settings), 2)
    target = patches((40, 40))
    image = torch.rand(3, 40, 40) * 2 - 0.5
    x, y = augment(image, target, (32, 32))
    assert torch.equal(y, target[4:36, 4:36])
    assert torch.isfinite(x).all()
    assert (x - image[:, 4:36, 4:36]).abs().max() > 1e-3
    assert (x - image[:, 4:36, 4:36]).abs().max() < 3.0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_light_changes_rgb_a_third_as_much(channels: int) -> None:
    """In a stained smear colours tell things apart; another number of channels is no RGB."""
    settings = changed(brightness=0.9)
    changes = []
    for seed in range(20):
        torch.manual_seed(seed)
        image = torch.rand(channels, 16, 16)
        x, _ = Augmenter(settings, 2)(image, torch.zeros(16, 16, dtype=torch.uint8), (16, 16))
        changes.append(float((x - image).abs().max()))
    assert max(changes) <= (0.301 if channels == 3 else 0.901)
    assert max(changes) > (0.2 if channels == 3 else 0.6)


def test_nothing_chosen_changes_nothing() -> None:
    image, target = torch.rand(1, 33, 35), patches((33, 35))
    x, y = Augmenter(NO_AUGMENT, 2)(image, target, (32, 32))
    assert torch.equal(x, image[:, :32, 1:33])
    assert torch.equal(y, target[:32, 1:33])


def test_unlabelled_voxels_stay_unlabelled() -> None:
    target = torch.full((80, 80), IGNORE_INDEX, dtype=torch.uint8)
    augment = Augmenter(AugmentSettings(), 2)
    for _ in range(5):
        assert (augment(torch.rand(1, 80, 80), target, (64, 64))[1] == IGNORE_INDEX).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 16, 24])
@pytest.mark.parametrize("dims", [2, 3])
def test_tiny_samples_survive_every_change(size: int, dims: int) -> None:
    settings = AugmentSettings(elastic=1.0, blur=1.0)
    cut = tuple(math.ceil(size * margin(settings)) for _ in range(dims))
    augment = Augmenter(settings, dims)
    for _ in range(3):
        x, y = augment(torch.rand(1, *cut), torch.zeros(cut, dtype=torch.uint8), (size,) * dims)
        assert x.shape == (1, *(size,) * dims)
        assert y.shape == (size,) * dims
        assert torch.isfinite(x).all()


def test_oblong_samples_keep_their_shape() -> None:
    augment = Augmenter(AugmentSettings(), 2)
    for _ in range(8):
        x, y = augment(torch.rand(1, 48, 90), patches((48, 90)), (16, 64))
        assert x.shape == (1, 16, 64)
        assert y.shape == (16, 64)


def test_the_margin_covers_most_rotations() -> None:
    settings = changed(rotation=30.0, scale=0.2)
    size, cut = 64, math.ceil(64 * margin(settings))
    augment = Augmenter(settings, 2)
    target = torch.zeros(cut, cut, dtype=torch.uint8)
    holes = [
        float(
            (augment(torch.ones(1, cut, cut), target, (size, size))[1] == IGNORE_INDEX)
            .float()
            .mean()
        )
        for _ in range(30)
    ]
    assert sum(holes) / len(holes) < 0.05
    assert margin(NO_AUGMENT) == 1.0


def test_the_same_seed_gives_the_same_change() -> None:
    augment = Augmenter(AugmentSettings(), 2)
    image, target = torch.rand(1, 80, 80), patches((80, 80))
    results = []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        results.append(augment(image, target, (48, 48)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])
