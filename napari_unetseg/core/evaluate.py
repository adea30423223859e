"""Compare predictions with ground truth, over the pooled voxels of all images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, TilePredicted, pass_on
from napari_unetseg.core.labels import (
    BRUSH,
    Classes,
    LabelKind,
    Structure,
    check_values,
    count_values,
)
from napari_unetseg.core.metrics import Scores, confusion, scores_of
from napari_unetseg.core.predict import predict_events

if TYPE_CHECKING:
    from napari_unetseg.core.config import PredictSettings
    from napari_unetseg.core.control import Control
    from napari_unetseg.core.model import Model
    from napari_unetseg.core.samples import Pair

__all__ = ["Evaluation", "ImageScores", "evaluate", "evaluate_events", "values_of"]


@dataclass(frozen=True, slots=True)
class ImageScores:
    """The scores of one image."""

    name: str
    scores: Scores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores over the pooled voxels of all images, and those of each image."""

    scores: Scores
    images: tuple[ImageScores, ...]


def values_of(pair: Pair) -> dict[int, int]:
    """Count the voxels of each value in a pair's labels, a plane at a time, and check them.

    Raises
    ------
    UserError
        The values cannot be of the pair's kind.
    """
    name = f"The labels of {pair.image.name}"
    values: dict[int, int] = {}
    for index in np.ndindex(*pair.labels.shape[:-2]):
        for value, number in count_values(pair.labels[index], name).items():
            values[value] = values.get(value, 0) + number
    check_values(values, pair.kind, name, pair.ignore)
    return values


def evaluate_events(
    model: Model,
    pairs: Sequence[Pair],
    settings: PredictSettings | None = None,
    *,
    control: Control | None = None,
) -> Generator[Event, None, Evaluation]:
    """Predict images and score them against their masks; see `evaluate`.

    Yields
    ------
    Event
        Those of `predict_events` for one image after another.
    """
    if not pairs:
        raise UserError("There is no image with a mask to evaluate; choose some.")
    judge = _Judge.for_pairs(model.classes, pairs)
    for pair in pairs:
        model.check_image(pair.image)
        judge.check(pair)
    found = []
    for pair in pairs:
        counts = yield from _count(model, pair, judge, settings, control)
        found.append((pair.image.name, counts))
        if control is not None and control.stopped:
            break
    pooled = scores_of(np.sum([counts for _, counts in found], axis=0), judge.classes)
    if not pooled.voxels:
        raise UserError(
            "The masks hold no voxel that can be scored: this model knows no background, and "
            "nothing else is labelled; give masks with the model's structures."
        )
    images = tuple(ImageScores(name, scores_of(counts, judge.classes)) for name, counts in found)
    return Evaluation(pooled, images)


def evaluate(
    model: Model,
    pairs: Sequence[Pair],
    settings: PredictSettings | None = None,
    *,
    control: Control | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Evaluation:
    """Score a model against ground truth.

    Dice and IoU of each structure come from the confusion matrix over the voxels of all images
    together; their means are over the structures that occur. Masks that are ``instances`` score
    the foreground: any structure against background. Masks of 0 and 255 alone are binary.

    Parameters
    ----------
    model
        A trained model.
    pairs
        Images with masks (``full`` or ``instances``) or with strokes.
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
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            result: Evaluation = end.value
            return result
        pass_on(event, on_event)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Turns masks and predictions into the classes that are compared."""

    classes: Classes
    foreground: bool

    @classmethod
    def for_pairs(cls, classes: Classes, pairs: Sequence[Pair]) -> _Judge:
        kinds = {pair.kind for pair in pairs}
        if LabelKind.INSTANCES not in kinds:
            return cls(classes, foreground=False)
        if len(kinds) > 1:
            raise UserError("Instances cannot be scored together with other kinds of masks.")
        only = classes.structures[0] if len(classes.structures) == 1 else None
        return cls(Classes((Structure(1, only.name if only else "foreground"),)), foreground=True)

    def check(self, pair: Pair) -> None:
        """Raise `UserError` for a mask with structures that the model does not know."""
        values = set(values_of(pair)) - {0, pair.ignore}
        if self.foreground:
            return
        known = [s.number for s in self.classes.structures]
        if pair.kind is LabelKind.STROKES or (values == {BRUSH} and len(known) == 1):
            values -= {BRUSH}
        if unknown := sorted(values - set(known)):
            knows = ", ".join(f"{s.number} ({s.name})" for s in self.classes.structures)
            raise UserError(
                f"The mask of {pair.image.name} holds the number {unknown[0]}, but the model knows "
                f"only {knows}; give masks of the same structures, or say with '--labels "
                "instances' that every number is an object."
            )

    def truth(self, pair: Pair, labels: Any) -> np.ndarray:
        """Class indices of a piece of a mask."""
        labels = np.asarray(labels)
        if (
            pair.kind is LabelKind.FULL
            and len(self.classes.structures) == 1
            and pair.ignore != BRUSH
        ):
            labels = np.where(labels == BRUSH, self.classes.structures[0].number, labels)
        return self.classes.encode(labels, pair.kind, pair.ignore)

    def found(self, mask: np.ndarray) -> np.ndarray:
        """Class indices of a piece of a prediction."""
        kind = LabelKind.INSTANCES if self.foreground else LabelKind.FULL
        return self.classes.encode(mask, kind)


def _count(
    model: Model,
    pair: Pair,
    judge: _Judge,
    settings: PredictSettings | None,
    control: Control | None,
) -> Generator[Event, None, np.ndarray]:
    """Confusion matrix of one image, a plane or volume in memory at a time."""
    n = len(judge.classes.numbers)
    counts = np.zeros((n, n), np.int64)
    mask = np.zeros(pair.image.spatial_shape(model.dims), np.uint8)
    current: tuple[int, ...] | None = None

    def compare(plane: tuple[int, ...]) -> np.ndarray:
        truth = judge.truth(pair, pair.labels[plane])
        return confusion(truth.ravel(), judge.found(mask).ravel(), n)

    for event in predict_events(model, pair.image, settings, control=control):
        if isinstance(event, TilePredicted):
            if current is not None and event.plane != current:
                counts += compare(current)
            current = event.plane
            mask[event.region] = event.mask
        yield event
    if current is not None and not (control is not None and control.stopped):
        counts += compare(current)
    return counts
