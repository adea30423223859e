"""A network that reads its answer off the image: 0 is background, 1 a structure, 0.5 undecided."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from helpers import random_model

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

STEEP = 20.0


def reader(dims: int = 2, threshold: float = 0.5) -> Model:
    """A model whose logit is 20 (intensity − threshold), voxel by voxel."""
    model = random_model(0, depth=1, width=4, dims=dims)
    weights = {name: torch.zeros_like(tensor) for name, tensor in model.weights.items()}
    middle = (1,) * dims
    for layer in ("bottleneck.0.weight", "bottleneck.3.weight"):
        weights[layer][(0, 0, *middle)] = 1.0
    for norm in ("bottleneck.1", "bottleneck.4"):
        weights[f"{norm}.weight"][:] = 1.0
        weights[f"{norm}.running_var"][:] = 1.0
    weights["head.weight"][0, 0] = STEEP
    weights["head.bias"][0] = -STEEP * threshold
    return replace(model, weights=weights)
