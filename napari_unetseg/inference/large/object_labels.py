"""Storage of an output's objects: ``labels/objects``, and what is kept until they are numbered."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from napari_unetseg.core.errors import UserError
from napari_unetseg.inference.large import ome_metadata
from napari_unetseg.inference.large.output_plan import OURS, SCHEMA
from napari_unetseg.inference.large.pyramid import write_levels
from napari_unetseg.inference.large.stored_array import ReadArray, chunk_key, stored_array

if TYPE_CHECKING:
    import numpy as np

    from napari_unetseg.inference.large.output_plan import OutputPlan

NAME = "objects"
"""Of the labels."""
SCRATCH = ".objects.unetseg"
"""Hidden group of what is deleted when the objects are numbered."""


class ObjectLabels:
    """Numbers of the objects of an output, chunk by chunk.

    Parameters
    ----------
    plan
        Its plan, with objects.
    root
        Its root group, in a folder.
    source
        Whether the image that they belong to is the root.
    """

    def __init__(self, plan: OutputPlan, root: zarr.Group, *, source: bool) -> None:
        self._plan, self._root, self._source = plan, root, source
        self._store: Any = root.store
        self._ids: Any = None
        self._maps: Any = None
        self._basins: Any = None
        if (self.folder / "labels" / NAME / "0" / "zarr.json").is_file():
            self._group = zarr.open_group(self._store, path=f"labels/{NAME}", mode="r+")
            self._ids = zarr.open_array(
                self._store, path=f"labels/{NAME}/0", mode="r+", config={"write_empty_chunks": True}
            )
        if not self.numbered:
            self._open_scratch()

    @property
    def folder(self) -> Path:
        """The folder of the store; `UserError` where it is in none."""
        root = getattr(self._store, "root", None)
        if not isinstance(root, Path):
            raise UserError("Objects can be numbered only in a folder; choose one as output.")
        return root

    @property
    def scratch(self) -> Path:
        """Folder of what is kept until the objects are numbered."""
        return self.folder / SCRATCH

    @property
    def numbered(self) -> bool:
        """Whether all chunks are there, so that nothing else is needed."""
        if self._ids is None:
            return False
        state: Any = self._group.attrs[OURS]
        return bool(state["finished"])

    @property
    def ids(self) -> Any:
        """The numbers, read-only: uint16 or uint32."""
        return ReadArray(self._ids)

    @property
    def maps(self) -> Any:
        """The object maps (2, *grid), uint8, read-only."""
        return ReadArray(self._maps)

    @property
    def basins(self) -> Any:
        """Numbers of each chunk's basins, uint32, read-only."""
        return ReadArray(self._basins)

    def has(self, number: int) -> bool:
        """Whether a chunk is there: its numbers, or, until all have them, its object maps."""
        if self.numbered:
            return self.has_ids(number)
        return self._maps is None or self._has(self._maps, (0, *self._plan.grid.cell(number)))

    def has_ids(self, number: int) -> bool:
        """Whether the numbers of a chunk are there."""
        return self._ids is not None and self._has(self._ids, self._plan.grid.cell(number))

    def write_maps(self, number: int, maps: np.ndarray) -> None:
        """Store the object maps of a chunk."""
        if self._maps is not None:
            self._maps[(slice(None), *self._index(number))] = maps

    def write_basins(self, number: int, basins: np.ndarray) -> None:
        """Store the basins of a chunk."""
        self._basins[self._index(number)] = basins

    def write_ids(self, number: int, ids: np.ndarray) -> None:
        """Store the numbers of a chunk."""
        self._ids[self._index(number)] = ids

    def make(self, dtype: str) -> None:
        """Make the labels, where they are not there."""
        if self._ids is not None:
            return
        plan = self._plan
        said: dict[str, Any] = {OURS: {"schema": SCHEMA, "finished": False}}
        if plan.ome:
            label = {"source": {"image": "../../"}} if self._source else {}
            levels = ome_metadata.multiscales(plan.stack, 1)
            said["ome"] = {"version": ome_metadata.VERSION, "multiscales": levels}
            said["ome"]["image-label"] = label
        labels = zarr.open_group(self._store, path="labels")
        group = labels.create_group(NAME, attributes=said, overwrite=True)
        self._ids = stored_array(group, "0", plan.grid.shape, plan.grid.chunks, dtype, plan)
        self._group = group

    def close(self) -> None:
        """Mark them as numbered."""
        self._group.update_attributes({OURS: {"schema": SCHEMA, "finished": True}})

    def finish(self) -> Iterator[tuple[int, int]]:
        """Write the smaller levels, and delete what is no longer needed; yields (done, total)."""
        plan = self._plan
        levels = yield from write_levels(self._group, self.ids, plan)
        if plan.ome:
            said: Any = self._group.attrs.asdict()
            said["ome"]["multiscales"] = ome_metadata.multiscales(plan.stack, levels)
            self._group.update_attributes(said)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _open_scratch(self) -> None:
        plan, grid = self._plan, self._plan.grid
        group = self._root.require_group(SCRATCH)
        if plan.maps:
            shape, chunks = (2, *grid.shape), (2, *grid.chunks)
            self._maps = stored_array(group, "maps", shape, chunks, "uint8", plan)
        self._basins = stored_array(group, "basins", grid.shape, grid.chunks, "uint32", plan)

    def _index(self, number: int) -> tuple[Any, ...]:
        plane, region = self._plan.grid.place(number)
        return (*plane, *region)

    def _has(self, array: Any, cell: tuple[int, ...]) -> bool:
        return bool(self._store.has(chunk_key(array, cell)))


def remove_objects(root: zarr.Group) -> None:
    """Delete the objects of another plan that this program made, and what was kept for them."""
    labels = root.get("labels")
    if isinstance(labels, zarr.Group) and NAME in labels and OURS in labels[NAME].attrs:
        ome: Any = labels.attrs.get("ome", {})
        names = [name for name in ome.get("labels", []) if name != NAME]
        labels.update_attributes({"ome": {**ome, "labels": names}})
        del labels[NAME]
    if SCRATCH in root:
        del root[SCRATCH]
