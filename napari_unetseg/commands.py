"""What the commands of the command line do, once their arguments are read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.atomic import check_writable
from napari_unetseg.core.config import PredictSettings
from napari_unetseg.core.control import Control
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import BRUSH, Classes, LabelKind
from napari_unetseg.core.parallel import place
from napari_unetseg.terminal import (
    Meter,
    finish,
    note,
    score_table,
    show_facts,
    show_table,
    stop_on_interrupt,
    tell,
    write,
)

if TYPE_CHECKING:
    from napari_unetseg.core.config import TrainSettings
    from napari_unetseg.core.evaluate import Evaluation
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.model import Model
    from napari_unetseg.core.records import TrainingRecord
    from napari_unetseg.core.samples import Pair
    from napari_unetseg.io.folders import FolderPairs

__all__ = [
    "Interrupted",
    "Labelled",
    "check_writable",
    "cores",
    "count",
    "evaluate",
    "info",
    "load",
    "train",
]

EVALUATION_SCHEMA = "napari-unetseg/evaluation/1"
MODEL_SCHEMA = "napari-unetseg/model/1"
IMAGE_SCHEMA = "napari-unetseg/image/1"
STOPPING = "Stopping after this tile; press Ctrl-C again to quit at once."


class Interrupted(Exception):
    """Ctrl-C ended a job; the text says what was kept."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images and their labels as they stand on the command line."""

    images: Path
    labels: Path
    kind: LabelKind
    ignore: int | None = None
    axes: str | None = None
    spacing: str | None = None

    def find(self) -> FolderPairs:
        """Pair them; say how many there are."""
        from napari_unetseg.io.folders import find_pairs

        how = {"axes": self.axes, "spacing": self.spacing}
        found = find_pairs(self.images, self.labels, self.kind, self.ignore, **how)
        note(f"{count(len(found.pairs), 'image')} with labels ({self.kind}).")
        if found.skipped:
            note(f"{count(len(found.skipped), 'image')} without labels skipped.")
        if found.unused:
            note(f"{count(len(found.unused), 'file')} of labels without an image not used.")
        if found.other_sizes:
            note(found.other_sizes)
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
) -> None:
    """Train, save the model, show its scores, write the report; on another computer if asked.

    Of several processes the first one speaks and writes.
    """
    leads = place().rank == 0
    if on and place().size > 1:
        raise UserError("torchrun trains here and --on elsewhere; leave one of them out.")
    found = data.find()
    if leads:
        check_writable(output.parent)
    from napari_unetseg.engine.live import Screen
    from napari_unetseg.engine.tasks import Elsewhere, Training

    before = load(init) if init else None
    _say_classes(found.pairs, before)
    control = Control(settings.threads)
    sentence = "Stopping after this step and saving; press Ctrl-C again to quit without saving."
    with stop_on_interrupt(control, sentence), Meter("Training") as meter:
        try:
            task = Training(found.pairs, settings, (), before, Screen())
            model = finish(Elsewhere(task, on)(control), meter.show)
        except UserError as error:
            if control.stopped:
                raise Interrupted(str(error)) from error
            raise
    if not leads:
        return
    _show_training(model, _save(model, output))
    if control.stopped:
        raise Interrupted("Stopped by Ctrl-C; the best model so far is saved.")
    if report is not None:
        _report(report, model, found.pairs, settings)


def _say_classes(pairs: Sequence[Pair], init: Model | None) -> None:
    from napari_unetseg.core.evaluate import values_of

    known = init.classes.structures if init else ()
    labels = [(values_of(p), p.kind) for p in pairs]
    classes = Classes.find(labels, known, ignore=pairs[0].ignore)
    names = [
        f"{s.number}{' (255 in the files)' * (s.file_value == BRUSH)}" for s in classes.structures
    ]
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
        raise UserError(f"{error} Until then it is kept as {spare}.") from error


def _show_training(model: Model, saved: Path) -> None:
    record = model.history[-1]
    if record.scores is not None:
        show_table(score_table(record.scores))
        tell(f"On {record.scores.voxels:,} voxels in {record.scores.blocks} validation blocks.")
        _say_highest(record, record.scores)
    else:
        tell("Not validated: there was too little annotation to hold any back for a score.")
    tell(record.reason)
    tell(f"Model {model.id} saved as {saved} ({saved.stat().st_size / 1e6:.1f} MB).")


def _say_highest(record: TrainingRecord, kept: Scores) -> None:
    """Why the epoch with the highest Dice is not kept, where another one is."""
    highest = max((p.mean_dice for p in record.curve if p.mean_dice is not None), default=0.0)
    is_epoch = any(point.dice == kept.dice for point in record.curve)
    if is_epoch and highest >= kept.mean_dice + 0.001:
        tell(
            f"One epoch had Dice {highest:.3f}. The one that is kept scored best over several "
            "epochs by its probabilities (soft Dice): the Dice of a single epoch can be luck."
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
            raise UserError(f"{json_file} exists and is no .json file; choose another name.")
    model = load(model_file)
    from napari_unetseg.core.evaluate import evaluate_events

    control = Control(settings.threads)
    with stop_on_interrupt(control, STOPPING), Meter("Evaluating") as meter:
        events = evaluate_events(model, found.pairs, settings, control=control)
        result = finish(events, meter.show)
    if control.stopped:
        raise Interrupted("Stopped; nothing was scored.")
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


def info(
    file: Path, *, as_json: bool = False, axes: str | None = None, spacing: str | None = None
) -> None:
    """Say what a model file or an image holds."""
    from napari_unetseg.io.images import is_image

    if is_image(file):
        facts, rows = _image_facts(file, axes, spacing)
    else:
        model = load(file)
        facts = {"schema": MODEL_SCHEMA, **model.summary()}
        rows = _model_rows(model, facts)
    if as_json:
        write(_json(facts))
    else:
        show_facts(rows)


def _image_facts(
    file: Path, axes: str | None, spacing: str | None
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from napari_unetseg.io.images import open_levels

    levels = open_levels(file, axes=axes, spacing=spacing)
    stack = levels[0]
    facts: dict[str, Any] = {
        "schema": IMAGE_SCHEMA,
        "axes": stack.axes,
        "shape": [int(n) for n in stack.data.shape],
        "dtype": str(stack.data.dtype),
        "spacing": list(stack.spacing),
        "units": list(stack.units),
        "translate": list(stack.translate),
        "channels": list(stack.channels),
        "colors": list(stack.colors),
        "levels": [[int(n) for n in level.data.shape] for level in levels],
    }
    sizes = zip(stack.axes, stack.data.shape, stack.spacing, stack.units, strict=True)
    rows = [("image", stack.name), ("pixels", str(stack.data.dtype))]
    rows += [
        (axis, f"{n}" if unit == "pixel" and size == 1 else f"{n} × {size:g} {unit}")
        for axis, n, size, unit in sizes
    ]
    rows.append(("channels", ", ".join(stack.channels)))
    if len(levels) > 1:
        shapes = (" × ".join(str(n) for n in level.data.shape) for level in levels)
        rows.append(("levels", ", ".join(shapes)))
    missing = stack.data.missing() if hasattr(stack.data, "missing") else None
    if missing is not None and missing.count:
        facts["missing"] = {"chunks": missing.count, "of": missing.total, "first": missing.first}
        rows.append(
            (
                "not stored",
                f"{missing.count:,} of {missing.total:,} chunks, such as {missing.first}; "
                "they are read as the fill value",
            )
        )
    return facts, rows


def _model_rows(model: Model, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    net, classes = model.net, model.classes
    structures = [f"{s.number} {s.name}" for s in classes.structures]
    of_encoder = "" if net.encoder == "unet" else f" on {net.encoder}"
    sizes = zip("ZYX"[-net.dims :], model.spacing, model.units, strict=True)
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
        ("voxel", ", ".join(f"{axis} {size:g} {unit}" for axis, size, unit in sizes)),
    ]
    for record in model.history:
        names = [image.name for image in record.images]
        more = f" and {len(names) - 5} more" * (len(names) > 5)
        score = f"Dice {record.scores.mean_dice:.3f}" if record.scores else "not validated"
        rows.append(("trained", f"{record.date}, {score}. {record.reason}"))
        rows.append(("on", ", ".join(names[:5]) + more))
    return rows


# -- what they share -------------------------------------------------------------------------------


def cores() -> int:
    """How many CPU cores this process may use: no window waits, so all of them work."""
    affinity = getattr(os, "sched_getaffinity", None)
    there = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, there // place().local_size)


def count(number: int, what: str) -> str:
    """Say how many there are: ``1 image``, ``2 images``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def load(path: Path) -> Model:
    """Load a model."""
    from napari_unetseg.core.model import load_model

    return load_model(path)


def _write_text(path: Path, text: str) -> None:
    from napari_unetseg.core.atomic import atomic_path

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
