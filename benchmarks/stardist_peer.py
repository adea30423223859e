"""StarDist, trained for so many seconds, in an environment of its own (used by ``objects.py``).

    ENVIRONMENT/bin/python benchmarks/stardist_peer.py GIVEN.npz FOUND.npz --seconds 600

The environment: ``python -m venv ENVIRONMENT``, then its ``pip install stardist tensorflow-cpu``.
GIVEN holds ``train_N`` and ``test_N`` (Y, X) float32 and ``ids_N`` int32, -1 where nothing is
labelled, which StarDist leaves out of its loss. Settings are its defaults for 32 rays, with a grid
of 2 × 2 as in its examples; patches are smaller where images are. A seventh of the images, one at
least, validates; the weights with the best validation loss are kept, and both thresholds are then
optimised on the training images by its own function, where these are fully labelled. Patches are
flipped and turned by 90°, their intensities scaled and shifted. Time is CPU seconds of the process,
divided by the threads; it starts with the first batch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PATCH = 256
EPOCH = 50
"""Steps of an epoch; the default of 100 would validate only a few times in so short a training."""


def read(path: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Training images, their ids, and test images, intensities normalised as StarDist does."""
    from csbdeep.utils import normalize

    with np.load(path, allow_pickle=False) as file:

        def those(name: str) -> list[np.ndarray]:
            return [file[f"{name}_{n}"] for n in range(sum(k.startswith(f"{name}_") for k in file))]

        images, ids, tests = those("train"), those("ids"), those("test")
    return [normalize(x, 1, 99.8) for x in images], ids, [normalize(x, 1, 99.8) for x in tests]


def augment(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A patch and its ids, flipped, turned, brighter or darker."""
    turns = np.random.randint(4)  # noqa: NPY002 - StarDist seeds NumPy's global generator
    x, y = np.rot90(x, turns), np.rot90(y, turns)
    if np.random.rand() < 0.5:  # noqa: NPY002
        x, y = x[::-1], y[::-1]
    scale, shift = np.random.uniform(0.6, 2.0), np.random.uniform(-0.2, 0.2)  # noqa: NPY002
    return x * scale + shift, y


def train(
    images: list[np.ndarray], ids: list[np.ndarray], folder: str, options: argparse.Namespace
) -> tuple[Any, dict[str, float]]:
    """A model, and what its training took."""
    from stardist.models import Config2D, StarDist2D
    from tensorflow import keras

    class Timer(keras.callbacks.Callback):
        """Ends the training when its time is over."""

        def __init__(self) -> None:
            super().__init__()
            self.cpu, self.wall, self.steps = time.process_time(), time.perf_counter(), 0

        @property
        def seconds(self) -> float:
            return (time.process_time() - self.cpu) / options.threads

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.steps += 1
            if self.seconds >= options.seconds:
                self.model.stop_training = True

    smallest = min(min(image.shape) for image in images)
    patch = max(16, min(PATCH, smallest // 16 * 16))
    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=1,
        train_patch_size=(patch, patch),
        train_tensorboard=False,
    )
    model = StarDist2D(config, name="peer", basedir=folder)
    model.prepare_for_training()
    order = np.random.default_rng(options.seed).permutation(len(images))
    held = order[: max(1, round(len(images) / 7))]
    kept = [n for n in order if n not in held] or list(order)
    timer = Timer()
    model.callbacks.append(timer)
    model.train(
        [images[n] for n in kept],
        [ids[n] for n in kept],
        validation_data=([images[n] for n in held], [ids[n] for n in held]),
        augmenter=augment,
        seed=options.seed,
        steps_per_epoch=EPOCH,
        epochs=100_000,
    )
    took = {
        "seconds": timer.seconds,
        "wall_seconds": time.perf_counter() - timer.wall,
        "steps": float(timer.steps),
    }
    return model, took


def main() -> None:
    """Train, choose thresholds, find the objects of the test images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("given", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(options.seed)
    images, ids, tests = read(options.given)
    with tempfile.TemporaryDirectory() as folder:
        model, took = train(images, ids, folder, options)
        if not any((labels < 0).any() for labels in ids):
            model.optimize_thresholds(images, ids)
        found = [model.predict_instances(image)[0].astype(np.int32) for image in tests]
    thresholds = {"probability": model.thresholds.prob, "overlap": model.thresholds.nms}
    arrays = {f"ids_{n}": labels for n, labels in enumerate(found)}
    np.savez_compressed(options.found, **arrays, **took, **thresholds)


if __name__ == "__main__":
    main()
