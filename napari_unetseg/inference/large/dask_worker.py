"""Worker side of distributed prediction.

A worker gets the bytes of a model file once and checks them; each task after that is a chunk's
number. Workers open images and write chunks themselves.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin, get_worker

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.versions import PROGRAM_VERSION
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.chunk_task import ChunkPredictor
from napari_unetseg.inference.large.object_chunks import ObjectChunks, Stage
from napari_unetseg.inference.large.output import Output, attach_output
from napari_unetseg.inference.large.output_plan import OutputPlan, Precision
from napari_unetseg.inference.large.predict_to_zarr import CannotGoOnError, saving
from napari_unetseg.models.model import Model
from napari_unetseg.runtime.devices import use_threads
from napari_unetseg.runtime.glibc_malloc import kept_memory

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Normalization, Stack
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.data.object_heights import Heights
    from napari_unetseg.inference.large.chunk_grid import Grid


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """Prediction of one image, as sent to workers."""

    id: str
    """Its name."""
    models: str
    """Name of the `Models` that has its model."""
    open_image: Callable[[Path], Stack]
    image: Path
    """How the image is opened, and where it is."""
    store: Path
    """The folder of the Zarr store that is filled."""
    grid: Grid
    normalization: Normalization
    settings: PredictSettings
    probabilities: Precision | None
    ome: bool
    name: str
    objects: bool
    rim_objects: bool
    """As of `OutputPlan` and `PredictSettings`; every worker does the same."""
    version: str = PROGRAM_VERSION
    """Of the program that began it."""


@dataclass(eq=False)
class _Begun:
    """An open image on a worker."""

    stack: Stack
    output: Output
    predictor: ChunkPredictor


@dataclass(eq=False)
class Models(WorkerPlugin):
    """Worker plugin that loads a model on every present and future worker and caches open images.

    Parameters
    ----------
    data
        The bytes of a model file.
    """

    data: bytes
    model: Model | None = None
    begun: dict[str, _Begun] = field(default_factory=dict)
    opening: Any = None
    predicting: Any = None
    memory: ExitStack | None = None

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - as dask calls it
        """Check and load the model file."""
        self.opening, self.predicting = threading.Lock(), threading.Lock()
        self.memory = ExitStack()
        self.memory.enter_context(kept_memory())
        with tempfile.TemporaryDirectory(prefix="unetseg-") as folder:
            file = Path(folder) / "model.safetensors"
            file.write_bytes(self.data)
            self.model = Model.load(file)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 - as dask calls it
        """Free the memory."""
        self.model = None
        self.begun.clear()
        if self.memory is not None:
            self.memory.close()

    def open(self, job: ChunkJob) -> _Begun:
        """The image of a job, cached."""
        with self.opening:
            if job.id not in self.begun:
                self.begun.clear()
                self.begun[job.id] = self._open(job)
            return self.begun[job.id]

    def _open(self, job: ChunkJob) -> _Begun:
        assert self.model is not None
        if job.version != PROGRAM_VERSION:
            raise UserError(
                f"napari-unetseg is {PROGRAM_VERSION} here and {job.version} where the prediction "
                "was begun; install the same version everywhere."
            )
        try:
            stack = job.open_image(job.image)
            plan = OutputPlan(
                self.model,
                stack,
                job.grid,
                job.probabilities,
                job.ome,
                job.name,
                objects=job.objects,
                rim_objects=job.rim_objects,
            )
            output = attach_output(FolderStore(job.store), plan)
        except UserError as error:
            raise UserError(
                f"{error} Images and output must have the same paths on all machines."
            ) from error
        predictor = ChunkPredictor(
            self.model,
            job.grid,
            job.normalization,
            job.settings.device,
            probabilities=job.probabilities is not None,
            maps=plan.maps,
        )
        return _Begun(stack, output, predictor)


def predict_chunk(job: ChunkJob, number: int) -> list[str]:
    """Predict a chunk and write it; return notices.

    One chunk is predicted at a time, while a second thread of the worker reads or writes another.
    """
    with _opened(job) as (begun, predicting):
        if begun.output.done(number):  # a lost worker wrote it
            return []
        read = begun.predictor.read(begun.stack, number)
        with predicting:
            use_threads(job.settings.threads)
            predicted = begun.predictor.predict(number, read)
            notices, begun.predictor.notices = begun.predictor.notices, []
        begun.output.write(number, predicted)
        return list(notices)


def number_chunk(job: ChunkJob, stage: Stage, how: Heights, number: int) -> list[str]:
    """Do a stage of numbering objects for a chunk; returns nothing to be said."""
    with _opened(job) as (begun, _):
        output = attach_output(FolderStore(job.store), begun.output.plan)
        chunks = ObjectChunks(output, how)
        if not chunks.done(stage, number):
            chunks.do(stage, number)
    return []


@contextmanager
def _opened(job: ChunkJob) -> Iterator[tuple[_Begun, Any]]:
    """The image of a job and the lock of its predictor; errors name the worker."""
    worker = get_worker()
    models: Any = worker.plugins[job.models]
    try:
        with saving():
            yield models.open(job), models.predicting
    except CannotGoOnError:
        raise
    except UserError as error:
        raise UserError(f"The worker at {worker.address} failed: {error}") from None
