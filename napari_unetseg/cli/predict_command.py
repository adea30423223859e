"""Command ``unetseg predict``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from napari_unetseg.cli.console import Meter, note, tell
from napari_unetseg.cli.exit_codes import SomeFailedError, WrongUsageError
from napari_unetseg.cli.inputs import load
from napari_unetseg.cli.interrupts import STOPPING, Interrupted, stop_on_signals
from napari_unetseg.cli.mask_files import NoRimObjects
from napari_unetseg.cli.options import Files, ImageFiles, ModelFile, Prediction
from napari_unetseg.cli.settings_options import with_settings
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
from napari_unetseg.io.write_masks import FORMATS, format_names

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.inference.large.output_format import Saving
    from napari_unetseg.inference.large.predict_files import FileDone
    from napari_unetseg.inference.large.predict_to_zarr import Chunks
    from napari_unetseg.models.model import Model

FORMAT_HELP = "; ".join(f"{f.name}: STEM{f.suffix}, {f.help}" for f in FORMATS.values())


class Precision(StrEnum):
    """How probabilities are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    UINT8 = "uint8"


ImagePaths = Annotated[
    list[str], Argument(metavar="IMAGE...", help='Images, folders, or patterns as "scans/*.tif".')
]
Output = Annotated[
    Path | None, Option("-o", "--output", metavar="OUT", help="Folder for the masks.")
]
Inside = Annotated[
    bool, Option("--inside", help="Write each mask into its OME-Zarr image, without -o.")
]
Format = Annotated[
    str | None, Option("--format", metavar="NAME", help=f"{FORMAT_HELP}. Default tiff.")
]
Probabilities = Annotated[
    bool,
    Option(
        "--probabilities",
        help="Also write STEM_probabilities.ome.tif, with --format zarr the image STEM.zarr.",
    ),
]
StoredAs = Annotated[
    Precision | None,
    Option(help="Of probabilities: float32, float16; uint8 in OME-Zarr, 255 for 1."),
]
NoObjects = Annotated[
    bool,
    Option(
        "--no-objects",
        help="Write the mask of structures, also of a model that numbers objects.",
    ),
]
SkipExisting = Annotated[
    bool, Option("--skip-existing", help="Skip images that already have a mask.")
]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Replace OME-Zarr masks of another model, image or setting.")
]
Report = Annotated[
    bool, Option("--report", help="Write OUT/report.csv: images, status, voxel counts.")
]


@with_settings
def predict(
    model: ModelFile,
    images: ImagePaths,
    settings: Prediction,
    files: Files,
    output: Output = None,
    inside: Inside = False,
    mask_format: Format = None,
    probabilities: Probabilities = False,
    precision: StoredAs = None,
    no_objects: NoObjects = False,
    no_rim_objects: NoRimObjects = False,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    report: Report = False,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
) -> None:
    """Predict the masks of images with MODEL, an OUT/STEM.tif for each.

    A mask has the structures' numbers, 0 for background, and the pixel sizes of its image; with a
    model whose structures consist of objects, each object has its own number. What was killed goes
    on where it was. A bad image does not stop the others.
    """
    where = chosen_workers(workers, cluster, scheduler)
    if settings.threads is None:
        settings = settings.model_copy(update={"threads": default_threads(where)})
    how = _saving(
        output, inside, mask_format, precision, probabilities=probabilities, overwrite=overwrite
    )
    if no_objects and no_rim_objects:
        raise WrongUsageError("--no-rim-objects needs objects; leave out --no-objects.")
    how = replace(how, objects=not no_objects, rim_objects=not no_rim_objects)
    loaded, paths = _checked(model, images, how, files)
    try:
        with cluster_chunks(where, settings.threads) as of:
            chunks = of(files.opening) if of is not None else None
            more = {"skip_existing": skip_existing, "report": report}
            results = _run(loaded, paths, how, settings, files, chunks=chunks, **more)
        _tell(results, how)
    finally:
        if how.folder is not None:
            with suppress(OSError):  # an unused new folder
                how.folder.rmdir()


def _checked(
    model: Path, images: Sequence[str], how: Saving, files: ImageFiles
) -> tuple[Model, dict[str, Path]]:
    """The model, and the images by their stems, whose masks can be written."""
    from napari_unetseg.inference.large.find_images import check_outputs, find_images

    paths = find_images(images, inside=how.folder is None, series=files.series)
    if how.folder is not None:
        check_outputs(paths, how)
    loaded = load(model)
    if not how.rim_objects and not loaded.classes.objects:
        raise UserError(
            "No structure of this model consists of objects; leave out --no-rim-objects, or use it "
            "with measure."
        )
    if how.folder is not None:
        check_writable(how.folder)
    return loaded, paths


def _saving(
    output: Path | None,
    inside: bool,
    name: str | None,
    precision: Precision | None,
    *,
    probabilities: bool,
    overwrite: bool,
) -> Saving:
    """Output format and place, from the options."""
    from napari_unetseg.inference.large.output_format import Saving

    if (output is None) != inside:
        raise WrongUsageError("Give either -o with a folder for the masks, or --inside.")
    if inside and (probabilities or name not in (None, "zarr")):
        raise WrongUsageError("--inside writes OME-Zarr masks only; use -o for other formats.")
    if output is not None and not output.is_dir():
        files = [kind for kind in FORMATS.values() if not kind.by_chunks]
        if any(output.name.lower().endswith(kind.suffixes) for kind in files):
            raise WrongUsageError(
                f"-o is a folder for the masks, not a file such as {output.name}; give a folder, "
                "and the format with --format."
            )
    if precision is not None and not probabilities:
        raise WrongUsageError("--precision needs --probabilities; give both.")
    chosen = FORMATS.get(name or ("zarr" if inside else "tiff"))
    if chosen is None:
        raise WrongUsageError(f"--format cannot be {name}; choose {format_names()}.")
    if precision is not None and precision not in chosen.precisions:
        raise WrongUsageError(f"--precision {precision} needs --format zarr.")
    stored: Any = str(precision or chosen.precisions[0]) if probabilities else None
    return Saving(output, chosen, stored, overwrite)


def _run(
    model: Model,
    paths: Mapping[str, Path],
    how: Saving,
    settings: PredictSettings,
    files: ImageFiles,
    *,
    skip_existing: bool,
    report: bool,
    chunks: Callable[[Path], Chunks] | None,
) -> list[FileDone]:
    """Predict images with progress; write the report, also after a stop."""
    from napari_unetseg.inference.large.predict_files import (
        FileBegun,
        FileDone,
        OptionalOutputs,
        predict_files,
    )
    from napari_unetseg.inference.large.results_table import write_report

    done: list[FileDone] = []
    control = JobControl(settings.threads)
    table = how.folder / "report.csv" if report and how.folder is not None else None
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
                open_image=files.opening,
                optional=OptionalOutputs(skip_existing=skip_existing, count=table is not None),
                control=control,
                chunks=chunks,
            )
            finish(events, show)
        finally:
            if table is not None:
                write_report(table, [(model, one) for one in done])
    if stop and len(done) < len(paths):
        raise Interrupted(
            stop,
            f"{len(done)} of {len(paths)} images are done. Give the same command "
            "again to continue.",
        )
    return done


def _tell(results: Sequence[FileDone], how: Saving) -> None:
    """Print a summary; raise the error of the exit code."""
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
