"""Checks of a training dataset: matching images and learnable classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.labels import LabelKind

if TYPE_CHECKING:
    from napari_unetseg.core.events import FlatImage
    from napari_unetseg.core.labels import Classes
    from napari_unetseg.data.annotated_image import AnnotatedImage


def check_channels(pairs: Sequence[AnnotatedImage], dims: int) -> None:
    """Check that images have the same channels, and the axes for planes (2) or volumes (3).

    Raises
    ------
    UserError
        They differ, or an image has no such axes.
    """
    first = pairs[0].image
    for pair in pairs:
        pair.image.check_dims(dims)
        if pair.image.n_channels != first.n_channels:
            raise TrainingError(
                f"{first.name} has {first.n_channels} channel(s) and {pair.image.name} has "
                f"{pair.image.n_channels}; train on images with the same channels."
            )


def _only(name: str, pairs: Sequence[AnnotatedImage]) -> str:
    """Why labels of a single class are not enough, in a sentence."""
    ignored = [pair.ignore for pair in pairs if pair.ignore is not None]
    if any(pair.kind is LabelKind.STROKES or pair.corrections is not None for pair in pairs):
        other = "a structure" if name == "background" else "the background (brush 255)"
        return f"Only {name} is labelled; paint some strokes on {other} too."
    if any(pair.kind is LabelKind.FINISHED for pair in pairs):
        return (
            f"Only {name} is labelled, since 0 means not labelled in finished objects; give them "
            "beside strokes of the background ('--finished' in the command line), or say "
            "'--labels instances' if 0 is the background."
        )
    if name == "background":
        return (
            "Only background is labelled: every value is 0; give masks that hold a structure too."
        )
    if 0 in ignored:
        return (
            f"Only {name} is labelled, since 0 is ignored; remove '--ignore 0' if 0 is the "
            "background, or label some background."
        )
    if ignored and ignored[0] < 0:
        return (
            f"Only {name} is labelled, since {ignored[0]} is ignored and nothing is 0; if it is "
            f"the background, give '--threshold 0' instead of '--ignore {ignored[0]}'."
        )
    return f"Only {name} is labelled: no value is 0, which is background; give masks that hold it."


def check_classes(
    found: Classes, wanted: Classes, pairs: Sequence[AnnotatedImage], known: Classes | None
) -> None:
    """Check that the labels hold the classes of a training.

    Parameters
    ----------
    found
        Classes that are labelled.
    wanted
        Classes of the training.
    pairs
        The annotated images.
    known
        Classes of an initial model, which need no labels; None without one.

    Raises
    ------
    TrainingError
        Nothing or a single class is labelled, or the classes are not those of the training.
    """
    if not found.numbers:
        raise TrainingError(
            "Nothing is labelled yet; paint a few strokes on a structure and, with the background "
            "brush (255), on the background."
        )
    if len(found.numbers) == 1 and known is None:
        raise TrainingError(_only(found.names[0], pairs))
    if unknown := sorted(set(found.numbers) - set(wanted.numbers)):
        raise TrainingError(
            f"The labels hold {_numbers(unknown)}, but this training started with "
            f"{_numbers(wanted.numbers)}; train again to include it."
        )
    kept = known.numbers if known is not None else ()
    if missing := sorted(set(wanted.numbers) - set(found.numbers) - set(kept)):
        raise TrainingError(
            f"This training started with {_numbers(wanted.numbers)}, but nothing is labelled as "
            f"{_numbers(missing)} any more; paint some of it, or train again."
        )


def check_not_flat(flat: Sequence[FlatImage], count: int) -> None:
    """Raise `TrainingError` if all of ``count`` images have the same value everywhere."""
    if flat and len(flat) == count:
        others, choose = ("", "another") if count == 1 else (", nor in the other images", "others")
        raise TrainingError(f"{flat[0].text.removesuffix('.')}{others}; choose {choose}.")


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join("background" if n == 0 else str(n) for n in numbers)
