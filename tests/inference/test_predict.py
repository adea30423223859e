"""Prediction: a tile equals the same place of the whole image; memory is bounded; it can stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from helpers import Watched, of_kind, random_model
from large_parts import failing

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, TilePredicted
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference import predict as predict_module
from napari_unetseg.inference.predict import predict, predict_events, predict_probabilities
from napari_unetseg.models.unet import UNet

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

S22, S12, S21 = (2, 2), (1, 2), (2, 1)
S122, S222 = (1, 2, 2), (2, 2, 2)
TABLE: list[tuple[tuple[int, ...], int, dict[str, Any]]] = [
    ((1, 1), 8, {"depth": 4}),
    ((1, 90), 16, {"depth": 3}),
    ((90, 1), 16, {"depth": 3, "norm": "none"}),
    ((7, 13), 8, {"depth": 5}),
    ((61, 83), 8, {"depth": 1}),
    ((61, 83), 16, {"depth": 2}),
    ((128, 96), 32, {"depth": 3}),
    ((131, 97), 32, {"depth": 3, "norm": "none"}),
    ((150, 201), 40, {"depth": 4}),
    ((233, 240), 64, {"depth": 4, "norm": "none", "width": 6}),
    ((300, 310), 100, {"depth": 5}),
    ((90, 111), 24, {"depth": 3, "strides": (S12, S21)}),
    ((77, 140), 24, {"depth": 4, "strides": (S22, S12, S22)}),
    ((1, 40, 44), 16, {"depth": 2, "dims": 3}),
    ((9, 40, 44), 24, {"depth": 1, "dims": 3}),
    ((6, 61, 50), 40, {"depth": 2, "dims": 3, "strides": (S122,)}),
    ((5, 70, 73), 48, {"depth": 3, "dims": 3, "strides": (S122, S222)}),
    ((50, 34, 41), 30, {"depth": 2, "dims": 3, "norm": "none"}),
]


def whole_probabilities(model: Model, image: np.ndarray) -> np.ndarray:
    """The unfolded network on the whole image at once."""
    with torch.inference_mode():
        logits = model.network()(torch.from_numpy(image)[None, None])[0]
        if model.classes.binary:
            p = torch.sigmoid(logits)
            return torch.cat([1 - p, p]).numpy()
        return torch.softmax(logits, 0).numpy()


def assert_same(model: Model, found: np.ndarray, mask: np.ndarray, whole: np.ndarray) -> None:
    """Within 1e-4, and no voxel of the mask differs unless its best classes are that close."""
    assert np.abs(found - whole).max() < 1e-4
    best = np.sort(whole, axis=0)[-2:]
    clear = best[1] - best[0] > 1e-4
    np.testing.assert_array_equal(mask[clear], model.classes.decode(whole.argmax(0))[clear])
    assert clear.mean() > 0.99


@pytest.mark.parametrize(("shape", "tile", "net"), TABLE)
@pytest.mark.parametrize("numbers", [(1,), (2, 7)])
def test_tiled_equals_untiled(
    shape: tuple[int, ...], tile: int, net: dict[str, Any], numbers: tuple[int, ...]
) -> None:
    model = random_model(1, numbers, **{"width": 8, **net})
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    whole = whole_probabilities(model, image)
    events: list[Event] = []
    settings = PredictSettings(tile=tile, threads=1)
    mask = predict(model, image, settings, on_event=events.append)
    found = predict_probabilities(model, image, settings)
    assert not of_kind(events, Notice)
    if max(shape) > 2 * tile:
        assert len(of_kind(events, TilePredicted)) > 1
    assert_same(model, found, mask, whole)


def test_tiles_of_any_size_give_the_same_mask() -> None:
    model = random_model(2, depth=3, width=4)
    image = np.random.default_rng(1).random((120, 117)).astype(np.float32)
    whole = predict_probabilities(model, image, PredictSettings(tile=1024, threads=1))
    for tile in (8, 9, 17, 32, 50, 119):
        found = predict_probabilities(model, image, PredictSettings(tile=tile, threads=1))
        assert np.abs(found - whole).max() < 1e-4


@pytest.mark.parametrize(
    ("net", "shape", "tile", "reason"),
    [
        ({"norm": "group", "depth": 3}, (90, 140), 48, "group norm"),
        ({"norm": "instance", "depth": 3}, (90, 140), 48, "instance norm"),
        ({"depth": 2, "dims": 3}, (40, 42, 44), 16, "three times"),
    ],
)
def test_what_cannot_be_exact_is_blended_and_says_so(
    net: dict[str, Any], shape: tuple[int, ...], tile: int, reason: str
) -> None:
    model = random_model(1, width=8, **net)
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    events: list[Event] = []
    settings = PredictSettings(tile=tile, threads=1)
    found = predict_probabilities(model, image, settings, on_event=events.append)
    (notice,) = of_kind(events, Notice)
    assert reason in notice.text
    seen = np.zeros(shape, int)
    tiles = of_kind(events, TilePredicted)
    for event in tiles:
        seen[event.index] += 1
    assert (seen == 1).all()
    assert [e.done for e in tiles] == list(range(1, len(tiles) + 1))
    assert {e.total for e in tiles} == {len(tiles)}
    np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-5)
    whole = whole_probabilities(model, image)
    assert np.abs(found - whole).mean() < 0.15
    assert (found.argmax(0) == whole.argmax(0)).mean() > 0.65  # of noise; 0.5 by chance


def test_group_norm_in_a_single_tile_is_exact_and_says_nothing() -> None:
    model = random_model(1, norm="group", depth=3, width=8)
    image = np.random.default_rng(0).random((50, 60)).astype(np.float32)
    events: list[Event] = []
    found = predict_probabilities(model, image, on_event=events.append)
    assert not of_kind(events, Notice)
    assert np.abs(found - whole_probabilities(model, image)).max() < 1e-4


# -- order, shape, stop --------------------------------------------------------------------------


def test_every_plane_of_every_leading_axis_is_predicted_by_itself() -> None:
    model = random_model(1, in_channels=2, depth=2, width=4)
    image = np.random.default_rng(0).random((2, 3, 2, 20, 24)).astype(np.float32)
    mask = predict(model, Stack(image, "TZCYX"))
    assert mask.shape == (2, 3, 20, 24)
    assert mask.dtype == np.uint8
    for t, z in np.ndindex(2, 3):
        np.testing.assert_array_equal(mask[t, z], predict(model, image[t, z], axes="CYX"))


def test_volumes_of_a_time_series() -> None:
    model = random_model(1, dims=3, depth=2, width=4)
    image = np.random.default_rng(0).random((2, 6, 20, 24)).astype(np.float32)
    mask = predict(model, image, axes="TZYX")
    np.testing.assert_array_equal(mask[1], predict(model, image[1], axes="ZYX"))


def test_planes_come_in_the_wanted_order_and_only_those() -> None:
    model = random_model(1, depth=2, width=4)
    stack = Stack(np.random.default_rng(0).random((5, 40, 40)).astype(np.float32), "ZYX")
    wanted = [(3,), (0,), (4,)]
    events = list(predict_events(model, stack, PredictSettings(tile=16), planes=wanted))
    order = list(dict.fromkeys(e.plane for e in events if isinstance(e, TilePredicted)))
    assert order == wanted
    tiles = of_kind(events, TilePredicted)
    assert [e.done for e in tiles] == list(range(1, tiles[0].total + 1))
    assert all(e.probabilities is None for e in tiles)
    mask = predict(model, stack, planes=wanted)
    assert mask[3].any()
    assert not mask[1].any()
    assert not mask[2].any()


def test_numbers_are_those_that_were_painted() -> None:
    model = random_model(3, (4, 200), background=False, depth=2, width=4)
    mask = predict(model, np.random.default_rng(0).random((40, 40)).astype(np.float32))
    assert set(np.unique(mask)) == {4, 200}


@pytest.mark.parametrize(("numbers", "background"), [((1,), True), ((3, 5), True), ((1, 2), False)])
def test_probabilities_sum_to_one_and_agree_with_the_mask(
    numbers: tuple[int, ...], background: bool
) -> None:
    model = random_model(1, numbers, background, depth=3, width=4)
    image = np.random.default_rng(0).random((70, 50)).astype(np.float32)
    settings = PredictSettings(tile=32)
    found = predict_probabilities(model, image, settings)
    assert found.dtype == np.float32
    assert found.shape == (len(model.classes.names), 70, 50)
    np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-5)
    mask = predict(model, image, settings)
    np.testing.assert_array_equal(mask, model.classes.decode(found.argmax(0)))


def test_a_stop_takes_effect_before_the_next_tile() -> None:
    model = random_model(1, depth=2, width=4)
    stack = Stack(np.zeros((3, 64, 64), np.float32), "TYX")
    control = JobControl(threads=1)
    seen = []
    for event in predict_events(model, stack, PredictSettings(tile=16), control=control):
        seen.append(event)
        if len(seen) == 3:
            control.stop()
    assert len(seen) == 3


def test_threads_of_the_settings_hold_beside_a_control() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        model = random_model(1, depth=1, width=1)
        predict(model, np.zeros((9, 9)), PredictSettings(threads=2), control=JobControl())
        assert torch.get_num_threads() == 2
        predict(model, np.zeros((9, 9)), PredictSettings(threads=2), control=JobControl(threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_prediction_leaves_the_random_numbers_of_others_alone() -> None:
    model = random_model(1, depth=2, width=2)
    state = torch.get_rng_state()
    predict(model, np.zeros((9, 9), np.float32))
    assert torch.equal(state, torch.get_rng_state())


def test_other_channels_or_dims_are_refused() -> None:
    grey = random_model(1, depth=1, width=1)
    rgb = random_model(1, in_channels=3, depth=1, width=1)
    volume = random_model(1, dims=3, depth=1, width=1)
    picture = np.zeros((20, 20), np.uint8)
    with pytest.raises(UserError, match="needs 1 channel"):
        predict(grey, np.zeros((20, 20, 3), np.uint8), axes="YXS")
    with pytest.raises(UserError, match="needs 3 channel"):
        predict(rgb, picture)
    with pytest.raises(UserError, match="needs volumes"):
        predict(volume, picture)


# -- memory --------------------------------------------------------------------------------------


def make_lazy(array: np.ndarray, kind: str) -> Any:
    if kind == "dask":
        return da.from_array(array, chunks=(1, *(32,) * (array.ndim - 1)))
    if kind == "zarr":
        stored = zarr.create_array(
            zarr.storage.MemoryStore(), shape=array.shape, dtype=array.dtype, chunks=(1, 32, 32)
        )
        stored[:] = array
        return stored
    return Watched(array)


@pytest.mark.parametrize("kind", ["dask", "zarr", "watched"])
def test_lazy_arrays_give_the_same_mask(kind: str) -> None:
    model = random_model(1, depth=2, width=4)
    image = np.random.default_rng(0).random((3, 60, 70)).astype(np.float32)
    settings = PredictSettings(tile=32)
    mask = predict(model, Stack(make_lazy(image, kind), "TYX"), settings)
    np.testing.assert_array_equal(mask, predict(model, image, settings, axes="TYX"))


def test_what_is_read_at_once_does_not_grow_with_the_stack() -> None:
    model = random_model(1, depth=2, width=2)
    peaks = []
    for planes in (2, 12):
        watched = Watched(np.zeros((planes, 80, 90), np.uint8), most=80 * 90)
        for _ in predict_events(model, Stack(watched, "ZYX"), PredictSettings(tile=32)):
            pass
        peaks.append(watched.peak)
    assert peaks[0] == peaks[1]


def test_what_is_read_at_once_does_not_grow_with_the_plane() -> None:
    """A mosaic of 3000 × 4000 is read in tiles, never whole, and kept nowhere."""
    model = random_model(1, depth=2, width=1)
    watched = Watched(np.zeros((3000, 4000), np.uint8), most=1300 * 1300)
    for event in predict_events(model, Stack(watched, "YX")):
        assert isinstance(event, TilePredicted)
    assert len(watched.reads) > 20


def test_volumes_are_read_in_tiles_of_bounded_size() -> None:
    model = random_model(1, dims=3, depth=2, width=1)
    for net_tile in (16, 32):  # blended, exact
        watched = Watched(np.zeros((60, 70, 80), np.uint8), most=60**3)
        stack = Stack(watched, "ZYX")
        assert list(predict_events(model, stack, PredictSettings(tile=net_tile)))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_out_of_memory_goes_on_with_smaller_tiles(
    monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    model = random_model(1, depth=2, width=4, norm=norm)
    image = np.random.default_rng(0).random((2, 150, 160)).astype(np.float32)
    whole = predict_probabilities(model, image, axes="TYX")
    monkeypatch.setattr(UNet, "forward", failing(110 * 110))
    events: list[Event] = []
    found = predict_probabilities(model, image, axes="TYX", on_event=events.append)
    notices = [e.text for e in of_kind(events, Notice)]
    assert any("Not enough memory" in text for text in notices)
    assert any("blended" in text for text in notices) == (norm == "group")
    if norm == "batch":
        assert np.abs(found - whole).max() < 1e-4
    np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-5)


def test_a_volume_that_is_blended_for_want_of_memory_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model(1, depth=3, width=2, dims=3)
    monkeypatch.setattr(UNet, "forward", failing(50**3))
    events: list[Event] = []
    predict(model, np.zeros((64, 64, 64), np.float32), on_event=events.append)
    assert any("blended" in e.text for e in of_kind(events, Notice))


def test_never_enough_memory_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(1, depth=2, width=4)
    monkeypatch.setattr(UNet, "forward", failing(0))
    with pytest.raises(UserError, match="not enough memory for even the smallest tile"):
        predict(model, np.zeros((150, 160), np.float32))


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: UNet, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the size of tensor a must match")

    model = random_model(1, depth=2, width=4)
    monkeypatch.setattr(UNet, "forward", broken)
    with pytest.raises(RuntimeError, match="must match"):
        predict(model, np.zeros((20, 20), np.float32))


def test_wanted_gpu_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no cuda device"):
        predict(random_model(1, depth=1, width=1), np.zeros((9, 9)), PredictSettings(device="cuda"))


def test_the_same_tiles_whatever_the_module_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default edge is a preference, not a part of the result."""
    model = random_model(5, depth=3, width=4)
    image = np.random.default_rng(3).random((100, 100)).astype(np.float32)
    before = predict_probabilities(model, image)
    monkeypatch.setitem(predict_module.EDGE, 2, 40)
    assert np.abs(predict_probabilities(model, image) - before).max() < 1e-4
