"""What ``unetseg report`` does: a page about a project, to be attached to a paper's methods."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.commands import check_writable, cores, count
from napari_unetseg.core.config import PredictSettings
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import BRUSH, LabelKind, Structure
from napari_unetseg.core.quality import (
    PlaneQuality,
    agreement,
    first_qualities,
    labelled_planes,
    plane_region,
)
from napari_unetseg.core.truth import Origin, Truth
from napari_unetseg.report import (
    new_figure,
    save_figure,
    spread,
    write_curve,
    write_history,
    write_overlay,
)
from napari_unetseg.terminal import note, tell

if TYPE_CHECKING:
    from napari_unetseg.core.image import Stack
    from napari_unetseg.core.model import Model
    from napari_unetseg.core.records import TrainingRecord
    from napari_unetseg.io.contents import Contents

__all__ = ["PAGE", "write_page"]

PAGE = "index.html"
MARK = '<meta name="generator" content="napari-unetseg report">'
MOST_PLANES, SHOWN = 24, 3
"""Labelled planes that are predicted, and of these the best and the worst that are shown."""
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}table{border-collapse:collapse;margin:1rem 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.25rem .75rem;text-align:left;vertical-align:top}"
    "img{max-width:100%}.hint{color:#555}"
)
COUNTED = {
    Origin.STROKES: "painted",
    Origin.CORRECTIONS: "corrected",
    Origin.ACCEPTED: "accepted",
}


@dataclass(eq=False)
class _Image:
    """An image of the project: what was said of it, its file if it is there, its first masks."""

    described: Mapping[str, Any]
    truth: Truth
    stack: Stack | None
    firsts: list[PlaneQuality]

    @property
    def name(self) -> str:
        return str(self.described.get("name", "image"))


class _Said:
    """The newest word about each voxel of an image, a plane at a time, as labels of a `Pair`."""

    dtype = np.dtype(np.uint8)

    def __init__(self, truth: Truth) -> None:
        self._truth, self.shape = truth, truth.shape

    def __getitem__(self, plane: tuple[int, ...]) -> np.ndarray:
        region = plane_region(plane, self.shape)
        painted = self._truth.read(Origin.STROKES, region).reshape(self.shape[-2:])
        if self._truth.kind is LabelKind.INSTANCES:
            return painted
        over = self._truth.winning(region).reshape(self.shape[-2:])
        if self._truth.kind is LabelKind.FULL:
            return np.where(over == 0, painted, over % BRUSH)
        return np.where(over == 0, painted, over)


def write_page(project: Path, output: Path) -> None:
    """Write ``index.html`` and its pictures into a folder, whole or not at all.

    Raises
    ------
    UserError
        The folder is no project, or the output exists and is no report.
    """
    from napari_unetseg.io.contents import check_folder, read_contents

    check_folder(project)
    if output.exists() and not _is_report(output):
        raise UserError(f"{output} exists and is no report; choose another folder.")
    check_writable(output.parent)
    contents = read_contents(project)
    structures = _structures(contents)
    images = [_image(contents, key, structures) for key in contents.truths]
    model = _model(contents)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "report"
        folder.mkdir()
        page = _page(folder, project, contents, images, structures, model)
        (folder / PAGE).write_text(page, encoding="utf-8")
        _put(folder, output, Path(temporary) / "earlier")
    tell(f"Report of {count(len(images), 'image')} written to {output / PAGE}.")


def _put(folder: Path, output: Path, earlier: Path) -> None:
    """Move a folder to where it belongs; what was there stays if that fails."""
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


def _structures(contents: Contents) -> list[Structure]:
    found = []
    for said in contents.values.get("structures", ()):
        with suppress(UserError, TypeError, KeyError, AttributeError):
            found.append(Structure(said["number"], str(said["name"]), str(said["color"])))
    return found


def _model(contents: Contents) -> Model | None:
    """The model in use, else the newest one that can be read."""
    from napari_unetseg.core.model import load_model

    known = [str(m.get("id")) for m in contents.values.get("models", ()) if isinstance(m, dict)]
    for name in [str(contents.values.get("in_use")), *reversed(known)]:
        file = contents.folder / "models" / f"{name}.safetensors"
        if name.isalnum() and file.is_file() and not file.is_symlink():
            try:
                return load_model(file)
            except UserError as error:
                contents.lost.append(str(error))
    return None


def _image(contents: Contents, key: str, structures: Sequence[Structure]) -> _Image:
    described = contents.values.get("images", {}).get(key, {})
    truth = contents.truths[key]
    firsts = first_qualities(truth, contents.effort.firsts.get(key, {}), structures)
    return _Image(described, truth, _stack(contents.folder, described, truth), firsts)


def _stack(folder: Path, described: Mapping[str, Any], truth: Truth) -> Stack | None:
    """The image's file, if it is where the project says and has the same pixels."""
    from napari_unetseg.io.contents import places_of
    from napari_unetseg.io.images import open_stack

    known = described.get("fingerprint")
    for place in places_of(folder, described):
        with suppress(UserError, OSError):
            stack = open_stack(place)
            if stack.grid_shape == truth.shape and known in (None, stack.fingerprint()):
                return stack
    return None


# -- the page --------------------------------------------------------------------------------------


def _page(
    folder: Path,
    project: Path,
    contents: Contents,
    images: Sequence[_Image],
    structures: Sequence[Structure],
    model: Model | None,
) -> str:
    parts = [f"<h1>{escape(project.resolve().name)}</h1>", f"<p>{_methods(images, model)}</p>"]
    parts += [f"<p class=hint>Not read: {escape(text)}</p>" for text in contents.lost]
    parts += ["<h2>Labels</h2>", _labels(images, contents.effort.seconds)]
    if firsts := [quality for image in images for quality in image.firsts]:
        parts += ["<h2>Quality over time</h2>", _quality(folder, firsts)]
    if model is not None:
        parts += ["<h2>Model</h2>", _scores(model), _training(folder, model)]
        parts += ["<h2>Best and worst planes</h2>", *_planes(folder, images, structures, model)]
        parts += ["<h2>Provenance</h2>", _provenance(model)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        f"<title>{escape(project.resolve().name)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _methods(images: Sequence[_Image], model: Model | None) -> str:
    """A paragraph for a paper's methods, from facts alone."""
    planes = sum(len(labelled_planes(image.truth)) for image in images)
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
            f" On labels in {last.scores.blocks} blocks that were kept out of training the mean "
            f"Dice was {last.scores.mean_dice:.3f} ({last.scores.voxels:,} voxels; strokes seldom "
            "lie on borders, so that this is kinder than full masks would be)."
        )
    return escape(text)


def _labels(images: Sequence[_Image], seconds: float) -> str:
    rows = [
        [image.name, " × ".join(map(str, image.truth.shape)), len(labelled_planes(image.truth))]
        + [f"{image.truth.count(origin):,}" for origin in COUNTED]
        + [image.described.get("fingerprint", ""), "" if image.stack else "not found"]
        for image in images
    ]
    head = ["image", "shape", "planes with labels", *COUNTED.values(), "fingerprint", "file"]
    return f"<p>Voxels; {seconds / 60:.1f} minutes of annotation.</p>{_table(head, rows)}"


def _quality(folder: Path, firsts: Sequence[PlaneQuality]) -> str:
    figure = new_figure(7.0, 3.5)
    axes = figure.add_subplot()
    for complete, filled in ((True, "C0"), (False, "none")):
        some = [q for q in firsts if q.complete is complete]
        label = "accepted planes" if complete else "planes known in part"
        x, y = [q.minutes for q in some], [q.dice for q in some]
        axes.scatter(x, y, facecolors=filled, edgecolors="C0", label=label)
    axes.set(xlabel="minutes of annotation", ylabel="Dice of the first mask", ylim=(0, 1.03))
    axes.legend(loc="lower right")
    save_figure(figure, folder / "quality.png")
    return _picture("quality.png", "Dice of each plane's first mask over minutes of annotation")


def _scores(model: Model) -> str:
    scores = model.scores
    if scores is None:
        return "<p>Not validated: there were too few labels to keep any out of training.</p>"
    rows = [
        [number, name, f"{dice:.3f}", f"{iou:.3f}"]
        for number, name, dice, iou in zip(
            scores.numbers, scores.names, scores.dice, scores.iou, strict=True
        )
    ]
    return _table(["number", "structure", "Dice", "IoU"], rows)


def _training(folder: Path, model: Model) -> str:
    last = model.history[-1]
    chosen = [[c.name, c.value, c.reason] for c in last.choices]
    settings = [[name, value] for name, value in last.settings.model_dump(mode="json").items()]
    parts = []
    if last.curve:
        write_curve(folder / "curve.png", model)
        write_history(folder / "history.csv", model)
        parts.append(_picture("curve.png", "Training loss and Dice over the last training"))
    if chosen:
        parts += ["<h3>Chosen for these images</h3>", _table(["", "", "why"], chosen)]
    parts += ["<h3>Settings</h3>", _table(["setting", "value"], settings)]
    return "\n".join(parts)


def _planes(
    folder: Path, images: Sequence[_Image], structures: Sequence[Structure], model: Model
) -> list[str]:
    """Pictures of planes where the newest mask agrees best and worst with what is known."""
    from napari_unetseg.core.predict import predict
    from napari_unetseg.core.samples import Pair

    places = [(i, p) for i in images if i.stack is not None for p in labelled_planes(i.truth)]
    scored = []
    settings = PredictSettings(threads=cores())
    for image, plane in (places[n] for n in spread(len(places), MOST_PLANES)):
        assert image.stack is not None
        lead = len(image.stack.leading_shape(model.dims))
        try:
            mask = predict(model, image.stack, settings, planes=[plane[:lead]])
        except UserError as error:
            note(f"{image.name} is not predicted: {error}")
            continue
        region = plane_region(plane, image.truth.shape)
        said = np.where(mask[region] == 0, BRUSH, mask[region])
        scores = agreement(image.truth, region, said, structures)
        if scores is not None:
            scored.append((scores.mean_dice, image, plane, mask[plane].copy()))
    scored.sort(key=lambda row: -row[0])
    chosen = scored if len(scored) <= 2 * SHOWN else [*scored[:SHOWN], *scored[-SHOWN:]]
    parts = [
        "<p>Dice of the newest mask where the truth is known, the best first. Most of these labels "
        "were trained on, so that they tell where the mask is wrong, not how good it is.</p>"
    ]
    for number, (dice, image, plane, mask) in enumerate(chosen):
        assert image.stack is not None
        whole = np.broadcast_to(mask, image.truth.shape)
        pair = Pair(image.stack, _Said(image.truth), image.truth.kind)
        write_overlay(folder / f"plane-{number}.png", model, pair, plane, whole)
        place = f"{image.name} {', '.join(map(str, plane))}: Dice {dice:.3f}"
        parts += [f"<h3>{escape(place)}</h3>", _picture(f"plane-{number}.png", place)]
    return parts


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
