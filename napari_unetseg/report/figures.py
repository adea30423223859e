"""Training report: curve, overlays and table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.labels import (
    BACKGROUND_LABEL,
    OBJECT_KINDS,
    Classes,
    LabelKind,
    default_color,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.settings import PredictSettings
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model

MOST_OVERLAYS = 6
LARGEST_PICTURE = 1000
"""Larger planes are thinned to at most so many pixels along Y and X."""


def write_report(
    folder: str | Path,
    model: Model,
    pairs: Sequence[AnnotatedImage],
    settings: PredictSettings | None = None,
) -> list[Path]:
    """Write ``history.csv``, ``curve.png`` and ``overlays/NAME.png`` of the last training.

    Parameters
    ----------
    folder
        Where to; made where it does not exist.
    model
        A model that was just trained.
    pairs
        The images it was trained on; at most six are shown.
    settings
        How to predict them.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    return [
        write_history(folder / "history.csv", model),
        write_curve(folder / "curve.png", model),
        *write_overlays(folder / "overlays", model, pairs, settings),
    ]


def write_history(path: Path, model: Model) -> Path:
    """Write the epochs of the last training as CSV.

    Columns: epoch, step, seconds, train_loss, ``loss_NAME`` for each term of it, ``dice_N`` and
    ``iou_N`` for each structure's number N and mean_dice over the held-out voxels; agreement,
    agreement_low and agreement_high with held-out strokes. Scores are empty where there are none.
    """
    numbers = [s.number for s in model.classes.structures]
    terms = _loss_terms(model)
    header = ["epoch", "step", "seconds", "train_loss", *(f"loss_{name}" for name in terms)]
    header += [f"{score}_{n}" for score in ("dice", "iou") for n in numbers] + ["mean_dice"]
    header += ["agreement", "agreement_low", "agreement_high"]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for point in model.history[-1].curve:
            none = [""] * len(numbers)
            scores = [*(point.dice or none), *(point.iou or none)]
            mean = "" if point.mean_dice is None else point.mean_dice
            losses = [point.train_loss, *(point.losses.get(name, 0.0) for name in terms)]
            found = point.agreement
            on_strokes = found is not None and found.strokes
            strokes = [found.value, found.low, found.high] if found and on_strokes else [""] * 3
            row = [point.epoch, point.step, point.seconds, *losses, *scores, mean, *strokes]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])
    return path


def write_curve(path: Path, model: Model) -> Path:
    """Draw training loss and validation scores over the steps of the last training."""
    figure = new_figure(7.0, 4.0)
    curve = model.history[-1].curve
    steps = [p.step for p in curve]
    left = figure.add_subplot()
    left.plot(steps, [p.train_loss for p in curve], color="0.3", marker=".")
    for name in _loss_terms(model):
        losses = [p.losses.get(name, 0.0) for p in curve]
        left.plot(steps, losses, color="0.3", lw=0.7, ls="--")
        left.annotate(name, (steps[-1], losses[-1]), color="0.3", fontsize="x-small")
    left.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    left.grid(alpha=0.3)
    if any(p.dice for p in curve):
        _draw_scores(left.twinx(), model)
    left.set_title(model.history[-1].reason, fontsize="medium", wrap=True)
    return save_figure(figure, path)


def _draw_scores(axes: Axes, model: Model) -> None:
    """Draw agreement with its interval, or Dice of each structure where masks are full."""
    curve = model.history[-1].curve
    steps = [p.step for p in curve]
    found = [p.agreement for p in curve]
    on_strokes = any(a is not None and a.strokes for a in found)
    if any(found):
        low = [math.nan if a is None else a.low for a in found]
        high = [math.nan if a is None else a.high for a in found]
        axes.fill_between(steps, low, high, color="0.3", alpha=0.15, lw=0, label="90 % interval")
    if on_strokes:
        values = [math.nan if a is None else a.value for a in found]
        axes.plot(steps, values, color="0.3", marker=".", label="agreement")
    for place, structure in enumerate(() if on_strokes else model.classes.structures):
        dice = [p.dice[place] if p.dice else math.nan for p in curve]
        label = f"Dice of {structure.number}, {structure.name}"
        axes.plot(steps, dice, color=structure.color, marker=".", label=label)
    name = "agreement with held-out strokes" if on_strokes else "Dice on held-out blocks"
    axes.set(ylabel=name, ylim=(0, 1))
    axes.legend(loc="center right")


def _loss_terms(model: Model) -> list[str]:
    """Names of the terms that the loss of the last training was the sum of."""
    return list(dict.fromkeys(name for p in model.history[-1].curve for name in p.losses))


def write_overlays(
    folder: Path,
    model: Model,
    pairs: Sequence[AnnotatedImage],
    settings: PredictSettings | None = None,
) -> list[Path]:
    """Draw image, labels and predicted outlines of the plane with most labels of some images."""
    from napari_unetseg.inference.predict import predict

    chosen = [pairs[i] for i in spread(len(pairs), MOST_OVERLAYS)]
    written = []
    for pair in chosen:
        plane = _fullest_plane(pair)
        lead = len(pair.image.leading_shape(model.dims))
        mask = predict(model, pair.image, settings, planes=[plane[:lead]])
        written.append(write_overlay(folder / f"{pair.image.name}.png", model, pair, plane, mask))
    return written


def spread(count: int, most: int) -> list[int]:
    """At most so many of some numbers from 0 on, evenly spread."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def _fullest_plane(pair: AnnotatedImage) -> tuple[int, ...]:
    """Index of the YX plane with most voxels that are labelled (and not 0)."""
    planes = list(np.ndindex(*pair.labels.shape[:-2]))
    return max(planes, key=lambda index: np.count_nonzero(np.asarray(pair.labels[index])))


def write_overlay(
    path: Path, model: Model, pair: AnnotatedImage, plane: tuple[int, ...], mask: np.ndarray
) -> Path:
    """Draw image, labels and predicted outlines of a YX plane; ``mask`` is of the whole grid."""
    picture, step = _picture(pair.image, model, plane)
    thin = (slice(None, None, step), slice(None, None, step))
    labels = np.asarray(pair.labels[plane])[thin]
    height, width = picture.shape[:2]
    figure = new_figure(12.0, 4.0 * min(2.0, max(0.5, height / width)) + 0.6)
    place = "".join(f" {a}{i}" for a, i in zip(pair.image.grid_axes, plane, strict=False))
    titles = (f"{pair.image.name}{place}", "labels", "prediction")
    for axes, title in zip(figure.subplots(1, 3), titles, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize="medium", parse_math=False)
        axes.set_axis_off()
        if title == "labels":
            axes.imshow(_tinted(labels, pair, model.classes), interpolation="nearest")
        elif title == "prediction":
            _outline(axes, mask[plane][thin], model.classes)
    return save_figure(figure, path)


def _picture(stack: Stack, model: Model, plane: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Show a plane: RGB, or the mean of its channels from 0 to 1; and how it was thinned."""
    array = stack.read(plane, stack.whole(2))
    step = max(1, math.ceil(max(array.shape[1:]) / LARGEST_PICTURE))
    scale = model.normalization.for_stack(stack)[0]
    if "S" not in stack.axes:
        shown = scale.apply(array[:, ::step, ::step]).mean(axis=0)
        return np.clip(shown, 0.0, 1.0), step
    low, high = min(scale.low), max(scale.high)  # one scale for all colours keeps their hues
    shown = (array[:, ::step, ::step].astype(np.float32) - low) / max(high - low, 1e-6)
    return np.clip(np.nan_to_num(np.moveaxis(shown, 0, -1)), 0.0, 1.0), step


def _tinted(labels: np.ndarray, pair: AnnotatedImage, classes: Classes) -> np.ndarray:
    """Colour labels, translucent: structures, and the background brush in grey."""
    from matplotlib.colors import to_rgba

    out = np.zeros((*labels.shape, 4))
    for where, color in _areas(labels, pair, classes):
        out[where] = to_rgba(color, 0.6)
    return out


def _areas(
    labels: np.ndarray, pair: AnnotatedImage, classes: Classes
) -> Iterator[tuple[np.ndarray, str]]:
    known = labels != (0 if pair.ignore is None else pair.ignore)
    if pair.kind in OBJECT_KINDS:
        yield (labels > 0) & known, default_color(1)
        return
    if pair.kind is LabelKind.STROKES:
        yield labels == BACKGROUND_LABEL, default_color(BACKGROUND_LABEL)
    for structure in classes.structures:
        where = labels == structure.number
        if pair.kind is LabelKind.FULL and structure.file_value is not None:
            where |= labels == structure.file_value
        yield where & known, structure.color


def _outline(axes: Axes, mask: np.ndarray, classes: Classes) -> None:
    for structure in classes.structures:
        inside = mask == structure.number
        if inside.any() and not inside.all() and min(inside.shape) > 1:
            axes.contour(inside, levels=[0.5], colors=[structure.color], linewidths=1.0)


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
