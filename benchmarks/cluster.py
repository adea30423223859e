"""Two local workers against one, each with one thread: chunks a second.

    python benchmarks/cluster.py [--turns 3] [--edge 3072] [--planes 2]

A default network (random weights) predicts an image of noise on disk into OME-Zarr, on one worker
and on two in turn. What is timed is the prediction, from a begun output to its last chunk; that
the processes start, and that levels for viewers are made, is not. CPU seconds of the workers stand
beside, since a machine that does other things too cannot show what two of its cores can do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from home import leave_home

from napari_unetseg import open_stack
from napari_unetseg.core.events import ChunkPredicted
from napari_unetseg.core.image_stack import Normalization
from napari_unetseg.core.labels import Classes, Structure
from napari_unetseg.core.settings import NetSettings, PredictSettings
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.dask_cluster import on_cluster
from napari_unetseg.inference.large.dask_connect import Where, workers_of
from napari_unetseg.inference.large.predict_to_zarr import predict_to_zarr
from napari_unetseg.models.model import Model
from napari_unetseg.models.registry import build


def default_model() -> Model:
    """The default 2D network for one channel and one structure, with random weights."""
    net = NetSettings(dims=2, in_channels=1, out_channels=1)
    return Model(
        net=net,
        weights={k: v.clone() for k, v in build(net).state_dict().items()},
        classes=Classes((Structure(1),), True),
        channels=("channel 1",),
        normalization=Normalization((0.0,), (1.0,), (0.5,)),
        spacing=(1.0, 1.0),
        units=("pixel", "pixel"),
    )


def cpu_seconds() -> float:
    """CPU time of all processes that this one started."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        found += times.user + times.system
    return found


def timed(client: Any, model: Model, image: Path, out: Path) -> tuple[float, float]:
    """Wall and CPU seconds from the first chunk that is told of to the last, for each of them."""
    settings = PredictSettings(threads=1, device="cpu")
    chunks = on_cluster(client, open_stack)(image)
    events = predict_to_zarr(
        model, open_stack(image), FolderStore(out), settings, chunks=chunks, ome=False
    )
    done, start, cpu = 0, 0.0, 0.0
    for event in events:
        if isinstance(event, ChunkPredicted) and event.done == event.total:
            break
        if isinstance(event, ChunkPredicted):
            done += 1
            if done == 1:
                start, cpu = time.perf_counter(), cpu_seconds()
    took, used = time.perf_counter() - start, cpu_seconds() - cpu
    for _ in events:
        pass
    return took / done, used / done


def main(arguments: Sequence[str] | None = None) -> None:
    """Print rates and their ratio."""
    leave_home()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--edge", type=int, default=3072)
    parser.add_argument("--planes", type=int, default=2)
    options = parser.parse_args(arguments)
    model, found = default_model(), {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.npy"
        shape = (options.planes, options.edge, options.edge)
        np.save(image, np.random.default_rng(0).random(shape, np.float32))
        for turn in range(options.turns):
            for workers in (1, 2) if turn % 2 == 0 else (2, 1):
                with workers_of(Where(local=workers), 1) as client:
                    out = Path(folder) / f"{workers}-{turn}"
                    found[workers].append(timed(client, model, image, out))
                    print(workers, found[workers][-1], psutil.getloadavg()[0], flush=True)
    one, two = (median(wall for wall, _ in found[n]) for n in (1, 2))
    cpu_one, cpu_two = (median(cpu for _, cpu in found[n]) for n in (1, 2))
    facts = {
        "seconds_a_chunk": {"one": one, "two": two},
        "cpu_seconds_a_chunk": {"one": cpu_one, "two": cpu_two},
        "times_as_fast": one / two,
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
