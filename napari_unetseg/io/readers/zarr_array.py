"""Lazy Zarr array of a folder, with a chunk cache."""

from __future__ import annotations

import itertools
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.readers.lazy_array import (
    BOMB_RATIO,
    FileArray,
    chunk_cache,
    full_key,
    reading,
    span,
)
from napari_unetseg.io.readers.zarr_nodes import Node, inside, read_node

SMALL_CHUNK = 256 * 2**20
"""Smaller chunks may be compressed to any size: a constant chunk takes hardly any bytes."""
MOST_COUNTED = 200_000
"""Arrays with more files are not searched for missing ones."""


@dataclass(frozen=True, slots=True)
class MissingChunks:
    """Missing files of an array, whose voxels have the fill value.

    ``first`` is the path of one of them, relative to the array's folder.
    """

    count: int
    total: int
    first: str


@dataclass(frozen=True, slots=True)
class _Source:
    """An array in a store; ``stamp`` identifies the version of its metadata."""

    path: Path
    root: Path
    stamp: tuple[int, int]


@lru_cache(maxsize=64)
def _opened(source: _Source) -> Any:
    """The array opened with Zarr."""
    from napari_unetseg.io.readers.zarr_codecs import open_checked

    node = read_node(source.path, source.root)
    if node.stamp != source.stamp:
        raise UserError(f"{source.path} was changed since it was opened; open it again.")
    return open_checked(node)


class ZarrArray(FileArray):
    """An array in a Zarr store that is read on indexing.

    It supports integers, slices and an ellipsis like NumPy, and always returns a new array in
    native byte order. Missing chunks have the fill value. It is thread-safe and can be copied to
    other processes and computers.

    Parameters
    ----------
    node
        An array node from `read_node`.
    order
        For each axis its position in the file; missing axes have length 1.

    Raises
    ------
    UserError
        A codec is not supported.
    """

    def __init__(self, node: Node, order: tuple[int, ...] | None = None) -> None:
        self._source = _Source(node.path, node.root, node.stamp)
        self._order = tuple(range(len(node.shape))) if order is None else order
        self._file_shape, self._file_chunks = node.shape, node.chunks
        self._per_file = tuple(f // c for f, c in zip(node.files, node.chunks, strict=True))
        self.shape = tuple(node.shape[i] for i in self._order)
        self.chunks = tuple(node.chunks[i] for i in self._order)
        self.dtype = node.dtype.newbyteorder("=")
        _opened(self._source)

    @property
    def path(self) -> Path:
        """The array's folder."""
        return self._source.path

    def __getitem__(self, key: Any) -> np.ndarray:
        full = full_key(key, self.shape)
        spans = [span(k, n) for k, n in zip(full, self.shape, strict=True)]
        out = np.empty([len(s) for s in spans], self.dtype)
        pieces = [list(_split(s, c)) for s, c in zip(spans, self.chunks, strict=True)]
        for combined in itertools.product(*pieces):
            cell, inner, outer = zip(*combined, strict=True) if combined else ((), (), ())
            out[outer] = self._chunk(cell)[inner]
        return out.reshape([len(s) for s, k in zip(spans, full, strict=True) if not _single(k)])

    def _chunk(self, cell: tuple[int, ...]) -> Any:
        """A chunk with its axes in output order; a missing one is the broadcast fill value."""
        place = [0] * len(self._file_shape)
        for value, axis in zip(cell, self._order, strict=True):
            place[axis] = value
        array = _opened(self._source)
        name = array.metadata.encode_chunk_key(
            tuple(p // n for p, n in zip(place, self._per_file, strict=True))
        )
        region = tuple(
            slice(p * c, min(p * c + c, n))
            for p, c, n in zip(place, self._file_chunks, self._file_shape, strict=True)
        )
        shape = tuple(s.stop - s.start for s in region)
        state = self._stored(name)
        if state is None:
            chunk = np.broadcast_to(np.asarray(array.fill_value or 0, self.dtype), shape)
        else:

            def load() -> np.ndarray:
                with reading(self._source.path / name):
                    return np.ascontiguousarray(array[region], self.dtype)

            chunk = chunk_cache().get((self._source, tuple(place), state), load)
        taken = tuple(slice(None) if i in self._order else 0 for i in range(len(place)))
        left = [i for i in range(len(place)) if i in self._order]
        return chunk[taken].transpose([left.index(i) for i in self._order])

    def _stored(self, name: str) -> tuple[int, int] | None:
        """The state of the file of a chunk, checked before reading; None if it is missing."""
        path = self._source.path / name
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"No permission to read {path}; change its permissions.") from error
        if not inside(path, self._source.root):
            raise UserError(
                f"{path} is a link to a place outside {self._source.root}; put the file "
                "itself there."
            )
        size = math.prod(self._file_chunks) * self.dtype.itemsize
        most = 2 * size * math.prod(self._per_file) + 2**24
        few = size > max(SMALL_CHUNK, 4 * BOMB_RATIO * status.st_size)
        if not stat.S_ISREG(status.st_mode) or few or status.st_size > most:
            raise UserError(
                f"{path} holds {status.st_size:,} bytes, too many for a chunk of {size:,} "
                "bytes: it is damaged or malicious; get a new copy from its source."
            )
        return status.st_mtime_ns, status.st_size

    def missing(self) -> MissingChunks | None:
        """Count the missing chunk files; None if there are too many files."""
        metadata = _opened(self._source).metadata
        shape = zip(self._file_shape, self._file_chunks, self._per_file, strict=True)
        counts = [-(-n // (c * p)) for n, c, p in shape]
        total = math.prod(counts)
        if total > MOST_COUNTED:
            return None
        names = (metadata.encode_chunk_key(c) for c in np.ndindex(*counts))
        gone = [name for name in names if not (self._source.path / name).exists()]
        return MissingChunks(len(gone), total, gone[0] if gone else "")

    def has_no_chunks(self) -> bool:
        """Whether no chunk is stored: the folder holds only metadata."""
        try:
            return all(
                entry.name.startswith(".") or entry.name == "zarr.json"
                for entry in self._source.path.iterdir()
            )
        except OSError:
            return False


def _single(key: int | slice) -> bool:
    return not isinstance(key, slice)


def _split(span: range, chunk: int) -> Iterator[tuple[int, slice, slice]]:
    """Split an axis selection by chunks: chunk index, its positions, output positions."""
    if span.step < 0:
        for cell, inner, outer in _split(span[::-1], chunk):
            last = len(span) - 1
            stop = last - outer.stop
            yield cell, inner, slice(last - outer.start, stop if stop >= 0 else None, -1)
        return
    done = 0
    while done < len(span):
        first = span[done]
        cell = first // chunk
        end = (cell + 1) * chunk
        count = min(len(span) - done, -(-(end - first) // span.step))
        start = first - cell * chunk
        inner = slice(start, start + (count - 1) * span.step + 1, span.step)
        yield cell, inner, slice(done, done + count)
        done += count
