"""What drawing the next batch beside the step brings.

    python benchmarks/prefetch.py [--patch 256] [--batch 16] [--steps 12] [--device-ms 30]
    python benchmarks/prefetch.py --cpu [--steps 40]

First: batches of a GPU's size with all changes of samples, by the thread that trains and by one,
two and four threads beside it. There is no GPU in it: a step is so many ms of waiting without
Python's lock, as a thread waits for a device. With ``--cpu`` whole trainings of the default network
on the CPU instead, without and with threads that draw, in turns. Medians in ms a step by the wall's
clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from statistics import median

import numpy as np

from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.runtime.cpu import default_threads
from napari_unetseg.runtime.devices import use_threads
from napari_unetseg.training import trainer
from napari_unetseg.training.augmentation import Augmenter
from napari_unetseg.training.batch_sampler import Prefetcher, Sampler
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import StepDone

TURNS = 3


def annotated(size: int = 1024) -> AnnotatedImage:
    """Noise with bright squares, and strokes on both."""
    rng = np.random.default_rng(0)
    truth = np.kron(rng.random((size // 32, size // 32)) > 0.7, np.ones((32, 32), bool))
    labels = np.zeros(truth.shape, np.uint8)
    labels[20::64] = np.where(truth[20::64], 1, 255)
    return AnnotatedImage(
        rng.normal(0.1 + 0.8 * truth, 0.1).astype(np.float32), labels, "strokes", axes="YX"
    )


def waiting(options: argparse.Namespace, threads: int) -> Iterator[float]:
    """Seconds of each step whose device computes for so long."""
    settings = TrainSettings()
    data = TrainingDataset([annotated()], 2, 0.15)
    patch = (options.patch,) * 2
    use_threads(None)
    sampler = Sampler(data, None, Augmenter(settings.augment, 2), settings, patch)
    prefetcher = Prefetcher(threads)
    try:
        for step in range(options.steps):
            began = time.perf_counter()
            prefetcher.batch(sampler, step, range(options.batch))
            time.sleep(options.device_ms / 1e3)
            if step > 1:
                yield time.perf_counter() - began
    finally:
        prefetcher.close()


def training(steps: int) -> Iterator[float]:
    """Seconds of each step of a training on the CPU."""
    settings = TrainSettings(steps=steps, device="cpu", threads=default_threads())
    before = None
    for event in train_events([annotated()], settings):
        now = time.perf_counter()
        if isinstance(event, StepDone) and before is not None and event.step > 2:
            yield now - before
        before = now


def main() -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device-ms", type=float, default=30.0)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    ways = {"caller": 0, "1 thread": 1, "2 threads": 2, "4 threads": 4}
    found: dict[str, list[float]] = {}
    for _ in range(TURNS):
        if options.cpu:
            for name, devices in (("caller", ()), ("threads beside", ("cpu",))):
                trainer.PREFETCHING = devices
                found.setdefault(name, []).extend(training(options.steps))
        else:
            for name, threads in ways.items():
                found.setdefault(name, []).extend(waiting(options, threads))
    for name, seconds in found.items():
        print(f"{name}: {1e3 * median(seconds):.0f} ms a step")


if __name__ == "__main__":
    main()
