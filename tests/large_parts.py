"""What tests of prediction share: noise, networks that run out of memory, what a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr

from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.predict_to_zarr import predict_to_zarr
from napari_unetseg.models.unet import UNet

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.models.model import Model

SMALL = PredictSettings(tile=64, threads=1, device="cpu")


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def stream(model: Model, stack: Stack, folder: Path, **more: Any) -> list[Event]:
    settings = more.pop("settings", SMALL)
    return list(predict_to_zarr(model, stack, FolderStore(folder), settings, **more))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def mask_of(folder: Path, level: int = 0) -> Any:
    return zarr.open_array(str(folder / "labels" / "mask" / str(level)), mode="r")


def failing(limit: int) -> Callable[[UNet, torch.Tensor], torch.Tensor]:
    """A forward that runs out of memory for images above so many voxels."""
    forward = UNet.forward

    def out_of_memory(network: UNet, x: torch.Tensor) -> torch.Tensor:
        if x[0, 0].numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(network, x)

    return out_of_memory
