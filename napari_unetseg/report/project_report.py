"""Report of a project for a paper's methods."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.atomic_write import check_writable
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import Structure
from napari_unetseg.inference.quality_table import quality_of
from napari_unetseg.report.project_page import MARK, Facts, ReportImage, write_page

if TYPE_CHECKING:
    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.inference.quality_table import ModelQuality
    from napari_unetseg.io.project.project import Project
    from napari_unetseg.models.model import Model

PAGE = "index.html"


def report_events(
    project: Path,
    output: Path,
    *,
    title: str | None = None,
    stacks: Mapping[str, Stack] | None = None,
    control: JobControl | None = None,
) -> Generator[Event, None, tuple[Path, Facts]]:
    """Write ``index.html`` and its pictures into a folder, whole or not at all.

    Parameters
    ----------
    project
        Its folder; it may be open.
    output
        A folder that is not there, empty, or an earlier report, which is replaced.
    title
        The heading; by default the folder's name.
    stacks
        Images by their keys in the project that need not be looked for.
    control
        Stops the prediction of planes; the page is written with those that are there.

    Yields
    ------
    Event
        What `write_page` yields.

    Returns
    -------
    page, facts
        The file, and what is in it.

    Raises
    ------
    UserError
        The folder is no project, or the output exists and is no report.
    """
    from napari_unetseg.io.project.database import check_folder
    from napari_unetseg.io.project.project import Project

    check_folder(project)
    if output.exists() and not _is_report(output):
        raise UserError(
            f"{output} holds something else than the report of a project; choose another folder."
        )
    check_writable(output.parent)
    contents = Project.read(project)
    facts = _facts(contents, title or project.resolve().name, stacks or {})
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "report"
        folder.mkdir()
        yield from write_page(folder, PAGE, facts, control or JobControl())
        _put(folder, output, Path(temporary) / "earlier")
    return output / PAGE, facts


def _put(folder: Path, output: Path, earlier: Path) -> None:
    """Move a folder to its place; an earlier one stays if that fails."""
    try:
        if output.exists():
            output.rename(earlier)
        folder.rename(output)
    except OSError as error:
        if earlier.exists():
            earlier.rename(output)
        raise UserError(f"{output} cannot be replaced ({error.strerror}); close it.") from error


def _is_report(folder: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError):
        empty = folder.is_dir() and not any(folder.iterdir())
        return empty or MARK in (folder / PAGE).read_text(encoding="utf-8")[:500]
    return False


# -- what is in the project ------------------------------------------------------------------------


def _facts(contents: Project, title: str, stacks: Mapping[str, Stack]) -> Facts:
    structures = _structures(contents)
    described = contents.values.get("images", {})
    images = [
        _image(contents, key, described.get(key, {}), stacks.get(key)) for key in contents.by_image
    ]
    model, quality = _model(contents), project_quality(contents)
    seconds = contents.effort.seconds
    return Facts(title, images, structures, model, seconds, quality, contents.lost)


def project_quality(contents: Project) -> list[ModelQuality]:
    """What the checked places of a project say of each model, the earliest first."""
    known = [str(m.get("id")) for m in contents.values.get("models", ()) if isinstance(m, dict)]
    return quality_of(contents.places.values(), known)


def _structures(contents: Project) -> list[Structure]:
    found = []
    for said in contents.values.get("structures", ()):
        with suppress(UserError, TypeError, KeyError, AttributeError):
            found.append(Structure(said["number"], str(said["name"]), str(said["color"])))
    return found


def _model(contents: Project) -> Model | None:
    """The current model, else the newest readable one."""
    from napari_unetseg.models.model import load_model

    known = [str(m.get("id")) for m in contents.values.get("models", ()) if isinstance(m, dict)]
    for name in [str(contents.values.get("in_use")), *reversed(known)]:
        file = contents.folder / "models" / f"{name}.safetensors"
        if name.isalnum() and file.is_file() and not file.is_symlink():
            try:
                return load_model(file)
            except UserError as error:
                contents.lost.append(str(error))
    return None


def _image(
    contents: Project,
    key: str,
    described: Mapping[str, Any],
    stack: Stack | None,
) -> ReportImage:
    annotated = contents.by_image[key]
    if stack is None or stack.grid_shape != annotated.shape:
        stack = _stack(contents.folder, described, annotated)
    return ReportImage(described, annotated, stack)


def _stack(folder: Path, described: Mapping[str, Any], annotated: ImageAnnotations) -> Stack | None:
    """The image's file, if it is found with the same pixels."""
    from napari_unetseg.io.open_image import open_all
    from napari_unetseg.io.project.locations import image_candidates
    from napari_unetseg.io.readers.missing_planes import MissingPlanes

    known = described.get("fingerprint")
    for place in image_candidates(folder, described):
        with suppress(UserError, OSError):
            for stack, *_ in open_all(place, missing_planes=MissingPlanes.DROP):
                if stack.grid_shape == annotated.shape and known in (None, stack.fingerprint()):
                    return stack
    return None
