"""What ``unetseg info`` says about an image: how it is read, and all that is in its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import ChoiceError
from napari_unetseg.io.open_image import contents_of, file_of, open_levels

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.io.readers.tiff import TiffContent

__all__ = ["image_facts"]

IMAGE_SCHEMA = "napari-unetseg/image/1"

Row = tuple[str, str]


def image_facts(file: Path, **how: Any) -> tuple[dict[str, Any], list[Row]]:
    """Facts for JSON and rows for people.

    Of a TIFF all its images are listed, also where none can be opened before one is named.

    Parameters
    ----------
    file
        The image.
    how
        As for `open_stack`.
    """
    contents = contents_of(file)
    facts: dict[str, Any] = {"schema": IMAGE_SCHEMA}
    rows: list[Row] = []
    try:
        levels = open_levels(file, **how)
    except ChoiceError as error:
        if not contents or how.get("series") is not None or file_of(file) != file:
            raise
        facts["not_opened"] = str(error)
        rows.append(("not opened", str(error)))
    else:
        facts |= _facts(levels)
        rows += _rows(levels)
    if contents:
        facts["images"] = [_content(number, c) for number, c in enumerate(contents, 1)]
    if len(contents) > 1 or "not_opened" in facts:
        rows += [(f"image {number}", _line(c)) for number, c in enumerate(contents, 1)]
    return facts, rows


def _facts(levels: Sequence[Stack]) -> dict[str, Any]:
    stack = levels[0]
    facts: dict[str, Any] = {
        "axes": stack.axes,
        "shape": [int(n) for n in stack.data.shape],
        "dtype": str(stack.data.dtype),
        "spacing": list(stack.spacing),
        "units": list(stack.units),
        "translate": list(stack.translate),
        "channels": list(stack.channels),
        "colors": list(stack.colors),
        "levels": [[int(n) for n in level.data.shape] for level in levels],
        "notes": list(stack.notes),
    }
    if (missing := _missing(stack)) is not None:
        facts["missing"] = {"chunks": missing.count, "of": missing.total, "first": missing.first}
    return facts


def _rows(levels: Sequence[Stack]) -> Iterator[Row]:
    stack = levels[0]
    yield "image", stack.name
    yield "pixels", str(stack.data.dtype)
    sizes = zip(stack.axes, stack.data.shape, stack.spacing, stack.units, strict=True)
    for axis, n, size, unit in sizes:
        yield axis, f"{n}" if unit == "pixel" and size == 1 else f"{n} × {size:g} {unit}"
    yield "channels", ", ".join(stack.channels)
    if len(levels) > 1:
        yield "levels", ", ".join(_shape(level.data.shape) for level in levels)
    if (missing := _missing(stack)) is not None:
        yield (
            "not stored",
            f"{missing.count:,} of {missing.total:,} chunks, such as {missing.first}; "
            "they are read as the fill value",
        )
    yield from (("note", text) for text in stack.notes)


def _missing(stack: Stack) -> Any:
    """The chunks of a Zarr array that are not stored; None where all are."""
    found = stack.data.missing() if hasattr(stack.data, "missing") else None
    return found if found is not None and found.count else None


def _content(number: int, content: TiffContent) -> dict[str, Any]:
    return {
        "number": number,
        "name": content.name,
        "axes": content.axes,
        "shape": list(content.shape),
        "dtype": content.dtype,
        "levels": [list(shape) for shape in content.levels],
        "associated": content.associated,
        "missing": content.missing,
    }


def _line(content: TiffContent) -> str:
    parts = [content.name, f"{content.axes} {_shape(content.shape)} {content.dtype}"]
    if len(content.levels) > 1:
        parts.append(f"{len(content.levels)} levels")
    if content.associated:
        parts.append("belongs to another image")
    if content.missing:
        parts.append(f"lacks {content.missing}")
    return ", ".join(parts)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
