"""Losses see labelled voxels only, and agree with PyTorch's own on them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.training import edge_loss as edges
from napari_unetseg.training.edge_loss import edge_loss
from napari_unetseg.training.losses import LossInputs, class_weights, cross_entropy, dice_loss


def segmentation_loss(
    logits: Tensor, target: Tensor, weights: Tensor | None, *, dice: bool
) -> Tensor:
    batch = LossInputs(logits, logits, target, weights)
    terms = [cross_entropy, dice_loss] if dice else [cross_entropy]
    return torch.stack([term(batch).value for term in terms]).sum()


def example(channels: int, dims: int = 2, labelled: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits (2, channels, ...) and targets of which a part is labelled."""
    torch.manual_seed(channels)
    shape = (2, 9, 11) if dims == 2 else (2, 4, 5, 6)
    logits = torch.randn(shape[0], channels, *shape[1:], dtype=torch.float64)
    target = torch.randint(max(2, channels), shape).to(torch.uint8)
    target[torch.rand(shape) > labelled] = IGNORE_INDEX
    return logits.requires_grad_(), target


def reference(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """PyTorch's own losses with a mask."""
    known = target != IGNORE_INDEX
    if logits.shape[1] == 1:
        truth = torch.where(known, target, 0)
        weight = known.double()
        if weights is not None:
            weight = weight * weights.double()[truth.long()]
        per_voxel = functional.binary_cross_entropy_with_logits(
            logits[:, 0], truth.double(), reduction="none"
        )
        return (per_voxel * weight).sum() / weight.sum()
    return functional.cross_entropy(
        logits,
        torch.where(known, target.long(), -100),
        weight=None if weights is None else weights.double(),
        ignore_index=-100,
    )


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_pytorchs_on_labelled_voxels(
    channels: int, dims: int, weighted: bool
) -> None:
    logits, target = example(channels, dims)
    weights = torch.linspace(0.5, 2.0, max(2, channels)) if weighted else None
    loss = segmentation_loss(logits, target, weights, dice=False)
    expected = reference(logits, target, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dice", [False, True])
def test_unlabelled_voxels_neither_count_nor_learn(channels: int, dice: bool) -> None:
    logits, target = example(channels)
    weights = torch.ones(max(2, channels))
    loss = segmentation_loss(logits, target, weights, dice=dice)
    (gradient,) = torch.autograd.grad(loss, logits)
    unknown = (target == IGNORE_INDEX)[:, None].expand_as(gradient)
    assert (gradient[unknown] == 0).all()
    assert (gradient[~unknown] != 0).any()
    wild = torch.where(unknown, logits + 1e6 * torch.randn_like(logits), logits)
    assert torch.equal(segmentation_loss(wild, target, weights, dice=dice), loss)


@pytest.mark.parametrize("dice", [False, True])
def test_unlabelled_area_around_changes_nothing(dice: bool) -> None:
    logits, target = example(3)
    wide = functional.pad(logits, (20, 20, 20, 20), value=7.0)
    around = functional.pad(target, (20, 20, 20, 20), value=IGNORE_INDEX)
    weights = torch.tensor([1.0, 2.0, 0.5])
    assert torch.equal(
        segmentation_loss(wide, around, weights, dice=dice),
        segmentation_loss(logits, target, weights, dice=dice),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dice", [False, True])
def test_without_a_label_the_loss_is_0_and_can_be_learned_from(channels: int, dice: bool) -> None:
    logits = torch.randn(2, channels, 5, 5, requires_grad=True)
    target = torch.full((2, 5, 5), IGNORE_INDEX, dtype=torch.uint8)
    loss = segmentation_loss(logits, target, None, dice=dice)
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("voxels", [2, 10, 1000])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_prediction_costs_nothing_however_few_voxels(voxels: int, channels: int) -> None:
    """Divided by all voxels of the patch, thin strokes would read as a Dice loss near 1."""
    target = torch.full((1, 100, 100), IGNORE_INDEX, dtype=torch.uint8)
    classes = max(2, channels)
    target.view(-1)[:voxels] = (torch.arange(voxels) % classes).to(torch.uint8)
    truth = torch.where(target == IGNORE_INDEX, 0, target).long()
    logits = 40.0 * (functional.one_hot(truth, classes).movedim(-1, 1).float() - 0.5)
    if channels == 1:
        logits = logits[:, 1:]
    assert float(segmentation_loss(logits, target, None, dice=True)) < 1e-3
    assert float(segmentation_loss(-logits, target, None, dice=True)) > 5.0


def test_dice_term_by_hand() -> None:
    """p = 0.8 on two true voxels, 0.3 on one false: (2 · 1.6 + 1) / (1.9 + 2 + 1)."""
    p = torch.tensor([0.8, 0.8, 0.3], dtype=torch.float64)
    logits = torch.logit(p).reshape(1, 1, 1, 3)
    target = torch.tensor([[[1, 1, 0]]], dtype=torch.uint8)
    with_dice = segmentation_loss(logits, target, None, dice=True)
    without = segmentation_loss(logits, target, None, dice=False)
    assert float(with_dice - without) == pytest.approx(1 - 4.2 / 4.9, rel=1e-5)


def test_dice_looks_at_classes_that_occur() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 30.0
    assert float(segmentation_loss(logits, target, None, dice=True)) < 1e-5


def test_dice_term_of_absent_classes_is_left_out() -> None:
    """Probability 1/3 everywhere, class 0 alone: 1 − (2 · 4/3 + 1) / (4/3 + 4 + 1)."""
    target = torch.zeros(1, 2, 2, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 2, 2)
    with_dice = segmentation_loss(logits, target, None, dice=True)
    without = segmentation_loss(logits, target, None, dice=False)
    assert float(with_dice - without) == pytest.approx(1 - (8 / 3 + 1) / (16 / 3 + 1), rel=1e-5)


def test_weights_make_classes_count_alike() -> None:
    voxels = torch.tensor([900, 100])
    weights = class_weights(voxels)
    assert torch.allclose(weights * voxels, torch.full((2,), 500.0))
    assert float((weights * voxels).sum() / voxels.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("voxels", [[1, 1_000_000], [0, 50], [3, 3, 3], [10**9, 1, 10**5]])
def test_weights_are_bounded_and_their_mean_is_1(voxels: list[int]) -> None:
    weights = class_weights(torch.tensor(voxels))
    assert torch.isfinite(weights).all()
    assert float(weights.max() / weights.min()) <= 20.0 * (1 + 1e-5)
    share = torch.tensor(voxels) / sum(voxels)
    assert float((weights * share).sum()) == pytest.approx(1.0, rel=1e-5)


def learned_from_edges(image: Tensor, target: Tensor, classes: int = 2) -> Tensor:
    """Class of each voxel where nothing but the strokes and the image's edges is learned from."""
    torch.manual_seed(0)
    channels = 1 if classes == 2 else classes
    logits = torch.zeros(1, channels, *target.shape[1:], requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = segmentation_loss(logits, target, None, dice=False)
        (loss + 8 * edge_loss(image, logits, target)).backward()
        optimizer.step()
    return (logits > 0).long()[0, 0] if channels == 1 else logits.argmax(1)[0]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("edge", [9, 20])
def test_the_border_is_drawn_to_the_edge_of_the_image(edge: int, classes: int) -> None:
    """Strokes at both ends, the border wherever the image changes, however far from either."""
    torch.manual_seed(1)
    image = 0.05 * torch.randn(1, 1, 16, 32)
    image[..., edge:] += 1
    target = torch.full((1, 16, 32), IGNORE_INDEX, dtype=torch.uint8)
    target[:, :, 1:3], target[:, :, 29:31] = 0, 1
    found = learned_from_edges(image, target, classes)
    assert (found == (torch.arange(32) >= edge)).float().mean() > 0.97


@pytest.mark.parametrize("shape", [(2, 1, 24, 24), (1, 3, 5, 16, 16), (1, 1, 3, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_edge_loss_is_a_share_of_any_shape(shape: tuple[int, ...], channels: int) -> None:
    """It can be learned from in 2D and 3D, also where a sample is smaller than its reach."""
    torch.manual_seed(0)
    logits = torch.randn(shape[0], channels, *shape[2:], requires_grad=True)
    target = torch.full((shape[0], *shape[2:]), IGNORE_INDEX, dtype=torch.uint8)
    loss = edge_loss(torch.rand(shape), logits, target)
    loss.backward()  # type: ignore[no-untyped-call]
    assert 0 <= float(loss.detach()) <= 1
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_edges_cost_nothing_where_all_is_labelled_or_all_is_alike() -> None:
    """With full masks nothing is left to say; a mask without a border has none to move."""
    torch.manual_seed(0)
    image, logits = torch.rand(1, 1, 16, 16), torch.randn(1, 3, 16, 16)
    labelled = torch.ones(1, 16, 16, dtype=torch.uint8)
    assert float(edge_loss(image, logits, labelled)) == 0
    certain = torch.tensor([0.0, 50.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    unknown = torch.full((1, 16, 16), IGNORE_INDEX, dtype=torch.uint8)
    assert float(edge_loss(image, certain, unknown)) == pytest.approx(0, abs=1e-6)


def test_edges_do_not_depend_on_the_range_of_the_image() -> None:
    """What looks alike is measured by the image's own contrast."""
    torch.manual_seed(0)
    image, logits = torch.rand(1, 2, 32, 32), torch.randn(1, 1, 32, 32)
    target = torch.full((1, 32, 32), IGNORE_INDEX, dtype=torch.uint8)
    values = []
    for factor in (1.0, 30.0):
        torch.manual_seed(5)
        values.append(float(edge_loss(image * factor + 7, logits, target)))
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_every_sample_is_measured_by_its_own_contrast() -> None:
    """A bright sample beside it changes nothing for a dim one."""
    torch.manual_seed(0)
    image, logits = torch.rand(2, 1, 32, 32), torch.randn(2, 1, 32, 32)
    image[1] *= 30
    target = torch.full((2, 32, 32), IGNORE_INDEX, dtype=torch.uint8)
    values = []
    for part in (slice(None), slice(0, 1), slice(1, 2)):
        torch.manual_seed(5)
        values.append(float(edge_loss(image[part], logits[part], target[part])))
    assert values[0] == pytest.approx((values[1] + values[2]) / 2, rel=1e-4)


@pytest.mark.parametrize("axis", [-1, -2])
def test_an_edge_of_any_channel_along_any_axis_counts(axis: int) -> None:
    torch.manual_seed(1)
    image = 0.05 * torch.randn(1, 2, 32, 32)
    image[:, 1].transpose(-1, axis)[..., 20:] += 1
    target = torch.full((1, 32, 32), IGNORE_INDEX, dtype=torch.uint8)
    painted = target.transpose(-1, axis)
    painted[..., 1:3], painted[..., 29:31] = 0, 1
    found = learned_from_edges(image, target).transpose(-1, axis)
    assert (found == (torch.arange(32) >= 20)).float().mean() > 0.97


def test_edge_loss_is_the_mean_over_pairs() -> None:
    """Beside a plain loop over every pair of one step, as torch draws the steps."""
    torch.manual_seed(3)
    image, logits = torch.rand(1, 2, 9, 8), torch.randn(1, 3, 9, 8)
    target = torch.randint(3, (1, 9, 8)).to(torch.uint8)
    target[torch.rand(1, 9, 8) > 0.4] = IGNORE_INDEX
    torch.manual_seed(5)
    steps = edges._draw_offsets()
    torch.manual_seed(5)
    found = float(edge_loss(image, logits, target))
    shares = logits.softmax(1)[0]
    contrast = sum(float(image.diff(dim=axis).square().sum(1).mean()) for axis in (-1, -2))
    costs = []
    for dy, dx in steps:
        for y in range(9 - dy):
            for x in range(max(0, -dx), min(8, 8 - dx)):
                here, there = (y, x), (y + dy, x + dx)
                both = target[0][here] != IGNORE_INDEX and target[0][there] != IGNORE_INDEX
                far = float((image[0][:, *here] - image[0][:, *there]).square().sum())
                differ = 1 - float((shares[:, *here] * shares[:, *there]).sum())
                costs.append(0.0 if both else math.exp(-far / contrast) * differ)
    assert found == pytest.approx(sum(costs) / len(costs), rel=1e-4)


@pytest.mark.parametrize("channels", [1, 40])
def test_edge_loss_of_much_looks_at_a_part(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """What it compares has a limit, and what it says is that of the whole on average."""
    torch.manual_seed(0)
    image, logits = torch.rand(2, 1, 64, 64), torch.randn(2, channels, 64, 64)
    target = torch.full((2, 64, 64), IGNORE_INDEX, dtype=torch.uint8)
    whole = float(edge_loss(image, logits, target))
    limit = edges.PAIRINGS * channels * target.numel() // 4
    monkeypatch.setattr(edges, "MOST_NUMBERS", limit)
    sizes: list[int] = []
    moved = edges._shifted
    monkeypatch.setattr(
        edges, "_shifted", lambda x, *how: sizes.append(moved(x, *how).numel()) or moved(x, *how)
    )
    parts = [float(edge_loss(image, logits, target)) for _ in range(20)]
    assert limit / 2 < max(sizes) <= limit
    assert sum(parts) / 20 == pytest.approx(whole, rel=0.02)
