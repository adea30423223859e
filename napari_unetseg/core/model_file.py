"""The model file: safetensors with the description as JSON in its header.

    header["__metadata__"] = {"format": "napari-unetseg", "version": "1",
                              "description": JSON, "sha256": over description and weights}

The header is checked before a single weight is read. Nothing in a file is ever run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from napari_unetseg.core.atomic import atomic_path
from napari_unetseg.core.errors import ModelFileError

__all__ = ["SUFFIX", "read", "validated", "write"]

SUFFIX = ".safetensors"
FORMAT, VERSION, ARCHITECTURE = "napari-unetseg", 1, "unet"
LARGEST_HEADER = 32 * 2**20
T = TypeVar("T", bound=BaseModel)
Expected = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def write(path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights and description atomically; `UserError` when that fails."""
    text = json.dumps({"architecture": ARCHITECTURE, **description}, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "description": text,
        "sha256": _checksum(weights, text),
    }
    data = save({name: t.contiguous() for name, t in weights.items()}, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read(path: Path) -> tuple[dict[str, Any], Callable[[Expected], dict[str, Tensor]]]:
    """Read the description, and a function that reads the weights once it is known good.

    Raises
    ------
    ModelFileError
        In one sentence, what is wrong with the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ModelFileError(f"The model {path} cannot be read: {reason}.") from error
    header = _header(path, data)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path.name} is a safetensors file, but not a model of napari-unetseg; "
            "choose one that was saved here."
        )
    if str(metadata.get("version")) != str(VERSION):
        raise ModelFileError(
            f"{path.name} has the format version {metadata.get('version')}, this program reads "
            f"{VERSION}; update napari-unetseg."
        )
    text = metadata.get("description")
    description = _json(path, text if isinstance(text, str) else "")
    if description.pop("architecture", None) != ARCHITECTURE:
        raise ModelFileError(f"{path.name} holds an unknown architecture; update napari-unetseg.")

    def weights(expected: Expected) -> dict[str, Tensor]:
        _compare(path, header, expected)
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise _damaged(path) from error
        if _checksum(tensors, text) != metadata.get("sha256"):
            raise ModelFileError(
                f"{path.name} was altered or damaged after it was saved (its checksum does not "
                "fit); use another copy."
            )
        if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
            raise ModelFileError(
                f"{path.name} holds weights that are not numbers (NaN); train it again."
            )
        return tensors

    return description, weights


def validated(path: Path, kind: type[T], description: dict[str, Any]) -> T:
    """The description as a typed record; `ModelFileError` names the first field that is wrong."""
    try:
        return kind.model_validate(description)
    except (ValidationError, ArithmeticError) as error:
        where = ""
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = f" ({'.'.join(str(p) for p in first['loc'])}: {first['msg']})"
        raise ModelFileError(
            f"{path.name} has a description that this program cannot use{where}; "
            "update napari-unetseg or use another copy."
        ) from error


def _damaged(path: Path) -> ModelFileError:
    return ModelFileError(f"{path.name} is truncated or damaged; use another copy.")


def _header(path: Path, data: bytes) -> dict[str, Any]:
    # a header's length may begin with the same bytes, but then its JSON follows
    if data[8:9] != b"{" and (data[:2] == b"PK" or data[:1] == b"\x80"):
        raise ModelFileError(
            f"{path.name} is a PyTorch or pickle file, which could run code and is never opened; "
            f"choose a {SUFFIX} file that was saved here."
        )
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(LARGEST_HEADER, len(data) - 8):
        raise _damaged(path)
    try:
        text = data[8 : 8 + size].decode()
    except UnicodeDecodeError as error:
        raise _damaged(path) from error
    return _json(path, text)


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


def _compare(path: Path, header: Mapping[str, Any], expected: Expected) -> None:
    """Refuse a file whose tensors are not those of its architecture, before any is made."""
    try:
        found = {
            name: (tuple(entry["shape"]), DTYPES[entry["dtype"]]) for name, entry in header.items()
        }
    except (TypeError, KeyError) as error:
        raise _damaged(path) from error
    if found != dict(expected):
        raise ModelFileError(
            f"{path.name} does not hold the weights that its description promises; "
            "use another copy."
        )


def _checksum(weights: Mapping[str, Tensor], description: str | None) -> str:
    digest = hashlib.sha256((description or "").encode())
    for name, tensor in sorted(weights.items()):
        array = np.ascontiguousarray(tensor.numpy())
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
