"""Prefetching of planes in the direction of scrolling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.layers.world_units import to_data
from napari_unetseg.io.readers.lazy_array import FileArray

if TYPE_CHECKING:
    from napari.components import ViewerModel

PLANES = 2
"""Number of planes to read ahead."""

Request = tuple[FileArray | np.memmap, tuple[int | slice, ...]]
"""An array and the index to read."""


class PlanePrefetch:
    """Reads planes ahead in the direction of the slider, where a cache keeps them.

    napari reads what it shows in the thread that draws the window. Only two kinds of arrays are
    read ahead: those of the plugin's own reader, which caches chunks, and memory-mapped files,
    which the system caches: strokes and masks of large stacks are in those. Whether other arrays
    have a cache is unknown.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._step = viewer.dims.current_step
        self._pool: ThreadPoolExecutor | None = None
        self._futures: list[Future[None]] = []
        viewer.dims.events.current_step.connect(self._on_step)

    def close(self) -> None:
        """Stop reading."""
        self._viewer.dims.events.current_step.disconnect(self._on_step)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _on_step(self) -> None:
        before, self._step = self._step, self._viewer.dims.current_step
        if len(before) != len(self._step) or self._viewer.dims.ndisplay != 2:
            return
        moved = [now - then for now, then in zip(self._step, before, strict=True)]
        if sum(map(bool, moved)) != 1:
            return
        for future in self._futures:
            future.cancel()
        shown = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image | Labels) and layer.visible
        ]
        points = [self._point(moved, number) for number in range(1, PLANES + 1)]
        displayed = self._viewer.dims.displayed
        wanted = [
            one
            for point in points
            for layer in shown
            for one in _requests(layer, to_data(self._viewer, layer, point), displayed, len(point))
        ]
        if wanted and self._pool is None:
            self._pool = ThreadPoolExecutor(1, "unetseg-ahead")
        if self._pool is not None:
            self._futures = [self._pool.submit(_read, *request) for request in wanted]

    def _point(self, moved: list[int], number: int) -> list[float]:
        """World position of the slider after more moves by a plane."""
        dims = self._viewer.dims
        ways = [(step > 0) - (step < 0) for step in moved]
        along = zip(dims.point, ways, dims.range, strict=True)
        return [point + number * way * axis.step for point, way, axis in along]


def _read(array: FileArray | np.memmap, key: tuple[int | slice, ...]) -> None:
    """Read it into the cache; errors are reported when the plane is shown."""
    with suppress(UserError, OSError, MemoryError):
        part = array[key]
        if isinstance(part, np.memmap):
            part.max(initial=0)  # computing the maximum reads every page


def _requests(
    layer: Image | Labels, place: np.ndarray, seen: Sequence[int], ndim: int
) -> Iterator[Request]:
    """The arrays and indices that napari reads to show a position of a layer.

    ``seen``: displayed axes of the viewer, of ``ndim``.
    """
    levels: Any = layer.data if layer.multiscale else [layer.data]
    displayed, shape = {a - ndim + layer.ndim for a in seen}, layer.level_shapes[0]
    here = [round(float(x)) for x in place]
    if any(not 0 <= here[a] < n for a, n in enumerate(shape) if a not in displayed):
        return
    for number in sorted({layer.data_level, len(levels) - 1}):
        array, factors = levels[number], layer.downsample_factors[number]
        if isinstance(array, FileArray | np.memmap):
            in_sight = layer.multiscale and number == layer.data_level
            spans = layer.corner_pixels.T if in_sight else [(0, int(n) - 1) for n in array.shape]
            yield (
                array,
                tuple(
                    slice(int(spans[a][0]), int(spans[a][1]) + 1)
                    if a in displayed
                    else min(int(here[a] / factors[a]), n - 1)
                    for a, n in enumerate(array.shape[: len(here)])
                ),
            )
