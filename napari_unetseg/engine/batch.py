"""Many images, several models, tables of objects: what a batch is, and how it is done.

A batch is read from YAML that holds data alone: anchors, aliases and tags are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from napari_unetseg.core.config import PredictSettings
from napari_unetseg.core.control import Control
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event
from napari_unetseg.engine.files import FileDone, Opening, Wish, predict_files
from napari_unetseg.engine.finding import check_outputs, find_images
from napari_unetseg.engine.saving import Format, Saving

if TYPE_CHECKING:
    from napari_unetseg.core.model import Model
    from napari_unetseg.engine.stream import Chunks

__all__ = ["Batch", "Job", "JobBegun", "JobDone", "read_batch", "run_batch"]

LARGEST = 2**20
"""Bytes of a batch's file."""


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(_Strict):
    """One model applied to images."""

    model: Path
    images: Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
    """Files, folders, and patterns such as ``scans/*.tif``."""
    output: Path | None = None
    """The folder of the masks; without it each goes into its OME-Zarr image."""
    format: Format | None = None
    probabilities: Literal["float32", "float16", "uint8"] | None = None
    axes: str | None = None
    spacing: str | None = None
    measure: Literal["csv", "parquet"] | None = None
    """A table of the objects beside each mask."""
    overwrite: bool = False
    """Replace masks that are there; otherwise their images are left out."""

    @property
    def saving(self) -> Saving:
        """As what and where masks are saved."""
        usual = Format.TIFF if self.output is not None else Format.ZARR
        return Saving(self.output, self.format or usual, self.probabilities, self.overwrite)

    @property
    def wish(self) -> Wish:
        """What else is wanted."""
        suffix = f".{self.measure}" if self.measure else None
        return Wish(skip_existing=not self.overwrite, count=True, measure=suffix)

    @property
    def opening(self) -> Opening:
        """How its images are opened."""
        return Opening(self.axes, self.spacing)

    def find(self) -> dict[str, Path]:
        """Its images by their stems; `UserError` where there are none, or a mask has no place."""
        paths = find_images(self.images, inside=self.output is None)
        if self.output is not None:
            check_outputs(paths, self.saving)
        return paths


class Batch(_Strict):
    """Jobs, one after another, and what they have in common."""

    jobs: Annotated[list[Job], Field(min_length=1)]
    report: Path | None = None
    """A table of all images."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    tile: Annotated[int, Field(ge=8, le=16384)] | None = None

    @property
    def settings(self) -> PredictSettings:
        """How the models are applied."""
        return PredictSettings(device=self.device, threads=self.threads, tile=self.tile)


@dataclass(frozen=True, slots=True)
class JobBegun(Event):
    """A job is next: its ``number`` of ``total``, from 1, its model and the name of that."""

    number: int
    total: int
    model: Model
    name: str


@dataclass(frozen=True, slots=True)
class JobDone:
    """What became of a job: its images, or why it could not begin."""

    job: Job
    model: Model | None
    files: list[FileDone]
    error: str = ""


def read_batch(path: Path) -> Batch:
    """Read a batch; paths in it are relative to its folder.

    Raises
    ------
    UserError
        The file is missing, no YAML, or says what a batch does not know; with the line.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is too large for a batch; give a text of up to 1 MB.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"The batch {path} cannot be read: {reason.lower()}.") from error
    values, lines = _parse(path, text)
    try:
        return _placed(Batch.model_validate(values), path.absolute().parent)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UserError(_why(path, first["loc"], str(first["msg"]), lines)) from error


def _parse(path: Path, text: str) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """The values, and the line of each."""
    data = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken)
    try:
        for token in yaml.scan(text):
            if isinstance(token, data):
                line = token.start_mark.line + 1
                raise UserError(
                    f"{path}, line {line}: a batch is plain data; write it without anchors, "
                    "aliases and tags."
                )
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node, ())) if node is not None else {}
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it cannot be parsed"
        raise UserError(f"{path}{where} is no YAML: {what}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is no batch: its lists are too deep.") from error


def _lines(node: yaml.Node, at: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], int]]:
    yield at, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from ((p, n) for p, n in _lines(value, (*at, key.value)) if p != (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _lines(value, (*at, number))


def _why(path: Path, place: tuple[Any, ...], message: str, lines: dict[Any, int]) -> str:
    line = next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), 1)
    names = [str(part) for part in place if isinstance(part, str)]
    if message.startswith("Extra inputs"):
        return f"{path}, line {line}: {names[-1]} is nothing that a batch knows."
    if message == "Field required":
        return f"{path}, line {line}: {names[-1]} is missing."
    if not names:
        return f"{path} is no batch: it needs a list of jobs, each with model, images and output."
    return f"{path}, line {line}: {names[-1]} cannot be that: {message[0].lower()}{message[1:]}."


def _placed(batch: Batch, folder: Path) -> Batch:
    """The same with absolute paths."""

    def whole(path: Path | None) -> Path | None:
        return None if path is None else folder / path.expanduser()

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
    control: Control | None = None,
    chunks: Callable[[Opening], Callable[[Path], Chunks]] | None = None,
) -> Generator[Event, None, list[JobDone]]:
    """Do a batch; what is bad, an image or a whole job, does not stop the rest.

    Images whose masks are there are left out, and what was killed goes on, so that the same batch
    can be given again.

    Parameters
    ----------
    batch
        What to do.
    control
        Stops after the chunk at hand, or waits there.
    chunks
        From how images are opened to what predicts their chunks; None: this process does.

    Yields
    ------
    Event
        `JobBegun`, and the events of `predict_files`.

    Returns
    -------
    list of JobDone
        Those that were reached.
    """
    from napari_unetseg.core.model import load_model

    control = control or Control(batch.threads)
    results: list[JobDone] = []
    for number, job in enumerate(batch.jobs, 1):
        if control.stopped:
            break
        model = None
        try:
            how, images, model = job.saving, job.find(), load_model(job.model)
        except UserError as error:
            results.append(JobDone(job, model, [], str(error)))
            continue
        yield JobBegun(number, len(batch.jobs), model, job.model.name)
        files = yield from predict_files(
            model,
            images,
            how,
            batch.settings,
            open_image=job.opening,
            wish=job.wish,
            control=control,
            chunks=None if chunks is None else chunks(job.opening),
        )
        results.append(JobDone(job, model, files))
    return results
