from .core.errors import ModelFileError, TrainingError, UserError
from .core.image_stack import Stack
from .core.job_control import Control, JobControl
from .core.labels import LabelKind, Structure
from .core.metrics import Scores
from .core.settings import (
    AugmentSettings,
    NetSettings,
    ObjectSettings,
    PredictSettings,
    TrainSettings,
)
from .core.versions import PROGRAM_VERSION as __version__
from .data.annotated_image import AnnotatedImage, Pair
from .inference.evaluate import Evaluation, evaluate, evaluate_events
from .inference.predict import predict, predict_events, predict_probabilities
from .inference.predict_objects import predict_objects
from .io.folder_pairs import FolderDataset
from .io.open_image import open_stack
from .models.model import Model, load_model
from .models.unet import UNet
from .training.checkpoint_file import CheckpointFile
from .training.train import train, train_events

__all__ = [
    "AnnotatedImage",
    "AugmentSettings",
    "CheckpointFile",
    "Control",
    "Evaluation",
    "FolderDataset",
    "JobControl",
    "LabelKind",
    "Model",
    "ModelFileError",
    "NetSettings",
    "ObjectSettings",
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
    "predict_objects",
    "predict_probabilities",
    "train",
    "train_events",
]
