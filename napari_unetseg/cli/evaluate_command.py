"""Command ``unetseg evaluate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from napari_unetseg.cli.console import (
    Meter,
    json_text,
    object_table,
    score_table,
    show_table,
    tell,
    write,
)
from napari_unetseg.cli.inputs import LabelledImages, load
from napari_unetseg.cli.interrupts import Interrupted, stop_on_signals
from napari_unetseg.cli.options import (
    FULL_HELP,
    INSTANCES_HELP,
    Files,
    Ignore,
    Images,
    ModelFile,
    Prediction,
    Threshold,
    check_threshold,
)
from napari_unetseg.cli.settings_options import with_settings
from napari_unetseg.cli.workers import default_threads
from napari_unetseg.core.atomic_write import atomic_path, check_writable
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import finish
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.text import count

if TYPE_CHECKING:
    from napari_unetseg.core.object_metrics import ObjectCounts
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.inference.evaluate import Evaluation, ImageScores
    from napari_unetseg.models.model import Model

SCHEMA = "napari-unetseg/evaluation/1"


class TruthKind(StrEnum):
    """Kinds of ground truth."""

    FULL = "full"
    INSTANCES = "instances"
    FINISHED = "finished"


@with_settings
def evaluate(
    model: ModelFile,
    images: Images,
    masks: Annotated[
        Path, Argument(metavar="MASKS", help="A mask or a folder; pairs share their stem.")
    ],
    settings: Prediction,
    files: Files,
    kind: Annotated[
        TruthKind,
        Option(
            "--labels",
            help=f"{FULL_HELP}{INSTANCES_HELP}; finished: the same, but 0 is not labelled. Of "
            "both, the foreground and the model's objects are scored.",
        ),
    ] = TruthKind.FULL,
    ignore: Ignore = None,
    threshold: Threshold = None,
    json_file: Annotated[
        Path | None, Option("--json", metavar="FILE", help="Write the scores as JSON; - shows it.")
    ] = None,
) -> None:
    """Predict IMAGES with MODEL and compare them with MASKS.

    Dice and IoU of each structure are computed over the voxels of all images together; the means
    are over structures. Objects are matched one to one: AP is TP / (TP + FP + FN) at an IoU, PQ
    the panoptic quality.
    """
    label_kind = LabelKind(kind)
    check_threshold(threshold, label_kind)
    if settings.threads is None:
        settings = settings.model_copy(update={"threads": default_threads(None)})
    data = LabelledImages(images, masks, label_kind, ignore, threshold, files)
    _evaluate(model, data, settings, json_file)


def _evaluate(
    model_file: Path, data: LabelledImages, settings: PredictSettings, json_file: Path | None
) -> None:
    """Score a model, show a table and write JSON (to standard output where the file is ``-``)."""
    found = data.find()
    to_stdout = str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_writable(json_file.parent)
        if json_file.exists() and json_file.suffix.lower() != ".json":
            raise UserError(f"{json_file} exists and is not a .json file; choose another name.")
    model = load(model_file)
    from napari_unetseg.inference.evaluate import evaluate_events

    control = JobControl(settings.threads)
    with stop_on_signals(control, "Stopping after this tile") as stop, Meter("Evaluating") as meter:
        events = evaluate_events(model, found.pairs, settings, control=control)
        result = finish(events, meter.show)
    if stop:
        raise Interrupted(stop, "nothing was scored.")
    facts = _evaluation_facts(result, model, model_file, data.kind)
    if to_stdout:
        write(json_text(facts))
        return
    show_table(score_table(result.scores))
    if result.objects is not None:
        show_table(object_table(result.objects))
    tell(f"On {result.scores.voxels:,} voxels of {count(len(result.images), 'image')}.")
    if json_file is not None:
        with atomic_path(json_file) as temporary:
            temporary.write_text(json_text(facts) + "\n", encoding="utf-8")


def _evaluation_facts(
    result: Evaluation, model: Model, model_file: Path, kind: LabelKind
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": {"file": model_file.name, "id": model.id},
        "labels": kind.value,
        **_score_facts(result),
        "images": [{"name": i.name, **_score_facts(i)} for i in result.images],
    }


def _score_facts(result: Evaluation | ImageScores) -> dict[str, Any]:
    scores = result.scores
    rows = zip(scores.numbers, scores.names, scores.dice, scores.iou, strict=True)
    facts = {
        "structures": [
            {"number": number, "name": name, "dice": dice, "iou": iou}
            for number, name, dice, iou in rows
        ],
        "mean_dice": scores.mean_dice,
        "mean_iou": scores.mean_iou,
        "voxels": scores.voxels,
    }
    return facts if result.objects is None else {**facts, "objects": _object_facts(result.objects)}


def _object_facts(counts: ObjectCounts) -> dict[str, Any]:
    return {
        "ap50": counts.precision_at(0.5),
        "ap75": counts.precision_at(0.75),
        "ap50_95": counts.mean_precision,
        "pq": counts.panoptic_quality,
        "splits": counts.split,
        "merges": counts.merged,
        "true": counts.true,
        "predicted": counts.predicted,
    }
