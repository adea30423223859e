"""Transfer of weights to other classes, channels or a third dimension."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.core.errors import TrainingError
from napari_unetseg.models.unet import MAPS

if TYPE_CHECKING:
    from napari_unetseg.core.labels import Classes
    from napari_unetseg.core.settings import NetSettings, TrainSettings
    from napari_unetseg.models.model import Model

Weights = dict[str, Tensor]
UNNAMED = re.compile(r"channel \d+")
"""Names that a stack gives to channels without a name."""


# -- before a training is planned ------------------------------------------------------------------


def settings_after(model: Model, settings: TrainSettings) -> TrainSettings:
    """The settings with the architecture of the initial model.

    Raises
    ------
    TrainingError
        The model is 3D, or has a residual encoder, and the other dimensions were chosen.
    """
    net = model.net
    dims = ARCHITECTURES[net.encoder].default_depth
    if net.dims != settings.dims and (net.dims == 3 or settings.dims not in dims):
        kind = "3D" if net.dims == 3 else f"2D with the encoder {net.encoder}"
        raise TrainingError(
            f"The initial model is {kind}, but {settings.dims}D was chosen; choose the same, or "
            "train a new model."
        )
    kept = {n: getattr(net, n) for n in ("depth", "width", "norm", "dropout", "encoder")}
    return settings.model_copy(update={**kept, "encoder_weights": None})


def net_after(
    model: Model, dims: int, in_channels: int, out_channels: int, *, object_maps: bool = False
) -> NetSettings | None:
    """The initial model's architecture with other channels; None where dims differ."""
    ends = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "object_maps": object_maps,
    }
    return model.net.model_copy(update=ends) if dims == model.dims else None


def channels_after(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """Channel names of continued training.

    The old names where the new channels correspond to them in order: as many, and all or none of
    the names in common. Then the model's normalisation holds too.
    """
    return tuple(old if _sources(old, new) == list(range(len(old))) else new)


def _sources(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """The old channel of each new one, None without one."""
    if len(old) == len(new) and not set(old) & set(new):
        return list(range(len(old)))
    if len(new) == 1 and len(old) > 1 and UNNAMED.fullmatch(new[0]):
        return [None]  # a grey image has no corresponding colour channel
    return [old.index(name) if name in old else None for name in new]


# -- the weights -----------------------------------------------------------------------------------


def adapt(
    model: Model, net: NetSettings, classes: Classes, channels: Sequence[str]
) -> tuple[Weights, tuple[str, ...]]:
    """Weights for other classes or channels, or for volumes, from those of a model.

    Everything that fits is kept bit by bit. Rows of the last layer go by the structures' numbers,
    and a new structure's row is the mean of the old ones; kernels of the first layer go by the
    channels' names, see `first_layer` for other channels.

    Parameters
    ----------
    model
        The initial model; it is not changed.
    net
        Architecture that the weights are for.
    classes, channels
        Those of the new training data.

    Returns
    -------
    weights
        State of the network that ``net`` describes, float32 on the CPU.
    sentences
        Notices of what was kept and replaced; empty if nothing changed.

    Raises
    ------
    TrainingError
        Another width, depth, norm, encoder or down-sampling.
    """
    _check(model.net, net)
    weights, sentences = {n: t.clone() for n, t in model.weights.items()}, []
    if model.classes.numbers != classes.numbers:
        for name in ("head.weight", "head.bias"):
            weights[name] = _head_rows(weights[name], model.classes, classes)
        sentences.append(_classes_sentence(model.classes, classes))
    sources = _sources(model.channels, channels)
    if sources != list(range(len(model.channels))):
        for name in _first_layers(net):
            weights[name] = _other_channels(weights[name], sources)
        if model.net.image_features:
            for name in _last_layers(weights):
                weights[name] = _image_columns(weights[name], model.net, sources)
        sentences.append(_channels_sentence(model.channels, channels, sources))
    if net.image_features and not model.net.image_features:
        for name in _last_layers(weights):
            blank = weights[name][:, :1].repeat(1, net.in_channels * net.depth, 1, 1)
            weights[name] = torch.cat([weights[name], torch.zeros_like(blank)], 1)
    _adapt_maps(weights, net)
    if net.dims != model.dims:
        weights = inflate(weights, net)
        sentences.append(
            "The 2D model becomes a 3D one: its kernels become the middle planes of the new "
            "ones, so that it starts by segmenting plane by plane."
        )
    if sentences:
        sentences.append(f"All other weights are those of model {model.id}.")
    return weights, tuple(sentences)


def _last_layers(weights: Weights) -> list[str]:
    """Names of the kernels of the last layers."""
    return [name for name in ("head.weight", "maps_head.weight") if name in weights]


def _adapt_maps(weights: Weights, net: NetSettings) -> None:
    """Add a blank last layer for object maps, or remove it, as the architecture has one."""
    if not net.object_maps:
        weights.pop("maps_head.weight", None)
        weights.pop("maps_head.bias", None)
    elif "maps_head.weight" not in weights:
        weights["maps_head.weight"] = torch.zeros_like(weights["head.weight"][:1]).repeat(
            MAPS, *(1,) * (weights["head.weight"].ndim - 1)
        )
        weights["maps_head.bias"] = torch.zeros(MAPS)


def first_layer(kernel: Tensor, n: int) -> Tensor:
    """A first layer's kernel for another number of unrelated channels.

    An image that shows the same in every channel gets the same response as before.

    Parameters
    ----------
    kernel
        (features, channels, *spatial), any float dtype.
    n
        Channels of the image: 1 takes the sum of the kernel's, and of several each takes one of
        them in turn, scaled.

    Returns
    -------
    Tensor
        (features, n, *spatial); a copy.
    """
    channels = kernel.shape[1]
    if n == channels:
        return kernel.clone()
    if n == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, torch.arange(n) % channels] * (channels / n)


def inflate(weights: Mapping[str, Tensor], net: NetSettings) -> Weights:
    """The state of a 2D U-Net for a 3D one, which then sees a volume plane by plane.

    A kernel becomes the middle plane of a new one, otherwise 0; an up-convolution that doubles Z
    has its kernel twice. The 3D network gives what the 2D one gives for each plane, where no level
    halves Z.

    Parameters
    ----------
    weights
        Some or all of the state of a 2D U-Net of the same depth, width and norm.
    net
        Architecture of the 3D network.
    """
    strides = net.strides or ((2, 2, 2),) * (net.depth - 1)
    out: Weights = {}
    for name, tensor in weights.items():
        if tensor.ndim != 4:
            out[name] = tensor.clone()
        elif name.startswith("ups."):
            depth = strides[int(name.split(".")[1])][0]
            out[name] = tensor[:, :, None].repeat(1, 1, depth, 1, 1)
        else:
            edge = tensor.shape[-1]
            volume = tensor.new_zeros((*tensor.shape[:2], edge, *tensor.shape[2:]))
            volume[:, :, edge // 2] = tensor
            out[name] = volume
    return out


def _check(old: NetSettings, new: NetSettings) -> None:
    names = ("encoder", "depth", "width", "norm")
    differing = [name for name in names if getattr(old, name) != getattr(new, name)]
    if old.dims > new.dims:
        differing.append("dims")
    elif not differing and _strides(old, old.dims) != _strides(new, old.dims):
        differing.append("strides")
    if differing:
        had = ", ".join(f"{n} {getattr(old, n)}" for n in differing)
        wanted = ", ".join(f"{n} {getattr(new, n)}" for n in differing)
        raise TrainingError(
            f"The initial model has {had}, but {wanted} was chosen; choose the same, or train a "
            "new model."
        )


def _strides(net: NetSettings, axes: int) -> tuple[tuple[int, ...], ...]:
    """Down-sampling of each level along the last axes."""
    return tuple(s[-axes:] for s in net.strides or ((2,) * net.dims,) * (net.depth - 1))


def _first_layers(net: NetSettings) -> tuple[str, ...]:
    return ARCHITECTURES[net.encoder].first_layers(net.depth)


def _other_channels(kernel: Tensor, sources: Sequence[int | None]) -> Tensor:
    """Kernels (features, len(sources), *spatial): old ones, or their mean, at the same gain."""
    mean = kernel.mean(1)
    picked = torch.stack([mean if s is None else kernel[:, s] for s in sources], 1)
    old, new = kernel.shape[1], len(sources)
    return picked if old == new else picked * (old / new)


def _image_columns(rows: Tensor, net: NetSettings, sources: Sequence[int | None]) -> Tensor:
    """Rows of the last layer, with those of its columns that see the image for other channels."""
    split = rows.shape[1] - net.in_channels * net.depth  # the image, and a mean for each level
    seen = rows[:, split:].reshape(-1, net.in_channels, *rows.shape[2:])
    seen = _other_channels(seen, sources).reshape(len(rows), -1, *rows.shape[2:])
    return torch.cat([rows[:, :split], seen], 1)


def _head_rows(rows: Tensor, old: Classes, new: Classes) -> Tensor:
    """Rows of the last layer; the one logit z of a binary network gives the rows 0 and z."""
    if old.binary:
        rows = torch.cat([torch.zeros_like(rows), rows])
    known = dict(zip(old.numbers, rows, strict=True))
    picked = torch.stack([known.get(number, rows.mean(0)) for number in new.numbers])
    return picked[1:] - picked[:1] if new.binary else picked


# -- sentences -------------------------------------------------------------------------------------


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _classes_sentence(old: Classes, new: Classes) -> str:
    n, m = len(new.structures), len(old.structures)
    if n != m:
        begin = f"{n} structure{'s' * (n != 1)} instead of {m}"
    else:
        begin = "Other structures than before"
    names = dict(zip(new.numbers, new.names, strict=True))
    kept = [names[number] for number in new.numbers if number in old.numbers]
    added = [names[number] for number in new.numbers if number not in old.numbers]
    if not kept:
        return f"{begin}: the last layer was replaced."
    end = f", and has {_listed(added)} added" if added else " alone"
    return f"{begin}: the last layer keeps {_listed(kept)}{end}, fitted anew."


def _channels_sentence(
    old: Sequence[str], new: Sequence[str], sources: Sequence[int | None]
) -> str:
    begin = f"The channels are {_listed(new)} instead of {_listed(old)}"
    kept = [name for name, s in zip(new, sources, strict=True) if s is not None]
    added = [name for name, s in zip(new, sources, strict=True) if s is None]
    if not kept:
        return (
            f"{begin}: the weights of the first layer for the new ones are the mean of "
            "those for the old ones."
        )
    end = f", and uses their mean for {_listed(added)}" if added else ""
    return f"{begin}: the first layer keeps its weights for {_listed(kept)}{end}."
