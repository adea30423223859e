"""Lazy arrays that read files plane by plane, with a cache."""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from napari_unetseg.core.errors import UserError

CACHE_BYTES = 256 * 2**20
"""Maximum bytes of cached planes and chunks, of all files together."""
LARGE_PLANE = 64 * 2**20
"""Planes of more bytes are never read whole, only the chunks of a region."""
BOMB_RATIO = 10_000
"""Maximum ratio of declared to stored bytes of a file."""
PROGRAM_ERRORS = (TypeError, AttributeError, NameError, ImportError, NotImplementedError)
"""Exceptions of programming errors, and of calls unknown to another version of a library.

Damaged files raise them too, so the cause is never certain.
"""

Key = tuple[int | slice, ...]


class ArraySource(Protocol):
    """Source of the planes of a `LazyArray`; equal sources hold equal pixels."""

    @property
    def path(self) -> Path:
        """The file, for messages."""

    def read(self, index: tuple[int, ...], region: Key, /) -> np.ndarray:
        """Read a region of the plane at ``index``."""

    def __hash__(self) -> int: ...


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert any exception of a decoder to a one-sentence error."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the name.") from error
    except PermissionError as error:
        raise UserError(f"No permission to read {path}; change its permissions.") from error
    except PROGRAM_ERRORS as error:
        message = "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:120]
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {message}): it is damaged, or a "
            "library is incompatible; copy or save it again, and if other programs can open it, "
            "report this message with the output of 'unetseg --version'."
        ) from error
    except Exception as error:
        raise UserError(
            f"{path} cannot be read: it is damaged, truncated or has the wrong suffix; copy or "
            "save it again."
        ) from error


def check_size(path: Path, declared: int, stored: int | None = None) -> None:
    """Refuse a file whose header declares far more pixels than it can hold.

    Parameters
    ----------
    path
        The file.
    declared
        Bytes of its pixels once decoded.
    stored
        Bytes on disk, if the pixels are in several files.

    Raises
    ------
    UserError
        More than 10,000 declared bytes for each stored one.
    """
    stored = path.stat().st_size if stored is None else stored
    if declared > BOMB_RATIO * max(stored, 1):
        raise UserError(
            f"{path} holds {stored} bytes but declares {declared} bytes of pixels: it is "
            "damaged or malicious; get a new copy from its source."
        )


def check_numbers(path: Path, dtype: np.dtype[Any]) -> None:
    """Refuse values that are neither integers nor floats."""
    if dtype.kind not in "biuf":
        raise UserError(
            f"{path} holds values of type {dtype.name[:40]}; images and labels must be integers "
            "or floats, so convert it."
        )


class _PlaneCache:
    """Cache of the most recent planes with a maximum size; thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._planes: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if key in self._planes:
                self._planes.move_to_end(key)
                return self._planes[key]
        plane = read()
        with self._lock:
            if key not in self._planes:
                self._planes[key] = plane
                self._bytes += plane.nbytes
            while self._bytes > self._limit and len(self._planes) > 1:
                self._bytes -= self._planes.popitem(last=False)[1].nbytes
        return plane

    def clear(self) -> None:
        with self._lock:
            self._planes.clear()
            self._bytes = 0


_cache = _PlaneCache(CACHE_BYTES)


def chunk_cache() -> _PlaneCache:
    """The cache of planes and chunks."""
    return _cache


def clear_cache() -> None:
    """Clear the cache."""
    _cache.clear()


class FileArray:
    """Base class of arrays in files, with ``shape`` and ``dtype``."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def path(self) -> Path:
        """The file or folder; the first of several files."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> np.ndarray:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole decoded array."""
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path.name!r}, {self.shape}, {self.dtype})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self[...]
        return array if dtype is None else array.astype(dtype, copy=False)


class PlaneArray(FileArray):
    """An array that is read by planes, one for each index of its ``leading`` axes."""

    leading: int

    def __getitem__(self, key: Any) -> np.ndarray:
        full, split = full_key(key, self.shape), self.leading
        spans = [span(k, n) for k, n in zip(full, self.shape, strict=True)]
        kept = [len(s) for s, k in zip(spans, full, strict=True) if isinstance(k, slice)]
        inner = kept[sum(isinstance(k, slice) for k in full[:split]) :]
        out = np.empty((math.prod(len(s) for s in spans[:split]), *inner), self.dtype)
        for place, index in enumerate(itertools.product(*spans[:split])):
            out[place] = self._read(index, full[split:])
        return out.reshape(kept)

    def _read(self, index: tuple[int, ...], region: Key) -> np.ndarray:
        raise NotImplementedError


class LazyArray(PlaneArray):
    """An array in a file that is read on indexing.

    It supports integers, slices and an ellipsis like NumPy, and always returns a new array.

    Parameters
    ----------
    source
        Reads a region of one plane.
    shape, dtype
        Shape and dtype of the whole array.
    order
        For each leading axis its position in the file: ``(1, 0)`` swaps two of them. The axes
        that follow make a plane.
    n_leading
        Number of leading axes in the file; those missing in ``order`` have length 1.
    """

    def __init__(
        self,
        source: ArraySource,
        shape: tuple[int, ...],
        dtype: Any,
        order: tuple[int, ...] = (),
        n_leading: int | None = None,
    ) -> None:
        self.shape = tuple(int(s) for s in shape)
        self.dtype = np.dtype(dtype)
        self.source = source
        self.leading = len(order)
        self._order = order
        self._n_leading = len(order) if n_leading is None else n_leading

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    def _read(self, index: tuple[int, ...], region: Key) -> np.ndarray:
        raw = [0] * self._n_leading
        for value, place in zip(index, self._order, strict=True):
            raw[place] = value
        where = tuple(raw)
        plane_shape = self.shape[len(index) :]
        if math.prod(plane_shape) * self.dtype.itemsize > LARGE_PLANE:
            with reading(self.source.path):
                return self.source.read(where, region)
        whole = tuple(slice(None) for _ in plane_shape)

        def load() -> np.ndarray:
            with reading(self.source.path):
                return np.ascontiguousarray(self.source.read(where, whole))

        return _cache.get((self.source, where), load)[region]


class LazyView(FileArray):
    """A lazy view of an array in files; indexing a single plane reads it, else makes a view.

    napari slices the visible region of all planes before it takes one of them.

    Parameters
    ----------
    array
        The array.
    key
        A NumPy index.
    """

    def __init__(self, array: FileArray, key: Any = ...) -> None:
        full = full_key(key, array.shape)
        spans = [range(n)[k] for k, n in zip(full, array.shape, strict=True)]
        self._set(array, tuple(spans))

    def _set(self, array: FileArray, spans: tuple[int | range, ...]) -> None:
        self._array, self._spans, self.dtype = array, spans, array.dtype
        self.shape = tuple(len(s) for s in spans if isinstance(s, range))

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self._array.path

    def __getitem__(self, key: Any) -> Any:
        wanted = iter(full_key(key, self.shape))
        spans = tuple(s[next(wanted)] if isinstance(s, range) else s for s in self._spans)
        part = object.__new__(LazyView)
        part._set(self._array, spans)
        return part if math.prod(part.shape[:-2]) > 1 and part.ndim > 2 else part.read()

    def read(self) -> np.ndarray:
        """Read all of it."""
        return self._array[tuple(s if isinstance(s, int) else _slice(s) for s in self._spans)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)


def _slice(positions: range) -> slice:
    stop = positions.stop if positions.stop >= 0 else None
    return slice(positions.start, stop, positions.step)


def span(key: int | slice, size: int) -> range:
    """The positions along an axis that a key of `full_key` selects."""
    return range(size)[key] if isinstance(key, slice) else range(key, key + 1)


def full_key(key: Any, shape: tuple[int, ...]) -> Key:
    """Convert any key to a nonnegative integer or a slice for each axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    place = parts.index(Ellipsis)
    parts[place : place + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    if len(parts) != len(shape):
        raise IndexError(f"{len(shape)} axes cannot be indexed with {key!r}")
    return tuple(
        k if isinstance(k, slice) else range(n)[int(k)] for k, n in zip(parts, shape, strict=True)
    )
