"""The range of an image in a file is measured once, and never taken for that of other pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import random_model

from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.jobs.image_ranges import ImageRanges

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model


class InFile:
    """An array in a file; ``on_read`` is called before its pixels are read."""

    def __init__(self, factor: float, on_read: Callable[[], object] = lambda: None) -> None:
        self._pixels = factor * np.random.default_rng(0).normal(100, 10, (64, 64))
        self.shape, self.dtype, self._on_read = self._pixels.shape, self._pixels.dtype, on_read
        self.reads = 0

    def __getitem__(self, key: Any) -> np.ndarray:
        self.reads += 1
        self._on_read()
        return self._pixels[key]


@dataclass(frozen=True, eq=False)
class Joined:
    """Layers that are the channels of one image, as they are joined for each view."""

    arrays: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.arrays), *self.arrays[0].shape)

    @property
    def dtype(self) -> np.dtype:
        return self.arrays[0].dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.stack([np.asarray(a[key[1:]]) for a in self.arrays[key[0]]])


@pytest.fixture
def model() -> Model:
    return replace(random_model(1, depth=1, width=2), normalization=scaled(1))


def scaled(channels: int) -> Normalization:
    return Normalization((0.0,) * channels, (1.0,) * channels, (0.5,) * channels, per_image=True)


def found(ranges: ImageRanges, model: Model, data: Any, axes: str = "YX") -> Normalization | None:
    events = ranges.find(model, "layer", Stack(data, axes))
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def test_an_image_that_is_closed_while_it_is_measured_is_not_remembered(model: Model) -> None:
    ranges = ImageRanges()
    assert found(ranges, model, InFile(1, lambda: ranges.forget("layer"))) is not None
    assert len(ranges) == 0


def test_other_pixels_in_the_same_layer_are_measured_anew(model: Model) -> None:
    """A mask of the old ones may still be under way when the layer is given new ones."""
    ranges, old, new = ImageRanges(), InFile(1), InFile(7)
    before = found(ranges, model, old)
    after = found(ranges, model, new)
    assert before is not None
    assert after is not None
    assert after.high[0] == pytest.approx(7 * before.high[0])
    reads = new.reads
    assert found(ranges, model, new) == after
    assert new.reads == reads


def test_channels_that_are_joined_for_each_view_are_measured_once() -> None:
    model = replace(random_model(1, depth=1, width=2, in_channels=2), normalization=scaled(2))
    ranges, arrays = ImageRanges(), (InFile(1), InFile(2))
    first = found(ranges, model, Joined(arrays), "CYX")
    reads = [array.reads for array in arrays]
    assert found(ranges, model, Joined(arrays), "CYX") == first
    assert [array.reads for array in arrays] == reads
    other = found(ranges, model, Joined((arrays[0], InFile(9))), "CYX")
    assert other != first


def test_channels_in_memory_are_measured_for_each_mask() -> None:
    """They may be changed in place."""
    model = replace(random_model(1, depth=1, width=2, in_channels=2), normalization=scaled(2))
    arrays = (np.ones((64, 64)), InFile(1))
    assert found(ImageRanges(), model, Joined(arrays), "CYX") is None
