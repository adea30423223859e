"""Zarr arrays with one file a chunk, and errors that name damaged ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from napari_unetseg.core.errors import UserError
from napari_unetseg.inference.large import ome_metadata

if TYPE_CHECKING:
    from napari_unetseg.inference.large.output_plan import OutputPlan


class ReadArray:
    """A read-only array, whose errors name the damaged chunk.

    Parameters
    ----------
    array
        A Zarr array.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.chunks: tuple[int, ...] = array.chunks
        self.dtype, self.ndim = np.dtype(array.dtype), len(array.shape)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._array[key]
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:
            raise UserError(
                f"{self._damaged()} is damaged; delete it and give the same command again."
            ) from error

    def _damaged(self) -> str:
        """The first chunk that cannot be read."""
        cells = tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        for cell in np.ndindex(*cells):
            region = (slice(i * c, (i + 1) * c) for i, c in zip(cell, self.chunks, strict=True))
            try:
                self._array[tuple(region)]
            except Exception:  # noqa: BLE001 - whatever a codec raises
                return f"{self._array.store}/{chunk_key(self._array, cell)}"
        return f"{self._array.store}/{self._array.path}"


def stored_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    plan: OutputPlan,
) -> Any:
    """An array of a group, made where it is not there; every chunk of it will be a file."""
    config: Any = {"write_empty_chunks": True}
    if name in group:
        path = f"{group.path}/{name}".lstrip("/")
        return zarr.open_array(group.store, path=path, mode="r+", config=config)
    names = ome_metadata.axis_names(plan.stack) if plan.ome else None
    if names is not None and len(shape) > len(names):
        names.insert(plan.class_axis, "c")
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=0,
        compressors=ZstdCodec(level=1),
        dimension_names=names,
        config=config,
    )


def chunk_key(array: Any, cell: tuple[int, ...]) -> str:
    """The key of a chunk in its store."""
    return "/".join([array.path, "c", *map(str, cell)])
