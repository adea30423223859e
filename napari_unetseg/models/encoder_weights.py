"""Initial weights of ResNet encoders: torchvision's ImageNet weights, or a file's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from napari_unetseg.core.architectures import with_encoder_weights
from napari_unetseg.core.errors import UserError
from napari_unetseg.models.resnet_unet import ResNet
from napari_unetseg.models.transfer import first_layer
from napari_unetseg.runtime.llvm_isolation import load_triton_apart

if TYPE_CHECKING:
    from napari_unetseg.models.unet import UNet

IMAGENET = "imagenet"
"""Source name of torchvision's weights."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of torchvision's weights for red, green and blue from 0 to 1."""


def load_encoder(network: UNet, source: str) -> None:
    """Load pretrained weights into a network's encoder.

    The first convolution is adapted to the network's channels (see `first_layer`) and to
    intensities from 0 to 1, as all our normalisations give them.

    Parameters
    ----------
    network
        A network with a residual encoder, on any device; the encoder is changed in place.
    source
        ``imagenet``: torchvision's weights, from its cache or downloaded into it. Else the path
        of a ``.safetensors`` file, or of a ``.pth`` one that holds tensors alone, with the names
        that torchvision has; what is not part of the encoder is left out.

    Raises
    ------
    UserError
        The weights cannot be had or do not fit; the sentence says what to do.
    """
    encoder = network.encoder
    if not isinstance(encoder, ResNet):
        raise UserError(
            f"Encoder weights need the encoder {with_encoder_weights()}; choose one of them."
        )
    found = _imagenet(encoder.kind) if source == IMAGENET else _named(_read(Path(source)))
    wanted = encoder.state_dict()
    kernel = found.get("conv1.weight")
    if kernel is not None and kernel.ndim == 4:
        found |= _for_our_images(found, kernel, wanted["conv1.weight"].shape[1])
    counters = {n: t for n, t in wanted.items() if n.endswith("num_batches_tracked")}
    state = {n: found.get(n, counters.get(n)) for n in wanted}
    for name, tensor in state.items():
        if tensor is None or tensor.shape != wanted[name].shape:
            what = "lacks" if tensor is None else "has another shape for"
            raise UserError(
                f"The encoder weights {source} do not fit {encoder.kind} ({what} {name}); choose "
                "a file with torchvision's weights of this encoder."
            )
    encoder.load_state_dict(state)


def _for_our_images(
    found: Mapping[str, Tensor], kernel: Tensor, channels: int
) -> dict[str, Tensor]:
    """Adapt the first convolution and its norm to channels from 0 to 1."""
    state: dict[str, Tensor] = {}
    if kernel.shape[1] == 3:
        kernel = kernel / kernel.new_tensor(STD)[:, None, None]
        if "bn1.running_mean" in found:  # the norm takes over the subtraction of the mean
            shift = (kernel * kernel.new_tensor(MEAN)[:, None, None]).sum((1, 2, 3))
            state["bn1.running_mean"] = found["bn1.running_mean"] + shift
    return {**state, "conv1.weight": first_layer(kernel, channels)}


def _imagenet(kind: str) -> dict[str, Tensor]:
    load_triton_apart()  # torchvision imports torch._dynamo
    try:
        from torchvision.models import get_model_weights
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise UserError(
            "torchvision is missing or does not fit the installed PyTorch; run 'pip install "
            "--upgrade torch torchvision', or give the encoder weights as a file."
        ) from error
    weights: Any = get_model_weights(kind).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:
        raise UserError(
            f"The ImageNet weights of {kind} could not be downloaded ({_reason(error)}); connect "
            f"to the internet, or fetch {weights.url} elsewhere and give the file as encoder "
            "weights."
        ) from error
    return dict(state)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(
            f"The encoder weights {path} do not exist; give the path of a file, or '{IMAGENET}'."
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            # weights_only reads tensors and plain containers alone
            state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
        while isinstance(inner := state.get("state_dict", state.get("model")), Mapping):
            state = inner
    except Exception as error:
        raise UserError(
            f"{path.name} cannot be read as encoder weights ({_reason(error)}); choose a "
            ".safetensors file, or a .pth file that holds only a state dict."
        ) from error
    return dict(state)


def _named(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under torchvision's names, without prefixes of other libraries."""
    firsts = [n for n in state if n == "conv1.weight" or n.endswith(".conv1.weight")]
    prefix = min(firsts, key=len, default="conv1.weight").removesuffix("conv1.weight")
    return {
        name.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if name.startswith(prefix) and isinstance(tensor, Tensor)
    }


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return first[0].rstrip(".")[:100] if first else type(error).__name__
