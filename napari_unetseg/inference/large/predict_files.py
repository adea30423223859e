"""Prediction of many images; failures of one do not stop the others."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, with_each
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.image_turns import Turn, Turns
from napari_unetseg.inference.large.object_table import measure_objects
from napari_unetseg.inference.large.output import finished_output, holds_image, is_finished
from napari_unetseg.inference.large.predict_to_zarr import (
    CannotGoOnError,
    fill_store,
    make_plan,
    predict_here,
    saving,
)
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.inference.large.output import Output
    from napari_unetseg.inference.large.output_format import Saving
    from napari_unetseg.inference.large.output_plan import OutputPlan
    from napari_unetseg.inference.large.predict_to_zarr import Chunks
    from napari_unetseg.models.model import Model

MEANWHILE = (
    "{} was predicted by another program meanwhile, with the same model and settings; that mask "
    "is kept."
)


@dataclass(frozen=True, slots=True)
class Opening:
    """Opens images with given axes or spacing; see `open_stack`."""

    axes: str | None = None
    spacing: str | None = None
    missing_planes: MissingPlanes = MissingPlanes.REFUSE

    def __call__(self, path: Path) -> Stack:
        """Open an image."""
        return open_stack(
            path, axes=self.axes, spacing=self.spacing, missing_planes=self.missing_planes
        )


@dataclass(frozen=True, slots=True)
class FileBegun(Event):
    """An image starts: its ``name``, and its ``number`` of ``total``, from 1."""

    name: str
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class FileDone(Event):
    """The result of an image."""

    name: str
    image: Path
    """Output name, and path."""
    mask: Path
    """The file or folder of its mask."""
    status: Literal["done", "skipped", "failed"]
    """``done``; ``skipped``, since its mask was there; or ``failed``."""
    seconds: float
    """How long it took."""
    voxels: Mapping[int, int]
    """Voxels of each number in its mask; empty unless counted."""
    error: str = ""
    """Why it failed: one sentence."""
    objects: Mapping[int, int] = field(default_factory=dict)
    """Objects of each structure in its mask; empty unless measured."""
    unsure: float | None = None
    """Mean of `margin_uncertainty` over what was predicted of it; None unless measured."""
    notices: tuple[str, ...] = ()
    """Notices of its prediction."""


@dataclass(frozen=True, slots=True)
class OptionalOutputs:
    """Optional outputs of every image."""

    skip_existing: bool = False
    """Skip images with complete masks."""
    count: bool = False
    """Count the voxels of each number."""
    measure: str | None = None
    """Suffix of an object table beside each mask, ``.csv`` or ``.parquet``."""
    unsure: bool = False
    """Measure the mean uncertainty of each image."""


def predict_files(
    model: Model,
    images: Mapping[str, Path],
    how: Saving,
    settings: PredictSettings,
    *,
    open_image: Callable[[Path], Stack],
    optional: OptionalOutputs | None = None,
    control: JobControl | None = None,
    chunks: Callable[[Path], Chunks] | None = None,
) -> Generator[Event, None, list[FileDone]]:
    """Predict images and save a mask for each.

    Programs may run concurrently: a locked image comes last, is waited for, and counts as done if
    it was predicted with the same model and settings.

    Parameters
    ----------
    model, settings
        The model and its settings.
    images
        The images by what their masks are called.
    how
        Output format and place.
    open_image
        Opens an image.
    optional
        Optional outputs.
    control
        Stops after the chunk at hand, or while another program is waited for; or pauses there.
    chunks
        From an image's path to what predicts its chunks; None: this process does.

    Yields
    ------
    Event
        `FileBegun`, the events of its prediction, and `FileDone` for each image; a `Notice` where
        another program has it.

    Returns
    -------
    list of FileDone
        Those that were reached.

    Raises
    ------
    CannotGoOnError
        No image can be saved, or no workers are left.
    """
    control = control or JobControl(settings.threads)
    one = _One(
        model, how, settings, open_image, optional or OptionalOutputs(), control, chunks, _now(how)
    )
    waiting = [Turn(s, image, how.work_of(s, image)) for s, image in images.items()]
    turns = Turns(waiting, control, one.is_there)
    results: list[FileDone] = []
    while (turn := (yield from turns.next())) is not None:
        try:
            yield FileBegun(turn.stem, len(results) + 1, len(images))
            done = yield from _timed(one, turn)
        finally:
            turn.work.release()
        if done is None:
            break
        results.append(done)
        yield done
    return results


def _timed(one: _One, turn: Turn) -> Generator[Event, None, FileDone | None]:
    """Predict and save an image; a failure is returned, unless all others fail too."""
    start = time.monotonic()
    mask = one.how.mask_of(turn.stem, turn.image)
    notices: list[str] = []
    try:
        done = yield from _noting(one.predict(turn), notices)
    except CannotGoOnError:
        raise
    except Exception as problem:  # noqa: BLE001 - the other images are still predicted
        done = FileDone(turn.stem, turn.image, mask, "failed", 0.0, {}, _sentence(problem))
    if done is None:
        return None
    return replace(done, seconds=time.monotonic() - start, notices=tuple(notices))


def _noting(
    events: Generator[Event, None, FileDone | None], notices: list[str]
) -> Generator[Event, None, FileDone | None]:
    """Pass events on, and collect notices."""

    def note(event: Event) -> tuple[Event]:
        if isinstance(event, Notice):
            notices.append(event.text)
        return (event,)

    with closing(events):  # its threads end before the output is released
        return (yield from with_each(events, note))


def _now(how: Saving) -> float:
    """Time of the file system of the masks, since computers' clocks differ."""
    if how.folder is None or how.format.by_chunks:
        return 0.0
    with suppress(OSError), tempfile.TemporaryFile(dir=how.folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()


@dataclass(frozen=True, slots=True, eq=False)
class _One:
    """Common parameters of the images' prediction."""

    model: Model
    how: Saving
    settings: PredictSettings
    open_image: Callable[[Path], Stack]
    optional: OptionalOutputs
    control: JobControl
    chunks: Callable[[Path], Chunks] | None
    since: float

    def is_there(self, turn: Turn) -> bool:
        """Whether an image is done, and no program works on it."""
        stem, image, optional = turn.stem, turn.image, self.optional
        if not optional.skip_existing or turn.work.path.exists():
            return False
        if not is_there(self.how, stem, image):
            return False
        return not optional.measure or self.how.table_of(stem, image, optional.measure).exists()

    def predict(self, turn: Turn) -> Generator[Event, None, FileDone | None]:
        """Predict and save an image; None after a stop."""
        if turn.problem is not None:
            raise turn.problem
        how, stem, image = self.how, turn.stem, turn.image
        if turn.there or (self.optional.skip_existing and is_there(how, stem, image)):
            return self._described(turn, "skipped")
        plan = self._plan(turn)
        yield from map(Notice, plan.stack.notes)
        if how.format.by_chunks:
            place = FolderStore(how.zarr_of(stem, image))
            if (output := finished_output(place, plan, overwrite=how.overwrite)) is not None:
                turn.work.clear()
                return self._of_output(turn, output)
        elif how.was_made(plan, stem, image, self.since):
            yield Notice(MEANWHILE.format(image.name))
            return self._described(turn, "done")
        return (yield from self._make(turn, plan))

    def _make(self, turn: Turn, plan: OutputPlan) -> Generator[Event, None, FileDone | None]:
        """Fill the hidden store of an image, and export its outputs."""
        output = yield from fill_store(
            plan,
            FolderStore(turn.work.store(plan.digest)),
            self.settings,
            overwrite=True,
            control=self.control,
            chunks=self._chunks(turn.image),
        )
        if output is None:
            return None
        try:
            return self._of_output(turn, output)
        finally:
            with saving():
                self.how.export(output, turn.stem, turn.image, turn.work.path)
            turn.work.clear()

    def _plan(self, turn: Turn) -> OutputPlan:
        how = self.how
        by_chunks = how.format.by_chunks
        return make_plan(
            self.model,
            self.open_image(turn.image),
            self.settings,
            probabilities=how.probabilities,
            ome=by_chunks,
            objects=how.objects,
            rim_objects=how.rim_objects,
            inside=by_chunks and holds_image(FolderStore(how.zarr_of(turn.stem, turn.image))),
        )

    def _of_output(self, turn: Turn, output: Output) -> FileDone:
        """Result of an image whose mask is in a Zarr store."""
        stem, image, stack = turn.stem, turn.image, output.plan.stack
        total, voxels = output.unsure
        done = FileDone(stem, image, self.how.mask_of(stem, image), "done", 0.0, {})
        done = replace(done, unsure=total / voxels if voxels else None)
        if self.optional.count:
            done = replace(done, voxels=count_voxels(output.mask))
        if self.optional.measure:
            table = self.how.table_of(stem, image, self.optional.measure)
            done = replace(done, objects=self._measure(table, *_labels(output), stack, turn))
        return done

    def _described(self, turn: Turn, status: Literal["done", "skipped"]) -> FileDone:
        """Result of an image with an existing mask."""
        stem, image, skipped = turn.stem, turn.image, status == "skipped"
        done = FileDone(stem, image, self.how.mask_of(stem, image), status, 0.0, {})
        numbered = self.how.objects and bool(self.model.classes.objects)
        if self.optional.count and not skipped and not numbered:
            done = replace(done, voxels=_count_planes(self.how.open_mask(stem, image)))
        if self.optional.measure:
            table = self.how.table_of(stem, image, self.optional.measure)
            if not (skipped and table.exists()):
                image_stack = self.open_image(image)
                mask, structures = self.how.open_mask(stem, image), None
                if numbered:
                    structures = self.how.open_structures(stem, image) or self._only_structure
                found = self._measure(table, mask, structures, image_stack, turn)
                done = replace(done, objects=found)
        return done

    @property
    def _only_structure(self) -> int:
        """The structure of all objects; 0 where there are several."""
        numbers = self.model.classes.objects
        return numbers[0] if len(numbers) == 1 else 0

    def _measure(
        self, table: Path, mask: Stack, structures: Stack | int | None, image: Stack, turn: Turn
    ) -> dict[int, int]:
        """Write an object table; return the number of objects of each structure.

        Without structures the mask is one of structures, not of objects.
        """
        rows = measure_objects(
            table,
            mask,
            image,
            kind=LabelKind.FULL if structures is None else LabelKind.INSTANCES,
            structures=1 if structures is None else structures,
            rim_objects=self.how.rim_objects,
            scratch=turn.work.path,
        )
        return dict(Counter(int(row["structure"]) for row in rows))

    def _chunks(self, image: Path) -> Chunks | None:
        if self.chunks is not None:
            return self.chunks(image)
        return partial(predict_here, unsure=True) if self.optional.unsure else None


def _labels(output: Output) -> tuple[Stack, Stack | None]:
    """What was written, with the axes of its image: a mask, or objects and their structures."""
    stack, objects = output.plan.stack, output.objects
    how = (stack.grid_axes, stack.grid_spacing, stack.grid_units)
    mask = Stack(output.mask, *how, name=stack.name)
    return (mask, None) if objects is None else (Stack(objects.ids, *how, name=stack.name), mask)


def is_there(how: Saving, stem: str, image: Path) -> bool:
    """Whether a complete mask of an image exists, of any model."""
    if not how.format.by_chunks:
        return how.exists(stem, image)
    return is_finished(FolderStore(how.zarr_of(stem, image)))


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


def _count_planes(mask: Stack) -> dict[int, int]:
    """Voxels of each number in a mask of a file, read a plane at a time."""
    counts: Counter[int] = Counter()
    for plane in mask.planes(2):
        numbers, voxels = np.unique(mask.read(plane, mask.whole(2)), return_counts=True)
        counts.update(dict(zip(numbers.tolist(), voxels.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def _sentence(problem: Exception) -> str:
    if isinstance(problem, UserError):
        return str(problem)
    if is_out_of_memory(problem):
        return "There is not enough memory; close other programs or choose smaller tiles."
    return f"Unexpected {type(problem).__name__}: {' '.join(str(problem).split())}"
