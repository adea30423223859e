"""Models on their way between computers: the bytes of a model file, checked when they are read."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np

from napari_unetseg.models import model_file
from napari_unetseg.models.model import Model

__all__ = ["Models", "content_of", "key_of", "model_of"]

MOST_MODELS = 10
"""Models that a worker remembers, so that the same is not sent for every mask."""


def key_of(model: Model) -> str:
    """A name of weights and description together."""
    text = json.dumps(model.description(), sort_keys=True)
    return f"{model.id}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def content_of(model: Model) -> np.ndarray:
    """The bytes of a model's file, uint8."""
    return np.frombuffer(model_file.content(model.weights, model.description()), np.uint8)


def model_of(content: np.ndarray) -> Model:
    """Read a model from the bytes of its file; `ModelFileError` where they are no model of ours."""
    with tempfile.TemporaryDirectory(prefix="unetseg-") as folder:
        path = Path(folder) / f"model{model_file.SUFFIX}"
        path.write_bytes(content.tobytes())
        return Model.load(path)


class Models:
    """The models that were used last, by their key; any thread may ask."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._models: OrderedDict[str, Model] = OrderedDict()

    def put(self, model: Model) -> None:
        """Remember a model."""
        key = key_of(model)
        with self._lock:
            self._models[key] = model
            self._models.move_to_end(key)
            while len(self._models) > MOST_MODELS:
                self._models.popitem(last=False)

    def get(self, key: str) -> Model | None:
        """The model of a key, if it is remembered."""
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
            return self._models.get(key)

    def keys(self) -> list[str]:
        """What is remembered."""
        with self._lock:
            return list(self._models)
