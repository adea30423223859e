"""Strokes in rounds, each at the mistakes of the then newest model, and that model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from painter import add_strokes, amounts, part_of
from sets import Annotated, BenchmarkSet, predictor

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

    Train = Callable[[Sequence[Annotated], Model | None], Model]
ROUNDS, ROUND_STEPS = 5, 60


def strokes_at_mistakes(
    data: BenchmarkSet, seed: int, device: str, train: Train
) -> tuple[list[Annotated], Model]:
    """Training images with the strokes of `ROUNDS` rounds, and the model that saw all but the last.

    The first round has a fifth of the given strokes, and each later one as many voxels of every
    class, painted where the model that goes on from round to round is most wrong.

    Parameters
    ----------
    data, seed, device
        What to paint on, the seed of the hand, and where to predict.
    train
        From images with strokes, and a model to go on from, to a model.
    """
    rng = np.random.default_rng(seed)
    given, truths = data.training(), data.training("full")
    wanted = {value: round(count / ROUNDS) for value, count in amounts(given).items()}
    labels = part_of(given, 1 / ROUNDS, rng)
    model: Model | None = None
    for _ in range(ROUNDS - 1):
        model = train(with_labels(given, labels), model)
        predict = predictor(model, 1, device)
        masks = [predict(image.image, image.planes) for image in truths]
        labels = add_strokes(labels, truths, masks, wanted, rng)
    images = with_labels(given, labels)
    return images, train(images, model)


def with_labels(images: Sequence[Annotated], labels: Sequence[np.ndarray]) -> list[Annotated]:
    """The same images with other labels."""
    return [replace(i, labels=array) for i, array in zip(images, labels, strict=True)]
