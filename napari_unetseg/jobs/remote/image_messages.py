"""Remote images, read lazily in cached pieces.

A piece is 256 × 256 pixels of one plane, with all channels; pieces with a known hash are not sent
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.sparse_array import CHUNK
from napari_unetseg.core.image_stack import CHANNEL_AXES, Stack
from napari_unetseg.core.pixel_access import native
from napari_unetseg.jobs.remote.packets import BadMessageError, Json

if TYPE_CHECKING:
    from napari_unetseg.jobs.remote.recent import Recent

BATCH_BYTES = 16 * 2**20
"""Bytes of pieces in one message."""

Cell = tuple[int, ...]
"""Index of a piece along each axis of the image."""
Piece = tuple[str, np.ndarray | None]
"""Hash of a piece, and its pixels unless cached."""
Request = Callable[[Sequence[Cell], bool], dict[Cell, Piece]]
"""Requests pieces; True: with pixels even if they were sent before."""


def encode_stack(stack: Stack, number: int) -> Json:
    """Metadata of an image."""
    return {
        "number": number,
        "shape": [int(size) for size in stack.data.shape],
        "dtype": str(_plain(np.dtype(stack.data.dtype))),
        "axes": stack.axes,
        "spacing": [float(size) for size in stack.spacing],
        "units": list(stack.units),
        "channels": list(stack.channels),
        "name": stack.name,
        "translate": [float(place) for place in stack.translate],
        "colors": list(stack.colors),
    }


def decode_stack(words: Json, store: Recent[np.ndarray], ask: Request) -> Stack:
    """A lazy stack from metadata, whose pixels are requested when read."""
    try:
        pieces = Pieces(words["shape"], words["dtype"], words["axes"], store, ask)
        names = ("spacing", "units", "channels", "translate", "colors")
        values = {name: tuple(words[name]) for name in names}
        return Stack(pieces, words["axes"], name=words["name"], **values)
    except (KeyError, TypeError, ValueError) as error:
        raise BadMessageError("an image that is none") from error


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Native dtype of at most 8 bytes in which pixels are sent."""
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    return native(np.zeros(1, dtype)).dtype


def _edges(shape: Sequence[int], axes: str) -> tuple[int, ...]:
    """Size of a piece along each axis."""
    return tuple(
        size if axis in CHANNEL_AXES else min(size, CHUNK) if axis in "YX" else 1
        for size, axis in zip(shape, axes, strict=True)
    )


def cut(stack: Stack, cells: Sequence[Cell]) -> Iterator[dict[Cell, np.ndarray]]:
    """Read pieces of an image, about 16 MB at a time; those of one plane together."""
    shape, dtype = stack.data.shape, _plain(np.dtype(stack.data.dtype))
    edges = _edges(shape, stack.axes)
    size = dtype.itemsize * int(np.prod(edges))
    flat = [n for n, axis in enumerate(stack.axes) if axis not in "YX"]
    batch: dict[Cell, np.ndarray] = {}
    for group in _groups(sorted(set(cells)), flat, max(1, BATCH_BYTES // size)):
        spans = [
            (min(c[n] for c in group) * edge, min((max(c[n] for c in group) + 1) * edge, size))
            for n, (edge, size) in enumerate(zip(edges, shape, strict=True))
        ]
        box = native(stack.data[tuple(slice(*span) for span in spans)]).astype(dtype, copy=False)
        for cell in group:
            starts = [c * e - span[0] for c, e, span in zip(cell, edges, spans, strict=True)]
            batch[cell] = box[tuple(slice(a, a + e) for a, e in zip(starts, edges, strict=True))]
        if len(batch) * size >= BATCH_BYTES:
            yield batch
            batch = {}
    if batch:
        yield batch


def _groups(cells: list[Cell], flat: list[int], most: int) -> Iterator[list[Cell]]:
    group: list[Cell] = []
    for cell in cells:
        other = group and any(cell[n] != group[0][n] for n in flat)
        if group and (other or len(group) >= most):
            yield group
            group = []
        group.append(cell)
    if group:
        yield group


def hash_of(piece: np.ndarray) -> str:
    """Hash of a piece's pixels."""
    head = f"{piece.dtype.str}{piece.shape}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(piece).data, digest_size=16).hexdigest()


class Pieces:
    """Lazy pixels of a remote image.

    Parameters
    ----------
    shape, dtype, axes
        As in `Stack`.
    store
        Cache of pieces.
    ask
        Requests missing pieces.
    """

    def __init__(
        self, shape: Sequence[int], dtype: str, axes: str, store: Recent[np.ndarray], ask: Request
    ) -> None:
        self.shape, self.dtype = tuple(int(size) for size in shape), np.dtype(dtype)
        if self.dtype.kind not in "buif":
            raise ValueError("no pixels")
        self._edges, self._store, self._ask = _edges(self.shape, axes), store, ask
        self._hashes: dict[Cell, str] = {}

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a region, of indices and slices."""
        given = index if isinstance(index, tuple) else (index,)
        wanted = (*given, *(slice(None),) * (self.ndim - len(given)))
        places = [_span(one, size) for one, size in zip(wanted, self.shape, strict=True)]
        box = self._box([span for span, _ in places])
        found: np.ndarray = box[tuple(inner for _, inner in places)]
        return found

    def _box(self, spans: list[tuple[int, int]]) -> np.ndarray:
        box = np.zeros([stop - start for start, stop in spans], self.dtype)
        if not box.size:
            return box
        along = [
            range(start // edge, -(-stop // edge))
            for (start, stop), edge in zip(spans, self._edges, strict=True)
        ]
        for cell, piece in self._fetch(list(product(*along))).items():
            into, of = [], []
            for c, edge, (start, stop), size in zip(
                cell, self._edges, spans, piece.shape, strict=True
            ):
                low, high = max(start, c * edge), min(stop, c * edge + size)
                into.append(slice(low - start, high - start))
                of.append(slice(low - c * edge, high - c * edge))
            box[tuple(into)] = piece[tuple(of)]
        return box

    def _fetch(self, cells: list[Cell]) -> dict[Cell, np.ndarray]:
        """Pieces from the cache, or requested."""
        found = {cell: self._store.get(self._hashes.get(cell)) for cell in cells}
        for whole in (False, True):
            if missing := [cell for cell, piece in found.items() if piece is None]:
                for cell, (name, piece) in self._ask(missing, whole).items():
                    if piece is not None:
                        self._check(cell, piece)
                        self._store.put(name, piece, piece.nbytes)
                    self._hashes[cell] = name
                    found[cell] = piece if piece is not None else self._store.get(name)
        there = {cell: piece for cell, piece in found.items() if piece is not None}
        if len(there) < len(cells):
            raise BadMessageError("less of an image than was asked for")
        return there

    def _check(self, cell: Cell, piece: np.ndarray) -> None:
        ends = zip(cell, self._edges, self.shape, strict=True)
        shape = tuple(min(edge, size - c * edge) for c, edge, size in ends)
        if piece.shape != shape or piece.dtype != self.dtype:
            raise BadMessageError("a piece of another image")


def _span(index: Any, size: int) -> tuple[tuple[int, int], Any]:
    """The slice of pieces to read along an axis, and the slice to take of them."""
    if isinstance(index, slice):
        places = range(size)[index]
        if not places:
            return (0, 0), slice(0, 0)
        low, high = min(places[0], places[-1]), max(places[0], places[-1]) + 1
        return (low, high), slice(places[0] - low, None, places.step)
    place = range(size)[int(index)]
    return (place, place + 1), 0
