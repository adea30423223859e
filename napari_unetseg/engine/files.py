"""Prediction of many images, one after another; a bad one does not stop the others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_unetseg.core.control import Control
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event
from napari_unetseg.engine.output import is_finished
from napari_unetseg.engine.saving import Format, Saving
from napari_unetseg.engine.store import FolderStore
from napari_unetseg.engine.stream import DiskFullError, predict_to_zarr, saving
from napari_unetseg.io.images import open_stack

if TYPE_CHECKING:
    from napari_unetseg.core.config import PredictSettings
    from napari_unetseg.core.image import Stack
    from napari_unetseg.core.model import Model
    from napari_unetseg.engine.stream import Chunks

__all__ = ["FileBegun", "FileDone", "Opening", "count_voxels", "predict_files"]


@dataclass(frozen=True, slots=True)
class Opening:
    """Opens images as they say they are, or with other axes or spacing; see `open_stack`."""

    axes: str | None = None
    spacing: str | None = None

    def __call__(self, path: Path) -> Stack:
        """Open an image."""
        return open_stack(path, axes=self.axes, spacing=self.spacing)


@dataclass(frozen=True, slots=True)
class FileBegun(Event):
    """An image is next: its ``name``, and its ``number`` of ``total``, from 1."""

    name: str
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class FileDone(Event):
    """An image is done with.

    Attributes
    ----------
    name, image
        What it is called, and where it is.
    mask
        The file or folder of its mask.
    status
        ``done``; ``skipped``, since its mask was there; or ``failed``.
    seconds
        How long it took.
    voxels
        Voxels of each number in its mask; empty unless counted.
    error
        Why it failed: one sentence.
    """

    name: str
    image: Path
    mask: Path
    status: Literal["done", "skipped", "failed"]
    seconds: float
    voxels: Mapping[int, int]
    error: str = ""


def predict_files(
    model: Model,
    images: Mapping[str, Path],
    how: Saving,
    settings: PredictSettings,
    *,
    open_image: Callable[[Path], Stack],
    skip_existing: bool = False,
    count: bool = False,
    control: Control | None = None,
    chunks: Callable[[Path], Chunks] | None = None,
) -> Generator[Event, None, list[FileDone]]:
    """Predict images and save a mask for each.

    Parameters
    ----------
    model, settings
        What to apply, and how.
    images
        The images by what their masks are called.
    how
        As what and where masks are saved.
    open_image
        Opens an image.
    skip_existing
        Leave out images whose masks are there, whole.
    count
        Count the voxels of each number.
    control
        Stops after the chunk at hand.
    chunks
        From an image's path to what predicts its chunks; None: this process does.

    Yields
    ------
    Event
        `FileBegun`, the events of its prediction, and `FileDone` for each image.

    Returns
    -------
    list of FileDone
        Those that were reached.

    Raises
    ------
    DiskFullError
        None of the others could be saved either.
    """
    control = control or Control(settings.threads)
    results: list[FileDone] = []
    for number, (stem, image) in enumerate(images.items(), 1):
        yield FileBegun(stem, number, len(images))
        start = time.monotonic()
        status: Literal["done", "skipped", "failed"] = "done"
        voxels: dict[int, int] | None = {}
        error = ""
        try:
            if skip_existing and _is_there(how, stem, image):
                status = "skipped"
            else:
                voxels = yield from _one(
                    model, (stem, image), how, settings, open_image, control, chunks, count
                )
        except DiskFullError:
            raise
        except Exception as problem:  # noqa: BLE001 - the other images are still predicted
            status, error = "failed", _sentence(problem)
        if voxels is None:
            break
        seconds = time.monotonic() - start
        results.append(
            FileDone(stem, image, how.mask_of(stem, image), status, seconds, voxels, error)
        )
        yield results[-1]
    return results


def _one(
    model: Model,
    named: tuple[str, Path],
    how: Saving,
    settings: PredictSettings,
    open_image: Callable[[Path], Stack],
    control: Control,
    chunks: Callable[[Path], Chunks] | None,
    count: bool,
) -> Generator[Event, None, dict[int, int] | None]:
    """Predict and save one image; voxels of each number, None when it was stopped."""
    stem, image = named
    stack = open_image(image)
    output = yield from predict_to_zarr(
        model,
        stack,
        FolderStore(how.store_of(stem, image)),
        settings,
        probabilities=how.probabilities,
        ome=how.format is Format.ZARR,
        overwrite=how.overwrite or how.through_scratch,
        control=control,
        chunks=None if chunks is None else chunks(image),
    )
    if output is None:
        return None
    voxels = count_voxels(output.mask) if count else {}
    if how.through_scratch:
        with saving():
            how.export(output, stack, stem, image)
    return voxels


def _is_there(how: Saving, stem: str, image: Path) -> bool:
    if how.format is not Format.ZARR:
        return how.exists(stem, image)
    return is_finished(FolderStore(how.store_of(stem, image)))


def count_voxels(mask: Any) -> dict[int, int]:
    """Voxels of each number in a Zarr array of uint8, read a chunk at a time."""
    counts = np.zeros(256, np.int64)
    cells = tuple(-(-n // c) for n, c in zip(mask.shape, mask.chunks, strict=True))
    for number in range(math.prod(cells)):
        cell = np.unravel_index(number, cells)
        region = tuple(
            slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(cell, mask.chunks, strict=True)
        )
        counts += np.bincount(np.asarray(mask[region]).ravel(), minlength=256)
    return {int(n): int(counts[n]) for n in np.flatnonzero(counts)}


def _sentence(problem: Exception) -> str:
    if isinstance(problem, UserError):
        return str(problem)
    if isinstance(problem, MemoryError):
        return "There is not enough memory; close other programs or choose smaller tiles."
    return f"Unexpected {type(problem).__name__}: {' '.join(str(problem).split())}"
