"""Serialisation of models as bytes of model files."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

from napari_unetseg.models import model_file
from napari_unetseg.models.model import Model


def key_of(model: Model) -> str:
    """Hash of weights and description."""
    text = json.dumps(model.description(), sort_keys=True)
    return f"{model.id}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def content_of(model: Model) -> np.ndarray:
    """The bytes of a model's file, uint8."""
    return np.frombuffer(model_file.content(model.weights, model.description()), np.uint8)


def model_of(content: np.ndarray) -> Model:
    """Read a model from the bytes of its file; `ModelFileError` if invalid."""
    with tempfile.TemporaryDirectory(prefix="unetseg-") as folder:
        path = Path(folder) / f"model{model_file.SUFFIX}"
        path.write_bytes(content.tobytes())
        return Model.load(path)
