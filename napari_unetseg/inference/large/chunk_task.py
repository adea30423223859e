"""Prediction of one chunk: read with halo, predict, crop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import most_probable
from napari_unetseg.core.object_maps import quantized
from napari_unetseg.core.resample import read_scaled
from napari_unetseg.inference import tiling
from napari_unetseg.inference.predictor import SMALLEST_EDGE, Predictor
from napari_unetseg.inference.uncertainty import margin_uncertainty
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Normalization, Stack
    from napari_unetseg.inference.large.chunk_grid import Grid
    from napari_unetseg.inference.tiling import Region
    from napari_unetseg.models.model import Model


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Input of a chunk: scaled intensities (channels, *region) of one plane or volume."""

    image: np.ndarray
    region: Region


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """Output of a chunk."""

    mask: np.ndarray
    """Its mask, uint8."""
    probabilities: np.ndarray | None
    """(classes, *spatial) float32, if wanted."""
    unsure: float | None = None
    """Sum of `margin_uncertainty` over its voxels, if wanted."""
    maps: np.ndarray | None = None
    """Object maps (2, *spatial), `quantized`, if wanted."""


class ChunkPredictor:
    """Predicts chunks of an image independently.

    Parameters
    ----------
    model, grid
        The model and the chunks.
    normalization
        Of the image.
    device
        As in `PredictSettings`.
    probabilities, unsure, maps
        Keep probabilities; sum up the uncertainty; predict object maps.
    """

    def __init__(
        self,
        model: Model,
        grid: Grid,
        normalization: Normalization,
        device: str = "auto",
        *,
        probabilities: bool = False,
        unsure: bool = False,
        maps: bool = False,
    ) -> None:
        self.grid = grid
        self.notices: list[str] = []
        self._model, self._normalization = model, normalization
        self._keep, self._unsure = probabilities, unsure
        self._inference = Predictor(model, device, maps=maps)
        self._tiling = grid.tiling(self._inference.network)

    def read(self, stack: Stack, number: int) -> Read:
        """Read a chunk with its halo; thread-safe."""
        plane, region = self.grid.place(number)
        whole = self._tiling.read(self.grid.seen(region))
        image = read_scaled(stack, plane, whole, self._normalization, self.grid.resampling)
        return Read(image, whole)

    def predict(self, number: int, read: Read) -> Predicted:
        """Predict a chunk.

        Out of memory leads to smaller tiles, then to the CPU, with ``notices``; `UserError` where
        neither helps.
        """
        _, region = self.grid.place(number)
        while True:
            try:
                return self._predict(region, read)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.notices.append(self._shrink())

    def _predict(self, region: Region, read: Read) -> Predicted:
        shape = tuple(s.stop - s.start for s in region)
        mask = np.empty(shape, np.uint8)
        classes = len(self._model.classes.numbers)
        kept = np.empty((classes, *shape), np.float32) if self._keep else None
        maps = np.empty((2, *shape), np.uint8) if self._inference.maps else None
        unsure = 0.0
        for core, found in self._pieces(region, read):
            shares, deep = self._inference.split(found)
            place = tiling.within(core, region)
            mask[place] = self._model.classes.decode(most_probable(shares))
            if kept is not None:
                kept[(slice(None), *place)] = shares
            if maps is not None and deep is not None:
                maps[(slice(None), *place)] = quantized(deep)
            if self._unsure:
                unsure += float(margin_uncertainty(shares).sum())
        return Predicted(mask, kept, unsure if self._unsure else None, maps)

    def _pieces(self, region: Region, read: Read) -> Iterator[tuple[Region, np.ndarray]]:
        """Probabilities and object maps of a chunk, piece by piece."""

        def infer(piece: Region) -> np.ndarray:
            image = read.image[(slice(None), *tiling.within(piece, read.region))]
            return self._inference.infer(np.ascontiguousarray(image))

        resampling = self.grid.resampling
        if resampling is None:
            yield from self._tiling.pieces(region, infer)
            return
        seen = self.grid.seen(region)
        yield region, resampling.bring_back(self._tiling.whole(seen, infer), seen, region)

    def _shrink(self) -> str:
        """Use smaller tiles or the CPU; return a sentence."""
        self._inference.release()
        tiling = self._tiling
        if not tiling.blended and max(tiling.edges) > SMALLEST_EDGE:
            strides = self._inference.network.stride
            edges = (max(1, t // 2 // s) * s for t, s in zip(tiling.edges, strides, strict=True))
            self._tiling = replace(tiling, edges=tuple(edges))
            return f"Not enough memory: continuing with tiles of {max(self._tiling.edges)} voxels."
        if self._inference.leave_gpu():
            self._tiling = self.grid.tiling(self._inference.network)
            return "Not enough memory on the GPU: continuing on the CPU."
        smaller = "choose smaller tiles" if tiling.blended else "use a smaller network"
        raise UserError(
            f"There is not enough memory for a tile; close other programs or {smaller}."
        )
