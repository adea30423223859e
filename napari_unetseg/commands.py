"""What the commands of the command line do, once their arguments are read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.atomic_write import check_writable
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.job_control import Control
from napari_unetseg.core.labels import Classes, LabelKind
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.runtime.distributed import world
from napari_unetseg.signals import Interrupted, Stop, stop_on_signals
from napari_unetseg.terminal import (
    Meter,
    finish,
    note,
    score_table,
    show_facts,
    show_table,
    tell,
    write,
)

if TYPE_CHECKING:
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.data.dataset import Pair
    from napari_unetseg.inference.evaluate import Evaluation
    from napari_unetseg.io.folder_pairs import FolderPairs
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.training_record import TrainingRecord
    from napari_unetseg.training.checkpoint_file import CheckpointFile

__all__ = [
    "Labelled",
    "check_writable",
    "count",
    "evaluate",
    "info",
    "load",
    "train",
]

EVALUATION_SCHEMA = "napari-unetseg/evaluation/1"
MODEL_SCHEMA = "napari-unetseg/model/1"


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images and their labels as they stand on the command line."""

    images: Path
    labels: Path
    kind: LabelKind
    ignore: int | None = None
    axes: str | None = None
    spacing: str | None = None
    threshold: float | None = None
    series: str | None = None
    missing_planes: MissingPlanes = MissingPlanes.REFUSE

    def find(self) -> FolderPairs:
        """Pair them; say how many there are."""
        from napari_unetseg.io.folder_pairs import find_pairs

        found = find_pairs(
            self.images,
            self.labels,
            self.kind,
            self.ignore,
            threshold=self.threshold,
            axes=self.axes,
            spacing=self.spacing,
            series=self.series,
            missing_planes=self.missing_planes,
        )
        note(f"{count(len(found.pairs), 'image')} with labels ({self.kind}).")
        if found.skipped:
            note(f"{count(len(found.skipped), 'image')} without labels skipped.")
        if found.unused:
            note(f"{count(len(found.unused), 'file')} of labels without an image skipped.")
        for sentence in found.notes:
            note(sentence)
        return found


# -- train -----------------------------------------------------------------------------------------


def train(
    data: Labelled,
    output: Path,
    settings: TrainSettings,
    *,
    init: Path | None = None,
    report: Path | None = None,
    on: str = "",
    resume: bool = True,
) -> None:
    """Train, save the model, show its scores, write the report; on another computer if asked.

    Of several processes the first one speaks and writes. What a signal stopped, or a kill, goes on
    from its checkpoint.
    """
    leads = world().rank == 0
    if on and world().size > 1:
        raise UserError("torchrun and --on cannot be combined; leave one of them out.")
    found = data.find()
    if leads:
        check_writable(output.parent)
    from napari_unetseg.jobs.live_predictor import Screen
    from napari_unetseg.jobs.tasks import Elsewhere, Training

    before = load(init) if init else None
    _say_classes(found.pairs, before)
    control = Control(settings.threads)
    doing = "Stopping after this step and saving"
    with (
        _checkpoint(output, on, resume=resume) as checkpoint,
        stop_on_signals(control, doing, "without saving") as stop,
    ):
        task = Training(found.pairs, settings, (), before, Screen(), checkpoint)
        with Meter("Training") as meter:
            model = finish(Elsewhere(task, on)(control), meter.show)
        if leads:
            saved = _save(model, output)
            _show_training(model, saved)
            _settle(checkpoint, stop, keep=init is None or saved.resolve() != init.resolve())
    if leads and report is not None:
        _report(report, model, found.pairs, settings)


def _checkpoint(
    output: Path, on: str, *, resume: bool
) -> AbstractContextManager[CheckpointFile | None]:
    """The checkpoint of a model, beside it; a training on another computer has none."""
    from napari_unetseg.models.model import with_suffix
    from napari_unetseg.training.checkpoint_file import SUFFIX, CheckpointFile

    if on:
        return nullcontext()
    path = with_suffix(output).with_suffix(SUFFIX)
    if not resume and path.exists():
        note(f"Training starts anew and replaces {path}.")
    return CheckpointFile(path, resume=resume)


def _settle(checkpoint: CheckpointFile | None, stop: Stop, *, keep: bool) -> None:
    """Remove the checkpoint of a training that has ended; say what is kept of one that was stopped.

    ``keep`` is false where the model that training went on from was replaced: the same command goes
    on from what is saved.
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
    raise Interrupted(stop, f"the best model so far is saved.{more}")


def _say_classes(pairs: Sequence[Pair], init: Model | None) -> None:
    from napari_unetseg.data.dataset import values_of

    known = init.classes.structures if init else ()
    classes = Classes.find([(v.counts, v.kind) for v in values_of(pairs)], known)
    names = [
        f"{s.number}{f' ({s.file_value} in the files)' if s.file_value else ''}"
        for s in classes.structures
    ]
    if init is not None:
        note(f"Labelled: {', '.join(classes.names) or 'nothing'}.")
        return
    background = "and background" if classes.background else "without background"
    note(f"{count(len(names), 'structure')}: {', '.join(names) or 'none'}, {background}.")


def _save(model: Model, output: Path) -> Path:
    """Save where it was asked for; what was learned must not be lost if that fails."""
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
        tell(f"On {record.scores.voxels:,} voxels in {record.scores.blocks} validation blocks.")
        _say_highest(record, record.scores)
    else:
        tell("Not validated: there were too few labels to hold any out for a score.")
    tell(record.reason)
    tell(f"Model {model.id} saved as {saved} ({saved.stat().st_size / 1e6:.1f} MB).")


def _say_highest(record: TrainingRecord, kept: Scores) -> None:
    """Why the epoch with the highest Dice is not kept, where another one is."""
    highest = max((p.mean_dice for p in record.curve if p.mean_dice is not None), default=0.0)
    is_epoch = any(point.dice == kept.dice for point in record.curve)
    if is_epoch and highest >= kept.mean_dice + 0.001:
        tell(
            f"One epoch had a Dice of {highest:.3f}. The model kept has the best soft Dice "
            "smoothed over several epochs, since a single epoch can be high by chance."
        )


def _report(folder: Path, model: Model, pairs: Sequence[Pair], settings: TrainSettings) -> None:
    from napari_unetseg.report import write_report

    how = PredictSettings(device=settings.device, threads=settings.threads)
    try:
        written = write_report(folder, model, pairs, how)
    except UserError as error:
        raise UserError(f"The model is saved, but the report is not: {error}") from error
    tell(f"Report of {count(len(written), 'file')} written to {folder}.")


# -- evaluate --------------------------------------------------------------------------------------


def evaluate(
    model_file: Path, data: Labelled, settings: PredictSettings, json_file: Path | None = None
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

    control = Control(settings.threads)
    with stop_on_signals(control, "Stopping after this tile") as stop, Meter("Evaluating") as meter:
        events = evaluate_events(model, found.pairs, settings, control=control)
        result = finish(events, meter.show)
    if stop:
        raise Interrupted(stop, "nothing was scored.")
    facts = _evaluation_facts(result, model, model_file, data.kind)
    if to_stdout:
        write(_json(facts))
        return
    show_table(score_table(result.scores))
    tell(f"On {result.scores.voxels:,} voxels of {count(len(result.images), 'image')}.")
    if json_file is not None:
        _write_text(json_file, _json(facts))


def _evaluation_facts(
    result: Evaluation, model: Model, model_file: Path, kind: LabelKind
) -> dict[str, Any]:
    return {
        "schema": EVALUATION_SCHEMA,
        "model": {"file": model_file.name, "id": model.id},
        "labels": kind.value,
        **_score_facts(result.scores),
        "images": [{"name": i.name, **_score_facts(i.scores)} for i in result.images],
    }


def _score_facts(scores: Scores) -> dict[str, Any]:
    rows = zip(scores.numbers, scores.names, scores.dice, scores.iou, strict=True)
    return {
        "structures": [
            {"number": number, "name": name, "dice": dice, "iou": iou}
            for number, name, dice, iou in rows
        ],
        "mean_dice": scores.mean_dice,
        "mean_iou": scores.mean_iou,
        "voxels": scores.voxels,
    }


# -- info ------------------------------------------------------------------------------------------


def info(file: Path, *, as_json: bool = False, **how: Any) -> None:
    """Say what a model file or an image holds; ``how`` it is opened as for `open_stack`."""
    from napari_unetseg.image_info import image_facts
    from napari_unetseg.io.open_image import is_image

    if is_image(file):
        facts, rows = image_facts(file, **how)
    else:
        model = load(file)
        facts = {"schema": MODEL_SCHEMA, **model.summary()}
        rows = _model_rows(model, facts)
    if as_json:
        write(_json(facts))
    else:
        show_facts(rows)


def _model_rows(model: Model, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    net, classes = model.net, model.classes
    structures = [f"{s.number} {s.name}" for s in classes.structures]
    of_encoder = "" if net.encoder == "unet" else f" on {net.encoder}"
    low, high = model.spacing_range or (model.spacing, model.spacing)
    spans = [f"{a:g}" if a == b else f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True)]
    sizes = zip("ZYX"[-net.dims :], spans, model.units, strict=True)
    rows = [
        ("model", str(facts["id"])),
        (
            "network",
            f"{net.dims}D U-Net{of_encoder}, depth {net.depth}, width {net.width}, {net.norm} norm",
        ),
        ("parameters", f"{facts['parameters']:,}"),
        ("receptive field", " × ".join(map(str, facts["receptive_field"])) + " voxels"),
        ("structures", ", ".join(structures) + " (no background)" * (not classes.background)),
        ("channels", ", ".join(model.channels)),
        ("voxel", ", ".join(f"{axis} {size} {unit}" for axis, size, unit in sizes)),
    ]
    for record in model.history:
        names = [image.name for image in record.images]
        more = f" and {len(names) - 5} more" * (len(names) > 5)
        score = f"Dice {record.scores.mean_dice:.3f}" if record.scores else "not validated"
        rows.append(("trained", f"{record.date}, {score}. {record.reason}"))
        rows.append(("on", ", ".join(names[:5]) + more))
    return rows


# -- what they share -------------------------------------------------------------------------------


def count(number: int, what: str) -> str:
    """Say how many there are: ``1 image``, ``2 images``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def load(path: Path) -> Model:
    """Load a model.

    Raises
    ------
    UserError
        It is none; an image in its place is said to be one.
    """
    from napari_unetseg.io.file_names import as_stored
    from napari_unetseg.io.open_image import is_image
    from napari_unetseg.models.model import load_model

    path = as_stored(path)
    if path.exists() and is_image(path):
        raise UserError(
            f"{path} is an image or a folder, not a model; give the model (a .safetensors file) "
            "first, then the images."
        )
    return load_model(path)


def _write_text(path: Path, text: str) -> None:
    from napari_unetseg.core.atomic_write import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _json(facts: Mapping[str, Any]) -> str:
    """JSON with sorted keys; what is no number (NaN) is null."""
    return json.dumps(_finite(facts), indent=2, sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if value != value or value == "NaN" else value
