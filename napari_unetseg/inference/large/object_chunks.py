"""Objects of an output of any size, chunk by chunk: basins, their seams, then their numbers.

Each stage can be done for any chunk in any order once the stage before is done for all, by several
processes too; a chunk is done when its file exists. What is kept between stages lies in a hidden
group of the store: the object maps, the basins of each chunk, and tables of hills and saddles. Only
the tables are in memory at once, when the objects are numbered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Event
from napari_unetseg.data.object_basins import OUTSIDE, Block, basins, hills_of, saddles
from napari_unetseg.data.object_forest import Hills, highest, numbers, united
from napari_unetseg.data.object_heights import Heights, heights_of
from napari_unetseg.inference.tiling import within

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.inference.large.output import Output
    from napari_unetseg.inference.tiling import Region

CHUNK_BITS = 32
"""Bits of a reference to a basin for its number in its chunk; the higher ones are the chunk's."""
OVERLAP = {2: 16, 3: 8}
"""Voxels around a chunk in which its basins are followed and united, so that few are left over."""
FIELDS = ("peaks", "sizes", "cut", "pairs", "low", "high")
Each = Callable[["Stage", Heights, Sequence[int]], Iterator[Event | None]]
"""Does a stage for chunks; yields None after each, and events. A cluster, or this process."""


class Stage(StrEnum):
    """What is done for a chunk."""

    BASINS = "basins"
    SEAMS = "seams"
    IDS = "ids"


def number_objects(
    output: Output, control: JobControl, each: Each | None = None
) -> Iterator[Event]:
    """Number the objects of an output whose masks and object maps are there; resumable.

    Parameters
    ----------
    output
        The output.
    control
        Stops after a chunk.
    each
        Does a stage for chunks; None: this process.

    Yields
    ------
    ChunkPredicted
        For each chunk and stage.
    """
    objects = output.objects
    if objects is None or objects.numbered:
        return
    plan, total = output.plan, len(output.plan.grid)
    settings, structures = plan.model.object_settings, plan.model.classes.objects
    spacing = plan.stack.spatial_spacing(plan.grid.dims)
    how = heights_of(settings, structures, spacing, maps=plan.maps, mask=output.mask)
    for count, stage in enumerate(Stage, 1):
        chunks = ObjectChunks(output, how)
        if stage is Stage.IDS:
            chunks.solve()
        left = [number for number in range(total) if not chunks.done(stage, number)]
        done = count * total + total - len(left)
        for event in (each or chunks.here)(stage, how, left):
            if control.stopped:
                return
            done += event is None
            yield event or ChunkPredicted(done, plan.steps)
            control.wait()
        if control.stopped:
            return
    objects.close()


class ObjectChunks:
    """The stages of an output.

    Parameters
    ----------
    output
        An output in a folder, whose mask and object maps are there.
    how
        How heights are made.
    """

    def __init__(self, output: Output, how: Heights) -> None:
        assert output.objects is not None
        self._mask, self._objects, self._grid = output.mask, output.objects, output.plan.grid
        self._how, self._scratch = how, output.objects.scratch
        self._rim_objects = output.plan.rim_objects

    def here(self, stage: Stage, how: Heights, left: Sequence[int]) -> Iterator[None]:  # noqa: ARG002
        """Do a stage for chunks."""
        for number in left:
            self.do(stage, number)
            yield None

    def done(self, stage: Stage, number: int) -> bool:
        """Whether a stage is done for a chunk."""
        if stage is Stage.IDS:
            return self._objects.has_ids(number)
        return self._table(stage, number).is_file()

    def do(self, stage: Stage, number: int) -> None:
        """Do a stage for a chunk."""
        if stage is Stage.BASINS:
            self._find_basins(number)
        elif stage is Stage.SEAMS:
            self._find_seams(number)
        else:
            self._write_ids(number)

    def solve(self) -> None:
        """Number the objects from the tables of all chunks."""
        if (self._scratch / "ids.npy").is_file():
            return
        count = len(self._grid)
        tables = [_load(self._table(Stage.BASINS, n)) for n in range(count)]
        at_rim = np.concatenate([table.pop("rim") for table in tables])
        parts = [Hills(**table) for table in tables]
        starts = np.cumsum([0, *(len(part.peaks) for part in parts)])
        seams = [_load(self._table(Stage.SEAMS, n)) for n in range(count)]
        refs, low, high = (np.concatenate([s[k] for s in seams]) for k in ("pairs", "low", "high"))
        pairs = starts[refs >> CHUNK_BITS] + (refs & ((1 << CHUNK_BITS) - 1)) - 1
        del seams, refs
        hills = Hills.joined(parts, pairs, low, high)
        del tables, parts, pairs, low, high
        now, hills = united(hills, self._how.prominence)
        left_out = np.zeros(len(hills.peaks), bool)
        if not self._rim_objects:
            left_out[now[at_rim]] = True
        ids = numbers(hills, self._how.smallest, left_out)[now]
        if ids.max(initial=0) >= 2**32:
            raise UserError("There are too many objects for 32 bits; predict parts of the image.")
        self._objects.make("uint16" if ids.max(initial=0) < 2**16 else "uint32")
        _save(self._scratch / "starts.npy", lambda path: np.save(path, starts))
        _save(self._scratch / "ids.npy", lambda path: np.save(path, ids.astype(np.uint32)))

    def _find_basins(self, number: int) -> None:
        plane, region = self._grid.place(number)
        around = _grown(region, (OVERLAP[len(region)],) * len(region), self._grid.spatial)
        labels, hills = basins(self._block(plane, around))
        now, _ = united(hills, self._how.prominence)
        labels = np.concatenate([[0], now + 1])[labels][within(region, around)]
        present, found = np.unique(labels, return_inverse=True)
        labels = found.reshape(labels.shape) + (1 if len(present) and present[0] else 0)
        hills = hills_of(self._block(plane, region), labels)
        self._objects.write_basins(number, labels.astype(np.uint32))
        table = {name: getattr(hills, name) for name in FIELDS}
        table["rim"] = self._at_rim(labels, region, len(hills.peaks))
        _save(self._table(Stage.BASINS, number), lambda path: np.savez_compressed(path, **table))

    def _at_rim(self, labels: np.ndarray, region: Region, count: int) -> np.ndarray:
        """Whether each basin of a chunk touches the rim of the image in Y or X."""
        at_rim = np.zeros(count + 1, bool)
        for axis in (-2, -1):
            if region[axis].start == 0:
                at_rim[labels.take(0, axis)] = True
            if region[axis].stop == self._grid.spatial[axis]:
                at_rim[labels.take(-1, axis)] = True
        return at_rim[1:]

    def _block(self, plane: tuple[int, ...], region: Region) -> Block:
        wide = _grown(region, (1,) * len(region), self._grid.spatial)
        rim = [
            (1 - (r.start - w.start), 1 - (w.stop - r.stop))
            for r, w in zip(region, wide, strict=True)
        ]
        heights, mask = self._heights(plane, wide)
        return Block(
            np.pad(heights, rim, constant_values=OUTSIDE),
            np.pad(mask, rim),
            tuple(s.start for s in region),
            self._grid.spatial,
            self._first(plane),
        )

    def _find_seams(self, number: int) -> None:
        plane, region = self._grid.place(number)
        found = [
            self._seam(plane, region, axis)
            for axis, size in enumerate(self._grid.spatial)
            if region[axis].stop < size
        ]
        none = (np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
        pairs, low, high = highest(
            *(np.concatenate(part) for part in zip(none, *found, strict=True))
        )
        _save(
            self._table(Stage.SEAMS, number),
            lambda path: np.savez_compressed(path, pairs=pairs, low=low, high=high),
        )

    def _seam(
        self, plane: tuple[int, ...], region: Region, axis: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Saddles between a chunk and those after it along an axis."""
        slab = list(_grown(region, (1,) * len(region), self._grid.spatial))
        slab[axis] = slice(region[axis].stop - 1, region[axis].stop + 1)
        heights, mask = self._heights(plane, tuple(slab))
        start = tuple(s.start + 1 for s in slab)  # it has no rim
        block = Block(heights, mask, start, self._grid.spatial, self._first(plane))
        inner = list(within(region, tuple(slab)))
        inner[axis] = slice(0, 1)
        one, other = _facing(heights > OUTSIDE, inner, axis)
        return saddles(block, self._references(plane, tuple(slab)), one, other)

    def _write_ids(self, number: int) -> None:
        plane, region = self._grid.place(number)
        starts = np.load(self._scratch / "starts.npy")
        every = np.load(self._scratch / "ids.npy", mmap_mode="r")
        ids = np.concatenate([[0], every[starts[number] : starts[number + 1]]])
        labels = np.asarray(self._objects.basins[(*plane, *region)])
        self._objects.write_ids(number, ids[labels])

    def _heights(self, plane: tuple[int, ...], region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Heights and mask of a region."""
        wide = _grown(region, self._how.halo, self._grid.spatial)
        mask = np.asarray(self._mask[(*plane, *wide)])
        maps = None
        if self._how.maps:
            maps = np.asarray(self._objects.maps[(slice(None), *plane, *wide)])
        inner = within(region, wide)
        return self._how.of(mask, maps)[inner], mask[inner]

    def _references(self, plane: tuple[int, ...], region: Region) -> np.ndarray:
        """Basins of a region, as the number of the chunk and the number in it."""
        chunks = np.array(np.ravel_multi_index((*plane, *(0,) * len(region)), self._grid.cells))
        for along, (span, edge, step) in enumerate(
            zip(region, self._grid.chunk, _steps(self._grid.cells)[-len(region) :], strict=True)
        ):
            cells = np.arange(span.start, span.stop) // edge * step
            chunks = chunks + cells.reshape([-1 if a == along else 1 for a in range(len(region))])
        labels = np.asarray(self._objects.basins[(*plane, *region)]).astype(np.int64)
        return labels | (chunks << CHUNK_BITS)

    def _first(self, plane: tuple[int, ...]) -> int:
        """Flat index of the first voxel of a plane or volume."""
        leading = self._grid.shape[: -self._grid.dims]
        number = int(np.ravel_multi_index(plane, leading)) if plane else 0
        return number * int(np.prod(self._grid.spatial, dtype=np.int64))

    def _table(self, stage: Stage, number: int) -> Path:
        return self._scratch / str(stage) / f"{number}.npz"


def _facing(inside: np.ndarray, inner: Sequence[slice], axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of neighbours on both sides of a seam, one side within ``inner``."""
    index = np.arange(inside.size).reshape(inside.shape)
    ones, others = [], []
    for offset in product((-1, 0, 1), repeat=inside.ndim - 1):
        steps = [*offset[:axis], 1, *offset[axis:]]
        here = tuple(
            slice(max(s.start, -o), min(s.stop, n - o))
            for s, o, n in zip(inner, steps, inside.shape, strict=True)
        )
        there = tuple(slice(s.start + o, s.stop + o) for s, o in zip(here, steps, strict=True))
        both = inside[here] & inside[there]
        ones.append(index[here][both])
        others.append(index[there][both])
    return np.concatenate(ones), np.concatenate(others)


def _grown(region: Region, by: Sequence[int], shape: Sequence[int]) -> Region:
    """A region with so many voxels more on every side, within the image."""
    return tuple(
        slice(max(0, s.start - more), min(n, s.stop + more))
        for s, more, n in zip(region, by, shape, strict=True)
    )


def _steps(cells: Sequence[int]) -> list[int]:
    """Chunks from one to the next along each axis."""
    return [int(np.prod(cells[axis + 1 :], dtype=np.int64)) for axis in range(len(cells))]


def _save(path: Path, write: Callable[[Path], object]) -> None:
    with atomic_path(path) as temporary:
        write(temporary)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as table:
            return dict(table)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or missing; delete it and give the same command again."
        ) from error
