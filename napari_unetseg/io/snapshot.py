"""Truths of images as sparse Zarr (version 3) arrays: a chunk only where something was said.

    <folder>/<image>/<origin>          what was said, chunks of 1 × … × 256 × 256 voxels
    <folder>/<image>/<origin>.times    when, uint32

Any reader of Zarr opens them; every chunk has a checksum, CRC-32C. They are read back only if their
metadata are exactly such as are written here: no other codec is ever run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from napari_unetseg.annotations.annotation_store import Change, Origin, Truth
from napari_unetseg.annotations.sparse_array import CHUNK, Cell, Region, SparseGrid

__all__ = ["read_truth", "write_truth"]

CODECS = ["bytes", "blosc", "crc32c"]
OLDER = CODECS[:2]
"""What snapshots were written with before there were checksums."""
MOST_METADATA = 2**16


def write_truth(folder: Path, truth: Truth, dtype: str) -> None:
    """Write all that was said about an image into a new folder; `OSError` when it cannot be.

    ``dtype`` is the strokes': the layer may be replaced meanwhile, which the journal knows.
    """
    for origin in Origin:
        kind = np.dtype(dtype if origin is Origin.STROKES else np.uint8)
        values = _array(folder / origin, truth.shape, kind)
        times = _array(folder / f"{origin}.times", truth.shape, np.dtype(np.uint32))
        for cell, chunk, stamps in truth.chunks(origin):
            region = truth.grid(origin).region_of(cell)
            if chunk is not None:
                values[region] = chunk.astype(kind, copy=False)
            if stamps is not None:
                times[region] = stamps


def _array(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    return zarr.create_array(
        str(path),
        shape=tuple(shape),
        dtype=dtype,
        chunks=_chunks(shape),
        fill_value=0,
        compressors=(BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle"), Crc32cCodec()),
        config={"write_empty_chunks": False},
    )


def _chunks(shape: Sequence[int]) -> tuple[int, ...]:
    return (*(1 for _ in shape[:-2]), CHUNK, CHUNK)


def read_truth(folder: Path, truth: Truth) -> Iterator[str]:
    """Put what `write_truth` wrote into a truth of the same shape.

    Yields
    ------
    str
        What could not be read: an array that is not as it was written (another shape, type or
        codec), or a damaged chunk; the rest is read.
    """
    for origin in Origin:
        grid = truth.grid(origin)
        try:
            values = _open(folder / origin, truth.shape, grid.dtype)
            times = _open(folder / f"{origin}.times", truth.shape, np.dtype(np.uint32))
            cells = {*_cells(folder / origin, grid), *_cells(folder / f"{origin}.times", grid)}
        except ValueError as error:
            yield str(error)
            continue
        for cell in sorted(cells):
            region = grid.region_of(cell)
            try:
                chunk = _read(values, folder / origin, cell, region)
                stamps = _read(times, folder / f"{origin}.times", cell, region)
            except ValueError as error:
                yield str(error)
                continue
            newest = int(stamps.max(initial=0))
            truth.put(Change(origin, region, chunk, newest, stamps))


def _read(array: Any, path: Path, cell: Cell, region: Region) -> np.ndarray:
    """A chunk, if its file says that it holds as many bytes as it must; before they are made."""
    file = path.joinpath("c", *map(str, cell))
    if file.is_file():
        with file.open("rb") as opened:
            header = opened.read(16)
        wanted = int(np.prod(_chunks(array.shape))) * array.dtype.itemsize
        if len(header) < 16 or int.from_bytes(header[4:8], "little") != wanted:
            raise ValueError(f"a chunk of {path.name} is damaged")
    try:
        return np.asarray(array[region])
    except Exception as error:  # whatever the codec says of damaged bytes
        raise ValueError(f"a chunk of {path.name} is damaged") from error


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array, if its metadata say what they must."""
    metadata = path / "zarr.json"
    if path.is_symlink() or metadata.is_symlink():
        raise ValueError(f"{path.name} is a link")
    if not metadata.is_file() or metadata.stat().st_size > MOST_METADATA:
        raise ValueError(f"{path.name} has no metadata")
    try:
        said = json.loads(metadata.read_text())
        wanted = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype.name,
            "fill_value": 0,
        }
        fits = all(said[key] == value for key, value in wanted.items())
        grid, keys = said["chunk_grid"], said["chunk_key_encoding"]
        fits = fits and grid["name"] == "regular"
        fits = fits and grid["configuration"]["chunk_shape"] == list(_chunks(shape))
        fits = fits and keys == {"name": "default", "configuration": {"separator": "/"}}
        fits = fits and [codec["name"] for codec in said["codecs"]] in (CODECS, OLDER)
        fits = fits and not said.get("storage_transformers")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} has metadata that are not ours") from error
    if not fits:
        raise ValueError(f"{path.name} has metadata that are not ours")
    return zarr.open_array(str(path), mode="r")


def _cells(path: Path, grid: SparseGrid) -> Iterator[Cell]:
    """Places of the chunks that are stored."""
    last = tuple(-(-n // c) for n, c in zip(grid.shape, _chunks(grid.shape), strict=True))
    folder = path / "c"
    for file in folder.rglob("*") if folder.is_dir() else ():
        parts = file.relative_to(folder).parts
        if file.is_symlink():
            raise ValueError(f"{path.name} holds a link")
        if len(parts) != len(last) or not file.is_file():
            continue
        if not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
            continue
        cell = tuple(int(part) for part in parts)
        if all(c < n for c, n in zip(cell, last, strict=True)):
            yield cell
