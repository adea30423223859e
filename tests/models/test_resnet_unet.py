"""U-Nets on residual encoders: the same doors as the U-Net's own, and where weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import of_kind, random_model, random_network
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.settings import NetSettings, PredictSettings, TrainSettings
from napari_unetseg.inference.predict import predict_probabilities
from napari_unetseg.models.encoder_weights import MEAN, STD, load_encoder
from napari_unetseg.models.model import load_model
from napari_unetseg.models.registry import build
from napari_unetseg.models.resnet_unet import ResNet, ResNetUNet
from napari_unetseg.models.unet import UNet

KINDS = ["resnet18", "resnet34", "resnet50"]


def net(kind: str = "resnet18", depth: int = 3, **more: Any) -> NetSettings:
    return NetSettings(encoder=kind, depth=depth, width=8, **more)


def torchvision_resnet(kind: str = "resnet18") -> nn.Module:
    """torchvision's own network, whose norms have seen data of their own."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network: nn.Module = getattr(models, kind)().eval()
        for name, value in network.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return network


def torchvision_levels(network: Any, x: Tensor) -> list[Tensor]:
    levels = [network.relu(network.bn1(network.conv1(x)))]
    x = network.maxpool(levels[0])
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        levels.append(x)
    return levels


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_torchvisions(kind: str) -> None:
    theirs = torchvision_resnet(kind)
    ours = ResNet(kind, 3, 5)
    state = {n: t for n, t in theirs.state_dict().items() if not n.startswith("fc.")}
    ours.load_state_dict(state)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for mine, wanted in zip(ours.eval()(image), torchvision_levels(theirs, image), strict=True):
            torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [2, 4, 6])
def test_any_size_and_channels_go_in(kind: str, depth: int) -> None:
    network = build(net(kind, depth, in_channels=2, out_channels=3))
    for mode in (True, False):
        network.train(mode)
        for size in [(1, 1), (1, 37), (33, 50), (64, 64)]:
            logits = network(torch.randn(2, 2, *size))
            assert logits.shape == (2, 3, *size)
            assert torch.isfinite(logits).all()


def test_a_unet_is_built_for_settings_without_an_encoder() -> None:
    assert type(build(NetSettings(depth=2, width=4))) is UNet
    assert type(build(net())) is ResNetUNet


@pytest.mark.parametrize("level", range(5))
def test_every_level_concatenates_the_encoders_features(level: int) -> None:
    network = random_network(encoder="resnet18", depth=6, width=4)
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        before = network(image)
        skip = [4, 64, 64, 128, 256][level]
        network.decoder.get_submodule(f"{level}.0").weight[:, :skip] = 0.0  # type: ignore[operator,index]
        assert (network(image) - before).abs().max() > 1e-5


@pytest.mark.parametrize(("kind", "depth"), [("resnet18", 2), ("resnet18", 4), ("resnet50", 3)])
def test_input_range_is_what_the_output_depends_on(kind: str, depth: int) -> None:
    network = build(NetSettings(encoder=kind, depth=depth, width=1)).double()
    for name, value in network.state_dict().items():  # nothing cancels, no ReLU blocks
        if value.is_floating_point():
            value.copy_(value.abs().clamp(min=1e-3))
            if name.endswith("running_mean"):
                value.neg_()
    network.eval()
    stride, reach = network.stride[0], network.receptive_field[0]
    length = (reach // stride + 2) * stride
    image = torch.rand(1, 1, 2 * stride, length, dtype=torch.float64)
    ranges = [network.input_range(x, x + 1, 1) for x in range(length)]
    with torch.inference_mode():
        before = network(image)
        for place in (0, length // 2, length // 2 + 1, length // 2 + 3, length - 1):
            changed = image.clone()
            changed[..., place] += 1e3
            differs = (network(changed) != before).any(dim=(0, 1, 2))
            said = torch.tensor([low <= place < high for low, high in ranges])
            assert torch.equal(differs, said), place
    assert max(high - low for low, high in ranges) == reach


def test_stride_and_size_are_those_of_the_residual_network() -> None:
    network = build(NetSettings(encoder="resnet18", depth=6))
    assert network.stride == (32, 32)
    encoder = sum(p.numel() for p in network.encoder.parameters())
    first = 64 * 7 * 7  # one channel instead of three; no classifier
    assert encoder == 11_689_512 - 2 * first - (512 * 1000 + 1000)
    assert network.receptive_field[0] > 435


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
def test_folded_gives_the_same_logits_and_leaves_the_original(kind: str) -> None:
    network = random_network(seed=3, encoder=kind, depth=6, width=8, in_channels=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = network.folded()
    image = torch.randn(1, 2, 45, 70)
    with torch.inference_mode():
        assert (network(image) - folded(image)).abs().max() < 1e-4
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "depth", "shape", "tile"),
    [
        ("resnet18", 3, (331, 203), 64),
        ("resnet34", 2, (50, 61), 16),
        ("resnet50", 3, (331, 203), 64),
        ("resnet18", 4, (400, 90), 140),
        ("resnet18", 6, (700, 41), 350),
    ],
)
def test_tiled_equals_untiled(kind: str, depth: int, shape: tuple[int, int], tile: int) -> None:
    model = random_model(1, (1, 4), encoder=kind, depth=depth, width=8)
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    with torch.inference_mode():
        whole = torch.softmax(model.network()(torch.from_numpy(image)[None, None])[0], 0).numpy()
    events: list[Event] = []
    found = predict_probabilities(
        model, image, PredictSettings(tile=tile, threads=1), on_event=events.append
    )
    assert len(events) > 1
    assert not of_kind(events, Notice)
    assert np.abs(found - whole).max() < 1e-4


def test_a_halo_that_costs_too_much_is_blended_and_it_says_so() -> None:
    model = random_model(1, encoder="resnet18", depth=6, width=4)
    image = np.random.default_rng(0).random((400, 390)).astype(np.float32)
    events: list[Event] = []
    settings = PredictSettings(tile=96, threads=1)
    found = predict_probabilities(model, image, settings, on_event=events.append)
    (notice,) = of_kind(events, Notice)
    assert "three times the image" in notice.text
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_a_model_comes_back_from_its_file(tmp_path: Path) -> None:
    model = random_model(2, (1, 2), encoder="resnet18", depth=4, width=8, in_channels=3)
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.net == model.net
    assert loaded.id == model.id
    image = torch.randn(1, 3, 20, 31)
    assert torch.equal(loaded.network()(image), model.network()(image))
    assert loaded.summary()["parameters"] == model.network().parameter_count


@pytest.mark.parametrize(
    "wrong",
    [
        {"dims": 3},
        {"norm": "group"},
        {"depth": 1},
        {"depth": 7},
        {"strides": ((2, 2), (2, 2), (2, 2))},
    ],
)
def test_what_a_residual_encoder_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"resnet18 (needs|has)"):
        NetSettings(encoder="resnet18", **wrong)
    if "strides" not in wrong:
        with pytest.raises(ValidationError, match="resnet18 needs"):
            TrainSettings(encoder="resnet18", **wrong)
        with pytest.raises(ValueError, match="must be"):
            ResNetUNet(encoder="resnet18", **wrong)


# -- weights ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return {name: t.clone() for name, t in torchvision_resnet().state_dict().items()}


def written(state: dict[str, Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file({n: t.contiguous() for n, t in state.items()}, path)
    else:
        torch.save(state, path)  # noqa: TID251
    return str(path)


@pytest.mark.parametrize("name", ["body.safetensors", "body.pth"])
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_weights_of_a_file_are_those_of_the_encoder(
    state: dict[str, Tensor], tmp_path: Path, name: str, prefix: str
) -> None:
    path = written({prefix + n: t for n, t in state.items()}, tmp_path / name)
    network = build(net(in_channels=3))
    load_encoder(network, path)
    for key, value in network.encoder.state_dict().items():
        if key not in ("conv1.weight", "bn1.running_mean"):
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_images_from_0_to_1_are_seen_as_normalised_ones(
    state: dict[str, Tensor], tmp_path: Path, channels: int
) -> None:
    network = build(net(in_channels=channels)).eval()
    load_encoder(network, written(state, tmp_path / "body.safetensors"))
    grey = torch.rand(1, 1, 64, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    theirs = torchvision_resnet()
    with torch.inference_mode():
        wanted = torchvision_levels(theirs, (grey.expand(-1, 3, -1, -1) - mean) / std)[0]
        found = network.encoder(grey.expand(-1, channels, -1, -1))[0]
    inner = (..., slice(2, -2), slice(2, -2))  # at the border zeros are padded
    torch.testing.assert_close(found[inner], wanted[inner], atol=1e-4, rtol=1e-4)


def test_imagenet_comes_from_torchvisions_cache(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    written(state, cache / Path(ResNet18_Weights.DEFAULT.url).name)
    network = build(net())
    load_encoder(network, "imagenet")
    key = "layer2.0.conv1.weight"
    assert key not in network.encoder.state_dict()  # depth 3 needs no more than layer 1
    key = "layer1.0.conv1.weight"
    assert torch.equal(network.encoder.state_dict()[key], state[key])


def test_without_a_network_a_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match=r"could not be downloaded .* give the file") as caught:
        load_encoder(build(net()), "imagenet")
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    network = build(net())
    before = {n: t.clone() for n, t in network.state_dict().items()}
    (tmp_path / "text.pth").write_text("no weights")
    other = written({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    wide = {**state, "layer1.0.conv1.weight": torch.zeros(128, 64, 3, 3)}
    for path, words in {
        str(tmp_path / "none.pth"): "do not exist",
        str(tmp_path / "text.pth"): "cannot be read as encoder weights",
        other: "lacks conv1.weight",
        written(wide, tmp_path / "wide.pth"): "another shape for layer1.0.conv1.weight",
    }.items():
        with pytest.raises(UserError, match=words):
            load_encoder(network, path)
    with pytest.raises(UserError, match="need the encoder resnet18"):
        load_encoder(build(NetSettings()), other)
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


class _Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (Path("trap-was-run"),)


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Trap()}, tmp_path / "trap.pth")  # noqa: TID251
    with pytest.raises(UserError, match="cannot be read as encoder weights"):
        load_encoder(build(net()), str(tmp_path / "trap.pth"))
    assert not Path("trap-was-run").exists()
