"""How long a training is held up by newer annotations, where folders train too.

    python benchmarks/newer_annotations.py [--images 60] [--size 1024] [--written] [--cpu]

One image with strokes, as a window gives it, and so many images with full masks, in memory or, with
``--written``, in TIFF files. A training of no step reads them; then strokes are added one after
another. Given are medians in ms of `TrainingDataset.with_annotations`, and of all that a training
does until it goes on (the data, the labels for distillation, which voxels are newer). The clock is
the wall's, or with ``--cpu`` that of the thread, for a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.settings import NetSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.dataset import TrainingDataset
from napari_unetseg.io.folder_pairs import find_pairs
from napari_unetseg.models.registry import build
from napari_unetseg.training.distillation import Distillation

if TYPE_CHECKING:
    from napari_unetseg.data.validation_split import VoxelIndices
    from napari_unetseg.models.unet import UNet


def picture(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with bright squares, and where they are."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.random((size // 32, size // 32)) > 0.7, np.ones((32, 32), bool))
    return rng.normal(100 + 80 * truth, 12).clip(0, 255).astype(np.uint8), truth.astype(np.uint8)


@contextmanager
def folder_pairs(count: int, size: int, *, written: bool) -> Iterator[list[AnnotatedImage]]:
    """Images with full masks, in memory or in files."""
    made = [picture(size, 1 + number) for number in range(count)]
    if not written:
        yield [AnnotatedImage(image, mask, "full", axes="YX") for image, mask in made]
        return
    with tempfile.TemporaryDirectory() as name:
        for which in ("images", "masks"):
            (Path(name) / which).mkdir()
        for number, (image, mask) in enumerate(made):
            tifffile.imwrite(Path(name) / "images" / f"{number:03}.tif", image)
            tifffile.imwrite(Path(name) / "masks" / f"{number:03}.tif", mask)
        yield list(find_pairs(Path(name) / "images", Path(name) / "masks").pairs)


def held_up(
    network: UNet, data: TrainingDataset, pairs: list[AnnotatedImage], fixed: list[AnnotatedImage]
) -> tuple[TrainingDataset, VoxelIndices]:
    """What a training does with newer annotations before it goes on."""
    newer = data.with_annotations(pairs, fixed)
    Distillation(network, newer, set(data.fingerprints))
    return newer, newer.labels_added_since(data)


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--strokes", type=int, default=7)
    parser.add_argument("--written", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    clock = time.thread_time if options.cpu else time.perf_counter
    image, truth = picture(options.size, 0)
    painted = np.zeros_like(truth)
    painted[20::64] = np.where(truth[20::64], 1, 255)
    network = build(NetSettings(depth=2, width=4)).eval()
    with folder_pairs(options.images, options.size, written=options.written) as files:
        began = clock()
        data = TrainingDataset(
            [AnnotatedImage(image, painted, "strokes", axes="YX"), *files], 2, 0.15
        )
        print(f"read at first: {1e3 * (clock() - began):.0f} ms")
        alone, whole = [], []
        for number in range(options.strokes):
            painted = painted.copy()
            rows = slice(40 + 64 * number, 44 + 64 * number)
            painted[rows, 100:160] = np.where(truth[rows, 100:160], 1, 255)
            pair = AnnotatedImage(Stack(image, "YX"), painted, "strokes")
            began = clock()
            data.with_annotations([pair, *files], files)
            middle = clock()
            data, newer = held_up(network, data, [pair, *files], files)
            alone.append(middle - began)
            whole.append(clock() - middle)
            assert sum(len(places) for _, places in newer) <= 4 * 60
    print(f"data renewed: {1e3 * median(alone):.0f} ms; until training goes on: ", end="")
    print(f"{1e3 * median(whole):.0f} ms (medians of {options.strokes})")


if __name__ == "__main__":
    main()
