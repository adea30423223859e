"""What ``unetseg predict`` does: masks of many images, told one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.commands import check_writable, count, load
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.job_control import Control
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.signals import Interrupted, stop_on_signals
from napari_unetseg.terminal import Meter, finish, note, tell

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.inference.large.dask_connect import Where
    from napari_unetseg.inference.large.output_format import Saving
    from napari_unetseg.inference.large.predict_files import FileDone, Opening
    from napari_unetseg.inference.large.predict_to_zarr import Chunks
    from napari_unetseg.models.model import Model

__all__ = ["STOPPING", "SomeFailedError", "Wanted", "cluster_chunks", "predict", "run_files"]

STOPPING = "Stopping after this chunk"


class SomeFailedError(Exception):
    """Some images failed and the others are done; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a prediction of many images is asked for besides settings and format.

    Attributes
    ----------
    axes, spacing, series, missing_planes
        How the image files are opened; see `open_stack`.
    skip_existing
        Leave out images whose masks are there.
    report
        Write ``report.csv`` beside the masks.
    """

    axes: str | None = None
    skip_existing: bool = False
    report: bool = False
    spacing: str | None = None
    series: str | None = None
    missing_planes: MissingPlanes = MissingPlanes.REFUSE

    @property
    def opening(self) -> Opening:
        """How the images are opened."""
        from napari_unetseg.inference.large.predict_files import Opening

        return Opening(self.axes, self.spacing, self.missing_planes)


def predict(
    model_file: Path,
    images: Sequence[str],
    how: Saving,
    settings: PredictSettings,
    wanted: Wanted,
    where: Where | None = None,
) -> None:
    """Predict images and write a mask for each, here or on the workers of a cluster."""
    from napari_unetseg.inference.large.find_images import check_outputs, find_images

    paths = find_images(images, inside=how.folder is None, series=wanted.series)
    if how.folder is not None:
        check_outputs(paths, how)
    model = load(model_file)
    if how.folder is not None:
        check_writable(how.folder)
    try:
        with cluster_chunks(where, settings.threads) as of:
            chunks = of(wanted.opening) if of is not None else None
            results = run_files(model, paths, how, settings, wanted, chunks)
        _tell(results, how)
    finally:
        if how.folder is not None:
            with suppress(OSError):  # a folder that nothing came into
                how.folder.rmdir()


def run_files(
    model: Model,
    paths: Mapping[str, Path],
    how: Saving,
    settings: PredictSettings,
    wanted: Wanted,
    chunks: Callable[[Path], Chunks] | None = None,
) -> list[FileDone]:
    """Predict images and show how far it is; writes the report, also of what was stopped."""
    from napari_unetseg.inference.large.predict_files import (
        FileBegun,
        FileDone,
        Wish,
        predict_files,
    )
    from napari_unetseg.inference.large.results_table import write_report

    done: list[FileDone] = []
    control = Control(settings.threads)
    report = how.folder / "report.csv" if wanted.report and how.folder is not None else None
    with stop_on_signals(control, STOPPING) as stop, Meter("Predicting") as meter:

        def show(event: Event) -> None:
            if isinstance(event, FileBegun):
                name = Path(event.name).name
                meter.rename(f"Predicting {name} ({event.number} of {event.total})")
            elif isinstance(event, FileDone):
                done.append(event)
                if event.status == "failed" and len(paths) > 1:
                    meter.line(f"{event.image.name} failed: {event.error}")
            meter.show(event)

        try:
            events = predict_files(
                model,
                paths,
                how,
                settings,
                open_image=wanted.opening,
                wish=Wish(skip_existing=wanted.skip_existing, count=report is not None),
                control=control,
                chunks=chunks,
            )
            finish(events, show)
        finally:
            if report is not None:
                write_report(report, [(model, one) for one in done])
    if stop and len(done) < len(paths):
        raise Interrupted(
            stop,
            f"{len(done)} of {len(paths)} images are done. Give the same command "
            "again to continue.",
        )
    return done


@contextmanager
def cluster_chunks(
    where: Where | None, threads: int | None
) -> Iterator[Callable[[Opening], Callable[[Path], Chunks]] | None]:
    """What predicts the chunks of each image, by how images are opened; None: this process."""
    if where is None:
        yield None
        return
    from napari_unetseg.inference.large.dask_cluster import forget_model, on_cluster
    from napari_unetseg.inference.large.dask_connect import workers_of

    with workers_of(where, threads) as client:
        shown = f"; dashboard: {client.dashboard_link}" if find_spec("bokeh") else ""
        note(f"{count(len(client.nthreads()), 'worker')}{shown}")
        try:
            yield partial(on_cluster, client)
        finally:
            forget_model(client)


def _tell(results: Sequence[FileDone], how: Saving) -> None:
    """Say what was done; raises what the exit code is made of."""
    written = sum(r.status == "done" for r in results)
    skipped = sum(r.status == "skipped" for r in results)
    failed = [r for r in results if r.status == "failed"]
    if len(results) == len(failed) == 1:
        raise UserError(failed[0].error)
    place = "into the images" if how.folder is None else f"to {how.folder}"
    if written or not skipped:
        tell(f"{count(written, 'mask')} written {place}.")
    if skipped:
        note(f"{count(skipped, 'image')} skipped, since their masks exist.")
    if failed:
        lines = [f"{count(len(failed), 'image')} of {len(results)} failed:"]
        text = "\n".join([*lines, *(f"  {r.image}: {r.error}" for r in failed)])
        raise SomeFailedError(text)
