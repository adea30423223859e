"""Prediction of one image on several processes or machines, through dask.distributed.

The program that begins it makes the output, sends the model once to each worker, hands out chunks
by their numbers, and finishes the output. dask gives the chunks of a lost worker to others.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg import __version__
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Event, Notice

if TYPE_CHECKING:
    from distributed import Client, Future

    from napari_unetseg.core.config import PredictSettings
    from napari_unetseg.core.control import Control
    from napari_unetseg.core.image import Normalization, Stack
    from napari_unetseg.engine.output import Output
    from napari_unetseg.engine.stream import Chunks
    from napari_unetseg.engine.worker import Job

__all__ = ["Where", "on_cluster", "workers_of"]

ANSWER_SECONDS = 15.0
"""A scheduler that does not answer in time is not there."""
JOIN_SECONDS = 300.0
"""Workers may wait in a queue of a cluster."""
LOST_SECONDS = 60.0
"""Without a worker for so long a prediction ends."""
LOOK_SECONDS = 1.0
MISSING = (
    "Predicting on several processes or machines needs pip install 'napari-unetseg[distributed]'."
)
ALL_LOST = "All workers are gone; what was predicted is kept, and the same command goes on."
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Where:
    """Processes that predict: ``local`` ones, or the workers of a scheduler at ``address``."""

    local: int = 0
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Where:
        """Read ``local:N``, or the address of a scheduler such as ``tcp://host:8786``."""
        name, _, number = text.partition(":")
        if name == "local":
            if not number.isdigit() or not 1 <= int(number) <= 256:
                raise UserError(f"{text} says no number of processes; write local:2 for two.")
            return cls(int(number))
        if not text.startswith(("tcp://", "tls://", "ucx://", "ws://", "wss://")):
            raise UserError(
                f"{text} is no address of a dask scheduler; write one such as tcp://host:8786."
            )
        return cls(address=text)


@contextmanager
def workers_of(where: Where, threads: int | None = None) -> Iterator[Client]:
    """Connect with workers, or start them; what was started ends with the block.

    Parameters
    ----------
    where
        Which workers. Local ones are processes that listen on the loopback device alone.
    threads
        CPU threads that a local worker predicts with; None shares out the cores.

    Raises
    ------
    UserError
        dask.distributed is not installed, nothing answers, or the workers have another version.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError(MISSING) from error
    if where.local:
        with (
            LocalCluster(
                n_workers=where.local,
                threads_per_worker=2,  # one reads or writes while the other predicts
                processes=True,
                host=LOOPBACK,
                memory_limit=0,
                silence_logs=logging.CRITICAL,
                dashboard_address=f"{LOOPBACK}:0",
                env={"OMP_NUM_THREADS": str(threads or 1), "OMP_WAIT_POLICY": "PASSIVE"},
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    try:
        client = Client(where.address, timeout=ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"No dask scheduler answers at {where.address}; start one with dask scheduler, or "
            "check the address and the network."
        ) from error
    with client:
        _wait_for_workers(client, where.address)
        yield client


def _wait_for_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=JOIN_SECONDS)
    except TimeoutError as error:
        raise UserError(
            f"No worker has joined the scheduler in {JOIN_SECONDS:.0f} s; start some with "
            f"dask worker {address}."
        ) from error


def check_versions(client: Client) -> None:
    """Refuse workers that lack this program, or have another version of it."""

    def version() -> str:  # goes to the workers as it is, which need not know this module
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        try:
            return installed("napari-unetseg")
        except PackageNotFoundError:
            return ""

    for address, found in client.run(version).items():
        if not found:
            raise UserError(f"The worker at {address} lacks napari-unetseg; install it there.")
        if found != __version__:
            raise UserError(
                f"The worker at {address} has napari-unetseg {found} and this is {__version__}; "
                "install the same version everywhere."
            )


def on_cluster(client: Client, open_image: Callable[[Path], Stack]) -> Callable[[Path], Chunks]:
    """How the chunks of images are predicted by the workers of a client.

    Parameters
    ----------
    client
        Of `workers_of`, or any other of dask.distributed.
    open_image
        Opens an image at a path, on a worker; a function of a module, or a partial of one.

    Returns
    -------
    callable
        From an image's path to what `predict_to_zarr` takes as ``chunks``. Image and output must
        have the same paths on all machines.
    """
    check_versions(client)

    def of(image: Path) -> Chunks:
        return partial(_predict, client, open_image, image.absolute())

    return of


def _predict(
    client: Client,
    open_image: Callable[[Path], Stack],
    image: Path,
    output: Output,
    normalization: Normalization,
    settings: PredictSettings,
    control: Control,
) -> Iterator[Event]:
    """Have the chunks that are not there yet predicted."""
    from napari_unetseg.core.model_file import content
    from napari_unetseg.engine.worker import Job, Models

    plan = output.plan
    job = Job(
        id=f"unetseg-{uuid.uuid4().hex}",
        open_image=open_image,
        image=image,
        store=output.folder.absolute(),
        grid=plan.grid,
        normalization=normalization,
        settings=settings,
        probabilities=plan.probabilities,
        ome=plan.ome,
        name=plan.name,
    )
    model = content(plan.model.weights, plan.model.description())
    client.register_plugin(Models(model), name=job.id)
    try:
        yield from _hand_out(client, job, output, control)
    finally:
        client.unregister_worker_plugin(job.id)


def _hand_out(client: Client, job: Job, output: Output, control: Control) -> Iterator[Event]:
    """Give workers chunks, a few more than they can do at once, until all are written."""
    total = len(output.plan.grid)
    left = [number for number in range(total) if not output.done(number)]
    todo, done = iter(left), total - len(left)
    going: set[Future[Any]] = set()
    lost_since: float | None = None
    try:
        while True:
            control.wait()
            room = 0 if control.stopped else _room(client) - len(going)
            going |= {_submit(client, job, number) for number in islice(todo, max(0, room))}
            if not going:
                return
            ended = _ended(client, going)
            lost_since = None if ended or client.nthreads() else lost_since or time.monotonic()
            if lost_since is not None and time.monotonic() - lost_since > LOST_SECONDS:
                raise UserError(ALL_LOST)
            for future in ended:
                going.discard(future)
                yield from map(Notice, _result(future))
                done += 1
                yield ChunkPredicted(done, total)
    finally:
        client.cancel(list(going))


def _room(client: Client) -> int:
    """So many tasks may be under way: one more for each worker than it can do at once."""
    threads: dict[str, int] = client.nthreads()
    return max(1, sum(threads.values()) + len(threads))


def _submit(client: Client, job: Job, number: int) -> Future[Any]:
    from napari_unetseg.engine.worker import predict_chunk

    return client.submit(predict_chunk, job, number, pure=False, priority=-number)


def _ended(client: Client, going: set[Future[Any]]) -> set[Future[Any]]:
    """Those that ended; waits a moment where none has."""
    from distributed import wait

    with suppress(TimeoutError), client.as_current():
        ended = wait(going, timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done
        return set(ended)
    return set()


def _result(future: Future[Any]) -> list[str]:
    from distributed import KilledWorker

    try:
        found: list[str] = future.result()
        return found
    except KilledWorker as error:
        raise UserError(
            "Workers were lost again and again at the same chunk, mostly for want of memory; give "
            "them more, or choose smaller tiles with --tile. The same command goes on."
        ) from error
