"""Arguments and options of several commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict
from typer import Argument, Option

from napari_unetseg.cli.exit_codes import WrongUsageError
from napari_unetseg.cli.settings_options import OptionsOf
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.io.readers.missing_planes import MissingPlanes

if TYPE_CHECKING:
    from napari_unetseg.inference.large.predict_files import Opening

FULL_HELP = "full: 0 background, 1-254 structures, or binary 0 and 255 or more. "
INSTANCES_HELP = "instances: every number is an object of structure 1"


class MaskKind(StrEnum):
    """Kinds of ground truth."""

    FULL = "full"
    INSTANCES = "instances"


class ImageFiles(BaseModel):
    """How image files are opened; see `open_stack`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    axes: str | None = None
    """Axes of the image files, such as TYX or CYX, instead of those in their metadata."""
    spacing: str | None = None
    """Pixel size along (Z,) Y, X with its unit, such as 0.5,0.2,0.2um. By default the
    file's."""
    series: str | None = None
    """Image to open in files that hold several: its name or its number."""
    missing_planes: MissingPlanes = MissingPlanes.REFUSE
    """Missing planes of a TIFF: refuse; drop incomplete times or slices; fill with black."""

    @property
    def opening(self) -> Opening:
        """How images are opened, whichever of those in a file is meant."""
        from napari_unetseg.inference.large.predict_files import Opening

        return Opening(self.axes, self.spacing, self.missing_planes)


Files = Annotated[ImageFiles, OptionsOf("Image files")]
Prediction = Annotated[
    PredictSettings, OptionsOf("Prediction", leave_out=("probabilities", "object_maps"))
]

ModelFile = Annotated[Path, Argument(metavar="MODEL", help="A model file.")]
Images = Annotated[Path, Argument(metavar="IMAGES", help="An image or a folder.")]
Ignore = Annotated[int | None, Option(help='Value that means "not labelled", such as -1.')]
Threshold = Annotated[
    float | None,
    Option(
        metavar="VALUE",
        help="Values above VALUE are structure 1: for masks with blurred edges (JPEG, resized) "
        "and probability maps.",
    ),
]


def check_threshold(threshold: float | None, kind: LabelKind) -> None:
    """Refuse a threshold of labels that are no full masks."""
    if threshold is not None and kind is not LabelKind.FULL:
        raise WrongUsageError(f"--threshold makes full masks; remove '--labels {kind}'.")
