"""Zarr arrays whose codecs are of a closed list and decode no more bytes than a chunk has.

Zarr reads the arrays; the compressors, which are what a bomb or a pickle would hide in, are
imagecodecs' ones with a bound on what they give.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numcodecs import BitRound, Delta, FixedScaleOffset, Shuffle
from numcodecs.abc import Codec
from zarr.abc.codec import BytesBytesCodec
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.readers.zarr_nodes import Node, sharding

__all__ = ["checked_metadata"]

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
_FILTERS: dict[str, Any] = {
    "bitround": BitRound,
    "delta": Delta,
    "fixedscaleoffset": FixedScaleOffset,
    "shuffle": Shuffle,
}
_PLAIN = ("bytes", "crc32c", "transpose")
ROOM = 1024
"""Bytes that checksums may add to a chunk before it is compressed."""


def _decode(name: str, data: Any, most: int) -> bytes:
    """Decompress; an error where it would give more than so many bytes."""
    decoded = _DECODERS[name](bytes(data), out=most + 1)
    if len(decoded) > most:
        raise ValueError(f"{name} gives more than {most} bytes")
    return bytes(decoded)


class _Bounded(Codec):  # type: ignore[misc]  # numcodecs has no types
    """A compressor of a version 2 array that only decodes."""

    codec_id = "bounded"

    def __init__(self, name: str, most: int) -> None:
        self.codec_id, self._most = name, most

    def encode(self, buf: Any) -> Any:
        raise NotImplementedError("only for reading")

    def decode(self, buf: Any, out: Any = None) -> Any:
        del out
        return _decode(self.codec_id, buf, self._most)

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id}


@dataclass(frozen=True)
class _BoundedBytes(BytesBytesCodec):
    """A compressor of a version 3 array that only decodes."""

    name: str
    most: int
    is_fixed_size = False

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        data = chunk_data.to_bytes()
        decoded = await asyncio.to_thread(_decode, self.name, data, self.most)
        return chunk_spec.prototype.buffer.from_bytes(decoded)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": {}}


def checked_metadata(node: Node) -> ArrayV2Metadata | ArrayV3Metadata:
    """The metadata of an array for Zarr, with codecs that are known and bounded.

    Raises
    ------
    UserError
        A codec is not known, or Zarr finds the metadata wrong.
    """
    array = dict(node.array or {})
    most = math.prod(node.chunks) * node.dtype.itemsize
    try:
        if node.format == 2:
            return _version2(node, array, most)
        return _version3(node, array, most)
    except UserError:
        raise
    except Exception as error:  # whatever Zarr finds
        raise UserError(
            f"{node.path} has metadata that Zarr cannot read; copy or save it again."
        ) from error


def _version2(node: Node, array: dict[str, Any], most: int) -> ArrayV2Metadata:
    filters = [_filter(node, f) for f in array.get("filters") or []]
    compressor, array["compressor"] = array.get("compressor"), None
    array["filters"] = None
    array["attributes"] = {}
    # a filter may widen what it gets, never by more than the widest number
    metadata = ArrayV2Metadata.from_dict(array)
    bounded = None
    if compressor is not None:
        name = compressor.get("id") if isinstance(compressor, dict) else compressor
        if name not in _DECODERS:
            raise _unknown(node, name)
        bounded = _Bounded(str(name), 8 * most + ROOM if filters else most)
    return ArrayV2Metadata(
        shape=metadata.shape,
        dtype=metadata.dtype,
        chunks=metadata.chunks,
        fill_value=metadata.fill_value,
        order=metadata.order,
        dimension_separator=metadata.dimension_separator,
        compressor=bounded,
        filters=filters or None,
    )


def _filter(node: Node, config: Any) -> Any:
    """A filter of the closed list, its types numbers."""
    name = config.get("id") if isinstance(config, dict) else config
    if name not in _FILTERS:
        raise _unknown(node, name)
    values = {k: v for k, v in config.items() if k != "id"}
    for key in ("dtype", "astype"):
        if values.get(key) is not None and np.dtype(str(values[key])).kind not in "iuf":
            raise _unknown(node, f"{name} of {values[key]}")
    return _FILTERS[name](**values)


def _version3(node: Node, array: dict[str, Any], most: int) -> ArrayV3Metadata:
    shards = sharding(array)
    if shards is None:
        array["codecs"] = _codecs(node, array["codecs"], most)
    else:
        if len(array["codecs"]) != 1:
            raise _unknown(node, "a codec around its shards")
        array["codecs"] = [_sharding(node, shards, most)]
    array["attributes"] = {}
    return ArrayV3Metadata.from_dict(array)


def _sharding(node: Node, config: Mapping[str, Any], most: int) -> Any:
    from zarr.codecs import ShardingCodec

    index = config.get("index_codecs", [])
    names = [c.get("name") if isinstance(c, dict) else c for c in index]
    if not isinstance(index, list) or not set(names) <= {"bytes", "crc32c"}:
        raise _unknown(node, f"{names} for the index of its shards")
    return ShardingCodec(
        chunk_shape=tuple(config["chunk_shape"]),
        codecs=_codecs(node, config["codecs"], most),
        index_codecs=_codecs(node, index, most),
        index_location=config.get("index_location", "end"),
    )


def _codecs(node: Node, codecs: Sequence[Any], most: int) -> tuple[Any, ...]:
    from zarr.core.metadata.v3 import parse_codecs

    done: list[Any] = []
    for codec in codecs:
        named = codec.get("name") if isinstance(codec, dict) else codec
        name = str(named).removeprefix("numcodecs.")
        if name in _DECODERS:
            done.append(_BoundedBytes(name, most + ROOM))
        elif named in _PLAIN:
            done.extend(parse_codecs([codec if isinstance(codec, dict) else {"name": named}]))
        else:
            raise _unknown(node, named)
    return tuple(done)


def _unknown(node: Node, name: Any) -> UserError:
    return UserError(
        f"{node.path} is stored with {str(name)[:60]!r}, which is not supported; save it with "
        "blosc, zstd, gzip or without compression."
    )
