"""Multiscale pyramid of a mask: every second voxel along Y and X, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.inference.large.stored_array import chunk_key, stored_array

if TYPE_CHECKING:
    from napari_unetseg.inference.large.output_plan import OutputPlan

SMALL_PLANE = 512
"""Largest edge of a plane that needs no smaller level."""


def level_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the levels below the first, the largest first; Y and X are halved, rounded up."""
    shapes = []
    while max(shape[-2:]) > SMALL_PLANE:
        shape = (*shape[:-2], *(-(-n // 2) for n in shape[-2:]))
        shapes.append(shape)
    return shapes


def write_level(
    above: Any, below: Any, has: Callable[[tuple[int, ...]], bool]
) -> Iterator[tuple[int, int]]:
    """Fill a level from the one above; yields (chunks done, in all).

    A voxel is the one with twice its index in Y and X, so numbers are never mixed.

    Parameters
    ----------
    above, below
        Zarr arrays.
    has
        Tells whether a chunk of ``below``, given by its place in the grid, is there already.
    """
    cells = tuple(-(-n // c) for n, c in zip(below.shape, below.chunks, strict=True))
    total = math.prod(cells)
    for done, cell in enumerate(np.ndindex(*cells), 1):
        if not has(cell):
            region = tuple(
                slice(i * c, min((i + 1) * c, n))
                for i, c, n in zip(cell, below.chunks, below.shape, strict=True)
            )
            wide = [
                slice(2 * s.start, min(2 * s.stop, n))
                for s, n in zip(region[-2:], above.shape[-2:], strict=True)
            ]
            below[region] = above[(*region[:-2], *wide)][..., ::2, ::2]
        yield done, total


def write_levels(group: Any, first: Any, plan: OutputPlan) -> Generator[tuple[int, int], None, int]:
    """Write the smaller levels of labels where they are not there; yields (done, total) of each.

    Parameters
    ----------
    group
        The Zarr group of the labels.
    first
        The first level.
    plan
        Of the output.

    Returns
    -------
    int
        How many levels there are.
    """
    shapes = level_shapes(plan.grid.shape) if plan.ome else []
    above: Any = first
    for number, shape in enumerate(shapes, 1):
        chunks = tuple(min(c, n) for c, n in zip(plan.grid.chunks, shape, strict=True))
        below = stored_array(group, str(number), shape, chunks, str(first.dtype), plan)

        def has(cell: tuple[int, ...], array: Any = below) -> bool:
            return bool(group.store.has(chunk_key(array, cell)))

        yield from write_level(above, below, has)
        above = below
    return 1 + len(shapes)
