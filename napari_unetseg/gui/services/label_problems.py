"""Detection of unusable labels, and their possible conversions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.label_appearance import Appearance, LabelAppearance
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind

GREY = (Appearance.BLURRED, Appearance.IMAGE)
FOLDER_FILES = 3
"""Number of files of a label folder that are checked."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion of unusable labels to usable ones."""

    text: str
    tip: str
    """The tooltip of its button."""
    kind: LabelKind
    """The kind of the converted labels."""
    make: Callable[[np.ndarray], np.ndarray]
    """Converts a plane of the labels, any integers, to uint8."""


def conversions_of(
    counts: Mapping[int, int], appearance: LabelAppearance | None, kind: LabelKind
) -> tuple[Conversion, ...]:
    """Conversions of labels that cannot be used as they are; empty for usable labels.

    Parameters
    ----------
    counts
        Voxels of each value but 0.
    appearance
        The labels' appearance.
    kind
        The labels' kind.
    """
    found = []
    if appearance is not None and is_grey(appearance):
        found.append(_above(appearance.threshold))
    elif counts and min(counts) < 0:
        found += [_without(min(counts), kind), _above(0)]
    elif kind is LabelKind.FULL and BACKGROUND_LABEL in counts and len(counts) > 1:
        found.append(_without(BACKGROUND_LABEL, kind))
    return tuple(found)


def _above(threshold: float) -> Conversion:
    return Conversion(
        f"Use values above {threshold:g}",
        f"Make a mask: values above {threshold:g} are structure 1, all others background.",
        LabelKind.FULL,
        partial(_mask_above, threshold),
    )


def _mask_above(threshold: float, plane: np.ndarray) -> np.ndarray:
    above: np.ndarray = (plane > threshold).astype(np.uint8)
    return above


def _without(value: int, kind: LabelKind) -> Conversion:
    return Conversion(
        f"{value} is not labelled",
        f"Make strokes: {value} means not labelled, and 0 becomes background (255).",
        LabelKind.STROKES,
        partial(_strokes_without, value, kind),
    )


def _strokes_without(value: int, kind: LabelKind, plane: np.ndarray) -> np.ndarray:
    """Convert labels to strokes, with one value as not labelled."""
    out = np.where(plane == 0, 0 if kind is LabelKind.STROKES else BACKGROUND_LABEL, plane)
    if kind is LabelKind.INSTANCES:
        out = np.where(plane > 0, 1, out)
    return np.where(plane == value, 0, np.clip(out, 0, BACKGROUND_LABEL)).astype(np.uint8)


def describe_appearance(
    name: str, counts: Mapping[int, int], appearance: LabelAppearance | None, kind: LabelKind
) -> str:
    """Describe what is unusual about labels of a guessed kind, and what to do; empty if nothing is.

    Parameters are those of `conversions_of`, after the labels' name.
    """
    category = appearance.appearance if appearance is not None else Appearance.LABELS
    conversions = conversions_of(counts, appearance, kind)
    ways = " or ".join(f"'{conversion.text}'" for conversion in conversions)
    if conversions and min(counts) < 0:
        return f"{name} holds {min(counts)}: press {ways}, depending on what it means."
    if category is Appearance.BLURRED:
        blurred = "a mask whose edges were blurred by JPEG or by resizing"
        return f"{name} looks like {blurred}: press {ways} to make a mask."
    if category is Appearance.IMAGE:
        return f"{name} looks like an image or a probability map: press {ways} to make a mask."
    if conversions:
        return (
            f"{name} holds {BACKGROUND_LABEL} beside other numbers: press {ways}, or choose "
            "'strokes' if it is background."
        )
    if category is Appearance.OBJECTS and kind is LabelKind.INSTANCES:
        return (
            f"Each number in {name} is a single region, so numbers are taken for objects; "
            "choose 'full mask' if they are structures."
        )
    return ""


def is_grey(appearance: LabelAppearance | None) -> bool:
    """Whether labels are grey levels, so that no value is a structure."""
    return appearance is not None and appearance.appearance in GREY


def check_label_folder(labels: Path) -> tuple[LabelKind, str, float | None]:
    """Guess the kind of labels in a folder of files.

    Returns
    -------
    kind
        The most likely kind.
    text
        The reason, in a few words; empty if there is none.
    threshold
        For masks with blurred edges, the value above which they are structure 1.
    """
    from napari_unetseg.core.label_appearance import classify_labels
    from napari_unetseg.io.folder_pairs import images_by_stem
    from napari_unetseg.io.open_image import open_labels

    try:
        files = list(images_by_stem([labels]).values())[:FOLDER_FILES]
        if any(file.suffix.lower() in (".jpg", ".jpeg") for file in files):
            return LabelKind.FULL, "JPEG blurs their edges", BACKGROUND_LABEL // 2
        classify = [classify_labels(open_labels(file)) for file in files]
    except (UserError, OSError):  # the training reports the error
        return LabelKind.FULL, "", None
    for appearance in classify:
        if appearance.appearance is Appearance.BLURRED:
            return LabelKind.FULL, "their edges were blurred", appearance.threshold
    if any(appearance.appearance is Appearance.OBJECTS for appearance in classify):
        return LabelKind.INSTANCES, "each number is a single region", None
    return LabelKind.FULL, "", None
