"""Train a U-Net from a few strokes: in napari, in Python, on the command line.

Importing this package loads neither PyTorch nor Qt; each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.versions import PROGRAM_VERSION as __version__

if TYPE_CHECKING:
    from napari_unetseg.core.errors import ModelFileError, TrainingError, UserError
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.job_control import Control
    from napari_unetseg.core.labels import LabelKind, Structure
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.settings import (
        AugmentSettings,
        NetSettings,
        PredictSettings,
        TrainSettings,
    )
    from napari_unetseg.data.annotated_image import AnnotatedImage, Pair
    from napari_unetseg.inference.evaluate import Evaluation, evaluate, evaluate_events
    from napari_unetseg.inference.predict import predict, predict_events, predict_probabilities
    from napari_unetseg.io.folder_pairs import FolderDataset
    from napari_unetseg.io.open_image import open_stack
    from napari_unetseg.models.model import Model, load_model
    from napari_unetseg.models.unet import UNet
    from napari_unetseg.training.checkpoint_file import CheckpointFile
    from napari_unetseg.training.train import train, train_events

_HOME = {
    "AnnotatedImage": "data.annotated_image",
    "AugmentSettings": "core.settings",
    "CheckpointFile": "training.checkpoint_file",
    "Control": "core.job_control",
    "Evaluation": "inference.evaluate",
    "FolderDataset": "io.folder_pairs",
    "LabelKind": "core.labels",
    "Model": "models.model",
    "ModelFileError": "core.errors",
    "NetSettings": "core.settings",
    "Pair": "data.annotated_image",
    "PredictSettings": "core.settings",
    "Scores": "core.metrics",
    "Stack": "core.image_stack",
    "Structure": "core.labels",
    "TrainSettings": "core.settings",
    "TrainingError": "core.errors",
    "UNet": "models.unet",
    "UserError": "core.errors",
    "evaluate": "inference.evaluate",
    "evaluate_events": "inference.evaluate",
    "load_model": "models.model",
    "open_stack": "io.open_image",
    "predict": "inference.predict",
    "predict_events": "inference.predict",
    "predict_probabilities": "inference.predict",
    "train": "training.train",
    "train_events": "training.train",
}

__all__ = [
    "AnnotatedImage",
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
