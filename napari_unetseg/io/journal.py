"""The journal of a project: what people said, appended to a file as they say it.

A frame is its length and CRC-32 (both little-endian uint32) and then its content: the length of a
JSON header, the header, and compressed arrays. One write appends one frame, so that a process that
is killed loses nothing that was appended. Reading ends at the first frame that is not whole.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.blosc import Blosc

from napari_unetseg.annotations.annotation_store import Change, Origin
from napari_unetseg.annotations.annotation_time import checked_seconds
from napari_unetseg.core.labels import LabelKind

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region

__all__ = [
    "Adopted",
    "Frame",
    "Journal",
    "Said",
    "State",
    "Together",
    "pack",
    "read_frames",
    "read_headers",
]

MAGIC = b"napari-unetseg journal 1\n"
LENGTHS = struct.Struct("<II")
MOST_HEADER = 2**24
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")
_codec = Blosc("lz4", clevel=1, shuffle=Blosc.NOSHUFFLE)


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """Something was said about an image, after ``seconds`` of annotation in the project."""

    image: str
    change: Change
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Adopted:
    """The strokes of an image begin anew, with those of another layer."""

    image: str
    dtype: str
    kind: LabelKind


@dataclass(frozen=True, slots=True)
class State:
    """All that is no array: images, structures, settings, models."""

    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Frames that count only if all of them are there."""

    frames: tuple[Adopted | Said, ...]


Frame = Said | Adopted | State | Together


class Journal:
    """A journal that is written.

    Parameters
    ----------
    path
        A file that does not exist yet: what was written before is never written to again.

    Raises
    ------
    OSError
        The file exists, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._file, self._end = os.open(path, flags, 0o666), 0
        try:
            self.append(MAGIC)
        except OSError:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._end

    def append(self, frame: bytes) -> None:
        """Write a packed frame; after an `OSError` the file is as it was."""
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            left = memoryview(frame)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with suppress(OSError):  # else reading ends before what is half written
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(frame)

    def sync(self) -> None:
        """Have the disk keep it through a power cut; `OSError` if the file is gone."""
        os.fsync(self._file)
        if not self.there:
            raise FileNotFoundError(2, "the file is gone", str(self.path))

    @property
    def there(self) -> bool:
        """Whether the file that is written is the one at its path."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except OSError:
            return False

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


def pack(frame: Frame) -> bytes:
    """A frame as bytes, with its length and checksum."""
    content = _content(frame)
    return LENGTHS.pack(len(content), zlib.crc32(content)) + content


def _content(frame: Frame) -> bytes:
    arrays: list[Any] = []
    header: dict[str, Any]
    match frame:
        case Together(frames):
            arrays = [_content(one) for one in frames]
            header = {"kind": "together", "sizes": [len(a) for a in arrays]}
        case Said(image, change, seconds):
            values = np.ascontiguousarray(change.values)
            values = values.astype(values.dtype.newbyteorder("<"), copy=False)
            header = {
                "kind": "said",
                "image": image,
                "origin": str(change.origin),
                "region": [[s.start, s.stop] for s in change.region],
                "dtype": values.dtype.str,
                "stamp": int(change.stamp),
                "seconds": round(seconds, 1),
            }
            arrays = [_codec.encode(values)]
            if change.stamps is not None:
                arrays.append(_codec.encode(np.ascontiguousarray(change.stamps, np.uint32)))
            header["sizes"] = [len(a) for a in arrays]
        case Adopted(image, dtype, kind):
            little = np.dtype(dtype).newbyteorder("<").str
            header = {"kind": "adopted", "image": image, "dtype": little, "is": str(kind)}
        case State(state):
            header = {"kind": "state", "values": state}
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([struct.pack("<I", len(text)), text, *map(bytes, arrays)])


def read_frames(path: Path) -> Generator[Frame, None, int]:
    """The frames of a journal, up to the first that is not whole; nothing if there is no file.

    Returns
    -------
    int
        Bytes after that, which could not be read.

    Raises
    ------
    ValueError
        The file is no journal, or a whole frame holds what no frame may hold.
    """
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            if MAGIC.startswith(magic):
                return len(magic)  # the process was killed while it was made
            raise ValueError("it is no journal of this program")
        end = file.tell()
        while (content := _next(file)) is not None:
            yield _unpack(content)
            end = file.tell()
        return os.fstat(file.fileno()).st_size - end


def read_headers(path: Path) -> Iterator[dict[str, Any]]:
    """What the frames of a journal are, without their arrays; as far as they are whole."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        while (content := _next(file)) is not None:
            (length,) = struct.unpack_from("<I", content)
            yield json.loads(content[4 : 4 + min(length, MOST_HEADER)])


def _next(file: Any) -> bytes | None:
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    length, check = LENGTHS.unpack(lengths)
    here = file.tell()
    if length > os.fstat(file.fileno()).st_size - here:
        return None
    content: bytes = file.read(length)
    return content if len(content) == length and zlib.crc32(content) == check else None


def _unpack(content: bytes) -> Frame:
    try:
        (length,) = struct.unpack_from("<I", content)
        if length > min(MOST_HEADER, len(content)):
            raise ValueError("a header is too long")
        header = json.loads(content[4 : 4 + length])
        match header["kind"]:
            case "said":
                return _said(header, content[4 + length :])
            case "together":
                return _together(header, content[4 + length :])
            case "adopted":
                dtype = _dtype(header["dtype"]).str
                return Adopted(str(header["image"]), dtype, LabelKind(header["is"]))
            case "state" if isinstance(header["values"], dict):
                return State(header["values"])
    except (KeyError, TypeError, IndexError, struct.error, RecursionError) as error:
        raise ValueError(f"a frame lacks what it needs ({type(error).__name__})") from error
    raise ValueError("a frame is of an unknown kind")


def _said(header: dict[str, Any], blob: bytes) -> Said:
    region = region_of(header["region"])
    shape = [s.stop - s.start for s in region]
    first, *rest = header["sizes"]
    values = _decode(blob[:first], shape, _dtype(header["dtype"]))
    stamps = _decode(blob[first : first + rest[0]], shape, np.dtype("<u4")) if rest else None
    change = Change(Origin(header["origin"]), region, values, int(header["stamp"]), stamps)
    return Said(str(header["image"]), change, checked_seconds(header.get("seconds", 0)))


def _together(header: dict[str, Any], blob: bytes) -> Together:
    frames: list[Adopted | Said] = []
    start = 0
    for size in header["sizes"]:
        one = _unpack(blob[start : start + size])
        if not isinstance(one, Adopted | Said):
            raise ValueError("frames of a kind that goes alone are together")
        frames.append(one)
        start += size
    return Together(tuple(frames))


def region_of(spans: Sequence[Sequence[int]]) -> Region:
    """A region from pairs of start and stop.

    Raises
    ------
    ValueError
        They are no whole numbers in order.
    """
    region = []
    for start, stop in spans:
        if type(start) is not int or type(stop) is not int or not 0 <= start < stop:
            raise ValueError("a region has bounds that no region can have")
        region.append(slice(start, stop))
    return tuple(region)


def _dtype(name: str) -> np.dtype[Any]:
    if name not in DTYPES:
        raise ValueError(f"labels are of the type {str(name)[:20]}, which none can be of")
    return np.dtype(name)


def _decode(blob: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """An array, if the blob says that it holds as many bytes as it must; before they are made."""
    wanted = prod(shape) * dtype.itemsize
    if len(blob) < 16 or int.from_bytes(blob[4:8], "little") != wanted:
        raise ValueError("a frame's array has another size than its region")
    try:
        return np.frombuffer(_codec.decode(blob), dtype).reshape(shape).copy()
    except RuntimeError as error:
        raise ValueError("a frame's array is damaged") from error
