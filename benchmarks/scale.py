"""Prediction of stacks that are larger than memory: memory, throughput, the whole walk, and peers.

The stacks are those of `stacks.py`: they declare up to 100 GB and lie in some 100 MB. Masks go to a
store that counts and discards. Each measurement is a process of its own; sizes take turns.

    python benchmarks/scale.py FOLDER [--sizes 1,100] [--turns 3] [--whole] [--json FILE]

- *memory*: peak of the process, with the smallest network, over a stretch of ``--seconds``
- *rate*: a network of the default size, the engine and the network alone on the same tiles in
  memory in turn, chunk by chunk, so that a busy machine is busy for both
- *whole* (``--whole``): every chunk of the largest stack with the smallest network, then its
  smaller levels
- *peers*: the network of the rate through MONAI's sliding window and ``dask.array.map_overlap``

The peers come from ``pip install 'napari-unetseg[bench]'``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stacks import make_stack, n_planes
from watch import machine, write_json
from zarr.storage import MemoryStore

from napari_unetseg import sample
from napari_unetseg.core.events import ChunkPredicted
from napari_unetseg.core.image_stack import Normalization
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import Classes, Structure
from napari_unetseg.core.settings import NetSettings, PredictSettings
from napari_unetseg.inference.large.chunk_task import ChunkPredictor
from napari_unetseg.inference.large.predict_to_zarr import make_plan, predict_to_zarr
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.models.model import Model
from napari_unetseg.models.registry import build

GB = 1e9
SMALLEST = {"depth": 1, "width": 1}
DEFAULT: dict[str, int] = {}
MEGA = 1e6
Row = dict[str, Any]


class Discarding(MemoryStore):
    """Counts the chunks that it is given and keeps none but the last of each array.

    That one is the answer where any chunk of the array is read again, for the smaller levels.

    Parameters
    ----------
    complete
        Chunks of full resolution are all there, without having been written.
    """

    def __init__(self, *, complete: bool = False) -> None:
        super().__init__()
        self.chunks = self.bytes = 0
        self._there: set[int] = set()
        self._last: dict[str, Any] = {}
        self._complete = complete

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        """Count a chunk, keep metadata."""
        if "/c/" not in key:
            await super().set(key, value, byte_range)
            return
        self.chunks, self.bytes = self.chunks + 1, self.bytes + len(value)
        self._there.add(hash(key))
        self._last[key.split("/c/")[0]] = value

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """A chunk that was written last, or metadata."""
        if "/c/" not in key:
            return await super().get(key, prototype, byte_range)
        return self._last.get(key.split("/c/")[0])

    def has(self, key: str) -> bool:
        """Whether a key was written."""
        if self._complete and key.startswith("labels/mask/0/c/"):
            return True
        return hash(key) in self._there or key in self._store_dict

    def tidy(self, prefix: str) -> None:
        """There is nothing to take away."""


def make_model(net: dict[str, int]) -> Model:
    """A network with random weights that finds its structure in a fifth of the sample's voxels."""
    settings, image = NetSettings(**net), torch.from_numpy(sample.nuclei2d()[0][0] / 120.0)
    for seed in range(100):
        torch.manual_seed(seed)
        network = build(settings).eval()
        with torch.no_grad():
            logits = network(image[None, None].float())
            network.head.bias.sub_(logits.quantile(0.8))
        if logits.std() > 0.01:  # else a network of one feature may say the same everywhere
            break
    return Model(
        net=settings,
        weights={k: v.clone() for k, v in network.state_dict().items()},
        classes=Classes((Structure(1),), True),
        channels=("channel 1",),
        normalization=Normalization((0.0,), (120.0,), (30.0,)),
        spacing=(1.0, 1.0),
        units=("pixel", "pixel"),
    )


# -- in a process of their own ---------------------------------------------------------------------


def memory(path: Path, threads: int, seconds: float) -> Row:
    """Predict for so long, or to the end."""
    return _walk(path, threads, seconds, Discarding())


def levels(path: Path, threads: int, seconds: float) -> Row:
    """Only the smaller levels of a mask whose chunks are all there."""
    store = Discarding(complete=True)
    store._last["labels/mask/0"] = _a_chunk(path)
    return _walk(path, threads, seconds, store)


def _a_chunk(path: Path) -> Any:
    """The bytes of the first chunk of the mask."""
    store = Discarding()
    for event in predict_to_zarr(make_model(SMALLEST), open_stack(path), store):
        if isinstance(event, ChunkPredicted):
            break
    return store._last["labels/mask/0"]


def _walk(path: Path, threads: int, seconds: float, store: Discarding) -> Row:
    control, clock, cpu = JobControl(threads), time.perf_counter(), time.process_time()
    settings, done, stack = PredictSettings(threads=threads), 0, open_stack(path)
    events = predict_to_zarr(make_model(SMALLEST), stack, store, settings, control=control)
    for event in events:
        if isinstance(event, ChunkPredicted):
            done = event.done
            if time.perf_counter() - clock > seconds:
                control.stop()
    spent = time.perf_counter() - clock
    return {
        "gb": stack.data.nbytes / GB,
        "read_gb": done / event.total * stack.data.nbytes / GB,
        "seconds": spent,
        "cpu": time.process_time() - cpu,
        "chunks_written": store.chunks,
        "written_mb": store.bytes / MEGA,
        "finished": not control.stopped,
    }


def rate(path: Path, threads: int, seconds: float) -> Row:
    """The engine, and the network alone on what the same tiles hold, one chunk of each in turn."""
    model, stack, settings = make_model(DEFAULT), open_stack(path), PredictSettings(threads=threads)
    plan = make_plan(model, stack, settings)
    alone = ChunkPredictor(model, plan.grid, model.normalization)
    pieces = [list(_pieces(alone, stack, number)) for number in range(4)]
    events = predict_to_zarr(model, stack, Discarding(), settings, control=JobControl(threads))
    spent: dict[str, list[tuple[float, float]]] = {"engine": [], "network": []}
    begun = time.perf_counter()
    turn = 0
    while time.perf_counter() - begun < seconds:
        chunk = pieces[turn % 4]
        spent["engine"].append(_timed(lambda: _next_chunk(events)))
        spent["network"].append(_timed(partial(_infer_all, alone, chunk)))
        turn += 1
    voxels = float(np.prod(plan.grid.chunk))
    row: Row = {"turns": turn - 1}
    for who, times in spent.items():
        wall, cpu = (sum(t[i] for t in times[1:]) for i in (0, 1))
        row[who] = {"mpx_s": (turn - 1) * voxels / wall / MEGA, "cpu_s": cpu}
    row["wall_ratio"] = row["engine"]["mpx_s"] / row["network"]["mpx_s"]
    row["cpu_ratio"] = row["network"]["cpu_s"] / row["engine"]["cpu_s"]
    return row


def _pieces(alone: ChunkPredictor, stack: Any, number: int) -> Iterator[np.ndarray]:
    """The tiles of a chunk, scaled, as the network is given them."""
    read, (_, region) = alone.read(stack, number), alone.grid.place(number)
    for tile in alone._tiling.tiles(region):
        both = zip(tile.read, read.region, strict=True)
        place = (slice(t.start - r.start, t.stop - r.start) for t, r in both)
        yield np.ascontiguousarray(read.image[(slice(None), *place)])


def _infer_all(alone: ChunkPredictor, pieces: Sequence[np.ndarray]) -> None:
    for piece in pieces:
        alone._inference.infer(piece)


def _next_chunk(events: Iterator[Any]) -> None:
    while not isinstance(next(events), ChunkPredicted):
        pass


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(path: Path, threads: int, seconds: float) -> Row:
    """The engine with the network of the peers, over a stretch."""
    model, stack, control = make_model(DEFAULT), open_stack(path), JobControl(threads)
    settings = PredictSettings(threads=threads)
    events = predict_to_zarr(model, stack, Discarding(), settings, control=control)
    _next_chunk(events)
    chunk = float(np.prod(make_plan(model, stack, settings).grid.chunk))
    return _stretch(seconds, lambda: _next_chunk(events), chunk)


def monai(path: Path, threads: int, seconds: float) -> Row:
    """MONAI's sliding window over plane after plane of the array, a quarter overlap."""
    import zarr
    from monai.inferers import SlidingWindowInferer

    torch.set_num_threads(threads)
    array, net = zarr.open_array(path / "0", mode="r"), _network()
    window = SlidingWindowInferer((512, 512), sw_batch_size=1, overlap=0.25, mode="gaussian")
    planes, scale = iter(range(array.shape[0])), make_model(DEFAULT).normalization.apply
    out = zarr.create_array(Discarding(), shape=array.shape, chunks=(1, 1024, 1024), dtype="uint8")

    def piece() -> None:
        plane = next(planes)
        x = torch.from_numpy(scale(np.asarray(array[plane])[None]))[None]
        with torch.inference_mode():
            x = x.contiguous(memory_format=torch.channels_last)
            out[plane] = (window(x, net)[0, 0] > 0).numpy().astype(np.uint8)

    piece()
    return _stretch(seconds, piece, float(np.prod(array.shape[1:])))


def dask(path: Path, threads: int, seconds: float) -> Row:
    """``map_overlap`` with the halo that makes it exact, four planes at a time, into chunks."""
    import dask
    import dask.array as da
    import zarr

    torch.set_num_threads(1)
    array, net = da.from_zarr(str(path / "0")), _network()
    stride = net.stride[0]
    halo = -(-(-net.input_range(1024, 2048, 0)[0] + 1024) // stride) * stride
    scale = make_model(DEFAULT).normalization.apply
    out = zarr.create_array(Discarding(), shape=array.shape, chunks=(1, 1024, 1024), dtype="uint8")

    def predicted(block: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(scale(block))[None].contiguous(memory_format=torch.channels_last)
            return (net(x)[0] > 0).numpy().astype(np.uint8)

    planes = iter(range(0, len(array), 4))

    def piece() -> None:
        first = next(planes)
        some = array[first : first + 4]
        mask = da.map_overlap(
            predicted, some, depth=(0, halo, halo), boundary="none", dtype=np.uint8
        )
        region = (slice(first, first + some.shape[0]), slice(None), slice(None))
        with dask.config.set(scheduler="threads", num_workers=threads):
            da.store(mask, out, regions=region, lock=False)

    piece()
    return _stretch(seconds, piece, 4.0 * float(np.prod(array.shape[1:])))


def _network() -> Any:
    return make_model(DEFAULT).network().folded()


def _stretch(seconds: float, piece: Callable[[], object], voxels: float) -> Row:
    begun, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        piece()
        count += 1
    wall, used = time.perf_counter() - begun, time.process_time() - cpu
    return {"mpx_s": count * voxels / wall / MEGA, "mpx_cpu_s": count * voxels / used / MEGA}


WORK = {f.__name__: f for f in (memory, levels, rate, ours, monai, dask)}


def _one(name: str, path: Path, threads: int, seconds: float) -> None:
    row = WORK[name](path, threads, seconds)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGA
    print(json.dumps(row), flush=True)


# -- the parent ------------------------------------------------------------------------------------


def measure(name: str, path: Path, options: argparse.Namespace, seconds: float) -> Row:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, str(path), "--threads", str(options.threads)]
    command += ["--seconds", str(seconds), "--one", name]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(found.stdout.splitlines()[-1])
    print(f"{name:8}{path.stem:10}", {k: _short(v) for k, v in row.items()}, flush=True)
    return row


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _stacks(folder: Path, sizes: list[float]) -> dict[float, Path]:
    found = {}
    for size in sizes:
        path = folder / f"{size:g}gb.zarr"
        if not path.exists():
            make_stack(path, n_planes(size * GB))
        found[size] = path
    return found


def main() -> int:
    """Measure what is asked for; print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the stacks are made, and left")
    parser.add_argument("--sizes", default="1,100", help="GB of the stacks, comma-separated")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default="memory,rate,peers")
    parser.add_argument("--whole", action="store_true", help="every chunk of the largest stack")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _one(options.one, options.folder, options.threads, options.seconds)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    stacks = _stacks(options.folder, [float(s) for s in options.sizes.split(",")])
    report: dict[str, Any] = {"machine": machine(), "threads": options.threads}
    large, parts = stacks[max(stacks)], options.parts.split(",")
    for _ in range(options.turns if "memory" in parts else 0):
        for size, path in stacks.items():
            row = measure("memory", path, options, options.seconds)
            report.setdefault("memory", {}).setdefault(f"{size:g}", []).append(row)
    if "rate" in parts:
        report["rate"] = measure("rate", large, options, options.seconds)
    for name in ("ours", "monai", "dask") if "peers" in parts else ():
        turns = [measure(name, large, options, options.seconds) for _ in range(options.turns)]
        report.setdefault("peers", {})[name] = turns
    if options.whole:
        report["whole"] = measure("memory", large, options, float("inf"))
        report["levels"] = measure("levels", large, options, float("inf"))
    if options.json:
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
