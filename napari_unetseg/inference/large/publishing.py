"""Atomic move of finished labels from a hidden store into their OME-Zarr."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import zarr

from napari_unetseg.core.errors import UserError
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.object_labels import NAME, remove_objects
from napari_unetseg.inference.large.output import list_labels, open_root
from napari_unetseg.inference.large.output_plan import OURS

if TYPE_CHECKING:
    from napari_unetseg.inference.large.output import Output


def publish(output: Output, place: Path) -> None:
    """Move finished labels to their place, where nothing partial is ever visible.

    Parameters
    ----------
    output
        Finished, in a hidden store of the same disk.
    place
        The root of an OME-Zarr: an image, labels that are replaced, or nothing yet.

    Raises
    ------
    UserError
        The system does not let it be moved; the same command tries again.
    """
    try:
        if place.exists():
            _replace(output, place)
        else:
            output.folder.rename(place)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"The mask cannot be moved to {place} ({reason}); close the programs that have it "
            "open and give the same command again."
        ) from error


def _replace(output: Output, place: Path) -> None:
    """Replace earlier labels and probabilities.

    The earlier labels go first and the new ones come last, so that existing labels always belong to
    the probabilities around them.
    """
    name = output.plan.name
    root = open_root(FolderStore(place), output.plan)
    labels = root.require_group("labels")
    _put_aside(place / "labels" / name, output.folder / "replaced labels")
    remove_objects(root)
    if OURS in root.attrs:
        _put_aside(place / "0", output.folder / "replaced probabilities")
        if output.plan.probabilities is not None:
            (output.folder / "0").rename(place / "0")
        root.attrs.put(zarr.open_group(FolderStore(output.folder), mode="r").attrs.asdict())
    for part in (*[NAME] * output.plan.objects, name):
        list_labels(labels, part)
        (output.folder / "labels" / part).rename(place / "labels" / part)


def _put_aside(old: Path, aside: Path) -> None:
    """Move an earlier part into the hidden store, which is deleted."""
    if old.exists():
        shutil.rmtree(aside, ignore_errors=True)
        old.rename(aside)
