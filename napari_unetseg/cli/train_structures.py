"""Structures of ``unetseg train``: those of the labels, and which of them consist of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from typer import Option

from napari_unetseg.cli.console import note
from napari_unetseg.cli.exit_codes import WrongUsageError
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import Classes, LabelKind
from napari_unetseg.core.text import count

if TYPE_CHECKING:
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model

Objects = Annotated[
    str | None,
    Option(
        metavar="NUMBERS",
        help="Numbers of structures that consist of objects, such as 1,3; each object of a mask "
        "then has its own number.",
    ),
]


def parse_numbers(text: str | None) -> tuple[int, ...]:
    """The numbers of ``--objects``.

    Raises
    ------
    WrongUsageError
        They are no whole numbers.
    """
    if text is None:
        return ()
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise WrongUsageError(
            f"--objects needs numbers of structures, such as 1 or 1,3, not {text}."
        ) from None


def find_structures(
    pairs: Sequence[AnnotatedImage], init: Model | None, objects: Sequence[int]
) -> tuple[Structure, ...]:
    """Say which classes are labelled, and find the structures of a training.

    Parameters
    ----------
    pairs
        The labelled images.
    init
        The initial model, whose structures are kept.
    objects
        Numbers of structures that consist of objects.

    Returns
    -------
    tuple of Structure
        All structures; none without ``objects``, as the training finds them itself.

    Raises
    ------
    UserError
        A number is not one of a structure.
    """
    from napari_unetseg.data.annotated_image import values_of

    known = init.classes.structures if init else ()
    values = [(v.counts, v.kind) for v in values_of(pairs)]
    finished = any(pair.objects is not None for pair in pairs)
    classes = Classes.find(values, known, finished=finished)
    _say(classes, init)
    if not objects:
        return ()
    there = {s.number: s for s in (*known, *classes.structures)}
    for number in objects:
        if number not in there:
            raise UserError(_no_structure(number, pairs, sorted(there)))
    chosen = [replace(there[number], objects=True) for number in objects]
    found = Classes.find(values, [*known, *chosen], finished=finished)
    return tuple({s.number: s for s in (*known, *found.structures, *chosen)}.values())


def _no_structure(number: int, pairs: Sequence[AnnotatedImage], there: Sequence[int]) -> str:
    """Why a number cannot consist of objects."""
    if not there:
        return f"There is no structure {number}: nothing is labelled; choose labels that hold it."
    have = ", ".join(map(str, there))
    which = f"only {have}" if len(there) == 1 else have
    ids = any(pair.kind in (LabelKind.INSTANCES, LabelKind.FINISHED) for pair in pairs)
    why = " (in these labels every number is an object of structure 1)" if ids else ""
    return (
        f"There is no structure {number} in the labels, but {which}{why}; give --objects numbers "
        "of structures."
    )


def _say(classes: Classes, init: Model | None) -> None:
    names = [
        f"{s.number}{f' ({s.file_value} in the files)' if s.file_value else ''}"
        for s in classes.structures
    ]
    if init is not None:
        note(f"Labelled: {', '.join(classes.names) or 'nothing'}.")
        return
    background = "and background" if classes.background else "without background"
    note(f"{count(len(names), 'structure')}: {', '.join(names) or 'none'}, {background}.")
