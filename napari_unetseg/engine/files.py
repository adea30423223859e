"""Prediction of many images, one after another; a bad one does not stop the others."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from napari_unetseg.core.control import Control
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.image import Stack
from napari_unetseg.engine.objects import measure_objects
from napari_unetseg.engine.output import is_finished
from napari_unetseg.engine.saving import Format, Saving
from napari_unetseg.engine.store import FolderStore
from napari_unetseg.engine.stream import CannotGoOnError, predict_here, predict_to_zarr, saving
from napari_unetseg.io.images import open_stack

if TYPE_CHECKING:
    from napari_unetseg.core.config import PredictSettings
    from napari_unetseg.core.model import Model
    from napari_unetseg.engine.output import Output
    from napari_unetseg.engine.stream import Chunks

__all__ = ["FileBegun", "FileDone", "Opening", "Wish", "count_voxels", "is_there", "predict_files"]


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
    objects
        Objects of each structure in its mask; empty unless measured.
    unsure
        Mean of `margin_uncertainty` over what was predicted of it; None unless measured.
    notices
        What was said while it was predicted: sentences.
    """

    name: str
    image: Path
    mask: Path
    status: Literal["done", "skipped", "failed"]
    seconds: float
    voxels: Mapping[int, int]
    error: str = ""
    objects: Mapping[int, int] = field(default_factory=dict)
    unsure: float | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of every image besides its mask.

    Attributes
    ----------
    skip_existing
        Leave out images whose masks are there, whole.
    count
        Count the voxels of each number.
    measure
        Suffix of a table of the objects beside each mask, ``.csv`` or ``.parquet``.
    unsure
        Measure how unsure the network is of each image.
    """

    skip_existing: bool = False
    count: bool = False
    measure: str | None = None
    unsure: bool = False


def predict_files(
    model: Model,
    images: Mapping[str, Path],
    how: Saving,
    settings: PredictSettings,
    *,
    open_image: Callable[[Path], Stack],
    wish: Wish | None = None,
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
    wish
        What else is wanted.
    control
        Stops after the chunk at hand, or waits there.
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
    CannotGoOnError
        None of the others could be saved either, or there are no workers any more.
    """
    control = control or Control(settings.threads)
    one = _One(model, how, settings, open_image, wish or Wish(), control, chunks)
    results: list[FileDone] = []
    for number, (stem, image) in enumerate(images.items(), 1):
        yield FileBegun(stem, number, len(images))
        start = time.monotonic()
        notices: list[str] = []
        done: FileDone | None = FileDone(stem, image, how.mask_of(stem, image), "failed", 0.0, {})
        try:
            done = yield from _noting(one.predict(stem, image), notices)
        except CannotGoOnError:
            raise
        except Exception as problem:  # noqa: BLE001 - the other images are still predicted
            done = replace(done, error=_sentence(problem)) if done is not None else None
        if done is None:
            break
        seconds = time.monotonic() - start
        results.append(replace(done, seconds=seconds, notices=tuple(notices)))
        yield results[-1]
    return results


def _noting(
    events: Generator[Event, None, FileDone | None], notices: list[str]
) -> Generator[Event, None, FileDone | None]:
    """Pass events on, and keep what they say."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return cast("FileDone | None", end.value)
        if isinstance(event, Notice):
            notices.append(event.text)
        yield event


@dataclass(frozen=True, slots=True, eq=False)
class _One:
    """How each of the images is predicted."""

    model: Model
    how: Saving
    settings: PredictSettings
    open_image: Callable[[Path], Stack]
    wish: Wish
    control: Control
    chunks: Callable[[Path], Chunks] | None

    def predict(self, stem: str, image: Path) -> Generator[Event, None, FileDone | None]:
        """Predict and save an image; None when it was stopped."""
        how, wish = self.how, self.wish
        done = FileDone(stem, image, how.mask_of(stem, image), "done", 0.0, {})
        table = how.table_of(stem, image, wish.measure) if wish.measure else None
        if wish.skip_existing and is_there(how, stem, image):
            if table is not None and not table.exists():
                mask = open_stack(how.opened_as(stem, image))
                done = replace(done, objects=_measure(table, mask, self.open_image(image)))
            return replace(done, status="skipped")
        stack = self.open_image(image)
        output = yield from predict_to_zarr(
            self.model,
            stack,
            FolderStore(how.store_of(stem, image)),
            self.settings,
            probabilities=how.probabilities,
            ome=how.format is Format.ZARR,
            overwrite=how.overwrite or how.through_scratch,
            control=self.control,
            chunks=self._chunks(image),
        )
        if output is None:
            return None
        total, voxels = output.unsure
        done = replace(done, unsure=total / voxels if voxels else None)
        try:
            if wish.count:
                done = replace(done, voxels=count_voxels(output.mask))
            if table is not None:
                done = replace(done, objects=_measure(table, _mask_stack(output, stack), stack))
        finally:
            if how.through_scratch:
                with saving():
                    how.export(output, stack, stem, image)
        return done

    def _chunks(self, image: Path) -> Chunks | None:
        if self.chunks is not None:
            return self.chunks(image)
        return partial(predict_here, unsure=True) if self.wish.unsure else None


def _mask_stack(output: Output, stack: Stack) -> Stack:
    """The mask that was written, with the axes of its image."""
    return Stack(
        output.mask, stack.grid_axes, stack.grid_spacing, stack.grid_units, name=stack.name
    )


def _measure(table: Path, mask: Stack, image: Stack) -> dict[int, int]:
    """Write a table of objects; how many there are of each structure."""
    rows = measure_objects(table, mask, image)
    return dict(Counter(int(row["structure"]) for row in rows))


def is_there(how: Saving, stem: str, image: Path) -> bool:
    """Whether the mask of an image is there, whole, of whatever model."""
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
