"""Model files: safetensors with the description as JSON in its header.

    header["__metadata__"] = {"format": "napari-unetseg", "version": "1",
                              "description": JSON, "sha256": over description and weights}

The header, and the file's size, are checked before a single weight is read. Nothing in a file is
ever run. A checkpoint (`checkpoint_file.py`) is the same under another format's name.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import ModelFileError, UserError

SUFFIX = ".safetensors"
FORMAT, VERSION, ARCHITECTURE = "napari-unetseg", 1, "unet"
CHECKPOINT = "napari-unetseg-checkpoint"
"""Format name of a checkpoint."""
LARGEST_HEADER = 32 * 2**20
T = TypeVar("T", bound=BaseModel)
Expected = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def write(
    path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any], form: str = FORMAT
) -> None:
    """Write weights and description atomically; `UserError` when that fails."""
    data = content(weights, description, form)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def content(
    weights: Mapping[str, Tensor], description: Mapping[str, Any], form: str = FORMAT
) -> bytes:
    """The bytes of a model file."""
    text = json.dumps({"architecture": ARCHITECTURE, **description}, sort_keys=True)
    metadata = {
        "format": form,
        "version": str(VERSION),
        "description": text,
        "sha256": _checksum(weights, text),
    }
    return save({name: t.contiguous() for name, t in weights.items()}, metadata)


def read(
    path: Path, form: str = FORMAT
) -> tuple[dict[str, Any], Callable[[Expected], dict[str, Tensor]]]:
    """Read the description, and return a function that reads the checked weights.

    Raises
    ------
    ModelFileError
        In one sentence, what is wrong with the file.
    """
    start, header = _header(path)
    metadata = header.pop("__metadata__", None)
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found == CHECKPOINT != form:
        raise ModelFileError(
            f"{path.name} is the checkpoint of an unfinished training, not a model; give the "
            "same unetseg train command again to resume it."
        )
    if not isinstance(metadata, dict) or found != form:
        raise ModelFileError(
            f"{path.name} is a safetensors file, but not a model of napari-unetseg; choose one "
            "saved by napari-unetseg."
        )
    if str(metadata.get("version")) != str(VERSION):
        raise ModelFileError(
            f"{path.name} has format version {metadata.get('version')}, but this program reads "
            f"{VERSION}; update napari-unetseg."
        )
    text = metadata.get("description")
    description = _json(path, text if isinstance(text, str) else "")
    if description.pop("architecture", None) != ARCHITECTURE:
        raise ModelFileError(f"{path.name} holds an unknown architecture; update napari-unetseg.")

    def weights(expected: Expected) -> dict[str, Tensor]:
        _compare(path, start, header, expected)
        try:
            tensors = load(_bytes(path))
        except SafetensorError as error:
            raise _damaged(path) from error
        if _checksum(tensors, text) != metadata.get("sha256"):
            raise ModelFileError(
                f"{path.name} was altered or damaged after it was saved (its checksum does not "
                "fit); use another copy."
            )
        return tensors

    return description, weights


def validated(path: Path, kind: type[T], description: dict[str, Any]) -> T:
    """The validated description; `ModelFileError` names the first bad field."""
    try:
        return kind.model_validate(description)
    except (ValidationError, UserError, ArithmeticError) as error:
        where = ""
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place = ".".join(str(p) for p in first["loc"])
            where = f" ({place}: {first['msg']})" if place else f" ({first['msg']})"
        raise ModelFileError(
            f"{path.name} has a description that this program cannot use{where}; "
            "update napari-unetseg or use another copy."
        ) from error


def _damaged(path: Path) -> ModelFileError:
    return ModelFileError(f"{path.name} is truncated or damaged; use another copy.")


def _bytes(path: Path, start: int = 0, count: int = -1) -> bytes:
    """Bytes of a regular file; a pipe or device would block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise OSError("it is not a file")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist; check the name.") from error
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ModelFileError(f"The model {path} cannot be read: {reason}.") from error


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Start of the weights, and the header before them."""
    begin = _bytes(path, 0, 9)
    # legacy formats may begin with the same bytes, but not with its JSON
    if begin[8:] != b"{" and (begin[:2] == b"PK" or begin[:1] == b"\x80"):
        raise ModelFileError(
            f"{path.name} is a PyTorch or pickle file, which could run code and is never "
            f"opened; choose a {SUFFIX} file saved by napari-unetseg."
        )
    size = int.from_bytes(begin[:8], "little")
    if begin[8:] != b"{" or size > LARGEST_HEADER:
        raise _damaged(path)
    data = _bytes(path, 8, size)
    # JSON allows other white space at its end, safetensors fills up with blanks
    if len(data) < size or not data.rstrip(b" ").endswith(b"}"):
        raise _damaged(path)
    try:
        return 8 + size, _json(path, data.decode())
    except UnicodeDecodeError as error:
        raise _damaged(path) from error


def _json(path: Path, text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("duplicate names")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(value, dict):
        raise _damaged(path)
    return value


DTYPES = {"F32": torch.float32, "I64": torch.int64}


def _compare(path: Path, start: int, header: Mapping[str, Any], expected: Expected) -> None:
    """Refuse tensors of another architecture before any is read."""
    try:
        found = {
            name: (tuple(entry["shape"]), DTYPES[entry["dtype"]]) for name, entry in header.items()
        }
    except (TypeError, KeyError) as error:
        raise _damaged(path) from error
    if found != dict(expected):
        raise ModelFileError(
            f"The weights in {path.name} do not match its description; use another copy."
        )
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in expected.values())
    if path.stat().st_size != start + size:
        raise _damaged(path)


def _checksum(weights: Mapping[str, Tensor], description: str | None) -> str:
    digest = hashlib.sha256((description or "").encode())
    for name, tensor in sorted(weights.items()):
        array = np.ascontiguousarray(tensor.numpy())
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
