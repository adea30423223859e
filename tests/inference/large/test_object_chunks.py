"""Objects of outputs of any size: tiled = whole, after kills, by several workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from large_parts import SMALL, ids_of, mask_of, object_model, smooth, stream, tree

from napari_unetseg import predict_objects
from napari_unetseg.core.events import ChunkPredicted
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.object_maps import FULL_SCALE
from napari_unetseg.core.settings import ObjectSettings
from napari_unetseg.data.object_ids import find_objects
from napari_unetseg.inference.large import chunk_grid, object_chunks
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.chunk_task import Predicted
from napari_unetseg.inference.large.predict_to_zarr import predict_to_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_unetseg.core.events import Event
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.inference.large.output import Output
    from napari_unetseg.models.model import Model

TILE = {2: 32, 3: 16}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_grid, "CHUNK", TILE)


def tiled(model: Model) -> PredictSettings:
    return SMALL.model_copy(update={"tile": TILE[model.dims]})


CASES = [
    pytest.param(object_model(), (150, 130), "YX", id="2D"),
    pytest.param(object_model(maps=False), (150, 130), "YX", id="2D, necks"),
    pytest.param(object_model(), (3, 70, 50), "TYX", id="planes"),
    pytest.param(
        object_model(numbers=(1, 2, 5), objects=(1, 5)), (150, 130), "YX", id="structures"
    ),
    pytest.param(object_model(3), (36, 50, 40), "ZYX", id="3D"),
    pytest.param(object_model(3, maps=False), (2, 36, 34, 40), "TZYX", id="3D, necks"),
]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("model", "shape", "axes"), CASES)
def test_objects_of_chunks_are_those_of_the_whole(
    tmp_path: Path, model: Model, shape: tuple[int, ...], axes: str
) -> None:
    spacing = tuple(2.0 if a == "Z" else 1.0 for a in axes)
    stack = Stack(smooth(shape), axes, spacing)
    events = stream(model, stack, tmp_path, settings=tiled(model))
    chunks = [e for e in events if isinstance(e, ChunkPredicted)]
    assert chunks[-1].done == chunks[-1].total >= 4 * 8
    assert [e.done for e in chunks] == sorted(e.done for e in chunks)
    ids = ids_of(tmp_path)
    whole = predict_objects(model, stack, SMALL)
    np.testing.assert_array_equal(ids, whole)
    assert ids.dtype == "uint16"
    assert 10 < len(np.unique(ids)) - 1 == ids.max()
    crossing = sum(
        len(set(np.unique(a)) & set(np.unique(b))) > 1 for a, b in borders(ids, model.dims)
    )
    assert crossing >= len(shape[-model.dims :])
    inside = np.isin(mask_of(tmp_path)[...], model.classes.objects)
    assert not ids[~inside].any()
    assert (ids[inside] > 0).mean() > 0.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels", "zarr.json"]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("model", "shape", "axes"), CASES)
def test_objects_at_the_rim_are_left_out_whatever_chunks_they_cross(
    tmp_path: Path, model: Model, shape: tuple[int, ...], axes: str
) -> None:
    spacing = tuple(2.0 if a == "Z" else 1.0 for a in axes)
    stack = Stack(smooth(shape), axes, spacing)
    stream(model, stack, tmp_path, settings=tiled(model), rim_objects=False)
    ids, every = ids_of(tmp_path), predict_objects(model, stack, SMALL)
    planes = [(Ellipsis, side, slice(None)) for side in (0, -1)]
    planes += [(Ellipsis, side) for side in (0, -1)]
    at_rim = np.unique(np.concatenate([every[plane].ravel() for plane in planes]))
    assert 3 < len(at_rim) < every.max()
    np.testing.assert_array_equal(ids > 0, ~np.isin(every, [0, *at_rim]))
    np.testing.assert_array_equal(np.unique(ids), range(len(np.unique(ids))))
    kept = np.unique(every[ids > 0])
    np.testing.assert_array_equal(ids[ids > 0], 1 + np.searchsorted(kept, every[ids > 0]))
    np.testing.assert_array_equal(ids, predict_objects(model, stack, SMALL, rim_objects=False))


def borders(ids: np.ndarray, dims: int) -> Any:
    """The planes on both sides of the first border between chunks along each axis."""
    for axis in range(ids.ndim - dims, ids.ndim):
        edge = TILE[dims] if ids.shape[axis] > TILE[dims] else ids.shape[axis] // 2
        yield np.take(ids, edge - 1, axis), np.take(ids, edge, axis)


@pytest.mark.usefixtures("small_chunks")
def test_a_stop_at_any_chunk_and_a_further_call_give_the_same_bytes(tmp_path: Path) -> None:
    model, stack = object_model(), Stack(smooth((80, 90)), "YX")
    stream(model, stack, tmp_path / "at once", settings=tiled(model))
    wanted = tree(tmp_path / "at once")
    total, stop = 0, 0
    while not total or stop < total:
        control, store = JobControl(1), FolderStore(tmp_path / "stopped")
        for event in predict_to_zarr(model, stack, store, tiled(model), control=control):
            if isinstance(event, ChunkPredicted):
                total = event.total
                if event.done >= stop:
                    control.stop()
        stop += 5
    stream(model, stack, tmp_path / "stopped", settings=tiled(model))
    assert tree(tmp_path / "stopped") == wanted


KILLED = """
import sys
from pathlib import Path
from large_parts import *
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.inference.large import chunk_grid
chunk_grid.CHUNK = {2: 32, 3: 16}
model, stack = object_model(), Stack(smooth((80, 90)), "YX")
print("begin", flush=True)
stream(model, stack, Path(sys.argv[1]), settings=SMALL.model_copy(update={"tile": 32}))
print("end", flush=True)
"""


def test_after_kills_at_any_moment_the_same_bytes_are_there(tmp_path: Path) -> None:
    model, stack = object_model(), Stack(smooth((80, 90)), "YX")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_grid, "CHUNK", TILE)
        stream(model, stack, tmp_path / "at once", settings=tiled(model))
    out, files, kills = tmp_path / "killed", 0, 0
    while True:
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(out)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begin\n"
            goal = files + 9
            while process.poll() is None and files < goal:
                files = sum(len(names) for _, _, names in os.walk(out))
                time.sleep(0.001)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            elif process.stdout.readline() == "end\n":
                break
    assert kills > 3
    assert tree(out) == tree(tmp_path / "at once")


@pytest.mark.parametrize("overlap", [1, 16])
@pytest.mark.parametrize("seed", range(6))
def test_any_mask_and_maps_give_the_same_numbers_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, overlap: int
) -> None:
    """Noise of few levels: plateaus, ties and hills across every border, in two structures."""
    rng = np.random.default_rng(seed)
    shape = (61, 50) if seed % 2 else (23, 19, 25)
    dims = len(shape)
    mask = rng.choice([0, 1, 2], shape, p=(0.2, 0.6, 0.2)).astype(np.uint8)
    levels = int(rng.integers(2, 60))
    maps = (rng.integers(0, levels, (2, *shape)) * (254 // (levels - 1))).astype(np.uint8)
    how = ObjectSettings(
        prominence=rng.choice([0.0, 0.1, 0.4]), smoothing=rng.choice([0.0, 0.6]), smallest=2
    )
    model = replace(object_model(dims, numbers=(1, 2), objects=(1, 2)), object_settings=how)
    monkeypatch.setattr(chunk_grid, "CHUNK", {2: 8, 3: 8})
    monkeypatch.setattr(object_chunks, "OVERLAP", {2: overlap, 3: overlap})

    def given(output: Output, _: Any, __: Any, control: JobControl) -> Iterator[Event]:
        for number in range(len(output.plan.grid)):
            place = output.plan.grid.place(number)[1]
            output.write(number, Predicted(mask[place], None, None, maps[(slice(None), *place)]))
        yield from object_chunks.number_objects(output, control)

    stack = Stack(np.zeros(shape, np.float32), "ZYX"[-dims:])
    settings = SMALL.model_copy(update={"tile": 8})
    stream(model, stack, tmp_path, settings=settings, chunks=given)
    whole = find_objects(mask, maps.astype(np.float32) / FULL_SCALE, [1, 2], how, (1.0,) * dims)
    np.testing.assert_array_equal(ids_of(tmp_path), whole)
    assert whole.max() > 3
