"""Batch norms that are measured over all processes of a training, on a CPU too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_unetseg.models.unet import NORMS

if TYPE_CHECKING:
    from napari_unetseg.runtime.distributed import Team

__all__ = ["joined_norms"]


@contextmanager
def joined_norms(network: nn.Module, team: Team) -> Iterator[None]:
    """Let the batch norms that train see the samples of all processes.

    What `torch.nn.SyncBatchNorm` does between GPUs. Norms in evaluation are as they were.
    """

    def forward(norm: Any, x: Tensor) -> Tensor:
        if not norm.training:
            usual: Tensor = type(norm).forward(norm, x)
            return usual
        middle, spread, voxels = _measure(x, team)
        with torch.no_grad():
            rate, unbiased = norm.momentum, voxels / (voxels - 1).clamp(min=1)
            norm.running_mean.lerp_(middle.float(), rate)
            norm.running_var.lerp_((spread * unbiased).float(), rate)
            norm.num_batches_tracked.add_(1)
        scale = norm.weight * torch.rsqrt(spread.float() + norm.eps)
        shift = norm.bias - middle.float() * scale
        along = (1, -1, *(1,) * (x.ndim - 2))
        found: Tensor = x.float() * scale.view(along) + shift.view(along)
        return found.to(x.dtype)

    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    for norm in norms:
        norm.forward = MethodType(forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward  # the class's own again


def _measure(x: Tensor, team: Team) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each channel (C,) and the voxels of a channel, of all processes."""
    axes = [0, *range(2, x.ndim)]
    spread, middle = torch.var_mean(x.float(), axes, correction=0)
    spread, middle = spread.double(), middle.double()
    number = middle.new_tensor([x.numel() / x.shape[1]])
    own = torch.cat([number, number * middle, number * (spread + middle**2)])
    total = _Sum.apply(own, team)
    means = total[1:] / total[0].detach()
    middle, squares = means.view(2, -1)
    return middle, (squares - middle**2).clamp(min=0), total[0].detach()


class _Sum(torch.autograd.Function):
    """The sum over all processes; what they all made of it comes back to each."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return team.sum(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.team.sum(gradients[0]), None
