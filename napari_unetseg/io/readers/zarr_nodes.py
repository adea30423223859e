"""Validated metadata of Zarr groups and arrays.

Zarr itself only gets metadata that were validated here.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError

MOST_METADATA = 8 * 2**20
"""Maximum bytes of metadata; larger files are refused before reading."""
MOST_CHUNK = 2 * 2**30
"""Maximum bytes of a chunk, which must be decoded as a whole."""
MOST_CHUNKS_IN_SHARD = 2**22
MOST_AXES = 32
FILES = ("zarr.json", ".zarray", ".zgroup")

_V2_TYPE = re.compile(r"[<>|](b1|[iu][1248]|f[248])")
_V3_TYPE = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A group or an array of a store."""

    path: Path
    """Its folder."""
    root: Path
    """The outermost folder of the store; files outside are never read."""
    format: int
    """2 or 3, the version of Zarr."""
    attributes: Mapping[str, Any]
    """User attributes; only checked to be a mapping."""
    array: Mapping[str, Any] | None
    """The metadata of an array as in its file, with checked shape and dtype; None for a group."""
    stamp: tuple[int, int]
    """Identifies the version of the metadata."""

    @property
    def ome(self) -> Mapping[str, Any]:
        """OME-Zarr metadata: under ``ome`` since version 0.5, at the top level before."""
        ome = self.attributes.get("ome")
        return ome if isinstance(ome, dict) else self.attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an array."""
        return tuple((self.array or {})["shape"])

    @property
    def chunks(self) -> tuple[int, ...]:
        """The chunk that is decoded at once; smaller than a shard in a sharded array."""
        array = self.array or {}
        if self.format == 2:
            return tuple(array["chunks"])
        return tuple((sharding(array) or array["chunk_grid"]["configuration"])["chunk_shape"])

    @property
    def files(self) -> tuple[int, ...]:
        """Shape of the content of one file: of a shard, if there are shards."""
        array = self.array or {}
        return tuple(
            array["chunks"]
            if self.format == 2
            else array["chunk_grid"]["configuration"]["chunk_shape"]
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of an array."""
        array = self.array or {}
        return np.dtype(str(array["dtype"] if self.format == 2 else array["data_type"]))


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store or inside one."""
    return path.is_dir() and (
        path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in FILES)
    )


def root_of(path: Path) -> Path:
    """The outermost folder of a node's store."""
    root = path
    for parent in path.parents:
        if parent.suffix.lower() == ".zarr":
            root = parent
    for parent in root.parents:
        if not any((parent / name).is_file() for name in FILES):
            break
        root = parent
    return root


def inside(path: Path, root: Path) -> bool:
    """Whether a path is in a folder, after resolving links."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # circular links
        return False


def child_of(node: Node, name: Any) -> Path:
    """The folder of a child named in metadata, which must be below the node.

    Raises
    ------
    UserError
        The name is invalid, absolute, or leads out of the store.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) and len(name) < 1000 else ()
    fine = parts and not name.startswith("/") and not set(name) & set("\\:\0")
    if not fine or ".." in parts or len(parts) > 16:
        raise UserError(
            f"{node.path} refers to {str(name)[:80]!r}, which is outside it; get a new copy "
            "from its source."
        )
    path = node.path.joinpath(*parts)
    if not inside(path, node.root):
        raise UserError(
            f"{path} is a link to a place outside {node.root}; put the data itself there."
        )
    return path


def read_node(path: Path, root: Path | None = None) -> Node:
    """Read the metadata of a group or an array.

    Raises
    ------
    UserError
        They are missing, too large, damaged or unsupported, or an array has chunks that are too
        large to be decoded.
    """
    root = root_of(path) if root is None else root
    found = next((n for n in FILES if (path / n).exists()), None)
    if found is None:
        raise UserError(f"{path} holds no Zarr array and no Zarr group; check the name.")
    content, stamp = _json(path / found, root)
    if found == "zarr.json":
        kind = content.get("node_type")
        attributes = content.get("attributes", {})
        if content.get("zarr_format") != 3 or kind not in ("array", "group"):
            raise _damaged(path / found, "it is neither an array nor a group of version 3")
        array, version = (content if kind == "array" else None), 3
    else:
        named = (path / ".zattrs").exists()
        attributes = _json(path / ".zattrs", root)[0] if named else {}
        if content.get("zarr_format") != 2:
            raise _damaged(path / found, "it is not of version 2")
        array, version = (content if found == ".zarray" else None), 2
    if not isinstance(attributes, dict):
        raise _damaged(path / found, "its attributes are none")
    if array is not None:
        _check_array(path, array, version)
    return Node(path, root, version, attributes, array, stamp)


def _json(path: Path, root: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """A JSON object and the version of its file."""
    if not inside(path, root):
        raise UserError(f"{path} is a link to a place outside {root}; put the file itself there.")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_METADATA:
            raise _damaged(path, f"metadata are files of at most {MOST_METADATA >> 20} MB")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    except OSError as error:
        raise UserError(f"No permission to read {path}; change its permissions.") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is no JSON object")
    return content, (status.st_mtime_ns, status.st_size)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be read ({reason}); copy or save it again.")


# -- arrays ----------------------------------------------------------------------------------------


def sharding(array: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The configuration of the sharding codec of a version 3 array; None without shards."""
    codecs = array["codecs"]
    first = codecs[0] if codecs else {}
    config: Mapping[str, Any] | None = None
    if isinstance(first, dict) and first.get("name") == "sharding_indexed":
        config = first.get("configuration")
    return config


def _check_array(path: Path, array: Mapping[str, Any], version: int) -> None:
    """Refuse anything but numeric arrays on a regular grid, and chunks that are too large."""
    shape = array.get("shape")
    if not isinstance(shape, list) or not _is_shape(shape, smallest=0):
        raise _damaged(path, "its shape is none")
    files: Any
    if version == 2:
        kind, known, files = array.get("dtype"), _V2_TYPE, array.get("chunks")
    else:
        kind, known, files = array.get("data_type"), _V3_TYPE, _grid(path, array)
    if not isinstance(kind, str) or not known.fullmatch(kind):
        raise UserError(
            f"{path} holds values of type {str(kind)[:40]!r}; images and labels must be "
            "integers or floats, so convert it."
        )
    chunks: Any = files
    if version == 3 and (shards := sharding(array)) is not None:
        chunks = shards.get("chunk_shape")
    if not all(_is_shape(s) and len(s) == len(shape) for s in (files, chunks)):
        raise _damaged(path, "its chunks do not have the axes of its shape")
    _check_chunks(path, files, chunks, np.dtype(kind).itemsize)


def _grid(path: Path, array: Mapping[str, Any]) -> Any:
    """Shape of the files of a version 3 array."""
    grid, keys = array.get("chunk_grid"), array.get("chunk_key_encoding")
    codecs = array.get("codecs")
    if not isinstance(grid, dict) or not isinstance(keys, dict) or not isinstance(codecs, list):
        raise _damaged(path, "its grid of chunks is not described")
    config = grid.get("configuration")
    if grid.get("name") != "regular" or not isinstance(config, dict):
        raise _damaged(path, "its chunks do not form a regular grid")
    if array.get("storage_transformers"):
        raise _damaged(path, "it has storage transformers")
    if (shards := sharding(array)) is not None and not isinstance(shards, dict):
        raise _damaged(path, "its shards are not described")
    return config.get("chunk_shape")


def _check_chunks(path: Path, files: list[int], chunks: list[int], itemsize: int) -> None:
    size = math.prod(chunks) * itemsize
    if size > MOST_CHUNK:
        raise UserError(
            f"{path} would have to be read in pieces of {size / 2**30:,.0f} GB, since its chunks "
            f"are that large; save it with chunks of at most {MOST_CHUNK >> 30} GB."
        )
    if any(whole % part for whole, part in zip(files, chunks, strict=True)):
        raise _damaged(path, "its shards are not a multiple of its chunks")
    if math.prod(files) // math.prod(chunks) > MOST_CHUNKS_IN_SHARD:
        raise _damaged(path, f"a shard has more than {MOST_CHUNKS_IN_SHARD:,} chunks")


def _is_shape(value: Any, smallest: int = 1) -> bool:
    """Whether a JSON value is a shape: positive integers, not too many."""
    return (
        isinstance(value, list)
        and 0 < len(value) <= MOST_AXES
        and all(type(n) is int and smallest <= n < 2**53 for n in value)
    )
