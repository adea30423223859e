"""Held-out strokes, and how much of each a network has right, against counting by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers import blobs, full_pair, painted_pair, random_network
from scipy import ndimage

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.models.unet import UNet, probabilities
from napari_unetseg.training.validation import Validation, Validator

if TYPE_CHECKING:
    from napari_unetseg.data.annotated_image import AnnotatedImage


def validated(pairs: list[AnnotatedImage], dims: int = 2, fraction: float = 0.3) -> Validation:
    data = TrainingDataset(pairs, dims, fraction)
    network = random_network(dims=dims, width=4, depth=2)
    found = Validator(data, network, torch.device("cpu")).validate(network)
    assert found is not None
    return found


def counted(pairs: list[AnnotatedImage], dims: int, fraction: float = 0.3) -> np.ndarray:
    """Class, voxels, fraction right and mean probability of each component, plane by plane."""
    data, rows = TrainingDataset(pairs, dims, fraction), []
    network = random_network(dims=dims, width=4, depth=2)
    for plane in data.planes:
        probs = predicted(network, data.read(plane, plane.stack.whole(dims)))
        components = []
        for number in range(len(probs)):
            every = np.ones((3,) * dims)
            ids, count = ndimage.label(plane.validate == number, every)
            components += [(number, ids == k + 1) for k in range(count)]
        components.sort(key=lambda one: np.flatnonzero(one[1])[0])
        for number, where in components:
            right = (probs.argmax(0)[where] == number).mean()
            rows.append((number, where.sum(), right, probs[number][where].mean()))
    return np.array(rows)


def predicted(network: UNet, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return probabilities(network(torch.from_numpy(image)[None])[0]).numpy()


@pytest.mark.parametrize(("shape", "dims"), [((2, 100, 90), 2), ((16, 40, 48), 3)])
def test_a_connected_component_of_held_out_labels_is_one_observation(
    shape: tuple[int, ...], dims: int
) -> None:
    pairs = [painted_pair(shape, axes="ZYX"), painted_pair(shape, axes="ZYX", seed=1)]
    found, wanted = validated(pairs, dims).observations, counted(pairs, dims)
    assert found.voxels.max() > 12, "none reaches over two blocks"
    np.testing.assert_array_equal(found.classes, wanted[:, 0])
    np.testing.assert_array_equal(found.voxels, wanted[:, 1])
    np.testing.assert_allclose(found.right, wanted[:, 2], atol=1e-6)
    np.testing.assert_allclose(found.soft, wanted[:, 3], atol=1e-6)


def test_scores_have_the_agreement_with_strokes() -> None:
    found = validated([painted_pair((100, 90))])
    agreement, rows = found.scores.agreement, found.observations
    assert agreement is not None
    assert agreement.strokes == len(rows.classes)
    assert {number for number, _ in agreement.each} == {0, 1}
    raw = np.mean([rows.right[rows.classes == k].mean() for k in (0, 1)])
    assert agreement.low <= raw <= agreement.high
    assert rows.voxels.sum() == found.scores.voxels


def test_of_full_masks_a_class_of_a_block_is_an_observation() -> None:
    image, truth = blobs((96, 96), 12)
    found = validated([full_pair(image, truth, "YX")])
    agreement, rows = found.scores.agreement, found.observations
    assert agreement is not None
    assert agreement.strokes == 0
    assert agreement.value == pytest.approx(found.scores.mean_dice)
    assert agreement.low <= agreement.value <= agreement.high
    assert found.scores.blocks <= len(rows.classes) <= 2 * found.scores.blocks
    assert rows.voxels.sum() == found.scores.voxels
    right = (rows.right * rows.voxels).sum() / rows.voxels.sum()
    data = TrainingDataset([full_pair(image, truth, "YX")], 2, 0.3)
    (plane,) = data.planes
    network = random_network(dims=2, width=4, depth=2)
    mask = predicted(network, data.read(plane, plane.stack.whole(2))).argmax(0)
    known = plane.validate != IGNORE_INDEX
    assert right == pytest.approx((mask == plane.validate)[known].mean())
