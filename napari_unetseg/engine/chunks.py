"""One chunk of an image: read with all that it depends on, predicted, cropped."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core import tiles
from napari_unetseg.core.devices import is_out_of_memory
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.inference import SMALLEST_EDGE, Inference
from napari_unetseg.core.labels import most_probable
from napari_unetseg.core.uncertainty import margin_uncertainty

if TYPE_CHECKING:
    from napari_unetseg.core.image import Normalization, Stack
    from napari_unetseg.core.model import Model
    from napari_unetseg.core.tiles import Region
    from napari_unetseg.engine.grid import Grid

__all__ = ["ChunkPredictor", "Predicted", "Read"]


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What a chunk needs: scaled intensities (channels, *region) of one plane or volume."""

    image: np.ndarray
    region: Region


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What a network says of a chunk.

    Attributes
    ----------
    mask
        Its mask, uint8.
    probabilities
        (classes, *spatial) float32, if wanted.
    unsure
        The sum of `margin_uncertainty` over its voxels, if wanted.
    """

    mask: np.ndarray
    probabilities: np.ndarray | None
    unsure: float | None = None


class ChunkPredictor:
    """A model applied to the chunks of an image; a chunk's result depends on nothing else.

    Parameters
    ----------
    model, grid
        Its network, and the chunks.
    normalization
        Of the image.
    device
        As in `PredictSettings`.
    probabilities, unsure
        Keep them; add up how unsure the network is.
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
    ) -> None:
        self.grid = grid
        self.notices: list[str] = []
        self._model, self._normalization = model, normalization
        self._keep, self._unsure = probabilities, unsure
        self._inference = Inference(model, device)
        self._tile = grid.tile

    def read(self, stack: Stack, number: int) -> Read:
        """Read a chunk with its surroundings; for any thread."""
        plane, region = self.grid.place(number)
        spans = [self._spans(axis, span) for axis, span in enumerate(region)]
        whole = tuple(
            slice(min(read.start for read, _ in along), max(read.stop for read, _ in along))
            for along in spans
        )
        return Read(self._normalization.apply(stack.read(plane, whole)), whole)

    def predict(self, number: int, read: Read) -> Predicted:
        """Predict a chunk from what was read for it.

        Where memory runs out it goes on with smaller tiles, then with the CPU, and says so in
        ``notices``; `UserError` where neither helps.
        """
        _, region = self.grid.place(number)
        while True:
            try:
                return self._blend(region, read) if self.grid.blended else self._exact(region, read)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.notices.append(self._shrink())

    def _exact(self, region: Region, read: Read) -> Predicted:
        shape = tuple(s.stop - s.start for s in region)
        mask = np.empty(shape, np.uint8)
        kept = self._room(shape) if self._keep else None
        unsure = 0.0
        for tile in self._tiles(region):
            shares = self._infer(read, tile.read)[(slice(None), *tile.inner)]
            place = _within(tile.core, region)
            mask[place] = self._model.classes.decode(most_probable(shares))
            if kept is not None:
                kept[(slice(None), *place)] = shares
            if self._unsure:
                unsure += float(margin_uncertainty(shares).sum())
        return Predicted(mask, kept, unsure if self._unsure else None)

    def _blend(self, region: Region, read: Read) -> Predicted:
        """Weighted mean of the tiles that touch the chunk, added up as `tiles.blend` does."""
        shape = tuple(s.stop - s.start for s in region)
        total, weight = self._room(shape), np.zeros(shape, np.float32)
        longest = max(range(self.grid.dims), key=lambda axis: self.grid.spatial[axis])
        found = sorted(self._tiles(region), key=lambda tile: tile.read[longest].start)
        for tile in found:
            shares = self._infer(read, tile.read)
            weights = tiles.window(shares.shape[1:])
            place, inner = _within(tile.core, region), tile.inner
            total[(slice(None), *place)] += (shares * weights)[(slice(None), *inner)]
            weight[place] += weights[inner]
        total /= weight
        mask = self._model.classes.decode(most_probable(total))
        unsure = float(margin_uncertainty(total).sum()) if self._unsure else None
        return Predicted(mask, total if self._keep else None, unsure)

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros((len(self._model.classes.numbers), *shape), np.float32)

    def _infer(self, read: Read, region: Region) -> np.ndarray:
        piece = read.image[(slice(None), *_within(region, read.region))]
        return self._inference.infer(np.ascontiguousarray(piece))

    def _tiles(self, region: Region) -> list[tiles.Tile]:
        """What is read, and what of the chunk it gives, for each tile of a chunk, in order."""
        spans = [self._spans(axis, span) for axis, span in enumerate(region)]
        return [tiles.Tile(tuple(r for r, _ in t), tuple(c for _, c in t)) for t in product(*spans)]

    def _spans(self, axis: int, span: slice) -> list[tuple[slice, slice]]:
        size, edge = self.grid.spatial[axis], self._tile[axis]
        network = self._inference.network
        if not self.grid.blended:
            starts = range(span.start, span.stop, edge)
            cores = [slice(start, min(start + edge, span.stop)) for start in starts]
            return [(tiles.read_span(core, size, axis, network), core) for core in cores]
        _, begins = tiles.overlap(size, edge, network.stride[axis])
        reads = [slice(b, b + edge) for b in begins if b < span.stop and b + edge > span.start]
        return [(r, slice(max(r.start, span.start), min(r.stop, span.stop))) for r in reads]

    def _shrink(self) -> str:
        """Take less memory; say how."""
        self._inference.release()
        if not self.grid.blended and max(self._tile) > SMALLEST_EDGE:
            strides = self._inference.network.stride
            self._tile = tuple(
                max(1, t // 2 // s) * s for t, s in zip(self._tile, strides, strict=True)
            )
            return f"Not enough memory: going on with tiles of {max(self._tile)} voxels."
        if self._inference.leave_gpu():
            self._tile = self.grid.tile
            return "Not enough memory on the GPU: going on with the CPU."
        smaller = "choose smaller tiles" if self.grid.blended else "use a smaller network"
        raise UserError(
            f"There is not enough memory for a tile; close other programs or {smaller}."
        )


def _within(region: Region, outer: Region) -> Region:
    """A region's place in a larger one."""
    return tuple(
        slice(r.start - o.start, r.stop - o.start) for r, o in zip(region, outer, strict=True)
    )
