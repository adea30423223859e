"""Annotated image: an image with labels and their meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from napari_unetseg.annotations.sparse_array import planes_with
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.label_checks import (
    LabelValues,
    PlaneValues,
    check_together,
    count_planes,
    read_values,
)
from napari_unetseg.core.labels import OBJECT_KINDS, LabelKind
from napari_unetseg.core.singleton_axes import on_grid, same_but_singletons

MOST_LOOKED = 12
"""Most label images whose appearance is classified."""
Index = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, init=False)
class AnnotatedImage:
    """One annotated image.

    Parameters
    ----------
    image
        A `Stack`, or an array whose axes are given by ``axes``.
    labels, kind, corrections, ignore, newer, objects
        See the attributes; ``kind`` must be given, its name will do.
    axes
        Axes of an array, such as ``ZCYX`` (default ``TZYX`` from the right, ``YXS`` for RGB).

    Attributes
    ----------
    image
        The image.
    labels
        Array-like of the image's grid shape, any integer dtype or whole floats; axes of length 1
        make no difference.
    kind
        What the numbers in ``labels`` mean.
    corrections
        Array-like of the grid shape that wins over ``labels``: 0 nothing, 1 to 254 a structure,
        255 background.
    ignore
        A value of ``labels`` that means "not labelled"; so does NaN.
    newer
        Newly painted regions of the grid, to which continued training adapts before its first step.
    objects
        Finished objects, array-like of the grid shape: 0 nothing, every other number one whole
        object. Their structure is the one most of their voxels are labelled as, by default the
        first that consists of objects.

    Raises
    ------
    UserError
        The shapes of image and labels differ, no kind is given or one that there is not, or an
        array cannot have these axes.
    """

    image: Stack
    labels: Any
    kind: LabelKind
    corrections: Any | None
    ignore: int | None
    newer: tuple[tuple[slice, ...], ...]
    objects: Any | None

    def __init__(
        self,
        image: Any,
        labels: Any,
        kind: LabelKind | str | None = None,
        corrections: Any | None = None,
        ignore: int | None = None,
        newer: tuple[tuple[slice, ...], ...] = (),
        *,
        axes: str | None = None,
        objects: Any | None = None,
    ) -> None:
        put = partial(object.__setattr__, self)
        put("kind", LabelKind.of(kind))
        put("image", image if isinstance(image, Stack) else Stack.from_array(image, axes))
        put("labels", self._on_grid(labels))
        put("corrections", None if corrections is None else self._on_grid(corrections))
        put("ignore", ignore)
        put("newer", newer)
        put("objects", None if objects is None else self._on_grid(objects))

    def _on_grid(self, array: Any) -> Any:
        if not same_but_singletons(array.shape, self.image.grid_shape):
            raise UserError(
                f"{self.image.name} has the shape {self.image.grid_shape} "
                f"({self.image.grid_axes}), but its labels have {tuple(array.shape)}; "
                "choose labels of the same image, or make a new annotation layer for it."
            )
        return on_grid(array, self.image.grid_shape)

    @property
    def _name(self) -> str:
        return f"The labels of {self.image.name}"

    def objects_at(self, index: tuple[Any, ...]) -> np.ndarray | None:
        """Numbers of the known objects of a plane or volume, 0 for none; None without any.

        Finished objects come before those of the labels.
        """
        found = None
        if self.kind in OBJECT_KINDS:
            found = np.asarray(self.labels[index])
            found = np.where(found == (0 if self.ignore is None else self.ignore), 0, found)
            found = np.where(found > 0, found, 0).astype(np.int64)
        if self.objects is not None:
            own = np.asarray(self.objects[index]).astype(np.int64)
            found = own if found is None else np.where(own > 0, own + found.max(initial=0), found)
        return found

    def count(self, before: Mapping[Index, PlaneValues] | None = None) -> dict[Index, PlaneValues]:
        """Count the values of each plane (Y, X) of the labels that may hold any.

        ``before``: see `count_planes`.

        Raises
        ------
        UserError
            Values are no whole numbers.
        """
        planes = planes_with(self.labels) if self.kind is LabelKind.STROKES else None
        return count_planes(self.labels, self._name, planes, before)

    def values(
        self, *, classify: bool = True, counted: Mapping[Index, PlaneValues] | None = None
    ) -> LabelValues:
        """Checked values of the labels; see `read_values`.

        Raises
        ------
        UserError
            The values cannot be of this kind.
        """
        found = self.count() if counted is None else counted
        name, image = self._name, self.image
        return read_values(
            self.labels, self.kind, name, self.ignore, found, image, classify=classify
        )


Pair = AnnotatedImage
"""Alias of earlier versions."""


class HasValues(Protocol):
    """Labels with values."""

    def values(self, *, classify: bool) -> LabelValues:
        """Checked values of the labels; ``classify`` their appearance, too."""


def values_of(pairs: Sequence[HasValues], *, classify: bool = True) -> list[LabelValues]:
    """Checked values of several labels; the appearance of a dozen of them is classified.

    Raises
    ------
    UserError
        Values cannot be of their kind, or contradict one another.
    """
    looked = set(
        np.linspace(0, len(pairs) - 1, MOST_LOOKED).astype(int).tolist() if classify else ()
    )
    found, masks = [], set[int]()
    for number, pair in enumerate(pairs):
        values = pair.values(classify=number in looked)
        found.append(values)
        if values.kind is LabelKind.FULL:
            masks |= values.counts.keys()
            check_together(masks)
    return found
