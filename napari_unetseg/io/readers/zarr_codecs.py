"""Zarr codec allow-list, with bounds on decoded sizes.

Zarr reads the arrays, but never the metadata in the file: it gets a copy with codecs of the
allow-list only. Compressors, which could contain a decompression bomb or a pickle, are those of
imagecodecs with a bound on their output.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import imagecodecs
import numcodecs
import numpy as np
import zarr
from numcodecs.abc import Codec
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import RangeByteRequest
from zarr.registry import register_codec
from zarr.storage import LocalStore, WrapperStore

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.readers.zarr_nodes import Node, sharding

Decode = Callable[..., bytes | bytearray]

_DECODERS: dict[str, Decode] = {
    "blosc": imagecodecs.blosc_decode,
    "bz2": imagecodecs.bz2_decode,
    "gzip": imagecodecs.gzip_decode,
    "lz4": lambda data, out: imagecodecs.lz4_decode(data, header=True, out=out),
    "lzma": imagecodecs.lzma_decode,
    "zlib": imagecodecs.zlib_decode,
    "zstd": imagecodecs.zstd_decode,
}
_FILTERS = ("bitround", "delta", "fixedscaleoffset", "shuffle")
_PLAIN = ("bytes", "crc32c", "transpose")
BOUNDED = "napari_unetseg.bounded"
"""Name of the compressor in the copy of the metadata."""
ROOM = 1024
"""Maximum bytes that checksums add to a chunk before compression."""


def _decode(name: str, data: Any, most: int) -> bytes:
    """Decompress; raises an error if the output would exceed ``most`` bytes."""
    decoded = _DECODERS[name](bytes(data), out=most + 1)
    if len(decoded) > most:
        raise ValueError(f"{name} gives more than {most} bytes")
    return bytes(decoded)


class _Bounded(Codec):  # type: ignore[misc]  # numcodecs has no types
    """A version 2 compressor that only decodes."""

    codec_id = BOUNDED

    def __init__(self, decoder: str, most: int) -> None:
        self.decoder, self.most = decoder, most

    def encode(self, buf: Any) -> Any:
        raise NotImplementedError("only for reading")

    def decode(self, buf: Any, out: Any = None) -> Any:
        del out
        return _decode(self.decoder, buf, self.most)


@dataclass(frozen=True)
class _BoundedBytes(BytesBytesCodec):
    """A version 3 compressor that only decodes."""

    decoder: str
    most: int
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        return cls(**data["configuration"])

    def to_dict(self) -> dict[str, Any]:
        return _bounded(self.decoder, self.most)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        data = chunk_data.to_bytes()
        decoded = await asyncio.to_thread(_decode, self.decoder, data, self.most)
        return chunk_spec.prototype.buffer.from_bytes(decoded)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError


numcodecs.register_codec(_Bounded)
register_codec(BOUNDED, _BoundedBytes)


def _bounded(decoder: str, most: int) -> dict[str, Any]:
    return {"name": BOUNDED, "configuration": {"decoder": decoder, "most": most}}


class _Checked(WrapperStore[LocalStore]):
    """The chunks of an array in a folder, with validated metadata instead of those on disk."""

    def __init__(self, store: LocalStore, metadata: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._metadata = metadata

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key in self._metadata:
            return prototype.buffer.from_bytes(self._metadata[key])
        if key.startswith(".z") or key == "zarr.json":
            return None  # only validated metadata
        if isinstance(byte_range, RangeByteRequest):
            with suppress(FileNotFoundError):
                if byte_range.end > await self.getsize(key):  # that much memory would be allocated
                    raise ValueError("a chunk of a shard lies outside of it")
        return await super().get(key, prototype, byte_range)


def open_checked(node: Node) -> zarr.Array[Any]:
    """Open an array with codecs of the allow-list, with bounded output.

    Raises
    ------
    UserError
        A codec is not supported, or Zarr rejects the metadata.
    """
    try:
        array = dict(node.array or {}) | {"attributes": {}}
        most = math.prod(node.chunks) * node.dtype.itemsize
        array |= (_version2 if node.format == 2 else _version3)(node, array, most)
        name = ".zarray" if node.format == 2 else "zarr.json"
        store = _Checked(LocalStore(node.path, read_only=True), {name: json.dumps(array).encode()})
        return zarr.open_array(store, mode="r", zarr_format=2 if node.format == 2 else 3)
    except UserError:
        raise
    except Exception as error:  # any error of Zarr
        raise UserError(
            f"{node.path} has metadata that Zarr cannot read; copy or save it again."
        ) from error


def _version2(node: Node, array: Mapping[str, Any], most: int) -> dict[str, Any]:
    """The compressor and the filters of a version 2 array, bounded."""
    filters = [_filter(node, f) for f in array.get("filters") or []]
    compressor = array.get("compressor")
    if compressor is not None:
        name = compressor.get("id") if isinstance(compressor, dict) else compressor
        if name not in _DECODERS:
            raise _unknown(node, name)
        # a filter may widen its input, at most to the largest dtype
        widest = 8 * most + ROOM if filters else most
        compressor = {"id": BOUNDED, "decoder": name, "most": widest}
    return {"compressor": compressor, "filters": filters or None}


def _filter(node: Node, config: Any) -> Any:
    """A filter of the allow-list, with numeric dtypes."""
    name = config.get("id") if isinstance(config, dict) else config
    if name not in _FILTERS:
        raise _unknown(node, name)
    for key in ("dtype", "astype"):
        if config.get(key) is not None and np.dtype(str(config[key])).kind not in "iuf":
            raise _unknown(node, f"{name} of {config[key]}")
    return config


def _version3(node: Node, array: Mapping[str, Any], most: int) -> dict[str, Any]:
    """The codecs of a version 3 array, bounded."""
    shards = sharding(array)
    if shards is None:
        return {"codecs": _codecs(node, array["codecs"], most)}
    if len(array["codecs"]) != 1:
        raise _unknown(node, "a codec around its shards")
    index = shards.get("index_codecs", [])
    names = [c.get("name") if isinstance(c, dict) else c for c in index]
    if not isinstance(index, list) or not set(names) <= {"bytes", "crc32c"}:
        raise _unknown(node, f"{names} for the index of its shards")
    inside = {
        "codecs": _codecs(node, shards["codecs"], most),
        "index_codecs": _codecs(node, index, most),
    }
    return {"codecs": [{"name": "sharding_indexed", "configuration": {**shards, **inside}}]}


def _codecs(node: Node, codecs: Sequence[Any], most: int) -> list[dict[str, Any]]:
    done: list[dict[str, Any]] = []
    for codec in codecs:
        named = codec.get("name") if isinstance(codec, dict) else codec
        name = str(named).removeprefix("numcodecs.")
        if name in _DECODERS:
            done.append(_bounded(name, most + ROOM))
        elif named in _PLAIN:
            done.append(codec if isinstance(codec, dict) else {"name": named})
        else:
            raise _unknown(node, named)
    return done


def _unknown(node: Node, name: Any) -> UserError:
    return UserError(
        f"{node.path} is stored with {str(name)[:60]!r}, which is not supported; save it with "
        "blosc, zstd, gzip or without compression."
    )
