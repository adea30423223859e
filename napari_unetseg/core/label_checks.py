"""Validation of label values against their declared kind.

Impossible values raise a `UserError` that says what to do; doubtful ones give a note.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.label_appearance import (
    FEWEST,
    Appearance,
    LabelAppearance,
    classify_labels,
)
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

NEAR_ENDS = 10
"""Values this near to 0 or 255 are JPEG artefacts of a mask of 0 and 255."""
MANY = 12
"""Number of values of strokes, or beside 255 in a full mask, that is implausible for structures."""
BUTTON = "a button below 'They are' in napari"
Index = tuple[int, ...]
"""Index of a plane (Y, X) along the other axes of an array."""


@dataclass(frozen=True, slots=True)
class LabelValues:
    """Values of a label image."""

    name: str
    kind: LabelKind
    """Name for sentences, and meaning of the values."""
    counts: Mapping[int, int]
    """Voxels of each value but the one that means "not labelled"."""
    missing: int
    """Voxels that are NaN, which means "not labelled" too."""
    look: LabelAppearance
    """Its appearance."""


@dataclass(frozen=True, slots=True)
class PlaneValues:
    """Values of a plane (Y, X) of a label image."""

    counts: Mapping[int, int]
    """Voxels of each value; NaN is not counted."""
    size: int
    """All voxels."""
    digest: bytes
    """Hash of dtype and bytes."""


def count_planes(
    labels: Any,
    name: str,
    planes: Iterable[Index] | None = None,
    before: Mapping[Index, PlaneValues] | None = None,
) -> dict[Index, PlaneValues]:
    """Count the values of each plane of a label image, a plane in memory at a time.

    Parameters
    ----------
    labels, name, planes
        As in `read_values`.
    before
        Earlier counts; planes with the same digest are not counted again.

    Raises
    ------
    UserError
        Values are no whole numbers.
    """
    counted: dict[Index, PlaneValues] = {}
    for index in np.ndindex(*labels.shape[:-2]) if planes is None else planes:
        plane = np.asarray(labels[index])
        digest = (
            hashlib.blake2b(plane.tobytes(), digest_size=16).digest() + plane.dtype.str.encode()
        )
        known = before.get(index) if before else None
        if known is None or known.digest != digest:
            known = PlaneValues(count_values(plane, name), plane.size, digest)
        counted[index] = known
    return counted


def summarise_values(
    labels: Any,
    kind: LabelKind,
    name: str,
    ignore: int | None = None,
    counted: Mapping[Index, PlaneValues] | None = None,
    *,
    classify: bool = True,
) -> LabelValues:
    """Sum up the values of the planes of a label image, and classify it.

    Parameters are those of `read_values`.

    Raises
    ------
    UserError
        Values are no whole numbers.
    """
    counted = count_planes(labels, name) if counted is None else counted
    counts = Counter[int]()
    for plane in counted.values():
        counts.update(plane.counts)
    missing, look = (
        sum(plane.size for plane in counted.values()) - counts.total(),
        LabelAppearance(),
    )
    least = MANY if kind is LabelKind.STROKES else FEWEST - 1
    if classify and len(counts.keys() - {0, ignore}) >= least:
        order = sorted(counted, key=lambda index: -len(counted[index].counts))
        look = classify_labels(labels, ignore, order)
    known = {value: number for value, number in counts.items() if value != ignore}
    return LabelValues(name, kind, known, missing, look)


def read_values(
    labels: Any,
    kind: LabelKind,
    name: str,
    ignore: int | None = None,
    counted: Mapping[Index, PlaneValues] | None = None,
    image: Stack | None = None,
    *,
    classify: bool = True,
) -> LabelValues:
    """Sum up the values of a label image, and check them.

    Parameters
    ----------
    labels
        Array-like of shape (…, Y, X).
    kind
        Meaning of the values.
    name
        Name for sentences.
    ignore
        A value that means "not labelled".
    counted
        Result of `count_planes`; by default all planes are counted.
    image
        The labelled image, to detect that the two are swapped.
    classify
        Classify the appearance too, which takes about 0.1 s.

    Raises
    ------
    UserError
        The values cannot be of that kind.
    """
    found = summarise_values(labels, kind, name, ignore, counted, classify=classify)
    if image is not None:
        check_not_swapped(image, found)
    try:
        check_values(found.counts, kind, name, None, found.look)
    except UserError:
        if classify:
            raise
        return read_values(labels, kind, name, ignore, counted, image)  # for a better error message
    return found


def count_values(labels: Any, name: str = "The labels") -> dict[int, int]:
    """Count the voxels of each value; floats must be whole numbers or NaN, which is not counted.

    Raises
    ------
    UserError
        Values that are no whole numbers.
    """
    values, counts = np.unique(np.asarray(labels), return_counts=True)
    if values.dtype.kind not in "buif":
        raise UserError(
            f"{name} hold values of type {values.dtype}, which are not whole numbers: labels need "
            "integers, 0 and up."
        )
    if values.dtype.kind == "f":
        values, counts = values[~np.isnan(values)], counts[: int((~np.isnan(values)).sum())]
        odd = values[~(np.isfinite(values) & (values == np.floor(values)))]
        if len(odd):
            raise UserError(_odd(name, float(odd[0]), values[np.isfinite(values)]))
    return {int(v): int(c) for v, c in zip(values, counts, strict=True)}


def _odd(name: str, value: float, values: np.ndarray) -> str:
    most = float(values.max(initial=0.0))
    half = 0.5 if 0 < most <= 1 else float(f"{most / 2:.3g}")
    return (
        f"{name} hold values such as {value:g}, which are not whole numbers: labels need integers, "
        f"0 and up; of a probability map or a resized mask {_threshold(half)}."
    )


def check_values(
    values: Mapping[int, int],
    kind: LabelKind,
    name: str,
    ignore: int | None = None,
    look: LabelAppearance | None = None,
) -> None:
    """Raise a `UserError` when the values cannot be of that kind.

    Parameters
    ----------
    values
        Voxels of each value, as `count_values` gives them.
    kind, name
        Kind of the labels, and their name in sentences.
    ignore
        A value that means "not labelled".
    look
        Their appearance, if known.
    """
    found = sorted(v for v in values if v not in (0, ignore))
    if not found:
        return
    if found[0] < 0:
        raise UserError(_negative(name, found, kind))
    look = look or LabelAppearance()
    if look.appearance is Appearance.BLURRED:
        raise UserError(
            f"{name} look like a mask whose edges were blurred by JPEG or by resizing: they hold "
            f"{len(found)} numbers, most of them along these edges; of one structure, "
            f"{_threshold(look.threshold)}, else save the mask again without JPEG and "
            "interpolation, structures numbered 1, 2, 3 …."
        )
    if look.appearance is Appearance.IMAGE:
        raise UserError(
            f"{name} look like an image or a probability map: their {len(found)} numbers change "
            "from pixel to pixel; give labels instead (are images and labels swapped?), or "
            f"{_threshold(look.threshold)}."
        )
    if kind is LabelKind.STROKES and found[-1] > BACKGROUND_LABEL:
        raise UserError(
            f"{name} hold the number {found[-1]}, but structures are 1 to 254 and 255 is the "
            "background brush; use only these numbers in strokes."
        )
    if kind is LabelKind.FULL and len(found) > 1 and found[-1] >= BACKGROUND_LABEL:
        raise UserError(_beside_others(name, found))


def check_together(values: Iterable[int]) -> None:
    """Raise a `UserError` for full masks with contradictory values.

    One mask of 0 and 1 beside another of 0 and 255 is clear, all else is not.
    """
    found = sorted(set(values) - {0, 1})
    if found and found[0] < BACKGROUND_LABEL <= found[-1]:
        few = [v for v in found if v < BACKGROUND_LABEL]
        raise UserError(_beside_others("The labels together", [*few, found[-1]]))


def _beside_others(name: str, found: Sequence[int]) -> str:
    """The problem with a full mask that holds 255, or a larger number, beside others."""
    if found[-1] > BACKGROUND_LABEL:
        largest = found[-1] in (2**16 - 1, 2**32 - 1)  # -1 without a sign
        ignored = f", or '--ignore {found[-1]}' if that means 'not labelled'" if largest else ""
        return (
            f"{name} hold {len(found)} numbers up to {found[-1]}, but structures are 1 to 254; "
            "if every number is a separate object, use '--labels instances' ('objects' in "
            f"napari){ignored}."
        )
    others = ", ".join(str(v) for v in found[:5] if v != BACKGROUND_LABEL)
    ways = [f"'--ignore 255' for 'not labelled' ({BUTTON})"]
    ways.append("'--labels strokes' for a background brush")
    if len(found) >= MANY:
        ways.append("'--labels instances' if every number is an object")
    if all(min(v, BACKGROUND_LABEL - v) <= NEAR_ENDS for v in found):
        ways.append("'--threshold 127' for one structure whose edges JPEG has blurred")
    return (
        f"{name} are a full mask that holds 255 beside {others}; say what 255 means: "
        f"{', '.join(ways)}, or give the structure another number, 1 to 254."
    )


def _negative(name: str, found: Sequence[int], kind: LabelKind) -> str:
    value = found[0]
    if kind is not LabelKind.STROKES and found[-1] < 0:
        return (
            f"{name} hold only 0 and {value}; save them again with 0 for the background and 1 "
            "for the structure."
        )
    ignored = f"'--ignore {value}' if it means 'not labelled' ({BUTTON})"
    if kind is LabelKind.STROKES:
        return f"{name} hold the negative value {value}; add {ignored}, or give it another number."
    return (
        f"{name} hold the negative value {value}; add {ignored}, or '--threshold 0' if it is "
        "the background and values above 0 are structure 1."
    )


def _threshold(value: float) -> str:
    return f"make values above {value:g} structure 1 with '--threshold {value:g}' ({BUTTON})"


def check_not_swapped(image: Stack, labels: LabelValues) -> None:
    """Raise a `UserError` when labels look like an image, and their image like labels."""
    if labels.look.appearance is not Appearance.IMAGE or image.channel_axis is not None:
        return
    if classify_labels(image.data).appearance in (Appearance.LABELS, Appearance.OBJECTS):
        raise UserError(
            f"{labels.name} look like an image, and the image itself like labels: they seem to be "
            "swapped; give them in the other order."
        )


def notes_of(labels: Sequence[LabelValues]) -> tuple[str, ...]:
    """Sentences about doubtful labels.

    Parameters
    ----------
    labels
        Those that are used together.
    """
    notes = []
    missing = [each.name for each in labels if each.missing]
    if missing:
        notes.append(f"{_and_more(missing)} hold NaN, which counts as not labelled.")
    full = [each for each in labels if each.kind is LabelKind.FULL]
    objects = [each for each in full if each.look.appearance is Appearance.OBJECTS]
    if objects:
        most = max(len(each.counts.keys() - {0}) for each in objects)
        notes.append(
            f"{_and_more([each.name for each in objects])} hold up to {most} numbers, each of "
            "them a single region, as if numbers were objects; if they are, use '--labels "
            "instances' ('objects' in napari) instead of a structure for each number."
        )
    return tuple(notes)


def _and_more(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
