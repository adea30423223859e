"""Going on from a model: what is kept is kept bit by bit, what is translated is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from helpers import random_model
from torch import Tensor

from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.labels import Classes, Structure
from napari_unetseg.core.settings import NetSettings, TrainSettings
from napari_unetseg.models.registry import build
from napari_unetseg.models.transfer import (
    adapt,
    channels_after,
    first_layer,
    inflate,
    net_after,
    settings_after,
)
from napari_unetseg.models.unet import probabilities

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

S122, S222 = (1, 2, 2), (2, 2, 2)


def classes(*numbers: int) -> Classes:
    return Classes(tuple(Structure(n) for n in numbers if n), 0 in numbers)


def run(net: NetSettings, weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """Logits (out_channels, *spatial) of an image (channels, *spatial)."""
    network = build(net)
    network.load_state_dict(weights)
    with torch.inference_mode():
        return network.eval()(image[None])[0]


def continued(
    model: Model, known: Classes | None = None, channels: Sequence[str] | None = None
) -> tuple[NetSettings, dict[str, Tensor], tuple[str, ...]]:
    known, channels = known or model.classes, channels or model.channels
    net = net_after(model, model.dims, len(channels), known.out_channels)
    assert net is not None
    return net, *adapt(model, net, known, channels)


def assert_kept(model: Model, weights: dict[str, Tensor], but: str | tuple[str, ...]) -> None:
    """All tensors but those whose name begins so are the model's."""
    assert set(weights) == set(model.weights)
    for name, tensor in weights.items():
        assert name.startswith(but) or torch.equal(tensor, model.weights[name]), name


def test_the_same_classes_and_channels_change_nothing() -> None:
    model = random_model(0, (1, 2), depth=3, width=4, in_channels=2)
    _, weights, sentences = continued(model)
    assert_kept(model, weights, but="-")
    assert sentences == ()
    weights["head.bias"] += 1  # a copy
    assert not torch.equal(weights["head.bias"], model.weights["head.bias"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0, 1), (0, 1, 2)),
        ((0, 1), (0, 1, 2, 7)),
        ((0, 1, 2), (0, 1)),
        ((0, 1, 2), (0, 2)),
        ((1, 2), (0, 1, 2)),
        ((0, 1, 2), (1, 2)),
        ((0, 1), (1, 3)),
        ((0, 2, 5), (0, 5, 9)),
    ],
)
@pytest.mark.parametrize("encoder", ["unet", "resnet18"])
def test_classes_that_both_have_are_told_apart_as_before(
    before: tuple[int, ...], after: tuple[int, ...], encoder: str
) -> None:
    old, new = classes(*before), classes(*after)
    model = random_model(
        1, [n for n in before if n], 0 in before, depth=3, width=4, encoder=encoder
    )
    net, weights, sentences = continued(model, new)
    assert_kept(model, weights, but="head.")
    image = torch.rand(1, 24, 37)
    was = probabilities(run(model.net, dict(model.weights), image).double())
    now = probabilities(run(net, weights, image).double())
    shared = [n for n in after if n in before]
    was = was[[old.numbers.index(n) for n in shared]]
    now = now[[new.numbers.index(n) for n in shared]]
    torch.testing.assert_close(now / now.sum(0), was / was.sum(0), atol=1e-6, rtol=1e-5)
    assert model.id in sentences[-1]


def test_a_new_structure_begins_between_the_old_ones() -> None:
    model = random_model(1, (1, 2), depth=2, width=4)
    net, weights, sentences = continued(model, classes(0, 1, 2, 3))
    shares = probabilities(run(net, weights, torch.rand(1, 32, 32)))
    assert (shares[3] <= shares[:3].max(0).values).all()  # it takes no voxel before it is learned
    assert sentences[0].startswith("3 structures instead of 2: the last layer keeps background")
    assert "structure 3" in sentences[0]


def test_the_same_structures_in_binary_are_kept_bit_by_bit() -> None:
    model = random_model(1, (4,), depth=2, width=4)
    renamed = model.classes.renamed([Structure(4, "nuclei")])
    _, weights, sentences = continued(model, renamed)
    assert_kept(model, weights, but="-")
    assert sentences == ()


def test_nothing_in_common_is_said() -> None:
    model = random_model(1, (1, 2), background=False, depth=2, width=4)
    _, _, sentences = continued(model, classes(3, 4))
    assert sentences[0] == "Other structures than before: the last layer was replaced."


# -- channels --------------------------------------------------------------------------------------


def named(names: Sequence[str], **net: Any) -> Model:
    model = random_model(2, depth=3, width=4, in_channels=len(names), **net)
    return replace(model, channels=tuple(names))


@pytest.mark.parametrize("encoder", ["unet", "resnet18"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("channel 1",), ("channel 1", "channel 2", "channel 3")),
        (("channel 1", "channel 2", "channel 3"), ("channel 1",)),
        (("red", "green", "blue"), ("DAPI",)),
        (("DAPI",), ("red", "green", "blue")),
    ],
)
def test_grey_images_look_the_same_in_one_channel_and_in_three(
    before: tuple[str, ...], after: tuple[str, ...], encoder: str
) -> None:
    model = named(before, encoder=encoder)
    net, weights, sentences = continued(model, channels=after)
    grey = torch.rand(1, 20, 33)
    was = run(model.net, dict(model.weights), grey.expand(len(before), -1, -1))
    now = run(net, weights, grey.expand(len(after), -1, -1))
    torch.testing.assert_close(now, was, atol=1e-5, rtol=1e-4)
    assert "first layer" in sentences[0]
    assert channels_after(before, after) == after


def test_channels_are_found_by_their_names() -> None:
    model = named(("DAPI", "GFP"))
    net, weights, sentences = continued(model, channels=("GFP", "DAPI"))
    image = torch.rand(2, 20, 33)
    now = run(net, weights, image)
    torch.testing.assert_close(now, run(model.net, dict(model.weights), image.flip(0)))
    assert sentences[0].startswith("The channels are GFP and DAPI instead of DAPI and GFP")
    assert channels_after(model.channels, ("GFP", "DAPI")) == ("GFP", "DAPI")


def test_new_and_dropped_channels_keep_the_size_of_the_response() -> None:
    model = named(("DAPI", "GFP"))
    old = model.weights["encoder.0.0.weight"]
    _, more, sentences = continued(model, channels=("DAPI", "GFP", "RFP"))
    kernel = more["encoder.0.0.weight"]
    torch.testing.assert_close(kernel[:, :2], old * (2 / 3))
    torch.testing.assert_close(kernel[:, 2], old.mean(1) * (2 / 3))
    torch.testing.assert_close(kernel.sum(1), old.sum(1))
    assert_kept(model, more, but=("encoder.0.0.weight", "head.weight"))
    rows, now = (
        w["head.weight"][:, model.net.width :].unflatten(1, (model.net.depth, -1))
        for w in (model.weights, more)
    )
    torch.testing.assert_close(now[:, :, :2], rows * (2 / 3))  # image and means, by channel
    torch.testing.assert_close(now.sum(2), rows.sum(2))
    assert "weights for DAPI and GFP, and uses their mean for RFP" in sentences[0]
    _, fewer, _ = continued(model, channels=("GFP",))
    torch.testing.assert_close(fewer["encoder.0.0.weight"], old[:, 1:] * 2)


def test_as_many_channels_of_other_names_stay_in_their_places() -> None:
    model = named(("channel 1", "channel 2"))
    _, weights, sentences = continued(model, channels=("DAPI", "GFP"))
    assert_kept(model, weights, but="-")
    assert sentences == ()
    assert channels_after(model.channels, ("DAPI", "GFP")) == model.channels


def test_first_layer_of_an_rgb_kernel() -> None:
    kernel = torch.rand(4, 3, 3, 3)
    assert torch.equal(first_layer(kernel, 3), kernel)
    torch.testing.assert_close(first_layer(kernel, 1)[:, 0], kernel.sum(1))
    five = first_layer(kernel, 5)
    for i in range(5):
        torch.testing.assert_close(five[:, i], kernel[:, i % 3] * 3 / 5)
    torch.testing.assert_close(first_layer(kernel, 6).sum(1), kernel.sum(1))


# -- 2D to 3D --------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_features", [True, False], ids=["new", "older model"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_volume_is_seen_plane_by_plane(norm: str, image_features: bool) -> None:
    flat = NetSettings(
        depth=3, width=4, norm=norm, in_channels=2, image_features=image_features
    ).model_dump(exclude={"out_channels"})
    model = random_model(3, (1, 2), **flat)
    more = {"dims": 3, "strides": (S122, S122), "image_features": True}
    net = model.net.model_copy(update=more)
    weights, sentences = adapt(model, net, model.classes, model.channels)
    volume = torch.rand(2, 5, 21, 30)
    planes = [run(model.net, dict(model.weights), volume[:, z]) for z in range(5)]
    now = run(net, weights, volume)
    torch.testing.assert_close(now, torch.stack(planes, 1), atol=1e-5, rtol=1e-4)
    assert "plane by plane" in sentences[0]


def test_where_z_is_halved_a_volume_of_equal_planes_is_seen_as_its_plane() -> None:
    model = random_model(3, depth=3, width=4)
    net = model.net.model_copy(update={"dims": 3, "strides": (S122, S222)})
    weights, _ = adapt(model, net, model.classes, model.channels)
    plane = torch.rand(1, 21, 30)
    now = run(net, weights, plane[:, None].expand(-1, 6, -1, -1))
    was = run(model.net, dict(model.weights), plane)
    torch.testing.assert_close(now, was[:, None].expand_as(now), atol=1e-5, rtol=1e-4)


def test_classes_channels_and_dimensions_together() -> None:
    model = named(("DAPI",))
    known = classes(0, 1, 2)
    net = NetSettings(
        dims=3,
        in_channels=2,
        out_channels=3,
        depth=3,
        width=4,
        strides=(S122, S222),
        image_features=True,
    )
    weights, sentences = adapt(model, net, known, ("DAPI", "GFP"))
    assert run(net, weights, torch.rand(2, 4, 9, 9)).shape == (3, 4, 9, 9)
    assert len(sentences) == 4


def test_a_body_without_a_head_is_inflated() -> None:
    net = NetSettings(dims=3, depth=2, width=4, strides=(S222,))
    body = {n: t for n, t in random_model(depth=2, width=4).weights.items() if "head" not in n}
    found = inflate(body, net)
    missing, unexpected = build(net).load_state_dict(found, strict=False)
    assert set(missing) == {"head.weight", "head.bias"}
    assert not unexpected
    assert "num_batches_tracked" in " ".join(found)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 8}, "width 4, but width 8"),
        ({"depth": 2}, "depth 3, but depth 2"),
        ({"norm": "none"}, "norm batch, but norm none"),
        ({"encoder": "resnet18"}, "encoder unet, but encoder resnet18"),
        ({"strides": ((1, 2), (2, 2))}, "strides"),
        ({"dims": 3, "strides": (S122, (2, 1, 2))}, "strides"),
    ],
)
def test_another_architecture_is_refused(change: dict[str, Any], words: str) -> None:
    model = random_model(depth=3, width=4)
    with pytest.raises(TrainingError, match=words):
        adapt(model, model.net.model_copy(update=change), model.classes, model.channels)


def test_a_volume_model_does_not_go_on_with_planes() -> None:
    model = random_model(dims=3, depth=3, width=4)
    net = NetSettings(depth=3, width=4)
    with pytest.raises(TrainingError, match="dims 3, but dims 2"):
        adapt(model, net, model.classes, model.channels)
    with pytest.raises(TrainingError, match="is 3D, but 2D was chosen"):
        settings_after(model, TrainSettings())
    residual = random_model(encoder="resnet18", depth=3, width=4)
    with pytest.raises(TrainingError, match="encoder resnet18, but 3D was chosen"):
        settings_after(residual, TrainSettings(dims=3))


def test_the_settings_of_a_continued_training_are_the_models() -> None:
    model = random_model(depth=3, width=4, norm="none")
    settings = settings_after(model, TrainSettings(dims=3, steps=7))
    assert (settings.depth, settings.width, settings.norm) == (3, 4, "none")
    assert (settings.dims, settings.steps) == (3, 7)
    assert net_after(model, 3, 1, 1) is None  # its strides follow from the volume
