"""What tests of prediction share: noise, networks that run out of memory, what a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
from helpers import random_model
from scipy.ndimage import gaussian_filter

from napari_unetseg.core.labels import Classes, Structure
from napari_unetseg.core.settings import ObjectSettings, PredictSettings
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


def ids_of(folder: Path, level: int = 0) -> np.ndarray:
    array: Any = zarr.open_array(str(folder / "labels" / "objects" / str(level)), mode="r")
    return np.asarray(array[...])


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


def object_model(
    dims: int = 2,
    *,
    maps: bool = True,
    numbers: tuple[int, ...] = (1,),
    objects: tuple[int, ...] = (1,),
) -> Model:
    """A model with random weights that numbers objects."""
    net: dict[str, Any] = {"dims": dims, "depth": 1, "width": 4, "object_maps": maps}
    model = random_model(2, numbers, **net)
    structures = tuple(Structure(n, objects=n in objects) for n in numbers)
    settings = ObjectSettings(prominence=0.1, smoothing=0.7, smallest=3) if maps else None
    strength = {2: 6, 3: 100}[dims]  # freshly initialised, the maps are nearly flat
    weights = {n: strength * w if n == "maps_head.weight" else w for n, w in model.weights.items()}
    return replace(
        model, weights=weights, classes=Classes(structures, True), object_settings=settings
    )


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise with coarse structure, so that objects of many sizes cross every border."""
    rough = gaussian_filter(noise(shape, seed), [0] * (len(shape) - 3) + [2] * min(3, len(shape)))
    return np.clip(0.5 + (rough - rough.mean()) / rough.std() * 0.3, 0, 1).astype(np.float32)
