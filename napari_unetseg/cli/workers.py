"""Processes and machines of a distributed prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from napari_unetseg.cli.console import note
from napari_unetseg.cli.exit_codes import WrongUsageError
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.text import count
from napari_unetseg.runtime.cpu import cores

if TYPE_CHECKING:
    from napari_unetseg.inference.large.dask_connect import Where
    from napari_unetseg.inference.large.predict_files import Opening
    from napari_unetseg.inference.large.predict_to_zarr import Chunks

PANEL = "Several processes or machines"
Workers = Annotated[
    int | None, Option(help="Number of processes on this computer.", rich_help_panel=PANEL)
]
Cluster = Annotated[
    str | None,
    Option(metavar="local:N", help="The same as --workers N.", rich_help_panel=PANEL),
]
Scheduler = Annotated[
    str | None,
    Option(
        metavar="ADDRESS",
        help="Predict on the workers of a dask scheduler.",
        rich_help_panel=PANEL,
    ),
]


def chosen_workers(workers: int | None, cluster: str | None, scheduler: str | None) -> Where | None:
    """The workers from the options; None: this process."""
    from napari_unetseg.inference.large.dask_connect import Where

    given = [cluster, scheduler, None if workers is None else f"local:{workers}"]
    chosen = [text for text in given if text is not None]
    if len(chosen) > 1:
        raise WrongUsageError("Give one of --workers, --cluster and --scheduler.")
    try:
        return Where.parse(chosen[0]) if chosen else None
    except UserError as error:
        raise WrongUsageError(str(error)) from error


def default_threads(where: Where | None) -> int | None:
    """Default CPU threads of a process; None: by its machine's cores."""
    if where is None:
        return cores()
    return max(1, cores() // where.local) if where.local else None


@contextmanager
def cluster_chunks(
    where: Where | None, threads: int | None
) -> Iterator[Callable[[Opening], Callable[[Path], Chunks]] | None]:
    """Distributed chunk prediction, by how images are opened; None: this process."""
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
