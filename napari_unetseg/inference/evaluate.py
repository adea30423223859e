"""Evaluation of predictions against ground truth, over pooled voxels and pooled objects."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, TilePredicted, finish, pass_on
from napari_unetseg.core.label_checks import LabelValues, notes_of
from napari_unetseg.core.labels import BACKGROUND_LABEL, Classes, LabelKind, Structure
from napari_unetseg.core.metrics import Scores, confusion, scores_of
from napari_unetseg.core.object_metrics import ObjectCounts, count_objects
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.data.annotated_image import values_of
from napari_unetseg.data.object_ids import find_objects
from napari_unetseg.inference.predict import predict_events
from napari_unetseg.models.voxel_sizes import fit_spacing

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model

OF_OBJECTS = frozenset({LabelKind.INSTANCES, LabelKind.FINISHED})
"""Kinds of masks whose numbers are objects."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """The scores of one image; those of its objects where they are known."""

    name: str
    scores: Scores
    objects: ObjectCounts | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores over the pooled voxels and objects of all images, and those of each image."""

    scores: Scores
    images: tuple[ImageScores, ...]
    objects: ObjectCounts | None = None


def evaluate_events(
    model: Model,
    pairs: Sequence[AnnotatedImage],
    settings: PredictSettings | None = None,
    *,
    control: JobControl | None = None,
) -> Generator[Event, None, Evaluation]:
    """Predict images and score them against their masks; see `evaluate`.

    Yields
    ------
    Event
        Those of `predict_events` for each image.
    """
    if not pairs:
        raise UserError("There is no image with a mask to evaluate; choose some.")
    for pair in pairs:
        model.check_image(pair.image)
        fit_spacing(model, pair.image, match=settings is not None and settings.match_spacing)
    values = values_of(pairs)
    judge = _Judge.for_masks(model.classes, values)
    yield from map(Notice, filter(None, (*notes_of(values), judge.note)))
    found = []
    for pair in pairs:
        found.append((yield from _count(model, pair, judge, settings, control)))
        if control is not None and control.stopped:
            break
    pooled = scores_of(np.sum([counts.voxels for counts in found], axis=0), judge.classes)
    if not pooled.voxels and control is not None and control.stopped:
        raise UserError("The evaluation was stopped before anything was scored.")
    if not pooled.voxels:
        raise UserError(
            "The masks hold no voxel that can be scored: this model has no background class, "
            "and nothing else is labelled; give masks with the model's structures."
        )
    images = tuple(
        ImageScores(pair.image.name, scores_of(counts.voxels, judge.classes), counts.objects)
        for pair, counts in zip(pairs, found, strict=False)
    )
    known = [counts.objects for counts in found if counts.objects is not None]
    return Evaluation(pooled, images, sum(known, ObjectCounts()) if known else None)


def evaluate(
    model: Model,
    pairs: Sequence[AnnotatedImage],
    settings: PredictSettings | None = None,
    *,
    control: JobControl | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Evaluation:
    """Score a model against ground truth.

    Dice and IoU of each structure come from the confusion matrix over the voxels of all images
    together; their means are over the structures that occur. Masks that are ``instances`` or
    ``finished`` score the foreground: any structure against background, and, of a model with
    structures that consist of objects, the objects: those of all images are counted together,
    each plane or volume for itself. Where a mask of ``finished`` is 0, predicted objects are
    neither right nor wrong. Masks of 0 and one other number are binary for a model of one
    structure.

    Parameters
    ----------
    model
        A trained model.
    pairs
        Images with masks (``full``, ``instances`` or ``finished``) or with strokes.
    settings, control
        As for `predict_events`. A stop leaves out the images that were not reached.
    on_event
        Called with every event.

    Raises
    ------
    UserError
        An image does not fit the model, or a mask holds structures that it does not know.
    """
    events = evaluate_events(model, pairs, settings, control=control)
    return finish(events, lambda event: pass_on(event, on_event))


@dataclass(frozen=True, slots=True)
class _Judge:
    """Maps masks and predictions to the classes that are compared.

    ``foreground``: any structure against background. ``binary`` is the value of the only structure
    in full masks, for a model of one structure.
    """

    classes: Classes
    foreground: bool = False
    binary: int | None = None

    @classmethod
    def for_masks(cls, classes: Classes, masks: Sequence[LabelValues]) -> _Judge:
        """The mapping for masks of a kind and a model's classes.

        Raises
        ------
        UserError
            Kinds are mixed, or a mask holds structures that the model does not know.
        """
        kinds = {mask.kind for mask in masks}
        only = classes.structures[0] if len(classes.structures) == 1 else None
        if kinds & OF_OBJECTS:
            if len(kinds) > 1:
                raise UserError(
                    "Instances and finished objects cannot be scored together with other kinds of "
                    "masks."
                )
            name = only.name if only else "foreground"
            return cls(Classes((Structure(1, name),)), foreground=True)
        held = set[int]().union(*(mask.counts for mask in masks if mask.kind is LabelKind.FULL))
        held -= {0}
        binary = max(held) if only and len(held) == 1 else None
        judge = cls(classes, binary=None if only and held == {only.number} else binary)
        for mask in masks:
            judge.check(mask)
        return judge

    @property
    def note(self) -> str:
        """How masks are interpreted, in a sentence; empty by default."""
        if self.binary is None or self.binary >= BACKGROUND_LABEL:
            return ""
        only = self.classes.structures[0]
        return (
            f"The masks hold only 0 and {self.binary}, which is scored as {only.number} "
            f"({only.name}), the model's only structure."
        )

    def check(self, mask: LabelValues) -> None:
        """Raise `UserError` for a mask with structures that the model does not know."""
        known = [s.number for s in self.classes.structures]
        values = mask.counts.keys() - {0, self.binary}
        if mask.kind is LabelKind.STROKES:
            values -= {BACKGROUND_LABEL}
        elif len(known) == 1:
            values = {
                v for v in values if v < BACKGROUND_LABEL
            }  # beside 0, which read_values checked
        if unknown := sorted(values - set(known)):
            knows = ", ".join(f"{s.number} ({s.name})" for s in self.classes.structures)
            raise UserError(
                f"{mask.name} hold the number {unknown[0]}, but the model knows only {knows}; "
                "give masks of the same structures, or '--labels instances' if every number is "
                "an object."
            )

    def truth(self, pair: AnnotatedImage, labels: Any) -> np.ndarray:
        """Class indices of a piece of a mask."""
        labels = np.asarray(labels)
        if pair.kind is LabelKind.FULL and len(self.classes.structures) == 1:
            is_one = labels >= BACKGROUND_LABEL
            if self.binary is not None:
                is_one |= labels == self.binary
            if pair.ignore is not None:
                is_one &= labels != pair.ignore
            labels = np.where(is_one, self.classes.structures[0].number, labels)
        return self.classes.encode(labels, pair.kind, pair.ignore)

    def found(self, mask: np.ndarray) -> np.ndarray:
        """Class indices of a piece of a prediction."""
        kind = LabelKind.INSTANCES if self.foreground else LabelKind.FULL
        return self.classes.encode(mask, kind)


@dataclass(slots=True)
class _Counts:
    """Confusion matrix of voxels, and matches of objects; None where these are not scored."""

    voxels: np.ndarray
    objects: ObjectCounts | None


def _count(
    model: Model,
    pair: AnnotatedImage,
    judge: _Judge,
    settings: PredictSettings | None,
    control: JobControl | None,
) -> Generator[Event, None, _Counts]:
    """Counts of one image, a plane or volume in memory at a time."""
    n = len(judge.classes.numbers)
    scored = pair.kind in OF_OBJECTS and bool(model.classes.objects)
    counts = _Counts(np.zeros((n, n), np.int64), ObjectCounts() if scored else None)
    shape = pair.image.spatial_shape(model.dims)
    mask, maps = np.zeros(shape, np.uint8), None
    if scored and model.object_settings is not None:
        settings = (settings or PredictSettings()).model_copy(update={"object_maps": True})
        maps = np.zeros((2, *shape), np.float32)
    current: tuple[int, ...] | None = None

    def compare(plane: tuple[int, ...]) -> None:
        truth = judge.truth(pair, pair.labels[plane])
        counts.voxels += confusion(truth.ravel(), judge.found(mask).ravel(), n)
        if counts.objects is not None:
            counts.objects += _compare_objects(model, pair, plane, mask, maps)

    for event in predict_events(model, pair.image, settings, control=control):
        if isinstance(event, TilePredicted):
            if current is not None and event.plane != current:
                compare(current)
            current = event.plane
            mask[event.region] = event.mask
            if maps is not None:
                maps[(slice(None), *event.region)] = event.maps
        yield event
    if current is not None and not (control is not None and control.stopped):
        compare(current)
    return counts


def _compare_objects(
    model: Model,
    pair: AnnotatedImage,
    plane: tuple[int, ...],
    mask: np.ndarray,
    maps: np.ndarray | None,
) -> ObjectCounts:
    """Matches of the objects of one plane or volume."""
    spacing = pair.image.spatial_spacing(model.dims)
    found = find_objects(mask, maps, model.classes.objects, model.object_settings, spacing)
    truth = pair.objects_at(plane)
    assert truth is not None  # of both kinds
    return count_objects(truth, found, partial=pair.kind is LabelKind.FINISHED)
