"""Command ``unetseg train``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from napari_unetseg.cli.console import Meter, note, score_table, show_table, tell
from napari_unetseg.cli.exit_codes import WrongUsageError
from napari_unetseg.cli.inputs import LabelledImages, load
from napari_unetseg.cli.interrupts import Interrupted, Stop, stop_on_signals
from napari_unetseg.cli.options import (
    FULL_HELP,
    INSTANCES_HELP,
    Files,
    Ignore,
    Images,
    Threshold,
    check_threshold,
)
from napari_unetseg.cli.settings_options import OptionsOf, with_settings
from napari_unetseg.cli.train_structures import Objects, find_structures, parse_numbers
from napari_unetseg.core.atomic_write import check_writable
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import finish
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.score_text import score_text, score_title
from napari_unetseg.core.settings import PredictSettings, TrainSettings
from napari_unetseg.core.text import count
from napari_unetseg.runtime.cpu import cores
from napari_unetseg.runtime.distributed import world

if TYPE_CHECKING:
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model
    from napari_unetseg.training.checkpoint_file import CheckpointFile

OF_A_MODEL = {"depth", "width", "norm", "encoder"}
"""Architecture settings, which an initial model determines."""
Training = Annotated[
    TrainSettings,
    OptionsOf(
        "Training",
        common=(
            "dims",
            "epochs",
            "steps",
            "minutes",
            "patch",
            "batch",
            "seed",
            "device",
            "threads",
        ),
    ),
]
Labels = Annotated[
    Path, Argument(metavar="LABELS", help="Labels or a folder; pairs share their stem.")
]
Finished = Annotated[
    Path | None,
    Option(
        metavar="OBJECTS",
        help="Finished objects beside LABELS, a file or a folder: 0 not labelled, every other "
        "number one whole object.",
    ),
]
LABELS_HELP = (
    f"{FULL_HELP}strokes: 0 not labelled, 1-254 structures, 255 background. {INSTANCES_HELP}. "
    "finished: the same, but 0 is not labelled."
)


@with_settings
def train(
    images: Images,
    labels: Labels,
    output: Annotated[Path, Option("-o", "--output", metavar="MODEL", help="Model file.")],
    settings: Training,
    files: Files,
    kind: Annotated[LabelKind, Option("--labels", help=LABELS_HELP)] = LabelKind.FULL,
    objects: Objects = None,
    finished: Finished = None,
    ignore: Ignore = None,
    threshold: Threshold = None,
    init: Annotated[Path | None, Option(metavar="MODEL", help="Go on from this model.")] = None,
    resume: Annotated[
        bool,
        Option(
            "--resume/--no-resume",
            help="Resume from MODEL's checkpoint, which a stopped or killed training left.",
        ),
    ] = True,
    report: Annotated[
        Path | None, Option(metavar="DIR", help="Write curve.png, history.csv and overlays there.")
    ] = None,
    on: Annotated[
        str,
        Option(
            metavar="ADDRESS",
            help="Train on the computer of this address, where 'unetseg worker' runs.",
        ),
    ] = "",
    key_file: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="The key of that worker; needed unless the dock was given it on this computer.",
        ),
    ] = None,
) -> None:
    """Train a U-Net on IMAGES with LABELS and save it as MODEL.

    Without --epochs, --steps or --minutes it ends when nothing improves. Ctrl-C, SIGTERM and
    SIGHUP end it and save what was learned; the same command goes on from there.
    """
    _check(settings, init)
    numbers = parse_numbers(objects)
    check_threshold(threshold, kind)
    if settings.threads is None and not on:
        settings = settings.model_copy(update={"threads": cores()})
    _train(
        LabelledImages(images, labels, kind, ignore, threshold, files, finished),
        output,
        settings,
        numbers,
        init=init,
        report=report,
        on=on,
        key_file=key_file,
        resume=resume,
    )


def _check(settings: TrainSettings, init: Path | None) -> None:
    """Refuse settings that need, or contradict, an initial model."""
    if settings.freeze_encoder and init is None and settings.encoder_weights is None:
        raise WrongUsageError(
            "--freeze-encoder needs trained weights; give --init or --encoder-weights too."
        )
    if init is not None and settings.model_fields_set & OF_A_MODEL:
        raise WrongUsageError(
            "--init uses the depth, width, norm and encoder of its model; leave these options out."
        )


def _train(
    data: LabelledImages,
    output: Path,
    settings: TrainSettings,
    objects: Sequence[int],
    *,
    init: Path | None,
    report: Path | None,
    on: str,
    key_file: Path | None,
    resume: bool,
) -> None:
    """Train, save the model, show scores, write the report.

    Under torchrun rank 0 prints and writes.
    """
    leads = world().rank == 0
    if on and world().size > 1:
        raise UserError("torchrun and --on cannot be combined; leave one of them out.")
    found = data.find()
    if leads:
        check_writable(output.parent)
    from napari_unetseg.jobs.live_predictor import ViewportState
    from napari_unetseg.jobs.remote.run_on import RunOn
    from napari_unetseg.jobs.tasks import TrainTask

    before = load(init) if init else None
    structures = find_structures(found.pairs, before, objects)
    control = JobControl(settings.threads)
    doing = "Stopping after this step and saving"
    with (
        _checkpoint(output, on, resume=resume) as checkpoint,
        stop_on_signals(control, doing, "without saving") as stop,
    ):
        task = TrainTask(found.pairs, settings, structures, before, ViewportState(), checkpoint)
        with Meter("Training") as meter:
            model = finish(RunOn(task, on, key_file)(control), meter.show)
        if leads:
            saved = _save(model, output)
            _show_training(model, saved)
            _settle(checkpoint, stop, keep=init is None or saved.resolve() != init.resolve())
    if leads and report is not None:
        _report(report, model, found.pairs, settings)


def _checkpoint(
    output: Path, on: str, *, resume: bool
) -> AbstractContextManager[CheckpointFile | None]:
    """The checkpoint beside a model; none for remote training."""
    from napari_unetseg.models.model import with_suffix
    from napari_unetseg.training.checkpoint_file import SUFFIX, CheckpointFile

    if on:
        return nullcontext()
    path = with_suffix(output).with_suffix(SUFFIX)
    if not resume and path.exists():
        note(f"Training starts anew and replaces {path}.")
    return CheckpointFile(path, resume=resume)


def _settle(checkpoint: CheckpointFile | None, stop: Stop, *, keep: bool) -> None:
    """Remove the checkpoint of a completed training; describe what a stopped one keeps.

    ``keep`` is false where the output replaced the initial model, from which the same command
    continues.
    """
    if checkpoint is not None and not (stop and keep):
        checkpoint.remove()
    if not stop:
        return
    more = "" if keep else " Give the same command again to continue from it."
    if checkpoint is not None and checkpoint.steps is not None:
        more = (
            f" Give the same command again to resume from step {checkpoint.steps} "
            f"({checkpoint.path}), or add --no-resume to start anew."
        )
    raise Interrupted(stop, f"the model so far is saved.{more}")


def _save(model: Model, output: Path) -> Path:
    """Save the model, in another place if that fails."""
    try:
        return model.save(output)
    except UserError as error:
        spare = Path(tempfile.gettempdir()) / f"unetseg-{model.id}.safetensors"
        try:
            model.save(spare)
        except UserError:
            raise error from None
        raise UserError(f"{error} Until then the model is kept as {spare}.") from error


def _show_training(model: Model, saved: Path) -> None:
    record = model.history[-1]
    if record.scores is not None:
        show_table(score_table(record.scores))
        tell(f"{score_title(record.scores)} {score_text(record.scores)}.")
    else:
        tell("Not validated: there were too few labels to hold any out for a score.")
    tell(record.reason)
    tell(f"Model {model.id} saved as {saved} ({saved.stat().st_size / 1e6:.1f} MB).")


def _report(
    folder: Path, model: Model, pairs: Sequence[AnnotatedImage], settings: TrainSettings
) -> None:
    from napari_unetseg.report.figures import write_report

    how = PredictSettings(device=settings.device, threads=settings.threads)
    try:
        written = write_report(folder, model, pairs, how)
    except UserError as error:
        raise UserError(f"The model is saved, but the report is not: {error}") from error
    tell(f"Report of {count(len(written), 'file')} written to {folder}.")
