"""Batch prediction: many images, several models, object tables; read from YAML by `read_yaml`."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from napari_unetseg.core.atomic_write import check_writable
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large.find_images import check_outputs, find_images
from napari_unetseg.inference.large.output_format import Saving
from napari_unetseg.inference.large.plain_yaml import Lines, read_yaml
from napari_unetseg.inference.large.predict_files import (
    FileDone,
    Opening,
    OptionalOutputs,
    predict_files,
)
from napari_unetseg.io.file_names import as_stored
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.io.write_masks import FORMATS, format_names

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from napari_unetseg.inference.large.predict_to_zarr import Chunks
    from napari_unetseg.models.model import Model


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"choose {format_names()}")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchJob(_Strict):
    """One model applied to images."""

    model: Path
    images: Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
    """Files, folders, and patterns such as ``scans/*.tif``."""
    output: Path | None = None
    """The folder of the masks; without it each goes into its OME-Zarr image."""
    format: Annotated[str, AfterValidator(_known_format)] | None = None
    probabilities: Literal["float32", "float16", "uint8"] | None = None
    axes: str | None = None
    spacing: str | None = None
    match_spacing: bool = False
    """Predict at the pixel size of the model."""
    series: str | int | None = None
    """Which image of files that hold several."""
    missing_planes: MissingPlanes = MissingPlanes.REFUSE
    measure: Literal["csv", "parquet"] | None = None
    """A table of the objects beside each mask."""
    objects: bool = True
    """Number the objects, with a model whose structures consist of them."""
    rim_objects: bool = True
    """Keep objects that touch the rim of the image in Y or X, in masks of numbers and tables."""
    overwrite: bool = False
    """Replace masks that are there; otherwise their images are left out."""

    @property
    def saving(self) -> Saving:
        """Output format and place of the masks."""
        usual = "tiff" if self.output is not None else "zarr"
        chosen = FORMATS[self.format or usual]
        return Saving(
            self.output,
            chosen,
            self.probabilities,
            self.overwrite,
            self.objects,
            self.rim_objects,
        )

    @property
    def optional(self) -> OptionalOutputs:
        """Optional outputs."""
        suffix = f".{self.measure}" if self.measure else None
        return OptionalOutputs(skip_existing=not self.overwrite, count=True, measure=suffix)

    @property
    def opening(self) -> Opening:
        """Image opening options."""
        return Opening(self.axes, self.spacing, self.missing_planes)

    def find(self) -> dict[str, Path]:
        """Images by their stems; `UserError` without any, or where a mask has no valid path."""
        paths = find_images(self.images, inside=self.output is None, series=self.series)
        if self.output is not None:
            check_outputs(paths, self.saving)
        return paths


class Batch(_Strict):
    """Jobs that run one after another, with common settings."""

    jobs: Annotated[list[BatchJob], Field(min_length=1)]
    report: Path | None = None
    """A table of all images."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    tile: Annotated[int, Field(ge=8, le=16384)] | None = None

    @property
    def settings(self) -> PredictSettings:
        """Settings of prediction."""
        return PredictSettings(device=self.device, threads=self.threads, tile=self.tile)


@dataclass(frozen=True, slots=True)
class JobBegun(Event):
    """A job starts: its ``number`` of ``total``, from 1, its model and that one's name."""

    number: int
    total: int
    model: Model
    name: str


@dataclass(frozen=True, slots=True)
class JobDone(Event):
    """What became of a job: its images, or why it could not begin."""

    job: BatchJob
    model: Model | None
    files: list[FileDone]
    error: str = ""


def read_batch(path: Path) -> Batch:
    """Read a batch; paths in it are relative to its folder.

    Raises
    ------
    UserError
        The file is missing, no YAML, or has unknown keys; with the line.
    """
    values, lines = read_yaml(path, "batch")
    try:
        return _placed(Batch.model_validate(values), path.absolute().parent)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        raise UserError(_why(path, first, lines)) from error


def _why(path: Path, error: ErrorDetails, lines: Lines) -> str:
    place, message = error["loc"], error["msg"].removeprefix("Value error, ")
    line = next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), 1)
    names = [part[:60] for part in place if isinstance(part, str)]
    if error["type"] == "extra_forbidden":
        return f"{path}, line {line}: {names[-1]} is not a known key of a batch."
    if error["type"] == "missing":
        return f"{path}, line {line}: {names[-1]} is missing."
    if not names:
        return (
            f"{path} is not a batch file: it needs a list of jobs, each with model, "
            "images and output."
        )
    return f"{path}, line {line}: {names[-1]} has a wrong value: {message[0].lower()}{message[1:]}."


def _placed(batch: Batch, folder: Path) -> Batch:
    """A copy with absolute paths."""

    def whole(path: Path | None) -> Path | None:
        return None if path is None else as_stored(folder / path.expanduser())

    jobs = [
        job.model_copy(
            update={
                "model": whole(job.model),
                "output": whole(job.output),
                "images": [str(folder / Path(image).expanduser()) for image in job.images],
            }
        )
        for job in batch.jobs
    ]
    return batch.model_copy(update={"jobs": jobs, "report": whole(batch.report)})


def run_batch(
    batch: Batch,
    control: JobControl | None = None,
    chunks: Callable[[Opening], Callable[[Path], Chunks]] | None = None,
) -> Generator[Event, None, list[JobDone]]:
    """Run a batch; failures of an image or job do not stop the rest.

    Existing masks are skipped and killed work resumes, so that the same batch can be run again.

    Parameters
    ----------
    batch
        The batch.
    control
        Stops or pauses after a chunk.
    chunks
        From how images are opened to what predicts their chunks; None: this process does.

    Yields
    ------
    Event
        `JobBegun` and the events of `predict_files`, or the `JobDone` of a job that cannot begin.

    Returns
    -------
    list of JobDone
        Those that were reached.
    """
    from napari_unetseg.models.model import load_model

    control = control or JobControl(batch.threads)
    results: list[JobDone] = []
    for number, (job, images) in enumerate(plan_batch(batch), 1):
        if control.stopped:
            break
        model = None
        try:
            if isinstance(images, UserError):
                raise images
            model = load_model(job.model)
            if job.output is not None:
                check_writable(job.output)
        except UserError as error:
            results.append(JobDone(job, model, [], str(error)))
            yield results[-1]
            continue
        yield JobBegun(number, len(batch.jobs), model, job.model.name)
        files = yield from predict_files(
            model,
            images,
            job.saving,
            batch.settings.model_copy(update={"match_spacing": job.match_spacing}),
            open_image=job.opening,
            optional=job.optional,
            control=control,
            chunks=None if chunks is None else chunks(job.opening),
        )
        results.append(JobDone(job, model, files))
    return results


def plan_batch(batch: Batch) -> Iterator[tuple[BatchJob, dict[str, Path] | UserError]]:
    """Each job with its images by their stems, or with why it cannot start.

    Images are searched in the job's turn, since they may be an earlier job's outputs.
    """
    taken: dict[str, int] = {}
    for number, job in enumerate(batch.jobs, 1):
        try:
            images = job.find()
            _claim(job, number, images, taken)
        except UserError as error:
            yield job, error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            yield job, UserError(f"Job {number} cannot be done ({reason}); check its paths.")
        else:
            yield job, images


def _claim(job: BatchJob, number: int, images: dict[str, Path], taken: dict[str, int]) -> None:
    """Refuse outputs of an earlier job, which would be skipped or replaced."""
    how, mine = job.saving, []
    for stem, image in images.items():
        results = [how.mask_of(stem, image), how.probabilities_of(stem)]
        if job.optional.measure is not None:
            results.append(how.table_of(stem, image, job.optional.measure))
        mine += [os.path.realpath(path) for path in results if path is not None]
    for path in mine:
        if path in taken:
            raise UserError(
                f"{path} is already written by job {taken[path]}; give job {number} another "
                "output folder."
            )
    taken |= dict.fromkeys(mine, number)
