"""Streamed prediction: the same mask, chunk by chunk, in bounded memory; it can be killed."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from helpers import Watched, of_kind, random_model
from large_parts import SMALL, mask_of, noise, stream, tree

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Notice
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large import output_plan as plan_module
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.chunk_grid import Grid
from napari_unetseg.inference.large.pipeline import overlapped
from napari_unetseg.inference.large.predict_to_zarr import make_plan, predict_to_zarr
from napari_unetseg.inference.predict import predict, predict_probabilities
from napari_unetseg.models.model import Model


def stored(array: np.ndarray, chunks: tuple[int, ...]) -> Any:
    """The array as a lazy Zarr one in memory."""
    found = zarr.create_array(
        zarr.storage.MemoryStore(), shape=array.shape, dtype=array.dtype, chunks=chunks
    )
    found[:] = array
    return found


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one tile, so that small images have many."""
    monkeypatch.setattr("napari_unetseg.inference.large.chunk_grid.CHUNK", {2: 1, 3: 1})
    monkeypatch.setattr("napari_unetseg.inference.large.chunk_grid.BLENDED_CHUNK", {2: 1, 3: 1})


# -- the mask --------------------------------------------------------------------------------------

TABLE: list[tuple[tuple[int, ...], str, dict[str, Any]]] = [
    ((1, 1), "YX", {}),
    ((7, 300), "YX", {"depth": 2}),
    ((201, 190), "YX", {}),
    ((201, 190), "YX", {"norm": "group"}),
    ((190, 201), "YX", {"norm": "instance", "width": 6}),
    ((2, 3, 70, 90), "TZYX", {"norm": "none"}),
    ((2, 10, 130, 40), "TZYX", {"dims": 3, "depth": 2}),
    ((10, 130, 40), "ZYX", {"dims": 3, "depth": 2, "norm": "group"}),
]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("shape", "axes", "net"), TABLE)
@pytest.mark.parametrize("numbers", [(1,), (2, 7)])
def test_chunks_are_the_mask_of_the_whole_image(
    tmp_path: Path, shape: tuple[int, ...], axes: str, net: dict[str, Any], numbers: tuple[int, ...]
) -> None:
    model = random_model(1, numbers, **{"depth": 3, "width": 4, **net})
    image = noise(shape)
    lazy = stored(image, (*(1 for _ in shape[:-2]), 32, 32))
    events = stream(model, Stack(lazy, axes), tmp_path)
    mask = mask_of(tmp_path)
    assert mask.dtype == np.uint8
    if max(shape) > 150:
        assert len(of_kind(events, ChunkPredicted)) > 3
    shares = predict_probabilities(model, Stack(image, axes), SMALL)
    best = np.sort(shares, axis=0)[-2:]
    differ = mask[...] != model.classes.decode(shares.argmax(0))
    if net.get("dims") == 3 and net.get("norm") != "group":  # here chunks are exact, not blended
        whole = predict_probabilities(model, Stack(image, axes), PredictSettings(tile=512))
        best = np.sort(whole, axis=0)[-2:]
        differ = mask[...] != model.classes.decode(whole.argmax(0))
    assert not differ[best[1] - best[0] > 1e-4].any()
    assert of_kind(events, ChunkPredicted)[-1].done == of_kind(events, ChunkPredicted)[-1].total
    blended = "norm" in net and net["norm"] != "none"
    assert bool(of_kind(events, Notice)) == blended


def test_channels_and_ranges_of_other_bit_depths(tmp_path: Path) -> None:
    model = random_model(1, in_channels=2, depth=2, width=4)
    image = (noise((3, 2, 80, 90)) * 60_000).astype(np.uint16)
    stack = Stack(image, "ZCYX")
    events = stream(model, stack, tmp_path)
    (notice,) = of_kind(events, Notice)
    assert "own percentiles" in notice.text
    np.testing.assert_array_equal(mask_of(tmp_path)[...], predict(model, stack, SMALL))


def test_an_image_that_does_not_fit_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    model = random_model(1, in_channels=3, depth=1, width=1)
    with pytest.raises(UserError, match="needs 3 channel"):
        stream(model, Stack(noise((20, 20)), "YX"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["float16", "uint8"])
@pytest.mark.parametrize("axes", ["YX", "ZYX", "TZYX"])
def test_probabilities_are_an_image_around_the_mask(tmp_path: Path, kind: Any, axes: str) -> None:
    model = random_model(1, (3, 4), depth=2, width=4)
    image = noise((2, 2, 70, 130)[-len(axes) :])
    stream(model, Stack(image, axes), tmp_path, probabilities=kind)
    found = zarr.open_group(str(tmp_path), mode="r")
    wanted = np.moveaxis(predict_probabilities(model, image, SMALL), 0, "T" in axes)
    scale = 255 if kind == "uint8" else 1
    assert np.abs(np.asarray(found["0"][...], float) / scale - wanted).max() < 0.003
    said = found.attrs["ome"]
    assert "".join(a["name"] for a in said["multiscales"][0]["axes"]) == axes.lower().replace(
        "zyx", "czyx"
    ).replace("yx", "cyx" if axes == "YX" else "yx")
    assert [c["label"] for c in said["omero"]["channels"]] == list(model.classes.names)
    label = zarr.open_group(str(tmp_path / "labels" / "mask"), mode="r").attrs["ome"]
    assert label["image-label"]["source"] == {"image": "../../"}


# -- metadata --------------------------------------------------------------------------------------


def test_spacing_units_axes_names_and_colours_are_in_the_metadata(tmp_path: Path) -> None:
    model = random_model(1, (1, 3), depth=2, width=2)
    spacing, units = (3.0, 0.0, 0.5, 0.25), ("s", "pixel", "um", "nm")
    stack = Stack(noise((2, 1, 20, 24)), "TCYX", spacing, units, name="cells")
    stream(model, stack, tmp_path)
    labels = json.loads((tmp_path / "labels" / "zarr.json").read_text())
    assert labels["attributes"]["ome"] == {"version": "0.5", "labels": ["mask"]}
    said = json.loads((tmp_path / "labels" / "mask" / "zarr.json").read_text())["attributes"]["ome"]
    (scales,) = said["multiscales"]
    assert scales["name"] == "cells"
    assert scales["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "nanometer"},
    ]
    (level,) = scales["datasets"]
    assert level["coordinateTransformations"] == [
        {"type": "scale", "scale": [3.0, 0.5, 0.25]},
        {"type": "translation", "translation": [0.0, 0.0, 0.0]},
    ]
    assert said["image-label"]["colors"][1] == {"label-value": 3, "rgba": [0, 158, 115, 255]}
    assert said["image-label"]["properties"][1] == {"label-value": 3, "name": "structure 3"}
    assert "source" not in said["image-label"]
    array = json.loads((tmp_path / "labels" / "mask" / "0" / "zarr.json").read_text())
    assert array["dimension_names"] == ["t", "y", "x"]


def test_levels_hold_every_second_voxel(tmp_path: Path) -> None:
    model = random_model(1, depth=1, width=2)
    stack = Stack(noise((2, 1301, 700)), "ZYX", (2.0, 0.5, 0.5))
    stream(model, stack, tmp_path, settings=PredictSettings(threads=1))
    whole = mask_of(tmp_path)[...]
    assert whole.any()
    np.testing.assert_array_equal(mask_of(tmp_path, 1)[...], whole[:, ::2, ::2])
    np.testing.assert_array_equal(mask_of(tmp_path, 2)[...], whole[:, ::4, ::4])
    assert not (tmp_path / "labels" / "mask" / "3").exists()
    said = zarr.open_group(str(tmp_path / "labels" / "mask"), mode="r").attrs["ome"]
    scales = [
        d["coordinateTransformations"][0]["scale"] for d in said["multiscales"][0]["datasets"]
    ]
    assert scales == [[2.0, 0.5, 0.5], [2.0, 1.0, 1.0], [2.0, 2.0, 2.0]]


def test_labels_go_into_an_image_beside_others_and_leave_them_alone(tmp_path: Path) -> None:
    image = zarr.open_group(str(tmp_path), mode="w", attributes={"ome": {"multiscales": []}})
    image.create_array("0", data=noise((40, 50)))
    image.create_group("labels", attributes={"ome": {"version": "0.5", "labels": ["by hand"]}})
    image.create_group("labels/by hand", attributes={"mine": 1})
    before = tree(tmp_path)
    model = random_model(1, depth=1, width=2)
    stack = Stack(zarr.open_array(str(tmp_path / "0"), mode="r"), "YX")
    stream(model, stack, tmp_path)
    after = tree(tmp_path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"labels/zarr.json"}
    assert image["labels"].attrs["ome"]["labels"] == ["by hand", "mask"]
    with pytest.raises(UserError, match="was not made by this program") as raised:
        stream(model, stack, tmp_path, name="by hand", overwrite=True)
    assert str(raised.value).startswith(str(tmp_path / "labels" / "by hand"))
    with pytest.raises(UserError, match="probabilities cannot be stored"):
        stream(model, stack, tmp_path, probabilities="uint8")


def test_an_older_ome_zarr_is_left_alone(tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path), mode="w", zarr_format=2)
    with pytest.raises(UserError, match=r"is OME-Zarr 0\.4"):
        stream(random_model(1, depth=1, width=1), Stack(noise((9, 9)), "YX"), tmp_path)


def test_axes_that_ome_zarr_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="save masks as TIFF"):
        stream(random_model(1, depth=1, width=1), Stack(noise((2, 2, 9, 9)), "PTYX"), tmp_path)


# -- going on --------------------------------------------------------------------------------------


class Dies(BaseException):
    """A kill that a test can catch."""


def dying(stack: Stack, reads: int) -> Stack:
    """The stack, whose array dies after so many reads."""

    class Array:
        shape, dtype = stack.data.shape, stack.data.dtype
        left = reads

        def __getitem__(self, index: Any) -> np.ndarray:
            self.left -= 1
            if self.left < 0:
                raise Dies
            return np.asarray(stack.data[index])

    return Stack(Array(), stack.axes, name=stack.name)


@pytest.mark.usefixtures("small_chunks")
def test_what_was_begun_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    model = random_model(1, depth=2, width=4)
    stack = Stack(noise((3, 130, 140)), "ZYX")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    stream(model, stack, whole, probabilities="float16")
    done: list[int] = []
    for reads in (8, 9, 8):
        events = predict_to_zarr(
            model, dying(stack, reads), FolderStore(pieces), SMALL, probabilities="float16"
        )
        with pytest.raises(Dies):
            done.extend(e.done for e in events if isinstance(e, ChunkPredicted))
        partial = pieces / "labels" / "mask" / "0" / "c" / "0" / "0"
        (partial / ".1-a1b2c3d4").write_bytes(b"half a chunk")  # of a kill within a write
    events = stream(model, stack, pieces, probabilities="float16")
    done += [e.done for e in of_kind(events, ChunkPredicted)]
    assert len(done) > len(set(done)) - 1
    assert sorted(set(done[:-1])) == sorted(done[:-1]), "a chunk was predicted twice"
    assert tree(pieces) == tree(whole)


@pytest.mark.usefixtures("small_chunks")
def test_an_empty_chunk_is_a_file_and_is_not_predicted_again(tmp_path: Path) -> None:
    model = random_model(1, depth=1, width=2)
    model.weights["head.bias"].fill_(-100.0)
    stack = Stack(noise((130, 140)), "YX")
    stream(model, stack, tmp_path)
    assert not mask_of(tmp_path)[...].any()
    files = [p for p in (tmp_path / "labels" / "mask" / "0" / "c").rglob("*") if p.is_file()]
    assert len(files) == 4
    (said,) = of_kind(stream(model, stack, tmp_path), ChunkPredicted) or [None]
    assert said is None


def test_a_stop_keeps_what_was_predicted(tmp_path: Path) -> None:
    model = random_model(1, depth=2, width=4)
    stack = Stack(noise((6, 64, 64)), "ZYX")
    control = JobControl(threads=1)
    events = predict_to_zarr(model, stack, FolderStore(tmp_path), SMALL, control=control)
    seen = 0
    for event in events:
        seen += isinstance(event, ChunkPredicted)
        control.stop()
    there = sum(p.is_file() for p in (tmp_path / "labels" / "mask" / "0" / "c").rglob("*"))
    assert seen == there < 6
    stream(model, stack, tmp_path)
    np.testing.assert_array_equal(mask_of(tmp_path)[...], predict(model, stack, SMALL))


def variants() -> Iterator[Any]:
    model = random_model(1, depth=1, width=2)
    other = random_model(2, depth=1, width=2)
    named = Model(**{**vars(model), "normalization": Normalization((0.1,), (1.0,), (0.5,))})
    stack, changed = Stack(noise((40, 50)), "YX"), Stack(noise((40, 50), 1), "YX")
    yield pytest.param(model, other, stack, stack, {}, "another model", id="model")
    yield pytest.param(model, named, stack, stack, {}, "the same model with other", id="scaling")
    yield pytest.param(model, model, stack, changed, {}, "another image", id="image")
    tile = {"settings": PredictSettings(tile=16, threads=1)}
    yield pytest.param(model, model, stack, stack, tile, "other settings", id="tile")
    shares = {"probabilities": "uint8"}
    yield pytest.param(model, model, stack, stack, shares, "other settings", id="probabilities")


@pytest.mark.parametrize(("first", "second", "stack", "other", "more", "said"), list(variants()))
def test_another_model_image_or_setting_is_refused_unless_told(
    tmp_path: Path, first: Model, second: Model, stack: Stack, other: Stack, more: Any, said: str
) -> None:
    stream(first, stack, tmp_path / "a")
    before = tree(tmp_path / "a")
    with pytest.raises(UserError, match=said):
        stream(second, other, tmp_path / "a", **more)
    assert tree(tmp_path / "a") == before
    stream(second, other, tmp_path / "a", overwrite=True, **more)
    stream(second, other, tmp_path / "b", **more)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    stream(first, stack, tmp_path / "a", overwrite=True)
    assert tree(tmp_path / "a") == before


def test_a_mask_of_another_version_of_the_program_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may scale images in another way, so that a mask would be half of one and half of other."""
    model, stack = random_model(1, depth=1, width=2), Stack(noise((40, 50)), "YX")
    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "METHOD", 0)
        digest = make_plan(model, stack, SMALL).digest
        stream(model, stack, tmp_path)
    assert make_plan(model, stack, SMALL).digest != digest
    with pytest.raises(UserError, match="by another version of this program"):
        stream(model, stack, tmp_path)


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_is_a_sentence_and_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(1, depth=2, width=4)
    stack = Stack(noise((4, 64, 70)), "ZYX")
    real, calls = os.fsync, [0]

    def fsync(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(UserError, match=r"full; free some space.* Start it again to continue"):
        stream(model, stack, tmp_path / "a")
    monkeypatch.setattr("os.fsync", real)
    assert not list((tmp_path / "a").rglob(".*"))
    events = of_kind(stream(model, stack, tmp_path / "a"), ChunkPredicted)
    assert 1 < events[0].done
    stream(model, stack, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


# -- memory ----------------------------------------------------------------------------------------


class Endless:
    """An image of any size that is made when it is read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype(np.uint8)
        self.most = self.read = 0

    def __getitem__(self, index: Any) -> np.ndarray:
        shape = [
            len(range(n)[i]) for i, n in zip(index, self.shape, strict=True) if isinstance(i, slice)
        ]
        piece = np.full(shape, 7, np.uint8)
        self.most, self.read = max(self.most, piece.size), self.read + piece.size
        return piece


@pytest.mark.parametrize("shape", [(10**6, 3000, 2000), (10**6, 10**6)])
def test_a_grid_of_any_size_is_planned_at_once_and_read_little(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    model = random_model(1, depth=3, width=2)
    array = Endless(shape)
    stack = Stack(array, "ZYX"[-len(shape) :])
    events = predict_to_zarr(model, stack, FolderStore(tmp_path), PredictSettings(threads=1))
    first = next(e for e in events if isinstance(e, ChunkPredicted))
    events.close()
    assert first.done == 1
    assert first.total > 10**5
    assert array.most < 1200 * 1200
    assert array.read < 30e6
    assert not [t for t in threading.enumerate() if t.name.startswith("unetseg")]


def test_what_is_read_at_once_does_not_grow_with_the_stack(tmp_path: Path) -> None:
    model = random_model(1, depth=2, width=2)
    peaks = []
    for planes in (2, 12):
        watched = Watched(np.zeros((planes, 80, 90), np.uint8), most=80 * 90)
        stream(model, Stack(watched, "ZYX"), tmp_path / str(planes))
        peaks.append(watched.peak)
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize("net", [{}, {"norm": "group"}])
def test_memory_that_runs_out_makes_tiles_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: dict[str, Any]
) -> None:
    model = random_model(1, depth=3, width=4, **net)
    stack = Stack(noise((200, 150)), "YX")
    from napari_unetseg.inference.predictor import Predictor

    real = Predictor.infer

    def infer(self: Predictor, image: np.ndarray) -> np.ndarray:
        if image.shape[-1] > 90:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, image)

    monkeypatch.setattr(Predictor, "infer", infer)
    settings = PredictSettings(tile=96, threads=1)
    if net:
        with pytest.raises(UserError, match="choose smaller tiles"):
            stream(model, stack, tmp_path, settings=settings)
        return
    events = stream(model, stack, tmp_path, settings=settings)
    assert "smaller tiles" not in "".join(n.text for n in of_kind(events, Notice))
    assert "continuing with tiles of" in of_kind(events, Notice)[0].text
    monkeypatch.undo()
    shares = predict_probabilities(model, stack, settings)
    clear = np.abs(shares[0] - shares[1]) > 1e-4
    wanted = model.classes.decode(shares.argmax(0))
    np.testing.assert_array_equal(mask_of(tmp_path)[...][clear], wanted[clear])


def test_an_edge_is_chosen_that_reads_little_around_it() -> None:
    model = random_model(1, dims=3, depth=3, width=2)
    volume = Stack(Endless((500, 4000, 4000)), "ZYX")
    grid = Grid.plan(model, volume)
    assert max(grid.tile) > 96
    assert not grid.blended
    flat = Grid.plan(random_model(1, depth=3, width=2), volume)
    assert flat.chunks == (1, 1000, 1000)
    assert len(flat) == 500 * 16
    region = [flat.place(n) for n in (0, 15, len(flat) - 1)]
    assert region[1] == ((0,), (slice(3000, 4000), slice(3000, 4000)))
    assert region[2][0] == (499,)


# -- overlapping -----------------------------------------------------------------------------------


def test_steps_overlap_in_order_and_few_wait() -> None:
    """Reading goes on while work waits for it, and writing while work goes on."""
    read_ahead, written = threading.Event(), threading.Event()
    reading: list[int] = []

    def read(task: int) -> int:
        reading.append(task)
        if task == 1:
            read_ahead.set()
        return task * 10

    def work(task: int, value: int) -> int:
        if task == 0:
            assert read_ahead.wait(20), "nothing was read while work went on"
        if task == 2:
            assert written.wait(20), "nothing was written while work went on"
        assert len(reading) <= task + 4
        return value + 1

    results: list[tuple[int, int]] = []

    def write(task: int, value: int) -> None:
        results.append((task, value))
        written.set()

    assert list(overlapped(range(20), read, work, write)) == list(range(20))
    assert results == [(n, 10 * n + 1) for n in range(20)]


@pytest.mark.parametrize("step", ["read", "work", "write"])
def test_an_error_of_any_step_ends_all_of_them(step: str) -> None:
    def fails(name: str) -> Callable[..., Any]:
        def call(task: int, *_: Any) -> int:
            if name == step and task == 3:
                raise ValueError(name)
            return task

        return call

    with pytest.raises(ValueError, match=step):
        list(overlapped(range(9), fails("read"), fails("work"), fails("write")))
    assert not [t for t in threading.enumerate() if t.name.startswith("unetseg")]
