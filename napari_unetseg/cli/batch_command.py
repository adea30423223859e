"""Command ``unetseg batch``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from napari_unetseg.cli.console import Meter, note, tell
from napari_unetseg.cli.exit_codes import SomeFailedError
from napari_unetseg.cli.interrupts import STOPPING, Interrupted, stop_on_signals
from napari_unetseg.cli.workers import (
    Cluster,
    Scheduler,
    Workers,
    chosen_workers,
    cluster_chunks,
    default_threads,
)
from napari_unetseg.core.atomic_write import check_writable
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import finish
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.text import count

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.inference.large.batch_job import Batch, JobBegun, JobDone
    from napari_unetseg.inference.large.predict_files import FileDone, Opening
    from napari_unetseg.inference.large.predict_to_zarr import Chunks
    from napari_unetseg.models.model import Model


def batch(
    config: Annotated[Path, Argument(metavar="CONFIG", help="A batch: YAML, see docs/batch.md.")],
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only list which masks would be made.")
    ] = False,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
) -> None:
    """Predict many images with several models and measure them, as CONFIG says.

    Masks that are there are left out, and what was killed goes on: give the same command again.
    """
    from napari_unetseg.inference.large.batch_job import read_batch

    where = chosen_workers(workers, cluster, scheduler)
    plan = read_batch(config)
    if plan.threads is None:
        plan = plan.model_copy(update={"threads": default_threads(where)})
    if dry_run:
        _list(plan)
        return
    if plan.report is not None:
        check_writable(plan.report.parent)
    with cluster_chunks(where, plan.threads) as chunks:
        results = _run(plan, chunks)
    _tell(results)


def _list(plan: Batch) -> None:
    """List the planned masks, and the errors."""
    from napari_unetseg.inference.large.batch_job import plan_batch
    from napari_unetseg.inference.large.predict_files import is_there

    wrong: list[str] = []
    for number, (job, images) in enumerate(plan_batch(plan), 1):
        tell(f"Job {number}: {job.model}")
        if not job.model.is_file():
            wrong.append(f"The model {job.model} does not exist; check its name.")
        if isinstance(images, UserError):
            wrong.append(str(images))
            continue
        how = job.saving
        for stem, image in images.items():
            there = not job.overwrite and is_there(how, stem, image)
            tell(f"  {image} -> {how.mask_of(stem, image)}{' (exists)' * there}")
    if wrong:
        raise SomeFailedError("\n".join([f"{count(len(wrong), 'thing')} would fail:", *wrong]))


class _Shown:
    """Progress of a batch, and the rows of its report."""

    def __init__(self, meter: Meter) -> None:
        self.rows: list[tuple[Model | None, FileDone]] = []
        self.names: list[str] = []
        self._meter = meter
        self._job: JobBegun | None = None

    def __call__(self, event: Event) -> None:
        from napari_unetseg.inference.large.batch_job import JobBegun, JobDone
        from napari_unetseg.inference.large.predict_files import FileBegun, FileDone

        job = self._job
        if isinstance(event, JobBegun):
            self._job = event
        elif isinstance(event, JobDone):
            self._failed(event)
        elif isinstance(event, FileBegun) and job is not None:
            part = f"job {job.number} of {job.total}, " if job.total > 1 else ""
            name = Path(event.name).name
            self._meter.rename(f"Predicting {name} ({part}{event.number} of {event.total})")
        elif isinstance(event, FileDone) and job is not None:
            self.rows.append((job.model, event))
            self.names.append(job.name)
            if event.status == "failed":
                self._meter.line(f"{event.image.name} failed: {event.error}")
        self._meter.show(event)

    def _failed(self, event: JobDone) -> None:
        """Rows of the images of a job that could not start."""
        from napari_unetseg.inference.large.predict_files import FileDone

        job = event.job
        images, masks = Path("; ".join(job.images)), job.output or Path()
        row = FileDone(job.model.name, images, masks, "failed", 0.0, {}, event.error)
        self.rows.append((None, row))
        self.names.append(job.model.name)
        self._meter.line(f"{job.model.name} failed: {event.error}")


def _run(
    plan: Batch, chunks: Callable[[Opening], Callable[[Path], Chunks]] | None
) -> list[JobDone]:
    from napari_unetseg.inference.large.batch_job import run_batch
    from napari_unetseg.inference.large.results_table import write_report

    control = JobControl(plan.threads)
    with stop_on_signals(control, STOPPING) as stop, Meter("Predicting") as meter:
        shown = _Shown(meter)
        try:
            results = finish(run_batch(plan, control, chunks), shown)
        finally:
            if plan.report is not None:
                write_report(plan.report, shown.rows, shown.names)
    if stop:
        done = count(sum(model is not None for model, _ in shown.rows), "image")
        raise Interrupted(stop, f"{done} done. Give the same command again to continue.")
    return results


def _tell(results: Sequence[JobDone]) -> None:
    """Print a summary; raise the error of the exit code."""
    files = [file for job in results for file in job.files]
    done = sum(file.status == "done" for file in files)
    skipped = sum(file.status == "skipped" for file in files)
    tell(f"{count(done, 'mask')} written by {count(len(results), 'job')}.")
    if skipped:
        note(f"{count(skipped, 'image')} skipped, since their masks exist.")
    lines = [f"  {job.job.model.name}: {job.error}" for job in results if job.error]
    lines += [f"  {file.image}: {file.error}" for file in files if file.status == "failed"]
    if lines:
        raise SomeFailedError("\n".join([f"{count(len(lines), 'thing')} failed:", *lines]))
