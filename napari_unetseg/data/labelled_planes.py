"""Labelled planes of annotated images; unchanged ones are reused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.sparse_array import planes_with
from napari_unetseg.core.label_checks import LabelValues, PlaneValues, count_planes, read_values
from napari_unetseg.core.labels import IGNORE_INDEX, Classes, LabelKind
from napari_unetseg.core.object_maps import UNKNOWN, encode_maps
from napari_unetseg.data.validation_split import (
    LabelledPlane,
    count_classes,
    split_train_validation,
)

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.data.annotated_image import AnnotatedImage

Index = tuple[int, ...]
Counted = dict[Index, PlaneValues]


@dataclass(frozen=True, slots=True)
class SplitPlane:
    """A labelled plane or volume, split into what trains and what validates."""

    plane: LabelledPlane
    fraction: float
    """The plane as it is trained on, and the share of its blocks that validates there."""
    train: np.ndarray
    validate: np.ndarray
    blocks: int
    """With the wanted share, whether or not it is used: labelled voxels of each class on either
    side, int64, and the number of validating blocks."""


@dataclass(slots=True, eq=False)
class ReadPair:
    """An annotated image with its labelled planes."""

    pair: AnnotatedImage
    number: int
    """The annotated image, and its number among those that train together."""
    fingerprint: str
    """Hash of the image's pixels."""
    labels: Counted
    corrections: Counted
    objects: Counted
    """Values of each plane (Y, X) of each."""
    planes: dict[Index, SplitPlane] = field(default_factory=dict)
    """The planes or volumes that hold labels, by their index."""

    def values(self, *, classify: bool) -> LabelValues:
        """Checked values of the labels; see `read_values`."""
        return self.pair.values(classify=classify, counted=self.labels)

    def corrected_values(self) -> LabelValues | None:
        """Checked values of the corrections, if any."""
        if self.pair.corrections is None:
            return None
        name, kind = _corrections_of(self.pair), LabelKind.STROKES
        return read_values(self.pair.corrections, kind, name, counted=self.corrections)

    def read_planes(
        self, classes: Classes, dims: int, fraction: float, before: ReadPair | None
    ) -> None:
        """Split the labels; unchanged planes are taken from an earlier reading."""
        same = self._unchanged_since(before, dims)
        for index in self._labelled(dims):
            if before is None or not same(index):
                found = self._split(index, classes, dims, fraction)
            elif (found := before.planes.get(index)) is not None:
                plane = replace(found.plane, stack=self.pair.image, pair=self.number)
                found = replace(found, plane=plane)
            if found is not None:
                self.planes[index] = found

    def set_fraction(self, fraction: float, classes: Classes, dims: int) -> None:
        """Split planes again whose validation fraction changes."""
        for index, before in self.planes.items():
            if before.fraction == fraction:
                continue
            found = self._split(index, classes, dims, fraction)
            if found is not None:  # else the array was cleared meanwhile
                self.planes[index] = replace(before, plane=found.plane, fraction=fraction)

    def _split(
        self, index: Index, classes: Classes, dims: int, fraction: float
    ) -> SplitPlane | None:
        """The labels of a plane or volume, split; None if there are none."""
        pair, n = self.pair, len(classes.numbers)
        target = classes.encode(pair.labels[index], pair.kind, pair.ignore)
        if pair.corrections is not None:
            own = classes.encode(pair.corrections[index], LabelKind.STROKES)
            target = np.where(own == IGNORE_INDEX, target, own)
        objects = pair.objects_at(index) if classes.objects else None
        if objects is not None and pair.objects is not None:
            target = label_objects(target, objects, classes)
        if not (target != IGNORE_INDEX).any():
            return None
        # neighbouring planes look alike, so a cell is on the same side in all of them
        spacing = pair.image.spatial_spacing(dims)
        train, validate, blocks = split_train_validation(
            target, self.fingerprint, spacing, fraction
        )
        counts = count_classes(train, n)
        held = (count_classes(validate[block.region], n) for block in blocks)
        plane = LabelledPlane(pair.image, self.number, index, train, validate, blocks, counts)
        if objects is not None:
            plane.objects = objects
            plane.maps = encode_maps(objects, spacing, background=pair.kind is LabelKind.INSTANCES)
            plane.maps[:, train == IGNORE_INDEX] = UNKNOWN  # held out, too
        return SplitPlane(plane, fraction, counts, sum(held, np.zeros(n, np.int64)), len(blocks))

    def _labelled(self, dims: int) -> Iterable[Index]:
        """Indices of the planes, or volumes, that may be labelled."""
        pair = self.pair
        if pair.kind is not LabelKind.STROKES:
            return pair.image.planes(dims)
        leading = len(pair.image.leading_shape(dims))
        counted = (*self.labels, *self.corrections, *self.objects)
        return sorted({index[:leading] for index in counted})

    def _unchanged_since(self, before: ReadPair | None, dims: int) -> Callable[[Index], bool]:
        """A test whether the labels of a plane or volume are unchanged."""
        if before is None or self._target_inputs(dims) != before._target_inputs(dims):
            return lambda _: False
        if (
            self.labels is before.labels
            and self.corrections is before.corrections
            and self.objects is before.objects
        ):
            return lambda _: True
        now, then = self._digests(dims), before._digests(dims)
        return lambda index: now[index] == then[index]

    def _target_inputs(self, dims: int) -> tuple[object, ...]:
        """All that the targets depend on besides the labels."""
        pair = self.pair
        return pair.kind, pair.ignore, self.fingerprint, pair.image.spatial_spacing(dims)

    def _digests(self, dims: int) -> dict[Index, list[object]]:
        """Hashes of each plane's or volume's labels and corrections."""
        leading = len(self.pair.image.leading_shape(dims))
        digests = defaultdict[Index, list[object]](list)
        for which, counted in enumerate((self.labels, self.corrections, self.objects)):
            for index, values in counted.items():
                digests[index[:leading]].append((which, index, values.digest))
        return digests


def read_pairs(
    pairs: Sequence[AnnotatedImage],
    before: Sequence[ReadPair | None],
    fixed: Collection[AnnotatedImage] = (),
) -> list[ReadPair]:
    """Count the labels of annotated images.

    Parameters
    ----------
    pairs
        The annotated images.
    before
        Earlier readings, None of new images; see `matched`.
    fixed
        Pairs known to be unchanged.

    Raises
    ------
    UserError
        Values of labels are no whole numbers.
    """
    same = {id(pair) for pair in fixed}
    found = []
    for number, (pair, old) in enumerate(zip(pairs, before, strict=True)):
        if old is not None and old.pair is pair and id(pair) in same:
            known = old.labels, old.corrections, old.objects
            found.append(ReadPair(pair, number, old.fingerprint, *known))
            continue
        fingerprint = old.fingerprint if old is not None else pair.image.fingerprint()
        labels = pair.count(old.labels if old else None)
        corrections = _counted(
            pair.corrections, _corrections_of(pair), old.corrections if old else None
        )
        name = f"The finished objects of {pair.image.name}"
        objects = _counted(pair.objects, name, old.objects if old else None)
        found.append(ReadPair(pair, number, fingerprint, labels, corrections, objects))
    return found


def matched(pairs: Sequence[AnnotatedImage], before: Sequence[ReadPair]) -> list[ReadPair | None]:
    """Earlier readings of annotated images.

    Matched by pair, else by pixel array, else by fingerprint; each is used once, in order, so that
    layers of the same pixels stay apart.
    """
    found: list[ReadPair | None] = [None] * len(pairs)
    left, prints = {id(old): old for old in before}, dict[int, str]()

    def print_of(pair: AnnotatedImage) -> str:
        return prints.get(id(pair)) or prints.setdefault(id(pair), pair.image.fingerprint())

    for same in (
        lambda pair, old: old.pair is pair,
        lambda pair, old: same_pixels(pair.image, old.pair.image),
        lambda pair, old: old.fingerprint == print_of(pair),
    ):
        for number, pair in enumerate(pairs):
            if found[number] is None:
                found[number] = next((old for old in left.values() if same(pair, old)), None)
                left.pop(id(found[number]), None)
    return found


def same_pixels(image: Stack, other: Stack) -> bool:
    """Whether two stacks have the same array and axes."""
    return image.data is other.data and image.axes == other.axes


def _counted(array: Any, name: str, before: Counted | None) -> Counted:
    """Values of the planes of an array that may hold any; none without an array."""
    return {} if array is None else count_planes(array, name, planes_with(array), before)


def label_objects(target: np.ndarray, objects: np.ndarray, classes: Classes) -> np.ndarray:
    """Label whole objects by class.

    Parameters
    ----------
    target
        Class indices, `IGNORE_INDEX` where nothing is labelled.
    objects
        Numbers of the objects, 0 for none; same shape.
    classes
        With structures that consist of objects.

    Returns
    -------
    numpy.ndarray
        ``target`` with each object's voxels labelled as that structure of objects which most of
        its labelled voxels have, by default the first.
    """
    inside = objects > 0
    _, numbers = np.unique(objects[inside], return_inverse=True)
    able = [k for k, number in enumerate(classes.numbers) if number in classes.objects]
    votes = np.zeros((len(able), numbers.max(initial=-1) + 1))
    for row, index in enumerate(able):
        votes[row] = np.bincount(numbers, target[inside] == index, votes.shape[1])
    labelled = target.copy()
    labelled[inside] = np.array(able, np.uint8)[votes.argmax(0)][numbers]
    return labelled


def _corrections_of(pair: AnnotatedImage) -> str:
    return f"The corrections of {pair.image.name}"
