"""The command line: ``unetseg train | predict | evaluate | info | worker``.

It imports neither napari nor Qt, and PyTorch only when a command needs it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from napari_unetseg import (
    batching,
    commands,
    measuring,
    predicting,
    project_report,
    serving,
)
from napari_unetseg.commands import Labelled
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.settings import PredictSettings, TrainSettings
from napari_unetseg.core.versions import installed_versions
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.predicting import SomeFailedError, Wanted
from napari_unetseg.runtime.cpu import cores
from napari_unetseg.runtime.distributed import world
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.signals import Interrupted, Quit, quit_on_signals
from napari_unetseg.terminal import complain, note, tell

if TYPE_CHECKING:
    from napari_unetseg.inference.large.dask_connect import Where
    from napari_unetseg.inference.large.output_format import Saving

__all__ = ["app", "main"]

FAILED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="unetseg",
    help="Train a U-Net on annotated images, predict and evaluate masks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class WrongUsageError(Exception):
    """An option has a value that it cannot have; the text is one sentence."""


class MaskKind(StrEnum):
    """Kinds of ground truth."""

    FULL = "full"
    INSTANCES = "instances"


def _default(name: str) -> str:
    value = TrainSettings.model_fields[name].default
    return "Default: chosen." if value is None else f"Default {value}."


FULL_HELP = "full: 0 background, 1-254 structures, or binary 0 and 255 or more. "
INSTANCES_HELP = "instances: every number is an object of structure 1"

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file.")]
Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="An image or a folder.")]
Device = Annotated[str | None, typer.Option(help="auto, cuda, mps or cpu. Default auto.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.")]
Tile = Annotated[int | None, typer.Option(help="Edge of a tile in voxels. Default: automatic.")]
Workers = Annotated[int | None, typer.Option(help="Number of processes on this computer.")]
Cluster = Annotated[str | None, typer.Option(metavar="local:N", help="The same as --workers N.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Predict on the workers of a dask scheduler.")
]
Axes = Annotated[
    str | None,
    typer.Option(
        help="Axes of the image files, such as TYX or CYX, instead of those in their metadata."
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="Pixel size along (Z,) Y, X with its unit, such as 0.5,0.2,0.2um. Default: the file's."
    ),
]
MatchSpacing = Annotated[
    bool,
    typer.Option(
        "--match-spacing",
        help="Predict at the model's pixel size: images are resampled to it, masks back.",
    ),
]
Series = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|N", help="Image to open in files that hold several: its name or its number."
    ),
]
Missing = Annotated[
    MissingPlanes,
    typer.Option(
        "--missing-planes",
        help="Missing planes of a TIFF: refuse; drop incomplete times or slices; fill with black.",
    ),
]
Ignore = Annotated[int | None, typer.Option(help='Value that means "not labelled", such as -1.')]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="VALUE",
        help=(
            "Values above VALUE are structure 1: for masks with blurred edges (JPEG, resized) "
            "and probability maps."
        ),
    ),
]


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the versions that a bug report needs.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, as UNETSEG_DEBUG=1 does.")
    ] = False,
) -> None:
    del version, debug  # `main` has seen to them
    if world().size > 1 and context.invoked_subcommand != "train":
        raise WrongUsageError(
            f"torchrun works with train only; start unetseg {context.invoked_subcommand} "
            "without it."
        )


@app.command()
def train(
    images: Images,
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Labels or a folder; pairs share their stem.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MODEL", help="Model file.")],
    kind: Annotated[
        LabelKind,
        typer.Option(
            "--labels",
            help=f"{FULL_HELP}strokes: 0 not labelled, 1-254 structures, 255 background. "
            f"{INSTANCES_HELP}.",
        ),
    ] = LabelKind.FULL,
    ignore: Ignore = None,
    threshold: Threshold = None,
    dims: Annotated[int | None, typer.Option(help="2: planes; 3: volumes. Default 2.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Stop after this many epochs.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after so many steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes.")] = None,
    depth: Annotated[int | None, typer.Option(help="Levels. Default 4, in 3D 3.")] = None,
    width: Annotated[
        int | None, typer.Option(help=f"Channels of the first level. {_default('width')}")
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help=f"batch, group, instance or none. {_default('norm')}")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help=f"unet, resnet18, resnet34 or resnet50. {_default('encoder')}"),
    ] = None,
    encoder_weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=(
                "Initial weights of a resnet: imagenet (downloaded once), or a .safetensors or "
                ".pth file. Default: random."
            ),
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help=f"Learning rate. {_default('learning_rate')}")
    ] = None,
    patch: Annotated[
        int | None, typer.Option(help="Patch size in Y and X. Default: automatic.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Patches per step. Default: automatic.")] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Go on from this model.")
    ] = None,
    freeze_encoder: Annotated[
        bool,
        typer.Option(
            "--freeze-encoder",
            help="Train only the decoder; with --init or --encoder-weights.",
        ),
    ] = False,
    seed: Annotated[int | None, typer.Option(help=f"Random seed. {_default('seed')}")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Resume from MODEL's checkpoint, which a stopped or killed training left.",
        ),
    ] = True,
    device: Device = None,
    threads: Threads = None,
    axes: Axes = None,
    spacing: Spacing = None,
    series: Series = None,
    missing_planes: Missing = MissingPlanes.REFUSE,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write curve.png, history.csv and overlays there."),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Train on the computer of this address, where 'unetseg worker' runs.",
        ),
    ] = "",
) -> None:
    """Train a U-Net on IMAGES with LABELS and save it as MODEL.

    Without --epochs, --steps or --minutes it ends when nothing improves. Ctrl-C, SIGTERM and
    SIGHUP end it and save what was learned; the same command goes on from there.
    """
    settings = _settings(
        TrainSettings,
        dims=dims,
        epochs=epochs,
        steps=steps,
        minutes=minutes,
        depth=depth,
        width=width,
        norm=norm,
        encoder=encoder,
        encoder_weights=encoder_weights,
        learning_rate=lr,
        patch=patch,
        batch=batch,
        freeze_encoder=freeze_encoder,
        seed=seed,
        device=device,
        threads=cores() if threads is None and not on else threads,
    )
    if freeze_encoder and init is None and encoder_weights is None:
        raise WrongUsageError(
            "--freeze-encoder needs trained weights; give --init or --encoder-weights too."
        )
    if init is not None and any(g is not None for g in (depth, width, norm, encoder)):
        raise WrongUsageError(
            "--init uses the depth, width, norm and encoder of its model; leave these options out."
        )
    _check_threshold(threshold, kind)
    data = Labelled(images, labels, kind, ignore, axes, spacing, threshold, series, missing_planes)
    commands.train(data, output, settings, init=init, report=report, on=on, resume=resume)


class MaskFormat(StrEnum):
    """What masks are written as."""

    TIFF = "tiff"
    OME_TIFF = "ome-tiff"
    ZARR = "zarr"
    PNG = "png"


class Shares(StrEnum):
    """How probabilities are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    UINT8 = "uint8"


@app.command()
def predict(
    model: ModelFile,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help='Images, folders, or patterns as "scans/*.tif".'),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="Folder for the masks.")
    ] = None,
    inside: Annotated[
        bool, typer.Option("--inside", help="Write each mask into its OME-Zarr image, without -o.")
    ] = False,
    form: Annotated[
        MaskFormat | None,
        typer.Option(
            "--format",
            help="tiff: STEM.tif, which ImageJ opens; ome-tiff; zarr: OME-Zarr labels, STEM.zarr; "
            "png: a file for each plane. Default tiff.",
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Also write STEM_probabilities.ome.tif, with --format zarr the image STEM.zarr.",
        ),
    ] = False,
    precision: Annotated[
        Shares | None,
        typer.Option(help="Of probabilities: float32, float16; uint8 in OME-Zarr, 255 for 1."),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip images that already have a mask.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace OME-Zarr masks of another model, image or setting."
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write OUT/report.csv: images, status, voxel counts.")
    ] = False,
    device: Device = None,
    threads: Threads = None,
    tile: Tile = None,
    axes: Axes = None,
    spacing: Spacing = None,
    match_spacing: MatchSpacing = False,
    series: Series = None,
    missing_planes: Missing = MissingPlanes.REFUSE,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
) -> None:
    """Predict the masks of images with MODEL, an OUT/STEM.tif for each.

    A mask has the structures' numbers, 0 for background, and the pixel sizes of its image. What was
    killed goes on where it was. A bad image does not stop the others.
    """
    where = _where(workers, cluster, scheduler)
    settings = _predict_settings(device, threads, tile, where, match_spacing=match_spacing)
    how = _saving(output, inside, form, precision, probabilities=probabilities, overwrite=overwrite)
    wanted = Wanted(axes, skip_existing, report, spacing, series, missing_planes)
    predicting.predict(model, images, how, settings, wanted, where)


def _where(workers: int | None, cluster: str | None, scheduler: str | None) -> Where | None:
    """The processes that predict, from the options; None: this one."""
    from napari_unetseg.inference.large.dask_connect import Where

    given = [cluster, scheduler, None if workers is None else f"local:{workers}"]
    chosen = [text for text in given if text is not None]
    if len(chosen) > 1:
        raise WrongUsageError("Give one of --workers, --cluster and --scheduler.")
    try:
        return Where.parse(chosen[0]) if chosen else None
    except UserError as error:
        raise WrongUsageError(str(error)) from error


def _saving(
    output: Path | None,
    inside: bool,
    form: MaskFormat | None,
    precision: Shares | None,
    *,
    probabilities: bool,
    overwrite: bool,
) -> Saving:
    """How masks are saved, from the options."""
    from napari_unetseg.inference.large.output_format import Format, Saving

    if (output is None) != inside:
        raise WrongUsageError("Give either -o with a folder for the masks, or --inside.")
    if inside and (probabilities or form not in (None, MaskFormat.ZARR)):
        raise WrongUsageError("--inside writes OME-Zarr masks only; use -o for other formats.")
    if precision is not None and not probabilities:
        raise WrongUsageError("--precision needs --probabilities; give both.")
    chosen = Format.ZARR if inside else Format((form or MaskFormat.TIFF).value)
    usual = Shares.FLOAT16 if chosen is Format.ZARR else Shares.FLOAT32
    if chosen is not Format.ZARR and precision is Shares.UINT8:
        raise WrongUsageError("--precision uint8 needs --format zarr.")
    kind: Any = (precision or usual).value if probabilities else None
    return Saving(output, chosen, kind, overwrite)


@app.command()
def batch(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A batch: YAML, see docs/batch.md.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list which masks would be made.")
    ] = False,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
) -> None:
    """Predict many images with several models and measure them, as CONFIG says.

    Masks that are there are left out, and what was killed goes on: give the same command again.
    """
    batching.batch(config, _where(workers, cluster, scheduler), dry_run=dry_run)


@app.command()
def evaluate(
    model: ModelFile,
    images: Images,
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="A mask or a folder; pairs share their stem.")
    ],
    kind: Annotated[
        MaskKind,
        typer.Option("--labels", help=f"{FULL_HELP}{INSTANCES_HELP}; the foreground is scored."),
    ] = MaskKind.FULL,
    ignore: Ignore = None,
    threshold: Threshold = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the scores as JSON; - shows it."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    tile: Tile = None,
    axes: Axes = None,
    spacing: Spacing = None,
    match_spacing: MatchSpacing = False,
    series: Series = None,
    missing_planes: Missing = MissingPlanes.REFUSE,
) -> None:
    """Predict IMAGES with MODEL and compare them with MASKS.

    Dice and IoU of each structure are computed over the voxels of all images together; the means
    are over structures.
    """
    settings = _predict_settings(device, threads, tile, match_spacing=match_spacing)
    _check_threshold(threshold, LabelKind(kind))
    data = Labelled(
        images, masks, LabelKind(kind), ignore, axes, spacing, threshold, series, missing_planes
    )
    commands.evaluate(model, data, settings, json_file)


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model or an image.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    axes: Axes = None,
    spacing: Spacing = None,
    series: Series = None,
    missing_planes: Missing = MissingPlanes.REFUSE,
) -> None:
    """Say what a model file or an image holds."""
    how: dict[str, Any] = {"axes": axes, "spacing": spacing}
    how |= {"series": series, "missing_planes": missing_planes}
    commands.info(file, as_json=as_json, **how)


@app.command()
def measure(
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="A mask, as predict writes it.")],
    image: Annotated[
        Path | None, typer.Argument(metavar="[IMAGE]", help="Its image, to measure intensities.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="TABLE", help="A .csv or .parquet file.")
    ] = Path("objects.csv"),
    labels: Annotated[
        MaskKind,
        typer.Option(help="full: connected voxels are one object; " + INSTANCES_HELP + "."),
    ] = MaskKind.FULL,
    ignore: Ignore = None,
    threshold: Threshold = None,
    dims: Annotated[
        int | None, typer.Option(min=2, max=3, help="2: planes. Default: volumes if there is a Z.")
    ] = None,
    axes: Axes = None,
    spacing: Spacing = None,
    series: Series = None,
    missing_planes: Missing = MissingPlanes.REFUSE,
) -> None:
    """Measure the objects of a mask, in the units of its file: a row for each."""
    kind = LabelKind(labels)
    _check_threshold(threshold, kind)
    how: dict[str, Any] = {"axes": axes, "spacing": spacing, "threshold": threshold}
    how |= {"ignore": ignore, "series": series, "missing_planes": missing_planes}
    measuring.measure(mask, output, image, kind=kind, dims=dims, **how)


@app.command()
def report(
    project: Annotated[Path, typer.Argument(metavar="PROJECT", help="The folder of a project.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the page.")
    ] = Path("report"),
) -> None:
    """Write a page about a project: labels, scores, curves, overlays, settings, provenance."""
    project_report.report(project, output)


@app.command()
def worker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 8786,
    threads: Threads = None,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls", help="Use the certificates of dask's configuration; see docs/remote.md."
        ),
    ] = False,
) -> None:
    """Train and predict for a napari on another computer, through an SSH tunnel.

    It listens on 127.0.0.1 alone and says what to type on the laptop. Ctrl-C ends it.
    """
    serving.serve(port, cores() if threads is None else threads, tls=tls)


def _check_threshold(threshold: float | None, kind: LabelKind) -> None:
    if threshold is not None and kind is not LabelKind.FULL:
        raise WrongUsageError(f"--threshold makes full masks; remove '--labels {kind}'.")


# -- settings --------------------------------------------------------------------------------------

S = TypeVar("S", bound=BaseModel)


def _predict_settings(
    device: str | None,
    threads: int | None,
    tile: int | None,
    where: Where | None = None,
    *,
    match_spacing: bool,
) -> PredictSettings:
    if threads is None and where is None:
        threads = cores()
    elif threads is None and where is not None and where.local:
        threads = max(1, cores() // where.local)
    how = {"device": device, "threads": threads, "tile": tile}
    return _settings(PredictSettings, **how, match_spacing=match_spacing)


def _settings(kind: type[S], **values: Any) -> S:
    """Make settings of the options that were given; a wrong one is a sentence that names it."""
    try:
        return kind.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        text = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            text = re.sub(r"\b(epochs|steps|minutes)\b", r"--\1", text)
            raise WrongUsageError(f"{text[0].upper()}{text[1:]}.") from error
        name = str(first["loc"][0])
        option = {"learning_rate": "lr"}.get(name, name.replace("_", "-"))
        raise WrongUsageError(
            f"--{option} cannot be {first['input']}: {text[0].lower()}{text[1:]}."
        ) from error


# -- running ---------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Those after the program's name; None takes them from the system.

    Returns
    -------
    int
        0: done; 1: failed, with a sentence; 2: wrong usage; 3: some images failed, the others are
        done; 130: stopped by Ctrl-C; 143, 129: by SIGTERM, SIGHUP.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("UNETSEG_DEBUG", "") not in ("", "0")
    given = [a for a in given if a != "--debug"]
    if given == ["--version"]:
        for name, number in installed_versions().items():
            tell(f"{name} {number}")
        return 0
    # beside other busy programs PyTorch's threads must not wait for each other by spinning
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with warnings.catch_warnings():
        if not debug:
            _quieten()
        try:
            with quit_on_signals():
                code = app(given, prog_name="unetseg", standalone_mode=False)
        except (Exception, KeyboardInterrupt, Quit) as error:  # noqa: BLE001 - every error is a line
            if debug:
                traceback.print_exception(error)
            return _failure(error)
    if code == INTERRUPTED:
        note("Stopped.")
    return int(code or 0)


def _quieten() -> None:
    """Keep libraries from writing between our lines."""
    warnings.simplefilter("ignore")
    logger = logging.getLogger("tifffile")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _failure(error: BaseException) -> int:
    """Say in one line what went wrong, and return the exit code."""
    if isinstance(error, UserError):
        complain(str(error))
        return FAILED
    if isinstance(error, Interrupted):
        note(f"unetseg: {error}")
        return error.code
    if isinstance(error, Quit):
        note(f"Stopped by {error.name}.")
        return error.number + 128
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        note("Stopped.")
        return INTERRUPTED
    if isinstance(error, SomeFailedError):
        complain(str(error))
        return SOME_FAILED
    if isinstance(error, WrongUsageError):
        complain(str(error))
        return WRONG_USAGE
    if hasattr(error, "format_message"):  # typer's own errors; empty after it showed the help
        if text := error.format_message():
            complain(text)
        return WRONG_USAGE
    if isinstance(error, BrokenPipeError):
        sys.stdout = open(os.devnull, "w")
        return FAILED
    if is_out_of_memory(error):
        complain("There is not enough memory; close other programs or use smaller images.")
        return FAILED
    text = " ".join(str(error).split())
    complain(f"Unexpected {type(error).__name__}: {text} (--debug shows where it came from)")
    return FAILED
