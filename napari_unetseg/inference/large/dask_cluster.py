"""Distributed prediction of one image through dask.distributed.

The client creates the output, sends the model once to each worker, assigns chunk numbers, and
finishes the output; dask reassigns the chunks of lost workers.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Event, Notice
from napari_unetseg.inference.large.dask_connect import check_versions
from napari_unetseg.inference.large.object_chunks import number_objects
from napari_unetseg.inference.large.predict_to_zarr import CannotGoOnError

if TYPE_CHECKING:
    from distributed import Client, Future

    from napari_unetseg.core.image_stack import Normalization, Stack
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.data.object_heights import Heights
    from napari_unetseg.inference.large.object_chunks import Stage
    from napari_unetseg.inference.large.output import Output
    from napari_unetseg.inference.large.predict_to_zarr import Chunks
    from napari_unetseg.models.model import Model

LOST_SECONDS = 60.0
"""Seconds without a worker after which a prediction ends."""
LOOK_SECONDS = 1.0
RESULT_SECONDS = 10.0
"""Seconds after which a result that was not fetched is requested again."""
ALL_LOST = (
    "All workers were lost; finished chunks are kept: give the same command again to continue."
)
_sent: WeakKeyDictionary[Client, str] = WeakKeyDictionary()
"""Id of the model on a client's workers."""
CUT_OFF = (
    "The connection to the dask scheduler was lost; finished chunks are kept: restart the "
    "scheduler and give the same command again."
)


def on_cluster(client: Client, open_image: Callable[[Path], Stack]) -> Callable[[Path], Chunks]:
    """Prediction of chunks by the workers of a client.

    Parameters
    ----------
    client
        Of `workers_of`, or any other of dask.distributed. Each worker is sent a model once; see
        also `forget_model`.
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
    control: JobControl,
) -> Iterator[Event]:
    """Predict the missing chunks, and number the objects."""
    from napari_unetseg.inference.large.dask_worker import ChunkJob, number_chunk, predict_chunk

    plan = output.plan
    with _connected():
        name = _send(client, plan.model)
    job = ChunkJob(
        id=uuid.uuid4().hex[:12],
        models=name,
        open_image=open_image,
        image=image,
        store=output.folder.absolute(),
        grid=plan.grid,
        normalization=normalization,
        settings=settings,
        probabilities=plan.probabilities,
        ome=plan.ome,
        name=plan.name,
        objects=plan.objects,
        rim_objects=plan.rim_objects,
    )

    def each(stage: Stage, how: Heights, left: Sequence[int]) -> Iterator[Event | None]:
        return _hand_out(client, partial(number_chunk, job, stage, how), left, control)

    left = [number for number in range(len(plan.grid)) if not output.done(number)]
    done = len(plan.grid) - len(left)
    with _connected():
        for event in _hand_out(client, partial(predict_chunk, job), left, control):
            done += event is None
            yield event or ChunkPredicted(done, plan.steps)
        if not control.stopped:
            yield from number_objects(output, control, each)


@contextmanager
def _connected() -> Iterator[None]:
    """Raise a sentence when the connection to the scheduler is lost."""
    try:
        yield
    except (OSError, CancelledError) as error:
        raise CannotGoOnError(CUT_OFF) from error


def _send(client: Client, model: Model) -> str:
    """Send a model to all present and future workers; return its name there."""
    from napari_unetseg.inference.large.dask_worker import Models
    from napari_unetseg.models.model_file import content

    description = model.description()
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    name = f"unetseg-{model.id}-{digest[:12]}-{client.id}"
    if _sent.get(client) != name:
        forget_model(client)
        client.register_plugin(Models(content(model.weights, description)), name=name)
        _sent[client] = name
    return name


def forget_model(client: Client) -> None:
    """Remove the last model from a client's workers."""
    if (name := _sent.pop(client, None)) is not None:
        with suppress(Exception):  # they may be gone
            client.unregister_worker_plugin(name)


def _hand_out(
    client: Client, task: Callable[[int], list[str]], left: Sequence[int], control: JobControl
) -> Iterator[Event | None]:
    """Keep workers slightly oversubscribed with chunks; yields None after each, and notices."""
    todo = iter(left)
    going: set[Future[Any]] = set()
    lost_since: float | None = None
    try:
        while True:
            control.wait()
            room = 0 if control.stopped else _room(client) - len(going)
            going |= {_submit(client, task, number) for number in islice(todo, max(0, room))}
            if not going:
                return
            fetched = {future: _result(future) for future in _ended(client, going)}
            results = {future: said for future, said in fetched.items() if said is not None}
            lost_since = None if results or client.nthreads() else lost_since or time.monotonic()
            if lost_since is not None and time.monotonic() - lost_since > LOST_SECONDS:
                raise CannotGoOnError(ALL_LOST)
            for future, said in results.items():
                going.discard(future)
                yield from map(Notice, said)
                yield None
    finally:
        with suppress(OSError, CancelledError):
            client.cancel(list(going))


def _room(client: Client) -> int:
    """Most tasks in progress: one more for each worker than its threads."""
    threads: dict[str, int] = client.nthreads()
    return max(1, sum(threads.values()) + len(threads))


def _submit(client: Client, task: Callable[[int], list[str]], number: int) -> Future[Any]:
    return client.submit(task, number, pure=False, priority=-number)


def _ended(client: Client, going: set[Future[Any]]) -> set[Future[Any]]:
    """Finished tasks; waits a moment without any."""
    from distributed import wait

    with suppress(TimeoutError), client.as_current():
        ended = wait(going, timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done
        return set(ended)
    return set()


def _result(future: Future[Any]) -> list[str] | None:
    """A worker's notices on its chunk; None if they were lost."""
    from distributed import KilledWorker

    try:
        found: list[str] = future.result(timeout=RESULT_SECONDS)
        return found
    except TimeoutError:
        if future.status == "error":  # errors of the worker's task
            raise
        return None
    except KilledWorker as error:
        raise UserError(
            "Several workers were lost at the same chunk, mostly for lack of memory; give them "
            "more memory, or choose smaller tiles with --tile, and give the same command again."
        ) from error
