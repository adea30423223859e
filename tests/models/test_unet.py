"""The network: the paper's U-Net, any size, and an honest word about what it looks at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_network
from torch import nn

from napari_unetseg.models import unet
from napari_unetseg.models.unet import UNet

SIZES_2D = [(1, 1), (1, 37), (29, 1), (7, 13), (16, 16), (33, 50)]
SIZES_3D = [(1, 1, 1), (1, 33, 18), (5, 1, 9), (9, 7, 12)]
STRIDES_3D = ((1, 2, 2), (2, 2, 2))


def test_depth_5_width_64_has_the_parameters_of_the_paper() -> None:
    network = UNet(1, 2, depth=5, width=64, norm="none")
    assert network.parameter_count == 31_030_658  # 31.03 million


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_any_size_goes_in_and_comes_out(dims: int, norm: str, depth: int) -> None:
    network = UNet(2, 3, dims=dims, depth=depth, width=3, norm=norm)
    for mode in (True, False):
        network.train(mode)
        for size in SIZES_2D if dims == 2 else SIZES_3D:
            logits = network(torch.randn(2, 2, *size))
            assert logits.shape == (2, 3, *size)
            assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("size", "padded"), [((9, 14), (12, 16)), ((1, 30), (8, 32))])
def test_the_far_end_is_continued_with_its_last_voxels(
    size: tuple[int, int], padded: tuple[int, int]
) -> None:
    network = random_network(depth=3, width=4)
    image = torch.randn(1, 1, *size)
    pads = (0, padded[1] - size[1], 0, padded[0] - size[0])
    whole = network(torch.nn.functional.pad(image, pads, mode="replicate"))
    assert torch.equal(network(image), whole[..., : size[0], : size[1]])


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_level_concatenates_the_encoders_features(level: int, dims: int) -> None:
    network = random_network(in_channels=1, dims=dims, depth=4, width=2)
    image = torch.randn(1, 1, *(16,) * dims)
    before = network(image)
    features = 2 * 2**level
    first = network.decoder[level][0]
    assert first.in_channels == 2 * features  # up-convolution beside the encoder's features
    assert first.out_channels == features

    with torch.no_grad():
        first.weight[:, :features] = 0.0  # the skip comes first
    assert (network(image) - before).abs().max() > 1e-4


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_skip_brings_the_encoders_own_features(level: int) -> None:
    """With the way through the bottleneck cut, the encoder is still heard, voxel by voxel."""
    network = random_network(depth=4, width=4, norm="none")
    nn.init.zeros_(network.ups[level].weight)
    nn.init.zeros_(network.ups[level].bias)
    heard: list[torch.Tensor] = []
    network.encoder[level].register_forward_hook(
        lambda _m, _i, out: out.retain_grad() or heard.append(out)  # type: ignore[func-returns-value]
    )
    network(torch.randn(1, 1, 32, 32).requires_grad_()).square().sum().backward()
    assert heard[0].shape[2:] == (32 >> level, 32 >> level)
    gradient = heard[0].grad
    assert gradient is not None
    # every place is heard by itself, not through a pooled or a mean value
    assert (gradient.abs().sum(1) > 0).float().mean() > 0.95
    assert gradient.abs().sum(1).unique().numel() > 0.9 * gradient[0, 0].numel()


def _transparent(network: UNet) -> UNet:
    """Make each voxel that is looked at visible: nothing cancels, no ReLU blocks."""
    for name, value in network.double().state_dict().items():
        if value.is_floating_point():
            value.copy_(value.abs().clamp(min=1e-3))
            if name.endswith("running_mean"):
                value.neg_()
    return network.eval()


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("image_features", [False, True])
@pytest.mark.parametrize(
    ("dims", "depth", "strides"),
    [
        (2, 1, None),
        (2, 2, None),
        (2, 3, None),
        (2, 4, None),
        (2, 3, ((1, 2), (2, 1))),
        (2, 4, ((2, 1), (1, 2), (2, 2))),
        (3, 3, STRIDES_3D),
    ],
)
def test_input_range_is_what_the_output_depends_on(
    dims: int,
    depth: int,
    strides: tuple[tuple[int, ...], ...] | None,
    norm: str,
    image_features: bool,
) -> None:
    torch.manual_seed(1)
    shape: dict[str, Any] = {"dims": dims, "depth": depth, "strides": strides}
    network = _transparent(UNet(**shape, width=1, norm=norm, image_features=image_features))
    for axis in range(dims):
        reach = network.receptive_field[axis]
        length = (reach // network.stride[axis] + 2) * network.stride[axis]
        size = [2 * s for s in network.stride]
        size[axis] = length
        image = torch.rand(1, 1, *size, dtype=torch.float64)
        other = tuple(a + 2 for a in range(dims) if a != axis)
        with torch.inference_mode():
            before = network(image)
            ranges = [network.input_range(x, x + 1, axis) for x in range(length)]
            for place in (0, length // 2, length // 2 + 1, length // 2 + 3, length - 1):
                changed = image.clone()
                changed.select(axis + 2, place).add_(1e3)
                differs = (network(changed) != before).any(dim=(0, 1, *other))
                said = torch.tensor([low <= place < high for low, high in ranges])
                assert torch.equal(differs, said), (axis, place)
        assert max(high - low for low, high in ranges) == reach


def test_input_range_of_several_voxels_is_that_of_the_first_and_last() -> None:
    network = UNet(depth=4, width=1)
    for start, stop in [(0, 8), (3, 4), (5, 23), (17, 64)]:
        ranges = [network.input_range(x, x + 1, 0) for x in range(start, stop)]
        assert network.input_range(start, stop, 1) == (
            min(low for low, _ in ranges),
            max(high for _, high in ranges),
        )


def test_stride_counts_every_level_and_axis() -> None:
    assert UNet(dims=3, depth=3, width=1, strides=STRIDES_3D).stride == (2, 4, 4)
    assert UNet(depth=5, width=1).stride == (16, 16)
    assert UNet(depth=1, width=1).stride == (1, 1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "none", "group"])
@pytest.mark.parametrize("depth", [1, 3])
def test_folded_gives_the_same_logits_and_leaves_the_original(
    dims: int, norm: str, depth: int
) -> None:
    network = random_network(in_channels=2, dims=dims, depth=depth, width=8, norm=norm, seed=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = network.folded()
    image = torch.randn(1, 2, *((23, 38) if dims == 2 else (6, 11, 13)))
    with torch.inference_mode():
        assert (network(image) - folded(image)).abs().max() < 1e-4
    if norm == "batch":
        assert not any(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in folded.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("dims", [2, 3])
def test_norms_that_stand_still_learn_the_same_in_one_convolution(dims: int) -> None:
    """Beside the layers called one by one: logits, and gradients of convolutions and norms."""
    network = random_network(in_channels=2, dims=dims, depth=2, width=4, norm="batch", seed=3)
    image = torch.randn(2, 2, *((9, 12) if dims == 2 else (4, 6, 5)))
    found: list[list[torch.Tensor]] = []
    for one_by_one in (False, True):
        network.zero_grad()
        network.eval()  # the norms; nothing else here differs in training
        if one_by_one:
            for block in [*network.encoder.children(), network.bottleneck, *network.decoder]:
                block.forward = partial(nn.Sequential.forward, block)
        logits = network(image)
        logits.square().mean().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        assert len(gradients) == len(list(network.parameters()))
        found.append([logits.detach(), *gradients])
    for joint, separate in zip(*found, strict=True):
        assert torch.allclose(joint, separate, rtol=1e-3, atol=1e-5)


def test_norms_that_measure_are_left_alone() -> None:
    network = random_network(in_channels=1, depth=2, width=4, norm="batch", seed=3).train()
    before = {n: b.clone() for n, b in network.named_buffers() if "running" in n}
    network(3 + torch.randn(2, 1, 16, 16))
    after = dict(network.named_buffers())
    assert all(not torch.equal(before[n], after[n]) for n in before)


def test_dropout_works_in_training_only() -> None:
    network = UNet(depth=3, width=4, dropout=0.5, norm="none")
    nn.init.ones_(network.head.weight)
    image = torch.randn(1, 1, 16, 16)
    network.train()
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    "settings",
    [
        {"dims": 4},
        {"depth": 0},
        {"norm": "layer"},
        {"depth": 3, "strides": ((2, 2),)},
        {"depth": 2, "strides": ((2, 2, 2),)},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        UNet(**settings)  # type: ignore[arg-type]


def test_the_file_runs_alone(tmp_path: Path) -> None:
    shutil.copy(unet.__file__, tmp_path / "unet.py")
    script = (
        "import torch, unet, sys\n"
        "y = unet.UNet(1, 2, depth=3, width=2)(torch.zeros(1, 1, 9, 5))\n"
        "assert y.shape == (1, 2, 9, 5)\n"
        "assert not any(m.startswith('napari') for m in sys.modules)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=120,
    )
