"""HTML page of a project: sections and pictures."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.annotations.sparse_array import Cell, Region, plane_region
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Event, Notice
from napari_unetseg.core.labels import (
    BACKGROUND_LABEL,
    IGNORE_INDEX,
    OBJECT_KINDS,
    Classes,
    LabelKind,
    Structure,
)
from napari_unetseg.core.metrics import Scores, confusion, scores_of
from napari_unetseg.core.score_text import agreement_text, score_name, score_text
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.core.text import count
from napari_unetseg.inference.quality_table import write_quality
from napari_unetseg.report.figures import (
    spread,
    write_curve,
    write_history,
    write_overlay,
)
from napari_unetseg.runtime.cpu import cores

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.inference.quality_table import ModelQuality
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.training_record import TrainingRecord

MARK = '<meta name="generator" content="napari-unetseg report">'
MOST_PLANES, SHOWN = 24, 3
"""Labelled planes that are predicted, and best and worst of them that are shown."""
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}table{border-collapse:collapse;margin:1rem 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.25rem .75rem;text-align:left;vertical-align:top}"
    "img{max-width:100%}.hint{color:#555}"
)
COUNTED = {
    LabelSource.STROKES: "painted",
    LabelSource.CORRECTIONS: "corrected",
    LabelSource.ACCEPTED: "accepted",
}


@dataclass(eq=False)
class ReportImage:
    """An image of a project with its annotations, and its pixels if found."""

    described: Mapping[str, Any]
    annotated: ImageAnnotations
    stack: Stack | None

    @property
    def name(self) -> str:
        """Display name."""
        return str(self.described.get("name", "image"))


@dataclass(eq=False)
class Facts:
    """Content of a page."""

    title: str
    """Its heading."""
    images: list[ReportImage]
    structures: list[Structure]
    model: Model | None
    """Annotated images, structures, and the current model if any."""
    seconds: float
    """Annotation time."""
    quality: list[ModelQuality]
    """What checked places say of each model."""
    lost: list[str]
    """Sentences about unreadable parts."""


class _Said:
    """The newest annotation of each voxel of an image, lazily as labels."""

    dtype = np.dtype(np.uint8)

    def __init__(self, annotated: ImageAnnotations) -> None:
        self._annotated, self.shape = annotated, annotated.shape

    def __getitem__(self, plane: tuple[int, ...]) -> np.ndarray:
        region = plane_region(plane, self.shape)
        painted = self._annotated.read(LabelSource.STROKES, region).reshape(self.shape[-2:])
        if self._annotated.kind in OBJECT_KINDS:
            return painted
        over = self._annotated.effective_overrides(region).reshape(self.shape[-2:])
        if self._annotated.kind is LabelKind.FULL:
            return np.where(over == 0, painted, over % BACKGROUND_LABEL)
        return np.where(over == 0, painted, over)


def write_page(
    folder: Path, file: str, facts: Facts, control: JobControl
) -> Generator[Event, None, None]:
    """Write a page and its pictures into a folder.

    Yields
    ------
    Event
        A `ChunkPredicted` for each plane that was predicted, and `Notice` sentences. A stop ends
        the predictions.
    """
    title, model = escape(facts.title), facts.model
    parts = [f"<h1>{title}</h1>", f"<p>{_methods(facts.images, model)}</p>"]
    parts += [f"<p class=hint>Not read: {escape(text)}</p>" for text in facts.lost]
    parts += ["<h2>Labels</h2>", _labels(facts.images, facts.seconds)]
    if facts.quality:
        parts += ["<h2>Checked quality</h2>", _quality(folder, facts)]
    if model is not None:
        parts += ["<h2>Model</h2>", _scores(model), _training(folder, model)]
        planes = yield from _planes(folder, facts, model, control)
        parts += ["<h2>Best and worst planes</h2>", *planes]
        parts += ["<h2>Provenance</h2>", _provenance(model)]
    body = "\n".join(parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
    (folder / file).write_text(page, encoding="utf-8")


def _methods(images: Sequence[ReportImage], model: Model | None) -> str:
    """A methods paragraph from the records."""
    planes = sum(len(_labelled_planes(image.annotated)) for image in images)
    said = f"{count(planes, 'plane')} of {count(len(images), 'image')} were annotated"
    if model is None:
        return f"{said[0].upper()}{said[1:]}; no model was trained."
    last, net = model.history[-1], model.net
    steps = sum(record.steps for record in model.history)
    text = (
        f"{said} with napari-unetseg {last.versions.get('napari-unetseg', '')}, and a "
        f"{net.dims}D U-Net (Ronneberger et al. 2015; depth {net.depth}, width {net.width}, "
        f"{net.norm} norm) was trained on them for {steps:,} steps in "
        f"{count(len(model.history), 'training')} (PyTorch {last.versions.get('torch', '')}, "
        f"{last.device})."
    )
    if last.scores is not None:
        text += (
            f" The {score_name(last.scores)} was {score_text(last.scores)}, with a 90 % interval."
        )
        if last.scores.on_strokes:
            text += " Strokes seldom lie on borders, so the Dice of the mask is lower."
    return escape(text)


def _labels(images: Sequence[ReportImage], seconds: float) -> str:
    rows = [
        [
            image.name,
            " × ".join(map(str, image.annotated.shape)),
            len(_labelled_planes(image.annotated)),
        ]
        + [f"{image.annotated.count(origin):,}" for origin in COUNTED]
        + [image.described.get("fingerprint", ""), "" if image.stack else "not found"]
        for image in images
    ]
    head = ["image", "shape", "planes with labels", *COUNTED.values(), "fingerprint", "file"]
    return f"<p>Voxels; {seconds / 60:.1f} minutes of annotation.</p>{_table(head, rows)}"


def _scores(model: Model) -> str:
    scores = model.scores
    if scores is None:
        return "<p>Not validated: there were too few labels to keep any out of training.</p>"
    if scores.agreement is not None and scores.on_strokes:
        named = {0: "background", **dict(zip(scores.numbers, scores.names, strict=True))}
        strokes = [[k, named[k], agreement_text(own)] for k, own in scores.agreement.each]
        head = ["number", "class", f"{score_name(scores)} (90 % interval)"]
        return _table(head, [*strokes, ["", "all", score_text(scores)]])
    rows = [
        [number, name, f"{dice:.3f}", f"{iou:.3f}"]
        for number, name, dice, iou in zip(
            scores.numbers, scores.names, scores.dice, scores.iou, strict=True
        )
    ]
    return _table(["number", "structure", "Dice", "IoU"], rows)


def _quality(folder: Path, facts: Facts) -> str:
    """The table of checked quality, which is written as CSV too."""
    names = {structure.number: structure.name for structure in facts.structures}
    write_quality(folder / "quality.csv", facts.quality, names)
    rows = [
        [
            one.name + " (in use)" * (facts.model is not None and one.model == facts.model.id),
            names.get(number, f"structure {number}"),
            f"{found.dice:.3f} ({found.low:.3f} to {found.high:.3f})",
            "{:.3f} ({:.3f} to {:.3f})".format(*found.iou),
            f"{found.places} of {one.places}",
        ]
        for one in facts.quality
        for number, found in one.structures.items()
    ]
    head = ["model", "structure", "Dice", "IoU", "places where it occurs"]
    return (
        "<p>The mask was corrected by hand at places that were drawn at random, by predicted "
        "foreground and area, among all pixels that nobody had labelled; nothing of these places "
        "was trained on before. Dice and IoU are ratios of sums that are weighted by the inverse "
        "of the probability of each place, with 90 % bootstrap intervals over places. As a table: "
        f'<a href="quality.csv">quality.csv</a>.</p>{_table(head, rows)}'
    )


def _training(folder: Path, model: Model) -> str:
    last = model.history[-1]
    chosen = [[c.name, c.value, c.reason] for c in last.choices]
    settings = [[name, value] for name, value in last.settings.model_dump(mode="json").items()]
    parts = []
    if last.curve:
        write_curve(folder / "curve.png", model)
        write_history(folder / "history.csv", model)
        parts.append(_picture("curve.png", "Training loss and scores over the last training"))
    if chosen:
        parts += ["<h3>Chosen for these images</h3>", _table(["", "", "why"], chosen)]
    parts += ["<h3>Settings</h3>", _table(["setting", "value"], settings)]
    return "\n".join(parts)


def _planes(
    folder: Path, facts: Facts, model: Model, control: JobControl
) -> Generator[Event, None, list[str]]:
    """Pictures of planes where the newest mask agrees best and worst with the annotations."""
    from napari_unetseg.data.annotated_image import AnnotatedImage

    scored = yield from _scored(facts, model, control)
    scored.sort(key=lambda row: -row[0])
    chosen = scored if len(scored) <= 2 * SHOWN else [*scored[:SHOWN], *scored[-SHOWN:]]
    parts = [
        "<p>Dice of the newest mask on the annotated voxels, the best first. Most of these labels "
        "were trained on, so that they tell where the mask is wrong, not how good it is.</p>"
    ]
    for number, (dice, image, plane, mask) in enumerate(chosen):
        assert image.stack is not None
        whole = np.broadcast_to(mask, image.annotated.shape)
        pair = AnnotatedImage(image.stack, _Said(image.annotated), image.annotated.kind)
        write_overlay(folder / f"plane-{number}.png", model, pair, plane, whole)
        place = f"{image.name} {', '.join(map(str, plane))}: Dice {dice:.3f} on what is annotated"
        parts += [f"<h3>{escape(place)}</h3>", _picture(f"plane-{number}.png", place)]
    return parts


_Scored = tuple[float, ReportImage, tuple[int, ...], np.ndarray]


def _scored(
    facts: Facts, model: Model, control: JobControl
) -> Generator[Event, None, list[_Scored]]:
    """Masks of some labelled planes, with Dice where annotated."""
    from napari_unetseg.inference.predict import predict

    places = [
        (i, p) for i in facts.images if i.stack is not None for p in _labelled_planes(i.annotated)
    ]
    chosen = [places[n] for n in spread(len(places), MOST_PLANES)]
    found: list[_Scored] = []
    for number, (image, plane) in enumerate(chosen, 1):
        if control.stopped:
            break
        assert image.stack is not None
        settings = PredictSettings(threads=control.threads or cores())
        lead = len(image.stack.leading_shape(model.dims))
        try:
            mask = predict(model, image.stack, settings, planes=[plane[:lead]])
        except UserError as error:
            yield Notice(f"{image.name} is not predicted: {error}", warning=True)
            continue
        region = plane_region(plane, image.annotated.shape)
        said = np.where(mask[region] == 0, BACKGROUND_LABEL, mask[region])
        scores = agreement(image.annotated, region, said, facts.structures)
        if scores is not None:
            found.append((scores.mean_dice, image, plane, mask[plane].copy()))
        yield ChunkPredicted(number, len(chosen))
    return found


def agreement(
    annotated: ImageAnnotations,
    region: Region,
    predicted: np.ndarray,
    structures: Sequence[Structure],
) -> Scores | None:
    """Compare a mask with the annotations of a region, the newest of each voxel.

    Parameters
    ----------
    annotated, region
        Annotations, and where to compare.
    predicted
        Of the region's shape, numbers as in corrections: 0 not predicted, 255 background.
    structures
        Those to compare; others are left out.

    Returns
    -------
    Scores or None
        None if nothing is annotated there, or no structure occurs.
    """
    classes = Classes(tuple(structures), background=True)
    painted = classes.encode(annotated.read(LabelSource.STROKES, region), annotated.kind)
    over = classes.encode(annotated.effective_overrides(region), LabelKind.STROKES)
    known = np.where(
        over == IGNORE_INDEX, IGNORE_INDEX if annotated.strokes_disabled else painted, over
    )
    found = classes.encode(predicted, LabelKind.STROKES)
    known[found == IGNORE_INDEX] = IGNORE_INDEX
    scores = scores_of(confusion(known, found, len(classes.numbers)), classes)
    return scores if scores.mean_dice == scores.mean_dice else None


def _labelled_planes(annotated: ImageAnnotations) -> list[Cell]:
    """Leading indices of the planes that have annotations, in order."""
    return sorted(set().union(*(annotated.grid(origin).planes() for origin in LabelSource)))


def _provenance(model: Model) -> str:
    def row(record: TrainingRecord) -> list[Any]:
        versions = ", ".join(f"{k} {v}" for k, v in record.versions.items())
        names = ", ".join(f"{i.name} ({i.fingerprint})" for i in record.images[:5])
        more = f" and {len(record.images) - 5} more" if len(record.images) > 5 else ""
        return [record.date, record.steps, record.settings.seed, names + more, versions]

    head = ["trained", "steps", "seed", "images", "versions"]
    return f"<p>Model {escape(model.id)}.</p>{_table(head, [row(r) for r in model.history])}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cells(values: Sequence[Any], tag: str) -> str:
        inside = "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values)
        return f"<tr>{inside}</tr>"

    return f"<table>{cells(head, 'th')}{''.join(cells(row, 'td') for row in rows)}</table>"


def _picture(file: str, text: str) -> str:
    return f'<img src="{escape(file)}" alt="{escape(text)}">'
