"""Images of other voxel sizes than a model was trained on: said, and predicted at the model's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    Watched,
    blobs,
    dice,
    of_kind,
    random_model,
    run_training,
    sized,
    strokes,
    tiny,
    trained_at,
)
from large_parts import failing, mask_of, noise, stream, tree
from scipy import ndimage

from napari_unetseg.core import resample as resample_module
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Notice, OtherSpacing, TilePredicted
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.resample import Resampling, read_scaled
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.inference import predict as predict_module
from napari_unetseg.inference.evaluate import evaluate
from napari_unetseg.inference.large.chunk_grid import Grid
from napari_unetseg.inference.predict import predict, predict_events, predict_probabilities
from napari_unetseg.inference.uncertainty import (
    RegionPredictor,
    margin_uncertainty,
    uncertainty_map,
)
from napari_unetseg.jobs.image_ranges import ImageRanges
from napari_unetseg.jobs.live_predictor import Viewport, ViewportState, ViewportTask
from napari_unetseg.models.model import Model
from napari_unetseg.models.unet import UNet
from napari_unetseg.models.voxel_sizes import VoxelSizes, fit_spacing

MATCH = PredictSettings(match_spacing=True, threads=1, device="cpu")


def said(model: Model, stack: Stack, match: Any = False) -> str:
    notice = fit_spacing(model, stack, match=match).notice
    return "" if notice is None else f"{notice.text} {notice.offer}".strip()


# -- what is said ----------------------------------------------------------------------------------

PLANE = np.zeros((40, 40), np.uint8)
VOLUME = np.zeros((10, 40, 40), np.uint8)
FLAT = trained_at(random_model(1, depth=1, width=1), 0.2)
DEEP = trained_at(random_model(1, depth=1, width=1, dims=3), 0.4, 0.2, 0.2)


def test_another_pixel_size_is_said_with_what_can_be_done() -> None:
    assert said(FLAT, sized(PLANE, "YX", 0.05, name="cells")) == (
        "cells has pixels of 0.05 µm, but the model was trained on pixels of 0.2 µm: structures "
        "are 4 times larger in pixels than in training, so the mask may be wrong. "
        "--match-spacing (in Python PredictSettings(match_spacing=True)) predicts at the model's "
        "pixel size."
    )
    assert "structures are 2 times smaller in pixels" in said(FLAT, sized(PLANE, "YX", 0.4))
    far = VoxelSizes.compare(FLAT, sized(PLANE, "YX", 0.002))
    assert "structures are 100 times larger in pixels" in far.describe("cells")
    text = said(DEEP, sized(VOLUME, "ZYX", 0.4, 0.05, 0.05))
    assert "voxels of 0.4 × 0.05 × 0.05 µm (Z × Y × X)" in text
    assert "structures have another size or shape in voxels" in text
    assert "of 4 nm, but" in said(trained_at(FLAT, 16, unit="nm"), sized(PLANE, "YX", 4, unit="nm"))
    assert said(FLAT, sized(PLANE, "YX", 0.05), True) == (
        "image is predicted at the model's pixel size, 0.2 µm instead of 0.05 µm."
    )


@pytest.mark.parametrize(
    ("model", "stack"),
    [
        (FLAT, sized(PLANE, "YX", 0.2)),
        (FLAT, sized(PLANE, "YX", 200, unit="nm")),
        (FLAT, sized(PLANE, "YX", 2e-4, unit="mm")),
        (FLAT, sized(PLANE, "YX", 0.17)),
        (FLAT, sized(PLANE, "YX", 0.24)),
        (FLAT, sized(VOLUME, "ZYX", 9.0, 0.2, 0.2)),  # its planes are seen one by one
        (FLAT, Stack(PLANE, "YX", (0.05, 0.05))),  # pixels: not known
        (FLAT, sized(PLANE, "YX", 0.05, unit="furlong")),
        (FLAT, sized(PLANE, "YX", 0.0)),
        (FLAT, sized(PLANE, "YX", -1.0)),
        (FLAT, sized(PLANE, "YX", float("nan"))),
        (random_model(1, depth=1, width=1), sized(PLANE, "YX", 0.05)),
        (DEEP, sized(VOLUME, "ZYX", 0.4, 0.2, 0.2)),
    ],
)
def test_alike_or_unknown_sizes_are_not_mentioned(model: Model, stack: Stack) -> None:
    assert said(model, stack) == ""
    assert not of_kind(list(predict_events(model, stack)), Notice)


@pytest.mark.parametrize(
    ("model", "stack"),
    [
        (FLAT, sized(PLANE, "YX", 0.16)),
        (FLAT, sized(PLANE, "YX", 0.25)),
        (DEEP, sized(VOLUME, "ZYX", 1.0, 0.2, 0.2)),
        (DEEP, sized(VOLUME, "ZYX", 0.4, 0.2, 0.05)),
        (FLAT, sized(PLANE, "YX", 50, unit="nm")),
        (FLAT, sized(np.zeros((2, 3, 40, 40), np.uint8), "TZYX", 9.0, 0.05, 0.05)),
    ],
)
def test_every_axis_that_a_network_sees_is_compared(model: Model, stack: Stack) -> None:
    assert said(model, stack).startswith("image has ")
    (notice,) = of_kind(list(predict_events(model, stack)), OtherSpacing)
    assert notice.warning
    (matched,) = of_kind(list(predict_events(model, stack, MATCH)), OtherSpacing)
    assert not matched.warning
    assert fit_spacing(model, stack, match=True).resampling is not None


@pytest.mark.parametrize(
    ("model", "stack", "why"),
    [
        (FLAT, Stack(PLANE, "YX", name="a"), "The pixel size of a is not known, so it cannot"),
        (
            random_model(1, depth=1, width=1),
            sized(PLANE, "YX", 0.2),
            "of the model's training imag",
        ),
        (DEEP, sized(VOLUME, "ZYX", 0.2, 0.2, name="b"), "voxel size of b along Z is not known"),
        (FLAT, sized(PLANE, "YX", 5.0), "too far apart to resample"),
        (FLAT, sized(PLANE, "YX", 0.01), "'unetseg info'"),
        (FLAT, sized(PLANE, "YX", 1e300), "too far apart"),
        (trained_at(FLAT, 1e-300), sized(PLANE, "YX", 1e300), "too far apart"),
        (DEEP, sized(VOLUME, "ZYX", 3.0, 1.5, 1.5), "64 times as many voxels"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_a_sentence(
    model: Model, stack: Stack, why: str
) -> None:
    with pytest.raises(UserError) as error:
        predict(model, stack, MATCH)
    assert why in str(error.value)
    assert "--spacing" in str(error.value)
    auto = MATCH.model_copy(update={"match_spacing": "auto"})
    plain = MATCH.model_copy(update={"match_spacing": False})
    np.testing.assert_array_equal(predict(model, stack, auto), predict(model, stack, plain))
    if "too far" in why:
        assert "too far apart to resample" in said(model, stack)
        assert "--match-spacing" not in said(model, stack)


def test_images_between_the_sizes_of_training_images_are_alike() -> None:
    model = replace(FLAT, spacing_range=((0.1, 0.1), (0.4, 0.4)))
    for size in (0.1, 0.2, 0.4, 0.085):
        assert said(model, sized(PLANE, "YX", size)) == ""
    assert "trained on pixels of 0.1 µm" in said(model, sized(PLANE, "YX", 0.05))
    assert "trained on pixels of 0.4 µm" in said(model, sized(PLANE, "YX", 1.6))
    assert fit_spacing(model, sized(PLANE, "YX", 0.2), match=True).resampling is None


# -- training --------------------------------------------------------------------------------------


def pair(seed: int = 0, *sizes: float, **more: Any) -> AnnotatedImage:
    image, truth = blobs((64, 64), 8, seed)
    stack = sized(image, "YX", *sizes, **more) if sizes else Stack(image, "YX")
    return AnnotatedImage(stack, strokes(truth), LabelKind.STROKES)


def sizes_said(events: list[Any]) -> list[str]:
    return [e.text for e in of_kind(events, Notice) if "pixels of" in e.text]


def test_a_model_keeps_the_sizes_of_its_images(tmp_path: Path) -> None:
    settings = tiny(steps=1)
    pairs = [pair(0), pair(1, 200, unit="nm"), pair(2, 0.05), pair(3, 0.1)]
    model, events = run_training(pairs, settings)
    (text,) = sizes_said(events)
    assert text.startswith(
        "The training images have pixels of 0.05 to 0.2 µm and are not resampled"
    )
    assert (model.spacing, model.units) == ((200.0, 200.0), ("nm", "nm"))
    assert model.spacing_range == (pytest.approx((50, 50)), pytest.approx((200, 200)))
    again = Model.load(model.save(tmp_path / "m"))
    assert again.spacing_range == model.spacing_range
    more, events = run_training(pairs, settings, init=again)
    assert not sizes_said(events)  # it knows them all
    assert more.spacing_range == model.spacing_range
    alike, events = run_training([pair(0, 0.2), pair(1, 0.201)], settings)
    assert alike.spacing_range is None
    assert not sizes_said(events)


def test_going_on_with_another_size_is_said_once() -> None:
    settings = tiny(steps=1)
    model, events = run_training([pair(0, 0.2)], settings)
    assert not sizes_said(events)
    model, events = run_training([pair(0, 0.05)], settings, init=model)
    (text,) = sizes_said(events)
    assert text.startswith(
        "The initial model was trained on pixels of 0.2 µm, but these images have pixels of 0.05 µm"
    )
    assert model.spacing == (0.05, 0.05)
    _, events = run_training([pair(0, 0.05)], settings, init=model)
    assert not sizes_said(events)
    _, events = run_training([pair(0)], settings, init=model)
    assert not sizes_said(events)


def test_model_files_without_a_range_are_read(tmp_path: Path) -> None:
    from napari_unetseg.models import model_file

    description = FLAT.description()
    del description["spacing_range"]
    model_file.write(tmp_path / "old.safetensors", FLAT.weights, description)
    old = Model.load(tmp_path / "old.safetensors")
    assert (old.spacing, old.spacing_range) == ((0.2, 0.2), None)
    for bad in ([[0.1], [0.2]], [[0.1, 0.1], [0.2, float("nan")]], [[0.1, 0.1]], "x"):
        model_file.write(
            tmp_path / "bad.safetensors", FLAT.weights, description | {"spacing_range": bad}
        )
        with pytest.raises(UserError):
            Model.load(tmp_path / "bad.safetensors")


# -- the mask --------------------------------------------------------------------------------------

TABLE: list[tuple[str, tuple[int, ...], tuple[float, ...], dict[str, Any]]] = [
    ("YX", (130, 170), (0.05, 0.05), {}),
    ("YX", (61, 43), (0.5, 0.5), {"depth": 2}),
    ("YX", (90, 80), (0.31, 0.12), {"norm": "none"}),
    ("CYX", (2, 90, 110), (0.07, 0.07), {"in_channels": 2}),
    ("TYXS", (2, 70, 60, 3), (0.3, 0.3), {"in_channels": 3, "depth": 2}),
    ("TZYX", (2, 6, 80, 50), (0.9, 0.1, 0.1), {"dims": 3, "depth": 1}),
    ("ZYX", (30, 60, 64), (0.2, 0.05, 0.1), {"dims": 3, "depth": 2, "strides": ((1, 2, 2),)}),
]
BLENDED: list[tuple[str, tuple[int, ...], tuple[float, ...], dict[str, Any]]] = [
    ("YX", (120, 90), (0.1, 0.1), {"norm": "group"}),
    ("YX", (80, 70), (0.45, 0.45), {"norm": "instance", "width": 6}),
    ("ZYX", (12, 60, 30), (0.4, 0.1, 0.1), {"dims": 3, "depth": 2, "norm": "group"}),
]


def case(
    axes: str, shape: tuple[int, ...], sizes: tuple[float, ...], net: dict[str, Any]
) -> tuple[Model, Stack]:
    model = trained_at(random_model(1, (2, 7), **{"depth": 3, "width": 4, **net}), 0.2)
    return model, sized(noise(shape), axes, *sizes)


def whole_probabilities(model: Model, stack: Stack) -> np.ndarray:
    """The network on each whole plane or volume, resampled whole to its voxels and back."""
    resampling = fit_spacing(model, stack, match=True).resampling
    assert resampling is not None
    there = tuple(slice(0, n) for n in resampling.resampled)
    out = np.empty((len(model.classes.numbers), *stack.grid_shape), np.float32)
    for plane in stack.planes(model.dims):
        image = read_scaled(stack, plane, there, model.normalization, resampling)
        with torch.inference_mode():
            shares = torch.softmax(model.network()(torch.from_numpy(image)[None])[0], 0).numpy()
        here = stack.whole(model.dims)
        out[(slice(None), *plane)] = resampling.bring_back(shares, there, here)
    return out


@pytest.mark.parametrize(("axes", "shape", "sizes", "net"), TABLE)
def test_tiles_are_the_mask_of_the_whole_image_at_the_size_of_the_model(
    axes: str, shape: tuple[int, ...], sizes: tuple[float, ...], net: dict[str, Any]
) -> None:
    model, stack = case(axes, shape, sizes, net)
    whole = whole_probabilities(model, stack)
    for tile in (24, 64):
        settings = MATCH.model_copy(update={"tile": tile})
        events: list[Any] = []
        found = predict_probabilities(model, stack, settings, on_event=events.append)
        assert len(of_kind(events, Notice)) == 1
        assert np.abs(found - whole).max() < 1e-4
        tiles = of_kind(events, TilePredicted)
        assert [e.done for e in tiles] == list(range(1, tiles[0].total + 1))
        seen = np.zeros(stack.grid_shape, int)
        for event in tiles:
            seen[event.index] += 1
        assert (seen == 1).all()
    np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-5)
    mask = predict(model, stack, settings)
    np.testing.assert_array_equal(mask, model.classes.decode(found.argmax(0)))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_unetseg.inference.large.chunk_grid.CHUNK", {2: 1, 3: 1})
    monkeypatch.setattr("napari_unetseg.inference.large.chunk_grid.BLENDED_CHUNK", {2: 1, 3: 1})


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("axes", "shape", "sizes", "net"), [*TABLE, *BLENDED])
def test_chunks_are_the_mask_of_the_whole_image_at_the_size_of_the_model(
    tmp_path: Path,
    axes: str,
    shape: tuple[int, ...],
    sizes: tuple[float, ...],
    net: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, stack = case(axes, shape, sizes, net)
    monkeypatch.setattr(predict_module, "BLENDED_TILES", 1)
    settings = MATCH.model_copy(update={"tile": 16})
    ome = axes != "TYXS"
    events = stream(model, stack, tmp_path, settings=settings, ome=ome)
    blended = net.get("norm") in ("group", "instance")
    assert len(of_kind(events, Notice)) == 1 + blended
    assert of_kind(events, ChunkPredicted)[-1].total > 3
    if blended:
        whole = predict_probabilities(model, stack, settings)
    else:
        whole = whole_probabilities(model, stack)
    best = np.sort(whole, axis=0)[-2:]
    clear = best[1] - best[0] > 1e-4
    mask = mask_of(tmp_path)[...]
    np.testing.assert_array_equal(mask[clear], model.classes.decode(whole.argmax(0))[clear])
    assert len(np.unique(mask)) > 1


@pytest.mark.usefixtures("small_chunks")
def test_what_was_stopped_goes_on_to_the_same_bytes_and_with_no_other_setting(
    tmp_path: Path,
) -> None:
    model, stack = case("YX", (150, 170), (0.1, 0.1), {})
    settings = MATCH.model_copy(update={"tile": 24})
    stream(model, stack, tmp_path / "once", settings=settings)
    control = JobControl(threads=1)
    for event in _streamed(model, stack, tmp_path / "twice", settings, control):
        if isinstance(event, ChunkPredicted) and event.done == 2:
            control.stop()
    there = sorted((tmp_path / "twice" / "labels" / "mask" / "0" / "c").rglob("*"))
    assert len([f for f in there if f.is_file()]) < 9
    plain = settings.model_copy(update={"match_spacing": False})
    with pytest.raises(UserError, match="with other settings"):
        stream(model, stack, tmp_path / "twice", settings=plain)
    with pytest.raises(UserError, match="with other settings"):
        stream(trained_at(model, 0.201), stack, tmp_path / "twice", settings=settings)
    stream(model, stack, tmp_path / "twice", settings=settings)
    assert tree(tmp_path / "once") == tree(tmp_path / "twice")
    scale = json.loads((tmp_path / "once" / "labels" / "mask" / "zarr.json").read_text())
    (levels,) = scale["attributes"]["ome"]["multiscales"]
    said = levels["datasets"][0]["coordinateTransformations"][0]
    assert said == {"type": "scale", "scale": [0.1, 0.1]}  # the image's, not the model's


def _streamed(model: Model, stack: Stack, folder: Path, settings: Any, control: JobControl) -> Any:
    from napari_unetseg.inference.large.atomic_store import FolderStore
    from napari_unetseg.inference.large.predict_to_zarr import predict_to_zarr

    return predict_to_zarr(model, stack, FolderStore(folder), settings, control=control)


@pytest.mark.parametrize("size", [0.025, 1.6])
def test_memory_does_not_grow_with_a_large_plane(
    tmp_path: Path, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is read at once than a chunk of the network's voxels takes, nor is a chunk larger."""
    model = trained_at(random_model(1, depth=1, width=1), 0.2)
    side = 4200 if size < 0.2 else 700
    monkeypatch.setattr(resample_module, "MOST_VOXELS", 2**19)
    watched = Watched(np.zeros((side, side), np.uint8), most=max(2**19, 700**2))
    grid = Grid.plan(
        model, sized(watched, "YX", size), None, Resampling((side, side), (0.2 / size,) * 2)
    )
    assert np.prod(grid.chunk) * 8 <= 2**28
    reads = []
    for event in predict_events(model, sized(watched, "YX", size), MATCH):
        if isinstance(event, TilePredicted):
            reads.append(event.mask.size)
            if len(reads) == 2:
                break
    assert max(reads) * 8 <= predict_module.PIECE_BYTES
    assert watched.reads


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_with_too_little_memory_it_goes_on_with_smaller_tiles(
    tmp_path: Path, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stack = case("YX", (240, 200), (0.1, 0.1), {"norm": norm, "depth": 2})
    whole = predict_probabilities(model, stack, MATCH)
    monkeypatch.setattr(UNet, "forward", failing(70 * 70))
    events: list[Any] = []
    found = predict_probabilities(model, stack, MATCH, on_event=events.append)
    assert any("Not enough memory" in e.text for e in of_kind(events, Notice))
    if norm == "batch":
        assert np.abs(found - whole).max() < 1e-4
        events = stream(model, stack, tmp_path, settings=MATCH)
        assert any("Not enough memory" in e.text for e in of_kind(events, Notice))
        wanted = model.classes.decode(whole.argmax(0))
        assert (mask_of(tmp_path)[...] != wanted).mean() < 1e-3
    np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-5)


def test_of_a_large_plane_some_places_show_the_range_of_intensities() -> None:
    watched = Watched(np.broadcast_to(np.uint8(7), (10_000, 10_000)), most=700**2)
    stack = sized(watched, "YX", 0.05)
    pieces = list(fit_spacing(FLAT, stack, match=True).seen.probe())
    assert [piece.shape for piece in pieces] == [(1, 512, 512)]
    assert sum(watched.reads) < 0.06 * watched.array.size


def test_huge_volumes_are_cut_into_small_chunks() -> None:
    model = trained_at(random_model(1, depth=2, width=1, dims=3), 0.2)
    for size in (0.025, 0.8):
        stack = sized(np.broadcast_to(np.uint8(0), (5000, 5000, 5000)), "ZYX", size)
        fitted = fit_spacing(model, stack, match=True)
        grid = Grid.plan(model, stack, None, fitted.resampling)
        inner = [s.stop - s.start for s in grid.seen(grid.place(len(grid) // 2)[1])]
        assert np.prod(grid.chunk) * 8 <= 2**28
        assert np.prod(inner) * 8 <= 2**28


def test_the_range_of_intensities_is_that_of_the_pixels_that_the_network_sees() -> None:
    """Fine pixels are noisy: their percentiles are not those of pixels four times as wide."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 50, (400, 400)).astype(np.float32)
    normalization = Normalization((0.0,), (1.0,), (0.5,), per_image=True)
    model = trained_at(replace(random_model(1, depth=1, width=2), normalization=normalization), 0.2)
    stack = sized(image, "YX", 0.05)
    seen = fit_spacing(model, stack, match=True).seen
    own, fine = (normalization.for_stack(s)[0] for s in (seen, stack))
    assert own.high[0] - own.low[0] < 0.4 * (fine.high[0] - fine.low[0])
    wanted = predict_probabilities(replace(model, normalization=own), stack, MATCH)
    np.testing.assert_array_equal(predict_probabilities(model, stack, MATCH), wanted)


def test_the_mask_on_screen_has_the_range_of_the_pixel_size_that_its_layer_has_now() -> None:
    """A scale that was wrong may be put right at any time."""
    pixels = Watched(np.random.default_rng(0).normal(100, 50, (200, 200)), most=10**6)
    model = trained_at(random_model(1, depth=1, width=2), 0.2)
    model = replace(model, normalization=replace(model.normalization, per_image=True))
    ranges = ImageRanges()
    for size in (0.2, 0.05):
        screen, stack = ViewportState(), sized(pixels, "YX", size)
        screen.view = Viewport("layer", stack, (), "auto")
        work = ViewportTask(model, screen, "cpu", frozenset(), ranges=ranges)
        mask = np.zeros((200, 200), np.uint8)
        for tile in of_kind(work(JobControl(1)), TilePredicted):
            mask[tile.region] = tile.mask
        np.testing.assert_array_equal(mask, predict(model, stack, MATCH))


# -- where it lies, and what it is worth -----------------------------------------------------------


@pytest.fixture(scope="module")
def discs() -> Model:
    """A model of bright discs of 6 pixels, trained at 0.2 µm."""
    pairs = []
    for seed in range(2):
        image, truth = _discs(96, 6.0, seed)
        pairs.append(AnnotatedImage(sized(image, "YX", 0.2), truth, LabelKind.FULL))
    model, _ = run_training(pairs, tiny(steps=80, width=8, depth=3))
    return model


def _discs(side: int, radius: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Discs with a dark middle, so that a mask by brightness alone is wrong, and their truth."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:side, :side]
    truth = np.zeros((side, side), np.uint8)
    image = np.zeros((side, side), np.float32)
    for _ in range(8):
        middle = rng.uniform(0, side, 2)
        distance = np.hypot(rows - middle[0], columns - middle[1])
        truth[distance < radius] = 1
        image += np.exp(-(((distance - 0.7 * radius) / (0.25 * radius)) ** 2))
    scale = radius / 6.0
    image = ndimage.gaussian_filter(image, 0.5 * scale)
    return (image + rng.normal(0, 0.05, image.shape)).astype(np.float32), truth


@pytest.mark.parametrize(("times", "gain"), [(4.0, 0.05), (0.5, -0.01)])
def test_masks_of_resampled_images_lie_where_the_truth_lies(
    discs: Model, times: float, gain: float
) -> None:
    """Smaller discs are found by brightness too."""
    image, truth = _discs(round(96 * times), 6.0 * times, 5)
    stack = sized(image, "YX", 0.2 / times)
    plain, matched = (
        predict(discs, stack, MATCH.model_copy(update={"match_spacing": match}))
        for match in (False, True)
    )
    assert matched.shape == truth.shape
    before, after = (dice(truth > 0, mask > 0) for mask in (plain, matched))
    assert after > before + gain
    assert after > 0.9
    moved = [_dice_moved(truth, matched, axis, step) for axis in (0, 1) for step in (-1, 1)]
    assert after > max(moved)
    labelled = AnnotatedImage(stack, truth, LabelKind.FULL)
    assert evaluate(discs, [labelled], MATCH).scores.mean_dice == pytest.approx(after)
    events: list[Any] = []
    unknown = AnnotatedImage(Stack(image, "YX"), truth, LabelKind.FULL)
    with pytest.raises(UserError, match="size of image is not known"):
        evaluate(discs, [labelled, unknown], MATCH, on_event=events.append)
    assert not events, "it is said before anything is predicted"


def _dice_moved(truth: np.ndarray, mask: np.ndarray, axis: int, step: int) -> float:
    return dice(truth > 0, np.roll(mask, step, axis) > 0)


# -- where to look ---------------------------------------------------------------------------------


def test_the_uncertainty_is_that_of_the_mask_at_the_size_of_the_model() -> None:
    model, stack = case("YX", (64, 80), (0.05, 0.05), {})
    shares = predict_probabilities(model, stack, MATCH)
    wanted = margin_uncertainty(shares)
    np.testing.assert_allclose(uncertainty_map(model, stack, (), MATCH), wanted, atol=1e-4)
    averaged = uncertainty_map(model, stack, (), MATCH, passes=4)
    plain = uncertainty_map(model, stack, (), MATCH.model_copy(update={"match_spacing": False}))
    assert np.abs(averaged - wanted).mean() < np.abs(plain - wanted).mean()
    glance = RegionPredictor(model, stack, "cpu", match_spacing="auto")
    window = glance.image((), stack.whole(2))
    np.testing.assert_allclose(glance.predict(window), shares, atol=1e-4)
