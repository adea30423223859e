"""Train a U-Net from a few strokes: in napari, in Python, on the command line.

Importing this package loads neither PyTorch nor Qt; each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetseg.core.checkpoint_file import CheckpointFile
    from napari_unetseg.core.config import (
        AugmentSettings,
        NetSettings,
        PredictSettings,
        TrainSettings,
    )
    from napari_unetseg.core.control import Control
    from napari_unetseg.core.errors import ModelFileError, TrainingError, UserError
    from napari_unetseg.core.evaluate import Evaluation, evaluate, evaluate_events
    from napari_unetseg.core.image import Stack
    from napari_unetseg.core.labels import LabelKind, Structure
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.model import Model, load_model
    from napari_unetseg.core.predict import predict, predict_events, predict_probabilities
    from napari_unetseg.core.samples import Pair
    from napari_unetseg.core.train import train, train_events
    from napari_unetseg.core.unet import UNet
    from napari_unetseg.io.folders import FolderDataset
    from napari_unetseg.io.images import open_stack

try:
    __version__ = version("napari-unetseg")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0.0.0"

_HOME = {
    "AugmentSettings": "core.config",
    "CheckpointFile": "core.checkpoint_file",
    "Control": "core.control",
    "Evaluation": "core.evaluate",
    "FolderDataset": "io.folders",
    "LabelKind": "core.labels",
    "Model": "core.model",
    "ModelFileError": "core.errors",
    "NetSettings": "core.config",
    "Pair": "core.samples",
    "PredictSettings": "core.config",
    "Scores": "core.metrics",
    "Stack": "core.image",
    "Structure": "core.labels",
    "TrainSettings": "core.config",
    "TrainingError": "core.errors",
    "UNet": "core.unet",
    "UserError": "core.errors",
    "evaluate": "core.evaluate",
    "evaluate_events": "core.evaluate",
    "load_model": "core.model",
    "open_stack": "io.images",
    "predict": "core.predict",
    "predict_events": "core.predict",
    "predict_probabilities": "core.predict",
    "train": "core.train",
    "train_events": "core.train",
}

__all__ = [
    "AugmentSettings",
    "CheckpointFile",
    "Control",
    "Evaluation",
    "FolderDataset",
    "LabelKind",
    "Model",
    "ModelFileError",
    "NetSettings",
    "Pair",
    "PredictSettings",
    "Scores",
    "Stack",
    "Structure",
    "TrainSettings",
    "TrainingError",
    "UNet",
    "UserError",
    "__version__",
    "evaluate",
    "evaluate_events",
    "load_model",
    "open_stack",
    "predict",
    "predict_events",
    "predict_probabilities",
    "train",
    "train_events",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
