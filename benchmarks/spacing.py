"""Dice on test images of other pixel sizes than the training images, as they are and matched.

``python benchmarks/spacing.py DATA [--sets a,b] [--minutes 1.5] [--times 0.5,1,2]`` trains a model
on each set with full masks, as if its pixels had 0.2 µm, then predicts its test images in pixels
of so many times the size: as they are, and with ``match_spacing``. Images and masks are resampled
to these pixels: finer ones hold no more than the image did, coarser ones less.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from sets import Annotated, BenchmarkSet, pooled_dice, read_sets

from napari_unetseg import Model, PredictSettings, Stack, TrainSettings, predict, train
from napari_unetseg.core.resample import Resampling

MICROMETRES = 0.2
TIMES = (0.25, 0.5, 0.6, 0.667, 0.75, 0.8, 0.9, 1.0, 1.1, 1.25, 1.333, 1.5, 1.667, 2.0, 4.0)


def main() -> None:
    """Write a row for each set and pixel size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="", help="names, separated by commas; default all")
    parser.add_argument("--minutes", type=float, default=1.5, help="of training")
    parser.add_argument("--times", default=",".join(map(str, TIMES)), help="sizes of a pixel")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print("set\ttimes\tas it is\tmatched")
    for one in read_sets(options.data, options.sets):
        model = learn(one, options.minutes, options.threads)
        tests = one.tests()
        for times in map(float, options.times.split(",")):
            found = [dice(model, tests, times, match, options.threads) for match in (False, True)]
            print(f"{one.name}\t{times:g}\t{found[0]:.4f}\t{found[1]:.4f}", flush=True)


def learn(one: BenchmarkSet, minutes: float, threads: int) -> Model:
    """A model of a set's full masks, whose pixel size is known."""
    pairs = [image.pair("full") for image in one.training("full")]
    pairs = [replace(pair, image=sized(pair.image, 1.0)) for pair in pairs]
    return train(pairs, TrainSettings(minutes=minutes, threads=threads))


def sized(stack: Stack, times: float) -> Stack:
    """The stack with pixels of so many times the training images' size."""
    size = MICROMETRES * times
    return replace(
        stack,
        spacing=tuple(size if a in "YX" else 1.0 for a in stack.axes),
        units=tuple("um" if a in "YX" else "pixel" for a in stack.axes),
    )


def dice(model: Model, images: list[Annotated], times: float, match: bool, threads: int) -> float:
    """Of the masks of images in such pixels."""
    settings = PredictSettings(threads=threads, match_spacing=match)
    return pooled_dice(
        (predict(model, stack, settings), truth)
        for image in images
        for stack, truth in resampled(image, times)
    )


def resampled(image: Annotated, times: float) -> Iterator[tuple[Stack, np.ndarray]]:
    """Each given plane in pixels of so many times the size, and its mask."""
    for plane in image.planes:
        truth = image.labels[plane]
        pixels = image.image.read(plane, image.image.whole(2))
        if times != 1:
            numbers = np.unique(truth)
            shares = np.stack([truth == number for number in numbers])
            truth = numbers[whole(shares, times).argmax(0)]
            pixels = whole(pixels, times)
        yield sized(Stack(pixels, "CYX"), times), truth


def whole(array: np.ndarray, times: float) -> np.ndarray:
    """All of an array (channels, Y, X) in other pixels."""
    one = Resampling(array.shape[1:], (times, times))
    there = tuple(slice(0, n) for n in one.resampled)
    return one.read(lambda region: array[(slice(None), *region)].astype(np.float32), there)


if __name__ == "__main__":
    main()
