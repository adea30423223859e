"""Masks, objects and their structures as command arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from napari_unetseg.cli.exit_codes import WrongUsageError
from napari_unetseg.core.labels import LabelKind

if TYPE_CHECKING:
    from napari_unetseg.cli.options import ImageFiles
    from napari_unetseg.core.image_stack import Stack

MASK, OBJECTS = "mask", "objects"
"""Labels of the structures and of the objects in an OME-Zarr that predict wrote."""
Structures = Annotated[
    Path | None,
    Option(
        metavar="MASK",
        help="A mask of the structures of the objects; in OME-Zarr of predict it is found.",
    ),
]
NoRimObjects = Annotated[
    bool,
    Option(
        "--no-rim-objects",
        help="Leave out objects that touch the rim of the image in Y or X, as they are cut off.",
    ),
]


def open_mask(
    path: Path,
    kind: LabelKind,
    files: ImageFiles,
    threshold: float | None = None,
    ignore: int | None = None,
) -> Stack:
    """Open a mask as `read_labels` reads it: numbers of a palette, or one of equal colours.

    Of an OME-Zarr with objects beside the mask it is the one that the kind says.
    """
    from napari_unetseg.io.open_image import read_labels

    labels = path / "labels"
    if (labels / MASK).is_dir() and (labels / OBJECTS).is_dir():
        path = labels / (OBJECTS if kind is LabelKind.INSTANCES else MASK)
    data, stack = read_labels(
        path, threshold=threshold, ignore=ignore, axes=files.axes, spacing=files.spacing
    )
    if "S" not in stack.axes:
        return replace(stack, data=data)
    return replace(
        stack,
        data=data,
        axes=stack.grid_axes,
        spacing=stack.grid_spacing,
        units=stack.grid_units,
        translate=stack.grid_translate,
        channels=(),
        colors=(),
    )


def find_structures_of(path: Path, given: Path | None, kind: LabelKind) -> Path | None:
    """The mask with the structures of a file of objects: the one given, or the one beside it.

    Raises
    ------
    WrongUsageError
        One is given for a mask of structures.
    """
    if kind is not LabelKind.INSTANCES:
        if given is not None:
            raise WrongUsageError(
                "--structures says of which structure each object is; add '--labels instances'."
            )
        return None
    if given is not None:
        return given
    labels = path.parent if path.name == OBJECTS else path / "labels"
    there = (labels / OBJECTS).is_dir() and (labels / MASK).is_dir()
    return labels / MASK if there else None
