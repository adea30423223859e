"""Compressed, checksummed rows of label changes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.blosc import Blosc

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
)
from napari_unetseg.annotations.sparse_array import parts, within

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region

MAX_VOXELS = 2**22
"""Maximum voxels of a row: a fill of 2048 x 2048."""
SIZES = struct.Struct("<4xI4xI")
"""Sizes in a Blosc header: of the decoded array and of the buffer."""
FAST = Blosc("lz4", clevel=1, shuffle=Blosc.NOSHUFFLE)
SMALL = Blosc("zstd", clevel=1, shuffle=Blosc.NOSHUFFLE)
Columns = tuple[Any, ...]
"""A row of the table ``labels``."""


def split_change(change: AnnotationChange) -> Iterator[AnnotationChange]:
    """Split a change into its chunks if it is too large for a row."""
    if change.values.size <= MAX_VOXELS:
        yield change
        return
    for part in parts(change.region):
        at = within(part, change.region)
        stamps = None if change.stamps is None else change.stamps[at]
        yield AnnotationChange(change.origin, part, change.values[at], change.stamp, stamps)


def columns_of(
    number: int, image: str, change: AnnotationChange, dtype: np.dtype[Any], codec: Blosc = FAST
) -> Columns:
    """Encode a change of a region as a row.

    Parameters
    ----------
    number
        The row's id; rows are read in the order of their ids.
    image
        Key of the image.
    change
        Values and their times.
    dtype
        Dtype of the labels.
    codec
        `FAST` while the user waits, else `SMALL`.
    """
    region = region_text(change.region)
    labels = encode_array(change.values, dtype, codec)
    times = (
        None if change.stamps is None else encode_array(change.stamps, np.dtype(np.uint32), codec)
    )
    header = (image, str(change.origin), region, int(change.stamp))
    return (number, *header, labels, times, _crc(header, labels, times))


def change_of(
    columns: Columns, by_image: Mapping[str, ImageAnnotations]
) -> tuple[int, str, AnnotationChange]:
    """Id, image and change of a row; `ValueError` and others if it is damaged."""
    number, image, origin, text, stamp, labels, times, crc = columns
    if crc != _crc((image, origin, text, stamp), labels, times):
        raise ValueError("a checksum is another")
    if not 0 < number < 2**53 or type(stamp) is not int or not 0 <= stamp < 2**32:
        raise ValueError("an id or a time is none")
    grid = by_image[image].grid(LabelSource(origin))
    region = parse_region(text, grid.shape)
    shape = [s.stop - s.start for s in region]
    values = decode_array(labels, shape, grid.dtype)
    stamps = None if times is None else decode_array(times, shape, np.dtype(np.uint32))
    return number, image, AnnotationChange(LabelSource(origin), region, values, stamp, stamps)


def region_text(region: Region) -> str:
    """A region as text, as `parse_region` takes it."""
    return ",".join([f"{s.start}:{s.stop}" for s in region])


def parse_region(text: str, shape: Sequence[int]) -> Region:
    """A region of a grid; `ValueError` if it is invalid or too large."""
    region = []
    for span, size in zip(text.split(","), shape, strict=True):
        start, stop = map(int, span.split(":"))
        if not 0 <= start < stop <= size:
            raise ValueError("a region has bounds that none can have")
        region.append(slice(start, stop))
    if prod(s.stop - s.start for s in region) > MAX_VOXELS:
        raise ValueError("a region is too large")
    return tuple(region)


def _crc(header: Iterable[Any], labels: bytes, times: bytes | None) -> int:
    crc = zlib.crc32("|".join(map(str, header)).encode())
    return zlib.crc32(times or b"", zlib.crc32(labels, crc))


def encode_array(array: np.ndarray, dtype: np.dtype[Any], codec: Blosc = SMALL) -> bytes:
    """A compressed array."""
    encoded: bytes = codec.encode(np.ascontiguousarray(array, dtype.newbyteorder("<")))
    return encoded


def decode_array(blob: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Decode an array, after checking that the blob declares the right number of bytes."""
    wanted = prod(shape) * dtype.itemsize
    if len(blob) < 16 or SIZES.unpack_from(blob) != (wanted, len(blob)):
        raise ValueError("an array has another size than its region")
    try:
        raw = FAST.decode(blob)
    except RuntimeError as error:
        raise ValueError("an array is damaged") from error
    return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape).astype(dtype)
