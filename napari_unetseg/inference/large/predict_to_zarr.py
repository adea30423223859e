"""Resumable prediction of one image into OME-Zarr labels."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Event, Notice
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large.chunk_grid import Grid
from napari_unetseg.inference.large.chunk_task import ChunkPredictor, Predicted, Read
from napari_unetseg.inference.large.object_chunks import number_objects
from napari_unetseg.inference.large.output import Output, open_output
from napari_unetseg.inference.large.output_plan import OutputPlan, Precision
from napari_unetseg.inference.large.pipeline import overlapped
from napari_unetseg.inference.predictor import why_blended
from napari_unetseg.models.voxel_sizes import fit_spacing
from napari_unetseg.runtime.devices import use_threads
from napari_unetseg.runtime.glibc_malloc import kept_memory

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Normalization, Stack
    from napari_unetseg.models.model import Model


class CannotGoOnError(UserError):
    """No further image can be predicted either; the same command resumes later."""


class DiskFullError(CannotGoOnError):
    """The disk is full."""


Chunks = Callable[["Output", "Normalization", PredictSettings, JobControl], Iterator[Event]]
"""Predicts and writes the missing chunks and objects of an output: `predict_here`, or a cluster."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_plan(
    model: Model,
    stack: Stack,
    settings: PredictSettings,
    *,
    probabilities: Precision | None = None,
    ome: bool = True,
    name: str = "mask",
    inside: bool = False,
    objects: bool = True,
    rim_objects: bool = True,
) -> OutputPlan:
    """Make the plan of an output; `UserError` where the image does not fit the model."""
    model.check_image(stack)
    resampling = fit_spacing(model, stack, match=settings.match_spacing).resampling
    grid = Grid.plan(model, stack, settings.tile, resampling)
    wanted = objects and bool(model.classes.objects)
    return OutputPlan(
        model, stack, grid, probabilities, ome, name, inside, wanted, rim_objects or not wanted
    )


def predict_to_zarr(
    model: Model,
    stack: Stack,
    store: Any,
    settings: PredictSettings | None = None,
    *,
    probabilities: Precision | None = None,
    ome: bool = True,
    name: str = "mask",
    objects: bool = True,
    rim_objects: bool = True,
    overwrite: bool = False,
    control: JobControl | None = None,
    chunks: Chunks | None = None,
) -> Generator[Event, None, Output | None]:
    """Predict an image of any size into OME-Zarr labels; resumable.

    Memory holds a few chunks. After a kill the same call resumes, and the finished output has the
    same bytes (with the same number of threads, and enough memory for the tiles). There is no lock
    here; `predict_files` has one.

    Parameters
    ----------
    model, stack, settings
        The model, the image, and settings.
    store
        Where: a `FolderStore`, or another Zarr store with its ``has`` and ``tidy``.
    probabilities
        Store them too: ``float32``, ``float16``, or ``uint8`` where 255 stands for 1.
    ome
        With OME-Zarr metadata and smaller levels for viewers; see `OutputPlan`.
    name
        Of the labels.
    objects
        Number the objects too, as ``labels/objects``, of a model whose structures consist of them.
    rim_objects
        False leaves out objects that touch the rim of the image in Y or X; the mask keeps them.
    overwrite
        Replace labels of another model, image or setting.
    control
        Stops after a chunk.
    chunks
        Predicts the chunks; None: this process does.

    Yields
    ------
    Event
        `Notice` sentences, and a `ChunkPredicted` for each chunk that was stored.

    Returns
    -------
    Output or None
        The finished output; None when it was stopped.

    Raises
    ------
    UserError
        The image does not fit the model, the place is taken, the disk is full, or memory is too
        small for a tile.
    """
    settings = settings or PredictSettings()
    how: dict[str, Any] = {"probabilities": probabilities, "ome": ome, "name": name}
    plan = make_plan(model, stack, settings, objects=objects, rim_objects=rim_objects, **how)
    return (
        yield from fill_store(
            plan, store, settings, overwrite=overwrite, control=control, chunks=chunks
        )
    )


def fill_store(
    plan: OutputPlan,
    store: Any,
    settings: PredictSettings,
    *,
    overwrite: bool = False,
    control: JobControl | None = None,
    chunks: Chunks | None = None,
) -> Generator[Event, None, Output | None]:
    """`predict_to_zarr` for an existing plan."""
    control = control or JobControl(settings.threads)
    with kept_memory(), saving():
        output = open_output(store, plan, overwrite=overwrite)
        if not output.finished or output.missing():
            fitted = fit_spacing(plan.model, plan.stack, match=settings.match_spacing)
            if fitted.notice is not None:
                yield fitted.notice
            if plan.grid.blended:
                yield Notice(why_blended(plan.model))
            normalization, notices = plan.model.normalization.for_stack(fitted.seen)
            yield from notices
            yield from (chunks or predict_here)(output, normalization, settings, control)
            if control.stopped:
                return None
            yield from fill(output, control)
        return output if output.finished else None


def predict_here(
    output: Output,
    normalization: Normalization,
    settings: PredictSettings,
    control: JobControl,
    *,
    unsure: bool = False,
) -> Iterator[Event]:
    """Predict the missing chunks, then number the objects; ``unsure`` sums up the uncertainty."""
    plan = output.plan
    total = plan.steps
    predictor = ChunkPredictor(
        plan.model,
        plan.grid,
        normalization,
        settings.device,
        probabilities=plan.probabilities is not None,
        unsure=unsure,
        maps=plan.maps,
    )

    def work(number: int, read: Read) -> Predicted:
        use_threads(control.threads or settings.threads)
        return predictor.predict(number, read)

    def wanted() -> Iterator[int]:
        for number in range(len(plan.grid)):
            control.wait()
            if control.stopped:
                return
            if not output.done(number):
                yield number

    def read(number: int) -> Read:
        return predictor.read(plan.stack, number)

    for number in overlapped(wanted(), read, work, output.write):
        while predictor.notices:
            yield Notice(predictor.notices.pop(0))
        yield ChunkPredicted(number + 1, total)
    if not control.stopped:
        yield from number_objects(output, control)


def fill(output: Output, control: JobControl | None = None) -> Iterator[Event]:
    """Write pyramid and metadata of an output with all chunks; can be stopped."""
    for _ in output.finish():
        if control is not None and control.stopped:
            return
    yield ChunkPredicted(output.plan.steps, output.plan.steps)


@contextmanager
def saving() -> Iterator[None]:
    """Add to the error of a full disk that the same command resumes."""
    try:
        yield
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise DiskFullError(f"{error} Start it again to continue where it was.") from error
        raise
