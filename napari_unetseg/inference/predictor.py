"""Inference of image pieces on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_unetseg.models.unet import probabilities
from napari_unetseg.runtime.devices import pick_device, release_memory

if TYPE_CHECKING:
    import numpy as np

    from napari_unetseg.models.model import Model

EDGE = {2: 512, 3: 96}
"""Edge of a tile's core in voxels."""
SMALLEST_EDGE = 32
LARGEST_HALO = 3.0
"""Ratio of voxels read to voxels kept above which tiles are blended instead."""


def looks_at_image(model: Model) -> bool:
    """Whether a voxel's class depends on the whole input, so that no tile can be exact."""
    return model.net.norm in ("group", "instance")


def why_blended(model: Model) -> str:
    """Why tiles are blended, in a sentence."""
    if looks_at_image(model):
        why = f"{model.net.norm} norm depends on the surroundings of a voxel"
    else:
        what = "volume" if model.dims == 3 else "image"
        why = f"an exact halo would cost more than three times the {what}"
    return f"Tiles are blended ({why}), so the mask may differ a little with the tile size."


class Predictor:
    """A model's network on a device, ready to predict.

    Parameters
    ----------
    model
        The model.
    device
        ``auto``, ``cuda``, ``mps`` or ``cpu``; `UserError` where it is not there.
    maps
        Predict the object maps too, of a model that has them.
    """

    def __init__(self, model: Model, device: str, *, maps: bool = False) -> None:
        self.device = pick_device(device)
        self.model, self.maps = model, maps and model.net.object_maps
        self.network = model.network().folded().to(self.device)

    def infer(self, image: np.ndarray) -> np.ndarray:
        """Probabilities (classes, *spatial), float32, of an image (channels, *spatial).

        The object maps follow, if wanted: (classes + 2, *spatial).
        """
        with torch.inference_mode():
            x = torch.from_numpy(image)[None].to(self.device)
            if self.model.dims == 2:
                x = x.contiguous(memory_format=torch.channels_last)
            more = {"maps": True} if self.maps else {}
            logits = self.network(x, **more)[0].float()
            found = [probabilities(logits[: self.model.net.out_channels])]
            if self.maps:
                found.append(torch.sigmoid(logits[self.model.net.out_channels :]))
            return (torch.cat(found) if self.maps else found[0]).cpu().numpy()

    def split(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities (classes, *spatial) and object maps (2, *spatial) of what `infer` gave."""
        classes = len(self.model.classes.numbers)
        return found[:classes], found[classes:] if self.maps else None

    def release(self) -> None:
        """Give cached memory back to the device."""
        release_memory(self.device)

    def leave_gpu(self) -> bool:
        """Move to the CPU; False if already there."""
        if self.device.type == "cpu":
            return False
        self.device = torch.device("cpu")
        self.network = self.network.to(self.device)
        return True
