"""Grid of chunks of a prediction, from shape, network and settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

from napari_unetseg.inference import tiling
from napari_unetseg.inference.predictor import EDGE, LARGEST_HALO, looks_at_image
from napari_unetseg.models.registry import build

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.resample import Resampling
    from napari_unetseg.inference.tiling import Reach, Region
    from napari_unetseg.models.model import Model

CHUNK = {2: 1024, 3: 128}
"""Wanted edge of a chunk in voxels; a chunk holds whole tiles."""
BLENDED_CHUNK = {2: 2048, 3: 288}
"""The same for overlapping tiles, of which those at borders are predicted for each side."""
LARGEST_EDGE = {2: 2048, 3: 160}
"""Largest edge to which tiles grow against a large halo."""
SHARES_BYTES = 2**28
"""Largest size of a chunk's probabilities, where tiles are small enough."""
RESAMPLED_VOXELS = {2: 2048**2, 3: 256**3}
"""Most voxels of a chunk of a resampled image."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Chunks of an image, numbered; each is one task and one chunk of the output."""

    shape: tuple[int, ...]
    """Grid shape of the image."""
    tile: tuple[int, ...]
    chunk: tuple[int, ...]
    """Edges along the spatial axes (ZYX or YX): of a tile in the voxels that the network sees, of a
    chunk in the image's."""
    blended: bool
    """Tiles overlap and are blended, since the network's norm depends on the whole input."""
    resampling: Resampling | None = None
    """From the image's voxels to those that the network sees; None where they are the same."""

    @classmethod
    def plan(
        cls,
        model: Model,
        stack: Stack,
        edge: int | None = None,
        resampling: Resampling | None = None,
    ) -> Self:
        """The grid for a model and an image; ``edge`` of a tile, None: automatic."""
        with torch.device("meta"):
            network = build(model.net)
        dims, classes = model.dims, len(model.classes.numbers)
        spatial = resampling.resampled if resampling else stack.spatial_shape(dims)
        tile = _exact(spatial, network, edge or EDGE[dims])
        blended = looks_at_image(model) and any(t < n for t, n in zip(tile, spatial, strict=True))
        wanted = edge or EDGE[dims]
        while edge is None and not blended and _halo(spatial, tile, network) > LARGEST_HALO:
            if (wanted := wanted * 4 // 3) > LARGEST_EDGE[dims]:
                break
            tile = _exact(spatial, network, wanted)
        if blended:
            tile = tiling.Tiling.plan(spatial, network, wanted, blended=True).edges
        chunk = _chunk(spatial, tile, blended, classes)
        if resampling is not None:
            most = min(SHARES_BYTES // (4 * classes), RESAMPLED_VOXELS[dims])
            chunk = resampling.image_edges(chunk, most)
        return cls(stack.grid_shape, tile, chunk, blended, resampling)

    @property
    def dims(self) -> int:
        """Spatial axes: 2 or 3."""
        return len(self.tile)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Shape of the spatial axes."""
        return self.shape[-self.dims :]

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk along all axes."""
        return (*(1 for _ in self.shape[: -self.dims]), *self.chunk)

    @property
    def cells(self) -> tuple[int, ...]:
        """How many chunks there are along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    def __len__(self) -> int:
        return math.prod(self.cells)

    def cell(self, number: int) -> tuple[int, ...]:
        """Index of a chunk along each axis."""
        place = []
        for count in reversed(self.cells):
            number, along = divmod(number, count)
            place.append(along)
        return tuple(reversed(place))

    def place(self, number: int) -> tuple[tuple[int, ...], Region]:
        """Region of a chunk: index of the leading axes, and a slice for each spatial axis."""
        cell = self.cell(number)
        region = (
            slice(i * c, min((i + 1) * c, n))
            for i, c, n in zip(cell[-self.dims :], self.chunk, self.spatial, strict=True)
        )
        return cell[: -self.dims], tuple(region)

    def seen(self, region: Region) -> Region:
        """The network's output region that a region of the image depends on."""
        return region if self.resampling is None else self.resampling.resampled_region(region)

    def tiling(self, network: Reach) -> tiling.Tiling:
        """The tiling of a network."""
        shape = self.spatial if self.resampling is None else self.resampling.resampled
        return tiling.Tiling(shape, self.tile, self.blended, network)

    def facts(self) -> dict[str, Any]:
        """All that determines the voxels of a mask, for an output's state."""
        facts = {"tile": list(self.tile), "chunk": list(self.chunk), "blended": self.blended}
        resampled = {} if self.resampling is None else {"resampled": list(self.resampling.factors)}
        return facts | resampled


def _exact(shape: tuple[int, ...], network: Reach, edge: int) -> tuple[int, ...]:
    return tiling.Tiling.plan(shape, network, edge, blended=False).edges


def _halo(shape: tuple[int, ...], tile: tuple[int, ...], network: Reach) -> float:
    """Voxels that an inner tile reads for each that it keeps."""
    factor = 1.0
    for axis, (size, step) in enumerate(zip(shape, tile, strict=True)):
        start = (size - 1) // step // 2 * step
        core = slice(start, min(start + step, size))
        read = tiling.read_span(core, size, axis, network)
        factor *= (read.stop - read.start) / (core.stop - core.start)
    return factor


def _chunk(
    shape: tuple[int, ...], tile: tuple[int, ...], blended: bool, classes: int
) -> tuple[int, ...]:
    wanted = (BLENDED_CHUNK if blended else CHUNK)[len(shape)]
    counts = [max(1, round(wanted / t)) for t in tile]
    while math.prod(t * c for t, c in zip(tile, counts, strict=True)) * 4 * classes > SHARES_BYTES:
        if max(counts) == 1:
            break
        counts[counts.index(max(counts))] -= 1
    return tuple(min(n, t * c) for n, t, c in zip(shape, tile, counts, strict=True))
