"""Command ``unetseg info``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from napari_unetseg.cli.console import json_text, show_facts, write
from napari_unetseg.cli.inputs import load
from napari_unetseg.cli.options import Files, ImageFiles
from napari_unetseg.cli.settings_options import with_settings
from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.core.errors import ChoiceError
from napari_unetseg.core.score_text import score_name, score_text

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.io.readers.tiff import TiffContent
    from napari_unetseg.models.model import Model

IMAGE_SCHEMA = "napari-unetseg/image/1"
MODEL_SCHEMA = "napari-unetseg/model/1"

Row = tuple[str, str]


@with_settings
def info(
    file: Annotated[Path, Argument(metavar="FILE", help="A model or an image.")],
    files: Files,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a model file or an image holds."""
    from napari_unetseg.io.open_image import is_image

    if is_image(file):
        facts, rows = _image_facts(file, files)
    else:
        model = load(file)
        facts = {"schema": MODEL_SCHEMA, **model.summary()}
        rows = _model_rows(model, facts)
    if as_json:
        write(json_text(facts))
    else:
        show_facts(rows)


def _model_rows(model: Model, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    net, classes = model.net, model.classes
    structures = [f"{s.number} {s.name}" for s in classes.structures]
    low, high = model.spacing_range or (model.spacing, model.spacing)
    spans = [f"{a:g}" if a == b else f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True)]
    sizes = zip("ZYX"[-net.dims :], spans, model.units, strict=True)
    rows = [
        ("model", str(facts["id"])),
        (
            "network",
            f"{net.dims}D {ARCHITECTURES[net.encoder].title}, depth {net.depth}, "
            f"width {net.width}, {net.norm} norm",
        ),
        ("parameters", f"{facts['parameters']:,}"),
        ("receptive field", " × ".join(map(str, facts["receptive_field"])) + " voxels"),
        ("structures", ", ".join(structures) + " (no background)" * (not classes.background)),
        *([("objects", _objects(model))] if classes.objects else []),
        ("channels", ", ".join(model.channels)),
        ("voxel", ", ".join(f"{axis} {size} {unit}" for axis, size, unit in sizes)),
    ]
    for record in model.history:
        names = [image.name for image in record.images]
        more = f" and {len(names) - 5} more" * (len(names) > 5)
        score = "not validated"
        if record.scores is not None:
            score = f"{score_name(record.scores)} {score_text(record.scores)}"
        rows.append(("trained", f"{record.date}, {score}. {record.reason}"))
        rows.append(("on", ", ".join(names[:5]) + more))
    return rows


def _objects(model: Model) -> str:
    """Which structures consist of objects, and how these are found."""
    named = ", ".join(f"{s.number} {s.name}" for s in model.classes.structures if s.objects)
    chosen = model.object_settings
    if chosen is None:
        return f"{named}; split at necks of the mask"
    values = ", ".join(
        f"{name} {value:g}" for name, value in chosen.model_dump(exclude_none=True).items()
    )
    return f"{named}; found by object maps ({values})"


# -- images ----------------------------------------------------------------------------------------


def _image_facts(file: Path, how: ImageFiles) -> tuple[dict[str, Any], list[Row]]:
    """Facts as JSON and rows.

    Of a TIFF all images are listed, even if one must be named to open it.
    """
    from napari_unetseg.io.open_image import contents_of, file_of, open_levels

    contents = contents_of(file)
    facts: dict[str, Any] = {"schema": IMAGE_SCHEMA}
    rows: list[Row] = []
    try:
        levels = open_levels(file, **how.model_dump())
    except ChoiceError as error:
        if not contents or how.series is not None or file_of(file) != file:
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
    """Number of chunks of a Zarr array that are not stored; None without any."""
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
