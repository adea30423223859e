"""Every registered architecture does what the rest of the program asks of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_model

from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.models.model import load_model

EACH = [(name, dims) for name, kind in ARCHITECTURES.items() for dims in kind.default_depth]
SMALL: dict[str, Any] = {"width": 2, "in_channels": 3}


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_an_image_of_any_size_keeps_its_size(name: str, dims: int) -> None:
    depth = ARCHITECTURES[name].default_depth[dims]
    network = random_model(1, (1, 2), encoder=name, dims=dims, depth=depth, **SMALL).network()
    with torch.inference_mode():
        for size in ((1,) * dims, (17, 33, 6)[:dims]):
            logits = network(torch.randn(1, 3, *size))
            assert logits.shape == (1, 3, *size)
            assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_the_first_layers_see_the_channels_at_each_depth(name: str, dims: int) -> None:
    kind = ARCHITECTURES[name]
    for depth in (kind.depths[0], kind.default_depth[dims]):
        model = random_model(1, (1, 2), encoder=name, dims=dims, depth=depth, **SMALL)
        state = model.network().state_dict()
        for layer in kind.first_layers(depth):
            assert state[layer].shape[1] == 3, (layer, depth)


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_a_model_comes_back_from_its_file(name: str, dims: int, tmp_path: Path) -> None:
    depth = ARCHITECTURES[name].default_depth[dims]
    model = random_model(1, (1, 2), encoder=name, dims=dims, depth=depth, **SMALL)
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.net == model.net
    image = torch.randn(1, 3, *(9,) * dims)
    with torch.inference_mode():
        assert torch.equal(loaded.network()(image), model.network()(image))
